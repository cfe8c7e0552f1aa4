//! The least time that a case can take, by what the machine did at most in the same run.

use super::record::{Roofs, Row};

/// Seconds.
pub fn seconds(row: &Row, roofs: &Roofs) -> f64 {
    (row.bytes as f64 / roofs.copy).max(fp8_flops(row) / roofs.tensor)
}

/// Operations of products, as if all were of FP8: those of BF16 take twice as long. Attention is BF16, all other products FP8.
pub fn fp8_flops(row: &Row) -> f64 {
    let factor = if row.operation.starts_with("mla_") { 2.0 } else { 1.0 };
    factor * row.flops as f64
}
