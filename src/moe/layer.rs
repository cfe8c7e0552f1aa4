//! One layer of routed experts, from hidden states to their combined output:
//!
//! ```text
//! gate -> expert map -> gather + cast -> grouped GEMM -> SwiGLU + cast -> grouped GEMM -> combine
//! ```
//!
//! Ten launches in one stream; sizes that depend on the routing stay on the device.

use float8::F8E4M3;
use half::bf16;

use super::combine::{Combine, CombineArgs, CombineSpec};
use super::expert_map::{ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec};
use super::gather_quantize::{GatherQuantize, GatherQuantizeArgs, GatherQuantizeSpec};
use super::swiglu_quantize::{SwigluQuantize, SwigluQuantizeArgs, SwigluQuantizeSpec};
use crate::device::Buffer;
use crate::device::LastUse;
use crate::device::{Device, Stream};
use crate::error::{Error, Result};
use crate::gemm::Segments;
use crate::gemm::{GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec};
use crate::launch::check_multiple;
use crate::quant::ScaleFormat;
use crate::quant::{BLOCK, MMajor, Scales1x128, Scales1x128Mut};
use crate::router::{Gate, GateInput, GateSpec, GateWeight, Routing};
use crate::tensor::{Matrix, MatrixMut, Slice};

/// A layer of routed experts and the tokens it sees at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MoeLayerSpec {
    /// The router; `shared` is 0, for a shared expert is a dense layer and enters as [`MoeLayerArgs::shared`]. Its
    /// hidden size is a multiple of 128.
    pub gate: GateSpec,
    /// Width of an expert: a multiple of 128.
    pub intermediate: usize,
    /// Clamp of the SwiGLU, see [`SwigluQuantizeSpec`].
    pub clamp: Option<f32>,
    /// Scales of the activations.
    pub format: ScaleFormat,
}

/// The weights of one projection of all experts, quantised.
#[derive(Debug)]
pub struct ExpertWeights<'a> {
    /// `[experts * n, k]`: the experts' matrices below each other.
    pub weight: Matrix<'a, F8E4M3>,
    /// `[experts * ceil(n/128), k/128]`.
    pub scales: Matrix<'a, f32>,
}

/// Operands of a layer.
#[derive(Debug)]
pub struct MoeLayerArgs<'a, W> {
    /// `[tokens, hidden]`.
    pub hidden: Matrix<'a, bf16>,
    /// The router's weight `[experts, hidden]`.
    pub gate: Matrix<'a, W>,
    /// The router's bias `[experts]`, for the choice only.
    pub bias: Option<Slice<'a, f32>>,
    /// Gate and up: n = 2 * intermediate (the gate first), k = hidden.
    pub gate_up: ExpertWeights<'a>,
    /// Down: n = hidden, k = intermediate.
    pub down: ExpertWeights<'a>,
    /// `[tokens, hidden]`: the output of the shared experts.
    pub shared: Option<Matrix<'a, bf16>>,
    /// `[tokens, hidden]`.
    pub residual: Option<Matrix<'a, bf16>>,
    /// `[tokens, hidden]`.
    pub out: MatrixMut<'a, bf16>,
}

/// A planned layer with the memory that its steps hand on: `run` allocates nothing.
#[derive(Debug)]
pub struct MoeLayer {
    spec: MoeLayerSpec,
    gate: Gate,
    map: ExpertMap,
    gather: GatherQuantize,
    gate_up: GroupedFp8Gemm,
    swiglu: SwigluQuantize,
    down: GroupedFp8Gemm,
    combine: Combine,
    memory: Memory,
}

/// What a step leaves for the next. Rows are routes sorted by expert.
#[derive(Debug)]
struct Memory {
    last_use: LastUse,
    logits: Buffer<f32>,
    ids: Buffer<i32>,
    weights: Buffer<f32>,
    row_route: Buffer<i32>,
    route_row: Buffer<i32>,
    offsets: Buffer<i32>,
    counts: Buffer<i32>,
    demand: Buffer<i32>,
    map: Buffer<u32>,
    /// `[rows, hidden]` and its scales.
    x: Buffer<F8E4M3>,
    sfx: Buffer<f32>,
    /// `[rows, 2 * intermediate]`.
    gate_up: Buffer<bf16>,
    /// `[rows, intermediate]` and its scales.
    h: Buffer<F8E4M3>,
    sfh: Buffer<f32>,
    /// `[rows, hidden]`.
    y: Buffer<bf16>,
}

impl Memory {
    fn new(device: &Device, spec: &MoeLayerSpec, gate: &Gate, map: &ExpertMap) -> Result<Self> {
        let MoeLayerSpec { gate: GateSpec { tokens, hidden, experts, top_k, .. }, intermediate, .. } = *spec;
        let (routes, rows, pitch) = (tokens * top_k, map.spec().rows(), scale_pitch(map.spec().rows()));
        Ok(Self {
            last_use: LastUse::new(device)?,
            logits: device.upload(&vec![0.0; gate.workspace_len()])?,
            ids: device.upload(&vec![0; routes])?,
            weights: device.upload(&vec![0.0; routes])?,
            row_route: device.upload(&vec![0; rows])?,
            route_row: device.upload(&vec![0; routes])?,
            offsets: device.upload(&vec![0; experts + 1])?,
            counts: device.upload(&vec![0; experts])?,
            demand: device.upload(&vec![0; experts + 1])?,
            map: device.upload(&vec![0; map.workspace()])?,
            x: device.upload(&vec![F8E4M3::ZERO; rows * hidden])?,
            sfx: device.upload(&vec![0.0; hidden / BLOCK * pitch])?,
            gate_up: device.upload(&vec![bf16::ZERO; rows * 2 * intermediate])?,
            h: device.upload(&vec![F8E4M3::ZERO; rows * intermediate])?,
            sfh: device.upload(&vec![0.0; intermediate / BLOCK * pitch])?,
            y: device.upload(&vec![bf16::ZERO; rows * hidden])?,
        })
    }
}

/// Rows of scales start at multiples of 16 bytes.
fn scale_pitch(rows: usize) -> usize {
    rows.next_multiple_of(4)
}

impl MoeLayer {
    /// Plans every step and allocates what lies between them, ready for any stream. Runs of one layer follow one another, on
    /// whatever streams they are, and its memory is freed behind the last; in a capture see [`Stream`].
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] for the hidden size and the width, [`Error::TooLarge`], [`Error::OutOfRange`] for a gate with
    /// shared routes or without groups, driver errors.
    pub fn plan(device: &Device, spec: MoeLayerSpec) -> Result<Self> {
        let MoeLayerSpec { gate: GateSpec { tokens, hidden, experts, top_k, shared, .. }, .. } = spec;
        let MoeLayerSpec { intermediate, clamp, format, .. } = spec;
        check_multiple("hidden", hidden, BLOCK)?;
        check_multiple("intermediate", intermediate, BLOCK)?;
        if shared > 0 {
            let (what, got) = ("shared routes of a layer's gate", shared.to_string());
            return Err(Error::OutOfRange { what, expected: "0", got });
        }
        let gate = Gate::plan(device, spec.gate)?;
        let map =
            ExpertMap::plan(device, ExpertMapSpec { tokens, top_k, experts, layout: ExpertLayout::Ragged })?;
        let rows = map.spec().rows();
        let segments = Segments::Ragged { rows };
        let expected_rows = rows.div_ceil(experts.max(1));
        let gemm = |n, k| {
            GroupedFp8Gemm::plan(device, GroupedFp8GemmSpec { experts, n, k, segments, expected_rows })
        };
        Ok(Self {
            gather: GatherQuantize::plan(
                device,
                GatherQuantizeSpec { tokens, top_k, hidden, experts, segments, format },
            )?,
            gate_up: gemm(2 * intermediate, hidden)?,
            swiglu: SwigluQuantize::plan(
                device,
                SwigluQuantizeSpec { intermediate, experts, segments, clamp, format },
            )?,
            down: gemm(hidden, intermediate)?,
            combine: Combine::plan(device, CombineSpec { tokens, top_k, hidden, rows })?,
            memory: Memory::new(device, &spec, &gate, &map)?,
            gate,
            map,
            spec,
        })
    }

    /// Enqueues the layer on `stream` and returns: nothing is allocated, nothing waits, and a captured graph follows the
    /// routing of whatever hidden states it finds.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// What its steps answer to their operands. Operands are checked step by step, so a wrong one is found when earlier
    /// steps are already enqueued; `out` is written by the last step only.
    pub fn run<'s, W: GateWeight>(
        &mut self,
        stream: impl Into<Stream<'s>>,
        args: MoeLayerArgs<'_, W>,
    ) -> Result<()> {
        let stream = stream.into();
        self.memory.last_use.precede(stream)?;
        let enqueued = self.enqueue(stream, args);
        // What is enqueued uses the memory, even if a later step failed.
        let recorded = self.memory.last_use.record(stream);
        enqueued.and(recorded)
    }

    fn enqueue<W: GateWeight>(&mut self, stream: Stream<'_>, args: MoeLayerArgs<'_, W>) -> Result<()> {
        let MoeLayerArgs { hidden, gate, bias, gate_up, down, shared, residual, out } = args;
        self.route(stream, &hidden, gate, bias)?;
        self.compute(stream, hidden, gate_up, down)?;
        let GateSpec { tokens, top_k, .. } = self.spec.gate;
        let m = &self.memory;
        let combined = CombineArgs {
            y: Matrix::new(&m.y, self.map.spec().rows(), self.spec.gate.hidden)?,
            route_row: Matrix::new(&m.route_row, tokens, top_k)?,
            weights: Some(Matrix::new(&m.weights, tokens, top_k)?),
            shared,
            residual,
            out,
        };
        self.combine.run(stream, combined)
    }

    /// Who goes where: ids, weights, and the map in both directions.
    fn route<W: GateWeight>(
        &mut self,
        stream: Stream<'_>,
        hidden: &Matrix<'_, bf16>,
        weight: Matrix<'_, W>,
        bias: Option<Slice<'_, f32>>,
    ) -> Result<()> {
        let GateSpec { tokens, experts, top_k, .. } = self.spec.gate;
        let (rows, workspace) = (self.map.spec().rows(), self.map.workspace());
        let m = &mut self.memory;
        let input = GateInput { hidden: hidden.clone(), weight, workspace: m.logits.slice_mut(0) };
        let routing = Routing {
            bias,
            mask: None,
            fixed_ids: None,
            ids: MatrixMut::new(&mut m.ids, tokens, top_k)?,
            weights: MatrixMut::new(&mut m.weights, tokens, top_k)?,
            scores: None,
        };
        self.gate.run(stream, input, routing)?;
        let args = ExpertMapArgs {
            ids: Matrix::new(&m.ids, tokens, top_k)?,
            row_route: MatrixMut::new(&mut m.row_route, 1, rows)?,
            route_row: MatrixMut::new(&mut m.route_row, tokens, top_k)?,
            offsets: MatrixMut::new(&mut m.offsets, 1, experts + 1)?,
            counts: MatrixMut::new(&mut m.counts, 1, experts)?,
            demand: MatrixMut::new(&mut m.demand, 1, experts + 1)?,
            workspace: MatrixMut::new(&mut m.map, 1, workspace)?,
        };
        self.map.run(stream, args)
    }

    /// What the experts make of their rows.
    fn compute(
        &mut self,
        stream: Stream<'_>,
        x: Matrix<'_, bf16>,
        gate_up: ExpertWeights<'_>,
        down: ExpertWeights<'_>,
    ) -> Result<()> {
        let (hidden, width, experts) =
            (self.spec.gate.hidden, self.spec.intermediate, self.spec.gate.experts);
        let rows = self.map.spec().rows();
        let pitch = scale_pitch(rows);
        let m = &mut self.memory;
        let segments = Matrix::new(&m.offsets, 1, experts + 1)?;

        let gathered = GatherQuantizeArgs {
            x,
            row_route: Matrix::new(&m.row_route, 1, rows)?,
            segments: segments.clone(),
            q: MatrixMut::new(&mut m.x, rows, hidden)?,
            sf: Scales1x128Mut::<MMajor>::with_pitch(&mut m.sfx, rows, hidden, pitch)?,
        };
        self.gather.run(stream, gathered)?;

        let first = GroupedFp8GemmArgs {
            a: Matrix::new(&m.x, rows, hidden)?,
            sfa: Scales1x128::<MMajor>::with_pitch(&m.sfx, rows, hidden, pitch)?,
            b: gate_up.weight,
            sfb: gate_up.scales,
            segments: segments.clone(),
            d: MatrixMut::new(&mut m.gate_up, rows, 2 * width)?,
        };
        self.gate_up.run(stream, first)?;

        let activated = SwigluQuantizeArgs {
            x: Matrix::new(&m.gate_up, rows, 2 * width)?,
            segments: segments.clone(),
            routing: None,
            q: MatrixMut::new(&mut m.h, rows, width)?,
            sf: Scales1x128Mut::<MMajor>::with_pitch(&mut m.sfh, rows, width, pitch)?,
        };
        self.swiglu.run(stream, activated)?;

        let second = GroupedFp8GemmArgs {
            a: Matrix::new(&m.h, rows, width)?,
            sfa: Scales1x128::<MMajor>::with_pitch(&m.sfh, rows, width, pitch)?,
            b: down.weight,
            sfb: down.scales,
            segments,
            d: MatrixMut::new(&mut m.y, rows, hidden)?,
        };
        self.down.run(stream, second)
    }
}
