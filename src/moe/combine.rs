//! What the experts made of a token, added up.

use half::bf16;

use super::used_rows::check_routes;
use crate::device::bindings::CombineParams;
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{
    Kernel, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, check_limit, check_multiple, optional,
};
use crate::table::{self, moe};
use crate::tensor::{Matrix, MatrixMut};

const COMBINE: KernelRow<CombineParams> = KernelRow::of(moe::COMBINE);

/// Shape of a combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CombineSpec {
    /// Rows of the result: any number, 0 included.
    pub tokens: usize,
    /// Routes of a token: any number, 0 included.
    pub top_k: usize,
    /// Columns: a multiple of 8, 0 included.
    pub hidden: usize,
    /// Rows of y: any number, 0 included.
    pub rows: usize,
}

impl CombineSpec {
    /// A token's `top_k` rows among `rows`.
    pub const fn new(tokens: usize, top_k: usize, hidden: usize, rows: usize) -> Self {
        Self { tokens, top_k, hidden, rows }
    }
}

/// Operands of a combine. Addresses and pitches of y, shared, residual and out are multiples of 16 bytes.
#[derive(Debug)]
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
#[derive(Debug)]
pub struct Combine {
    device: Device,
    kernel: Kernel<CombineParams>,
    spec: CombineSpec,
    grid: u32,
}

/// Elements of 16 bytes.
const PIECE: usize = table::PIECE as usize;

impl Combine {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: CombineSpec) -> Result<Self> {
        check_multiple("hidden", spec.hidden, PIECE)?;
        check_limit("hidden", spec.hidden as u64, MAX_DIM)?;
        check_limit("rows", spec.rows as u64, MAX_DIM)?;
        check_routes(spec.tokens, spec.top_k)?;
        let pieces = spec.tokens as u64 * (spec.hidden / PIECE) as u64;
        let grid = pieces.div_ceil(COMBINE.threads().into());
        check_limit("CTAs of the combine", grid, MAX_GRID)?;
        Ok(Self { device: device.clone(), kernel: COMBINE.load(device)?, spec, grid: grid as u32 })
    }

    /// A launch that lacks its operands.
    pub(super) fn launch<'l>(&'l self, stream: Stream<'l>) -> Result<Launch<'l, CombineParams>> {
        Launch::new(&self.device, &self.kernel, stream)
    }

    /// Enqueues the combine. A route whose row does not exist adds nothing, and [`Device::poll_error`] tells of it.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: CombineArgs<'_>) -> Result<()> {
        let CombineSpec { tokens, top_k, hidden, rows } = self.spec;
        let of_tokens = |axes| Layout::matrix(axes, [tokens, hidden]).aligned(16);
        let of_routes = |axes| Layout::matrix(axes, [tokens, top_k]);
        let weights = of_routes("weights [tokens, top_k]");
        let shared = of_tokens("shared [tokens, hidden]");
        let residual = of_tokens("residual [tokens, hidden]");

        let mut launch = self.launch(stream.into())?;
        let y = launch.read(&args.y, Layout::matrix("y [rows, hidden]", [rows, hidden]).aligned(16))?;
        let route_row = launch.read(&args.route_row, of_routes("route_row [tokens, top_k]"))?;
        let weights = optional(args.weights.as_ref(), |view| launch.read(view, weights))?;
        let shared = optional(args.shared.as_ref(), |view| launch.read(view, shared))?;
        let residual = optional(args.residual.as_ref(), |view| launch.read(view, residual))?;
        let out = launch.write(&mut args.out, of_tokens("out [tokens, hidden]"))?;
        let params = CombineParams {
            y: y.pointer,
            route_row: route_row.pointer,
            weights: weights.pointer,
            shared: shared.pointer,
            residual: residual.pointer,
            out: out.pointer,
            error_words: launch.error_words(),
            y_pitch: y.pitch(),
            route_row_pitch: route_row.pitch(),
            weights_pitch: weights.pitch(),
            shared_pitch: shared.pitch(),
            residual_pitch: residual.pitch(),
            out_pitch: out.pitch(),
            tokens: tokens as u32,
            top_k: top_k as u32,
            rows: rows as u32,
            pieces: (hidden / PIECE) as u32,
        };
        launch.run(self.grid, &params)
    }
}
