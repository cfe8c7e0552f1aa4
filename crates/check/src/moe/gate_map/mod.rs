//! The gate, and the map of what it chose.

mod faults;
mod traced;

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::moe::{ExpertLayout, GateMap, GateMapArgs, GateMapSpec, Mapping};
use deepseek_kernels::{DataFaults, Device, Error, Indices, Stream};
use oracles::moe::Mapped;

use super::expert_map::{ExpertMapCase, MappingOperands, expected, faults_of, of_local};
use super::routing::Routing;
use crate::case::{Case, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, IndexOperand, Output};
use crate::router::gate::{GateCall, GateCase, GateFrom, GateOperands, GateProblem, GateWeights};

pub use faults::FAULTS;
pub use traced::traced;

/// A router of hidden states, and where its rows lie.
#[derive(Debug, Clone, Copy)]
pub struct GateMapCase {
    pub gate: GateCase,
    /// Experts that are here, if not all are.
    pub local: Option<usize>,
    pub layout: ExpertLayout,
    /// Strangers: some entries of the list of local ids are none.
    pub routing: Routing,
}

impl GateMapCase {
    /// All experts, segments without a gap.
    pub const fn new(gate: GateCase) -> Self {
        Self { gate, local: None, layout: ExpertLayout::Ragged, routing: Routing::Uniform }
    }

    /// Rows in another layout.
    pub const fn laid_out(self, layout: ExpertLayout) -> Self {
        Self { layout, ..self }
    }

    /// Of which so many are here, with some entries of the list that are none.
    pub const fn with_local(self, experts: usize) -> Self {
        Self { local: Some(experts), routing: Routing::Strangers, ..self }
    }

    pub fn spec(&self) -> GateMapSpec {
        GateMapSpec::new(self.gate.spec).local_experts(self.local).layout(self.layout)
    }

    /// The map by itself.
    fn map(&self) -> ExpertMapCase {
        ExpertMapCase { spec: self.spec().map(), routing: self.routing, seed: self.gate.seed }
    }

    /// What ids mean, if not all experts are here.
    pub fn local_ids(&self) -> Option<Vec<i32>> {
        self.map().local_ids()
    }

    /// With its inputs.
    pub fn problem(self) -> GateMapProblem {
        GateMapProblem { case: self, gate: self.gate.problem(), local_ids: self.local_ids() }
    }
}

impl Case for GateMapCase {
    fn operation(&self) -> &'static str {
        "gate_map"
    }

    fn title(&self) -> String {
        let local = if self.local.is_some() { ", some experts elsewhere" } else { "" };
        format!("{}, and map{local}", self.gate.title())
    }

    fn shape(&self) -> String {
        self.gate.shape()
    }

    fn label(&self) -> String {
        format!("{}_{}", self.gate.label(), self.map().rows_label())
    }

    fn data(&self) -> String {
        self.gate.data()
    }

    fn work(&self) -> Work {
        let (gate, map) = (self.gate.work(), self.map().work());
        Work { flops: gate.flops, bytes: gate.bytes + map.bytes }
    }

    fn kernels(&self, device: &Device) -> Result<Vec<String>> {
        let apart = [self.gate.kernels(device)?, self.map().kernels(device)?].concat();
        let fused = self.launched(device)?.into_iter().filter(|kernel| !apart.contains(kernel));
        Ok(apart.iter().cloned().chain(fused).collect())
    }

    fn launched(&self, device: &Device) -> Result<Vec<String>> {
        let choice = GateMap::plan(device, self.spec())?.choice().to_string();
        Ok(choice.split(" + ").map(str::to_owned).collect())
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        let mut case = *self;
        case.gate.seed = case.gate.seed.wrapping_add(by);
        Box::new(case)
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// A router and its map with their inputs.
#[derive(Debug, Clone)]
pub struct GateMapProblem {
    pub case: GateMapCase,
    pub gate: GateProblem,
    pub local_ids: Option<Vec<i32>>,
}

impl Problem for GateMapProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(GateMapRun::new(self, arena)?))
    }
}

/// A router and its map on a device.
pub struct GateMapRun {
    problem: Arc<GateMapProblem>,
    pub plan: GateMap,
    pub operands: GateMapOperands,
}

pub struct GateMapOperands {
    gate: GateOperands,
    local_ids: Option<IndexOperand>,
    mapping: MappingOperands,
}

/// What a plan is given.
pub struct GateMapCall<'a> {
    pub gate: GateCall<'a>,
    pub local_ids: Option<Indices<'a>>,
    pub mapping: Mapping<'a>,
}

impl GateMapCall<'_> {
    /// Enqueues the plan.
    ///
    /// # Errors
    /// Of the plan.
    ///
    /// # Panics
    /// Where logits are given.
    pub fn run(self, plan: &GateMap, stream: Stream<'_>) -> Result<(), Error> {
        let Self { gate: GateCall { from, routing }, local_ids, mapping } = self;
        let GateFrom::Hidden { hidden, weight, scratch } = from else { panic!("logits are made") };
        match weight {
            GateWeights::F32(weight) => {
                plan.run(stream, GateMapArgs { hidden, weight, routing, local_ids, mapping, scratch })
            }
            GateWeights::Bf16(weight) => {
                plan.run(stream, GateMapArgs { hidden, weight, routing, local_ids, mapping, scratch })
            }
        }
    }
}

impl GateMapRun {
    pub fn new(problem: Arc<GateMapProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let plan = GateMap::plan(arena.device(), problem.case.spec())?;
        let operands = GateMapOperands {
            gate: GateOperands::new(&problem.gate, arena, plan.scratch_bytes())?,
            mapping: MappingOperands::new(plan.map(), arena)?,
            local_ids: of_local(problem.local_ids.as_deref(), arena)?,
        };
        Ok(Self { problem, plan, operands })
    }

    /// The map of the experts that were chosen.
    fn expected(&self) -> Result<Mapped> {
        Ok(expected(self.plan.map(), &self.operands.gate.ids()?, self.problem.local_ids.as_deref()))
    }
}

impl GateMapOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<GateMapCall<'_>, Error> {
        let local_ids = self.local_ids.as_ref().map(IndexOperand::indices).transpose()?;
        Ok(GateMapCall { gate: self.gate.args()?, local_ids, mapping: self.mapping.args()? })
    }
}

impl Prepared for GateMapRun {
    fn instance(&self) -> String {
        self.plan.choice().to_string()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.operands.args()?.run(&self.plan, stream)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok([self.operands.gate.outputs()?, self.operands.mapping.outputs()?].concat())
    }

    fn writable(&self) -> Result<Vec<Output>> {
        let mut written = self.outputs()?;
        written.push(self.operands.gate.scratch()?);
        Ok(written)
    }

    /// The choice by the gate's references, then the map by the map's, of the experts that were chosen.
    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let choice = self.operands.gate.judge(&self.problem.gate, scrutiny)?;
        Ok([choice, self.operands.mapping.judge(&self.expected()?)?].concat())
    }

    fn faults(&self) -> DataFaults {
        self.problem.gate.faults() | faults_of(&self.expected().expect("the ids"))
    }
}
