//! What both machines log, and the made-up data that both deliver: the contract in `cuda/emu/trace.h`.

use crate::decode::Element;

/// One hardware operation of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Name of the function in `ptx/`.
    pub name: &'static str,
    pub operands: Vec<u64>,
}

/// The value that the `sequence`th value-delivering operation of a thread puts into register `index`: a small positive
/// integer, so that all arithmetic on it is exact and no machine may differ.
pub fn made_up(thread: u64, sequence: u64, index: u64, element: Element) -> u64 {
    let value = 1 + (thread * 7 + sequence * 13 + index * 5) % 15;
    match element {
        Element::U32 => value,
        Element::F32 => u64::from((value as f32).to_bits()),
    }
}

/// Where dynamic shared memory starts in the emulator, as on the device.
pub const SHARED_BASE: u64 = 1024;
