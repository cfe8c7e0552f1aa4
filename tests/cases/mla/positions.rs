//! Keys without a position: 512 numbers that are the value too.

use check::case::pass;
use check::devices::{devices, machines};
use check::mla::decode::{MlaDecodeCase, MlaDecodeProblem, instances};
use check::mla::{CacheRows, LATENT, ROPE};
use deepseek_kernels::bf16;
use deepseek_kernels::mla::KvFormat;
use oracles::mla::AttentionClass;

use super::{FORMATS, passed, step};

fn without(format: KvFormat, lengths: &[usize]) -> MlaDecodeCase {
    MlaDecodeCase { rope: 0, ..step(format, lengths) }
}

/// What tells keys apart stands in their last 64 numbers, as the position of DeepSeek-V4's does.
#[test]
fn every_class_of_inputs_with_every_instance() {
    for device in machines() {
        for class in AttentionClass::ALL {
            for format in FORMATS {
                for instance in instances(format) {
                    let case = without(format, &[256, 0, 64, 301]);
                    pass(&MlaDecodeCase { class, instance: Some(instance), ..case }, &device);
                }
            }
        }
    }
}

#[test]
fn pages_of_any_size_and_none() {
    for device in devices() {
        for format in FORMATS {
            for page_size in [None, Some(1), Some(12), Some(64), Some(200)] {
                for pages_apart in [false, true] {
                    let case = without(format, &[130, 1, 0, 77]);
                    let case = MlaDecodeCase { page_size, pages_apart, heads: 5, q_tokens: 2, ..case };
                    pass(&MlaDecodeCase { causal: true, ..case }, &device);
                }
            }
        }
    }
}

/// With keys and queries whose position is zeros.
fn with_zeros(problem: &MlaDecodeProblem) -> MlaDecodeProblem {
    fn widened<T: Copy + Default>(rows: &[T], from: usize, to: usize) -> Vec<T> {
        let row = |row: &[T]| [row, &vec![T::default(); to - from]].concat();
        rows.chunks_exact(from).flat_map(row).collect()
    }
    let MlaDecodeProblem { spec, q, cache, .. } = problem.clone();
    let [from, to] = [0, ROPE].map(|rope| spec.format.columns(rope));
    MlaDecodeProblem {
        case: MlaDecodeCase { rope: ROPE, ..problem.case.clone() },
        spec: spec.rope(ROPE),
        q: widened(&q, LATENT, LATENT + ROPE),
        cache: match cache {
            CacheRows::Bf16(rows) => CacheRows::Bf16(widened(&rows, from, to)),
            CacheRows::Fp8(rows) => CacheRows::Fp8(widened(&rows, from, to)),
            CacheRows::Fp8PerTensor { rows, scale } => {
                CacheRows::Fp8PerTensor { rows: widened(&rows, from, to), scale }
            }
        },
        ..problem.clone()
    }
}

/// To the bit, of whatever class, with what is not finite too, in a key or a query.
#[test]
fn the_bits_are_those_of_a_position_of_zeros() {
    for device in machines() {
        for format in FORMATS {
            for class in AttentionClass::ALL {
                let case = MlaDecodeCase { class, q_tokens: 2, causal: true, ..without(format, &[300, 0, 65]) };
                let problem = case.problem().expect("inputs");
                assert_eq!(passed(&problem, &device), passed(&with_zeros(&problem), &device), "{class}");
            }
            for special in [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY, bf16::NEG_ZERO] {
                let mut problem = without(format, &[300, 0, 65]).problem().expect("inputs");
                problem.finite = false;
                problem.q[3 * LATENT + 7] = special;
                if let CacheRows::Bf16(rows) = &mut problem.cache {
                    rows[problem.table[0] as usize * 64 * LATENT + 5] = special;
                }
                assert_eq!(passed(&problem, &device), passed(&with_zeros(&problem), &device), "{special}");
            }
        }
    }
}
