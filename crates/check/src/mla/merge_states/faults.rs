//! Faults in the merge of two states of attention.

use crate::mla::merge_states::{MergeStatesCase, MergeStatesProblem};
use crate::planted::{Changed, Trial, faults};
use deepseek_kernels::mla::LseOrder;
use deepseek_kernels::table::gemm::OutputType;
use std::sync::Arc;

const MERGE: Trial = Trial::Changed(merge);

/// Both types; parts of any distance, equal ones, empty ones of either kind; logarithms alone, to the last bit.
fn merge() -> Vec<Changed> {
    let drawn = |case: MergeStatesCase| case.problem().expect("inputs");
    let mut logarithms = drawn(MergeStatesCase { spread: Some(0.0), ..MergeStatesCase::new(150, 1) });
    logarithms.parts[1].lse.iter_mut().zip(0_u16..).for_each(|(lse, i)| *lse = -f32::from(i) / 211.0);
    let mut problems = vec![logarithms];
    for infinity_is_empty in [false, true] {
        for output in [OutputType::Bf16, OutputType::F32] {
            let case = MergeStatesCase { spread: Some(6.0), ..MergeStatesCase::new(23, 3) };
            let mut problem = drawn(MergeStatesCase { infinity_is_empty, output, ..case });
            problem.parts[1].lse[20] = problem.parts[0].lse[20];
            for (part, row, lse) in [
                (0, 1, f32::NEG_INFINITY),
                (1, 2, f32::NEG_INFINITY),
                (0, 3, f32::NEG_INFINITY),
                (1, 3, f32::NEG_INFINITY),
                (0, 4, f32::INFINITY),
            ] {
                problem.parts[part].empty_row(row, lse);
            }
            problems.push(problem);
        }
    }
    for lse_order in [LseOrder::HeadsTokens, LseOrder::SequencesHeadsTokens { q_tokens: 4 }] {
        problems.push(drawn(MergeStatesCase { columns: 128, lse_order, ..MergeStatesCase::new(24, 3) }));
    }
    let changed = |problem: MergeStatesProblem| -> Changed { (Box::new(problem.case), Arc::new(problem)) };
    problems.into_iter().map(changed).collect()
}

faults! {
    weight_of_the_larger: MERGE, "exp_f32(least - largest)" => "exp_f32(largest - least)", ["lse["];
    weights_exchanged: MERGE, "w0 = first_larger ? 1.0f : weight" => "w0 = first_larger ? weight : 1.0f", ["o["];
    fma_instead_of_two_products: MERGE,
        "(w0 * o0.x[i] + w1 * o1.x[i])" => "ptx::fma_rn(w0, o0.x[i], w1 * o1.x[i])", ["o["];
    reciprocal_instead_of_a_division: MERGE, "w1 * o1.x[i]) / sum" => "w1 * o1.x[i]) * (1.0f / sum)", ["o["];
    weights_divided_instead_of_the_sum: MERGE,
        "(w0 * o0.x[i] + w1 * o1.x[i]) / sum" => "w0 / sum * o0.x[i] + w1 / sum * o1.x[i]", ["o["];
    fma_onto_the_first_product: MERGE,
        "(w0 * o0.x[i] + w1 * o1.x[i])" => "ptx::fma_rn(w1, o1.x[i], w0 * o0.x[i])", ["o["];
    logarithm_added_to_the_smaller: MERGE,
        "largest + log1p_f32(weight)" => "least + (log1p_f32(weight) + (largest - least))", ["lse["];
    logarithm_of_the_hardware: MERGE,
        "largest + log1p_f32(weight)" => "largest + ptx::lg2_approx(1.0f + weight) * 0x1.62e43p-1f", ["lse["];
    not_normalised: MERGE, "w1 * o1.x[i]) / sum" => "w1 * o1.x[i])", ["o["];
    logarithm_forgotten: MERGE, "largest + log1p_f32(weight)" => "largest", ["lse["];
    empty_part_is_merged: MERGE, "has0 && has1" => "has0 || has1", ["o[", "lse["];
    other_part_is_copied: MERGE, "params.part[has0 ? 0 : 1]" => "params.part[has0 ? 1 : 0]", ["o["];
    nothing_written_without_keys: MERGE, "store_piece(params, row, column, Piece{});" => "", ["o["];
    infinity_always_empty: MERGE, "params.infinity_is_empty != 0 &&" => "", ["o[", "lse["];
    infinity_never_empty: MERGE, "params.infinity_is_empty != 0" => "false", ["o[", "lse["];
    rows_past_the_end: MERGE, "if (row >= params.rows) return;" => "", ["outside"];
    lse_never_written: MERGE, "if (column != 0) return;" => "return;", ["lse["];
    half_of_an_fp32_piece: MERGE, "i < kPieceElements * bytes" => "i < 16", ["o["];
    pairs_exchanged: MERGE, "ptx::cvt_bf16x2(x[1], x[0])" => "ptx::cvt_bf16x2(x[0], x[1])", ["o["];
    lse_at_the_strides_of_the_other_part: MERGE,
        "lse_element(part.lse_strides" => "lse_element(params.part[0].lse_strides", ["lse[", "o[", "outside"];
    merged_lse_at_the_strides_of_a_part: MERGE,
        "lse_element(params.out_lse_strides" => "lse_element(params.part[0].lse_strides", ["lse[", "outside", "not ordered"];
    lse_of_the_next_head: MERGE,
        "row / params.heads, row % params.heads)); return" => "row / params.heads, (row + 1) % params.heads)); return",
        ["lse[", "o["];
    merged_lse_of_the_next_head: MERGE,
        "row / params.heads, row % params.heads), lse)" => "row / params.heads, (row + 1) % params.heads), lse)",
        ["lse["];
    columns_of_latents: MERGE, "params.columns / kPieceElements" => "MLA_LATENT / kPieceElements", ["not ordered", "outside"];
    wrong_half: MERGE, "x > 0.5f" => "x > 0.75f", ["lse["];
    term_left_out: MERGE, "r = ptx::fma_rn(r, z, 0x1.555556p-1f);" => "", ["lse["];
    logarithm_of_the_half: MERGE, "halved ? kLn2 + log : log" => "log", ["lse["];
}
