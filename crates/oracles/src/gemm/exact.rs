//! The GEMM as exact integers.

use float8::F8E4M3;

use super::fp8_gemm::{decode_block, fold_blocks};
use super::{Epilogue, Operands, Sample};
use crate::{BLOCK, floor_log2, pow2};

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
