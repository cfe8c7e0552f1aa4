//! The map from the experts that tokens chose to rows, and back.

mod faults;

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
use oracles::moe::{MapLayout, Mapped, expert_map, local_experts};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::batch::Batch;
use super::routing::{Routing, strangers};
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

    /// Of which so many are here.
    pub const fn with_local(self, experts: usize) -> Self {
        Self { spec: self.spec.local_experts(Some(experts)), ..self }
    }

    /// Rows in another layout.
    pub const fn laid_out(self, layout: ExpertLayout) -> Self {
        Self { spec: self.spec.layout(layout), ..self }
    }

    /// With its inputs.
    pub fn problem(self) -> ExpertMapProblem {
        let ExpertMapSpec { tokens, top_k, experts, .. } = self.spec;
        ExpertMapProblem {
            ids: self.routing.ids((tokens, top_k, experts), self.seed),
            local_ids: self.local_ids(),
            case: self,
        }
    }

    /// What ids mean, if not all experts are here: as many in any order, of strangers some that are none and one that is meant
    /// twice.
    pub fn local_ids(&self) -> Option<Vec<i32>> {
        let ExpertMapSpec { experts, .. } = self.spec;
        let local = self.spec.local_experts?;
        let mut ids: Vec<i32> = (0..experts).map(|id| if id < local { id as i32 } else { -1 }).collect();
        ids.shuffle(&mut StdRng::seed_from_u64(self.seed ^ 2));
        if self.routing == Routing::Strangers {
            let elsewhere: Vec<usize> = (0..experts).filter(|&id| ids[id] == -1).collect();
            let others = [strangers(local)[self.seed as usize % 5], local as i32, 0];
            elsewhere.into_iter().skip(1).zip(others).for_each(|(id, other)| ids[id] = other);
        }
        Some(ids)
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
        let local = self.spec.local_experts.map(|local| format!("_local{local}")).unwrap_or_default();
        format!("{tokens}x{top_k}of{experts}{local}{layout}")
    }
}

impl Case for ExpertMapCase {
    fn operation(&self) -> &'static str {
        "expert_map"
    }

    fn title(&self) -> String {
        let local = if self.spec.local_experts.is_some() { ", some experts elsewhere" } else { "" };
        format!("expert map{local}")
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

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
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
    pub local_ids: Option<Vec<i32>>,
}

impl ExpertMapProblem {
    fn expected(&self) -> Mapped {
        expected(&self.case.spec, &self.ids, self.local_ids.as_deref())
    }
}

/// The reference, and -1 in the rows behind its last segment.
pub(super) fn expected(spec: &ExpertMapSpec, ids: &[i32], local_ids: Option<&[i32]>) -> Mapped {
    let layout = match spec.layout {
        ExpertLayout::Ragged => MapLayout::Contiguous(1),
        ExpertLayout::Aligned { alignment } => MapLayout::Contiguous(alignment.get() as usize),
        ExpertLayout::Masked { max_rows } => MapLayout::Masked(max_rows),
    };
    let means = local_ids.map(|local_ids| local_experts(ids, local_ids));
    let mut map = expert_map(means.as_deref().unwrap_or(ids), spec.local(), layout);
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
    local_ids: Option<IndexOperand>,
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
            offsets: output((1, spec.local() + 1))?,
            counts: output((1, spec.local()))?,
            demand: output((1, spec.local() + 1))?,
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
            local_ids: of_local(problem.local_ids.as_deref(), arena)?,
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
            local_ids: self.local_ids.as_ref().map(IndexOperand::indices).transpose()?,
            mapping: self.mapping.args()?,
            scratch: self.scratch.slice_mut(),
        })
    }
}

/// Where experts are, if not all are here.
pub(super) fn of_local(local_ids: Option<&[i32]>, arena: &mut Arena<'_>) -> Result<Option<IndexOperand>> {
    local_ids.map(|ids| arena.indices(ids, (1, ids.len()))).transpose()
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
    let others = [(EXPERT_MAP_COUNT, 5), (EXPERT_MAP_SCATTER, 4)];
    let wide = others.map(|step| traced_step(step, layouts[0], 2));
    let local =
        others.map(|(kernel, grid)| fixed(&kernel, grid, traced_local(step_params(layouts[0], 1), 0, 150)));
    narrow.chain(wide).chain(local).collect()
}

/// Four blocks, the last one ragged; a fifth CTA only clears rows.
fn traced_step((kernel, grid): (FixedKernel, u32), layout: (u32, u32), words_per_index: u32) -> Launch {
    fixed(&kernel, grid, step_params(layout, words_per_index))
}

fn step_params(layout: (u32, u32), words_per_index: u32) -> Params {
    let params = Params::of::<ExpertMapParams>().indices(
        offset_of!(ExpertMapParams, ids),
        region(0),
        8,
        words_per_index,
    );
    traced_map(params, 0, 100, [125, 8], 4, layout)
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

/// The same map of some of so many experts.
pub(super) fn traced_local(params: Params, at: usize, global_experts: u32) -> Params {
    params
        .indices(at + offset_of!(ExpertMapParams, local_ids), region(14), 0, 1)
        .u32(at + offset_of!(ExpertMapParams, global_experts), global_experts)
}
