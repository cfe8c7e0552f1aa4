//! The quantisers and the transposition of scales: byte for byte what the references give.

use std::sync::Arc;

use check::case::{Case, attempt, memory_of, pass, pass_in};
use check::devices::{devices, machines, seeded};
use check::memory::Memory;
use check::quant::quantize_1x128::{Layout, Quantize1x128Case, Quantize1x128Problem};
use check::quant::quantize_128x128::{Quantize128x128Case, Quantize128x128Problem};
use check::quant::transpose_scales::TransposeScalesCase;
use check::quant::{QuantizerClass, Rule};
use deepseek_kernels::{Device, bf16};
use proptest::prelude::*;

/// With scales in either layout.
fn by_rows(shape: (usize, usize), rule: Rule) -> [Quantize1x128Case; 2] {
    [Layout::MMajor, Layout::RowMajor].map(|layout| Quantize1x128Case {
        rule,
        layout,
        ..Quantize1x128Case::new(shape)
    })
}

fn by_blocks(shape: (usize, usize), rule: Rule) -> Quantize128x128Case {
    Quantize128x128Case { rule, ..Quantize128x128Case::new(shape) }
}

#[test]
fn every_class_of_inputs() {
    for device in machines() {
        for class in [QuantizerClass::Special, QuantizerClass::Ordinary, QuantizerClass::Borders, QuantizerClass::Weights] {
            for rule in Rule::ALL {
                for case in by_rows((300, 384), rule) {
                    pass(&Quantize1x128Case { class, ..case }, &device);
                }
                pass(&Quantize128x128Case { class, ..by_blocks((300, 384), rule) }, &device);
            }
        }
    }
}

/// All 2^16 BF16 values, each in a block whose scale is one, and each as the largest of its block.
#[test]
fn every_bf16_value() {
    let neighbours = (0..=u16::MAX).map(bf16::from_bits).collect::<Vec<_>>();
    let spread = (0..=u16::MAX).map(|i| bf16::from_bits(i.reverse_bits())).collect::<Vec<_>>();
    for device in devices() {
        for rule in Rule::ALL {
            for (shape, x) in [((512, 128), &neighbours), ((128, 512), &spread)] {
                for case in by_rows(shape, rule) {
                    let problem = Quantize1x128Problem { case, x: x.clone() };
                    attempt(Arc::new(problem), &device, memory_of(&case.name())).expect("right");
                }
            }
            let case = by_blocks((128, 512), rule);
            let problem = Quantize128x128Problem { case, x: spread.clone() };
            attempt(Arc::new(problem), &device, memory_of(&case.name())).expect("right");
        }
    }
}

/// A last block of one piece, of half a block, of all but a piece.
#[test]
fn short_blocks() {
    for device in devices() {
        for k in [8, 64, 120, 136, 192, 576, 760] {
            for rule in Rule::OWN {
                for case in by_rows((37, k), rule) {
                    pass(&case, &device);
                }
                pass(&by_blocks((137, k), rule), &device);
            }
            pass(&TransposeScalesCase::new((37, k)), &device);
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for shape in [(0, 128), (3, 0), (0, 0)] {
            by_rows(shape, Rule::FP32).iter().for_each(|case| drop(pass(case, &device)));
            pass(&by_blocks(shape, Rule::FP32), &device);
            pass(&TransposeScalesCase::new(shape), &device);
        }
    }
}

#[test]
fn scales_are_transposed() {
    for device in devices() {
        for (m, k_blocks) in [(1, 1), (31, 33), (32, 32), (33, 31), (100, 56), (257, 3)] {
            let case = TransposeScalesCase::new((m, 128 * k_blocks));
            pass_in(&case, &device, Memory::Plain);
            pass(&case, &device);
        }
    }
}

fn passes(case: &dyn Case, device: &Device, seed: u64) {
    pass_in(case, device, Memory::Poisoned(seed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_and_memory(
        rows in 1..150_usize, pieces in 1..52_usize, seed in any::<u64>(), rule in 0..Rule::ALL.len(),
    ) {
        let (shape, rule) = ((rows, 8 * pieces), Rule::ALL[rule]);
        for device in seeded([seed]) {
            for case in by_rows(shape, rule) {
                passes(&Quantize1x128Case { seed, ..case }, &device, seed);
            }
            passes(&Quantize128x128Case { seed, ..by_blocks(shape, rule) }, &device, seed);
            passes(&TransposeScalesCase::new(shape), &device, seed);
        }
    }
}
