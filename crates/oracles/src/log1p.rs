/// log(1 + x) in FP32 for 0 <= x <= 1, operation by operation as the kernels compute it. Within 1 ulp; NaN for NaN.
pub fn log1p_f32(x: f32) -> f32 {
    const LN2: f32 = f32::from_bits(0x3f31_7218);
    let halved = x > 0.5;
    let f = if halved { (x - 1.0) * 0.5 } else { x };
    let s = f / (2.0 + f);
    let z = s * s;
    // 2/11, 2/9, ..., 2/3.
    let coefficients = [0x3e63_8e39, 0x3e92_4925, 0x3ecc_cccd, 0x3f2a_aaab].map(f32::from_bits);
    let r = coefficients.into_iter().fold(f32::from_bits(0x3e3a_2e8c), |r, c| r.mul_add(z, c));
    let log = (-s).mul_add((-r).mul_add(z, f), f);
    if halved { LN2 + log } else { log }
}
