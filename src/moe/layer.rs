//! One layer of routed experts, from hidden states to their combined output:
//!
//! ```text
//! gate -> expert map -> gather + cast -> grouped GEMM + SwiGLU + cast -> grouped GEMM -> combine
//! ```
//!
//! Six launches in one stream, of many tokens nine ([`GateMap`]); sizes that depend on the routing stay on the device.

use float8::F8E4M3;
use half::bf16;

use super::combine::{Combine, CombineArgs, CombineSpec};
use super::expert_map::Mapping;
use super::gate_map::{GateMap, GateMapArgs, GateMapSpec};
use super::gate_up_swiglu::{GateUpSwiglu, GateUpSwigluArgs, GateUpSwigluSpec};
use super::gather_quantize::{GatherQuantize, GatherQuantizeArgs, GatherQuantizeSpec};
use super::swiglu_quantize::GateUpOrder;
use crate::device::{Device, Stream};
use crate::error::{Error, Result};
use crate::gemm::operands::sfb_pitch;
use crate::gemm::{GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec};
use crate::launch::{Layout, Pieces, check_multiple, optional};
use crate::quant::{MMajor, QuantizeRule, Scales1x128, Scales1x128Mut, blocks};
use crate::router::{GateSpec, GateWeight, Routing};
use crate::setters::setters;
use crate::tensor::{Indices, Matrix, MatrixMut, SliceMut, Vector, VectorMut};

/// Codes of a row between two steps lie without gaps, and a GEMM's rows start at multiples of 16 bytes.
const CODE_ALIGN: usize = 16;

/// A layer of routed experts and the tokens it sees at once.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MoeLayerSpec {
    /// The router; `shared` is 0, for a shared expert is a dense layer and enters as [`MoeLayerArgs::shared`]. Its
    /// hidden size is a multiple of 16.
    pub gate: GateSpec,
    /// Experts whose weights are here, no more than the router has; None: all are. The output is then the sum over these alone:
    /// adding up those of all ranks is the engine's, and shared and residual are for one of them.
    pub local_experts: Option<usize>,
    /// Width of an expert: a multiple of 16.
    pub intermediate: usize,
    /// Clamp of the SwiGLU, finite and not negative, see [`GateUpSwigluSpec`].
    pub clamp: Option<f32>,
    /// How activations are quantised, as in [`GateUpSwigluSpec`].
    pub rule: QuantizeRule,
    /// Which half of an expert's first projection is which.
    pub order: GateUpOrder,
}

impl MoeLayerSpec {
    /// All experts, gate first, not clamped, activations quantised by TileKernels' rule.
    pub const fn new(gate: GateSpec, intermediate: usize) -> Self {
        let (rule, order) = (QuantizeRule::TILE_KERNELS, GateUpOrder::GateFirst);
        Self { gate, local_experts: None, intermediate, clamp: None, rule, order }
    }
}

setters!(MoeLayerSpec { local_experts: Option<usize>, clamp: Option<f32>, rule: QuantizeRule, order: GateUpOrder });

/// The weights of one projection of all experts that are here, quantised.
#[derive(Debug, Clone)]
pub struct ExpertWeights<'a> {
    /// `[experts * n, k]`: the experts' matrices below each other.
    pub weight: Matrix<'a, F8E4M3>,
    /// `[experts * ceil(n/128), ceil(k/128)]`; gate and up have rows of their own: `2 * ceil(intermediate/128)`.
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
    pub bias: Option<Vector<'a, f32>>,
    /// `[tokens]`; a token whose word is 0 is padding: it has no experts, and its output is `shared + residual`, as far as they
    /// are given, or 0. Its hidden state may be anything.
    pub mask: Option<Vector<'a, u32>>,
    /// `[experts]` of the router, if the spec has local experts: which of them an id means, or -1 where another rank has it. As
    /// [`ExpertMapArgs::local_ids`](crate::moe::ExpertMapArgs::local_ids).
    pub local_ids: Option<Indices<'a>>,
    /// Gate and up, by [`order`](MoeLayerSpec::order): n = 2 * intermediate, k = hidden.
    pub gate_up: ExpertWeights<'a>,
    /// Down: n = hidden, k = intermediate.
    pub down: ExpertWeights<'a>,
    /// `[tokens, hidden]`: the output of the shared experts.
    pub shared: Option<Matrix<'a, bf16>>,
    /// `[tokens, hidden]`.
    pub residual: Option<Matrix<'a, bf16>>,
    /// See [`MoeLayer::scratch_bytes`].
    pub scratch: SliceMut<'a, u8>,
    /// `[tokens, hidden]`.
    pub out: MatrixMut<'a, bf16>,
}

/// A planned layer.
#[derive(Debug)]
pub struct MoeLayer {
    spec: MoeLayerSpec,
    route: GateMap,
    gather: GatherQuantize,
    gate_up: GateUpSwiglu,
    down: GroupedFp8Gemm,
    combine: Combine,
    scratch_bytes: usize,
}

/// What experts are chosen by, besides the hidden states.
struct Router<'a, W> {
    weight: Matrix<'a, W>,
    bias: Option<Vector<'a, f32>>,
    mask: Option<Vector<'a, u32>>,
    local_ids: Option<Indices<'a>>,
}

/// What a step leaves for the next, in the scratch. Rows are routes sorted by expert.
struct Memory<'a> {
    /// Of the gate and the map.
    route: SliceMut<'a, u8>,
    ids: SliceMut<'a, i32>,
    weights: SliceMut<'a, f32>,
    row_route: SliceMut<'a, i32>,
    route_row: SliceMut<'a, i32>,
    offsets: SliceMut<'a, i32>,
    counts: SliceMut<'a, i32>,
    demand: SliceMut<'a, i32>,
    /// `[rows, hidden]` and its scales.
    x: SliceMut<'a, F8E4M3>,
    sfx: SliceMut<'a, f32>,
    /// `[rows, intermediate]` and its scales.
    h: SliceMut<'a, F8E4M3>,
    sfh: SliceMut<'a, f32>,
    /// `[rows, hidden]`.
    y: SliceMut<'a, bf16>,
}

impl MoeLayer {
    /// Plans every step.
    ///
    /// # Errors
    /// [`Error::Spec`], driver errors.
    pub fn plan(device: &Device, spec: MoeLayerSpec) -> Result<Self> {
        let MoeLayerSpec { gate: GateSpec { tokens, hidden, top_k, shared, .. }, .. } = spec;
        let MoeLayerSpec { intermediate, clamp, rule, order, .. } = spec;
        check_multiple("hidden", hidden, CODE_ALIGN)?;
        check_multiple("intermediate", intermediate, CODE_ALIGN)?;
        if shared > 0 {
            return Err(Error::out_of_range("shared routes of a layer's gate", "0", shared));
        }
        let route = GateMap::plan(device, GateMapSpec::new(spec.gate).local_experts(spec.local_experts))?;
        let (rows, segments, experts) = (route.map().rows(), route.map().segments(), route.map().local());
        let expected_rows = rows.div_ceil(spec.gate.experts.max(1));
        let mut layer = Self {
            gather: GatherQuantize::plan(
                device,
                GatherQuantizeSpec { tokens, top_k, hidden, experts, segments, rule },
            )?,
            gate_up: GateUpSwiglu::plan(
                device,
                GateUpSwigluSpec {
                    experts,
                    intermediate,
                    hidden,
                    segments,
                    expected_rows,
                    clamp,
                    rule,
                    order,
                },
            )?,
            down: GroupedFp8Gemm::plan(
                device,
                GroupedFp8GemmSpec { experts, n: hidden, k: intermediate, segments, expected_rows },
            )?,
            combine: Combine::plan(device, CombineSpec { tokens, top_k, hidden, rows })?,
            scratch_bytes: 0,
            route,
            spec,
        };
        let mut counted = Pieces::counted();
        layer.memory(&mut counted)?;
        layer.scratch_bytes = counted.bytes();
        Ok(layer)
    }

    /// Launches of a run.
    pub fn launches(&self) -> usize {
        // Gather and combine, and the two GEMMs.
        self.route.launches().len() + 4
    }

    /// Bytes of scratch, from a multiple of [`SCRATCH_ALIGN`](crate::SCRATCH_ALIGN) on: what the steps hand on. What it holds
    /// does not matter, before or after, so that layers that run one after another may share it.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    fn memory<'a>(&self, pieces: &mut Pieces<'a>) -> Result<Memory<'a>> {
        let GateSpec { tokens, hidden, top_k, .. } = self.spec.gate;
        let (width, routes, map) = (self.spec.intermediate, tokens * top_k, self.route.map());
        let (rows, experts) = (map.rows(), map.local());
        let scales = |columns| Scales1x128::<MMajor>::elements(rows, columns);
        Ok(Memory {
            route: pieces.take(self.route.scratch_bytes())?,
            ids: pieces.take(routes)?,
            weights: pieces.take(routes)?,
            row_route: pieces.take(rows)?,
            route_row: pieces.take(routes)?,
            offsets: pieces.take(experts + 1)?,
            counts: pieces.take(experts)?,
            demand: pieces.take(experts + 1)?,
            x: pieces.take(rows * hidden)?,
            sfx: pieces.take(scales(hidden))?,
            h: pieces.take(rows * width)?,
            sfh: pieces.take(scales(width))?,
            y: pieces.take(rows * hidden)?,
        })
    }

    /// Enqueues the layer on `stream` and returns: nothing is allocated, nothing waits, and a captured graph follows the
    /// routing of whatever hidden states it finds. [`Device::poll_error`] tells of those that are not finite: a NaN goes to no
    /// expert.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], and [`Error::Spec`] for a pitch of scales beyond 32 bits; then nothing was launched. Launch errors:
    /// earlier steps may be enqueued then.
    pub fn run<'s, W: GateWeight>(
        &self,
        stream: impl Into<Stream<'s>>,
        mut args: MoeLayerArgs<'_, W>,
    ) -> Result<()> {
        let stream = stream.into();
        self.check(stream, &mut args)?;
        let MoeLayerArgs {
            hidden,
            gate,
            bias,
            mask,
            local_ids,
            gate_up,
            down,
            shared,
            residual,
            scratch,
            out,
        } = args;
        let m = &mut self.memory(&mut Pieces::of(scratch, self.scratch_bytes)?)?;
        self.route(stream, m, &hidden, Router { weight: gate, bias, mask, local_ids })?;
        self.compute(stream, m, hidden, gate_up, down)?;
        let GateSpec { tokens, top_k, .. } = self.spec.gate;
        let combined = CombineArgs {
            y: Matrix::new(&m.y, self.route.map().rows(), self.spec.gate.hidden)?,
            route_row: Matrix::new(&m.route_row, tokens, top_k)?,
            weights: Some(Matrix::new(&m.weights, tokens, top_k)?),
            shared,
            residual,
            out,
        };
        self.combine.run(stream, combined)
    }

    /// Fails unless every operand is what the steps ask of it: they would find out one after another.
    fn check<W: GateWeight>(&self, stream: Stream<'_>, args: &mut MoeLayerArgs<'_, W>) -> Result<()> {
        let GateSpec { tokens, hidden, experts, .. } = self.spec.gate;
        let width = self.spec.intermediate;
        let of_tokens = |axes| Layout::matrix(axes, [tokens, hidden]).aligned(16);
        let local = self.route.map().local();
        let of_experts = |axes, n, k| Layout::matrix(axes, [local * n, k]);
        let up = "gate_up.weight [experts * 2 * intermediate, hidden]";
        let up_scales = "gate_up.scales [experts * 2 * ceil(intermediate/128), ceil(hidden/128)]";
        let down = "down.weight [experts * hidden, intermediate]";
        let down_scales = "down.scales [experts * ceil(hidden/128), ceil(intermediate/128)]";

        // A launch checks what it collects; this one goes no further.
        let mut launch = self.combine.launch(stream)?;
        launch.read(&args.hidden, of_tokens("hidden [tokens, hidden]"))?;
        launch.read(&args.gate, Layout::matrix("gate [experts, hidden]", [experts, hidden]).aligned(16))?;
        optional(args.bias.as_ref(), |bias| launch.read(bias, Layout::vector("bias [experts]", experts)))?;
        optional(args.mask.as_ref(), |mask| launch.read(mask, Layout::vector("mask [tokens]", tokens)))?;
        self.route.planned_map().local_ids(&mut launch, args.local_ids.as_ref())?;
        launch.read(&args.gate_up.weight, of_experts(up, 2 * width, hidden).aligned(16))?;
        let scales =
            launch.read(&args.gate_up.scales, of_experts(up_scales, 2 * blocks(width), blocks(hidden)))?;
        sfb_pitch("pitch of gate_up.scales", &scales)?;
        launch.read(&args.down.weight, of_experts(down, hidden, width).aligned(16))?;
        let scales =
            launch.read(&args.down.scales, of_experts(down_scales, blocks(hidden), blocks(width)))?;
        sfb_pitch("pitch of down.scales", &scales)?;
        let shared = of_tokens("shared [tokens, hidden]");
        optional(args.shared.as_ref(), |view| launch.read(view, shared))?;
        let residual = of_tokens("residual [tokens, hidden]");
        optional(args.residual.as_ref(), |view| launch.read(view, residual))?;
        launch.scratch(&mut args.scratch, self.scratch_bytes)?;
        launch.write(&mut args.out, of_tokens("out [tokens, hidden]"))?;
        Ok(())
    }

    /// Who goes where: ids, weights, and the map in both directions.
    fn route<W: GateWeight>(
        &self,
        stream: Stream<'_>,
        m: &mut Memory<'_>,
        hidden: &Matrix<'_, bf16>,
        Router { weight, bias, mask, local_ids }: Router<'_, W>,
    ) -> Result<()> {
        let GateSpec { tokens, top_k, .. } = self.spec.gate;
        let (rows, experts) = (self.route.map().rows(), self.route.map().local());
        let routing = Routing {
            bias,
            mask,
            fixed_ids: None,
            ids: MatrixMut::new(&mut m.ids, tokens, top_k)?,
            weights: MatrixMut::new(&mut m.weights, tokens, top_k)?,
            scores: None,
        };
        let mapping = Mapping {
            row_route: VectorMut::new(&mut m.row_route, rows)?,
            route_row: MatrixMut::new(&mut m.route_row, tokens, top_k)?,
            offsets: VectorMut::new(&mut m.offsets, experts + 1)?,
            counts: VectorMut::new(&mut m.counts, experts)?,
            demand: VectorMut::new(&mut m.demand, experts + 1)?,
        };
        let (hidden, scratch) = (hidden.clone(), (&mut m.route).into());
        self.route.run(stream, GateMapArgs { hidden, weight, routing, local_ids, mapping, scratch })
    }

    /// What the experts make of their rows.
    fn compute(
        &self,
        stream: Stream<'_>,
        m: &mut Memory<'_>,
        x: Matrix<'_, bf16>,
        gate_up: ExpertWeights<'_>,
        down: ExpertWeights<'_>,
    ) -> Result<()> {
        let (hidden, width) = (self.spec.gate.hidden, self.spec.intermediate);
        let (rows, experts) = (self.route.map().rows(), self.route.map().local());
        let segments = Vector::new(&m.offsets, experts + 1)?;

        let gathered = GatherQuantizeArgs {
            x,
            row_route: Vector::new(&m.row_route, rows)?,
            segments: segments.clone(),
            q: MatrixMut::new(&mut m.x, rows, hidden)?,
            sf: Scales1x128Mut::<MMajor>::new(&mut m.sfx, rows, hidden)?,
        };
        self.gather.run(stream, gathered)?;

        let first = GateUpSwigluArgs {
            a: Matrix::new(&m.x, rows, hidden)?,
            sfa: Scales1x128::<MMajor>::new(&m.sfx, rows, hidden)?,
            b: gate_up.weight,
            sfb: gate_up.scales,
            segments: segments.clone(),
            q: MatrixMut::new(&mut m.h, rows, width)?,
            sf: Scales1x128Mut::<MMajor>::new(&mut m.sfh, rows, width)?,
        };
        self.gate_up.run(stream, first)?;

        let second = GroupedFp8GemmArgs {
            a: Matrix::new(&m.h, rows, width)?,
            sfa: Scales1x128::<MMajor>::new(&m.sfh, rows, width)?,
            b: down.weight,
            sfb: down.scales,
            segments,
            d: MatrixMut::new(&mut m.y, rows, hidden)?,
        };
        self.down.run(stream, second)
    }
}
