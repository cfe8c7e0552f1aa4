//! Attention of a prefill: queries, keys and values with heads of their own, as wide as DeepSeek-V3's or GLM-5's.
//!
//! `out[t, h] = sum over keys s of p[t, h, s] * v[s, h]`, `p` the softmax over s of `softmax_scale * q[t, h] . k[s, h]`, over
//! the keys of t's own sequence. Sequences are packed: their rows follow each other, and offsets on the device say where.
//!
//! What decides the bits of a row is its own sequence alone: keys are taken in blocks from its first one on, of 128 with
//! DeepSeek-V3's heads, of 64 with GLM-5's. Neither the rest of the batch nor where a row lies in it nor the GPU's size do.

use super::cache::ROPE;
use super::decode::{EmptyLse, MAX_HEADS};
use super::heads::{Heads, HeadsMut};
use super::lse::LseOrder;
use crate::device::bindings::{MlaPrefillParams, TensorMap};
use crate::device::{Device, Stream, TensorMaps};
use crate::error::{Error, Result};
use crate::launch::{
    Kernel, Launch, Layout, MAX_DIM, MAX_GRID, Operand, check_factor, check_limit, check_range,
};
use crate::setters::setters;
use crate::table::mla::{
    MLA_NOPE, MLA_PREFILL_BLOCK_ROWS, MLA_PREFILL_INSTANCES, MLA_TILE_COLUMNS, MLA_VALUE, MlaPrefillInstance,
};
use crate::tensor::tensor_map::{Dimension, Swizzle, TensorMapSpec};
use crate::tensor::{Indices, MapElement, MatrixMut};

/// Shape of a prefill.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MlaPrefillSpec {
    /// Sequences: any number, 0 included.
    pub batch: usize,
    /// Rows of q: the query tokens of all sequences, or more. Rows behind the last sequence are not touched. Any number, 0
    /// included.
    pub tokens: usize,
    /// Rows of keys and values: those of all sequences, or more. Any number, 0 included.
    pub keys: usize,
    /// Heads of queries, keys and values alike: 1 to 128.
    pub heads: usize,
    /// Columns of a head's query, and of its key, in front of the 64 rotated ones: 128, or 192 where [`value`](Self::value)
    /// is 256.
    pub nope: usize,
    /// Columns of a head's value: 128, or 256 where [`nope`](Self::nope) is 192.
    pub value: usize,
    /// What scores are multiplied with: positive, at most 65536. There is no default, because the width of a key is not
    /// what models divide by: DeepSeek-V3 has 0.1352337788608801.
    pub softmax_scale: f32,
    /// Query token t of n sees all keys of its sequence but the last `n - 1 - t`. The default.
    pub causal: bool,
    /// How lse lies.
    pub lse_order: LseOrder,
    /// What the LSE of a row without keys is. Its output is 0 either way.
    pub empty_lse: EmptyLse,
}

impl MlaPrefillSpec {
    /// Of heads as DeepSeek-V3 has them, causal.
    pub const fn new(batch: usize, tokens: usize, keys: usize, heads: usize, softmax_scale: f32) -> Self {
        Self {
            batch,
            tokens,
            keys,
            heads,
            nope: MLA_NOPE as usize,
            value: MLA_VALUE as usize,
            softmax_scale,
            causal: true,
            lse_order: LseOrder::TokensHeads,
            empty_lse: EmptyLse::NegativeInfinity,
        }
    }

    /// Tiles of queries that sequences of so many tokens have at most, whatever their lengths: each that has any has one that
    /// is not full. One, if there are no tokens: somebody must look at the offsets.
    fn tiles(&self) -> usize {
        if self.batch == 0 {
            return 0;
        }
        (self.tokens / MLA_PREFILL_BLOCK_ROWS as usize).saturating_add(self.batch.min(self.tokens)).max(1)
    }

    /// The kernel that was compiled for these heads.
    fn instance(&self) -> Result<&'static MlaPrefillInstance> {
        const EXPECTED: &str = "128 and 128, as DeepSeek-V3 has them, or 192 and 256, as GLM-5 (narrower heads: fill up with zeros)";
        let Self { nope, value, .. } = *self;
        let fits = |it: &&MlaPrefillInstance| (it.nope as usize, it.value as usize) == (nope, value);
        let instance = MLA_PREFILL_INSTANCES.iter().find(fits);
        instance.ok_or_else(|| Error::out_of_range("nope and value", EXPECTED, format!("{nope} and {value}")))
    }

    fn check(&self) -> Result<()> {
        check_range("heads", self.heads, MAX_HEADS as u64)?;
        check_factor("softmax_scale", self.softmax_scale)?;
        check_limit("batch", self.batch as u64, MAX_DIM)?;
        check_limit("tokens", self.tokens as u64, MAX_DIM)?;
        check_limit("keys", self.keys as u64, MAX_DIM)?;
        self.lse_order.check(self.tokens)?;
        check_limit("tiles of queries", self.tiles().saturating_mul(self.heads) as u64, MAX_GRID)
    }
}

setters!(MlaPrefillSpec {
    nope: usize,
    value: usize,
    causal: bool,
    lse_order: LseOrder,
    empty_lse: EmptyLse
});

/// Operands of a prefill. Addresses and strides of all but lse and the offsets are multiples of 16 bytes.
#[derive(Debug)]
pub struct MlaPrefillArgs<'a> {
    /// `[tokens, heads, nope + 64]`: the rotated columns are the last ones.
    pub q: Heads<'a>,
    /// `[keys, heads, nope]`: the first columns of a key.
    pub k_nope: Heads<'a>,
    /// `[keys, 1, 64]`: the rotated columns of a key, which all heads share; or `[keys, heads, 64]`, such as the last columns
    /// of keys that lie together.
    pub k_pe: Heads<'a>,
    /// `[keys, heads, value]`.
    pub v: Heads<'a>,
    /// On the device: `[batch + 1]`, the row of each sequence's first query token, and the row behind the last one. What is
    /// less than one before counts as that, more than there are rows as all of them, and [`Device::poll_error`] tells of
    /// it.
    pub q_offsets: Indices<'a>,
    /// The same of keys.
    pub k_offsets: Indices<'a>,
    /// `[tokens, heads, value]`.
    pub out: HeadsMut<'a>,
    /// `[tokens, heads]`, or in another order: the natural logarithm of the sum of `e^score`.
    pub lse: MatrixMut<'a, f32>,
}

/// A planned prefill: one launch, which neither waits for the host nor allocates, and whose grid does not depend on what the
/// offsets are.
#[derive(Debug)]
pub struct MlaPrefill {
    device: Device,
    maps: TensorMaps,
    kernel: Kernel<MlaPrefillParams>,
    instance: MlaPrefillInstance,
    spec: MlaPrefillSpec,
}

impl MlaPrefill {
    /// Chooses the launch for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: MlaPrefillSpec) -> Result<Self> {
        spec.check()?;
        let instance = *spec.instance()?;
        let (maps, kernel) = (TensorMaps::new(device), Kernel::load(device, &instance)?);
        Ok(Self { device: device.clone(), maps, kernel, instance, spec })
    }

    /// The shape it was planned for.
    pub fn spec(&self) -> &MlaPrefillSpec {
        &self.spec
    }

    /// Enqueues the attention.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`]; then nothing was launched. Launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: MlaPrefillArgs<'_>) -> Result<()> {
        const ALIGN: u64 = 16;
        let MlaPrefillSpec { batch, tokens, keys, heads, nope, value, lse_order, .. } = self.spec;
        let block_keys = self.instance.block_keys;
        let k_pe_heads = if args.k_pe.heads() == 1 { 1 } else { heads };
        let of_keys = |columns| [keys, heads, columns];

        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let q = args.q.read(&mut launch, "q", "[tokens, heads]", [tokens, heads, nope + ROPE], ALIGN)?;
        let k_nope = args.k_nope.read(&mut launch, "k_nope", "[keys, heads]", of_keys(nope), ALIGN)?;
        let k_pe = [keys, k_pe_heads, ROPE];
        let k_pe = args.k_pe.read(&mut launch, "k_pe", "[keys, 1 or heads]", k_pe, ALIGN)?;
        let v = args.v.read(&mut launch, "v", "[keys, heads]", of_keys(value), ALIGN)?;
        let q_offsets = Layout::vector("q_offsets [batch + 1]", batch.saturating_add(1));
        let q_offsets = launch.indices(&args.q_offsets, q_offsets)?;
        let k_offsets = Layout::vector("k_offsets [batch + 1]", batch.saturating_add(1));
        let k_offsets = launch.indices(&args.k_offsets, k_offsets)?;
        let out = [tokens, heads, value];
        let (out, out_head_stride) = args.out.write(&mut launch, "out", "[tokens, heads]", out, ALIGN)?;
        let lse = launch.write(&mut args.lse, lse_order.layout(tokens, heads))?;
        let params = MlaPrefillParams {
            map_q: self.map(q, nope + ROPE, heads, MLA_PREFILL_BLOCK_ROWS)?,
            map_k_nope: self.map(k_nope, nope, heads, block_keys)?,
            map_k_pe: self.map(k_pe, ROPE, k_pe_heads, block_keys)?,
            map_v: self.map(v, value, heads, block_keys)?,
            q_offsets,
            k_offsets,
            out: out.pointer,
            lse: lse.pointer,
            error_words: launch.error_words(),
            out_token_stride: out.pitch(),
            out_head_stride,
            lse_strides: lse_order.strides(&lse, heads),
            batch: batch as u32,
            tokens: tokens as u32,
            keys: keys as u32,
            heads: heads as u32,
            k_pe_heads: k_pe_heads as u32,
            tiles: self.spec.tiles() as u32,
            causal: u32::from(self.spec.causal),
            scale_log2: self.spec.softmax_scale * std::f32::consts::LOG2_E,
            empty_lse: self.spec.empty_lse.value(),
            ..Default::default()
        };
        launch.run((self.spec.tiles() * heads) as u32, &params)
    }

    /// Boxes of 64 columns of one head of `rows` tokens.
    fn map(
        &self,
        (operand, head_stride): (Operand<*const u16>, u64),
        columns: usize,
        heads: usize,
        rows: u32,
    ) -> Result<TensorMap> {
        let Operand { name, pointer, extent } = operand;
        if extent.rows == 0 {
            return Ok(TensorMap::default()); // without tokens nobody looks
        }
        let element = MapElement::Bf16;
        let of_heads = Dimension::every(head_stride as usize, heads, element, 1);
        self.maps.encode(&TensorMapSpec {
            operand: name,
            element,
            base: pointer.cast(),
            columns: columns as u64,
            box_columns: MLA_TILE_COLUMNS,
            outer: &[of_heads, Dimension::rows(&extent, element, rows)],
            swizzle: Swizzle::Span128,
        })
    }
}
