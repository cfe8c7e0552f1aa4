//! The quantisers and the transposition of scales: byte for byte what the references give.

use check::devices::{devices, seeded};
use check::memory::{Guarded, Placement};
use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize128x128, QuantizeSpec, RowMajor, ScaleFormat, Scales1x128, Scales1x128Mut,
    Scales128x128Mut, TransposeScales,
};
use deepseek_kernels::{Device, Error, F8E4M3, bf16};
use oracles::quant::quantizer_rows;
use oracles::quant::{QuantizeScale, Quantized, quantize_1x128, quantize_128x128};
use proptest::prelude::*;

/// Bytes that neither quantiser writes here: an unwritten element is found.
const UNWRITTEN_CODE: F8E4M3 = F8E4M3::from_bits(0xff);
const UNWRITTEN_SCALE: f32 = f32::from_bits(0x7fc1_0001);
const POISON: bf16 = bf16::NAN;

fn model(format: ScaleFormat) -> QuantizeScale {
    match format {
        ScaleFormat::Fp32 => QuantizeScale::Fp32,
        ScaleFormat::PowerOfTwo => QuantizeScale::PowerOfTwo,
    }
}

/// The PTX manual promises a NaN for a NaN, not its sign: both codes count as one.
fn bits(codes: &[F8E4M3]) -> Vec<u8> {
    codes.iter().map(|c| if c.is_nan() { 0x7f } else { c.to_bits() }).collect()
}

fn scale_bits(scales: &[f32]) -> Vec<u32> {
    scales.iter().map(|s| s.to_bits()).collect()
}

fn check_fault(device: &Device, nonfinite: bool) {
    let device_error = device.poll_error();
    match device_error {
        Err(Error::Data(faults)) => {
            assert!(nonfinite && faults.nonfinite_input(), "{faults} without such input")
        }
        other => assert!(!nonfinite, "Inf or NaN went unreported: {other:?}"),
    }
    assert_eq!(device.poll_error(), Ok(()), "a fault is told once");
}

struct Case {
    rows: usize,
    k: usize,
    format: ScaleFormat,
    x: Placement,
    q: Placement,
    sf_gap: usize,
}

impl Case {
    fn tight(rows: usize, k: usize, format: ScaleFormat) -> Self {
        Self { rows, k, format, x: Placement::dense(k), q: Placement::dense(k), sf_gap: 0 }
    }

    fn spec(&self) -> QuantizeSpec {
        QuantizeSpec { rows: self.rows, k: self.k, format: self.format }
    }

    /// Quantises on the device with 1x128 scales in both layouts.
    fn check_1x128(&self, device: &Device, x: &[bf16]) {
        let expected = quantize_1x128(x, self.rows, self.k, self.k, model(self.format)).expect("reference");
        let k_blocks = self.k / 128;
        let plan = Quantize1x128::plan(device, self.spec()).expect("plan");
        let gx = Guarded::new(device, x, self.rows, self.k, self.x, POISON);

        let mut q = Guarded::unwritten(device, self.rows, self.k, self.q, UNWRITTEN_CODE);
        let place = Placement::dense(self.rows + self.sf_gap);
        let mut sf = Guarded::unwritten(device, k_blocks, self.rows, place, UNWRITTEN_SCALE);
        let view = Scales1x128Mut::<MMajor>::with_pitch(sf.slice_mut(), self.rows, self.k, place.pitch)
            .expect("view");
        plan.run(device.stream().expect("stream"), gx.matrix(), q.matrix_mut(), view)
            .unwrap_or_else(|e| panic!("{e}"));
        let codes = q.into_checked(|c| c.to_bits());
        self.compare(device, &expected, &codes, &sf.into_checked(f32::to_bits));

        let mut q = Guarded::unwritten(device, self.rows, self.k, self.q, UNWRITTEN_CODE);
        let place = Placement::dense(k_blocks + self.sf_gap);
        let mut sf = Guarded::unwritten(device, self.rows, k_blocks, place, UNWRITTEN_SCALE);
        let view = Scales1x128Mut::<RowMajor>::with_pitch(sf.slice_mut(), self.rows, self.k, place.pitch)
            .expect("view");
        plan.run(device.stream().expect("stream"), gx.matrix(), q.matrix_mut(), view)
            .unwrap_or_else(|e| panic!("{e}"));
        let row_major = sf.into_checked(f32::to_bits);
        let m_major: Vec<f32> = (0..k_blocks)
            .flat_map(|g| (0..self.rows).map(move |r| (r, g)))
            .map(|(r, g)| row_major[r * k_blocks + g])
            .collect();
        let codes = q.into_checked(|c| c.to_bits());
        self.compare(device, &expected, &codes, &m_major);
    }

    fn check_128x128(&self, device: &Device, x: &[bf16]) {
        let expected = quantize_128x128(x, self.rows, self.k, self.k, model(self.format)).expect("reference");
        let plan = Quantize128x128::plan(device, self.spec()).expect("plan");
        let gx = Guarded::new(device, x, self.rows, self.k, self.x, POISON);
        let mut q = Guarded::unwritten(device, self.rows, self.k, self.q, UNWRITTEN_CODE);
        let place = Placement::dense(self.k / 128 + self.sf_gap);
        let mut sf =
            Guarded::unwritten(device, self.rows.div_ceil(128), self.k / 128, place, UNWRITTEN_SCALE);
        let view =
            Scales128x128Mut::with_pitch(sf.slice_mut(), self.rows, self.k, place.pitch).expect("view");
        plan.run(device.stream().expect("stream"), gx.matrix(), q.matrix_mut(), view)
            .unwrap_or_else(|e| panic!("{e}"));
        let codes = q.into_checked(|c| c.to_bits());
        self.compare(device, &expected, &codes, &sf.into_checked(f32::to_bits));
    }

    fn compare(&self, device: &Device, expected: &Quantized, q: &[F8E4M3], sf: &[f32]) {
        assert_eq!(scale_bits(sf), scale_bits(&expected.sf), "scales of {}x{}", self.rows, self.k);
        let wrong = bits(q).into_iter().zip(bits(&expected.q)).position(|(got, expected)| got != expected);
        if let Some(index) = wrong {
            let (row, column) = (index / self.k, index % self.k);
            let (want, got) = (expected.q[index].to_bits(), q[index].to_bits());
            panic!(
                "q[{row}, {column}]: expected code {want:#04x}, got {got:#04x} ({}x{})",
                self.rows, self.k
            );
        }
        check_fault(device, expected.nonfinite);
    }
}

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

fn check_transpose(device: &Device, m: usize, k_blocks: usize, gap: usize) {
    let sf: Vec<f32> = (0..m * k_blocks).map(|i| i as f32).collect();
    let from = Placement { offset: gap, pitch: k_blocks + gap };
    let to = Placement { offset: gap, pitch: m + gap };
    let sf_in = Guarded::new(device, &sf, m, k_blocks, from, UNWRITTEN_SCALE);
    let mut out = Guarded::unwritten(device, k_blocks, m, to, UNWRITTEN_SCALE);
    let plan = TransposeScales::plan(device, m, 128 * k_blocks).expect("plan");
    let source =
        Scales1x128::<RowMajor>::with_pitch(sf_in.slice(), m, 128 * k_blocks, from.pitch).expect("view");
    let target =
        Scales1x128Mut::<MMajor>::with_pitch(out.slice_mut(), m, 128 * k_blocks, to.pitch).expect("view");
    plan.run(device.stream().expect("stream"), source, target).unwrap_or_else(|e| panic!("{e}"));
    for (index, value) in out.into_checked(f32::to_bits).into_iter().enumerate() {
        let (g, row) = (index / m, index % m);
        assert_eq!(value, sf[row * k_blocks + g], "out[{g}, {row}] of {m}x{k_blocks}");
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
