//! What CTAs of a cluster tell each other: an arrival on the other's mbarrier orders shared memory, and nothing else. What a
//! grid must wait for. And what a product must not leave out, as `cuda/hopper/README.md` says.

use deepseek_kernels::Device;

use crate::planted::{Trial, faults};
use crate::probes::product::check_product;
use crate::probes::{assert_clean, catalogue, check_cluster};

const CLUSTER: Trial = Trial::Probe { kernels: &["probe_cluster"], run: check_cluster };
const GRIDS: Trial = Trial::Probe { kernels: &["probe_grids"], run: check_grids };
const PRODUCT: Trial = Trial::Probe { kernels: &["probe_product"], run: check_product };

faults! {
    words_in_global_memory_under_a_remote_arrival: CLUSTER,
        "ptx::mbarrier_wait_cluster(read, step)" => "ptx::mbarrier_wait_cluster(read, step ^ 1)",
        "ptx::stg_v2_u32(words ... ptx::cluster_arrive();"
            => "for (uint32_t rank = 0; rank < 2; ++rank) ptx::mbarrier_arrive_cluster(read, rank);",
        "ptx::stg_v2_u32(words ... ptx::cluster_wait();" => "ptx::mbarrier_wait_cluster(read, 0);",
        ["an arrival from another CTA orders shared memory only"];
    words_in_global_memory_under_a_relaxed_barrier: CLUSTER,
        "ptx::stg_v2_u32(words ... ptx::cluster_arrive()" => "ptx::cluster_arrive_relaxed()",
        ["global load of output", "not ordered"];
    mbarriers_under_a_relaxed_barrier_without_their_fence: CLUSTER,
        "ptx::fence_mbarrier_init();" => "", ["mbarrier.init"];
    bytes_overwritten_before_their_reader_has_given_them_back: CLUSTER,
        "ptx::mbarrier_wait_cluster(read, step)" => "ptx::mbarrier_wait(read, step)", ["bulk copy"];

    grid_not_entered: GRIDS, "enter_grid();" => "", ["global load before griddepcontrol.wait"];
    grid_entered_after_the_first_load: GRIDS,
        "probe_grids_kernel ... enter_grid();" => "", "float idled" => "enter_grid(); float idled",
        ["global load before griddepcontrol.wait"];

    // A line of the product left out.
    stage_filled_before_it_is_empty: PRODUCT,
        "smem.pipeline().await_empty(ring);" => "", ["full[0]", "in flight", "not ordered"];
    stage_read_before_it_is_full: PRODUCT,
        "smem.pipeline().await_full(ring);" => "", ["in flight", "nothing has written", "not ordered"];
    stage_never_released: PRODUCT, "smem.pipeline().release(ring);" => "", ["waits for empty["];
    products_not_awaited: PRODUCT, "ptx::wgmma_wait_group<0>(rD);" => "", ["wgmma", "in flight", "not ordered"];
    result_without_a_fence: PRODUCT, "warpgroup_fence_async(0);" => "", ["fence.proxy.async", "not ordered"];
    pair_not_awaited_at_the_start: PRODUCT, "enter_cluster<Config>();" => "", ["mbarrier"];
    grid_ahead_not_awaited: PRODUCT, "enter_grid();" => "", ["before griddepcontrol.wait", "exits without"];
    pair_not_awaited_at_the_end: PRODUCT, "leave_cluster<Config>();" => "", ["exit"];
}

fn check_grids(device: &Device) {
    assert_clean(device, catalogue::grids(device, 3, 2));
}
