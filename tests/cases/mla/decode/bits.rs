//! MLA decode: bits that depend on the sequence alone, and data that cannot be.

use check::case::pass;
use check::devices::{FEW_MULTIPROCESSORS, devices, emulators, machines, schedules};
use check::mla::decode::{Launches, MlaDecodeCase, MlaDecodeProblem, STALE_PAGE, instances};
use check::mla::{CacheRows, KEY, LATENT};
use deepseek_kernels::mla::{KvFormat, KvPaging};
use deepseek_kernels::{EmulatorOptions, bf16};
use oracles::mla::AttentionClass;

use crate::mla::{FORMATS, full, passed, step};

fn long_step(format: KvFormat) -> MlaDecodeCase {
    MlaDecodeCase { q_tokens: 2, heads: 64, causal: true, ..step(format, &[400, 130, 0, 257]) }
}

// ------------------------------------------------------------------------------------------------- the same bits

#[test]
fn neither_the_size_of_the_gpu_nor_the_schedule_changes_a_bit() {
    for format in FORMATS {
        let problem = long_step(format).problem().expect("inputs");
        let sizes = [1, 2, 3, 4, 7, 132]
            .map(|multiprocessors| EmulatorOptions { multiprocessors, ..FEW_MULTIPROCESSORS });
        for machines in schedules(4).into_iter().chain([emulators(sizes)]) {
            let mut results = machines.iter().map(|device| passed(&problem, device));
            let first = results.next();
            assert!(results.all(|outputs| Some(outputs) == first), "{format:?}");
        }
    }
}

/// Every instance, launched at once or in two steps.
#[test]
fn every_instance_gives_the_same_bits() {
    for device in devices() {
        for format in FORMATS {
            let ways = instances(format).flat_map(|instance| {
                [Launches::Whole, Launches::Apart].map(|launches| MlaDecodeCase {
                    instance: Some(instance),
                    launches,
                    ..long_step(format)
                })
            });
            let results: Vec<_> = ways.map(|case| pass(&case, &device)).collect();
            assert!(
                results.len() > 2 && results.windows(2).all(|pair| pair[0] == pair[1]),
                "{}",
                device.name()
            );
        }
    }
}

/// A sequence alone gives what it gives in a batch, whatever the others are.
#[test]
fn the_rest_of_the_batch_changes_no_bit() {
    for device in machines() {
        for format in FORMATS {
            pass(&MlaDecodeCase { alone: true, ..long_step(format) }, &device);
        }
    }
}

/// Pages anywhere, pages of another size, no pages at all; a page that two sequences share.
#[test]
fn the_place_of_a_key_changes_no_bit() {
    for device in machines() {
        for format in FORMATS {
            // No split is shorter than the longest page.
            let at = |page_size, pages_apart| {
                let case = MlaDecodeCase { page_size, pages_apart, ..step(format, &[333, 64, 1]) };
                MlaDecodeCase { split_keys: Some(192), ..case }.problem().expect("inputs")
            };
            let bits = passed(&at(Some(64), false), &device);
            for problem in [reversed(at(Some(64), false)), at(None, false), at(None, true)] {
                assert_eq!(passed(&problem, &device), bits, "{:?}", problem.spec.paging);
            }
            for page_size in [1, 3, 16, 32, 64, 192] {
                for pages_apart in [false, true] {
                    let problem = at(Some(page_size), pages_apart);
                    assert_eq!(passed(&problem, &device), bits, "pages of {page_size}");
                }
            }
            let mut twice = step(format, &[128, 128]).problem().expect("inputs");
            let columns = twice.table.len() / 2;
            let (first, second) = twice.table.split_at_mut(columns);
            second.copy_from_slice(first);
            let half = twice.q.len() / 2;
            twice.q.copy_within(..half, half);
            let bits = passed(&twice, &device);
            assert_eq!(twice.part(&bits, 0), twice.part(&bits, 1), "a shared prefix");
        }
    }
}

/// What a table says past the end of a sequence is not looked at, within the page of its last key or not.
#[test]
fn pages_past_the_end_are_not_looked_up() {
    for device in machines() {
        for format in FORMATS {
            for page_size in [1, 16, 64] {
                let case = MlaDecodeCase { page_size: Some(page_size), ..step(format, &[70, 5, 128]) };
                let problem = case.problem().expect("inputs");
                let bits = passed(&problem, &device);
                let mut other = problem.clone();
                let exists = other.table.iter().position(|&page| page != STALE_PAGE).expect("a page");
                let page = other.table[exists];
                other.table.iter_mut().filter(|page| **page == STALE_PAGE).for_each(|stale| *stale = page);
                assert_eq!(passed(&other, &device), bits, "pages of {page_size}");
            }
        }
    }
}

/// Page p becomes page `pages - 1 - p`.
fn reversed(mut problem: MlaDecodeProblem) -> MlaDecodeProblem {
    let KvPaging::Paged { pages, page_size, .. } = problem.spec.paging else { unreachable!() };
    let row = page_size * problem.spec.format.columns(problem.spec.rope);
    match &mut problem.cache {
        CacheRows::Bf16(keys) => *keys = keys.chunks(row).rev().flatten().copied().collect(),
        CacheRows::Fp8(rows) | CacheRows::Fp8PerTensor { rows, .. } => {
            *rows = rows.chunks(row).rev().flatten().copied().collect();
        }
    }
    for page in &mut problem.table {
        if (0..pages as i32).contains(page) {
            *page = pages as i32 - 1 - *page;
        }
    }
    problem
}

#[test]
fn an_only_split_is_the_whole() {
    for device in devices() {
        let split = |split_keys| MlaDecodeCase {
            split_keys: Some(split_keys),
            ..step(KvFormat::Bf16, &[100, 128, 0])
        };
        assert_eq!(pass(&split(128), &device), pass(&split(1024), &device));
    }
}

// ------------------------------------------------------------------------------------------------------ bad data

/// What has to be reported is judged with the rest.
#[test]
fn lengths_that_cannot_be_are_cut_and_reported() {
    for device in machines() {
        for (length, same_as) in [(-1, 0), (i32::MIN, 0), (193, 192), (i32::MAX, 192)] {
            let mut problem = full();
            problem.lengths[1] = same_as;
            let expected = passed(&problem, &device);
            problem.lengths[1] = length;
            assert_eq!(passed(&problem, &device), expected, "{length}");
            // And what else may be wrong of the same step.
            problem.table[0] = 12;
            passed(&problem, &device);
        }
    }
}

/// More keys than all sequences may have together: the last ones count as empty, which is judged with the rest.
#[test]
fn sequences_that_do_not_fit_all_together_are_empty_and_reported() {
    for device in devices() {
        for format in FORMATS {
            let of = |total_keys, lengths: [i32; 4]| {
                let mut problem = step(format, &[100, 128, 100, 1]).problem().expect("inputs");
                problem.spec.total_keys = total_keys;
                problem.lengths = lengths.into();
                passed(&problem, &device)
            };
            let all = of(None, [100, 128, 100, 1]);
            assert_eq!(of(Some(329), [100, 128, 100, 1]), all);
            assert_eq!(of(Some(328), [100, 128, 100, 1]), of(None, [100, 128, 100, 0]));
            assert_eq!(of(Some(327), [100, 128, 100, 1]), of(None, [100, 128, 0, 0]));
            assert_eq!(of(Some(0), [100, 128, 100, 1]), of(None, [0; 4]));
        }
    }
}

#[test]
fn pages_that_do_not_exist_read_as_zeros_and_are_reported() {
    for device in machines() {
        for format in FORMATS {
            let mut problem = step(format, &[100, 128, 100]).problem().expect("inputs");
            assert!(matches!(problem.spec.paging, KvPaging::Paged { pages: 12, pages_per_sequence: 3, .. }));
            let before = passed(&problem, &device);
            problem.case.class = AttentionClass::Positive;
            for page in [-1, i32::MIN, i32::MAX, STALE_PAGE, 12] {
                problem.table[4] = page;
                let got = passed(&problem, &device);
                for other in [0, 2] {
                    assert_eq!(problem.part(&got, other), problem.part(&before, other), "sequence {other}");
                }
            }
            // One key of a block, two neighbours, the last key.
            let case = MlaDecodeCase { page_size: Some(1), ..step(format, &[100, 128, 100]) };
            let mut problem = case.problem().expect("inputs");
            let columns = problem.table.len() / 3;
            problem.case.class = AttentionClass::Positive;
            for key in [3, 64, 65, 127] {
                problem.table[columns + key] = STALE_PAGE;
                passed(&problem, &device);
            }
        }
    }
}

/// A query of NaN spoils its own row; a NaN key the rows of its sequence; Inf logits give NaN, as they do in IEEE.
#[test]
fn nan_stays_where_it_is() {
    for device in machines() {
        let case = MlaDecodeCase { heads: 8, ..step(KvFormat::Bf16, &[200, 130]) };
        let clean = passed(&case.clone().problem().expect("inputs"), &device);
        let (clean_out, clean_lse) = (clean[0].widened(), clean[1].widened());
        for special in [f32::NAN, f32::INFINITY] {
            let mut problem = case.clone().problem().expect("inputs");
            problem.finite = false;
            problem.q[3 * KEY + 7] = bf16::from_f32(special);
            let got = passed(&problem, &device);
            let (out, lse) = (got[0].widened(), got[1].widened());
            for row in 0..16 {
                let columns = row * LATENT..(row + 1) * LATENT;
                if row == 3 {
                    assert!(out[columns].iter().all(|x| x.is_nan()) && lse[row].is_nan());
                } else {
                    assert_eq!(out[columns.clone()], clean_out[columns], "row {row}");
                    assert_eq!(lse[row], clean_lse[row], "row {row}");
                }
            }
        }
        let mut problem = case.problem().expect("inputs");
        problem.finite = false;
        let first_page = problem.table[0] as usize;
        let CacheRows::Bf16(keys) = &mut problem.cache else { unreachable!() };
        keys[first_page * 64 * KEY + 5] = bf16::NAN;
        let got = passed(&problem, &device);
        let out = got[0].widened();
        assert!(out[..out.len() / 2].iter().all(|x| x.is_nan()));
        assert_eq!(problem.part(&got, 1), problem.part(&clean, 1));
    }
}
