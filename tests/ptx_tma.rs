//! TMA: where every byte of a box goes, what lies outside the tensor, and how many bytes are counted.

mod harness;
mod probes;

use deepseek_kernels::EmulatorOptions;
use deepseek_kernels::probe::tma::{Copy, Model};
use harness::{FEW_MULTIPROCESSORS, emulators};
use probes::{ask, machines};

#[test]
fn every_byte_is_where_the_model_has_it() {
    ask(&machines(), "tma/");
}

/// A GPU ends the kernel with "illegal instruction": `probes --starts` asks one, a process per case.
#[test]
fn a_box_starts_at_a_multiple_of_16_bytes() {
    for device in emulators([FEW_MULTIPROCESSORS]) {
        for model in Model::all() {
            for at in model.misaligned_coordinates() {
                let load = model.check_loads(&device, &[at]);
                let store = model.check_stores(&device, &[at]);
                for refused in [load, store] {
                    let error = refused.expect_err("a fault").to_string();
                    assert!(error.contains("no multiple of 16 bytes"), "{} at {at:?}: {error}", model.name());
                }
            }
        }
    }
}

/// What would hang or go unnoticed on a GPU is a fault with every seed.
#[test]
fn copies_are_checked() {
    let good = Copy::new(64);
    for (copy, message) in [
        (Copy { expected: 240, ..good }, "bytes"),
        (Copy { expected: 272, ..good }, "16 bytes missing"),
        (Copy { fence: false, ..good }, "fence.proxy.async"),
        (Copy { source: 72, ..good }, "is not 16-byte aligned"),
        (Copy { target: 2056, ..good }, "is not 16-byte aligned"),
        (Copy { words: 62, expected: 248, ..good }, "no positive multiple of 16"),
        (Copy { words: 0, expected: 0, ..good }, "no positive multiple of 16"),
        (Copy { peer: 2, ..good }, "mapa of CTA"),
        (Copy { target: 4 * (Copy::DUMPED - 4), ..good }, "which is part of an mbarrier"),
        (Copy { target: 1 << 14, ..good }, "outside the CTA's shared memory"),
    ] {
        for device in emulators((0..8).map(|seed| EmulatorOptions { seed, ..FEW_MULTIPROCESSORS })) {
            let error = copy.run(&device).expect_err(message).to_string();
            assert!(error.contains(message), "`{message}` is not in: {error}");
        }
    }
}
