//! What the experts made of a token, added up.

use half::bf16;

use crate::device::bindings::CombineParams;
use crate::device::{Device, KernelHandle, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{Launch, MAX_DIM, MAX_GRID, check_limit, check_multiple};
use crate::table::moe::COMBINE;
use crate::tensor::Extent;
use crate::tensor::{Matrix, MatrixMut};

/// Shape of a combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CombineSpec {
    /// Rows of the result.
    pub tokens: usize,
    /// Routes of a token.
    pub top_k: usize,
    /// Columns: a multiple of 8.
    pub hidden: usize,
    /// Rows of y.
    pub rows: usize,
}

/// Operands of a combine. Addresses and pitches of y, shared, residual and out are multiples of 16 bytes;
/// `[tokens, top_k]` has no gaps.
pub struct CombineArgs<'a> {
    /// `[rows, hidden]`: what the experts computed.
    pub y: Matrix<'a, bf16>,
    /// `[tokens, top_k]`: the row of every route, -1 for none, as [`ExpertMap`](crate::moe::ExpertMap) gives it.
    pub route_row: Matrix<'a, i32>,
    /// `[tokens, top_k]`; None: all 1, because the rows were weighted before.
    pub weights: Option<Matrix<'a, f32>>,
    /// `[tokens, hidden]`: the output of the shared experts.
    pub shared: Option<Matrix<'a, bf16>>,
    /// `[tokens, hidden]`.
    pub residual: Option<Matrix<'a, bf16>>,
    /// `[tokens, hidden]`.
    pub out: MatrixMut<'a, bf16>,
}

/// A planned combine. In FP32 from +0: `sum = fma(weight, y, sum)` for k = 0, 1, ...; then `+ shared`; then
/// `+ residual`; then one rounding to BF16. Nothing else decides the bits of a token.
pub struct Combine {
    device: Device,
    kernel: KernelHandle,
    spec: CombineSpec,
    grid: u32,
}

/// Elements of 16 bytes.
const PIECE: usize = 8;

impl Combine {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] for hidden, [`Error::TooLarge`].
    pub fn plan(device: &Device, spec: CombineSpec) -> Result<Self> {
        check_multiple("hidden", spec.hidden, PIECE)?;
        check_limit("hidden", spec.hidden as u64, MAX_DIM)?;
        check_limit("rows", spec.rows as u64, MAX_DIM)?;
        check_limit("tokens", spec.tokens as u64, MAX_DIM)?;
        check_limit("tokens * top_k", spec.tokens.saturating_mul(spec.top_k) as u64, MAX_DIM)?;
        let pieces = spec.tokens as u64 * (spec.hidden / PIECE) as u64;
        let grid = pieces.div_ceil(COMBINE.threads.into());
        check_limit("CTAs of the combine", grid, MAX_GRID)?;
        Ok(Self { device: device.clone(), kernel: device.kernel(COMBINE.name)?, spec, grid: grid as u32 })
    }

    /// Enqueues the combine. A route whose row does not exist adds nothing, and [`Device::poll_error`] tells of it.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotDense`], [`Error::Misaligned`], [`Error::WrongDevice`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: CombineArgs<'_>) -> Result<()> {
        self.check(&args)?;
        let CombineSpec { tokens, top_k, hidden, rows } = self.spec;
        let stream = stream.into();
        let mut launch = Launch::new(&self.device, &self.kernel, &stream)?;
        let mut params = CombineParams {
            y: launch.read_aligned(c"y", &args.y.slice, 16)?.cast(),
            route_row: launch.read(c"route_row", &args.route_row.slice)?.cast(),
            out: launch.write_aligned(c"out", &mut args.out.slice, 16)?.cast(),
            error_words: launch.error_words().cast(),
            y_pitch: args.y.extent.pitch as u64,
            out_pitch: args.out.extent.pitch as u64,
            tokens: tokens as u32,
            top_k: top_k as u32,
            rows: rows as u32,
            pieces: (hidden / PIECE) as u32,
            ..Default::default()
        };
        if let Some(weights) = &args.weights {
            params.weights = launch.read(c"weights", &weights.slice)?.cast();
        }
        if let Some(shared) = &args.shared {
            params.shared = launch.read_aligned(c"shared", &shared.slice, 16)?.cast();
            params.shared_pitch = shared.extent.pitch as u64;
        }
        if let Some(residual) = &args.residual {
            params.residual = launch.read_aligned(c"residual", &residual.slice, 16)?.cast();
            params.residual_pitch = residual.extent.pitch as u64;
        }
        launch.run(self.grid, COMBINE.threads, COMBINE.smem_bytes, &params)
    }

    fn check(&self, args: &CombineArgs<'_>) -> Result<()> {
        let CombineSpec { tokens, top_k, hidden, rows } = self.spec;
        let aligned = |name, extent: &Extent| extent.expect_pitch(name, size_of::<bf16>(), 16);
        args.y.extent.expect("y [rows, hidden]", rows, hidden)?;
        aligned("y", &args.y.extent)?;
        args.route_row.extent.expect("route_row [tokens, top_k]", tokens, top_k)?;
        args.route_row.extent.expect_dense("route_row")?;
        if let Some(weights) = &args.weights {
            weights.extent.expect("weights [tokens, top_k]", tokens, top_k)?;
            weights.extent.expect_dense("weights")?;
        }
        if let Some(shared) = &args.shared {
            shared.extent.expect("shared [tokens, hidden]", tokens, hidden)?;
            aligned("shared", &shared.extent)?;
        }
        if let Some(residual) = &args.residual {
            residual.extent.expect("residual [tokens, hidden]", tokens, hidden)?;
            aligned("residual", &residual.extent)?;
        }
        args.out.extent.expect("out [tokens, hidden]", tokens, hidden)?;
        aligned("out", &args.out.extent)
    }
}
