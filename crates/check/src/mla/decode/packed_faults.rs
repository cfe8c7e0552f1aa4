//! Faults in MLA decode of sequences with different numbers of query tokens.

use super::faults::changed;
use super::{MlaDecodeCase, STALE_PAGE};
use crate::planted::{Changed, Trial, faults};
use deepseek_kernels::mla::KvFormat;

/// One tile of rows, in parts and whole, with sequences that nobody asks, and offsets that cannot be.
const PACKED: Trial = Trial::Changed(|| packed(KvFormat::Bf16, 21));
/// Two tiles of rows, of which some sequences reach but one, or none.
const CLUSTER: Trial = Trial::Changed(|| packed(KvFormat::Bf16, 64));
const FP8_CLUSTER: Trial = Trial::Changed(|| packed(KvFormat::Fp8, 64));

fn packed(format: KvFormat, heads: usize) -> Vec<Changed> {
    let drawn = |split_keys| {
        let case = MlaDecodeCase::new(format, vec![300, 100, 0, 170, 128]).packed(vec![2, 0, 1, 1, 2]);
        let case = MlaDecodeCase { heads, causal: true, split_keys: Some(split_keys), ..case };
        case.problem().expect("inputs")
    };
    let mut unasked = drawn(128);
    let columns = unasked.table.len() / 5;
    unasked.table[columns..2 * columns].fill(STALE_PAGE);
    let strange = [[0, 3, 2, 5, 9, 9], [-1, 1, 1, 2, 3, 9], [1, 3, 3, 4, 8, i32::MAX]].map(|offsets| {
        let mut problem = drawn(1024).with_spare_rows();
        problem.q_offsets = Some(offsets.into());
        problem
    });
    [drawn(128), drawn(1024), unasked].into_iter().chain(strange).map(changed).collect()
}

faults! {
    // Which query tokens a sequence has.
    sequence_begins_before_its_neighbour_has_ended: PACKED,
        "first = offset > first ? offset : first;" => "first = offset;",
        ["elements are wrong", "written", "race", "not ordered"];
    tokens_that_there_are_not: PACKED,
        "clamp_length(end, params.tokens)" => "static_cast<uint32_t>(end)",
        ["elements are wrong", "written", "outside"];
    sequence_begins_where_there_are_no_tokens: PACKED,
        "clamp_length(start, params.tokens)" => "static_cast<uint32_t>(start)",
        ["elements are wrong", "written", "outside", "expected a report"];
    more_tokens_than_a_sequence_may_have: PACKED,
        "given < params.q_tokens ? given : params.q_tokens" => "given",
        ["elements are wrong", "written", "outside", "got one of nothing"];
    fewer_tokens_than_none: PACKED,
        "last > first ? last - first : 0" => "last - first",
        ["elements are wrong", "written", "race", "not ordered"];
    end_of_the_sequence_before: PACKED,
        "load_index(params.q_offsets, 0, mine + 1)" => "load_index(params.q_offsets, 0, mine)",
        ["written", "elements are wrong"];
    bad_offsets_go_unreported: PACKED,
        "length != given || queries.clamped" => "length != given", ["got one of nothing"];
    tokens_in_a_neighbours_place: PACKED,
        "params.tables.queries + 2 * static_cast<uint64_t>(mine)"
            => "params.tables.queries + static_cast<uint64_t>(mine)",
        ["race", "not ordered", "misaligned"];

    // Where its rows lie.
    queries_of_sequences_of_one_size: PACKED,
        "work.first_token * params.heads + work.first_row" => "work.sequence * params.rows + work.first_row",
        ["elements are wrong"];
    output_of_sequences_of_one_size: PACKED,
        "static_cast<uint64_t>(work.first_token) * params.heads" => "static_cast<uint64_t>(work.sequence) * params.rows",
        ["elements are wrong", "written", "outside"];
    combined_output_of_sequences_of_one_size: PACKED,
        "static_cast<uint64_t>(first_token) * params.heads" => "static_cast<uint64_t>(sequence) * params.rows",
        ["elements are wrong", "written", "outside"];
    lse_of_the_first_sequence: PACKED,
        "work.first_token + row / params.heads" => "row / params.heads",
        ["written", "race", "not ordered"];
    combined_lse_of_the_first_sequence: PACKED,
        "first_token + of_sequence / params.heads" => "of_sequence / params.heads",
        ["written", "race", "not ordered"];

    // How many there are.
    output_of_the_next_sequence_is_stored: PACKED,
        "if (of_sequence >= work.rows) return nullptr;" => "if (of_sequence >= params.rows) return nullptr;",
        ["race", "not ordered", "written", "outside"];
    lse_of_the_next_sequence_is_stored: PACKED,
        "thread % 4 != 0 || row >= work.rows" => "thread % 4 != 0 || row >= params.rows",
        ["race", "not ordered", "written", "outside"];
    rows_that_are_nobodys_are_combined: PACKED,
        "if (of_sequence >= ptx::ldg_u32(gQueries + 1) * params.heads) return;" => "",
        ["race", "not ordered", "written", "outside", "elements are wrong"];
    causal_as_if_all_had_as_many_tokens: PACKED,
        "visible_keys(work.length, token, work.q_tokens" => "visible_keys(work.length, token, params.rows / params.heads",
        ["elements are wrong"];
    sequences_that_nobody_asks_are_read: PACKED,
        "!has_rows ? 0 : blocks_left" => "blocks_left", ["expected a report of nothing"];
    one_of_a_cluster_leaves_its_peer_alone: CLUSTER,
        "tile / Config::kCluster * Config::kCluster * Config::kBlockRows < w.rows" => "tile * Config::kBlockRows < w.rows",
        ["waits for", "exited", "exits"];
    one_of_a_cluster_dequantises_alone: FP8_CLUSTER,
        "tile / Config::kCluster * Config::kCluster * Config::kBlockRows < w.rows" => "tile * Config::kBlockRows < w.rows",
        ["waits for", "exited", "exits"];
}
