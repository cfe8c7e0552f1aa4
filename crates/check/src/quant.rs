//! The quantisers and the transposition of scales on operands in poisoned memory: byte for byte as the references.

use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize128x128, QuantizeSpec, RowMajor, ScaleFormat, Scales1x128, Scales1x128Mut,
    Scales128x128Mut, TransposeScales,
};
use deepseek_kernels::{Device, Error, F8E4M3, Matrix, MatrixMut, Result, SliceMut, bf16};
use oracles::quant::{QuantizeScale, Quantized, quantize_1x128, quantize_128x128};

use crate::guarded::{Guarded, Placement};

/// A code that few elements have, and no NaN, of which any is accepted for any: an unwritten element is found.
pub const UNWRITTEN_CODE: F8E4M3 = F8E4M3::from_bits(0x01);
/// A scale that none is.
pub const UNWRITTEN_SCALE: f32 = f32::from_bits(0x7fc1_0001);
const POISON: bf16 = bf16::NAN;

/// The same scale for the references.
pub fn model(format: ScaleFormat) -> QuantizeScale {
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
    match device.poll_error() {
        Err(Error::Data(faults)) => {
            assert!(nonfinite && faults.nonfinite_input(), "{faults} without such input")
        }
        other => assert!(!nonfinite, "Inf or NaN went unreported: {other:?}"),
    }
    assert_eq!(device.poll_error(), Ok(()), "a fault is told once");
}

/// A matrix to quantise, and how it and the results lie in memory.
pub struct Case {
    pub rows: usize,
    pub k: usize,
    pub format: ScaleFormat,
    pub x: Placement,
    pub q: Placement,
    pub sf_gap: usize,
}

impl Case {
    pub fn tight(rows: usize, k: usize, format: ScaleFormat) -> Self {
        Self { rows, k, format, x: Placement::dense(k), q: Placement::dense(k), sf_gap: 0 }
    }

    fn spec(&self) -> QuantizeSpec {
        QuantizeSpec { rows: self.rows, k: self.k, format: self.format }
    }

    /// Quantises on the device with 1x128 scales in both layouts.
    pub fn check_1x128(&self, device: &Device, x: &[bf16]) {
        let expected = quantize_1x128(x, self.rows, self.k, self.k, model(self.format)).expect("reference");
        let (rows, k, k_blocks) = (self.rows, self.k, self.k / 128);
        let plan = Quantize1x128::plan(device, self.spec()).expect("plan");

        let (q, m_major) = self.run(device, x, (k_blocks, rows), |x, q, sf, pitch| {
            let sf = Scales1x128Mut::<MMajor>::with_pitch(sf, rows, k, pitch).expect("view");
            plan.run(device.stream().expect("stream"), x, q, sf)
        });
        self.compare(device, &expected, &q, &m_major);

        let (q, row_major) = self.run(device, x, (rows, k_blocks), |x, q, sf, pitch| {
            let sf = Scales1x128Mut::<RowMajor>::with_pitch(sf, rows, k, pitch).expect("view");
            plan.run(device.stream().expect("stream"), x, q, sf)
        });
        let transposed = (0..k_blocks * rows).map(|i| row_major[i % rows * k_blocks + i / rows]);
        self.compare(device, &expected, &q, &transposed.collect::<Vec<f32>>());
    }

    /// Quantises on the device with 128x128 scales.
    pub fn check_128x128(&self, device: &Device, x: &[bf16]) {
        let expected = quantize_128x128(x, self.rows, self.k, self.k, model(self.format)).expect("reference");
        let plan = Quantize128x128::plan(device, self.spec()).expect("plan");
        let blocks = (self.rows.div_ceil(128), self.k / 128);
        let (q, sf) = self.run(device, x, blocks, |x, q, sf, pitch| {
            let sf = Scales128x128Mut::with_pitch(sf, self.rows, self.k, pitch).expect("view");
            plan.run(device.stream().expect("stream"), x, q, sf)
        });
        self.compare(device, &expected, &q, &sf);
    }

    /// Codes and scales `[scales.0, scales.1]` that `quantize` leaves in guarded memory; it is given x, q, and the scales with
    /// their pitch.
    fn run(
        &self,
        device: &Device,
        x: &[bf16],
        scales: (usize, usize),
        quantize: impl FnOnce(Matrix<bf16>, MatrixMut<F8E4M3>, SliceMut<f32>, usize) -> Result<()>,
    ) -> (Vec<F8E4M3>, Vec<f32>) {
        let x = Guarded::new(device, x, self.rows, self.k, self.x, POISON);
        let mut q = Guarded::unwritten(device, self.rows, self.k, self.q, UNWRITTEN_CODE);
        let place = Placement::dense(scales.1 + self.sf_gap);
        let mut sf = Guarded::unwritten(device, scales.0, scales.1, place, UNWRITTEN_SCALE);
        quantize(x.matrix(), q.matrix_mut(), sf.slice_mut(), place.pitch).unwrap_or_else(|e| panic!("{e}"));
        (q.into_checked(|c| c.to_bits()), sf.into_checked(f32::to_bits))
    }

    fn compare(&self, device: &Device, expected: &Quantized, q: &[F8E4M3], sf: &[f32]) {
        assert_eq!(scale_bits(sf), scale_bits(&expected.sf), "wrong scales of {}x{}", self.rows, self.k);
        let wrong = bits(q).into_iter().zip(bits(&expected.q)).position(|(got, expected)| got != expected);
        if let Some(index) = wrong {
            let (row, column) = (index / self.k, index % self.k);
            let (want, got) = (expected.q[index].to_bits(), q[index].to_bits());
            panic!(
                "wrong codes: q[{row}, {column}]: expected code {want:#04x}, got {got:#04x} ({}x{})",
                self.rows, self.k
            );
        }
        check_fault(device, expected.nonfinite);
    }
}

/// Transposes `[m, k_blocks]`; every row is followed by a gap.
pub fn check_transpose(device: &Device, m: usize, k_blocks: usize, gap: usize) {
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
        assert_eq!(value, sf[row * k_blocks + g], "wrong scales: out[{g}, {row}] of {m}x{k_blocks}");
    }
}
