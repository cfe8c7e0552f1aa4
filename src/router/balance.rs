//! Balancing the experts: count their tokens, move the router's bias, and the loss of a sequence that uses few.
//!
//! After each training step, on the counts of the whole batch: [`ExpertLoad`] per micro-batch, then one [`BiasUpdate`].

use crate::device::bindings::{
    BiasUpdateParams, ExpertLoadParams, MAX_EXPERTS, MAX_GATE_ROUTES, SequenceBalanceLossParams,
};
use crate::device::{Device, Stream};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{
    Kernel, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, check_factor, check_limit, check_not_negative,
    check_range,
};
use crate::table::router;
use crate::tensor::{Indices, Matrix, Vector, VectorMut};

const EXPERT_LOAD: KernelRow<ExpertLoadParams> = KernelRow::of(router::EXPERT_LOAD);
const BIAS_UPDATE: KernelRow<BiasUpdateParams> = KernelRow::of(router::BIAS_UPDATE);

/// The choice to be counted: ids `[tokens, routes]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ExpertLoadSpec {
    /// Any number, 0 included.
    pub tokens: usize,
    /// Routed experts of a token: at most 32, 0 included.
    pub routes: usize,
    /// At most 1024, 0 included.
    pub experts: usize,
}

impl ExpertLoadSpec {
    /// Of ids `[tokens, routes]`.
    pub const fn new(tokens: usize, routes: usize, experts: usize) -> Self {
        Self { tokens, routes, experts }
    }
}

/// Operands of a count.
#[derive(Debug)]
pub struct ExpertLoadArgs<'a> {
    /// `[tokens, routes]`; a pitch leaves out the columns of shared experts. -1 counts for nobody.
    pub ids: Indices<'a>,
    /// `[experts]`: what is added to. Clear them before the first micro-batch of a step.
    pub counts: VectorMut<'a, u32>,
}

/// Counts the tokens of every expert.
#[derive(Debug)]
pub struct ExpertLoad {
    device: Device,
    kernel: Kernel<ExpertLoadParams>,
    spec: ExpertLoadSpec,
    grid: u32,
}

impl ExpertLoad {
    /// Checks the sizes; pure, apart from looking the kernel up.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: ExpertLoadSpec) -> Result<Self> {
        check_limit("tokens", spec.tokens as u64, MAX_DIM)?;
        check_limit("experts of a token", spec.routes as u64, MAX_GATE_ROUTES.into())?;
        check_limit("experts", spec.experts as u64, MAX_EXPERTS.into())?;
        let grid = (spec.tokens as u64 * spec.routes as u64).div_ceil(EXPERT_LOAD.threads().into());
        check_limit("CTAs of the count", grid, MAX_GRID)?;
        Ok(Self { device: device.clone(), kernel: EXPERT_LOAD.load(device)?, spec, grid: grid as u32 })
    }

    /// Enqueues `counts[e] += the number of ids that are e`. Ids of no expert count for nobody, and [`Device::poll_error`]
    /// tells of them.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: ExpertLoadArgs<'_>) -> Result<()> {
        let ExpertLoadSpec { tokens, routes, experts } = self.spec;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let ids = Layout::matrix("ids [tokens, routes]", [tokens, routes]);
        let params = ExpertLoadParams {
            ids: launch.indices(&args.ids, ids)?,
            counts: launch.write(&mut args.counts, Layout::vector("counts [experts]", experts))?.pointer,
            error_words: launch.error_words(),
            t: tokens as u32,
            routes: routes as u32,
            experts: experts as u32,
            ..Default::default()
        };
        launch.run(self.grid, &params)
    }
}

/// The bias to be moved.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct BiasUpdateSpec {
    /// At most 1024, 0 included.
    pub experts: usize,
    /// What is added or subtracted: 0.001 for most of DeepSeek-V3's training, 0 at its end. Finite and not negative: the
    /// load would run away.
    pub speed: f32,
}

impl BiasUpdateSpec {
    /// Of a router's experts.
    pub const fn new(experts: usize, speed: f32) -> Self {
        Self { experts, speed }
    }
}

/// Operands of an update.
#[derive(Debug)]
pub struct BiasUpdateArgs<'a> {
    /// `[experts]`: what [`ExpertLoad`] counted.
    pub counts: Vector<'a, u32>,
    /// `[experts]`.
    pub bias: VectorMut<'a, f32>,
    /// `[1]`: how far the largest count is above the mean, over the mean; 0 when nothing was counted.
    pub max_vio: VectorMut<'a, f32>,
}

/// Moves the router's bias against the load: auxiliary-loss-free balancing.
#[derive(Debug)]
pub struct BiasUpdate {
    device: Device,
    kernel: Kernel<BiasUpdateParams>,
    spec: BiasUpdateSpec,
}

impl BiasUpdate {
    /// Checks the size; pure, apart from looking the kernel up.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: BiasUpdateSpec) -> Result<Self> {
        check_limit("experts", spec.experts as u64, MAX_EXPERTS.into())?;
        check_not_negative("speed", spec.speed)?;
        Ok(Self { device: device.clone(), kernel: BIAS_UPDATE.load(device)?, spec })
    }

    /// Enqueues `bias[e] += speed * sign(mean - counts[e])`, the sign of exact integers and 0 at the mean, and
    /// `max_vio[0] = (largest count - mean) / mean`.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: BiasUpdateArgs<'_>) -> Result<()> {
        let experts = self.spec.experts;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let params = BiasUpdateParams {
            counts: launch.read(&args.counts, Layout::vector("counts [experts]", experts))?.pointer,
            bias: launch.write(&mut args.bias, Layout::vector("bias [experts]", experts))?.pointer,
            max_vio: launch.write(&mut args.max_vio, Layout::vector("max_vio [1]", 1))?.pointer,
            experts: experts as u32,
            speed: self.spec.speed,
        };
        launch.run(1, &params)
    }
}

/// Sequences of one length whose balance is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SequenceBalanceLossSpec {
    /// Any number, 0 included.
    pub sequences: usize,
    /// Tokens of a sequence; 0 gives a loss of 0.
    pub length: usize,
    /// 1 to 1024.
    pub experts: usize,
    /// Routed experts of a token: 1 to 32, and no more than there are.
    pub top_k: usize,
    /// Factor of the loss: 0.0001 in DeepSeek-V3. Not negative, at most 65536; 0 makes it 0.
    pub alpha: f32,
}

impl SequenceBalanceLossSpec {
    /// Of `sequences` of `length` tokens.
    pub const fn new(sequences: usize, length: usize, experts: usize, top_k: usize, alpha: f32) -> Self {
        Self { sequences, length, experts, top_k, alpha }
    }
}

/// Operands of a loss.
#[derive(Debug)]
pub struct SequenceBalanceLossArgs<'a> {
    /// `[sequences * length, experts]`, as [`Gate`](crate::router::Gate) writes them.
    pub scores: Matrix<'a, f32>,
    /// `[sequences]`.
    pub loss: VectorMut<'a, f32>,
}

/// The loss that keeps one sequence from using few experts.
#[derive(Debug)]
pub struct SequenceBalanceLoss {
    device: Device,
    kernel: Kernel<SequenceBalanceLossParams>,
    spec: SequenceBalanceLossSpec,
}

impl SequenceBalanceLoss {
    /// Checks the sizes; pure, apart from looking the kernel up.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: SequenceBalanceLossSpec) -> Result<Self> {
        let SequenceBalanceLossSpec { sequences, length, experts, top_k, alpha } = spec;
        check_limit("sequences", sequences as u64, MAX_GRID)?;
        check_limit("tokens of a sequence", length as u64, MAX_DIM)?;
        check_limit("tokens", (sequences as u64).saturating_mul(length as u64), MAX_DIM)?;
        check_limit("experts", experts as u64, MAX_EXPERTS.into())?;
        check_range("routed experts of a token", top_k, MAX_GATE_ROUTES.into())?;
        check_limit("top_k, of the experts,", top_k as u64, experts as u64)?;
        check_not_negative("alpha", alpha)?;
        if alpha > 0.0 {
            check_factor("alpha", alpha)?;
        }
        let kernel = Kernel::load(device, router::sequence_balance_loss(experts))?;
        Ok(Self { device: device.clone(), kernel, spec })
    }

    /// Enqueues `loss[q] = alpha * sum over experts of f_i P_i`: f_i counts the tokens of the sequence whose K best scores,
    /// without groups and bias, contain expert i, times `experts / (K length)`; P_i is the mean of `s_i / sum of s`. Perfect
    /// balance gives alpha. A NaN score makes the loss NaN.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        mut args: SequenceBalanceLossArgs<'_>,
    ) -> Result<()> {
        let SequenceBalanceLossSpec { sequences, length, experts, top_k, alpha } = self.spec;
        let layout = Layout::matrix("scores [sequences * length, experts]", [sequences * length, experts]);
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let scores = launch.read(&args.scores, layout)?;
        let params = SequenceBalanceLossParams {
            scores: scores.pointer,
            loss: launch.write(&mut args.loss, Layout::vector("loss [sequences]", sequences))?.pointer,
            scores_pitch: scores.pitch(),
            length: length as u32,
            experts: experts as u32,
            top_k: top_k as u32,
            alpha,
        };
        launch.run(sequences as u32, &params)
    }
}
