//! The codecs, exhaustively: every code and every FP32, against a second formulation and the crates in use.
use float8::F8E4M3;
use half::bf16;
use oracles::codec::{E4M3_NAN, decode_bf16, decode_e4m3, encode_bf16, encode_e4m3};
use rayon::prelude::*;

/// The finite magnitudes in ascending order, which is that of their codes, in units of 2^-9.
fn magnitudes() -> Vec<u32> {
    (0..127)
        .map(|code| (code >> 3, code & 7))
        .map(|(e, f)| if e == 0 { f } else { (8 + f) << (e - 1) })
        .collect()
}

#[test]
fn decodes_every_e4m3() {
    for (code, units) in (0..).zip(magnitudes()) {
        let magnitude = units as f32 / 512.0;
        assert_eq!(decode_e4m3(code).to_bits(), magnitude.to_bits(), "code {code:#04x}");
        assert_eq!(decode_e4m3(code | 0x80).to_bits(), (-magnitude).to_bits(), "code {:#04x}", code | 0x80);
    }
    assert!(decode_e4m3(0x7f).is_nan() && decode_e4m3(0xff).is_nan());
    for code in 0..=255 {
        let (ours, theirs) = (decode_e4m3(code), F8E4M3::from_bits(code).to_f32());
        assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "code {code:#04x}");
    }
}

#[test]
fn rounds_to_e4m3_as_documented() {
    let cases: &[(f32, f32)] = &[
        (17.0, 16.0),
        (19.0, 20.0),
        (1.0 / 1024.0, 0.0),
        (1e-3, 1.0 / 512.0),
        (448.00003, 448.0),
        (464.0, 448.0),
        (464.00003, 448.0),
        (f32::MAX, 448.0),
        (f32::INFINITY, 448.0),
        (f32::MIN_POSITIVE, 0.0),
        (0.0, 0.0),
    ];
    for &(x, rounded) in cases {
        assert_eq!(decode_e4m3(encode_e4m3(x)).to_bits(), rounded.to_bits(), "{x}");
        assert_eq!(decode_e4m3(encode_e4m3(-x)).to_bits(), (-rounded).to_bits(), "-{x}");
    }
}

/// Calls `check` with every non-negative FP32 bit pattern, as ascending ranges in parallel.
fn for_ranges_of_magnitudes(check: impl Fn(std::ops::Range<u32>) + Sync) {
    const RANGE: u32 = 1 << 22;
    (0..(1 << 31) / RANGE).into_par_iter().for_each(|i| check(i * RANGE..(i + 1) * RANGE));
}

#[test]
fn encodes_every_f32_to_the_nearest_e4m3() {
    let magnitudes = magnitudes();
    // 2^-10 is half of the unit. At a midpoint the even one of two neighbouring codes wins.
    let midpoints: Vec<f32> = magnitudes.windows(2).map(|pair| (pair[0] + pair[1]) as f32 / 1024.0).collect();
    let beyond = |code: usize, x: f32| midpoints.get(code).is_some_and(|&m| x > m || x == m && code % 2 == 1);

    for_ranges_of_magnitudes(|range| {
        let mut nearest = 0;
        for bits in range {
            let x = f32::from_bits(bits);
            while beyond(nearest, x) {
                nearest += 1;
            }
            if x.is_nan() {
                assert_eq!((encode_e4m3(x), encode_e4m3(-x)), (E4M3_NAN, E4M3_NAN), "{bits:#010x}");
                assert!(F8E4M3::from_f32(x).is_nan());
            } else {
                let expected = (nearest as u8, nearest as u8 | 0x80);
                assert_eq!((encode_e4m3(x), encode_e4m3(-x)), expected, "{x:e} = {bits:#010x}");
                assert_eq!(F8E4M3::from_f32(x).to_bits(), expected.0, "float8 of {x:e} = {bits:#010x}");
            }
        }
    });
}

#[test]
fn decodes_every_bf16() {
    for bits in 0..=u16::MAX {
        let (ours, theirs) = (decode_bf16(bits), bf16::from_bits(bits).to_f32());
        if theirs.is_nan() {
            assert!(ours.is_nan(), "{bits:#06x}");
        } else {
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:#06x}");
            assert_eq!(encode_bf16(ours), bits);
        }
    }
}

#[test]
fn encodes_every_f32_to_the_nearest_bf16() {
    for_ranges_of_magnitudes(|range| {
        for bits in range {
            let x = f32::from_bits(bits);
            if x.is_nan() {
                assert!(decode_bf16(encode_bf16(x)).is_nan() && decode_bf16(encode_bf16(-x)).is_nan());
            } else {
                let nearest = bf16::from_f32(x).to_bits();
                assert_eq!((encode_bf16(x), encode_bf16(-x)), (nearest, nearest | 0x8000), "{bits:#010x}");
            }
        }
    });
}
