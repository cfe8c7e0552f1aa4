//! TMA: where every byte of a box goes, what lies outside the tensor, and how many bytes are counted.

use std::collections::BTreeSet;

use check::devices::{FEW_MULTIPROCESSORS, emulators};
use check::probes::catalogue::ENTRIES;
use check::probes::tma::Model;
use check::probes::tma_copy::Copy;
use check::probes::{ask, assert_clean, machines};
use deepseek_kernels::EmulatorOptions;

/// A test for each question: a launch that a GPU refuses breaks the context, for the tests after it. Threads aside, they run
/// in the order of their names, so that what a GPU is known to have refused comes last.
macro_rules! questions {
    ($($test:ident: $question:literal;)*) => {
        const ASKED: &[&str] = &[$($question),*];
        $(#[test]
        fn $test() {
            ask(&machines(), $question);
        })*
    };
}
questions! {
    a_buffer_is_reused_once_it_was_read: "tma/reuse";
    a_bulk_copy_reaches_the_peer: "tma/copy_to_peer";
    a_multicast_reaches_its_mask: "tma/multicast";
    every_byte_of_a_load_is_in_its_place: "tma/load";
    every_byte_of_a_low_box_is_in_its_place: "tma/load_low";
    stores_write_their_box_alone: "tma/store";
    where_there_is_no_page_a_load_gives_zeros: "tma/no_such_page/load";
    where_there_is_no_page_a_store_writes_nothing: "tma/no_such_page/store";
}

#[test]
fn every_question_is_asked() {
    let there = ENTRIES.iter().map(|entry| entry.name).filter(|name| name.starts_with("tma/"));
    assert_eq!(BTreeSet::from_iter(ASKED.iter().copied()), there.collect());
}

/// A GPU ends the kernel with "illegal instruction": `probes --alone` asks one, a process per case.
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

/// A low box lies within a box's worth of rows of another, so that their swizzles agree; a GPU asks for 128 bytes only.
#[test]
fn a_low_box_starts_at_a_multiple_of_its_rows() {
    for device in emulators([FEW_MULTIPROCESSORS]) {
        for model in Model::low().filter(|model| model.rows() > 1) {
            let error = model.check_loads_behind(&device, &[[0; 3]], model.rows() / 2).expect_err("a fault");
            let bytes = format!("is not {}-byte aligned", 128 * model.rows());
            assert!(error.to_string().contains(&bytes), "{}: {error}", model.name());
        }
    }
}

/// A GPU ends the kernel here too; a load may start before the tensor.
#[test]
fn a_store_starts_at_no_negative_coordinate() {
    for device in emulators([FEW_MULTIPROCESSORS]) {
        for model in Model::all() {
            for at in model.negative_coordinates() {
                let error = model.check_stores(&device, &[at]).expect_err("a fault").to_string();
                assert!(error.contains("which is negative"), "{} at {at:?}: {error}", model.name());
                assert_clean(&device, model.check_loads(&device, &[at]));
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
