//! Logarithms of sums, in either order.

use deepseek_kernels::mla::LseOrder;

/// Rows and columns of an lse.
pub fn lse_shape(order: LseOrder, tokens: usize, heads: usize) -> (usize, usize) {
    match order {
        LseOrder::TokensHeads => (tokens, heads),
        LseOrder::HeadsTokens => (heads, tokens),
    }
}

/// `[tokens, heads]` as the order has it.
pub fn to_order(order: LseOrder, heads: usize, lse: &[f32]) -> Vec<f32> {
    match order {
        LseOrder::TokensHeads => lse.to_vec(),
        LseOrder::HeadsTokens => transposed(lse, heads),
    }
}

/// What lies in the order, as `[tokens, heads]`.
pub fn from_order(order: LseOrder, heads: usize, lse: &[f32]) -> Vec<f32> {
    match order {
        LseOrder::TokensHeads => lse.to_vec(),
        LseOrder::HeadsTokens => transposed(lse, lse.len().checked_div(heads).unwrap_or_default()),
    }
}

/// Of rows of so many columns.
fn transposed(rows: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| rows.iter().skip(column).step_by(columns)).copied().collect()
}
