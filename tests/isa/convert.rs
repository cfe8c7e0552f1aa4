//! Conversions and arithmetic whose rounding is part of the contract, and loads and stores of global memory.

use std::collections::HashSet;

use check::devices::devices;
use check::probes::catalogue::{ENTRIES, triples};
use check::probes::{ask, assert_words, machines};
use deepseek_kernels::probe::Probe;
use deepseek_kernels::probe::kernels::GMEM;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

#[test]
fn conversions() {
    ask(&devices(), "convert/");
}

#[test]
fn approximate_powers_and_logarithms() {
    ask(&devices(), "approx/");
}

/// Each topic is asked whole by one test of a file that is named for it.
#[test]
fn every_question_belongs_to_a_topic() {
    let names: HashSet<_> = ENTRIES.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), ENTRIES.len(), "names are unique");
    let topics = ["wgmma/", "convert/", "approx/", "tma/", "sync/"];
    assert!(names.iter().all(|name| topics.iter().any(|topic| name.starts_with(topic))), "{names:?}");
}

#[test]
fn the_triples_tell_an_fma_from_a_product_and_a_sum() {
    let triples = triples();
    let differing =
        triples.iter().filter(|[a, b, c]| a.mul_add(*b, *c).to_bits() != (a * b + c).to_bits()).count();
    assert!(differing > triples.len() / 8, "{differing}");
}

#[test]
fn global_memory_is_read_and_written_as_it_lies() {
    const GRID: u32 = 4;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(11);
    let input: Vec<u32> = (0..GRID * 64 * 8).map(|_| rng.next_u32()).collect();
    let threads = input.chunks(8).enumerate().flat_map(|(thread, word)| {
        let last = word[7];
        let if_odd = if thread % 2 == 1 { word[0] ^ word[1] ^ word[2] ^ word[3] } else { 0 };
        [word[0], word[1], word[2], word[3], word[4], word[5], word[6], if_odd, last, last, last, last]
    });
    let expected: Vec<u32> = threads.collect();
    for device in machines() {
        let output_words = 2 + expected.len();
        let output =
            Probe { input: &input, output_words, ..Probe::new(GMEM, GRID) }.run(&device).unwrap().output;
        assert_words(device.name(), &output[2..], &expected);
        assert_eq!(output[0], 1, "{}: every thread stored a 1", device.name());
    }
}
