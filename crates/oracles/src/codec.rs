//! E4M3 and BF16, written from the definitions and independent of the crates `float8` and `half`.

/// The code of a NaN that [`encode_e4m3`] gives.
///
/// The PTX manual says of `cvt.satfinite` only that a NaN becomes a NaN of the destination format. E4M3 has
/// two, `0x7F` and `0xFF`; PTX's other conversions give the canonical, positive one. Oracles compare NaN as
/// a class.
pub const E4M3_NAN: u8 = 0x7f;

/// Largest finite E4M3 value.
pub const E4M3_MAX: f32 = 448.0;

const E4M3_MIN_EXPONENT: i32 = -6;
const E4M3_FRACTION_BITS: i32 = 3;

/// The value of an E4M3 code: 1 sign bit, 4 exponent bits of bias 7, 3 fraction bits, no infinity.
pub const fn decode_e4m3(code: u8) -> f32 {
    let fraction = (code & 7) as f32;
    let magnitude = match (code >> 3) & 15 {
        15 if code & 7 == 7 => return f32::NAN,
        0 => fraction / 512.0,
        field => (1.0 + fraction / 8.0) * crate::pow2(field as i32 - 7) as f32,
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The nearest E4M3 code, ties to even, saturating to +-448: `cvt.rn.satfinite`. NaN gives [`E4M3_NAN`].
pub const fn encode_e4m3(x: f32) -> u8 {
    if x.is_nan() {
        return E4M3_NAN;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    if x.abs() >= E4M3_MAX {
        return sign | 0x7e;
    }

    let field = (x.to_bits() >> 23 & 0xff) as i32;
    let fraction = x.to_bits() & 0x7f_ffff;
    let (exponent, significand) =
        if field == 0 { (-126, fraction) } else { (field - 127, 1 << 23 | fraction) };

    // |x| in units of the last place of the E4M3 binade it falls in.
    let binade = if exponent < E4M3_MIN_EXPONENT { E4M3_MIN_EXPONENT } else { exponent };
    let ulps = round_shift(significand, (binade - exponent + 23 - E4M3_FRACTION_BITS) as u32);

    // 8 ulps is where a normal binade starts, so a subnormal needs no case and 16 ulps carry into the next
    // binade.
    sign | (((binade - E4M3_MIN_EXPONENT) << E4M3_FRACTION_BITS) as u32 + ulps) as u8
}

/// `significand / 2^shift` to the nearest integer, ties to even, for a significand of 24 bits and `shift` >
/// 0.
const fn round_shift(significand: u32, shift: u32) -> u32 {
    if shift > 25 {
        return 0;
    }
    let odd = significand >> shift & 1;
    (significand + (1 << (shift - 1)) - 1 + odd) >> shift
}

/// The value of a BF16 bit pattern.
pub const fn decode_bf16(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The nearest BF16, ties to even; NaN gives PTX's canonical `0x7FFF`.
pub const fn encode_bf16(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let odd = x.to_bits() >> 16 & 1;
    ((x.to_bits() + 0x7fff + odd) >> 16) as u16
}
