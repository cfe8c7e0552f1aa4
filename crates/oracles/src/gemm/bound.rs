//! A bound on any correct kernel's error.

use float8::F8E4M3;

#[cfg(doc)]
use super::bit_model;
use super::fp8_gemm::{decode_block, dot, fold_blocks};
use super::{Epilogue, Operands, Output, Sample};
use crate::{BLOCK, floor_log2, pow2};

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
        // Nothing overflows; unchecked, the compiler can keep them in vectors.
        let (mut largest, mut products) = (NO_VALUE, 0_i16);
        for (a, b) in a.exponents[range.clone()].iter().zip(&b.exponents[range.clone()]) {
            let exponent = a.wrapping_add(*b);
            largest = largest.max(exponent);
            products = products.wrapping_add(i16::from(exponent > NO_PRODUCT));
        }
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
