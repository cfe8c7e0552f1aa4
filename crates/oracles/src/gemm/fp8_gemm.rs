//! The block-scaled FP8 GEMM `D = sum over K blocks g of sfa[g] * sfb[g] * (A_g . B_g^T)`, four times over:
//! in `f64`, as exact integers, as a bit model of the kernel, and as a bound on any correct kernel's error.

use float8::F8E4M3;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use rayon::prelude::*;

use crate::codec::{decode_bf16, decode_e4m3, encode_bf16};
use crate::tensor_core::{Parts, fused_dot_parts};
use crate::{BLOCK, ShapeError, check_k, check_length, floor_log2, pow2};

/// The operands of one GEMM, densely packed.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: &'a [F8E4M3],
    sfa: &'a [f32],
    b: &'a [F8E4M3],
    sfb: &'a [f32],
}

impl<'a> Operands<'a> {
    /// `a` `[m, k]`, `sfa` `[k/128, m]`, `b` `[n, k]`, `sfb` `[ceil(n/128), k/128]`.
    pub fn new(
        (m, n, k): (usize, usize, usize),
        a: &'a [F8E4M3],
        sfa: &'a [f32],
        b: &'a [F8E4M3],
        sfb: &'a [f32],
    ) -> Result<Self, ShapeError> {
        check_k(k)?;
        check_length("a", m * k, a.len())?;
        check_length("sfa", k / BLOCK * m, sfa.len())?;
        check_length("b", n * k, b.len())?;
        check_length("sfb", n.div_ceil(BLOCK) * (k / BLOCK), sfb.len())?;
        Ok(Self { m, n, k, a, sfa, b, sfb })
    }

    /// `(m, n, k)`.
    pub fn shape(&self) -> (usize, usize, usize) {
        (self.m, self.n, self.k)
    }

    fn sfa(&self, g: usize, row: usize) -> f32 {
        self.sfa[g * self.m + row]
    }

    fn sfb(&self, g: usize, column: usize) -> f32 {
        self.sfb[column / BLOCK * (self.k / BLOCK) + g]
    }
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

    fn len(&self) -> usize {
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
    fn round(self, x: f32) -> f32 {
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
    fn apply(&self, acc: f32, (row, column): (usize, usize)) -> f32 {
        self.output.round(self.initial.map_or(acc, |initial| acc + initial(row, column)))
    }
}

/// Rows and columns of the tiles that [`fold_blocks`] hands to a thread: their decoded blocks stay in its
/// cache.
const TILE: usize = 32;

/// Folds every sampled element over its K blocks, in ascending order. `load` decodes one row's block, once
/// per tile.
fn fold_blocks<B: Send + Sync, S: Copy + Send + Sync>(
    operands: &Operands,
    sample: &Sample,
    start: S,
    load: impl Fn(&[F8E4M3]) -> B + Sync,
    step: impl Fn(&mut S, &B, &B, f32, f32) + Sync,
) -> Vec<S> {
    let load_tile = |matrix: &[F8E4M3], rows: &[usize], g: usize| -> Vec<B> {
        rows.iter().map(|row| load(&matrix[row * operands.k + g * BLOCK..][..BLOCK])).collect()
    };
    let fold_tile = |rows: &[usize], columns: &[usize]| -> Vec<S> {
        let mut tile = vec![start; rows.len() * columns.len()];
        for g in 0..operands.k / BLOCK {
            let a = load_tile(operands.a, rows, g);
            let b = load_tile(operands.b, columns, g);
            let pairs = (0..rows.len()).flat_map(|i| (0..columns.len()).map(move |j| (i, j)));
            for (state, (i, j)) in tile.iter_mut().zip(pairs) {
                step(state, &a[i], &b[j], operands.sfa(g, rows[i]), operands.sfb(g, columns[j]));
            }
        }
        tile
    };

    let width = sample.columns.len();
    let tiles: Vec<_> = (0..sample.rows.len())
        .step_by(TILE)
        .flat_map(|row| (0..width).step_by(TILE).map(move |column| (row, column)))
        .collect();
    let folded: Vec<_> = tiles
        .par_iter()
        .map(|&(row, column)| {
            let rows = &sample.rows[row..sample.rows.len().min(row + TILE)];
            let columns = &sample.columns[column..width.min(column + TILE)];
            (row, column, columns.len(), fold_tile(rows, columns))
        })
        .collect();

    let mut result = vec![start; sample.len()];
    for (row, column, tile_width, tile) in folded {
        for (i, line) in tile.chunks_exact(tile_width).enumerate() {
            result[(row + i) * width + column..][..tile_width].copy_from_slice(line);
        }
    }
    result
}

fn decode_block(codes: &[F8E4M3]) -> [f64; BLOCK] {
    std::array::from_fn(|i| f64::from(DECODED[usize::from(codes[i].to_bits())]))
}

static DECODED: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode_e4m3(code as u8);
        code += 1;
    }
    table
};

/// Exact for E4M3 values: products are multiples of 2^-18 and 128 of them stay below 2^25, so any order
/// will do.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum()
}

/// The product in `f64` of the dequantised operands, before any rounding to the output type.
pub fn reference(operands: &Operands, sample: &Sample) -> Vec<f64> {
    fold_blocks(operands, sample, 0.0, decode_block, |sum, a, b, sfa, sfb| {
        *sum += f64::from(sfa) * f64::from(sfb) * dot(a, b);
    })
}

/// The kernel's result to the bit, by the tensor-core model of [`fused_dot_e4m3`](crate::tensor_core::fused_dot_e4m3).
///
/// Per K block of 128, ascending: four k steps onto zero, then the promotion `acc = fma(fl(sfa * sfb), c,
/// acc)`; at last `round(acc)`, or `round(fl(acc + D))` when accumulating. Only the class of a NaN counts.
pub fn bit_model(operands: &Operands, epilogue: &Epilogue, sample: &Sample) -> Vec<f32> {
    struct Block {
        parts: [Parts; BLOCK],
        nan: bool,
    }
    let load = |codes: &[F8E4M3]| Block {
        parts: std::array::from_fn(|i| Parts::of_e4m3(codes[i])),
        nan: codes.iter().any(F8E4M3::is_nan),
    };

    let mut result = fold_blocks(operands, sample, 0.0f32, load, |acc, a, b, sfa, sfb| {
        let (a_steps, b_steps) = (a.parts.as_chunks::<32>().0, b.parts.as_chunks::<32>().0);
        let mut c = if a.nan || b.nan { f32::NAN } else { 0.0 };
        for (a, b) in a_steps.iter().zip(b_steps) {
            c = fused_dot_parts(a, b, c);
        }
        *acc = (sfa * sfb).mul_add(c, *acc);
    });
    for (index, acc) in result.iter_mut().enumerate() {
        *acc = epilogue.apply(*acc, sample.at(index));
    }
    result
}

/// The inputs at `row`, `column` are not such that every correct kernel gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the inputs of element ({row}, {column}) are not exact: a correct kernel may round them")]
pub struct NotExact {
    /// Row of D.
    pub row: usize,
    /// Column of D.
    pub column: usize,
}

/// The result that *every* correct kernel gives, in whatever order it sums, by integer arithmetic.
///
/// This exists when scales are powers of two, each block's `sum |a b|` is below 2^14 times the lowest bit
/// set in any of its products (13 fraction bits then hold every partial sum), and the scaled magnitudes add
/// up to at most 2^24 times the lowest scaled bit (FP32 then holds those). Both are checked, per element.
pub fn exact(operands: &Operands, epilogue: &Epilogue, sample: &Sample) -> Result<Vec<f32>, NotExact> {
    let sums = fold_blocks(operands, sample, ExactSum::ZERO, ExactBlock::load, ExactSum::add_block);
    let finish = |(index, sum): (usize, &ExactSum)| {
        let (row, column) = sample.at(index);
        let mut sum = *sum;
        if let Some(initial) = epilogue.initial {
            sum.add(f64::from(initial(row, column)));
        }
        // + 0.0 turns -0 into the +0 of an accumulator that started from +0.
        sum.is_exact().then(|| epilogue.output.round(sum.sum as f32 + 0.0)).ok_or(NotExact { row, column })
    };
    sums.iter().enumerate().map(finish).collect()
}

struct ExactBlock {
    /// In units of 2^-9, the smallest E4M3 value.
    integers: [i64; BLOCK],
    nan: bool,
    subnormal: bool,
}

impl ExactBlock {
    fn load(codes: &[F8E4M3]) -> Self {
        let subnormal = |x: &F8E4M3| !x.is_normal() && x.to_bits() & 0x7f != 0;
        Self {
            integers: decode_block(codes).map(|x| (x * 512.0) as i64),
            nan: codes.iter().any(F8E4M3::is_nan),
            subnormal: codes.iter().any(subnormal),
        }
    }
}

#[derive(Clone, Copy)]
struct ExactSum {
    sum: f64,
    /// Sum of the terms' magnitudes.
    magnitude: f64,
    /// Every term is a multiple of this power of two.
    unit: f64,
    exact: bool,
}

impl ExactSum {
    const ZERO: Self = Self { sum: 0.0, magnitude: 0.0, unit: f64::INFINITY, exact: true };

    fn add_block(&mut self, a: &ExactBlock, b: &ExactBlock, sfa: f32, sfb: f32) {
        let (mut sum, mut magnitude, mut bits) = (0i64, 0u64, 0i64);
        for (a, b) in a.integers.iter().zip(&b.integers) {
            let product = a * b;
            sum += product;
            magnitude += product.unsigned_abs();
            bits |= product;
        }
        let scale = sfa * sfb;
        self.exact &= !a.nan && !b.nan && [sfa, sfb, scale].into_iter().all(is_power_of_two);
        if magnitude == 0 {
            return;
        }
        // The tensor core aligns a subnormal factor as if it were up to 2^3 larger than it is.
        let aligned = magnitude << (3 * (u32::from(a.subnormal) + u32::from(b.subnormal)));
        let lowest = 1u64 << bits.trailing_zeros();
        self.exact &= aligned < lowest << 14;

        let value = f64::from(scale) * pow2(-18);
        self.sum += sum as f64 * value;
        self.magnitude += magnitude as f64 * value.abs();
        self.unit = self.unit.min(lowest as f64 * value.abs());
    }

    fn add(&mut self, x: f64) {
        self.exact &= x.is_finite();
        if x != 0.0 {
            self.sum += x;
            self.magnitude += x.abs();
            self.unit = self.unit.min(lowest_bit(x));
        }
    }

    fn is_exact(&self) -> bool {
        let in_range = self.unit >= pow2(-149) && self.magnitude <= f64::from(f32::MAX);
        self.exact && in_range && (self.magnitude == 0.0 || self.magnitude <= pow2(24) * self.unit)
    }
}

fn is_power_of_two(x: f32) -> bool {
    x.is_normal() && x.to_bits() & 0x7f_ffff == 0
}

/// The value of the lowest bit set in the significand of a normal `f64`.
fn lowest_bit(x: f64) -> f64 {
    pow2(floor_log2(x) - 52 + (x.to_bits() | 1 << 52).trailing_zeros() as i32)
}

/// Which special value an element must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Special {
    /// None: the bound decides.
    None,
    /// Inf or NaN: a product of scales or D itself is infinite, and what multiplies it may have been cut to
    /// zero.
    NotFinite,
    /// NaN: a code, a product of scales or D itself is NaN.
    Nan,
}

/// What the bound says of one element.
#[derive(Clone, Copy, Debug)]
pub struct Bounded {
    /// The result in `f64`, D included when accumulating.
    pub reference: f64,
    /// `|got - reference|` of a correct kernel is at most this; infinite where FP32 or BF16 may have
    /// overflowed.
    pub bound: f64,
    /// The special value it must be, if any.
    pub special: Special,
}

/// An a-priori bound on the error of any kernel that sums 32 products at a time with at least 13 fraction
/// bits, truncating, and promotes every 128. It shares neither code nor order of summation with
/// [`bit_model`].
///
/// Within a block, with X the exact partial sum and r a bound on the error so far, one k step aligns its n
/// terms to `E = max(e(a_i) + e(b_i), e(|X| + r))`. Each term loses less than `q = 2^(E-13)`, and cutting
/// the sum loses 2^-13 of it, so `r' = r + n q + 2^-13 (|X'| + r + n q)`.
///
/// With `beta` the block's last r, the scale product and the promotion are off by
/// ```text
/// e = B + |s| (beta (1 + 2^-23) + 2^-24 (|X| + beta)) + 2^-150 (|X| + beta)     before the FMA rounds
/// B' = e + 2^-24 (|reference| + e) + 2^-150                                after it
/// ```
/// where 2^-150 is half the smallest FP32, for scale products and sums that are subnormal.
///
/// Accumulating rounds `acc + D` once more: `B + 2^-24 (|reference + D| + B)`; a subnormal sum is exact.
/// A BF16 result adds `2^-8 (|reference| + B) + 2^-133`.
pub fn bound(operands: &Operands, epilogue: &Epilogue, sample: &Sample) -> Vec<Bounded> {
    let start = Bounded { reference: 0.0, bound: 0.0, special: Special::None };
    let mut result = fold_blocks(operands, sample, start, BoundBlock::load, Bounded::add_block);
    for (index, element) in result.iter_mut().enumerate() {
        let (row, column) = sample.at(index);
        if let Some(initial) = epilogue.initial {
            element.accumulate(initial(row, column));
        }
        if epilogue.output == Output::Bf16 {
            element.round_to_bf16();
        }
    }
    result
}

/// Half a unit in the last place of FP32 and of BF16, relative.
const F32_ROUNDOFF: f64 = pow2(-24);
const BF16_ROUNDOFF: f64 = pow2(-8);
/// Half the smallest FP32.
const F32_UNDERFLOW: f64 = pow2(-150);
/// Every finite BF16 is at most this.
const BF16_MAX: f64 = (2.0 - pow2(-7)) * pow2(127);

struct BoundBlock {
    values: [f64; BLOCK],
    exponents: [i16; BLOCK],
    nan: bool,
}

/// Stands for a zero: the sum of two exponents one of which is this is below [`NO_PRODUCT`].
const NO_VALUE: i16 = -1000;
const NO_PRODUCT: i16 = -500;

impl BoundBlock {
    fn load(codes: &[F8E4M3]) -> Self {
        let values = decode_block(codes);
        let exponent = |x: f64| if x == 0.0 { NO_VALUE } else { floor_log2(x).max(-6) as i16 };
        Self { values, exponents: values.map(exponent), nan: values.iter().any(|x| x.is_nan()) }
    }
}

impl Bounded {
    fn add_block(&mut self, a: &BoundBlock, b: &BoundBlock, sfa: f32, sfb: f32) {
        let special = match sfa * sfb {
            _ if a.nan || b.nan => Special::Nan,
            scale if scale.is_nan() => Special::Nan,
            scale if scale.is_infinite() => Special::NotFinite,
            _ => Special::None,
        };
        self.special = self.special.max(special);
        if self.special != Special::None {
            return;
        }

        let (sum, beta) = block_bound(a, b);
        let scale = f64::from(sfa) * f64::from(sfb);
        let most = sum.abs() + beta;
        self.reference += scale * sum;
        let before = self.bound
            + scale.abs() * (beta * (1.0 + pow2(-23)) + F32_ROUNDOFF * most)
            + F32_UNDERFLOW * most;
        self.bound = before + F32_ROUNDOFF * (self.reference.abs() + before) + F32_UNDERFLOW;
        self.overflow_above(f64::from(f32::MAX));
    }

    fn accumulate(&mut self, initial: f32) {
        let special = match initial {
            _ if initial.is_nan() => Special::Nan,
            _ if initial.is_infinite() => Special::NotFinite,
            _ => Special::None,
        };
        self.special = self.special.max(special);
        self.reference += f64::from(initial);
        self.bound += F32_ROUNDOFF * (self.reference.abs() + self.bound);
        self.overflow_above(f64::from(f32::MAX));
    }

    fn round_to_bf16(&mut self) {
        self.bound += BF16_ROUNDOFF * (self.reference.abs() + self.bound) + pow2(-133);
        self.overflow_above(BF16_MAX);
    }

    fn overflow_above(&mut self, max: f64) {
        if self.reference.abs() + self.bound > max {
            self.bound = f64::INFINITY;
        }
    }
}

/// The exact sum of one block's products, and the bound on the error of four chained k steps.
fn block_bound(a: &BoundBlock, b: &BoundBlock) -> (f64, f64) {
    let (mut sum, mut error) = (0.0f64, 0.0f64);
    for step in (0..BLOCK).step_by(32) {
        let range = step..step + 32;
        let exponents =
            a.exponents[range.clone()].iter().zip(&b.exponents[range.clone()]).map(|(a, b)| a + b);
        let largest = exponents.clone().fold(NO_VALUE, i16::max);
        let products = exponents.map(|e| i16::from(e > NO_PRODUCT)).sum::<i16>();
        let so_far = sum.abs() + error;
        if products == 0 && so_far == 0.0 {
            continue;
        }

        let accumulator = if so_far == 0.0 { i32::from(NO_VALUE) } else { floor_log2(so_far).max(-126) };
        let quantum = pow2(i32::from(largest).max(accumulator) - 13);
        let cut = (f64::from(products) + f64::from(u8::from(so_far != 0.0))) * quantum;
        sum += dot(&a.values[range.clone()], &b.values[range]);
        error += cut + pow2(-13) * (sum.abs() + error + cut);
    }
    (sum, error)
}
