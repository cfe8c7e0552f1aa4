//! Operands by address: an engine whose memory is its own gets what one gets that gives slices.

use check::case::pass_in;
use check::devices::seeded;
use check::families;
use check::memory::Memory;

/// With a seed for which indices are of 64 bits; the engine's tests take the other types.
#[test]
fn every_smoke_case_by_address() {
    const SEED: u64 = 2;
    for device in seeded([SEED]) {
        for case in families::all(|family| (family.smoke)()) {
            let [by_slice, by_address] =
                [Memory::Poisoned, Memory::Raw].map(|memory| pass_in(&*case, &device, memory(SEED)));
            assert!(by_slice == by_address, "{} on {}", case.name(), device.name());
        }
    }
}
