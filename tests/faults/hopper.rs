//! What CTAs of a cluster tell each other: an arrival on the other's mbarrier orders shared memory, and nothing else.

use check::probes::check_cluster;

use super::Problem;

pub fn problems() -> Vec<Problem> {
    vec![CLUSTER]
}

const CLUSTER: Problem = Problem::Probe { kernels: &["probe_cluster"], run: check_cluster };

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
}
