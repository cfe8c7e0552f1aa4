//! Attention of a decode step over the latent cache (MLA).
//!
//! `out[row] = sum over keys t of p[row, t] * k[t, 0..512]`, `p` the softmax over t of `softmax_scale * q[row] . k[t]`.
//! A row is a head of a query token: `(sequence * q_tokens + token) * heads + head`.
//!
//! What decides the bits of a row is its own sequence, and `split_keys`: keys are taken in splits of that many, which are
//! added up in ascending order. Neither the batch nor the pages a sequence lies in nor the GPU's size do.

mod spec;

use half::bf16;

use spec::{BLOCK_KEYS, BLOCK_ROWS, KEY, SplitShape};
pub use spec::{DEFAULT_SPLIT_KEYS, EmptyLse, KvPaging, MAX_HEADS, MAX_Q_TOKENS, MlaChoice, MlaDecodeSpec};

use super::cache::{KvCache, KvFormat, LATENT};
use crate::device::bindings::{
    MlaCombineParams, MlaDecodeParams, MlaPlanTables, MlaScheduleParams, TensorMap,
};
use crate::device::{Device, KernelHandle, Stream};
use crate::error::{Error, Result};
use crate::launch::{Address, Launch};
use crate::table::mla::{MLA_BLOCK_KEYS, MLA_COMBINE, MLA_SCHEDULE, MlaInstance};
use crate::tensor::Extent;
use crate::tensor::MapElement;
use crate::tensor::tensor_map::{Dimension, Swizzle, TensorMapSpec};
use crate::tensor::{Matrix, MatrixMut};

/// Operands of an attention. Addresses and pitches of q and out are multiples of 16 bytes.
pub struct MlaDecodeArgs<'a> {
    /// `[batch * q_tokens * heads, 576]`: 512 absorbed, 64 rotated.
    pub q: Matrix<'a, bf16>,
    /// The keys; for a contiguous cache `[batch * capacity, ..]`.
    pub cache: KvCache<'a>,
    /// On the device: `[batch, pages_per_sequence]`. Entries past the end of a sequence are not read. None if, and only
    /// if, the cache is contiguous.
    pub page_table: Option<Matrix<'a, i32>>,
    /// `[1, partials]`, see [`MlaDecode::partials`]. What it holds does not matter, before or after.
    pub partials: MatrixMut<'a, f32>,
    /// `[batch * q_tokens * heads, 512]`.
    pub out: MatrixMut<'a, bf16>,
    /// `[batch * q_tokens, heads]`: the natural logarithm of the sum of `e^score`.
    pub lse: MatrixMut<'a, f32>,
}

/// The splits of a step's sequences, found on the device: the same for all layers. Made by [`MlaDecode::schedule`], so that
/// they are those of some lengths.
pub struct MlaSplits<'a> {
    tables: MatrixMut<'a, u32>,
    shape: SplitShape,
}

/// A planned MLA decode: schedule, attention and combine, none of which waits for the host or allocates.
pub struct MlaDecode {
    device: Device,
    spec: MlaDecodeSpec,
    choice: MlaChoice,
    schedule: KernelHandle,
    attend: KernelHandle,
    combine: KernelHandle,
}

/// A launch that lacks nothing but the splits.
struct Attention<'l> {
    launch: Launch<'l>,
    params: MlaDecodeParams,
}

impl MlaDecode {
    /// Chooses the launches for a shape.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::TooLarge`], [`Error::NotAMultiple`].
    pub fn plan(device: &Device, spec: MlaDecodeSpec) -> Result<Self> {
        spec.check()?;
        let tiles = spec.rows().div_ceil(BLOCK_ROWS) as u32;
        // Two CTAs of one sequence read the same keys: in a cluster each fetches half of them, and dequantises them.
        let cluster = if tiles.is_multiple_of(2) { 2 } else { 1 };
        Self::with_instance(device, spec, MlaInstance { fp8_cache: spec.format == KvFormat::Fp8, cluster })
    }

    /// Uses a given instance instead: for tuning, and for tests that every instance gives the same bits. Rows are
    /// filled up to whole clusters.
    ///
    /// # Errors
    /// As [`MlaDecode::plan`]; [`Error::OutOfRange`] when the instance is not one of
    /// [`MLA_INSTANCES`](crate::mla::MLA_INSTANCES) for the cache's format.
    pub fn plan_instance(device: &Device, spec: MlaDecodeSpec, instance: MlaInstance) -> Result<Self> {
        spec.check()?;
        spec.check_instance(instance)?;
        Self::with_instance(device, spec, instance)
    }

    fn with_instance(device: &Device, spec: MlaDecodeSpec, instance: MlaInstance) -> Result<Self> {
        let row_tiles = spec.rows().div_ceil(BLOCK_ROWS).next_multiple_of(instance.cluster as usize) as u32;
        let max_splits = spec.max_splits() as u32;
        let at_a_time = (device.multiprocessors() / row_tiles).max(1);
        let workers = at_a_time.min(spec.batch as u32 * max_splits);
        Ok(Self {
            device: device.clone(),
            spec,
            choice: MlaChoice { instance, row_tiles, workers, max_splits },
            schedule: device.kernel(MLA_SCHEDULE.name)?,
            attend: device.kernel(&instance.name())?,
            combine: device.kernel(MLA_COMBINE.name)?,
        })
    }

    /// The shape it was planned for.
    pub fn spec(&self) -> &MlaDecodeSpec {
        &self.spec
    }

    /// What the planner chose.
    pub fn choice(&self) -> &MlaChoice {
        &self.choice
    }

    /// Elements of the tables that [`MlaDecode::schedule`] fills.
    pub fn tables(&self) -> usize {
        self.items() + 2 * self.spec.batch + 1
    }

    fn items(&self) -> usize {
        2 * self.splits()
    }

    /// Splits that the sequences may have together.
    fn splits(&self) -> usize {
        self.spec.batch * self.choice.max_splits as usize
    }

    /// Elements of the partial results: none if a sequence always fits one split.
    pub fn partials(&self) -> usize {
        if self.choice.max_splits == 1 { 0 } else { self.splits() * self.spec.rows() * (LATENT + 2) }
    }

    /// Enqueues schedule, attention and combine: one decode step of one layer.
    ///
    /// `lengths`, on the device: `[1, batch]`, keys of every sequence, its query tokens included. A length that the pages
    /// cannot hold, or below 0, is cut, and [`Device::poll_error`] tells of it. `tables`: `[1, tables]`, see
    /// [`MlaDecode::tables`].
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotDense`], [`Error::Misaligned`], [`Error::WrongDevice`], [`Error::PageTable`],
    /// [`Error::CacheFormat`]; then nothing was launched. Launch errors.
    pub fn run<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        lengths: Matrix<'_, i32>,
        tables: MatrixMut<'_, u32>,
        mut args: MlaDecodeArgs<'_>,
    ) -> Result<()> {
        self.check(&args)?;
        let stream = stream.into();
        let attention = self.prepare(&stream, &mut args)?;
        let mut splits = self.schedule_on(&stream, &lengths, tables)?;
        self.run_attention(attention, &mut splits)?;
        self.run_combine(&stream, &mut splits, &mut args)
    }

    /// Enqueues the schedule alone: once per step, when several layers share the lengths. Operands and errors as for
    /// [`MlaDecode::run`].
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// As [`MlaDecode::run`].
    pub fn schedule<'s, 'a>(
        &self,
        stream: impl Into<Stream<'s>>,
        lengths: Matrix<'_, i32>,
        tables: MatrixMut<'a, u32>,
    ) -> Result<MlaSplits<'a>> {
        self.schedule_on(&stream.into(), &lengths, tables)
    }

    /// Enqueues attention and combine with the splits of a schedule, which this plan or one of the same batch, capacity
    /// and split size has made, in the same stream or before it.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// As [`MlaDecode::run`]; [`Error::OtherSplits`].
    pub fn attend<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        splits: &mut MlaSplits<'_>,
        mut args: MlaDecodeArgs<'_>,
    ) -> Result<()> {
        self.check(&args)?;
        let expected = self.spec.split_shape();
        if splits.shape != expected {
            return Err(Error::OtherSplits { expected: expected.to_string(), got: splits.shape.to_string() });
        }
        let stream = stream.into();
        let attention = self.prepare(&stream, &mut args)?;
        self.run_attention(attention, splits)?;
        self.run_combine(&stream, splits, &mut args)
    }

    fn schedule_on<'a>(
        &self,
        stream: &Stream<'_>,
        lengths: &Matrix<'_, i32>,
        tables: MatrixMut<'a, u32>,
    ) -> Result<MlaSplits<'a>> {
        lengths.extent.expect("lengths [1, batch]", 1, self.spec.batch)?;
        tables.extent.expect("tables [1, tables]", 1, self.tables())?;
        let mut splits = MlaSplits { tables, shape: self.spec.split_shape() };
        let mut launch = Launch::new(&self.device, &self.schedule, stream)?;
        let params = MlaScheduleParams {
            lengths: launch.read(c"lengths", &lengths.slice)?.cast(),
            tables: self.plan_tables(launch.write_aligned(c"tables", &mut splits.tables.slice, 8)?),
            error_words: launch.error_words().cast(),
            batch: self.spec.batch as u32,
            capacity: self.spec.capacity() as u32,
            split_keys: self.spec.split_keys as u32,
            ..Default::default()
        };
        let grid = (self.spec.batch as u32).div_ceil(MLA_SCHEDULE.threads);
        launch.run(grid, MLA_SCHEDULE.threads, MLA_SCHEDULE.smem_bytes, &params)?;
        Ok(splits)
    }

    /// Items first: they are pairs, which the kernels move together.
    fn plan_tables(&self, base: Address) -> MlaPlanTables {
        let items: *mut u32 = base.cast();
        let lengths = items.wrapping_add(self.items());
        MlaPlanTables { items, lengths, split_offsets: lengths.wrapping_add(self.spec.batch) }
    }

    /// Everything that can be wrong with the operands is found here, before the schedule is launched.
    fn prepare<'l>(
        &'l self,
        stream: &'l Stream<'l>,
        args: &'l mut MlaDecodeArgs<'_>,
    ) -> Result<Attention<'l>> {
        let spec = &self.spec;
        let mut launch = Launch::new(&self.device, &self.attend, stream)?;
        let q = launch.read_aligned(c"q", &args.q.slice, 16)?;
        let cache = args.cache.read(&mut launch)?;
        let page_table = match &args.page_table {
            Some(table) => launch.read(c"page_table", &table.slice)?,
            None => std::ptr::null_mut(),
        };
        let out = launch.write_aligned(c"out", &mut args.out.slice, 16)?;
        let lse = launch.write(c"lse", &mut args.lse.slice)?;
        let partials = launch.write_aligned(c"partials", &mut args.partials.slice, 8)?;
        let error_words = launch.error_words().cast();
        let (pages, page_size) = spec.pages();
        let (part_out, part_state) = self.parts(partials);
        let params = MlaDecodeParams {
            map_q: self.map_rows("q", q, &args.q.extent)?,
            map_kv: self.map_cache(cache, &args.cache)?,
            map_out: self.map_rows("out", out, &args.out.extent)?,
            kv: cache.cast(),
            page_table: page_table.cast(),
            tables: MlaPlanTables::default(),
            lse: lse.cast(),
            part_out,
            part_state,
            error_words,
            kv_pitch: args.cache.rows().pitch_bytes(),
            table_pitch: args.page_table.as_ref().map_or(0, |table| table.extent.pitch as u64),
            batch: spec.batch as u32,
            rows: spec.rows() as u32,
            row_tiles: self.choice.row_tiles,
            q_tokens: spec.q_tokens as u32,
            heads: spec.heads as u32,
            pages: pages as u32,
            page_size: page_size as u32,
            split_blocks: (spec.split_keys / BLOCK_KEYS) as u32,
            causal: u32::from(spec.causal),
            scale_log2: spec.softmax_scale * std::f32::consts::LOG2_E,
            empty_lse: spec.empty_lse_value(),
            ..Default::default()
        };
        Ok(Attention { launch, params })
    }

    fn run_attention<'l>(&self, attention: Attention<'l>, splits: &'l mut MlaSplits<'_>) -> Result<()> {
        let Attention { mut launch, mut params } = attention;
        params.tables = self.plan_tables(launch.write_aligned(c"tables", &mut splits.tables.slice, 8)?);
        let MlaChoice { instance, row_tiles, workers, .. } = self.choice;
        launch.run(row_tiles * workers, instance.threads(), instance.smem_bytes(), &params)
    }

    /// Nothing to do if a sequence always fits one split.
    fn run_combine(
        &self,
        stream: &Stream<'_>,
        splits: &mut MlaSplits<'_>,
        args: &mut MlaDecodeArgs<'_>,
    ) -> Result<()> {
        if self.choice.max_splits == 1 {
            return Ok(());
        }
        let mut launch = Launch::new(&self.device, &self.combine, stream)?;
        let partials = launch.write_aligned(c"partials", &mut args.partials.slice, 8)?;
        let (part_out, part_state) = self.parts(partials);
        let params = MlaCombineParams {
            part_out,
            part_state,
            split_offsets: self.plan_tables(launch.write(c"tables", &mut splits.tables.slice)?).split_offsets,
            out: launch.write_aligned(c"out", &mut args.out.slice, 16)?.cast(),
            lse: launch.write(c"lse", &mut args.lse.slice)?.cast(),
            out_pitch: args.out.extent.pitch as u64,
            batch: self.spec.batch as u32,
            rows: self.spec.rows() as u32,
            empty_lse: self.spec.empty_lse_value(),
            ..Default::default()
        };
        let grid = ((self.spec.batch * self.spec.rows()) as u32).div_ceil(MLA_COMBINE.threads / 32);
        launch.run(grid, MLA_COMBINE.threads, MLA_COMBINE.smem_bytes, &params)
    }

    /// Sums first, then m and l of every part and row. Nowhere if there are no partial results.
    fn parts(&self, partials: Address) -> (*mut f32, *mut f32) {
        if self.partials() == 0 {
            return (std::ptr::null_mut(), std::ptr::null_mut());
        }
        let out: *mut f32 = partials.cast();
        (out, out.wrapping_add(self.splits() * self.spec.rows() * LATENT))
    }

    /// Rows of one sequence after the other: tiles end with the sequence.
    fn map_rows(&self, operand: &'static str, base: Address, extent: &Extent) -> Result<TensorMap> {
        if extent.rows == 0 {
            return Ok(TensorMap::default()); // without sequences nobody looks
        }
        let rows = Dimension::rows(extent, MapElement::Bf16, BLOCK_ROWS as u32);
        let rows = Dimension { size: self.spec.rows() as u64, ..rows };
        let batch = Dimension { size: self.spec.batch as u64, stride: rows.stride * rows.size, box_size: 1 };
        self.device.encode(&TensorMapSpec {
            operand,
            element: MapElement::Bf16,
            base,
            columns: extent.columns as u64,
            box_columns: 64,
            outer: &[rows, batch],
            swizzle: Swizzle::Span128,
        })
    }

    /// Pages are a dimension of their own: one that does not exist reads as zeros.
    fn map_cache(&self, base: Address, cache: &KvCache<'_>) -> Result<TensorMap> {
        let (pages, page_size) = self.spec.pages();
        if pages * page_size == 0 {
            return Ok(TensorMap::default()); // without keys nobody looks
        }
        let (element, box_columns) = match self.spec.format {
            KvFormat::Bf16 => (MapElement::Bf16, 64),
            KvFormat::Fp8 => (MapElement::U8, 128),
        };
        let stride = cache.rows().pitch_bytes();
        let box_size = MLA_BLOCK_KEYS / self.choice.instance.cluster;
        let keys = Dimension { size: page_size as u64, stride, box_size };
        let pages = Dimension { size: pages as u64, stride: stride * page_size as u64, box_size: 1 };
        self.device.encode(&TensorMapSpec {
            operand: "cache",
            element,
            base,
            columns: self.spec.format.columns() as u64,
            box_columns,
            outer: &[keys, pages],
            swizzle: Swizzle::Span128,
        })
    }

    fn check(&self, args: &MlaDecodeArgs<'_>) -> Result<()> {
        let spec = &self.spec;
        let rows = spec.batch * spec.rows();
        args.q.extent.expect("q [batch * q_tokens * heads, 576]", rows, KEY)?;
        args.q.extent.expect_pitch("q", size_of::<bf16>(), 16)?;
        let (pages, page_size) = spec.pages();
        args.cache.rows().check(spec.format, pages * page_size)?;
        match (&spec.paging, &args.page_table) {
            (KvPaging::Paged { pages_per_sequence, .. }, Some(table)) => {
                table.extent.expect(
                    "page_table [batch, pages_per_sequence]",
                    spec.batch,
                    *pages_per_sequence,
                )?;
            }
            (KvPaging::Contiguous { .. }, None) => {}
            (_, table) => return Err(Error::PageTable { given: table.is_some() }),
        }
        args.partials.extent.expect("partials [1, partials]", 1, self.partials())?;
        args.out.extent.expect("out [batch * q_tokens * heads, 512]", rows, LATENT)?;
        args.out.extent.expect_pitch("out", size_of::<bf16>(), 16)?;
        args.lse.extent.expect("lse [batch * q_tokens, heads]", spec.batch * spec.q_tokens, spec.heads)?;
        args.lse.extent.expect_dense("lse")
    }
}
