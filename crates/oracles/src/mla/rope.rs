use half::bf16;

use crate::{ShapeError, check_length};

/// Which columns of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `2 i` and `2 i + 1`.
    Neighbours,
    /// `i` and `columns / 2 + i`.
    Halves,
}

impl Pairs {
    /// The columns of pair `i` of a head.
    fn columns(self, i: usize, columns: usize) -> [usize; 2] {
        match self {
            Self::Neighbours => [2 * i, 2 * i + 1],
            Self::Halves => [i, columns / 2 + i],
        }
    }
}

/// Pairs `(x, y)` of `x` `[tokens, heads, columns]`, turned by `(cos, sin)` of row `positions[token]` of `table`
/// `[_, columns]`: `(x cos - y sin, x sin + y cos)`, each product and each sum rounded to FP32, then to BF16. A position that
/// is not in the table gives zeros.
pub fn rope(
    x: &[bf16],
    [heads, columns]: [usize; 2],
    pairs: Pairs,
    positions: &[i32],
    table: &[f32],
) -> Result<Vec<bf16>, ShapeError> {
    check_length("x", positions.len() * heads * columns, x.len())?;
    check_length("table", table.len() / columns * columns, table.len())?;
    let angles =
        |position: i32| usize::try_from(position).ok().and_then(|row| table.chunks(columns).nth(row));
    let mut out = vec![bf16::ZERO; x.len()];
    for (head, (x, out)) in x.chunks(columns).zip(out.chunks_mut(columns)).enumerate() {
        let Some(angles) = angles(positions[head / heads]) else { continue };
        for (i, angle) in angles.chunks(2).enumerate() {
            let [a, b] = pairs.columns(i, columns);
            let (x, y, cos, sin) = (x[a].to_f32(), x[b].to_f32(), angle[0], angle[1]);
            out[a] = bf16::from_f32(x * cos - y * sin);
            out[b] = bf16::from_f32(x * sin + y * cos);
        }
    }
    Ok(out)
}
