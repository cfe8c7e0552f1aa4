//! Logarithms of sums, in any order.

use deepseek_kernels::mla::{EmptyLse, LseOrder};

/// Rows and columns of an lse.
pub fn lse_shape(order: LseOrder, tokens: usize, heads: usize) -> (usize, usize) {
    match order {
        LseOrder::TokensHeads => (tokens, heads),
        LseOrder::HeadsTokens => (heads, tokens),
        LseOrder::SequencesHeadsTokens { q_tokens } => (tokens / q_tokens * heads, q_tokens),
    }
}

/// `[tokens, heads]` as the order has it.
pub fn to_order(order: LseOrder, heads: usize, lse: &[f32]) -> Vec<f32> {
    match order {
        LseOrder::TokensHeads => lse.to_vec(),
        LseOrder::HeadsTokens => transposed(lse, heads),
        LseOrder::SequencesHeadsTokens { q_tokens } => of_sequences(lse, q_tokens * heads, heads),
    }
}

/// What lies in the order, as `[tokens, heads]`.
pub fn from_order(order: LseOrder, heads: usize, lse: &[f32]) -> Vec<f32> {
    match order {
        LseOrder::TokensHeads => lse.to_vec(),
        LseOrder::HeadsTokens => transposed(lse, lse.len().checked_div(heads).unwrap_or_default()),
        LseOrder::SequencesHeadsTokens { q_tokens } => of_sequences(lse, q_tokens * heads, q_tokens),
    }
}

/// Each sequence, of so many elements, by itself.
fn of_sequences(lse: &[f32], elements: usize, columns: usize) -> Vec<f32> {
    lse.chunks(elements.max(1)).flat_map(|sequence| transposed(sequence, columns)).collect()
}

/// Of rows of so many columns.
fn transposed(rows: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| rows.iter().skip(column).step_by(columns)).copied().collect()
}

/// As the references have it: -Inf for no key, which no other infinity stands for.
pub fn logarithm(empty: EmptyLse, lse: f32) -> f32 {
    match (empty, lse) {
        (EmptyLse::PositiveInfinity, f32::INFINITY) => f32::NEG_INFINITY,
        (EmptyLse::PositiveInfinity, f32::NEG_INFINITY) => f32::INFINITY,
        _ => lse,
    }
}
