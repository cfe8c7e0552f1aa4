//! RMSNorm of hidden states, with the residual before it and the quantiser behind it in one pass over memory.
//!
//! * `h = x + residual`, rounded to BF16; it is what is normalised, and the new residual.
//! * `y = h * (1 / sqrt(mean(h^2) + eps)) * weight`, each operation in FP32, and rounded to BF16 as [`NormRounding`] says.
//! * E4M3 codes and scales of y are those of [`Quantize1x128`](crate::quant::Quantize1x128)'s rule.
//!
//! The order of the sum of squares depends on the length of a row alone (`docs/numerics.md`), so a row's bits do not depend
//! on the rows beside it, nor on whether the residual was added here or before.

use float8::F8E4M3;
use half::bf16;

use super::rule::QuantizeRule;
use super::scales::{MMajor, Scales1x128Mut, blocks, scales_1x128};
use crate::device::bindings::{NORM_ROUND_EACH_STEP, NORM_ROUND_ONCE, RmsNormParams};
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{
    Kernel, KernelRow, Launch, Layout, MAX_DIM, check_limit, check_multiple, check_not_negative,
};
use crate::setters::setters;
use crate::table::{self, quant};
use crate::tensor::{Matrix, MatrixMut, Vector};

const RMS_NORM: KernelRow<RmsNormParams> = KernelRow::of(quant::RMS_NORM);

/// When the result of a step is rounded to BF16. Both are in use, and models do not say which they were trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormRounding {
    /// Once, at the end, as vLLM, FlashInfer and TensorRT-LLM do: codes are those of FP32 values.
    Once,
    /// After the normalisation and after the weight, as Hugging Face's modules do: codes are those of the BF16 result.
    EachStep,
}

/// Shape of a norm.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RmsNormSpec {
    /// Any number, 0 included.
    pub rows: usize,
    /// Elements of a row: a multiple of 8, at most 16384.
    pub hidden: usize,
    /// Added to the mean of squares: positive and finite, or 0.
    pub eps: f32,
    /// When there is rounding.
    pub rounding: NormRounding,
    /// How a block becomes a scale and codes, where codes are written.
    pub rule: QuantizeRule,
}

impl RmsNormSpec {
    /// One rounding, codes by TileKernels' rule. There is no default of eps, because models differ in it: DeepSeek-V3 has 1e-6.
    pub const fn new(rows: usize, hidden: usize, eps: f32) -> Self {
        Self { rows, hidden, eps, rounding: NormRounding::Once, rule: QuantizeRule::TILE_KERNELS }
    }
}

setters!(RmsNormSpec { rounding: NormRounding, rule: QuantizeRule });

/// Operands of a norm. Addresses and pitches are multiples of 16 bytes.
#[derive(Debug)]
pub struct RmsNormArgs<'a> {
    /// `[rows, hidden]`.
    pub x: Matrix<'a, bf16>,
    /// `[rows, hidden]`: added to x; then it holds the sum.
    pub residual: Option<MatrixMut<'a, bf16>>,
    /// `[hidden]`.
    pub weight: Vector<'a, bf16>,
    /// What becomes of y.
    pub out: RmsNormOut<'a>,
}

/// What a norm writes.
#[derive(Debug)]
pub enum RmsNormOut<'a> {
    /// `[rows, hidden]`. A NaN makes all of its row NaN; an Inf becomes one, and the rest of the row 0. Nothing is reported.
    Bf16(MatrixMut<'a, bf16>),
    /// Codes and scales. What is not finite is reported, as the quantiser does.
    Fp8 {
        /// `[rows, hidden]`; address and pitch are multiples of 8 bytes.
        q: MatrixMut<'a, F8E4M3>,
        /// `[ceil(hidden/128), rows]`.
        sf: Scales1x128Mut<'a, MMajor>,
    },
}

/// A planned norm.
#[derive(Debug)]
pub struct RmsNorm {
    device: Device,
    kernel: Kernel<RmsNormParams>,
    spec: RmsNormSpec,
}

impl RmsNorm {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: RmsNormSpec) -> Result<Self> {
        check_multiple("hidden", spec.hidden, table::PIECE as usize)?;
        spec.rule.check()?;
        check_limit("hidden", spec.hidden as u64, quant::RMS_NORM_MAX_HIDDEN.into())?;
        check_limit("rows", spec.rows as u64, MAX_DIM)?;
        check_not_negative("eps", spec.eps)?;
        Ok(Self { device: device.clone(), kernel: RMS_NORM.load(device)?, spec })
    }

    /// Enqueues the norm. [`Device::poll_error`] tells of what is not finite, where codes are written.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: RmsNormArgs<'_>) -> Result<()> {
        let RmsNormSpec { rows, hidden, eps, rounding, rule } = self.spec;
        let of_rows = |axes| Layout::matrix(axes, [rows, hidden]).aligned(16);
        let weight = Layout::vector("weight [hidden]", hidden).aligned(16);

        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let x = launch.read(&args.x, of_rows("x [rows, hidden]"))?;
        let weight = launch.read(&args.weight, weight)?;
        let mut params = RmsNormParams {
            x: x.pointer,
            weight: weight.pointer,
            x_pitch: x.pitch(),
            hidden: hidden as u32,
            eps,
            rounding: match rounding {
                NormRounding::Once => NORM_ROUND_ONCE,
                NormRounding::EachStep => NORM_ROUND_EACH_STEP,
            },
            rule: rule.parameter(),
            error_words: launch.error_words(),
            ..Default::default()
        };
        if let Some(residual) = &mut args.residual {
            let residual = launch.write(residual, of_rows("residual [rows, hidden]"))?;
            (params.residual, params.residual_pitch) = (residual.pointer, residual.pitch());
        }
        match &mut args.out {
            RmsNormOut::Bf16(out) => {
                let out = launch.write(out, of_rows("out [rows, hidden]"))?;
                (params.out, params.out_pitch) = (out.pointer, out.pitch());
            }
            RmsNormOut::Fp8 { q, sf } => {
                let q = launch.write(q, Layout::matrix("q [rows, hidden]", [rows, hidden]).aligned(8))?;
                let sf = launch.write(sf, scales_1x128::<MMajor>(rows, blocks(hidden)).called("sf"))?;
                (params.q, params.q_pitch) = (q.pointer, q.pitch());
                (params.sf, params.sf_pitch) = (sf.pointer, sf.pitch());
            }
        }
        // A row of nothing has nothing to write.
        launch.run(if hidden == 0 { 0 } else { rows as u32 }, &params)
    }
}
