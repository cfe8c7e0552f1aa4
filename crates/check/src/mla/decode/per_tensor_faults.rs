//! Faults in MLA decode over codes with a per-tensor scale: what its producer does otherwise than that of scales in rows.

use super::MlaDecodeCase;
use super::faults::{changed, decode, pages};
use crate::mla::CacheRows;
use crate::planted::{Changed, Trial, faults};
use deepseek_kernels::bf16;
use deepseek_kernels::mla::KvFormat;

const FORMAT: KvFormat = KvFormat::Fp8PerTensor;

/// One tile of rows, not full.
const CODES: Trial = Trial::Changed(|| decode(FORMAT, 21));
/// Two tiles of rows, whose CTAs dequantise half of the keys each.
const CODES_CLUSTER: Trial = Trial::Changed(|| decode(FORMAT, 64));
const CODES_PAGES: Trial = Trial::Changed(|| pages(FORMAT, 21));
/// Keys without a position, under a scale that makes 0 of nothing; a sequence of which no page exists.
const SCALES: Trial = Trial::Changed(|| [f32::NAN, f32::INFINITY, 0.01].map(under).into());

fn under(kind: f32) -> Changed {
    let case = MlaDecodeCase { rope: 0, ..MlaDecodeCase::new(FORMAT, vec![70, 100, 40]) };
    let mut problem = case.problem().expect("inputs");
    let columns = problem.table.len() / 3;
    problem.table[2 * columns..].fill(-1);
    problem.finite = false;
    let CacheRows::Fp8PerTensor { rows, scale } = &mut problem.cache else { unreachable!("codes") };
    // Positive codes and negative queries: every score is -Inf, if the scale is Inf and nothing is added.
    rows.iter_mut().for_each(|code| *code = 0x30 | (*code & 7));
    *scale = kind;
    problem.q.iter_mut().for_each(|q| *q = bf16::from_f32(-q.to_f32().abs()));
    changed(problem)
}

faults! {
    scale_of_keys_that_are_not_there: SCALES,
        "rows.exists[i] ? cache_scale : 0" => "cache_scale", ["bit model"];
    scale_of_positions_that_are_not_there: SCALES,
        "if (params.rope == 0) rows.scales[i] = {};" => "", ["bit model", "got one of"];
    codes_of_positions_that_are_not_there: SCALES,
        "rows.exists[i] && params.rope != 0" => "rows.exists[i]", ["elements are wrong", "outside"];
    position_under_no_scale: CODES,
        "if (params.rope == 0) rows.scales[i] = {};" => "rows.scales[i] = {};", ["elements are wrong"];
    position_of_another_tile: CODES,
        "position_rows(params, rows), Config::kRopeTile)" => "position_rows(params, rows), Config::kRopeTile - 1)",
        ["elements are wrong"];
    position_of_the_first_block: CODES,
        "if constexpr (kCodes) position = load_position(params, next);" => "", ["elements are wrong"];
    position_into_another_tile: CODES,
        "kv.stage, Config::kRopeTile, position" => "kv.stage, Config::kRopeTile - 1, position",
        ["kv_full", "not ordered", "in flight"];
    position_over_the_one_in_use: CODES,
        "if constexpr (kCodes) { await_free(smem, kv, kRope);" => "if constexpr (kCodes) {", ["not ordered", "kv_full"];
    position_full_with_one_warp: CODES,
        "dequantizes<Config>(tile) ? kWarps : 1" => "tile != Config::kRopeTile ? kWarps : 1",
        ["kv_full", "not ordered", "nothing has written"];
    pages_without_their_stride: CODES_PAGES,
        "page * params.page_stride" => "page * (params.page_size * params.kv_pitch)", ["elements are wrong", "outside"];

    // Dequantised positions handed to the peer.
    position_copied_over_the_peers_own: CODES_CLUSTER,
        "if constexpr (kCodes) { await_free(smem, kv, kRope);" => "if constexpr (kCodes) {",
        ["not ordered", "in flight"];
    position_kept_from_the_peer: CODES_CLUSTER,
        "ptx::bulk_copy_to_cta(sKeys, full, sKeys, kBytes, ptx::cluster_rank() ^ 1);"
            => "if (tile != Config::kRopeTile) ptx::bulk_copy_to_cta(sKeys, full, sKeys, kBytes, ptx::cluster_rank() ^ 1);",
        ["kv_full"];
    position_copied_without_a_fence: CODES_CLUSTER,
        "void store_codes ... ptx::fence_proxy_async_shared();" => "if (Tiles > 1) ptx::fence_proxy_async_shared();",
        ["bulk copy"];
    output_over_codes_on_their_way_to_the_peer: CODES_CLUSTER,
        "void store_out ... await_release<Config::kCluster>(smem.kv_empty(kv.stage, kRope), kv.phase);" => "",
        ["bulk copy", "not ordered"];
    codes_of_a_peer_that_has_left: CODES_CLUSTER,
        "leave_cluster<Config>();" => "", ["exited", "exits", "may exit before"];
}
