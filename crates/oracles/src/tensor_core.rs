//! Hopper's tensor core as public work describes it (MMA-Sim, arXiv 2511.10909): products and accumulator
//! are aligned to the largest exponent among them, cut toward zero, summed exactly, and the sum is cut
//! again.

use float8::F8E4M3;
use half::bf16;

use crate::pow2;

/// The NaN that the tensor core returns; compare NaN as a class, not as bits.
pub const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// Exponent of a zero: a product with a zero factor stays below every other one and never decides the
/// alignment.
const ZERO_EXPONENT: i32 = -10_000;

/// One `wgmma` k step of E4M3: 32 products onto `c`, 13 fraction bits kept in the sum and in the result.
pub fn fused_dot_e4m3(a: &[F8E4M3; 32], b: &[F8E4M3; 32], c: f32) -> f32 {
    if a.iter().chain(b).any(|x| x.is_nan()) {
        return NAN;
    }
    fused_dot_parts(&a.map(Parts::of_e4m3), &b.map(Parts::of_e4m3), c)
}

/// As [`fused_dot_e4m3`], of finite operands already taken apart.
pub(super) fn fused_dot_parts(a: &[Parts; 32], b: &[Parts; 32], c: f32) -> f32 {
    TensorCore::<6, 13, 13>::fused_sum::<32>(|i| a[i], |i| b[i], c)
}

/// One `wgmma` k step of BF16: 16 products onto `c`, 25 fraction bits kept in the sum, the result cut to
/// FP32.
pub fn fused_dot_bf16(a: &[bf16; 16], b: &[bf16; 16], c: f32) -> f32 {
    if a.iter().chain(b).any(|x| !x.is_finite()) {
        // No finite term can change the outcome, and in f64 none overflows: plain arithmetic gives the
        // class.
        let products = a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64());
        let sum = products.fold(f64::from(c), |sum, product| sum + product);
        return if sum.is_nan() { NAN } else { sum as f32 };
    }
    TensorCore::<14, 25, 23>::fused_sum::<16>(|i| Parts::of_bf16(a[i]), |i| Parts::of_bf16(b[i]), c)
}

/// A finite number taken apart: `+-magnitude * 2^(exponent - fraction bits of its format)`.
///
/// The exponent is `max(floor(log2 |x|), e_min)`; that of a product is the sum of its factors', not
/// renormalised.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    /// 0, or -1 for a negative number.
    sign: i32,
    magnitude: i32,
    exponent: i32,
}

impl Parts {
    pub(super) fn of_e4m3(x: F8E4M3) -> Self {
        let code = i32::from(x.to_bits());
        Self::new(code & 0x80 != 0, code >> 3 & 15, code & 7, 3, 7)
    }

    fn of_bf16(x: bf16) -> Self {
        let bits = i32::from(x.to_bits());
        Self::new(bits & 0x8000 != 0, bits >> 7 & 0xff, bits & 0x7f, 7, 127)
    }

    fn of_f32(x: f32) -> Self {
        let bits = x.to_bits() as i32;
        Self::new(bits < 0, bits >> 23 & 0xff, bits & 0x7f_ffff, 23, 127)
    }

    fn new(negative: bool, field: i32, fraction: i32, fraction_bits: i32, bias: i32) -> Self {
        let (magnitude, exponent) = match field {
            0 if fraction == 0 => (0, ZERO_EXPONENT),
            0 => (fraction, 1 - bias),
            _ => (fraction | 1 << fraction_bits, field - bias),
        };
        Self { sign: -i32::from(negative), magnitude, exponent }
    }

    /// Of operands, whose magnitudes have 8 bits: nothing overflows. Unchecked, here and below, it takes half the time.
    fn times(self, other: Self) -> Self {
        Self {
            sign: self.sign ^ other.sign,
            magnitude: self.magnitude.wrapping_mul(other.magnitude),
            exponent: self.exponent.wrapping_add(other.exponent),
        }
    }
}

/// An instruction's sum, by its fraction bits: of a product's significand, of a term below the largest exponent, of the result.
struct TensorCore<const PRODUCT: i32, const KEPT: i32, const RESULT: i32>;

impl<const PRODUCT: i32, const KEPT: i32, const RESULT: i32> TensorCore<PRODUCT, KEPT, RESULT> {
    #[inline]
    fn fused_sum<const L: usize>(a: impl Fn(usize) -> Parts, b: impl Fn(usize) -> Parts, c: f32) -> f32 {
        if !c.is_finite() {
            return if c.is_nan() { NAN } else { c };
        }
        let c = Parts::of_f32(c);
        let products: [Parts; L] = std::array::from_fn(|i| a(i).times(b(i)));
        let largest = products.iter().fold(c.exponent, |largest, p| largest.max(p.exponent));
        if largest < ZERO_EXPONENT / 2 {
            return 0.0;
        }
        let sum = products.iter().fold(Self::align::<23>(c, largest), |sum, product| {
            sum.wrapping_add(Self::align::<PRODUCT>(*product, largest))
        });
        Self::round_toward_zero(sum, largest - KEPT)
    }

    /// The term, of so many fraction bits, in units of `2^(largest - KEPT)`, cut toward zero.
    #[inline]
    fn align<const FRACTION: i32>(term: Parts, largest: i32) -> i64 {
        let gained = const { KEPT - FRACTION };
        let lost = largest.wrapping_sub(term.exponent);
        // Without branches: signs and exponents of random data cannot be predicted.
        let magnitude =
            i64::from(term.magnitude) << gained.max(0) >> lost.wrapping_sub(gained.min(0)).clamp(0, 63);
        let sign = i64::from(term.sign);
        (magnitude ^ sign).wrapping_sub(sign)
    }

    /// `sum * 2^exponent` with `RESULT` fraction bits; the range is that of FP32, subnormals are kept, and what is cut to
    /// zero loses its sign.
    #[inline]
    fn round_toward_zero(sum: i64, exponent: i32) -> f32 {
        if sum == 0 {
            return 0.0;
        }
        let binade = exponent + sum.unsigned_abs().ilog2() as i32;
        let last_place = binade.max(-126) - RESULT;
        let dropped = (last_place - exponent).clamp(0, 63);
        let magnitude = (sum.unsigned_abs() >> dropped) as f64 * pow2(exponent + dropped);
        (if sum < 0 { 0.0 - magnitude } else { magnitude }) as f32
    }
}
