//! Faults in the grouped GEMM: segments, tiles of experts, reports.

use crate::case::{Cases, boxed};
use crate::gemm::grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase};
use crate::planted::{Trial, faults};
use deepseek_kernels::gemm::Segments;
use deepseek_kernels::table::gemm::GROUPED_GEMM_INSTANCES;

const GROUPED: Trial = Trial::Cases(multiply_segments);
/// A cluster of two CTAs: experts with two tiles, three, one.
const PAIRS: Trial = Trial::Cases(|| {
    let instance = GROUPED_GEMM_INSTANCES.iter().find(|i| i.cluster == 2);
    let instance = Some(*instance.expect("an instance"));
    let case = GroupedFp8GemmCase::new(Assignment::ragged(&[130, 0, 260, 1], 3), (136, 1024));
    boxed([GroupedFp8GemmCase { instance, seed: 7, ..case }])
});

/// Ends that fall back behind an earlier one, which is first, last or between among a lane's, or some lanes away.
const FALLEN_BACK: Trial = Trial::Cases(|| {
    let places = [(3, 5), (15, 1), (14, 3), (16, 40), (0, 90), (33, 300), (100, 400), (5, 505)];
    let assignments = places.map(|(expert, fallen)| Assignment::fallen_back(512, expert, fallen)).into_iter();
    // Over the rounds in which a warp takes experts.
    let rounds = [(511, 1), (510, 20), (40, 900), (600, 30)];
    let assignments =
        assignments.chain(rounds.map(|(expert, fallen)| Assignment::fallen_back(1024, expert, fallen)));
    let late = Assignment { segments: Segments::Ragged { rows: 20 }, values: vec![9, 3, 12, 1, 20] };
    // A start behind all ends of the first round.
    let behind = [vec![9], vec![3; 600], vec![20]].concat();
    let behind = Assignment { segments: Segments::Ragged { rows: 20 }, values: behind };
    let case = |assignment| GroupedFp8GemmCase::new(assignment, (8, 128));
    boxed(assignments.chain([late, behind]).map(case))
});

/// Segments of any length, none included; then segments that are none.
fn multiply_segments() -> Cases {
    // More experts than one lane of the scans handles.
    let mut counts = vec![130, 0, 1, 64, 0, 128];
    counts.extend([2; 34]);
    let none = Assignment { segments: Segments::Ragged { rows: 35 }, values: vec![0, 10, -7, 300] };
    // All in order, but for where the first begins.
    let early = Assignment { segments: Segments::Ragged { rows: 35 }, values: vec![-4, 10, 35] };
    let assignments = [Assignment::ragged(&counts, 7), Assignment::masked(&counts, 140), none, early];
    let instance = GROUPED_GEMM_INSTANCES.iter().find(|i| (i.block_m, i.block_n) == (64, 32));
    let instance = Some(*instance.expect("an instance"));
    let case = |assignment| GroupedFp8GemmCase {
        instance,
        seed: 7,
        ..GroupedFp8GemmCase::new(assignment, (40, 512))
    };
    boxed(assignments.map(case))
}

faults! {
    start_before_the_rows_unreported: GROUPED,
        "if (start < 0) report_fault(params.error_words, FAULT_SEGMENT);" => "", ["expected a report of"];
    // Experts.
    weights_of_the_first_expert: GROUPED,
        "tile.column, tile.expert * Config::kPanels" => "tile.column, 0", ["elements are wrong"];
    scales_of_the_first_expert: GROUPED,
        "tile.expert * Config::kPanels * params.sfb_stride" => "0 * params.sfb_stride", ["elements are wrong"];
    tile_spans_two_experts: GROUPED,
        "row + Config::kWgmmaM <= tile.row_end" => "row < tile.row_end",
        ["elements are wrong", "is nobody's and was written", "not ordered after the write"];
    rows_of_the_expert_before: GROUPED,
        "row >= tile.row_begin && row + Config" => "row + Config",
        ["elements are wrong", "is nobody's and was written", "not ordered after the write"];
    tile_starts_where_tma_cannot: GROUPED, "first + first_row_of_cta" => "row + first_row_of_cta", ["no multiple of 16 bytes"];
    tiles_counted_from_the_segment: GROUPED,
        "(row_end - first_fetched(row) + tile_rows - 1)" => "(row_end - row + tile_rows - 1)",
        ["was not written", "elements are wrong"];
    last_row_of_a_segment_lost: GROUPED,
        "if (!tile.has(row) || tile.column" => "if (!tile.has(row) || row + 1 == tile.row_end || tile.column",
        ["was not written"];
    one_row_too_many: GROUPED,
        "if (!tile.has(row) || tile.column" => "if ((!tile.has(row) && row != tile.row_end) || tile.column",
        ["elements are wrong", "is nobody's and was written", "not ordered after the write"];
    columns_past_the_end: GROUPED,
        "|| tile.column + column >= params.n" => "", ["was written", "outside", "not ordered after the write"];
    empty_expert_takes_a_tile: GROUPED, "<= linear" => "< linear", ["was not written", "deadlock"];
    segment_table_before_it_is_written: GROUPED,
        "void enter_segments ... ptx::syncthreads();" => "", ["nothing has written", "mbarrier", "not ordered"];
    segments_past_the_rows: GROUPED, "end < limit ? end : limit" => "end", ["outside", "around d was written"];
    bad_segments_unreported: GROUPED, "if (clamped) report_fault" => "if (false) report_fault", ["got one of nothing"];
    scan_without_its_last_step: GROUPED, "lane >= distance" => "lane > distance", ["was not written", "not ordered"];
    masked_segments_packed: GROUPED,
        "row = expert * max_rows" => "row = expert * (max_rows - 1)",
        ["was not written", "was written", "not ordered"];
    tiles_of_the_last_expert_only: GROUPED,
        "exclusive_scan(own" => "exclusive_scan(own / 2", ["was not written", "not ordered"];

    // Ends that are in no order.
    larger_end_forgotten_within_a_lane: FALLEN_BACK,
        "furthest = value[i] > furthest ? value[i] : furthest;" => "furthest = value[i];",
        ["elements are wrong", "was not written", "not ordered"];
    first_of_a_lane_alone_is_the_furthest: FALLEN_BACK,
        "furthest = value[i] > furthest ? value[i] : furthest;" => "furthest = i == 0 && value[i] > furthest ? value[i] : furthest;",
        ["elements are wrong", "was not written", "not ordered"];
    larger_end_forgotten_for_the_next_expert: FALLEN_BACK,
        "before = value[i] > before ? value[i] : before;" => "before = value[i];",
        ["elements are wrong", "was not written", "not ordered"];
    larger_end_of_the_lane_before_alone: FALLEN_BACK,
        "exclusive_scan(static_cast<uint32_t>(furthest), larger)"
            => "exclusive_scan(static_cast<uint32_t>(furthest), [](uint32_t, uint32_t b) { return b; })",
        ["elements are wrong", "was not written", "not ordered"];
    larger_end_of_sixteen_lanes_before: FALLEN_BACK,
        "distance < 32; distance *= 2" => "distance < 16; distance *= 2",
        ["elements are wrong", "was not written", "not ordered"];
    ends_before_the_start: FALLEN_BACK, "reached = start > 0 ? start : 0" => "reached = 0",
        ["elements are wrong", "was written", "not ordered"];
    larger_end_of_the_round_before_forgotten: FALLEN_BACK, "reached = end > reached ? end : reached;" => "reached = 0;",
        ["elements are wrong", "was not written", "not ordered"];
    end_of_the_round_before_alone: FALLEN_BACK, "reached = end > reached ? end : reached;" => "reached = end;",
        ["elements are wrong", "was not written", "was written", "not ordered"];
    experts_of_the_first_round_alone: FALLEN_BACK, "while (round < params.experts)" => "while (false)",
        ["nothing has written", "was not written"];
    tiles_of_the_last_round_unknown: FALLEN_BACK, "tiles_before = ptx::reduce_max_u32" => "if (round <= kExpertsAtOnce) tiles_before = ptx::reduce_max_u32",
        ["elements are wrong", "was not written", "not ordered"];
    ends_that_fall_back_unreported: FALLEN_BACK, "row_end != end" => "end > limit", ["got one of nothing"];

    segments_read_before_the_grids_ahead_have_ended: GROUPED,
        "void enter_segments ... enter_grid();" => "",
        "void enter_segments ... ptx::syncthreads();" => "enter_grid(); ptx::syncthreads();",
        ["global load before griddepcontrol.wait: a grid ahead"];

    // Pairs of CTAs.
    pair_takes_the_same_tile: PAIRS,
        "first + first_row_of_cta<Config>(at.m)" => "first + at.m * Fp8GemmTile<Config>::kClusterRows",
        ["was not written", "not ordered after the write"];
    pair_counts_its_tiles_apart: PAIRS,
        "ceil_div(row_end - first, Fp8GemmTile<Config>::kClusterRows)" => "ceil_div(row_end - first, Config::kBlockM)",
        ["was not written"];
    pair_starts_at_different_tiles: PAIRS,
        "GroupedSchedule(const ... linear(ptx::cta_idx() / Config::kCluster)" => "linear(ptx::cta_idx())",
        ["was not written", "elements are wrong", "not ordered after the write"];
    pair_skips_every_other_tile: PAIRS,
        "GroupedSchedule(const ... step(ptx::grid_dim() / Config::kCluster)" => "step(ptx::grid_dim())",
        ["was not written"];
    pair_starts_before_its_barriers: PAIRS,
        "if constexpr (Config::kCluster > 1) enter_cluster<Config>();" => "", ["mbarrier", "exit"];
    pair_reads_its_table_unwritten: PAIRS,
        "void enter_segments ... ptx::syncthreads();" => "", ["nothing has written", "not ordered"];

    // Reports.
    report_in_the_word_of_another_fault: GROUPED, "error_words + fault" => "error_words", ["got one of Inf or NaN"];
}
