//! Every operation of the crate, small, on operands that a check's case has put on the GPU.

use std::sync::Arc;

use check::case::{Case, Cases, Prepared};
use check::families;
use check::judge::Scrutiny;
use check::memory::{Arena, Footprint, Output, Place};
use deepseek_kernels::cudarc::driver::{CudaStream, result};
use deepseek_kernels::{Device, Error, Result};

/// An operation, planned, with its operands, which are refilled in place.
pub struct Operation {
    pub name: &'static str,
    device: Device,
    prepared: Box<dyn Prepared>,
    footprint: Footprint,
}

/// The first small case of every operation.
pub fn cases() -> Cases {
    let mut first: Cases = Vec::new();
    for case in families::all(|family| (family.smoke)()) {
        if !first.iter().any(|known| known.operation() == case.operation()) {
            first.push(case);
        }
    }
    first
}

/// What ran once is what every reference says.
pub fn accept(prepared: &dyn Prepared) {
    for check in prepared.judge(Scrutiny::Thorough).expect("judged") {
        assert_eq!(check.failure, None, "{}, {}", prepared.instance(), check.oracle);
    }
}

impl Operation {
    pub fn new(device: &Device, case: &dyn Case) -> Self {
        let mut arena = Arena::recording(device);
        let prepared = case.draw().and_then(|problem| problem.prepare(&mut arena));
        let prepared = prepared.unwrap_or_else(|error| panic!("{}: {error:#}", case.name()));
        let footprint = arena.footprint().expect("it is kept");
        Self { name: case.operation(), device: device.clone(), prepared, footprint }
    }

    /// The one of this name.
    pub fn named(device: &Device, name: &str) -> Self {
        let cases = cases();
        let case = cases.iter().find(|case| case.operation() == name);
        Self::new(device, &**case.unwrap_or_else(|| panic!("no case of {name}")))
    }

    /// Whether masks, slots, ids or lengths can say that there are fewer tokens than there is room for.
    pub fn can_have_fewer(&self) -> bool {
        self.footprint.places().iter().any(Place::can_hold_fewer)
    }

    /// New data in the same memory, in the order of `stream`; outputs and scratch are as they were before the first run.
    pub fn refill(&self, stream: &Arc<CudaStream>, seed: u64) {
        self.refill_with(stream, seed, false);
    }

    /// As [`Self::refill`]. With `fewer`, of half the tokens that there is room for, where that can be said.
    pub fn refill_with(&self, stream: &Arc<CudaStream>, seed: u64, fewer: bool) {
        stream.context().bind_to_thread().expect("bind");
        for place in self.footprint.places().iter().filter(|place| !place.bytes.is_empty()) {
            let data = place.shuffled(seed, fewer);
            // SAFETY: an operand of as many bytes lies there for as long as `prepared` lives. CUDA copies pageable memory
            // before the call returns.
            unsafe { result::memcpy_htod_async(place.address, &data, stream.cu_stream()) }.expect("refill");
        }
    }

    pub fn run(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        self.prepared.launch(stream.into())
    }

    /// All operands, in the order of `stream`.
    pub fn bits(&self, stream: &Arc<CudaStream>) -> Vec<Vec<u8>> {
        stream.context().bind_to_thread().expect("bind");
        let mut bits: Vec<Vec<u8>> =
            self.footprint.places().iter().map(|place| vec![0; place.bytes.len()]).collect();
        for (place, bits) in self.footprint.places().iter().zip(&mut bits).filter(|(_, b)| !b.is_empty()) {
            // SAFETY: as above; the bytes are not touched before the stream has finished.
            unsafe { result::memcpy_dtoh_async(bits, place.address, stream.cu_stream()) }.expect("download");
        }
        stream.synchronize().expect("synchronize");
        // Infinities, NaN and ids of no expert are there on purpose: whether each is reported, judges of the cases see.
        assert!(matches!(self.device.poll_error(), Ok(()) | Err(Error::Data(_))), "{}", self.name);
        bits
    }

    /// What the last run wrote, after everything enqueued has finished.
    pub fn outputs(&self) -> Vec<Output> {
        self.prepared.outputs().unwrap_or_else(|error| panic!("{}: {error:#}", self.name))
    }

    /// What the data of a seed give when nothing else happens: all is waited for before and after.
    pub fn calm(&mut self, stream: &Arc<CudaStream>, seed: u64) -> Vec<Vec<u8>> {
        self.calm_with(stream, seed, false)
    }

    /// As [`Self::calm`], of fewer tokens.
    pub fn calm_with(&mut self, stream: &Arc<CudaStream>, seed: u64, fewer: bool) -> Vec<Vec<u8>> {
        self.refill_with(stream, seed, fewer);
        stream.context().synchronize().expect("synchronize");
        self.run(stream).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        stream.context().synchronize().expect("synchronize");
        self.bits(stream)
    }
}
