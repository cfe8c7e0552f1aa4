//! TMA: where every byte of a box goes, what lies outside the tensor, and how many bytes are counted.

mod harness;
mod probes;

use deepseek_kernels::EmulatorOptions;
use deepseek_kernels::probe::tma::Copy;
use harness::{FEW_MULTIPROCESSORS, emulators};
use probes::{ask, machines};

#[test]
fn every_byte_is_where_the_model_has_it() {
    ask(&machines(), "tma/");
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
