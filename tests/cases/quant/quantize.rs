//! The quantisers and the transposition of scales: byte for byte what the references give.

use check::devices::{devices, seeded};
use check::guarded::Placement;
use check::quant::{Case, check_transpose};
use deepseek_kernels::bf16;
use deepseek_kernels::quant::ScaleFormat;
use oracles::quant::quantizer_rows;
use proptest::prelude::*;

const FORMATS: [ScaleFormat; 2] = [ScaleFormat::Fp32, ScaleFormat::PowerOfTwo];

#[test]
fn special_blocks() {
    for device in devices() {
        for format in FORMATS {
            let case = Case::tight(300, 384, format);
            let x = quantizer_rows(case.rows, case.k, 1);
            case.check_1x128(&device, &x);
            case.check_128x128(&device, &x);
        }
    }
}

#[test]
fn finite_input_reports_nothing() {
    for device in devices() {
        let case = Case::tight(5, 256, ScaleFormat::Fp32);
        let x: Vec<bf16> = (0..5 * 256).map(|i| bf16::from_f32((i as f32 * 0.37).sin() * 20.0)).collect();
        case.check_1x128(&device, &x);
        case.check_128x128(&device, &x);
    }
}

/// All 2^16 BF16 values, each in a block whose scale is one, and each as the largest of its block.
#[test]
fn every_bf16_value() {
    for device in devices() {
        for format in FORMATS {
            let alone = Case::tight(512, 128, format);
            let x: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
            alone.check_1x128(&device, &x);
            let spread = Case::tight(128, 512, format);
            let x: Vec<bf16> = (0..=u16::MAX).map(|i| bf16::from_bits(i.reverse_bits())).collect();
            spread.check_1x128(&device, &x);
            spread.check_128x128(&device, &x);
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for (rows, k) in [(0, 128), (3, 0), (0, 0)] {
            let case = Case::tight(rows, k, ScaleFormat::Fp32);
            case.check_1x128(&device, &[]);
            case.check_128x128(&device, &[]);
        }
    }
}

#[test]
fn scales_are_transposed() {
    for device in devices() {
        for (m, k_blocks) in [(1, 1), (31, 33), (32, 32), (33, 31), (100, 56), (257, 3)] {
            check_transpose(&device, m, k_blocks, 0);
            check_transpose(&device, m, k_blocks, 5);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_and_pitch(
        rows in 1..150_usize, k_blocks in 1..4_usize, gaps in (0..3_usize, 0..3_usize, 0..3_usize), seed in any::<u64>(),
        power in any::<bool>(),
    ) {
        let k = 128 * k_blocks;
        let case = Case {
            rows,
            k,
            format: if power { ScaleFormat::PowerOfTwo } else { ScaleFormat::Fp32 },
            x: Placement { offset: 8 * gaps.0, pitch: k + 8 * gaps.1 },
            q: Placement { offset: 8 * gaps.1, pitch: k + 8 * gaps.2 },
            sf_gap: gaps.0,
        };
        let x = quantizer_rows(rows, k, seed);
        for device in seeded([seed]) {
            case.check_1x128(&device, &x);
            case.check_128x128(&device, &x);
        }
    }
}
