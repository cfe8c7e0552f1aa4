//! The gate, and the map of what it chose.

mod faults;
mod traced;

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::moe::{ExpertLayout, GateMap, GateMapArgs, GateMapSpec, Mapping};
use deepseek_kernels::{DataFaults, Device, Error, Stream};
use oracles::moe::Mapped;

use super::expert_map::{ExpertMapCase, MappingOperands, expected, faults_of};
use crate::case::{Case, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, Output};
use crate::router::gate::{GateCall, GateCase, GateFrom, GateOperands, GateProblem, GateWeights};

pub use faults::FAULTS;
pub use traced::traced;

/// A router of hidden states, and where its rows lie.
#[derive(Debug, Clone, Copy)]
pub struct GateMapCase {
    pub gate: GateCase,
    pub layout: ExpertLayout,
}

impl GateMapCase {
    /// Segments without a gap.
    pub const fn new(gate: GateCase) -> Self {
        Self { gate, layout: ExpertLayout::Ragged }
    }

    pub fn spec(&self) -> GateMapSpec {
        GateMapSpec::new(self.gate.spec).layout(self.layout)
    }

    /// The map by itself.
    fn map(&self) -> ExpertMapCase {
        ExpertMapCase { spec: self.spec().map(), ..ExpertMapCase::new((0, 0, 0)) }
    }

    /// With its inputs.
    pub fn problem(self) -> GateMapProblem {
        GateMapProblem { case: self, gate: self.gate.problem() }
    }
}

impl Case for GateMapCase {
    fn operation(&self) -> &'static str {
        "gate_map"
    }

    fn title(&self) -> String {
        format!("{}, and map", self.gate.title())
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

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// A router and its map with their inputs.
#[derive(Debug, Clone)]
pub struct GateMapProblem {
    pub case: GateMapCase,
    pub gate: GateProblem,
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
    mapping: MappingOperands,
}

/// What a plan is given.
pub struct GateMapCall<'a> {
    pub gate: GateCall<'a>,
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
        let Self { gate: GateCall { from, routing }, mapping } = self;
        let GateFrom::Hidden { hidden, weight, scratch } = from else { panic!("logits are made") };
        match weight {
            GateWeights::F32(weight) => {
                plan.run(stream, GateMapArgs { hidden, weight, routing, mapping, scratch })
            }
            GateWeights::Bf16(weight) => {
                plan.run(stream, GateMapArgs { hidden, weight, routing, mapping, scratch })
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
        };
        Ok(Self { problem, plan, operands })
    }

    /// The map of the experts that were chosen.
    fn expected(&self) -> Result<Mapped> {
        Ok(expected(self.plan.map(), &self.operands.gate.ids()?))
    }
}

impl GateMapOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<GateMapCall<'_>, Error> {
        Ok(GateMapCall { gate: self.gate.args()?, mapping: self.mapping.args()? })
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
