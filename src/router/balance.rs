//! Balancing the experts: count their tokens, move the router's bias, and the loss of a sequence that uses few.
//!
//! After each training step, on the counts of the whole batch: [`ExpertLoad`] per micro-batch, then one [`BiasUpdate`].

use crate::device::bindings::{
    BiasUpdateParams, ExpertLoadParams, MAX_EXPERTS, MAX_GATE_ROUTES, SequenceBalanceLossParams,
};
use crate::device::{Device, Stream};
use crate::error::Result;
use crate::launch::{Kernel, KernelRow, Launch, Layout, MAX_DIM, MAX_GRID, check_limit};
use crate::table::router;
use crate::tensor::{Matrix, Slice, SliceMut};

const EXPERT_LOAD: KernelRow<ExpertLoadParams> = KernelRow::of(router::EXPERT_LOAD);
const BIAS_UPDATE: KernelRow<BiasUpdateParams> = KernelRow::of(router::BIAS_UPDATE);
const SEQUENCE_BALANCE_LOSS: KernelRow<SequenceBalanceLossParams> =
    KernelRow::of(router::SEQUENCE_BALANCE_LOSS);

/// The choice to be counted: ids `[tokens, routes]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExpertLoadSpec {
    /// Any number, 0 included.
    pub tokens: usize,
    /// Routed experts of a token.
    pub routes: usize,
    /// At most 512.
    pub experts: usize,
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
    /// [`crate::Error::TooLarge`].
    pub fn plan(device: &Device, spec: ExpertLoadSpec) -> Result<Self> {
        check_limit("tokens", spec.tokens as u64, MAX_DIM)?;
        check_limit("experts of a token", spec.routes as u64, MAX_GATE_ROUTES.into())?;
        check_limit("experts", spec.experts as u64, MAX_EXPERTS.into())?;
        let grid = (spec.tokens as u64 * spec.routes as u64).div_ceil(EXPERT_LOAD.threads().into());
        check_limit("CTAs of the count", grid, MAX_GRID)?;
        Ok(Self { device: device.clone(), kernel: EXPERT_LOAD.load(device)?, spec, grid: grid as u32 })
    }

    /// Enqueues `counts[e] += the number of ids that are e`, for `ids [tokens, routes]`; a pitch leaves out the columns of
    /// shared experts. `counts` has at least `experts` elements, to which is added: clear them before the first
    /// micro-batch of a step. -1 counts for nobody; so do ids of no expert, and [`Device::poll_error`] tells of those.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::SliceTooShort`], [`crate::Error::WrongDevice`], launch errors.
    pub fn run<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        ids: Matrix<'_, i32>,
        mut counts: SliceMut<'_, u32>,
    ) -> Result<()> {
        let ExpertLoadSpec { tokens, routes, experts } = self.spec;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let ids = launch.read(&ids, Layout::new("ids [tokens, routes]", [tokens, routes]))?;
        let counts = launch.write_slice(&mut counts, "counts", [1, experts])?;
        let params = ExpertLoadParams {
            ids: ids.pointer,
            counts: counts.pointer,
            error_words: launch.error_words(),
            ids_pitch: ids.pitch(),
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
pub struct BiasUpdateSpec {
    /// At most 512.
    pub experts: usize,
    /// What is added or subtracted: 0.001 for most of DeepSeek-V3's training, 0 at its end.
    pub speed: f32,
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
    /// [`crate::Error::TooLarge`].
    pub fn plan(device: &Device, spec: BiasUpdateSpec) -> Result<Self> {
        check_limit("experts", spec.experts as u64, MAX_EXPERTS.into())?;
        Ok(Self { device: device.clone(), kernel: BIAS_UPDATE.load(device)?, spec })
    }

    /// Enqueues `bias[e] += speed * sign(mean - counts[e])`, the sign of exact integers and 0 at the mean, and
    /// `max_vio[0] = (largest count - mean) / mean`, 0 when nothing was counted. `counts` and `bias` have at least
    /// `experts` elements, `max_vio` one.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`crate::Error::SliceTooShort`], [`crate::Error::WrongDevice`], launch errors.
    pub fn run<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        counts: Slice<'_, u32>,
        mut bias: SliceMut<'_, f32>,
        mut max_vio: SliceMut<'_, f32>,
    ) -> Result<()> {
        let experts = self.spec.experts;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let params = BiasUpdateParams {
            counts: launch.read_slice(&counts, "counts", [1, experts])?.pointer,
            bias: launch.write_slice(&mut bias, "bias", [1, experts])?.pointer,
            max_vio: launch.write_slice(&mut max_vio, "max_vio", [1, 1])?.pointer,
            experts: experts as u32,
            speed: self.spec.speed,
        };
        launch.run(1, &params)
    }
}

/// Sequences of one length whose balance is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SequenceBalanceLossSpec {
    /// Any number, 0 included.
    pub sequences: usize,
    /// Tokens of a sequence; 0 gives a loss of 0.
    pub length: usize,
    /// At most 512.
    pub experts: usize,
    /// Routed experts of a token, at most 32.
    pub top_k: usize,
    /// Factor of the loss: 0.0001 in DeepSeek-V3.
    pub alpha: f32,
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
    /// [`crate::Error::TooLarge`].
    pub fn plan(device: &Device, spec: SequenceBalanceLossSpec) -> Result<Self> {
        let SequenceBalanceLossSpec { sequences, length, experts, top_k, .. } = spec;
        check_limit("sequences", sequences as u64, MAX_GRID)?;
        check_limit("tokens of a sequence", length as u64, MAX_DIM)?;
        check_limit("tokens", (sequences as u64).saturating_mul(length as u64), MAX_DIM)?;
        check_limit("experts", experts as u64, MAX_EXPERTS.into())?;
        check_limit("routed experts of a token", top_k as u64, MAX_GATE_ROUTES.into())?;
        Ok(Self { device: device.clone(), kernel: SEQUENCE_BALANCE_LOSS.load(device)?, spec })
    }

    /// Enqueues `loss[q] = alpha * sum over experts of f_i P_i` from `scores [sequences * length, experts]`, which
    /// [`Gate`](crate::router::Gate) writes: f_i counts the tokens of the sequence whose K best scores, without groups and bias,
    /// contain expert i, times `experts / (K length)`; P_i is the mean of `s_i / sum of s`. Perfect balance gives alpha.
    /// `loss` has at least `sequences` elements. A NaN score makes the loss NaN.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::SliceTooShort`], [`crate::Error::WrongDevice`], launch errors.
    pub fn run<'s>(
        &self,
        stream: impl Into<Stream<'s>>,
        scores: Matrix<'_, f32>,
        mut loss: SliceMut<'_, f32>,
    ) -> Result<()> {
        let SequenceBalanceLossSpec { sequences, length, experts, top_k, alpha } = self.spec;
        let layout = Layout::new("scores [sequences * length, experts]", [sequences * length, experts]);
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let scores = launch.read(&scores, layout)?;
        let params = SequenceBalanceLossParams {
            scores: scores.pointer,
            loss: launch.write_slice(&mut loss, "loss", [1, sequences])?.pointer,
            scores_pitch: scores.pitch(),
            length: length as u32,
            experts: experts as u32,
            top_k: top_k as u32,
            alpha,
        };
        launch.run(sequences as u32, &params)
    }
}
