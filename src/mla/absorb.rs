//! MLA's up-projection, absorbed: queries go into the latent space of the cache, and what attention finds there comes back.

use std::ffi::CStr;

use half::bf16;

use super::cache::{LATENT, ROPE};
use crate::device::bindings::{HeadGemmParams, MLA_NOPE, MLA_VALUE, TensorMap};
use crate::device::{Device, KernelHandle, Stream};
use crate::error::Result;
use crate::launch::{Address, Launch, MAX_DIM, MAX_GRID, check_limit};
use crate::table::FixedKernel;
use crate::table::mla::{MLA_ABSORB_OUTPUT, MLA_ABSORB_QUERY};
use crate::tensor::Extent;
use crate::tensor::MapElement;
use crate::tensor::tensor_map::{Dimension, Swizzle, TensorMapSpec};
use crate::tensor::{Matrix, MatrixMut};

const NOPE: usize = MLA_NOPE as usize;
const VALUE: usize = MLA_VALUE as usize;

/// Tokens, and rows and columns of every TMA box: `kBox` in `cuda/mla/head_gemm.cuh`.
const BOX: usize = 64;
/// Columns of D per CTA.
const QUERY_BLOCK_N: usize = 256;
const OUTPUT_BLOCK_N: usize = 128;

/// Shape of the absorbed projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MlaAbsorbSpec {
    /// Any number, 0 included.
    pub tokens: usize,
    /// Any number, 0 included.
    pub heads: usize,
}

/// Operands of [`MlaAbsorb::run_query`]. Addresses and pitches are multiples of 16 bytes.
pub struct AbsorbQueryArgs<'a> {
    /// `[tokens, heads * 192]`: of each head 128 columns to absorb, and 64 rotated ones that are not read.
    pub q: Matrix<'a, bf16>,
    /// `[heads * 256, 512]`: of each head 128 rows for the keys and 128 for the values, as checkpoints hold `kv_b_proj`.
    pub w: Matrix<'a, bf16>,
    /// `[tokens * heads, 576]`: the first 512 columns are written, the last 64, for the rotated part, not touched.
    pub q_latent: MatrixMut<'a, bf16>,
}

/// Operands of [`MlaAbsorb::run_output`]. Addresses and pitches are multiples of 16 bytes.
pub struct AbsorbOutputArgs<'a> {
    /// `[tokens * heads, 512]`: what attention over the latents gave.
    pub latent: Matrix<'a, bf16>,
    /// As in [`AbsorbQueryArgs`].
    pub w: Matrix<'a, bf16>,
    /// `[tokens, heads * 128]`.
    pub out: MatrixMut<'a, bf16>,
}

/// The planned projections of a shape: `q_latent[t, h] = q[t, h] . W_k[h]` before attention, `out[t, h] = latent[t, h] .
/// W_v[h]^T` after it. In both the tensor core adds fused sums of 16 products in ascending order to one FP32 accumulator,
/// which is rounded to BF16 once: the bits of a row depend on that row and W only.
pub struct MlaAbsorb {
    device: Device,
    query: KernelHandle,
    output: KernelHandle,
    spec: MlaAbsorbSpec,
    query_grid: u32,
    output_grid: u32,
}

impl MlaAbsorb {
    /// Chooses the launches for a shape.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge).
    pub fn plan(device: &Device, spec: MlaAbsorbSpec) -> Result<Self> {
        let MlaAbsorbSpec { tokens, heads } = spec;
        check_limit("rows of w", heads.saturating_mul(NOPE + VALUE) as u64, MAX_DIM)?;
        check_limit("tokens * heads", tokens.saturating_mul(heads) as u64, MAX_DIM)?;
        check_limit("tokens", tokens as u64, MAX_DIM)?;
        let tiles = |n_tiles: usize| (tokens.div_ceil(BOX) * heads * n_tiles) as u64;
        let (query_grid, output_grid) = (tiles(LATENT / QUERY_BLOCK_N), tiles(VALUE / OUTPUT_BLOCK_N));
        check_limit("CTAs of the absorption", query_grid.max(output_grid), MAX_GRID)?;
        Ok(Self {
            device: device.clone(),
            query: device.kernel(MLA_ABSORB_QUERY.name)?,
            output: device.kernel(MLA_ABSORB_OUTPUT.name)?,
            spec,
            query_grid: query_grid as u32,
            output_grid: output_grid as u32,
        })
    }

    /// Enqueues the projection of the queries.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape), [`Error::Misaligned`](crate::Error::Misaligned),
    /// [`Error::WrongDevice`](crate::Error::WrongDevice), launch errors.
    pub fn run_query<'s>(&self, stream: impl Into<Stream<'s>>, args: AbsorbQueryArgs<'_>) -> Result<()> {
        let MlaAbsorbSpec { tokens, heads } = self.spec;
        let AbsorbQueryArgs { q, w, mut q_latent } = args;
        q.extent.expect("q [tokens, heads * 192]", tokens, heads * (NOPE + ROPE))?;
        q_latent.extent.expect("q_latent [tokens * heads, 576]", tokens * heads, LATENT + ROPE)?;
        let projection = Projection {
            kernel: &self.query,
            instance: MLA_ABSORB_QUERY,
            grid: self.query_grid,
            a: ByHead { name: c"q", columns: NOPE, pitches: [NOPE + ROPE, q.extent.pitch] },
            d: ByHead::of_rows(c"q_latent", LATENT, heads, &q_latent.extent),
        };
        self.run(&stream.into(), &projection, &q, &w, &mut q_latent)
    }

    /// Enqueues the projection of the attention's results.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// As [`MlaAbsorb::run_query`].
    pub fn run_output<'s>(&self, stream: impl Into<Stream<'s>>, args: AbsorbOutputArgs<'_>) -> Result<()> {
        let MlaAbsorbSpec { tokens, heads } = self.spec;
        let AbsorbOutputArgs { latent, w, mut out } = args;
        latent.extent.expect("latent [tokens * heads, 512]", tokens * heads, LATENT)?;
        out.extent.expect("out [tokens, heads * 128]", tokens, heads * VALUE)?;
        let projection = Projection {
            kernel: &self.output,
            instance: MLA_ABSORB_OUTPUT,
            grid: self.output_grid,
            a: ByHead::of_rows(c"latent", LATENT, heads, &latent.extent),
            d: ByHead { name: c"out", columns: VALUE, pitches: [VALUE, out.extent.pitch] },
        };
        self.run(&stream.into(), &projection, &latent, &w, &mut out)
    }

    fn run(
        &self,
        stream: &Stream<'_>,
        Projection { kernel, instance, grid, a, d }: &Projection<'_>,
        a_matrix: &Matrix<'_, bf16>,
        w_matrix: &Matrix<'_, bf16>,
        d_matrix: &mut MatrixMut<'_, bf16>,
    ) -> Result<()> {
        const ALIGN: u64 = 16;
        let MlaAbsorbSpec { tokens, heads } = self.spec;
        w_matrix.extent.expect("w [heads * 256, 512]", heads * (NOPE + VALUE), LATENT)?;
        let w_pitch = w_matrix.extent.pitch;
        let w =
            ByHead { name: c"w", columns: LATENT, pitches: [w_pitch, w_pitch.saturating_mul(NOPE + VALUE)] };
        for (by_head, extent) in [(a, &a_matrix.extent), (&w, &w_matrix.extent), (d, &d_matrix.extent)] {
            extent.expect_pitch(by_head.text(), size_of::<bf16>(), ALIGN)?;
        }
        let mut launch = Launch::new(&self.device, kernel, stream)?;
        let a_base = launch.read_aligned(a.name, &a_matrix.slice, ALIGN)?;
        let w_base = launch.read_aligned(w.name, &w_matrix.slice, ALIGN)?;
        let d_base = launch.write_aligned(d.name, &mut d_matrix.slice, ALIGN)?;
        if *grid == 0 {
            return Ok(());
        }
        let params = HeadGemmParams {
            map_a: a.map(&self.device, a_base, [(heads, 1), (tokens, BOX)])?,
            map_w: w.map(&self.device, w_base, [(NOPE + VALUE, BOX), (heads, 1)])?,
            map_d: d.map(&self.device, d_base, [(heads, 1), (tokens, BOX)])?,
            tokens: tokens as u32,
            ..Default::default()
        };
        launch.run(*grid, instance.threads, instance.smem_bytes, &params)
    }
}

/// What is launched, on which layouts.
struct Projection<'a> {
    kernel: &'a KernelHandle,
    instance: FixedKernel,
    grid: u32,
    a: ByHead,
    d: ByHead,
}

/// A matrix in three dimensions: the columns of a head, and two more with the elements from index to index.
struct ByHead {
    name: &'static CStr,
    columns: usize,
    pitches: [usize; 2],
}

impl ByHead {
    /// Rows that count heads, then tokens.
    fn of_rows(name: &'static CStr, columns: usize, heads: usize, extent: &Extent) -> Self {
        Self { name, columns, pitches: [extent.pitch, extent.pitch.saturating_mul(heads)] }
    }

    fn text(&self) -> &'static str {
        self.name.to_str().unwrap_or("operand")
    }

    /// `outer` has the sizes of the two dimensions, and those of the box. A pitch that is no multiple of the heads' stride gives
    /// a tensor map whose strides do not divide each other. What cuda.h says of strides may be read as forbidding it;
    /// driver 580.159 encodes it, and an H100 reads and writes the right bytes.
    fn map(&self, device: &Device, base: Address, outer: [(usize, usize); 2]) -> Result<TensorMap> {
        let element = MapElement::Bf16;
        let dimension = |i: usize| Dimension::every(self.pitches[i], outer[i].0, element, outer[i].1 as u32);
        device.encode(&TensorMapSpec {
            operand: self.text(),
            element,
            base,
            columns: self.columns as u64,
            box_columns: BOX as u32,
            outer: &[dimension(0), dimension(1)],
            swizzle: Swizzle::Span128,
        })
    }
}
