//! What a GEMM is given, where its result is looked at, and what becomes of a sum.

use float8::F8E4M3;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

use crate::codec::{decode_bf16, encode_bf16};
use crate::{BLOCK, ShapeError, blocks, check_length};

/// The operands of one GEMM, densely packed.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) parts: usize,
    pub(super) a: &'a [F8E4M3],
    pub(super) sfa: &'a [f32],
    pub(super) b: &'a [F8E4M3],
    pub(super) sfb: &'a [f32],
}

impl<'a> Operands<'a> {
    /// `a` `[m, k]`, `sfa` `[ceil(k/128), m]`, `b` `[n, k]`, `sfb` `[ceil(n/128), ceil(k/128)]`.
    pub fn new(
        shape: (usize, usize, usize),
        a: &'a [F8E4M3],
        sfa: &'a [f32],
        b: &'a [F8E4M3],
        sfb: &'a [f32],
    ) -> Result<Self, ShapeError> {
        Self::in_parts(shape, 1, a, sfa, b, sfb)
    }

    /// With a `b` of `parts` matrices below each other, each with rows of scales of its own: `sfb`
    /// `[parts * ceil(n/parts/128), ceil(k/128)]`.
    pub fn in_parts(
        (m, n, k): (usize, usize, usize),
        parts: usize,
        a: &'a [F8E4M3],
        sfa: &'a [f32],
        b: &'a [F8E4M3],
        sfb: &'a [f32],
    ) -> Result<Self, ShapeError> {
        check_length("a", m * k, a.len())?;
        check_length("sfa", blocks(k) * m, sfa.len())?;
        check_length("b", n * k, b.len())?;
        check_length("sfb", scale_rows(n, parts) * blocks(k), sfb.len())?;
        Ok(Self { m, n, k, parts, a, sfa, b, sfb })
    }

    /// `(m, n, k)`.
    pub fn shape(&self) -> (usize, usize, usize) {
        (self.m, self.n, self.k)
    }

    pub(super) fn sfa(&self, g: usize, row: usize) -> f32 {
        self.sfa[g * self.m + row]
    }

    pub(super) fn sfb(&self, g: usize, column: usize) -> f32 {
        let rows = self.n / self.parts;
        let row = column / rows * blocks(rows) + column % rows / BLOCK;
        self.sfb[row * blocks(self.k) + g]
    }
}

/// Rows of scales of `n` rows in `parts`.
pub(super) fn scale_rows(n: usize, parts: usize) -> usize {
    parts * blocks(n / parts)
}

/// The elements of D that are looked at: every pair of a row and a column. Results come in this order,
/// row-major.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Rows of D, ascending.
    pub rows: Vec<usize>,
    /// Columns of D, ascending.
    pub columns: Vec<usize>,
}

impl Sample {
    /// Every element.
    pub fn all(m: usize, n: usize) -> Self {
        Self { rows: (0..m).collect(), columns: (0..n).collect() }
    }

    /// About `rows` x `columns` elements: the first, the last and one at random of each equal stretch in
    /// between, so that no tile larger than a stretch is missed.
    pub fn spread(m: usize, n: usize, rows: usize, columns: usize, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { rows: spread(m, rows, &mut rng), columns: spread(n, columns, &mut rng) }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Row and column of the `index`th element.
    pub(crate) fn at(&self, index: usize) -> (usize, usize) {
        (self.rows[index / self.columns.len()], self.columns[index % self.columns.len()])
    }
}

fn spread(extent: usize, count: usize, rng: &mut Xoshiro256PlusPlus) -> Vec<usize> {
    if extent <= count {
        return (0..extent).collect();
    }
    let stretch = |i: usize| i * extent / count..(i + 1) * extent / count;
    let mut picked: Vec<_> = (0..count).map(|i| rng.random_range(stretch(i))).collect();
    picked.extend([0, extent - 1]);
    picked.sort_unstable();
    picked.dedup();
    picked
}

/// Element type of D. Both are handled as `f32`, which holds every BF16 exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Rounded once, to nearest even.
    Bf16,
    /// The accumulator itself.
    F32,
}

impl Output {
    /// The nearest value of the type.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::Bf16 => decode_bf16(encode_bf16(x)),
            Self::F32 => x,
        }
    }
}

/// Element `(row, column)` of a matrix, wherever and with whatever pitch it is stored.
pub type Elements<'a> = dyn Fn(usize, usize) -> f32 + Sync + 'a;

/// What happens to the sum before it is stored.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Element type of D.
    pub output: Output,
    /// What D held before, added in FP32 after the sum and before the rounding; `None` overwrites D.
    pub initial: Option<&'a Elements<'a>>,
}

impl Epilogue<'static> {
    /// D is overwritten.
    pub const fn store(output: Output) -> Self {
        Self { output, initial: None }
    }
}

impl Epilogue<'_> {
    pub(super) fn apply(&self, acc: f32, (row, column): (usize, usize)) -> f32 {
        self.output.round(self.initial.map_or(acc, |initial| acc + initial(row, column)))
    }
}
