//! Sequences with different numbers of query tokens, packed: the bits of each alone, and offsets that cannot be.

use check::case::pass;
use check::devices::{devices, machines};
use check::mla::decode::{MlaDecodeCase, MlaDecodeProblem, instances};
use deepseek_kernels::mla::{KvFormat, LseOrder};

use crate::mla::{FORMATS, passed, step};

/// With and without partial results, of tiles that sequences do not reach, or only one of a cluster does.
#[test]
fn packed_query_tokens_have_the_bits_of_each_sequence_alone() {
    for device in machines() {
        for format in FORMATS {
            for instance in instances(format) {
                for (heads, causal, split_keys) in [(9, true, 64), (70, false, 1024)] {
                    let case = step(format, &[150, 5, 0, 130, 2]).packed(vec![3, 0, 1, 8, 2]);
                    let case = MlaDecodeCase { heads, causal, alone: true, ..case };
                    let split_keys = Some(split_keys);
                    pass(&MlaDecodeCase { split_keys, instance: Some(instance), ..case }, &device);
                }
            }
        }
    }
}

#[test]
fn nobody_asks() {
    for device in devices() {
        for format in FORMATS {
            pass(&step(format, &[100, 0, 70]).packed(vec![0; 3]), &device);
            pass(&step(format, &[]).packed(vec![]), &device);
            let mut problem = step(format, &[100, 0]).packed(vec![0; 2]).problem().expect("inputs");
            problem.spec.packed_tokens = Some(0);
            problem.q_offsets = Some(vec![0; 3]);
            problem.q.clear();
            assert!(passed(&problem, &device)[0].bytes.is_empty());
        }
    }
}

/// Of 3 sequences with 2, 3 and 1 of 9 tokens: what is nobody's is numbers.
fn numbers() -> MlaDecodeProblem {
    let case = MlaDecodeCase { heads: 3, causal: true, ..step(KvFormat::Bf16, &[70, 130, 3]) };
    case.packed(vec![2, 3, 1]).problem().expect("inputs").with_spare_rows()
}

/// They count as the nearest that can be, and are reported; rows that are nobody's then are not touched.
#[test]
fn offsets_that_cannot_be_are_moved_and_reported() {
    for device in machines() {
        let of = |offsets: [i32; 4]| {
            let mut problem = numbers();
            problem.q_offsets = Some(offsets.into());
            passed(&problem, &device)
        };
        let good = of([1, 3, 6, 7]);
        assert_ne!(of([1, 3, 5, 6]), good);
        assert_eq!(of([1, 3, 2, 6]), of([1, 3, 3, 6]), "one that begins before its neighbour has ended");
        assert_eq!(of([-1, 2, 5, 6]), of([0, 2, 5, 6]), "one that begins nowhere");
        assert_eq!(of([i32::MIN, 2, 5, 6]), of([0, 2, 5, 6]));
        assert_eq!(of([6, 8, 9, 11]), of([6, 8, 9, 9]), "one that ends nowhere");
        assert_eq!(of([6, 8, i32::MAX, 9]), of([6, 8, 9, 9]));
        assert_eq!(of([6, 9, 3, 9]), of([6, 9, 9, 9]));
        let too_many = of([0, 2, 6, 7]);
        assert_eq!(too_many[0].bytes[..5 * 3 * 512 * 2], of([0, 2, 5, 5])[0].bytes[..5 * 3 * 512 * 2]);
        for offsets in [[9, 0, 0, 0], [0, 9, 0, 9], [-1; 4], [i32::MAX; 4], [5, 4, 3, 2], [i32::MIN, i32::MAX, 0, 9]] {
            of(offsets);
        }
    }
}

/// A sequence's own faults, and those of its pages, where it has nobody who asks: the pages are not looked at.
#[test]
fn pages_of_sequences_without_query_tokens_are_not_looked_up() {
    for device in devices() {
        for format in FORMATS {
            let case = step(format, &[100, 128, 100]).packed(vec![1, 0, 2]);
            let mut problem = case.problem().expect("inputs");
            let bits = passed(&problem, &device);
            let columns = problem.table.len() / 3;
            problem.table[columns..2 * columns].fill(-7);
            assert_eq!(passed(&problem, &device), bits);
        }
    }
}

/// Packed or not, split or not, in every order.
#[test]
fn lse_in_every_order() {
    for device in devices() {
        for format in FORMATS {
            for heads in [3, 64] {
                let case = MlaDecodeCase { heads, q_tokens: 2, causal: true, ..step(format, &[300, 0, 64]) };
                let sequences = LseOrder::SequencesHeadsTokens { q_tokens: 2 };
                for lse_order in [LseOrder::HeadsTokens, sequences] {
                    pass(&MlaDecodeCase { lse_order, ..case.clone() }, &device);
                }
                // Three tokens of seven are nobody's.
                let packed = case.packed(vec![3, 0, 1]);
                let sequences = LseOrder::SequencesHeadsTokens { q_tokens: 7 };
                for lse_order in [LseOrder::HeadsTokens, sequences] {
                    pass(&MlaDecodeCase { lse_order, ..packed.clone() }, &device);
                }
            }
        }
    }
}
