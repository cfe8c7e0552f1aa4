//! MLA's up-projection, absorbed: queries go into the latent space of the cache, and what attention finds there comes back.

use half::bf16;

use super::cache::{LATENT, ROPE};
use crate::device::bindings::{HeadGemmParams, TensorMap};
use crate::device::{Device, Stream, TensorMaps};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{
    Kernel, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, Operand, check_limit, check_multiple, check_range,
};
use crate::setters::setters;
use crate::table::PIECE;
use crate::table::mla::{
    self, ABSORB_OUTPUT_BLOCK_N, ABSORB_QUERY_BLOCK_N, HEAD_GEMM_BOX, MLA_NOPE, MLA_VALUE,
};
use crate::tensor::MapElement;
use crate::tensor::tensor_map::{Dimension, Swizzle, TensorMapSpec};
use crate::tensor::{Matrix, MatrixMut};

const QUERY: KernelRow<HeadGemmParams> = KernelRow::of(mla::MLA_ABSORB_QUERY);
const OUTPUT: KernelRow<HeadGemmParams> = KernelRow::of(mla::MLA_ABSORB_OUTPUT);

/// Tokens, and rows and columns of every TMA box.
const BOX: usize = HEAD_GEMM_BOX as usize;
/// Columns of D per CTA.
const QUERY_BLOCK_N: usize = ABSORB_QUERY_BLOCK_N as usize;
const OUTPUT_BLOCK_N: usize = ABSORB_OUTPUT_BLOCK_N as usize;

/// Shape of the absorbed projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MlaAbsorbSpec {
    /// Any number, 0 included.
    pub tokens: usize,
    /// Any number, 0 included.
    pub heads: usize,
    /// Columns of a head's query that are absorbed: a multiple of 64, at least one.
    pub nope: usize,
    /// Columns of a head's query behind them, which are rotated instead: a multiple of 8, 0 included.
    pub rope: usize,
    /// Columns of a head's result: a multiple of 8, at least one.
    pub value: usize,
}

impl MlaAbsorbSpec {
    /// Of heads as DeepSeek-V3 has them: 128 columns that are absorbed, 64 that are rotated, 128 of the value.
    pub const fn new(tokens: usize, heads: usize) -> Self {
        Self { tokens, heads, nope: MLA_NOPE as usize, rope: ROPE, value: MLA_VALUE as usize }
    }

    /// Rows of W for a head: for its keys, then for its values.
    const fn head_rows(&self) -> usize {
        self.nope + self.value
    }

    fn check(&self) -> Result<()> {
        check_range("nope", self.nope, MAX_DIM)?;
        check_multiple("nope", self.nope, BOX)?;
        check_limit("rope", self.rope as u64, MAX_DIM)?;
        check_multiple("rope", self.rope, PIECE as usize)?;
        check_range("value", self.value, MAX_DIM)?;
        check_multiple("value", self.value, PIECE as usize)?;
        let Self { tokens, heads, nope, rope, .. } = *self;
        check_limit("rows of w", heads.saturating_mul(self.head_rows()) as u64, MAX_DIM)?;
        check_limit("columns of q", heads.saturating_mul(nope + rope) as u64, MAX_DIM)?;
        check_limit("tokens * heads", tokens.saturating_mul(heads) as u64, MAX_DIM)?;
        check_limit("tokens", tokens as u64, MAX_DIM)
    }
}

setters!(MlaAbsorbSpec { nope: usize, rope: usize, value: usize });

/// Operands of [`MlaAbsorb::run_query`]. Addresses and pitches are multiples of 16 bytes.
#[derive(Debug)]
pub struct MlaAbsorbQueryArgs<'a> {
    /// `[tokens, heads * (nope + rope)]`: of each head columns to absorb, and rotated ones that are not read.
    pub q: Matrix<'a, bf16>,
    /// `[heads * (nope + value), 512]`: of each head rows for the keys, then for the values, as checkpoints hold `kv_b_proj`.
    pub w: Matrix<'a, bf16>,
    /// `[tokens * heads, 512 + rope]`: the first 512 columns are written, those for the rotated part are not touched.
    pub q_latent: MatrixMut<'a, bf16>,
}

/// Operands of [`MlaAbsorb::run_output`]. Addresses and pitches are multiples of 16 bytes.
#[derive(Debug)]
pub struct MlaAbsorbOutputArgs<'a> {
    /// `[tokens * heads, 512]`: what attention over the latents gave.
    pub latent: Matrix<'a, bf16>,
    /// As in [`MlaAbsorbQueryArgs`].
    pub w: Matrix<'a, bf16>,
    /// `[tokens, heads * value]`.
    pub out: MatrixMut<'a, bf16>,
}

/// The planned projections of a shape: `q_latent[t, h] = q[t, h] . W_k[h]` before attention, `out[t, h] = latent[t, h] .
/// W_v[h]^T` after it. In both the tensor core adds fused sums of 16 products in ascending order to one FP32 accumulator,
/// which is rounded to BF16 once: the bits of a row depend on that row and W only.
#[derive(Debug)]
pub struct MlaAbsorb {
    device: Device,
    maps: TensorMaps,
    query: Kernel<HeadGemmParams>,
    output: Kernel<HeadGemmParams>,
    spec: MlaAbsorbSpec,
    query_grid: u32,
    output_grid: u32,
}

impl MlaAbsorb {
    /// Chooses the launches for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: MlaAbsorbSpec) -> Result<Self> {
        spec.check()?;
        let MlaAbsorbSpec { tokens, heads, value, .. } = spec;
        let tiles = |n_tiles: usize| (tokens.div_ceil(BOX) * heads).saturating_mul(n_tiles) as u64;
        let (query_grid, output_grid) =
            (tiles(LATENT / QUERY_BLOCK_N), tiles(value.div_ceil(OUTPUT_BLOCK_N)));
        check_limit("CTAs of the absorption", query_grid.max(output_grid), MAX_GRID)?;
        Ok(Self {
            device: device.clone(),
            maps: TensorMaps::new(device),
            query: QUERY.load(device)?,
            output: OUTPUT.load(device)?,
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
    /// [`Error::Operand`], launch errors.
    pub fn run_query<'s>(&self, stream: impl Into<Stream<'s>>, args: MlaAbsorbQueryArgs<'_>) -> Result<()> {
        let MlaAbsorbSpec { tokens, heads, nope, rope, .. } = self.spec;
        let MlaAbsorbQueryArgs { q, w, mut q_latent } = args;
        let columns = heads * (nope + rope);
        let projection = Projection {
            kernel: &self.query,
            grid: self.query_grid,
            a: Layout::matrix("q [tokens, heads * (nope + rope)]", [tokens, columns]),
            a_heads: Heads { columns: nope, apart: Some(nope + rope) },
            d: Layout::matrix("q_latent [tokens * heads, 512 + rope]", [tokens * heads, LATENT + rope]),
            d_heads: Heads { columns: LATENT, apart: None },
            first_row: 0,
        };
        self.run(stream.into(), projection, &q, &w, &mut q_latent)
    }

    /// Enqueues the projection of the attention's results.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// As [`MlaAbsorb::run_query`].
    pub fn run_output<'s>(&self, stream: impl Into<Stream<'s>>, args: MlaAbsorbOutputArgs<'_>) -> Result<()> {
        let MlaAbsorbSpec { tokens, heads, nope, value, .. } = self.spec;
        let MlaAbsorbOutputArgs { latent, w, mut out } = args;
        let projection = Projection {
            kernel: &self.output,
            grid: self.output_grid,
            a: Layout::matrix("latent [tokens * heads, 512]", [tokens * heads, LATENT]),
            a_heads: Heads { columns: LATENT, apart: None },
            d: Layout::matrix("out [tokens, heads * value]", [tokens, heads.saturating_mul(value)]),
            d_heads: Heads { columns: value, apart: Some(value) },
            first_row: nope,
        };
        self.run(stream.into(), projection, &latent, &w, &mut out)
    }

    fn run(
        &self,
        stream: Stream<'_>,
        Projection { kernel, grid, a, a_heads, d, d_heads, first_row }: Projection<'_>,
        a_matrix: &Matrix<'_, bf16>,
        w_matrix: &Matrix<'_, bf16>,
        d_matrix: &mut MatrixMut<'_, bf16>,
    ) -> Result<()> {
        const ALIGN: u64 = 16;
        let (MlaAbsorbSpec { tokens, heads, .. }, head_rows) = (self.spec, self.spec.head_rows());
        let w = Layout::matrix("w [heads * (nope + value), 512]", [heads * head_rows, LATENT]);
        let mut launch = Launch::new(&self.device, kernel, stream)?;
        let a = launch.read(a_matrix, a.aligned(ALIGN))?;
        let w = launch.read(w_matrix, w.aligned(ALIGN))?;
        let d = launch.write(d_matrix, d.aligned(ALIGN))?.cast_const();
        if grid == 0 {
            return Ok(());
        }
        let by_head = |operand: &Operand<*const u16>, Heads { columns, apart }: Heads| {
            let pitch = operand.extent.pitch;
            let pitches = apart.map_or([pitch, pitch.saturating_mul(heads)], |apart| [apart, pitch]);
            self.map(operand, columns, pitches, [(heads, 1), (tokens, BOX)])
        };
        let w_pitches = [w.extent.pitch, w.extent.pitch.saturating_mul(head_rows)];
        let params = HeadGemmParams {
            map_a: by_head(&a, a_heads)?,
            map_w: self.map(&w, LATENT, w_pitches, [(head_rows, BOX), (heads, 1)])?,
            map_d: by_head(&d, d_heads)?,
            tokens: tokens as u32,
            k: a_heads.columns as u32,
            n: d_heads.columns as u32,
            first_row: first_row as u32,
            ..Default::default()
        };
        launch.run(grid, &params)
    }

    /// An operand in three dimensions: `columns`, and two more with the elements from index to index, their sizes and those
    /// of the box. A pitch that is no multiple of the heads' stride gives a tensor map whose strides do not divide each
    /// other. What cuda.h says of strides may be read as forbidding it; driver 580.159 encodes it, and an H100 reads and
    /// writes the right bytes.
    fn map(
        &self,
        operand: &Operand<*const u16>,
        columns: usize,
        pitches: [usize; 2],
        outer: [(usize, usize); 2],
    ) -> Result<TensorMap> {
        let element = MapElement::Bf16;
        let dimension = |i: usize| Dimension::every(pitches[i], outer[i].0, element, outer[i].1 as u32);
        self.maps.encode(&TensorMapSpec {
            operand: operand.name,
            element,
            base: operand.pointer.cast(),
            columns: columns as u64,
            box_columns: BOX as u32,
            outer: &[dimension(0), dimension(1)],
            swizzle: Swizzle::Span128,
        })
    }
}

/// What is launched, on which layouts.
struct Projection<'a> {
    kernel: &'a Kernel<HeadGemmParams>,
    grid: u32,
    a: Layout,
    a_heads: Heads,
    d: Layout,
    d_heads: Heads,
    /// Of a head in W.
    first_row: usize,
}

/// How the heads lie in a matrix of `[tokens, heads]`.
#[derive(Clone, Copy)]
struct Heads {
    /// Of a head, as far as they are used.
    columns: usize,
    /// Elements from one to the next in a token's row; none where each has a row of its own.
    apart: Option<usize>,
}
