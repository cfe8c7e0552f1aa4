//! Faults in the absorption: tiles, the ring, the order of its sums.

use super::{AbsorbCase, AbsorbProblem, LATENT, Values};
use crate::planted::{Changed, Trial, faults};
use deepseek_kernels::bf16;
use oracles::mla::{HeadColumns, Side};
use std::sync::Arc;

/// A ragged tile, several heads.
const QUERY: Trial = Trial::Changed(|| problems(Side::Query));
/// The ring goes round twice.
const OUTPUT: Trial = Trial::Changed(|| problems(Side::Output));

/// Exact sums, then some that show their order.
fn problems(side: Side) -> Vec<Changed> {
    let case = AbsorbCase::new(side, 70, 2);
    let cancelling = cancelling(AbsorbCase { tokens: 20, heads: 1, values: Values::Magnitudes, ..case });
    // Heads of another model, whose values end within a tile.
    let other = AbsorbCase { columns: HeadColumns { nope: 192, rope: 0, value: 200 }, ..case };
    let problems = [case.problem().expect("inputs"), cancelling, other.problem().expect("inputs")];
    problems.map(|problem| -> Changed { (Box::new(problem.case), Arc::new(problem)) }).into()
}

/// Two products of three in the second half of K take back one of the first, and the third is small.
fn cancelling(case: AbsorbCase) -> AbsorbProblem {
    let mut problem = case.problem().expect("inputs");
    let (n, k) = (case.n(), case.products() / case.n());
    let (nope, head_rows) = (case.columns.nope, case.columns.rows());
    for row in problem.a.chunks_exact_mut(case.a_columns()) {
        row.copy_within(..k / 2, k / 2);
    }
    for head in problem.w.chunks_exact_mut(head_rows * LATENT) {
        let at = |column: usize, i: usize| match case.side {
            Side::Query => i * n + column,
            Side::Output => (nope + column) * k + i,
        };
        for (column, i) in (0..n).flat_map(|column| (0..k / 2).map(move |i| (column, i))) {
            if i % 3 != 0 {
                head[at(column, i + k / 2)] = -head[at(column, i)];
            } else {
                let small = |x: bf16| bf16::from_f32(x.to_f32() / 65_536.0);
                [i, i + k / 2].into_iter().for_each(|i| head[at(column, i)] = small(head[at(column, i)]));
            }
        }
    }
    problem
}

faults! {
    only_the_producer_waits_for_the_grids_ahead: QUERY,
        "void head_gemm ... enter_grid();" => "", "void load ... Ring<" => "enter_grid(); Ring<",
        ["TMA store before griddepcontrol.wait: a grid ahead", "exits without griddepcontrol.wait"];

    // The N-major operand.
    chunks_too_close: QUERY,
        "descriptor_mn_major_128b(sB, Config::kBoxBytes)" => "descriptor_mn_major_128b(sB, Config::kBoxBytes / 2)",
        ["elements are wrong"];
    descriptor_of_the_other_major: QUERY,
        "descriptor_mn_major_128b(sB, Config::kBoxBytes)" => "descriptor_k_major_128b(sB)", ["leading offset 0"];
    advance_of_the_other_major: QUERY,
        "descriptor_advance(desc_b, k * 128)" => "descriptor_advance(desc_b, k * 2)", ["elements are wrong"];
    product_of_the_other_major: QUERY,
        "ptx::wgmma_k16_bf16_mn" => "ptx::wgmma_k16_bf16", ["elements are wrong", "not ordered", "in flight"];
    transposed_instead: OUTPUT, "ptx::wgmma_k16_bf16" => "ptx::wgmma_k16_bf16_mn", ["leading offset 0"];
    chunk_distance_in_the_wrong_bits: QUERY,
        "(chunk_bytes >> 4) << 16" => "(chunk_bytes >> 4) << 18",
        ["outside", "nothing has written", "not ordered", "in flight"];

    // What is loaded.
    rows_of_the_values: QUERY, "params.first_row + k" => "params.k + k", ["elements are wrong"];
    rows_of_the_keys: OUTPUT, "params.first_row + n" => "n", ["elements are wrong"];
    weights_of_the_first_head: OUTPUT,
        "params.first_row + n, tile.head" => "params.first_row + n, 0", ["elements are wrong"];
    columns_of_the_first_tile: QUERY, "rest % n_tiles * Config::kBlockN" => "0", ["not ordered", "not written"];
    tiles_along_n_counted_wrong: QUERY, "rest / n_tiles" => "rest", ["not written"];
    expect_tx_without_a: OUTPUT,
        "Config::kBoxBytes + HeadGemmSmem<Config>" => "HeadGemmSmem<Config>", ["expect_tx", "in flight"];
    no_wait_for_the_stage: OUTPUT,
        "smem.pipeline().await_full(ring);" => "",
        ["in flight", "nothing has written", "not ordered"];
    no_wait_for_an_empty_stage: OUTPUT,
        "smem.pipeline().await_empty(ring);" => "", ["full[0]", "in flight"];
    stage_never_released: OUTPUT,
        "smem.pipeline().release(ring);" => "",
        ["waits for empty["];

    // The sum and its way out.
    every_stage_starts_anew: OUTPUT,
        "smem.b(ring.stage), k != 0" => "smem.b(ring.stage), false", ["elements are wrong"];
    sum_never_cleared: OUTPUT,
        "smem.b(ring.stage), k != 0" => "smem.b(ring.stage), true", ["elements are wrong", "uninitialised", "wgmma"];
    products_not_awaited: OUTPUT,
        "ptx::wgmma_wait_group<0>(rD)" => "ptx::wgmma_wait_group<1>(rD)", ["wgmma", "not ordered"];
    steps_descending: OUTPUT,
        "descriptor_advance(desc_a, k * 2)" => "descriptor_advance(desc_a, (Config::kBlockK - 16 - k) * 2)",
        "descriptor_advance(desc_b, k * 2)" => "descriptor_advance(desc_b, (Config::kBlockK - 16 - k) * 2)",
        ["bit model: "];
    steps_of_a_query_descending: QUERY,
        "descriptor_advance(desc_a, k * 2)" => "descriptor_advance(desc_a, (Config::kBlockK - 16 - k) * 2)",
        "descriptor_advance(desc_b, k * 128)" => "descriptor_advance(desc_b, (Config::kBlockK - 16 - k) * 128)",
        ["bit model: "];
    blocks_descending: OUTPUT,
        "load_stage(params, smem, ring.stage, tile, k)"
            => "load_stage(params, smem, ring.stage, tile, params.k - Config::kBlockK - k)",
        ["bit model: "];
    blocks_of_a_query_descending: QUERY,
        "load_stage(params, smem, ring.stage, tile, k)"
            => "load_stage(params, smem, ring.stage, tile, params.k - Config::kBlockK - k)",
        ["bit model: "];
    sum_promoted: OUTPUT,
        "mma<Config>(rD," => "float rPart[Config::kBlockN / 2]; mma<Config>(rPart,",
        "smem.b(ring.stage), k != 0);"
            => "smem.b(ring.stage), false); for (int i = 0; i < Config::kBlockN / 2; ++i) rD[i] = k == 0 ? rPart[i] : rD[i] + rPart[i];",
        ["bit model: "];
    columns_exchanged: QUERY,
        "ptx::cvt_bf16x2(rD[r + 1], rD[r])" => "ptx::cvt_bf16x2(rD[r], rD[r + 1])", ["elements are wrong"];
    stored_without_swizzle: QUERY, "swizzle<Span>(sD)" => "sD", ["elements are wrong"];
    no_fence_before_the_copy: OUTPUT, "ptx::fence_proxy_async_shared();" => "", ["fence.proxy.async"];
    no_barrier_before_the_copy: OUTPUT,
        "ptx::fence_proxy_async_shared(); ... warpgroup_sync(warpgroup);" => "",
        ["not ordered", "nothing has written", "fence.proxy.async"];
    copy_not_awaited: OUTPUT, "ptx::bulk_wait_group_read<0>();" => "", ["exit", "bulk"];
}
