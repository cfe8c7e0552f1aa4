use crate::log1p_f32;

/// exp(x) in FP32, operation by operation as the kernels compute it, so that a router's choice can be repeated bit for
/// bit. Within 1 ulp; 0 below -104, Inf above 88.8, NaN for NaN.
pub fn exp_f32(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = x.clamp(-104.0, 89.0);
    let n = clamped.mul_add(hex(0x3fb8_aa3b), ROUND) - ROUND;
    let high = n.mul_add(-hex(0x3f31_7200), clamped);
    let r = n.mul_add(-hex(0x35bf_be8e), high);
    let coefficients = [0x3ab6_0b61, 0x3c08_8889, 0x3d2a_aaab, 0x3e2a_aaab].map(hex);
    let p = coefficients.into_iter().chain([0.5, 1.0, 1.0]).fold(hex(0x3950_0d01), |p, c| p.mul_add(r, c));
    let half = n as i32 / 2;
    p * pow2(half) * pow2(n as i32 - half)
}

/// `1 / (1 + exp(-x))` in FP32, with [`exp_f32`].
pub fn sigmoid_f32(x: f32) -> f32 {
    1.0 / (1.0 + exp_f32(-x))
}

/// `sqrt(log(1 + exp(x)))` in FP32, with [`exp_f32`] and [`log1p_f32`]: the larger of x and 0, plus what is left.
pub fn sqrt_softplus_f32(x: f32) -> f32 {
    let log = log1p_f32(exp_f32(if x > 0.0 { -x } else { x }));
    if x > 0.0 { (x + log).sqrt() } else { log.sqrt() }
}

const fn hex(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// 2^`exponent`, of a normal number.
fn pow2(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) << 23).cast_unsigned())
}
