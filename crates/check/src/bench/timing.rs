//! Time of a run on a GPU: replays of a captured graph, between events.
//!
//! A graph holds kernels only, so neither the host nor cudarc's events between launches are timed. Who wants L2 cold sees
//! to it in what is captured: `cold_sets` for runs that take turns on operands, or a flush that is timed on its own too.
use std::sync::Arc;

use anyhow::{Context, Result};
use deepseek_kernels::cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use deepseek_kernels::cudarc::driver::{CudaContext, CudaGraph, CudaStream};

/// Stops cudarc from ordering every use of memory by events, whose cost is not an operation's.
pub fn untracked(context: &Arc<CudaContext>) {
    // SAFETY: a program that calls this allocates, uses and frees a device's memory on that device's own stream, whose order
    // replaces the events.
    unsafe { context.disable_event_tracking() };
}

/// How often a set's bytes must fit L2 over before it is used again.
const L2_TURNS: u64 = 3;

/// Sets of operands of `bytes` each that make every run cold: what it reads was last touched so long ago that L2 has
/// forgotten it. Nothing is flushed, so there is nothing to subtract, and no write-back but the operation's own.
pub fn cold_sets(bytes: u64, l2_bytes: u64) -> usize {
    // One set that is larger than L2 so many times evicts itself.
    (L2_TURNS * l2_bytes).div_ceil(bytes.max(1)).max(1) as usize
}

/// Captures what `enqueue` enqueues on the stream; nothing of it runs yet.
///
/// # Errors
/// Of `enqueue`, and of the driver. The stream no longer captures then.
pub fn capture(stream: &Arc<CudaStream>, enqueue: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .context("beginning a capture")?;
    let enqueued = enqueue();
    // cudarc answers its next call with an error that operands left, and then the stream would go on capturing.
    let ordered = stream.context().check_err();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    enqueued?;
    ordered.context("ordering operands in a capture")?;
    graph.context("ending a capture")?.context("nothing was captured")
}

/// Times of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// Seconds, ascending: one value per replay, each the mean of the runs in the graph.
    seconds: Vec<f64>,
}

impl Times {
    fn new(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self { seconds }
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The fastest.
    pub fn min(&self) -> f64 {
        self.seconds.first().copied().unwrap_or(f64::NAN)
    }

    /// The slowest.
    pub fn max(&self) -> f64 {
        self.seconds.last().copied().unwrap_or(f64::NAN)
    }
}

/// Runs that are captured, to be timed any number of times.
pub struct Replay<'s> {
    stream: &'s Arc<CudaStream>,
    graph: CudaGraph,
    runs: usize,
}

impl<'s> Replay<'s> {
    /// Captures `runs` runs and replays them once.
    ///
    /// # Errors
    /// Of `run`, which enqueues the i-th run on the stream, and of the driver.
    pub fn capture(
        stream: &'s Arc<CudaStream>,
        runs: usize,
        run: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let graph = capture(stream, || (0..runs).try_for_each(run))?;
        graph.launch().context("replaying")?;
        Ok(Self { stream, graph, runs })
    }

    /// Seconds of a run: the mean of a replay.
    ///
    /// # Errors
    /// Of the driver.
    pub fn sample(&self) -> Result<f64> {
        let event = || self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let start = event()?;
        self.graph.launch().context("replaying")?;
        let elapsed = start.elapsed_ms(&event()?).context("waiting for a replay")?;
        Ok(f64::from(elapsed) / 1e3 / self.runs as f64)
    }
}

/// Times `runs` runs, captured once, in `replays` replays behind one that is not timed.
///
/// # Errors
/// Of `run`, which enqueues the i-th run on the stream, and of the driver.
pub fn replay(
    stream: &Arc<CudaStream>,
    runs: usize,
    replays: usize,
    run: impl FnMut(usize) -> Result<()>,
) -> Result<Times> {
    let replay = Replay::capture(stream, runs, run)?;
    Ok(Times::new((0..replays).map(|_| replay.sample()).collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_sets_make_a_run_cold() {
        assert_eq!(cold_sets(50 << 20, 50 << 20), 3);
        assert_eq!(cold_sets(1 << 20, 50 << 20), 150);
        assert_eq!(cold_sets(1 << 40, 50 << 20), 1);
        assert_eq!(cold_sets(0, 0), 1);
    }

    #[test]
    fn the_middle_of_the_times_is_reported() {
        let times = Times::new(vec![3.0, 1.0, 9.0]);
        assert_eq!((times.min(), times.median(), times.max()), (1.0, 3.0, 9.0));
        assert!(Times::new(vec![]).median().is_nan());
    }
}
