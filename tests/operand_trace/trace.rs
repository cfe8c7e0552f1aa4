//! What both machines log, and the made-up data that both deliver: the contract in `cuda/hopper/emulated/machine/trace.h`.

use crate::decode::Element;

/// What the `sequence`th value-delivering operation of a thread puts into register `index`: a small integer as
/// a float, or two as BF16.
pub fn made_up(thread: u64, sequence: u64, index: u64, element: Element) -> u64 {
    let number = |i| 1 + (thread * 7 + sequence * 13 + i * 5) % 251;
    let bits = |i| u64::from((number(i) as f32).to_bits());
    match element {
        Element::F32 => bits(index),
        Element::U32 => bits(2 * index) >> 16 | bits(2 * index + 1),
    }
}

/// What stands at an address that is read as a count.
pub fn count_at(address: u64) -> u64 {
    let word = address / 4 % 251;
    1 + 7 * word * word % 251
}

/// Where dynamic shared memory starts in the emulator, as on the device.
pub const SHARED_BASE: u64 = 1024;
