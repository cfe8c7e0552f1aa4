//! Checks of the quantisers and of the transposition of scales.

use std::marker::PhantomData;

use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize128x128, QuantizeSpec, RowMajor, ScaleFormat, ScaleLayout, Scales1x128,
    Scales1x128Mut, Scales128x128Mut, TransposeScales,
};
use deepseek_kernels::{Buffer, Device, Error, F8E4M3, Matrix, MatrixMut, bf16};
use oracles::quant::quantizer_rows;
use oracles::quant::{quantize_1x128, quantize_128x128};

use super::judge::{first_difference, same_codes};
use super::machine::{text, timed};
use super::report::{Checked, Row};
use super::runner::{Job, Outcome};
use super::shapes::Shape;
use crate::data::weights;
use crate::judge::Check;
use crate::quant::{UNWRITTEN_CODE, model};

/// Scales of A are laid out in rows of a multiple of 16 bytes, as TMA wants.
fn scale_pitch(m: usize) -> usize {
    m.next_multiple_of(4)
}

/// What is quantised, or transposed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One scale per 1x128, written `[k/128, rows]`.
    Rows(ScaleFormat),
    /// One scale per 1x128, written `[rows, k/128]`.
    RowsRowMajor(ScaleFormat),
    /// One scale per 128x128.
    Blocks(ScaleFormat),
    /// Scales `[rows, k/128]` to `[k/128, rows]`.
    Transpose,
}

/// One launch on a matrix `[rows, k]`.
pub struct QuantizeJob {
    pub kind: Kind,
    pub rows: usize,
    pub k: usize,
    pub seed: u64,
}

impl Job for QuantizeJob {
    fn label(&self) -> String {
        format!("{} {}", self.operation(), self.shape())
    }

    fn cost(&self) -> u128 {
        // The emulator takes about as long for an element as for this many products of a GEMM.
        16 * self.rows as u128 * self.k as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let (seconds, checks) =
            self.check(device).unwrap_or_else(|failure| (None, vec![Check::failed("run", failure)]));
        Outcome::Rows(vec![Row {
            operation: self.operation(),
            shape: self.shape().to_string(),
            instance: self.instance().to_owned(),
            data: self.data().to_owned(),
            checks,
            seconds,
            matrix: None,
        }])
    }
}

impl QuantizeJob {
    fn operation(&self) -> String {
        let name = |format| match format {
            ScaleFormat::Fp32 => "FP32",
            ScaleFormat::PowerOfTwo => "2^i",
        };
        match self.kind {
            Kind::Rows(format) => format!("quantise 1x128, {} [k/128, m]", name(format)),
            Kind::RowsRowMajor(format) => format!("quantise 1x128, {} [m, k/128]", name(format)),
            Kind::Blocks(format) => format!("quantise 128x128, {}", name(format)),
            Kind::Transpose => "transpose scales".to_owned(),
        }
    }

    fn instance(&self) -> &'static str {
        match self.kind {
            Kind::Rows(_) | Kind::RowsRowMajor(_) => "quantize_1x128",
            Kind::Blocks(_) => "quantize_128x128",
            Kind::Transpose => "transpose_scales",
        }
    }

    fn data(&self) -> &'static str {
        match self.kind {
            Kind::Rows(_) | Kind::RowsRowMajor(_) => "special",
            Kind::Blocks(_) => "weights",
            Kind::Transpose => "distinct",
        }
    }

    fn shape(&self) -> Shape {
        Shape { m: self.rows, n: None, k: self.k }
    }

    fn check(&self, device: &Device) -> Checked {
        let Self { rows: m, k, .. } = *self;
        match self.kind {
            Kind::Rows(format) => self.check_rows(device, format, ScaleSpace::<MMajor>::new(m, k), |sf| sf),
            Kind::RowsRowMajor(format) => {
                self.check_rows(device, format, ScaleSpace::<RowMajor>::new(m, k), |sf| transposed(&sf, m))
            }
            Kind::Blocks(format) => self.check_blocks(device, format),
            Kind::Transpose => self.check_transpose(device),
        }
    }

    /// `layout` turns the reference's `[k/128, m]` into the layout of `space`.
    fn check_rows<L: ScaleLayout>(
        &self,
        device: &Device,
        format: ScaleFormat,
        space: ScaleSpace<L>,
        layout: impl FnOnce(Vec<f32>) -> Vec<f32>,
    ) -> Checked {
        let Self { rows, k, seed, .. } = *self;
        let x = quantizer_rows(rows, k, seed);
        let got = quantize_rows(device, &x, (rows, k), format, &space)?;
        let reported = reported_nonfinite(device)?;
        let (q, sf) = got.to_vecs()?;
        let expected = quantize_1x128(&x, rows, k, k, model(format)).map_err(text)?;
        let checks = vec![
            same_codes("codes", (&q, &space.dense(&sf)), (&expected.q, &layout(expected.sf)), k),
            space.untouched(&sf),
            same_report(reported, expected.nonfinite),
        ];
        Ok((got.seconds, checks))
    }

    fn check_blocks(&self, device: &Device, format: ScaleFormat) -> Checked {
        let Self { rows, k, seed, .. } = *self;
        let x = weights(rows, k, seed);
        let got = quantize_blocks(device, &x, (rows, k), format)?;
        let reported = reported_nonfinite(device)?;
        let (q, sf) = got.to_vecs()?;
        let expected = quantize_128x128(&x, rows, k, k, model(format)).map_err(text)?;
        let codes = same_codes("codes", (&q, &sf), (&expected.q, &expected.sf), k);
        Ok((got.seconds, vec![codes, same_report(reported, expected.nonfinite)]))
    }

    fn check_transpose(&self, device: &Device) -> Checked {
        let Self { rows, k, .. } = *self;
        let sf: Vec<f32> = (0..rows * (k / 128)).map(|i| i as f32).collect();
        let plan = TransposeScales::plan(device, rows, k).map_err(text)?;
        let input = device.upload(&sf).map_err(text)?;
        let space = ScaleSpace::<MMajor>::new(rows, k);
        let mut output = device.upload(&space.sentinels()).map_err(text)?;
        let seconds = timed(device, |stream| {
            let sf = Scales1x128::<RowMajor>::new(&input, rows, k)?;
            plan.run(stream, sf, Scales1x128Mut::<MMajor>::with_pitch(&mut output, rows, k, space.pitch)?)
        })?;
        let got = output.to_vec().map_err(text)?;
        let failure = first_difference(&space.dense(&got), &transposed(&sf, k / 128));
        Ok((seconds, vec![Check::equal("scales", sf.len(), failure), space.untouched(&got)]))
    }
}

/// Memory for 1x128 scales in a layout: lines of `used` scales, `pitch` apart.
pub struct ScaleSpace<L> {
    lines: usize,
    used: usize,
    pitch: usize,
    layout: PhantomData<L>,
}

impl ScaleSpace<MMajor> {
    /// As the GEMM reads them: lines of a multiple of 16 bytes.
    pub fn new(m: usize, k: usize) -> Self {
        Self { lines: k / 128, used: m, pitch: scale_pitch(m), layout: PhantomData }
    }
}

impl ScaleSpace<RowMajor> {
    fn new(m: usize, k: usize) -> Self {
        Self { lines: m, used: k / 128, pitch: k / 128, layout: PhantomData }
    }
}

impl<L> ScaleSpace<L> {
    fn sentinels(&self) -> Vec<f32> {
        vec![f32::NAN; self.lines * self.pitch]
    }

    /// Without what lies between the lines.
    pub fn dense(&self, sf: &[f32]) -> Vec<f32> {
        sf.chunks_exact(self.pitch).flat_map(|line| &line[..self.used]).copied().collect()
    }

    fn untouched(&self, sf: &[f32]) -> Check {
        let gaps = || sf.chunks_exact(self.pitch).flat_map(|line| &line[self.used..]);
        let touched = gaps().position(|x| x.to_bits() != f32::NAN.to_bits());
        let failure = touched.map(|i| format!("gap {i} between the lines of scales was written"));
        Check::equal("gaps", gaps().count(), failure)
    }
}

/// A matrix that a device quantised.
pub struct OnDevice {
    pub q: Buffer<F8E4M3>,
    /// As the kernel wrote them.
    pub sf: Buffer<f32>,
    pub seconds: Option<f64>,
}

impl OnDevice {
    pub fn to_vecs(&self) -> Result<(Vec<F8E4M3>, Vec<f32>), String> {
        Ok((self.q.to_vec().map_err(text)?, self.sf.to_vec().map_err(text)?))
    }
}

/// Quantises `x` `[m, k]` with one scale per 1x128.
pub fn quantize_rows<L: ScaleLayout>(
    device: &Device,
    x: &[bf16],
    (m, k): (usize, usize),
    format: ScaleFormat,
    space: &ScaleSpace<L>,
) -> Result<OnDevice, String> {
    let plan = Quantize1x128::plan(device, QuantizeSpec { rows: m, k, format }).map_err(text)?;
    let x = device.upload(x).map_err(text)?;
    let mut q = device.upload(&vec![UNWRITTEN_CODE; m * k]).map_err(text)?;
    let mut sf = device.upload(&space.sentinels()).map_err(text)?;
    let seconds = timed(device, |stream| {
        let scales = Scales1x128Mut::<L>::with_pitch(&mut sf, m, k, space.pitch)?;
        plan.run(stream, Matrix::new(&x, m, k)?, MatrixMut::new(&mut q, m, k)?, scales)
    })?;
    Ok(OnDevice { q, sf, seconds })
}

/// Quantises `x` `[n, k]` with one scale per 128x128.
pub fn quantize_blocks(
    device: &Device,
    x: &[bf16],
    (n, k): (usize, usize),
    format: ScaleFormat,
) -> Result<OnDevice, String> {
    let plan = Quantize128x128::plan(device, QuantizeSpec { rows: n, k, format }).map_err(text)?;
    let x = device.upload(x).map_err(text)?;
    let mut q = device.upload(&vec![UNWRITTEN_CODE; n * k]).map_err(text)?;
    let mut sf = device.upload(&vec![f32::NAN; n.div_ceil(128) * (k / 128)]).map_err(text)?;
    let seconds = timed(device, |stream| {
        let scales = Scales128x128Mut::new(&mut sf, n, k)?;
        plan.run(stream, Matrix::new(&x, n, k)?, MatrixMut::new(&mut q, n, k)?, scales)
    })?;
    Ok(OnDevice { q, sf, seconds })
}

/// Whether a kernel told of Inf or NaN since the last call.
fn reported_nonfinite(device: &Device) -> Result<bool, String> {
    match device.poll_error() {
        Ok(()) => Ok(false),
        Err(Error::Data(faults)) if faults.nonfinite_input() => Ok(true),
        Err(error) => Err(error.to_string()),
    }
}

fn same_report(reported: bool, expected: bool) -> Check {
    let differs = reported != expected;
    let failure = format!("Inf or NaN in the input: {expected}, but the kernel reported {reported}");
    Check::equal("report", 1, differs.then_some(failure))
}

/// A row-major matrix of `columns` columns, transposed.
fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| matrix.iter().skip(column).step_by(columns)).copied().collect()
}
