//! Attention of a decode step over the latent cache (MLA).
//!
//! `out[row] = sum over keys t of p[row, t] * k[t, 0..512]`, `p` the softmax over t of `softmax_scale * q[row] . k[t]`.
//! A row is a head of a query token, `token * heads + head`: of each sequence `q_tokens`, or as many as offsets say.
//!
//! What decides the bits of a row is its own sequence, and `split_keys`: keys are taken in splits of that many, which are
//! added up in ascending order. Neither the batch nor the pages a sequence lies in nor the GPU's size do.

mod args;
#[cfg(test)]
mod predictions;
mod spec;

use std::fmt;

pub use args::{MlaAttendArgs, MlaDecodeArgs, MlaScheduleArgs, MlaSplits};
use spec::{BLOCK_KEYS, BLOCK_ROWS, MlaChoice, instances};
pub use spec::{DEFAULT_SPLIT_KEYS, EmptyLse, KvPaging, MAX_HEADS, MAX_Q_TOKENS, MlaDecodeSpec};

use super::cache::{CacheOperand, KvFormat, LATENT};
use crate::device::bindings::{
    MlaCombineParams, MlaDecodeParams, MlaPlanTables, MlaScheduleParams, TensorMap,
};
use crate::device::{Device, Stream, TensorMaps};
use crate::error::{Error, Result};
use crate::launch::{Kernel, KernelRow, Launch, Layout, Operand, check_given};
use crate::table::mla::{self, MLA_BLOCK_KEYS, MLA_TILE_COLUMNS, MlaInstance};
use crate::tensor::MapElement;
use crate::tensor::tensor_map::{Dimension, Swizzle, TensorMapSpec};
use crate::tuning::Tuning;

const SCHEDULE: KernelRow<MlaScheduleParams> = KernelRow::of(mla::MLA_SCHEDULE);
const COMBINE: KernelRow<MlaCombineParams> = KernelRow::of(mla::MLA_COMBINE);

/// A planned MLA decode: schedule, attention and combine, none of which waits for the host or allocates.
#[derive(Debug)]
pub struct MlaDecode {
    device: Device,
    maps: TensorMaps,
    spec: MlaDecodeSpec,
    choice: MlaChoice,
    schedule: Kernel<MlaScheduleParams>,
    attend: Kernel<MlaDecodeParams>,
    combine: Kernel<MlaCombineParams>,
}

/// A launch that lacks nothing but the splits.
struct Attention<'l> {
    launch: Launch<'l, MlaDecodeParams>,
    params: MlaDecodeParams,
}

impl MlaDecode {
    /// Chooses the launches for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: MlaDecodeSpec) -> Result<Self> {
        spec.check()?;
        let tiles = spec.rows().div_ceil(BLOCK_ROWS) as u32;
        // Two CTAs of one sequence read the same keys: in a cluster each fetches half of them, and dequantises them.
        let cluster = if tiles.is_multiple_of(2) { 2 } else { 1 };
        Self::with_instance(device, spec, MlaInstance { format: spec.format, cluster })
    }

    /// Uses a given tuning instead.
    ///
    /// # Errors
    /// As [`MlaDecode::plan`]; [`Error::Spec`] when it is none of [`MlaDecode::tunings`] for the cache's format.
    pub fn plan_with(device: &Device, spec: MlaDecodeSpec, tuning: &Tuning) -> Result<Self> {
        spec.check()?;
        let found = instances(spec.format).find(|instance| instance.name() == tuning.name());
        let expected = match spec.format {
            KvFormat::Bf16 => "one of MlaDecode::tunings(KvFormat::Bf16)",
            KvFormat::Fp8 => "one of MlaDecode::tunings(KvFormat::Fp8)",
            KvFormat::Fp8PerTensor => "one of MlaDecode::tunings(KvFormat::Fp8PerTensor)",
        };
        let instance = found.ok_or_else(|| Error::out_of_range("tuning", expected, tuning))?;
        Self::with_instance(device, spec, *instance)
    }

    /// Every tuning for a cache of this format.
    pub fn tunings(format: KvFormat) -> impl Iterator<Item = Tuning> {
        instances(format).map(|instance| Tuning::named(instance.name()))
    }

    /// Rows are filled up to whole clusters.
    fn with_instance(device: &Device, spec: MlaDecodeSpec, instance: MlaInstance) -> Result<Self> {
        let row_tiles = spec.rows().div_ceil(BLOCK_ROWS).next_multiple_of(instance.cluster as usize) as u32;
        let max_splits = spec.max_splits() as u32;
        let at_a_time = (device.multiprocessors() / row_tiles).max(1);
        // Without query tokens there is nothing to do, whatever the keys.
        let workers = if spec.tokens() == 0 { 0 } else { at_a_time.min(spec.splits() as u32) };
        Ok(Self {
            device: device.clone(),
            maps: TensorMaps::new(device),
            spec,
            choice: MlaChoice {
                instance,
                row_tiles,
                workers,
                split_keys: spec.split_keys,
                max_splits,
                splits: spec.splits(),
            },
            schedule: SCHEDULE.load(device)?,
            attend: Kernel::load(device, &instance)?,
            combine: COMBINE.load(device)?,
        })
    }

    /// The shape it was planned for.
    pub fn spec(&self) -> &MlaDecodeSpec {
        &self.spec
    }

    /// The tuning it runs with.
    pub fn tuning(&self) -> Tuning {
        Tuning::named(self.choice.instance.name())
    }

    /// What the planner chose, in words.
    pub fn choice(&self) -> impl fmt::Display {
        self.choice
    }

    /// Elements of the tables that [`MlaDecode::schedule`] fills.
    pub fn tables(&self) -> usize {
        self.items() + 4 * self.spec.batch + 1
    }

    fn items(&self) -> usize {
        2 * self.choice.splits
    }

    /// Bytes of scratch, from a multiple of [`SCRATCH_ALIGN`](crate::SCRATCH_ALIGN) on: the partial results, of which there are
    /// none if a sequence always fits one split. What it holds does not matter, before or after.
    pub fn scratch_bytes(&self) -> usize {
        if self.choice.max_splits == 1 {
            return 0;
        }
        self.choice.splits * self.spec.rows() * (LATENT + 2) * size_of::<f32>()
    }

    /// Enqueues schedule, attention and combine: one decode step of one layer.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`]; then nothing was launched. Launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, args: MlaDecodeArgs<'_>) -> Result<()> {
        let MlaDecodeArgs { schedule, mut attend } = args;
        let stream = stream.into();
        let attention = self.prepare(stream, &mut attend)?;
        let mut splits = self.schedule(stream, schedule)?;
        self.run_attention(attention, &mut splits)?;
        self.run_combine(stream, &mut splits, &mut attend)
    }

    /// Enqueues the schedule alone: once per step, when several layers share the lengths.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// As [`MlaDecode::run`].
    pub fn schedule<'s, 'a>(
        &self,
        stream: impl Into<Stream<'s>>,
        args: MlaScheduleArgs<'a>,
    ) -> Result<MlaSplits<'a>> {
        let MlaScheduleArgs { lengths, q_offsets, tables } = args;
        let MlaDecodeSpec { batch, q_tokens, packed_tokens, .. } = self.spec;
        let (one, none) = ("one, tokens are packed", "none, all sequences have as many tokens");
        check_given("q_offsets", q_offsets.is_some(), packed_tokens.is_some(), one, none)?;
        let mut splits = MlaSplits { tables, shape: self.spec.split_shape() };
        let mut launch = Launch::new(&self.device, &self.schedule, stream.into())?;
        let lengths = launch.indices(&lengths, Layout::vector("lengths [batch]", batch))?;
        let offsets = Layout::vector("q_offsets [batch + 1]", batch + 1);
        let q_offsets = q_offsets.as_ref().map(|list| launch.indices(list, offsets)).transpose()?;
        let tables = launch.write(&mut splits.tables, self.tables_layout())?;
        let params = MlaScheduleParams {
            lengths,
            q_offsets: q_offsets.unwrap_or_default(),
            tables: self.plan_tables(tables.pointer),
            error_words: launch.error_words(),
            batch: batch as u32,
            capacity: self.spec.capacity() as u32,
            split_keys: self.spec.split_keys as u32,
            q_tokens: q_tokens as u32,
            tokens: self.spec.tokens() as u32,
            total_keys: self.spec.total_keys.map_or(u64::MAX, |keys| keys as u64),
            ..Default::default()
        };
        launch.run((batch as u32).div_ceil(SCHEDULE.threads()), &params)?;
        Ok(splits)
    }

    /// Enqueues attention and combine with the splits of a schedule, which this plan or one of the same batch, query tokens,
    /// capacity and split size has made, in the same stream or before it.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// As [`MlaDecode::run`]; [`Error::Operand`] for splits of another shape.
    pub fn attend<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        splits: &mut MlaSplits<'_>,
        mut args: MlaAttendArgs<'_>,
    ) -> Result<()> {
        let expected = self.spec.split_shape();
        if splits.shape != expected {
            return Err(Error::other_kind("splits", expected, splits.shape));
        }
        let stream = stream.into();
        let attention = self.prepare(stream, &mut args)?;
        self.run_attention(attention, splits)?;
        self.run_combine(stream, splits, &mut args)
    }

    fn tables_layout(&self) -> Layout {
        Layout::vector("tables [tables]", self.tables()).aligned(8)
    }

    fn out_layout(&self) -> Layout {
        let rows = self.spec.tokens() * self.spec.heads;
        Layout::matrix("out [tokens * heads, 512]", [rows, LATENT]).aligned(16)
    }

    fn lse_layout(&self) -> Layout {
        let MlaDecodeSpec { heads, lse_order, .. } = self.spec;
        lse_order.layout(self.spec.tokens(), heads)
    }

    /// Items and queries first: they are pairs, which the kernels move together.
    fn plan_tables(&self, items: *mut u32) -> MlaPlanTables {
        let queries = items.wrapping_add(self.items());
        let lengths = queries.wrapping_add(2 * self.spec.batch);
        MlaPlanTables { items, queries, lengths, split_offsets: lengths.wrapping_add(self.spec.batch) }
    }

    /// Everything that can be wrong with the operands is found here, before the schedule is launched.
    fn prepare<'l>(&'l self, stream: Stream<'l>, args: &'l mut MlaAttendArgs<'_>) -> Result<Attention<'l>> {
        let spec = &self.spec;
        let q_layout = spec.q_layout();
        let (pages, page_size) = spec.pages();
        let pages_per_sequence = match spec.paging {
            KvPaging::Paged { pages_per_sequence, .. } => Some(pages_per_sequence),
            KvPaging::Contiguous { .. } => None,
        };
        let (one, none) = ("one, the cache is paged", "none, the cache is contiguous");
        check_given("page_table", args.page_table.is_some(), pages_per_sequence.is_some(), one, none)?;
        let table_shape = [spec.batch, pages_per_sequence.unwrap_or_default()];
        let table_layout = Layout::matrix("page_table [batch, pages_per_sequence]", table_shape);

        let mut launch = Launch::new(&self.device, &self.attend, stream)?;
        let q = launch.read(&args.q, q_layout)?;
        let cache = args.cache.read(&mut launch, spec.cache_rows())?;
        let page_table = args.page_table.as_ref();
        let page_table = page_table.map(|table| launch.indices(table, table_layout)).transpose()?;
        let out = launch.write(&mut args.out, self.out_layout())?;
        let lse = launch.write(&mut args.lse, self.lse_layout())?;
        let lse_strides = spec.lse_order.strides(&lse, spec.heads);
        let scratch = launch.scratch(&mut args.scratch, self.scratch_bytes())?;
        let (part_out, part_state) = self.parts(scratch);
        let params = MlaDecodeParams {
            map_q: self.map_q(&q)?,
            map_kv: self.map_cache(&cache)?,
            kv: cache.operand.pointer,
            kv_scale: cache.scale,
            page_table: page_table.unwrap_or_default(),
            tables: MlaPlanTables::default(),
            out: out.pointer,
            lse: lse.pointer,
            lse_strides,
            part_out,
            part_state,
            error_words: launch.error_words(),
            kv_pitch: cache.pitch,
            page_stride: cache.page_stride,
            out_pitch: out.pitch(),
            batch: spec.batch as u32,
            rows: spec.rows() as u32,
            row_tiles: self.choice.row_tiles,
            heads: spec.heads as u32,
            rope: spec.rope as u32,
            pages: pages as u32,
            page_size: page_size as u32,
            box_keys: self.box_keys(),
            split_blocks: (spec.split_keys / BLOCK_KEYS) as u32,
            causal: u32::from(spec.causal),
            scale_log2: spec.softmax_scale * std::f32::consts::LOG2_E,
            empty_lse: spec.empty_lse.value(),
            ..Default::default()
        };
        Ok(Attention { launch, params })
    }

    fn run_attention<'l>(&self, attention: Attention<'l>, splits: &'l mut MlaSplits<'_>) -> Result<()> {
        let Attention { mut launch, mut params } = attention;
        params.tables = self.plan_tables(launch.write(&mut splits.tables, self.tables_layout())?.pointer);
        let MlaChoice { row_tiles, workers, .. } = self.choice;
        launch.run(row_tiles * workers, &params)
    }

    /// Nothing to do if a sequence always fits one split.
    fn run_combine(
        &self,
        stream: Stream<'_>,
        splits: &mut MlaSplits<'_>,
        args: &mut MlaAttendArgs<'_>,
    ) -> Result<()> {
        if self.choice.max_splits == 1 {
            return Ok(());
        }
        let mut launch = Launch::new(&self.device, &self.combine, stream)?;
        let scratch = launch.scratch(&mut args.scratch, self.scratch_bytes())?;
        let tables = launch.write(&mut splits.tables, self.tables_layout())?;
        let out = launch.write(&mut args.out, self.out_layout())?;
        let lse = launch.write(&mut args.lse, self.lse_layout())?;
        let lse_strides = self.spec.lse_order.strides(&lse, self.spec.heads);
        let tables = self.plan_tables(tables.pointer);
        let (part_out, part_state) = self.parts(scratch);
        let params = MlaCombineParams {
            part_out,
            part_state,
            queries: tables.queries,
            split_offsets: tables.split_offsets,
            out: out.pointer,
            lse: lse.pointer,
            lse_strides,
            out_pitch: out.pitch(),
            batch: self.spec.batch as u32,
            rows: self.spec.rows() as u32,
            heads: self.spec.heads as u32,
            empty_lse: self.spec.empty_lse.value(),
        };
        let all_rows = ((self.spec.batch * self.spec.rows()) as u32).div_ceil(mla::MLA_COMBINE_ROWS);
        launch.run(all_rows.min(self.device.multiprocessors() * mla::MLA_COMBINE_CTAS), &params)
    }

    /// Sums first, then m and l of every part and row. Nowhere if there are no partial results.
    fn parts(&self, scratch: *mut u8) -> (*mut f32, *mut f32) {
        if self.scratch_bytes() == 0 {
            return (std::ptr::null_mut(), std::ptr::null_mut());
        }
        let out = scratch.cast::<f32>();
        (out, out.wrapping_add(self.choice.splits * self.spec.rows() * LATENT))
    }

    /// Rows of one sequence after the other.
    fn map_q(&self, Operand { name, pointer, extent }: &Operand<*const u16>) -> Result<TensorMap> {
        if extent.rows == 0 {
            return Ok(TensorMap::default()); // without tokens nobody looks
        }
        self.maps.encode(&TensorMapSpec {
            operand: name,
            element: MapElement::Bf16,
            base: pointer.cast(),
            columns: extent.columns as u64,
            box_columns: MLA_TILE_COLUMNS,
            outer: &[Dimension::rows(extent, MapElement::Bf16, BLOCK_ROWS as u32)],
            swizzle: Swizzle::Span128,
        })
    }

    /// Keys of a box of the cache's map: those that a CTA fetches of a block, or as many as surely lie in one page.
    fn box_keys(&self) -> u32 {
        let own = MLA_BLOCK_KEYS / self.choice.instance.cluster;
        match self.spec.paging {
            KvPaging::Paged { page_size, .. } => own.min(1 << page_size.trailing_zeros().min(31)),
            KvPaging::Contiguous { .. } => own,
        }
    }

    /// Pages are a dimension: one that does not exist reads as zeros. So does a position behind the last column of Q and keys.
    fn map_cache(&self, cache: &CacheOperand<*const u8>) -> Result<TensorMap> {
        let (pages, page_size) = self.spec.pages();
        if pages * page_size == 0 {
            return Ok(TensorMap::default()); // without keys nobody looks
        }
        let (element, box_columns) = match self.spec.format {
            KvFormat::Bf16 => (MapElement::Bf16, MLA_TILE_COLUMNS),
            KvFormat::Fp8 => (MapElement::U8, 2 * MLA_TILE_COLUMNS),
            KvFormat::Fp8PerTensor => return Ok(TensorMap::default()), // all of it comes through registers
        };
        let keys = Dimension::spaced(cache.pitch, page_size, self.box_keys());
        let pages = Dimension::spaced(cache.page_stride, pages, 1);
        self.maps.encode(&TensorMapSpec {
            operand: cache.operand.name,
            element,
            base: cache.operand.pointer.cast(),
            columns: self.spec.format.columns(self.spec.rope) as u64,
            box_columns,
            outer: &[keys, pages],
            swizzle: Swizzle::Span128,
        })
    }
}
