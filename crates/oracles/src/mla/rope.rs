use half::bf16;

use crate::{ShapeError, check_length};

/// Columns that are rotated.
const ROPE: usize = 64;

/// Pairs of neighbours `(x, y)` of `x` `[tokens, heads, 64]`, turned by `(cos, sin)` of row `positions[token]` of `table`
/// `[_, 64]`: `(x cos - y sin, x sin + y cos)`, each product and each sum rounded to FP32, then to BF16. A position that
/// is not in the table gives zeros.
pub fn rope(x: &[bf16], heads: usize, positions: &[i32], table: &[f32]) -> Result<Vec<bf16>, ShapeError> {
    check_length("x", positions.len() * heads * ROPE, x.len())?;
    check_length("table", table.len() / ROPE * ROPE, table.len())?;
    let angles = |position: i32| usize::try_from(position).ok().and_then(|row| table.chunks(ROPE).nth(row));
    let mut out = Vec::with_capacity(x.len());
    for (head, x) in x.chunks(ROPE).enumerate() {
        let Some(angles) = angles(positions[head / heads]) else {
            out.extend([bf16::ZERO; ROPE]);
            continue;
        };
        for (pair, angle) in x.chunks(2).zip(angles.chunks(2)) {
            let (x, y, cos, sin) = (pair[0].to_f32(), pair[1].to_f32(), angle[0], angle[1]);
            out.extend([x * cos - y * sin, x * sin + y * cos].map(bf16::from_f32));
        }
    }
    Ok(out)
}
