//! The router and the expert map behind it: from hidden states to the experts of every token, their weights, and rows sorted
//! by expert.
//!
//! What [`Gate`] and [`ExpertMap`] compute, to the bit. Few tokens take two launches: the logits, and all the rest by one
//! cluster of CTAs. Many take the five of the two operations, which use the whole GPU.

use std::fmt;

use half::bf16;

use super::expert_map::{ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec, Mapping};
use crate::device::bindings::GateMapParams;
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{Kernel, KernelRow, Launch, Pieces};
use crate::router::{Gate, GateArgs, GateSpec, GateWeight, Routing};
use crate::setters::setters;
use crate::table::moe::{self, GATE_MAP_CLUSTER, GATE_MAP_ROWS, GATE_MAP_TOKENS};
use crate::table::router::{GATE_EXPERTS, gate_logits, gate_select};
use crate::tensor::{Indices, Matrix, SliceMut};

const GATE_MAP: KernelRow<GateMapParams> = KernelRow::of(moe::GATE_MAP);

/// A router, and where the rows of its experts lie.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GateMapSpec {
    /// The router.
    pub gate: GateSpec,
    /// Experts that have rows, as in [`ExpertMapSpec`]; None: all have, the shared ones included.
    pub local_experts: Option<usize>,
    /// Where the rows of an expert lie.
    pub layout: ExpertLayout,
}

impl GateMapSpec {
    /// All experts, segments without gaps.
    pub const fn new(gate: GateSpec) -> Self {
        Self { gate, local_experts: None, layout: ExpertLayout::Ragged }
    }

    /// The map: of all experts and routes, the shared ones included, which are the last.
    pub fn map(&self) -> ExpertMapSpec {
        let GateSpec { tokens, experts, shared, .. } = self.gate;
        let experts = experts.saturating_add(shared);
        let map = ExpertMapSpec::new(tokens, self.gate.routes(), experts);
        map.local_experts(self.local_experts).layout(self.layout)
    }
}

setters!(GateMapSpec { local_experts: Option<usize>, layout: ExpertLayout });

/// Operands of a gate with its map.
#[derive(Debug)]
pub struct GateMapArgs<'a, W> {
    /// Hidden states `[tokens, hidden]`; 16-byte aligned address and pitch.
    pub hidden: Matrix<'a, bf16>,
    /// The router's weight `[experts, hidden]`; 16-byte aligned address and pitch.
    pub weight: Matrix<'a, W>,
    /// The choice.
    pub routing: Routing<'a>,
    /// `[experts + shared]`, if the spec has local experts, as in [`ExpertMapArgs::local_ids`].
    pub local_ids: Option<Indices<'a>>,
    /// The map of the choice: `top_k` and experts are those of [`GateMapSpec::map`].
    pub mapping: Mapping<'a>,
    /// See [`GateMap::scratch_bytes`].
    pub scratch: SliceMut<'a, u8>,
}

/// What the map has besides the ids.
struct Placing<'a> {
    local_ids: Option<Indices<'a>>,
    mapping: Mapping<'a>,
    scratch: SliceMut<'a, u8>,
}

/// A planned gate with its map.
#[derive(Debug)]
pub struct GateMap {
    device: Device,
    gate: Gate,
    map: ExpertMap,
    /// The launch behind the logits, of few tokens.
    fused: Option<Kernel<GateMapParams>>,
    scratch_bytes: usize,
}

impl GateMap {
    /// Chooses the launches for a shape: one behind the logits for up to 128 tokens and 512 experts, unless there are far more rows
    /// than routes to be cleared.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: GateMapSpec) -> Result<Self> {
        let gate = Gate::plan(device, spec.gate)?;
        let map = ExpertMap::plan(device, spec.map())?;
        let few = spec.gate.tokens <= GATE_MAP_TOKENS as usize
            && spec.gate.experts <= GATE_EXPERTS as usize
            && spec.map().rows() <= GATE_MAP_ROWS as usize;
        let fused = few.then(|| GATE_MAP.load(device)).transpose()?;
        let mut plan = Self { device: device.clone(), gate, map, fused, scratch_bytes: 0 };
        let mut counted = Pieces::counted();
        plan.memory(&mut counted)?;
        plan.scratch_bytes = counted.bytes();
        Ok(plan)
    }

    /// The map's shape.
    pub fn map(&self) -> &ExpertMapSpec {
        self.map.spec()
    }

    /// The map itself.
    pub(super) fn planned_map(&self) -> &ExpertMap {
        &self.map
    }

    /// The kernels that a run launches, in their order.
    pub fn choice(&self) -> impl fmt::Display {
        self.launches().join(" + ")
    }

    pub(super) fn launches(&self) -> Vec<&'static str> {
        let logits = gate_logits(self.map().tokens).0;
        let select = gate_select(self.gate.experts());
        let apart = [select, moe::EXPERT_MAP_COUNT, moe::EXPERT_MAP_SCAN, moe::EXPERT_MAP_SCATTER];
        let behind = if self.fused.is_some() { &[moe::GATE_MAP][..] } else { &apart };
        [&[logits], behind].concat().iter().map(|kernel| kernel.name).collect()
    }

    /// Bytes of scratch, from a multiple of [`SCRATCH_ALIGN`](crate::SCRATCH_ALIGN) on: a logit per chunk of 1024, token and
    /// expert, and counts. What it holds does not matter, before or after.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    /// Logits, and counts of the map's blocks.
    fn memory<'a>(&self, pieces: &mut Pieces<'a>) -> Result<[SliceMut<'a, u8>; 2]> {
        let counts = match self.fused {
            Some(_) => self.map.bytes_of_blocks(GATE_MAP_CLUSTER),
            None => self.map.scratch_bytes(),
        };
        Ok([pieces.take(self.gate.scratch_bytes())?, pieces.take(counts)?])
    }

    /// Enqueues logits, choice and map on `stream` and returns. Allocates nothing and waits for nothing.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`]; then nothing was launched. Launch errors.
    pub fn run<'s, W: GateWeight>(
        &self,
        stream: impl Into<Stream<'s>>,
        args: GateMapArgs<'_, W>,
    ) -> Result<()> {
        let stream = stream.into();
        let GateMapArgs { hidden, weight, routing, local_ids, mapping, scratch } = args;
        let [logits, counts] = self.memory(&mut Pieces::of(scratch, self.scratch_bytes)?)?;
        let gate = GateArgs { hidden, weight, scratch: logits, routing };
        let placing = Placing { local_ids, mapping, scratch: counts };
        match &self.fused {
            Some(kernel) => self.run_fused(kernel, stream, gate, placing),
            None => self.run_apart(stream, gate, placing),
        }
    }

    fn run_fused<W: GateWeight>(
        &self,
        kernel: &Kernel<GateMapParams>,
        stream: Stream<'_>,
        mut gate: GateArgs<'_, W>,
        mut placing: Placing<'_>,
    ) -> Result<()> {
        let Placing { local_ids, mapping, scratch } = &mut placing;
        // What is wrong with the second launch's operands is found before the first one.
        let mut launch = Launch::new(&self.device, kernel, stream)?;
        let choice = self.gate.params(&mut launch, &mut gate.routing)?;
        let map = self.map.params(&mut launch, local_ids.as_ref(), mapping, scratch, GATE_MAP_CLUSTER)?;
        self.gate.enqueue_logits(stream, &gate.hidden, &gate.weight, &mut gate.scratch)?;
        let gate = self.gate.by_logits(choice, &mut launch, &mut gate.scratch)?;
        launch.run(GATE_MAP_CLUSTER, &GateMapParams { gate, map })
    }

    fn run_apart<W: GateWeight>(
        &self,
        stream: Stream<'_>,
        mut gate: GateArgs<'_, W>,
        placing: Placing<'_>,
    ) -> Result<()> {
        let Placing { local_ids, mut mapping, mut scratch } = placing;
        let ids = Matrix::from(&gate.routing.ids).into();
        self.map.check(stream, &ids, local_ids.as_ref(), &mut mapping, &mut scratch)?;
        self.gate.enqueue(stream, &mut gate)?;
        let ids = Matrix::from(&gate.routing.ids).into();
        self.map.run(stream, ExpertMapArgs { ids, local_ids, mapping, scratch })
    }
}
