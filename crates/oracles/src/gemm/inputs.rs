//! Operands of a GEMM. Each class is named for what it makes visible; the same seed gives the same bytes everywhere.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use float8::F8E4M3;
use rand::{RngExt, rngs::Xoshiro256PlusPlus, seq::SliceRandom};

use super::operands::scale_rows;
use super::{Operands, Oracle};
use crate::codec::{E4M3_NAN, encode_e4m3};
use crate::quant::{QuantizeModel, QuantizeScale, Quantized, quantize_1x128, quantize_128x128};
use crate::random::{RowFill, Seed, Shape, Stream};
use crate::{BLOCK, ShapeError, blocks};

/// A class of GEMM inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GemmClass {
    /// Exact integers in [-8, 8], scales in {1, 2, 4} of which neighbours differ: indexing, swizzles,
    /// tails, scale indices, tile order, BF16 partial sums.
    SignedIntegers,
    /// Exact non-negative integers in [0, 8], scales as SignedIntegers: the same, and from K = 2048 a missing
    /// promotion.
    Integers,
    /// Row r of A is one-hot, B holds any finite code, scales as SignedIntegers: which byte landed where.
    OneHot,
    /// Normal data, quantised with FP32 scales: the baseline.
    Normal,
    /// As Normal, all values positive: a missing promotion and the bias of truncation.
    Positive,
    /// As Normal, one column of A in 64 times 200: errors in the scale of one block.
    Outliers,
    /// As Normal, but 15 of 16 products in a block cancel one of its other k steps: results far below `sum |a
    /// b|`.
    Cancelling,
    /// All ones. From K = 16384 a missing promotion stalls.
    Ones,
    /// All 254 finite codes in A and in B, FP32 scales.
    Codes,
    /// As Codes, with a NaN code in one row of A in five and one of B in seven.
    NanCodes,
    /// Special scales in one K block: zeros, subnormals, 1e-23, 2^127, Inf, NaN, negative; some blocks of A
    /// are zero.
    SpecialScales,
}

impl GemmClass {
    /// Every class.
    pub const ALL: [Self; 11] = [
        Self::SignedIntegers,
        Self::Integers,
        Self::OneHot,
        Self::Normal,
        Self::Positive,
        Self::Outliers,
        Self::Cancelling,
        Self::Ones,
        Self::Codes,
        Self::NanCodes,
        Self::SpecialScales,
    ];

    /// The oracles that judge this class.
    pub const fn oracles(self) -> &'static [Oracle] {
        match self {
            Self::SignedIntegers | Self::Integers | Self::OneHot | Self::Ones => {
                &[Oracle::Exact, Oracle::BitModel, Oracle::Bound]
            }
            _ => &[Oracle::BitModel, Oracle::Bound],
        }
    }

    /// Operands of this class.
    pub fn generate(self, shape: (usize, usize, usize), seed: u64) -> Result<GemmInputs, ShapeError> {
        self.generate_in_parts(shape, 1, seed)
    }

    /// Operands whose B is `parts` matrices below each other, each with rows of scales of its own.
    pub fn generate_in_parts(
        self,
        (m, n, k): (usize, usize, usize),
        parts: usize,
        seed: u64,
    ) -> Result<GemmInputs, ShapeError> {
        let (k_blocks, n_blocks) = (blocks(k), scale_rows(n, parts));
        let seed = Seed(seed);
        let exact_scales = || {
            let sfa = distinct_neighbours(k_blocks, m, seed.rng(Stream::ScaleA, 0));
            (sfa, distinct_neighbours(n_blocks, k_blocks, seed.rng(Stream::ScaleB, 0)))
        };
        let any_scales = || {
            let scale = |stream| seed.rng(stream, 0).random_iter::<f32>().map(|x| (0.5 + x) / 64.0);
            let sfa = scale(Stream::ScaleA).take(k_blocks * m).collect();
            (sfa, scale(Stream::ScaleB).take(n_blocks * k_blocks).collect())
        };
        let inputs = |a, b, (sfa, sfb)| GemmInputs { m, n, k, parts, a, sfa, b, sfb };
        let codes = |stream, rows, fill: &RowFill| seed.matrix(stream, rows, k, fill);
        let integers = |range: std::ops::RangeInclusive<i8>| {
            let fill = move |rng: &mut Xoshiro256PlusPlus, _, row: &mut [F8E4M3]| {
                row.fill_with(|| code(f32::from(rng.random_range(range.clone()))));
            };
            inputs(codes(Stream::A, m, &fill), codes(Stream::B, n, &fill), exact_scales())
        };
        let finite_codes =
            || inputs(codes(Stream::A, m, &every_code), codes(Stream::B, n, &every_code), any_scales());

        Ok(match self {
            Self::SignedIntegers => integers(-8..=8),
            Self::Integers => integers(0..=8),
            Self::OneHot => {
                // A stride without a common factor with K: few rows reach every part of K, K rows reach all
                // of it.
                let one_hot = |_: &mut Xoshiro256PlusPlus, index: usize, row: &mut [F8E4M3]| {
                    row.fill(F8E4M3::from_bits(0));
                    row[index * 4099 % k] = code(1.0);
                };
                inputs(codes(Stream::A, m, &one_hot), codes(Stream::B, n, &every_code), exact_scales())
            }
            Self::Normal => quantised((m, n, k), parts, &|x, _| x, &|x, _| x, seed)?,
            Self::Positive => quantised((m, n, k), parts, &|x, _| x.abs(), &|x, _| x.abs(), seed)?,
            Self::Outliers => {
                let outlier = outlier_columns(k, seed);
                quantised((m, n, k), parts, &|x, column| x * outlier[column], &|x, _| x, seed)?
            }
            Self::Cancelling => {
                let mut inputs = quantised((m, n, k), parts, &|x, _| x, &|x, _| x, seed)?;
                inputs.cancel();
                inputs
            }
            Self::Ones => {
                let (a, b) = (vec![code(1.0); m * k], vec![code(1.0); n * k]);
                inputs(a, b, (vec![1.0; k_blocks * m], vec![1.0; n_blocks * k_blocks]))
            }
            Self::Codes => finite_codes(),
            Self::NanCodes => {
                let mut inputs = finite_codes();
                inputs.plant_nan_codes(seed);
                inputs
            }
            Self::SpecialScales => {
                let mut inputs = finite_codes();
                inputs.plant_special_scales(seed);
                inputs
            }
        })
    }
}

impl fmt::Display for GemmClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The name of a class that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of an input class such as SignedIntegers, got {0}")]
pub struct UnknownClass(String);

impl FromStr for GemmClass {
    type Err = UnknownClass;

    fn from_str(name: &str) -> Result<Self, UnknownClass> {
        let named = |class: &Self| class.to_string().eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(named).ok_or_else(|| UnknownClass(name.to_owned()))
    }
}

/// One is first, so that the first row and the first 128 columns see each special value alone.
const SPECIAL_SCALES: [f32; 11] = [
    1.0,
    0.0,
    -0.0,
    f32::from_bits(1),
    f32::MIN_POSITIVE,
    1e-23,
    f32::from_bits(254 << 23),
    f32::INFINITY,
    f32::NAN,
    -1.5,
    -1e-40,
];

/// One column in 64 times 200, the others as they are.
fn outlier_columns(k: usize, seed: Seed) -> Vec<f32> {
    let mut factors = vec![1.0; k];
    let mut rng = seed.rng(Stream::Columns, 0);
    for stretch in factors.chunks_mut(64) {
        stretch[rng.random_range(0..stretch.len())] = 200.0;
    }
    factors
}

/// The operands of a GEMM, densely packed.
#[derive(Clone, Debug)]
pub struct GemmInputs {
    /// Rows of D.
    pub m: usize,
    /// Columns of D.
    pub n: usize,
    /// Elements of a sum.
    pub k: usize,
    /// Matrices that B is, below each other.
    pub parts: usize,
    /// E4M3 `[m, k]`.
    pub a: Vec<F8E4M3>,
    /// Scales of `a` `[ceil(k/128), m]`.
    pub sfa: Vec<f32>,
    /// E4M3 `[n, k]`.
    pub b: Vec<F8E4M3>,
    /// Scales of `b` `[parts * ceil(n/parts/128), ceil(k/128)]`.
    pub sfb: Vec<f32>,
}

impl GemmInputs {
    /// Some rows of A alone.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let Self { m, n, k, parts, .. } = *self;
        Self {
            m: rows.len(),
            n,
            k,
            parts,
            a: self.a[rows.start * k..rows.end * k].to_vec(),
            sfa: self.sfa.chunks_exact(m.max(1)).flat_map(|line| &line[rows.clone()]).copied().collect(),
            b: self.b.clone(),
            sfb: self.sfb.clone(),
        }
    }

    /// A repeats itself 64 elements on and B repeats itself negated: products cancel two k steps later.
    fn cancel(&mut self) {
        let k = self.k;
        let cancels = |i: &usize| i % k % BLOCK < 64 && i % k % 16 != 5 && i % k + 64 < k;
        for i in (0..self.a.len()).filter(cancels) {
            self.a[i + 64] = self.a[i];
        }
        for i in (0..self.b.len()).filter(cancels) {
            self.b[i + 64] = F8E4M3::from_bits(self.b[i].to_bits() ^ 0x80);
        }
    }

    /// A NaN code in one row of A in five and one of B in seven.
    fn plant_nan_codes(&mut self, seed: Seed) {
        let k = self.k;
        let mut rng = seed.rng(Stream::Columns, 0);
        let mut plant = |matrix: &mut [F8E4M3], one_in: usize| {
            for (index, row) in matrix.chunks_mut(k.max(1)).enumerate().skip(one_in / 2).step_by(one_in) {
                let sign = if index % 2 == 0 { 0 } else { 0x80 };
                row[rng.random_range(0..k)] = F8E4M3::from_bits(E4M3_NAN | sign);
            }
        };
        plant(&mut self.a, 5);
        plant(&mut self.b, 7);
    }

    /// Special scales in one K block, on every other stretch of rows above zeros.
    fn plant_special_scales(&mut self, seed: Seed) {
        let Self { m, k, .. } = *self;
        let k_blocks = blocks(k);
        if k_blocks == 0 {
            return;
        }
        let g = seed.rng(Stream::Columns, 0).random_range(0..k_blocks);
        for row in 0..m {
            self.sfa[g * m + row] = SPECIAL_SCALES[row % SPECIAL_SCALES.len()];
            if row / SPECIAL_SCALES.len() % 2 == 1 {
                self.a[row * k + g * BLOCK..row * k + k.min((g + 1) * BLOCK)].fill(F8E4M3::from_bits(0));
            }
        }
        for (block, scales) in self.sfb.chunks_mut(k_blocks).enumerate() {
            scales[g] = SPECIAL_SCALES[block % SPECIAL_SCALES.len()];
        }
    }

    /// A view for the references and oracles; an error if a vector no longer fits the shape.
    pub fn operands(&self) -> Result<Operands<'_>, ShapeError> {
        Operands::in_parts((self.m, self.n, self.k), self.parts, &self.a, &self.sfa, &self.b, &self.sfb)
    }
}

/// The data of a layer: activations in 1x128, weights in 128x128.
fn quantised(
    (m, n, k): (usize, usize, usize),
    parts: usize,
    shape_a: &Shape,
    shape_b: &Shape,
    seed: Seed,
) -> Result<GemmInputs, ShapeError> {
    /// The standard deviation of a layer's weights is about this.
    const WEIGHT: f32 = 0.02;
    let activations = seed.normal(Stream::A, m, k, shape_a);
    let weights = seed.normal(Stream::B, n, k, &|x, column| WEIGHT * shape_b(x, column));
    let model = QuantizeModel::tile_kernels(QuantizeScale::Fp32);
    let Quantized { q: a, sf: sfa, .. } = quantize_1x128(&activations, m, k, k, model)?;
    let (mut b, mut sfb, rows) = (Vec::new(), Vec::new(), n / parts);
    for part in 0..parts {
        let Quantized { q, sf, .. } = quantize_128x128(&weights[part * rows * k..], rows, k, k, model)?;
        b.extend(q);
        sfb.extend(sf);
    }
    Ok(GemmInputs { m, n, k, parts, a, sfa, b, sfb })
}

fn code(x: f32) -> F8E4M3 {
    F8E4M3::from_bits(encode_e4m3(x))
}

/// Walks the finite codes in an order of the row's own, so that 254 elements hold each once.
fn every_code(rng: &mut Xoshiro256PlusPlus, _: usize, row: &mut [F8E4M3]) {
    let mut codes: Vec<u8> = (0..=255).filter(|code| code & 0x7f != E4M3_NAN).collect();
    codes.shuffle(rng);
    for (x, code) in row.iter_mut().zip(codes.iter().cycle()) {
        *x = F8E4M3::from_bits(*code);
    }
}

/// A random matrix over {1, 2, 4} in which no two neighbours in a row or a column are equal.
fn distinct_neighbours(rows: usize, columns: usize, mut rng: Xoshiro256PlusPlus) -> Vec<f32> {
    let mut matrix: Vec<f32> = Vec::with_capacity(rows * columns);
    for index in 0..rows * columns {
        let left = (index % columns > 0).then(|| matrix[index - 1]);
        let above = index.checked_sub(columns).map(|above| matrix[above]);
        let free = |scale: &f32| left != Some(*scale) && above != Some(*scale);
        let choices: Vec<f32> = [1.0, 2.0, 4.0].into_iter().filter(free).collect();
        matrix.push(choices[rng.random_range(0..choices.len())]);
    }
    matrix
}
