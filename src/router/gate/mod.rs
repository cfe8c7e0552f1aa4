//! The router of a mixture of experts: logits in FP32, scores, groups, the best K experts of a token and their weights.
//!
//! * Logits are sums of FP32 FMAs in an order that depends on the hidden size alone: chains of 1024 elements, ascending,
//!   and their sums in ascending order. A token's experts do not depend on the tokens beside it.
//! * Scores are `sigmoid(logit)`, `softmax(logits)` or `sqrt(softplus(logit))`, in FP32, with an `exp` and a `log1p` that have the
//!   same bits on every machine.
//! * The bias is added for the choice only; the weights come from the scores without it.
//! * A group is scored by its best expert or by the sum of its two best (its only one, where there is one); experts
//!   outside the best groups are out.
//! * Of equals, experts or groups, the lowest index wins. NaN and -Inf are never chosen. Where fewer than K experts are
//!   left, the remaining ids are -1 and their weights 0.
//! * Logits that are not finite, but for padding's, and a bias of NaN or +Inf are reported; one of -Inf leaves an expert out.
//! * A token's weights are `s / (sum of its K scores + 1e-20) * route_scale`, summed in the order of the routes, or
//!   `s * route_scale` without normalisation.

mod spec;

use half::bf16;

use crate::device::bindings::{
    GATE_GROUP_MAX, GATE_GROUP_TOP2_SUM, GATE_SIGMOID, GATE_SOFTMAX, GATE_SQRT_SOFTPLUS, GateLogitsParams,
    GateSelectParams,
};
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{Kernel, KernelParams, Launch, Layout, MAX_GRID, check_limit, optional};
use crate::table::router::{GATE_SELECT_TOKENS, gate_logits, gate_select};
use crate::tensor::Element;
use crate::tensor::{Indices, Matrix, MatrixMut, SliceMut, Vector};

pub use spec::{GateSpec, GroupScore, Scoring};

/// Type of the router's weight: [`f32`] or [`bf16`].
pub trait GateWeight: Element + sealed::Weight {}
impl GateWeight for f32 {}
impl GateWeight for bf16 {}

mod sealed {
    pub trait Weight {
        const IS_BF16: bool;
    }
    impl Weight for f32 {
        const IS_BF16: bool = false;
    }
    impl Weight for half::bf16 {
        const IS_BF16: bool = true;
    }
}

/// Operands of [`Gate::run`].
#[derive(Debug)]
pub struct GateArgs<'a, W> {
    /// Hidden states `[tokens, hidden]`; 16-byte aligned address and pitch.
    pub hidden: Matrix<'a, bf16>,
    /// The router's weight `[experts, hidden]`; 16-byte aligned address and pitch.
    pub weight: Matrix<'a, W>,
    /// See [`Gate::scratch_bytes`].
    pub scratch: SliceMut<'a, u8>,
    /// The choice.
    pub routing: Routing<'a>,
}

/// Operands of [`Gate::select`].
#[derive(Debug)]
pub struct GateSelectArgs<'a> {
    /// `[tokens, experts]`.
    pub logits: Matrix<'a, f32>,
    /// The choice.
    pub routing: Routing<'a>,
}

/// Where the choice goes, and what it depends on besides the logits.
#[derive(Debug)]
pub struct Routing<'a> {
    /// `[experts]`: added to the scores for the choice only. -Inf leaves an expert out.
    pub bias: Option<Vector<'a, f32>>,
    /// `[tokens]`; a token whose word is 0 is padding: its ids are -1, its weights 0, shared experts included.
    pub mask: Option<Vector<'a, u32>>,
    /// `[tokens, top_k]`: the choice of another run, kept; only the weights are computed. -1 stays -1 with weight 0; other
    /// ids of no expert become -1 and [`Device::poll_error`] tells. An expert whose score is NaN has weight 0.
    pub fixed_ids: Option<Indices<'a>>,
    /// `[tokens, top_k + shared]`: the best expert first.
    pub ids: MatrixMut<'a, i32>,
    /// `[tokens, top_k + shared]`.
    pub weights: MatrixMut<'a, f32>,
    /// `[tokens, experts]`: all scores, without the bias, padding included; what a balance loss needs.
    pub scores: Option<MatrixMut<'a, f32>>,
}

/// The router.
#[derive(Debug)]
pub struct Gate {
    device: Device,
    logits: Kernel<GateLogitsParams>,
    select: Kernel<GateSelectParams>,
    spec: GateSpec,
}

/// Tokens of a CTA that selects: a warp each.
const TOKENS_PER_CTA: usize = GATE_SELECT_TOKENS as usize;

impl Gate {
    /// Checks the router's sizes; pure, apart from looking the kernels up.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: GateSpec) -> Result<Self> {
        spec.check()?;
        let logits = Kernel::load(device, gate_logits(spec.tokens).0)?;
        let select = Kernel::load(device, gate_select(spec.experts))?;
        let gate = Self { device: device.clone(), logits, select, spec };
        check_limit("CTAs of the gate", gate.logits_grid() as u64, MAX_GRID)?;
        Ok(gate)
    }

    /// Bytes of scratch, from a multiple of [`SCRATCH_ALIGN`](crate::SCRATCH_ALIGN) on: a logit per chunk of 1024, token and
    /// expert. What it holds does not matter, before or after.
    pub fn scratch_bytes(&self) -> usize {
        self.spec.chunks() * self.spec.tokens * self.spec.experts * size_of::<f32>()
    }

    fn logits_grid(&self) -> usize {
        let GateSpec { tokens, experts, .. } = self.spec;
        let (_, [block_tokens, block_experts]) = gate_logits(tokens);
        tokens.div_ceil(block_tokens as usize) * experts.div_ceil(block_experts as usize) * self.spec.chunks()
    }

    /// Enqueues `hidden . weight^T -> ids, weights`: two launches, the second of which sums the chunks. [`Device::poll_error`]
    /// tells of scores that are not finite.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s, W: GateWeight>(
        &self,
        stream: impl Into<Stream<'s>>,
        mut args: GateArgs<'_, W>,
    ) -> Result<()> {
        self.enqueue(stream.into(), &mut args)
    }

    pub(crate) fn enqueue<W: GateWeight>(
        &self,
        stream: Stream<'_>,
        args: &mut GateArgs<'_, W>,
    ) -> Result<()> {
        // What is wrong with the second launch's operands is found before the first one.
        let mut select = Launch::new(&self.device, &self.select, stream)?;
        let params = self.params(&mut select, &mut args.routing)?;
        self.enqueue_logits(stream, &args.hidden, &args.weight, &mut args.scratch)?;
        let params = self.by_logits(params, &mut select, &mut args.scratch)?;
        select.run(self.select_grid(), &params)
    }

    /// Enqueues the first launch of a run, which leaves the logits' chunks in the scratch.
    pub(crate) fn enqueue_logits<W: GateWeight>(
        &self,
        stream: Stream<'_>,
        hidden: &Matrix<'_, bf16>,
        weight: &Matrix<'_, W>,
        scratch: &mut SliceMut<'_, u8>,
    ) -> Result<()> {
        let GateSpec { tokens, hidden: k, experts, .. } = self.spec;
        let mut launch = Launch::new(&self.device, &self.logits, stream)?;
        let x = launch.read(hidden, Layout::matrix("hidden [tokens, hidden]", [tokens, k]).aligned(16))?;
        let w = launch.read(weight, Layout::matrix("weight [experts, hidden]", [experts, k]).aligned(16))?;
        let params = GateLogitsParams {
            x: x.pointer,
            w: w.pointer.cast(),
            partial: launch.scratch(scratch, self.scratch_bytes())?.cast(),
            x_pitch: x.pitch(),
            w_pitch: w.pitch(),
            t: tokens as u32,
            experts: experts as u32,
            k: k as u32,
            w_is_bf16: W::IS_BF16.into(),
        };
        launch.run(self.logits_grid() as u32, &params)
    }

    /// The choice by the chunks that the first launch leaves.
    pub(crate) fn by_logits<'l, P: KernelParams>(
        &self,
        params: GateSelectParams,
        launch: &mut Launch<'l, P>,
        scratch: &'l mut SliceMut<'_, u8>,
    ) -> Result<GateSelectParams> {
        let GateSpec { tokens, experts, .. } = self.spec;
        Ok(GateSelectParams {
            logits: launch.scratch(scratch, self.scratch_bytes())?.cast_const().cast(),
            logits_pitch: experts as u64,
            chunks: self.spec.chunks() as u32,
            chunk_stride: (tokens * experts) as u64,
            ..params
        })
    }

    /// Enqueues the choice from logits that were computed elsewhere.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn select<'s>(&self, stream: impl Into<Stream<'s>>, args: GateSelectArgs<'_>) -> Result<()> {
        let GateSpec { tokens, experts, .. } = self.spec;
        let GateSelectArgs { logits, mut routing } = args;
        let mut select = Launch::new(&self.device, &self.select, stream.into())?;
        let rest = self.params(&mut select, &mut routing)?;
        let logits = select.read(&logits, Layout::matrix("logits [tokens, experts]", [tokens, experts]))?;
        let params =
            GateSelectParams { logits: logits.pointer, logits_pitch: logits.pitch(), chunks: 1, ..rest };
        select.run(self.select_grid(), &params)
    }

    /// Routed experts.
    pub(crate) fn experts(&self) -> usize {
        self.spec.experts
    }

    fn select_grid(&self) -> u32 {
        self.spec.tokens.div_ceil(TOKENS_PER_CTA) as u32
    }

    /// The choice, which lacks nothing but the logits: `[chunks, tokens, pitch]`.
    pub(crate) fn params<'l, P: KernelParams>(
        &self,
        launch: &mut Launch<'l, P>,
        routing: &'l mut Routing<'_>,
    ) -> Result<GateSelectParams> {
        let spec = &self.spec;
        let GateSpec { tokens, experts, top_k, .. } = *spec;
        let Routing { bias, mask, fixed_ids, ids, weights, scores } = routing;
        let of_routes = |axes| Layout::matrix(axes, [tokens, spec.routes()]);
        let fixed_layout = Layout::matrix("fixed_ids [tokens, top_k]", [tokens, top_k]);
        let scores_layout = Layout::matrix("scores [tokens, experts]", [tokens, experts]);
        let ids = launch.write(ids, of_routes("ids [tokens, top_k + shared]"))?;
        let weights = launch.write(weights, of_routes("weights [tokens, top_k + shared]"))?;
        let fixed_ids = fixed_ids.as_ref().map(|ids| launch.indices(ids, fixed_layout)).transpose()?;
        let scores = optional(scores.as_mut(), |scores| launch.write(scores, scores_layout))?;
        let bias_layout = Layout::vector("bias [experts]", experts);
        let bias = optional(bias.as_ref(), |bias| launch.read(bias, bias_layout))?;
        let mask_layout = Layout::vector("mask [tokens]", tokens);
        let mask = optional(mask.as_ref(), |mask| launch.read(mask, mask_layout))?;
        Ok(GateSelectParams {
            bias: bias.pointer,
            mask: mask.pointer,
            fixed_ids: fixed_ids.unwrap_or_default(),
            scores: scores.pointer,
            scores_pitch: scores.pitch(),
            ids: ids.pointer,
            ids_pitch: ids.pitch(),
            weights: weights.pointer,
            weights_pitch: weights.pitch(),
            error_words: launch.error_words(),
            t: tokens as u32,
            experts: experts as u32,
            groups: spec.groups as u32,
            kept_groups: spec.kept_groups as u32,
            top_k: top_k as u32,
            shared: spec.shared as u32,
            scoring: match spec.scoring {
                Scoring::Sigmoid => GATE_SIGMOID,
                Scoring::Softmax => GATE_SOFTMAX,
                Scoring::SqrtSoftplus => GATE_SQRT_SOFTPLUS,
            },
            group_score: match spec.group_score {
                GroupScore::Max => GATE_GROUP_MAX,
                GroupScore::TopTwoSum => GATE_GROUP_TOP2_SUM,
            },
            normalize: spec.normalize.into(),
            route_scale: spec.route_scale,
            ..Default::default()
        })
    }
}
