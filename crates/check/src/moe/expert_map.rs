//! The map from the experts that tokens chose to rows, and back.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::ExpertMapParams;
use deepseek_kernels::table::FixedKernel;
use deepseek_kernels::table::moe::{EXPERT_MAP_COUNT, EXPERT_MAP_SCAN, EXPERT_MAP_SCATTER};
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::moe::{ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec, Mapping};
use deepseek_kernels::{DataFaults, Device, Error, Stream};
use oracles::moe::{MapLayout, Mapped, expert_map};

use super::batch::Batch;
use super::routing::Routing;
use crate::case::{Case, Prepared, Problem, Work, fault_if};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, IndexOperand, Operand, Output};

/// Tokens and how they choose.
#[derive(Debug, Clone, Copy)]
pub struct ExpertMapCase {
    pub spec: ExpertMapSpec,
    pub routing: Routing,
    pub seed: u64,
}

impl ExpertMapCase {
    /// Different experts for each of the tokens, some routes dropped, segments without a gap.
    pub const fn new((tokens, top_k, experts): (usize, usize, usize)) -> Self {
        let spec = ExpertMapSpec::new(tokens, top_k, experts);
        Self { spec, routing: Routing::Gaps, seed: 1 }
    }

    /// Rows in another layout.
    pub const fn laid_out(self, layout: ExpertLayout) -> Self {
        Self { spec: self.spec.layout(layout), ..self }
    }

    /// With its inputs.
    pub fn problem(self) -> ExpertMapProblem {
        let ExpertMapSpec { tokens, top_k, experts, .. } = self.spec;
        ExpertMapProblem { ids: self.routing.ids((tokens, top_k, experts), self.seed), case: self }
    }

    /// What the map gives, for the operations that follow.
    pub fn batch(self) -> Batch {
        Batch { spec: self.spec, map: self.problem().expected() }
    }

    /// Layout and sizes, for labels.
    pub(super) fn rows_label(&self) -> String {
        let ExpertMapSpec { tokens, top_k, experts, layout, .. } = self.spec;
        let layout = match layout {
            ExpertLayout::Ragged => String::new(),
            ExpertLayout::Aligned { alignment } => format!("_aligned{alignment}"),
            ExpertLayout::Masked { max_rows } => format!("_masked{max_rows}"),
        };
        format!("{tokens}x{top_k}of{experts}{layout}")
    }
}

impl Case for ExpertMapCase {
    fn operation(&self) -> &'static str {
        "expert_map"
    }

    fn title(&self) -> String {
        "expert map".to_owned()
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.spec.tokens, self.spec.top_k)
    }

    fn label(&self) -> String {
        self.rows_label()
    }

    fn data(&self) -> String {
        self.routing.name().to_owned()
    }

    fn work(&self) -> Work {
        Work { flops: 0, bytes: (8 * self.spec.tokens * self.spec.top_k + 4 * self.spec.rows()) as u64 }
    }

    fn kernels(&self, _: &Device) -> Result<Vec<String>> {
        Ok(["expert_map_count", "expert_map_scan", "expert_map_scatter"].map(str::to_owned).into())
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// A choice to be mapped.
#[derive(Debug, Clone)]
pub struct ExpertMapProblem {
    pub case: ExpertMapCase,
    pub ids: Vec<i32>,
}

impl ExpertMapProblem {
    fn expected(&self) -> Mapped {
        expected(&self.case.spec, &self.ids)
    }
}

/// The reference, and -1 in the rows behind its last segment.
pub(super) fn expected(spec: &ExpertMapSpec, ids: &[i32]) -> Mapped {
    let layout = match spec.layout {
        ExpertLayout::Ragged => MapLayout::Contiguous(1),
        ExpertLayout::Aligned { alignment } => MapLayout::Contiguous(alignment.get() as usize),
        ExpertLayout::Masked { max_rows } => MapLayout::Masked(max_rows),
    };
    let mut map = expert_map(ids, spec.experts, layout);
    map.row_route.resize(spec.rows(), -1);
    map
}

impl Problem for ExpertMapProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(ExpertMapRun::new(self, arena)?))
    }
}

/// A map on a device.
pub struct ExpertMapRun {
    problem: Arc<ExpertMapProblem>,
    pub plan: ExpertMap,
    pub operands: ExpertMapOperands,
}

pub struct ExpertMapOperands {
    ids: IndexOperand,
    mapping: MappingOperands,
    scratch: Operand<u8>,
}

/// Where a map goes.
pub struct MappingOperands {
    row_route: Operand<i32>,
    route_row: Operand<i32>,
    offsets: Operand<i32>,
    counts: Operand<i32>,
    demand: Operand<i32>,
}

impl MappingOperands {
    pub fn new(spec: &ExpertMapSpec, arena: &mut Arena<'_>) -> Result<Self> {
        let mut output = |shape| arena.output(shape, Align(4));
        Ok(Self {
            row_route: output((1, spec.rows()))?,
            route_row: output((spec.tokens, spec.top_k))?,
            offsets: output((1, spec.experts + 1))?,
            counts: output((1, spec.experts))?,
            demand: output((1, spec.experts + 1))?,
        })
    }

    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<Mapping<'_>, Error> {
        Ok(Mapping {
            row_route: self.row_route.vector_mut()?,
            route_row: self.route_row.matrix_mut()?,
            offsets: self.offsets.vector_mut()?,
            counts: self.counts.vector_mut()?,
            demand: self.demand.vector_mut()?,
        })
    }

    pub fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![
            Output::read("row_route", &self.row_route)?,
            Output::read("route_row", &self.route_row)?,
            Output::read("offsets", &self.offsets)?,
            Output::read("counts", &self.counts)?,
            Output::read("demand", &self.demand)?,
        ])
    }

    pub fn judge(&self, want: &Mapped) -> Result<Vec<Check>> {
        Ok(vec![
            self.row_route.equals("rows", "row_route", &want.row_route)?,
            self.route_row.equals("routes", "route_row", &want.route_row)?,
            self.offsets.equals("offsets", "offsets", &want.offsets)?,
            self.counts.equals("counts", "counts", &want.counts)?,
            self.demand.equals("demand", "demand", &want.demand)?,
        ])
    }
}

impl ExpertMapRun {
    pub fn new(problem: Arc<ExpertMapProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let spec = problem.case.spec;
        let plan = ExpertMap::plan(arena.device(), spec)?;
        let operands = ExpertMapOperands {
            mapping: MappingOperands::new(&spec, arena)?,
            scratch: arena.scratch(plan.scratch_bytes())?,
            ids: arena.indices(&problem.ids, (spec.tokens, spec.top_k))?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl ExpertMapOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<ExpertMapArgs<'_>, Error> {
        Ok(ExpertMapArgs {
            ids: self.ids.indices()?,
            mapping: self.mapping.args()?,
            scratch: self.scratch.slice_mut(),
        })
    }
}

/// The outputs of a map.
pub fn mapped(outputs: &[Output]) -> Mapped {
    let [row_route, route_row, offsets, counts, demand] = [0, 1, 2, 3, 4].map(|i| outputs[i].values());
    Mapped { row_route, route_row, offsets, counts, demand }
}

impl Prepared for ExpertMapRun {
    fn instance(&self) -> String {
        "expert_map_*".to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        self.operands.mapping.outputs()
    }

    fn writable(&self) -> Result<Vec<Output>> {
        let mut written = self.outputs()?;
        written.push(Output::read("scratch", &self.operands.scratch)?);
        Ok(written)
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let mut checks = self.operands.mapping.judge(&self.problem.expected())?;
        checks.push(self.operands.scratch.guarded("the scratch")?);
        Ok(checks)
    }

    fn faults(&self) -> DataFaults {
        faults_of(&self.problem.expected())
    }
}

/// Ids that are none, and routes for which there was no room.
pub(super) fn faults_of(Mapped { counts, demand, .. }: &Mapped) -> DataFaults {
    let crowded = counts.iter().zip(demand).any(|(count, demand)| count < demand);
    fault_if(demand.last() > Some(&0), DataFaults::EXPERT_ID) | fault_if(crowded, DataFaults::SEGMENT)
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    // Ragged, aligned, masked.
    let layouts = [(1, u32::MAX), (64, u32::MAX), (0, 2)];
    let narrow = layouts.into_iter().flat_map(|layout| {
        [(EXPERT_MAP_COUNT, 5), (EXPERT_MAP_SCAN, 13), (EXPERT_MAP_SCATTER, 4)]
            .map(|step| traced_step(step, layout, 1))
    });
    let wide = [(EXPERT_MAP_COUNT, 5), (EXPERT_MAP_SCATTER, 4)].map(|step| traced_step(step, layouts[0], 2));
    narrow.chain(wide).collect()
}

/// Four blocks, the last one ragged; a fifth CTA only clears rows.
fn traced_step(
    (kernel, grid): (FixedKernel, u32),
    (alignment, max_rows): (u32, u32),
    words_per_index: u32,
) -> Launch {
    let params = Params::of::<ExpertMapParams>().indices(
        offset_of!(ExpertMapParams, ids),
        region(0),
        8,
        words_per_index,
    );
    fixed(&kernel, grid, traced_map(params, 0, 100, [125, 8], 4, (alignment, max_rows)))
}

/// The map of so many blocks, at `at` in the parameters.
pub(super) fn traced_map(
    params: Params,
    at: usize,
    experts: u32,
    [tokens, top_k]: [u32; 2],
    blocks: u32,
    (alignment, max_rows): (u32, u32),
) -> Params {
    params
        .u64(at + offset_of!(ExpertMapParams, row_route), region(8))
        .u64(at + offset_of!(ExpertMapParams, route_row), region(9))
        .u64(at + offset_of!(ExpertMapParams, offsets), region(10))
        .u64(at + offset_of!(ExpertMapParams, counts), region(11))
        .u64(at + offset_of!(ExpertMapParams, demand), region(12))
        .u64(at + offset_of!(ExpertMapParams, block_counts), region(13))
        .u64(at + offset_of!(ExpertMapParams, error_words), region(7))
        .u64(at + offset_of!(ExpertMapParams, route_row_pitch), u64::from(top_k) + 1)
        .u32(at + offset_of!(ExpertMapParams, routes), tokens * top_k)
        .u32(at + offset_of!(ExpertMapParams, top_k), top_k)
        .u32(at + offset_of!(ExpertMapParams, rows), 3000)
        .u32(at + offset_of!(ExpertMapParams, experts), experts)
        .u32(at + offset_of!(ExpertMapParams, blocks), blocks)
        .u32(at + offset_of!(ExpertMapParams, alignment), alignment)
        .u32(at + offset_of!(ExpertMapParams, max_rows), max_rows)
}

mod faults {
    use crate::case::{Cases, boxed};
    use crate::moe::Routing;
    use crate::moe::expert_map::ExpertMapCase;
    use crate::planted::{Trial, drawn, faults};
    use deepseek_kernels::moe::ExpertLayout;
    use std::num::NonZeroU32;

    const MAP: Trial = Trial::Cases(map);
    const WIDE: Trial = Trial::Wide(|| drawn(map()));

    /// Three blocks, ids of every kind, more experts than threads; no room for all in the masked layout.
    fn map() -> Cases {
        let aligned = ExpertLayout::Aligned { alignment: NonZeroU32::new(8).expect("not 0") };
        let layouts = [(300, ExpertLayout::Ragged), (5, aligned), (5, ExpertLayout::Masked { max_rows: 20 })];
        boxed(layouts.map(|(experts, layout)| {
            let map = ExpertMapCase::new((150, 4, experts)).laid_out(layout);
            ExpertMapCase { routing: Routing::Strangers, ..map }
        }))
    }

    faults! {
        rank_counts_the_route_itself: MAP, "i + j < thread" => "i + j <= thread", ["row_route"];
        rank_of_every_second_route: MAP, "i += 4" => "i += 8", ["not ordered", "row_route"];
        dropped_id_used_as_an_index: MAP,
            "id == kDropped ? kNoGroup : experts" => "id", ["not ordered", "out of bounds", "outside"];
        stranger_used_as_an_index: MAP,
            "id < experts ? id : id == kDropped ? kNoGroup : experts" => "id == kDropped ? kNoGroup : id",
            ["not ordered", "out of bounds", "outside"];
        dropped_ids_counted_as_strangers: MAP, "id == kDropped ? kNoGroup : experts" => "experts", ["demand["];
        narrow_ids_read_as_wide: MAP, "indices.words_per_index - 1" => "1", ["outside"];
        gaps_of_ids_read: MAP,
            "route / params.top_k, route % params.top_k" => "0, route", ["demand[", "row_route["];
        rows_of_routes_without_their_pitch: MAP,
            "params.top_k, params.route_row_pitch" => "params.top_k, params.top_k", ["route_row[", "not ordered"];
        routes_past_the_end: MAP, "if (route >= params.routes) return kNoGroup;" => "", ["outside"];
        no_barrier_before_the_groups_are_read: MAP,
            "uint32_t count_block ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
        no_barrier_before_the_counts_are_read: MAP,
            "rank.total); ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
        counts_never_cleared: MAP, "ptx::sts_u32(sCounts + g * sizeof(uint32_t), 0);" => "", ["nothing has written"];
        rows_never_cleared: MAP, "clear_rows<Config>(params);" => "", ["row_route["];
        strangers_not_counted: MAP,
            "sCounts + group * sizeof(uint32_t)" => "sCounts", ["demand[", "not ordered", "row_route["];
        block_left_out_of_the_sum: MAP, "end = first + run" => "end = first + run + 1", ["not ordered", "demand["];
        routes_kept_beyond_the_room: MAP, "rank < params.max_rows" => "true", ["row_route[", "not ordered", "outside"];
        surplus_unreported: MAP, "if (!fits) report_fault(params.error_words, FAULT_SEGMENT);" => "", ["got one of ids of experts"];
        surplus_counted_as_rows: MAP, "fits ? demand : params.max_rows" => "demand", ["counts["];
        segment_not_aligned: MAP,
            "(count + params.alignment - 1) / params.alignment * params.alignment" => "count", ["row_route[", "offsets["];
        segment_one_row_short: MAP,
            "start += rows[i]" => "start += rows[i] > 0 ? rows[i] - 1 : 0", ["row_route", "offsets["];
        no_barrier_before_the_starts_are_read: MAP,
            "void expert_map_scatter_kernel ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
        no_barrier_before_the_sums_are_read: MAP,
            "CtaSum cta_sum ... ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
        sum_of_the_warps_after: MAP, "w < warp" => "w > warp", ["offsets[", "row_route[", "outside"];
        expert_of_the_next_thread: MAP,
            "ptx::thread_idx() * kExpertsPerThread" => "ptx::thread_idx() * kExpertsPerThread + 1",
            ["offsets[", "row_route[", "nothing has written"];

        // Ids of 64 bits.
        high_word_ignored: WIDE, "high == low >> 31 ? low : INT32_MIN" => "low", ["demand[", "row_route["];
        sign_of_64_bits_ignored: WIDE, "high == low >> 31" => "high == 0", ["demand["];
        what_does_not_fit_dropped: WIDE, "low : INT32_MIN" => "low : -1", ["demand["];
        wide_ids_read_as_narrow: WIDE, "column * indices.words_per_index" => "column", ["demand[", "row_route["];
        pitch_of_wide_ids_doubled: WIDE,
            "row * indices.pitch" => "row * indices.pitch * indices.words_per_index", ["outside", "demand["];
    }
}
