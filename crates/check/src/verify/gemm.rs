//! Checks of the FP8 GEMM.

use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, OutputType};
use deepseek_kernels::quant::{Scales1x128, Scales128x128};
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, bf16};
use oracles::gemm::{Elements, Epilogue, Operands};
use oracles::gemm::{GemmClass, GemmInputs};

use super::judge::{Cell, judge, written};
use super::machine::{text, timed};
use super::report::{Check, Row};
use super::runner::{Job, Outcome};
use super::shapes::{Layer, Shape};

/// Scales of A are laid out in rows of a multiple of 16 bytes, as TMA wants.
pub fn scale_pitch(m: usize) -> usize {
    m.next_multiple_of(4)
}

/// Operands on a device; the scales of A have a pitch of [`scale_pitch`].
pub struct Loaded {
    pub a: Buffer<F8E4M3>,
    pub sfa: Buffer<f32>,
    pub b: Buffer<F8E4M3>,
    pub sfb: Buffer<f32>,
}

impl Loaded {
    fn new(device: &Device, inputs: &GemmInputs) -> Result<Self, deepseek_kernels::Error> {
        // What lies between the rows must not be read.
        let mut sfa = vec![f32::NAN; inputs.k / 128 * scale_pitch(inputs.m)];
        let padded = sfa.chunks_exact_mut(scale_pitch(inputs.m));
        for (padded, row) in padded.zip(inputs.sfa.chunks_exact(inputs.m)) {
            padded[..inputs.m].copy_from_slice(row);
        }
        Ok(Self {
            a: device.upload(&inputs.a)?,
            sfa: device.upload(&sfa)?,
            b: device.upload(&inputs.b)?,
            sfb: device.upload(&inputs.sfb)?,
        })
    }
}

/// A result, and how it came about.
pub struct Product<D> {
    pub d: Vec<D>,
    pub instance: String,
    pub seconds: Option<f64>,
}

/// Runs the GEMM once onto `initial`.
pub fn multiply<D: Cell>(
    device: &Device,
    loaded: &Loaded,
    spec: Fp8GemmSpec,
    initial: &[D],
) -> Result<Product<D>, String> {
    let Fp8GemmSpec { m, n, k, .. } = spec;
    let gemm = Fp8Gemm::<D>::plan(device, spec).map_err(text)?;
    let mut d = device.upload(initial).map_err(text)?;
    let seconds = timed(device, |stream| {
        let args = Fp8GemmArgs {
            a: Matrix::new(&loaded.a, m, k)?,
            sfa: Scales1x128::with_pitch(&loaded.sfa, m, k, scale_pitch(m))?,
            b: Matrix::new(&loaded.b, n, k)?,
            sfb: Scales128x128::new(&loaded.sfb, n, k)?,
            d: MatrixMut::new(&mut d, m, n)?,
        };
        gemm.run(stream, args)
    })?;
    Ok(Product { d: d.to_vec().map_err(text)?, instance: gemm.choice().instance.name(), seconds })
}

/// What the GEMM writes.
#[derive(Clone, Copy)]
pub struct Output {
    pub element: OutputType,
    pub accumulate: bool,
}

/// All that it can.
pub const OUTPUTS: [Output; 4] = [
    Output { element: OutputType::Bf16, accumulate: false },
    Output { element: OutputType::F32, accumulate: false },
    Output { element: OutputType::Bf16, accumulate: true },
    Output { element: OutputType::F32, accumulate: true },
];

/// The GEMM on one set of inputs.
pub struct GemmJob {
    pub class: GemmClass,
    pub m: usize,
    pub layer: Layer,
    pub outputs: Vec<Output>,
    pub seed: u64,
}

impl Job for GemmJob {
    fn label(&self) -> String {
        format!("FP8 GEMM {} ({})", self.shape(), self.class)
    }

    fn cost(&self) -> u128 {
        self.outputs.len() as u128 * self.m.max(64) as u128 * (self.layer.n * self.layer.k) as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let inputs = self.class.generate((self.m, self.layer.n, self.layer.k), self.seed).map_err(text);
        let row = |&output: &Output| {
            let checked = inputs.as_ref().map_err(Clone::clone).and_then(|inputs| match output.element {
                OutputType::Bf16 => self.check::<bf16>(device, inputs, output.accumulate),
                OutputType::F32 => self.check::<f32>(device, inputs, output.accumulate),
            });
            self.row(output, checked)
        };
        Outcome::Rows(self.outputs.iter().map(row).collect())
    }
}

struct Checked {
    instance: String,
    seconds: Option<f64>,
    checks: Vec<Check>,
}

impl GemmJob {
    fn shape(&self) -> Shape {
        Shape { m: self.m, n: Some(self.layer.n), k: self.layer.k }
    }

    fn check<D: Cell>(
        &self,
        device: &Device,
        inputs: &GemmInputs,
        accumulate: bool,
    ) -> Result<Checked, String> {
        let operands: Operands = inputs.operands().map_err(text)?;
        let (m, n, k) = operands.shape();
        let loaded = Loaded::new(device, inputs).map_err(text)?;
        let before = |row: usize, column: usize| ((row * 31 + column * 17) % 17) as f32 - 8.0;
        let initial: Vec<D> = if accumulate {
            (0..m * n).map(|i| D::narrow(before(i / n, i % n))).collect()
        } else {
            vec![D::SENTINEL; m * n]
        };

        let product = multiply::<D>(device, &loaded, Fp8GemmSpec { m, n, k, accumulate }, &initial)?;
        let got = |row: usize, column: usize| product.d[row * n + column].widen();
        let epilogue = Epilogue { output: D::REFERENCE, initial: accumulate.then_some(&before as &Elements) };
        let oracles = self.class.oracles().iter();
        let mut checks = vec![written(&product.d, n)];
        checks.extend(oracles.map(|&oracle| judge(oracle, &operands, &epilogue, &got, self.seed)));
        Ok(Checked { instance: product.instance, seconds: product.seconds, checks })
    }

    fn row(&self, output: Output, checked: Result<Checked, String>) -> Row {
        let checked = checked.unwrap_or_else(|failure| Checked {
            instance: String::new(),
            seconds: None,
            checks: vec![Check::failed("run", failure)],
        });
        let operator = if output.accumulate { "+=" } else { "=" };
        let element = match output.element {
            OutputType::Bf16 => "BF16",
            OutputType::F32 => "F32",
        };
        Row {
            operation: format!("FP8 GEMM, {element} D {operator}"),
            shape: self.shape().to_string(),
            instance: checked.instance,
            data: self.class.to_string(),
            checks: checked.checks,
            seconds: checked.seconds,
            matrix: None,
        }
    }
}
