//! The grouped GEMM: every expert's rows judged by exact integers against that expert's weights, and every other row
//! untouched.

use std::sync::Arc;

use check::case::{attempt, memory_of, pass, pass_in};
use check::devices::{FEW_MULTIPROCESSORS, devices, emulators, machines, seeded};
use check::gemm::fp8_gemm::{Fp8GemmCase, Fp8GemmProblem};
use check::gemm::grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase, GroupedFp8GemmProblem};
use check::memory::{Memory, Scalar};
use deepseek_kernels::gemm::Segments;
use deepseek_kernels::table::gemm::{GROUPED_GEMM_INSTANCES, GemmInstance};
use deepseek_kernels::{EmulatorOptions, F8E4M3};
use oracles::gemm::GemmClass;
use proptest::prelude::*;

fn case(assignment: Assignment, layer: (usize, usize), instance: GemmInstance) -> GroupedFp8GemmCase {
    GroupedFp8GemmCase { instance: Some(instance), ..GroupedFp8GemmCase::new(assignment, layer) }
}

#[test]
fn every_instance_at_the_edges_of_its_tiles() {
    for device in devices() {
        for &instance in GROUPED_GEMM_INSTANCES {
            let (bm, bn) = (instance.block_m as usize, instance.block_n as usize);
            let counts = [bm - 1, 0, bm, 1, 0, bm + 1, 2 * bm + 9];
            pass(&case(Assignment::ragged(&counts, 5), (bn + 8, 384), instance), &device);
            pass(&case(Assignment::masked(&counts, 2 * bm + 10), (bn + 8, 256), instance), &device);
        }
    }
}

#[test]
fn every_way_to_route() {
    for device in machines() {
        let check = |assignment, layer| drop(pass(&GroupedFp8GemmCase::new(assignment, layer), &device));
        for experts in [1, 2, 3, 5, 257] {
            let only = |e: usize| (0..experts).map(|i| if i == e { 70 } else { 0 }).collect::<Vec<_>>();
            let alternate: Vec<usize> = (0..experts).map(|e| if e % 2 == 0 { 3 } else { 0 }).collect();
            for counts in
                [vec![0; experts], vec![1; experts], only(0), only(experts - 1), only(experts / 2), alternate]
            {
                check(Assignment::ragged(&counts, 2), (16, 128));
                check(Assignment::masked(&counts, 72), (16, 128));
            }
        }
        let one_token: Vec<usize> = (0..256).map(|e| usize::from(e == 77)).collect();
        check(Assignment::ragged(&one_token, 0), (8, 128));
        for experts in [512, 513, 896, 1023, 1024] {
            check(Assignment::ragged(&vec![3; experts], 0), (8, 128));
            check(Assignment::masked(&vec![1; experts], 2), (8, 128));
        }
    }
}

#[test]
fn no_k_no_columns_no_rows() {
    for device in devices() {
        let check = |assignment, layer| pass(&GroupedFp8GemmCase::new(assignment, layer), &device);
        let [d] = &check(Assignment::ragged(&[3, 0, 66], 1), (16, 0))[..] else { panic!("one output") };
        assert!(d.bytes[..69 * 16 * 2].iter().all(|&byte| byte == 0), "k = 0 writes zeros");
        check(Assignment::ragged(&[3, 4], 0), (0, 128));
        check(Assignment::ragged(&[0, 0], 0), (16, 128));
        // Rows that are nobody's, for there is nobody.
        check(Assignment::ragged(&[], 7), (16, 128));
    }
}

/// As many K blocks as the ring has stages, one fewer, one more, and more than two laps; the next tile begins wherever the
/// last one ended in the ring.
#[test]
fn every_instance_at_the_edges_of_its_ring() {
    for device in devices() {
        for &instance in GROUPED_GEMM_INSTANCES {
            let (n, stages) = (instance.block_n as usize + 8, instance.stages() as usize);
            for k_blocks in [stages - 1, stages, stages + 1, 2 * stages + 1] {
                let assignment = Assignment::ragged(&[5, 0, instance.block_m as usize + 1, 3, 1], 1);
                pass(&case(assignment, (n, 128 * k_blocks), instance), &device);
            }
        }
    }
}

/// Tiles that the multiprocessors of a GPU take in one round, one fewer, one more, and none: on every size of GPU all rows are
/// written, with the same bits.
#[test]
fn the_size_of_the_gpu_changes_no_bit() {
    const SIZES: [u32; 4] = [1, 3, 7, 132];
    let machines =
        emulators(SIZES.map(|multiprocessors| EmulatorOptions { multiprocessors, ..FEW_MULTIPROCESSORS }));
    for &instance in GROUPED_GEMM_INSTANCES {
        // All CTAs of the largest take long: the smallest instance has them.
        let sizes = SIZES.len() - usize::from(instance != GROUPED_GEMM_INSTANCES[0]);
        let rounds = SIZES.map(|multiprocessors| multiprocessors.div_ceil(instance.cluster) as usize);
        for tiles in rounds[..sizes].iter().flat_map(|round| round - 1..=round + 1) {
            // A tile an expert, but for the first one, whose rows end in a second.
            let counts: Vec<usize> = match tiles {
                0 | 1 => vec![tiles],
                _ => std::iter::once(instance.block_m as usize * instance.cluster as usize + 1)
                    .chain((2..tiles).map(|i| 1 + i % 3))
                    .collect(),
            };
            let case = case(Assignment::ragged(&counts, 1), (instance.block_n as usize, 128), instance);
            let case = GroupedFp8GemmCase { class: GemmClass::Normal, ..case };
            let mut results = machines.iter().take(sizes).map(|device| pass(&case, device));
            let first = results.next();
            assert!(results.all(|d| Some(d) == first), "{}, {tiles} tiles", instance.name());
        }
    }
}

/// The bits of a row are those of the dense GEMM, for every instance.
#[test]
fn the_bits_of_the_dense_gemm() {
    let assignment = Assignment::ragged(&[5, 130, 0, 64], 3);
    let (n, k) = (136, 512);
    for device in devices() {
        for &instance in GROUPED_GEMM_INSTANCES {
            let case = GroupedFp8GemmCase {
                class: GemmClass::Outliers,
                ..case(assignment.clone(), (n, k), instance)
            };
            let d = pass(&case, &device);
            let problem = case.problem().expect("inputs");
            for (range, inputs) in assignment.experts().into_iter().zip(problem.experts) {
                let case =
                    Fp8GemmCase { class: GemmClass::Outliers, ..Fp8GemmCase::new((range.len(), n, k)) };
                let problem = Arc::new(Fp8GemmProblem::new(case, inputs));
                let dense = attempt(problem, &device, memory_of("dense")).expect("right").outputs;
                let same = d[0].bytes[range.start * n * 2..range.end * n * 2] == dense[0].bytes;
                assert!(same, "{} rows {range:?}", instance.name());
            }
        }
    }
}

/// As in the dense GEMM, of two experts, the second of which starts within a tile.
#[test]
fn every_special_scale_meets_every_other() {
    for device in machines() {
        for &instance in GROUPED_GEMM_INSTANCES {
            for assignment in [Assignment::ragged(&[22, 0, 23], 1), Assignment::masked(&[23, 22], 25)] {
                let case = case(assignment, (10 * 128 + 8, 256), instance);
                pass(&GroupedFp8GemmCase { class: GemmClass::SpecialScales, ..case }, &device);
            }
        }
    }
}

/// Whatever another expert's operands hold, a row keeps its bits.
#[test]
fn experts_do_not_meet() {
    let (n, k) = (72, 256);
    let counts = [40, 30, 50];
    for assignment in [Assignment::ragged(&counts, 0), Assignment::masked(&counts, 64)] {
        let case =
            GroupedFp8GemmCase { class: GemmClass::Normal, ..GroupedFp8GemmCase::new(assignment, (n, k)) };
        for device in devices() {
            let before = pass(&case, &device);
            for other in 0..3 {
                let mut changed = case.clone().problem().expect("inputs");
                spoil(&mut changed, other);
                let after = attempt(Arc::new(changed), &device, memory_of("spoilt")).expect("right").outputs;
                for (e, rows) in case.assignment.experts().into_iter().enumerate() {
                    let bytes = rows.start * n * 2..rows.end * n * 2;
                    let same = before[0].bytes[bytes.clone()] == after[0].bytes[bytes];
                    assert_eq!(same, e != other, "expert {other} changed, expert {e}");
                }
            }
        }
    }
}

fn spoil(problem: &mut GroupedFp8GemmProblem, expert: usize) {
    let own = &mut problem.experts[expert];
    own.a.fill(F8E4M3::POISON);
    own.sfa.fill(f32::INFINITY);
    own.b.fill(F8E4M3::POISON);
    own.sfb.fill(f32::NAN);
}

/// Whatever stands in the segments: nothing outside is touched, and it is told. What remains is what the documentation
/// says: no segment starts before an earlier one ends, and none leaves the rows there are.
#[test]
fn segments_that_are_none() {
    let max = i32::MAX;
    let ragged = [
        vec![0, 40, 30, 100],
        vec![0, -5, 50, 100],
        vec![0, 200, 300, 400],
        vec![0, max, i32::MIN, 7],
        vec![-3, 10, 20, 30],
        vec![0, 60, 60, 101],
        vec![90, 95, 97, 100],
    ];
    let masked = [vec![51, 3, -1], vec![i32::MIN, max, 0], vec![50, 50, 50]];
    let ragged = ragged.map(|values| Assignment { segments: Segments::Ragged { rows: 100 }, values });
    let masked = masked.map(|values| Assignment { segments: Segments::Masked { max_rows: 50 }, values });
    for device in devices() {
        for assignment in ragged.iter().chain(&masked) {
            pass(&GroupedFp8GemmCase::new(assignment.clone(), (24, 256)), &device);
        }
    }
    // The judge knows what is to be reported.
    let in_order = |assignment: &&Assignment| assignment.in_order();
    assert_eq!((ragged.iter().filter(in_order).count(), masked.iter().filter(in_order).count()), (1, 1));
    assert_eq!(ragged[1].experts(), [0..0, 0..50, 50..100]);
}

/// An end that falls back behind an earlier one gives nobody a row twice: for as many experts as there are, whichever it is
/// among those that a lane reads, and however many follow it, up to several lanes' and all there are.
#[test]
fn segments_that_fall_back() {
    for device in machines() {
        for experts in [40, 512, 1024] {
            let first = if experts == 1024 { 500 } else { 0 };
            let places = (first..=first + 17).chain([30, 31, 32, 33, 255, 256, 335, 479, 494, 495, 496, 509, 510]);
            for expert in places.filter(|expert| expert + 1 < experts) {
                for fallen in [1, 2, 14, 15, 16, 17, 33, 150, 300].into_iter().chain([experts - expert - 2]) {
                    if expert + fallen + 1 < experts {
                        let assignment = Assignment::fallen_back(experts, expert, fallen);
                        pass(&GroupedFp8GemmCase::new(assignment, (8, 128)), &device);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_segments(
        start in -2..20_i32, ends in prop::collection::vec(-3..130_i32, 1..70), sorted in 0..70_usize,
        seed in any::<u64>(),
    ) {
        // In order up to some expert, and from there on in none.
        let mut values = [vec![start], ends].concat();
        let sorted = sorted.min(values.len());
        values[..sorted].sort_unstable();
        let assignment = Assignment { segments: Segments::Ragged { rows: 100 }, values };
        for device in seeded([seed]) {
            pass_in(&GroupedFp8GemmCase::new(assignment.clone(), (16, 128)), &device, Memory::Poisoned(seed));
        }
    }

    #[test]
    fn any_routing(
        counts in prop::collection::vec(prop_oneof![Just(0_usize), 0..20_usize, 60..140_usize], 1..8),
        n in 1..20_usize, k in 1..40_usize, spare in 0..9_usize, seed in any::<u64>(),
        pick in any::<prop::sample::Index>(),
    ) {
        let instance = GROUPED_GEMM_INSTANCES[pick.index(GROUPED_GEMM_INSTANCES.len())];
        let most = counts.iter().max().copied().unwrap_or(0);
        for device in seeded([seed]) {
            for assignment in [Assignment::ragged(&counts, spare), Assignment::masked(&counts, most + spare)] {
                let case = case(assignment, (8 * n, 16 * k), instance);
                pass_in(&case, &device, Memory::Poisoned(seed));
            }
        }
    }
}
