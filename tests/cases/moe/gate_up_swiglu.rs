//! Gate, up and SwiGLU: byte for byte what the references give one after another, and what the two operations do.

use std::sync::Arc;

use check::case::{Problem, attempt, memory_of, pass, pass_in};
use check::devices::{FEW_MULTIPROCESSORS, devices, emulators, machines, schedules, seeded};
use check::gemm::grouped_fp8_gemm::Assignment;
use check::memory::{Arena, Memory, Scalar};
use check::moe::gate_up_swiglu::GateUpSwigluCase;
use check::quant::Rule;
use deepseek_kernels::gemm::Segments;
use deepseek_kernels::moe::{
    GateUpOrder, GateUpSwiglu, GateUpSwigluSpec,
};
use deepseek_kernels::table::moe::GATE_UP_INSTANCES;
use deepseek_kernels::{DataFaults, Device, EmulatorOptions, Error, F8E4M3};
use oracles::gemm::{GemmClass, GemmInputs};
use proptest::prelude::*;

const ORDERS: [GateUpOrder; 2] = [GateUpOrder::GateFirst, GateUpOrder::UpFirst];

/// Sums of every size, NaN and Inf among them.
const CLASSES: [GemmClass; 6] = [
    GemmClass::SignedIntegers,
    GemmClass::Normal,
    GemmClass::Outliers,
    GemmClass::Codes,
    GemmClass::NanCodes,
    GemmClass::SpecialScales,
];

#[test]
fn every_instance_at_the_edges_of_its_tiles() {
    for device in devices() {
        for &instance in GATE_UP_INSTANCES {
            let bm = instance.block_m as usize;
            let counts = [bm - 1, 0, bm, 1, 0, bm + 1, 2 * bm + 9];
            for (assignment, layer) in [
                (Assignment::ragged(&counts, 5), (128, 384)),
                (Assignment::masked(&counts[3..], 2 * bm + 10), (256, 128)),
                (Assignment::ragged(&counts, 2), (192, 576)),
                (Assignment::ragged(&counts[..3], 0), (16, 64)),
            ] {
                pass(&GateUpSwigluCase::new(assignment, layer).with(instance), &device);
            }
        }
    }
}

/// As of the grouped GEMM: laps of the ring that end before, with and after its stages, and more than two of them.
#[test]
fn every_instance_at_the_edges_of_its_ring() {
    for device in devices() {
        for &instance in GATE_UP_INSTANCES {
            let stages = instance.stages() as usize;
            for k_blocks in [stages - 1, stages, stages + 1, 2 * stages + 1] {
                let assignment = Assignment::ragged(&[5, 0, instance.block_m as usize + 1, 3, 1], 1);
                pass(&GateUpSwigluCase::new(assignment, (144, 128 * k_blocks)).with(instance), &device);
            }
        }
    }
}

/// As of the grouped GEMM: as many tiles as the multiprocessors take in one round, one fewer, one more, and none.
#[test]
fn the_size_of_the_gpu_changes_no_bit() {
    const SIZES: [u32; 3] = [1, 3, 7];
    let machines =
        emulators(SIZES.map(|multiprocessors| EmulatorOptions { multiprocessors, ..FEW_MULTIPROCESSORS }));
    for &instance in GATE_UP_INSTANCES {
        let rounds = SIZES.map(|multiprocessors| multiprocessors.div_ceil(instance.cluster) as usize);
        for tiles in rounds.iter().flat_map(|round| round - 1..=round + 1) {
            let counts: Vec<usize> = (0..tiles).map(|i| 1 + i % 3).collect();
            let case = GateUpSwigluCase::new(Assignment::ragged(&counts, 1), (128, 128)).with(instance);
            let mut results = machines.iter().map(|device| pass(&case, device));
            let first = results.next();
            assert!(results.all(|outputs| Some(outputs) == first), "{}, {tiles} tiles", instance.name());
        }
    }
}

#[test]
fn every_option() {
    for device in devices() {
        for clamp in [None, Some(1.5), Some(0.3), Some(0.0)] {
            for (i, rule) in Rule::multiplying().enumerate() {
                let case = GateUpSwigluCase::new(Assignment::ragged(&[5, 0, 66], 1), (256, 256));
                pass(&GateUpSwigluCase { clamp, rule, order: ORDERS[i % 2], ..case }, &device);
            }
        }
    }
}

/// The judge knows what is to be reported.
#[test]
fn every_class() {
    for device in devices() {
        for class in CLASSES {
            let mut case = GateUpSwigluCase::new(Assignment::ragged(&[41, 0, 7], 1), (256, 384));
            case.gemm.class = class;
            pass(&case, &device);
        }
    }
}

#[test]
fn every_way_to_route() {
    for device in machines() {
        for experts in [1, 2, 5, 257, 896] {
            let only = |e: usize| (0..experts).map(|i| if i == e { 70 } else { 0 }).collect::<Vec<_>>();
            let alternate: Vec<usize> = (0..experts).map(|e| if e % 2 == 0 { 3 } else { 0 }).collect();
            for counts in [vec![0; experts], only(0), only(experts - 1), alternate] {
                pass(&GateUpSwigluCase::new(Assignment::ragged(&counts, 2), (128, 128)), &device);
                pass(&GateUpSwigluCase::new(Assignment::masked(&counts, 72), (128, 128)), &device);
            }
        }
    }
}

/// Gate and up exchanged, in B, in its scales and in the order: the same bits, of any class of data and any instance.
#[test]
fn either_order_gives_the_same_bits() {
    for device in devices() {
        for (i, class) in CLASSES.into_iter().enumerate() {
            let layer = [(128, 256), (192, 320), (16, 72)][i % 3];
            let mut case = GateUpSwigluCase::new(Assignment::ragged(&[130, 0, 3], 2), layer);
            case = case.with(GATE_UP_INSTANCES[i % GATE_UP_INSTANCES.len()]);
            (case.gemm.class, case.clamp) = (class, Some(0.75));
            let problem = case.problem().expect("inputs");
            let mut exchanged = problem.clone();
            exchanged.case.order = GateUpOrder::UpFirst;
            for GemmInputs { b, sfb, .. } in &mut exchanged.gemm.experts {
                let (codes, scales) = (b.len() / 2, sfb.len() / 2);
                b.rotate_left(codes);
                sfb.rotate_left(scales);
            }
            let [one, other] = [problem, exchanged].map(|problem| {
                let ran = attempt(Arc::new(problem), &device, memory_of("order"));
                ran.unwrap_or_else(|error| panic!("{class:?}: {error:#}")).outputs
            });
            assert!(one == other, "{class:?}");
        }
    }
}

/// What was reported since it was last asked.
fn reported(device: &Device) -> DataFaults {
    match device.poll_error() {
        Err(Error::Data(faults)) => faults,
        other => other.map(|()| DataFaults::NONE).expect("a device that works"),
    }
}

/// Of every row that somebody has. No reference is asked.
fn fused_is_unfused(case: GateUpSwigluCase, device: &Device) {
    let name = format!("{case:?}");
    let (rows, width) = (case.gemm.assignment.rows(), case.gemm.n / 2);
    let problem = Arc::new(case.problem().expect("inputs"));
    let mut fused =
        problem.clone().prepare(&mut Arena::new(device, memory_of("fused"))).expect("operands");
    fused.launch(device.stream().expect("stream")).expect("launch");
    let outputs = fused.outputs().expect("outputs");
    let (q, sf) = (outputs[0].values::<F8E4M3>(), outputs[1].values::<f32>());
    let faults = reported(device);
    let (q_apart, sf_apart) = problem.apart(device).expect("the two operations");
    assert_eq!(faults, reported(device), "{name}");
    for row in problem.case.gemm.assignment.experts().into_iter().flatten() {
        let codes = |q: &[F8E4M3]| q[row * width..][..width].iter().map(|x| x.bits()).collect::<Vec<_>>();
        assert_eq!(codes(&q), codes(&q_apart), "row {row} of {name}");
        let scales = |sf: &[f32]| (0..width.div_ceil(128)).map(|g| sf[g * rows + row].to_bits()).collect::<Vec<_>>();
        assert_eq!(scales(&sf), scales(&sf_apart), "row {row} of {name}");
    }
}

/// The named guarantee of `docs/numerics.md`.
#[test]
fn fused_equals_unfused() {
    let counts = [3, 0, 129, 64];
    for device in devices() {
        for (i, class) in CLASSES.into_iter().enumerate() {
            for (j, &instance) in GATE_UP_INSTANCES.iter().enumerate() {
                let masked = (i + j) % 2 == 1;
                let assignment =
                    if masked { Assignment::masked(&counts, 132) } else { Assignment::ragged(&counts, 3) };
                let layer = [(128, 256), (256, 256), (192, 320), (208, 256), (16, 72)][i % 5];
                let mut case = GateUpSwigluCase::new(assignment, layer).with(instance);
                case.gemm.class = class;
                case.rule = Rule::OWN[j % 2];
                case.clamp = [None, Some(0.75)][i / 2 % 2];
                case.order = ORDERS[(i + j) / 2 % 2];
                fused_is_unfused(case, &device);
            }
        }
    }
}

#[test]
fn no_k_no_columns_no_rows() {
    for device in devices() {
        let check = |assignment, layer| pass(&GateUpSwigluCase::new(assignment, layer), &device);
        let [q, sf] = &check(Assignment::ragged(&[3, 0, 66], 1), (128, 0))[..] else { panic!("two outputs") };
        assert!(q.bytes[..69 * 128].iter().all(|&byte| byte == 0), "k = 0 gives codes of 0");
        let floor = sf.values::<f32>()[0];
        assert!(floor > 0.0 && sf.values::<f32>()[..69].iter().all(|&x| x == floor));
        check(Assignment::ragged(&[3, 4], 0), (0, 128));
        check(Assignment::ragged(&[0, 0], 0), (128, 128));
        // Rows that are nobody's, for there is nobody.
        check(Assignment::ragged(&[], 7), (128, 128));
    }
}

/// Whatever stands in the segments: nothing outside is touched, and it is told.
#[test]
fn segments_that_are_none() {
    let ragged = [vec![0, 40, 30, 100], vec![-3, 10, 20, 30], vec![0, 60, 60, 101], vec![90, 95, 97, 100]];
    let ragged = ragged.map(|values| Assignment { segments: Segments::Ragged { rows: 100 }, values });
    let masked = [vec![51, 3, -1], vec![i32::MIN, i32::MAX, 0]];
    let masked = masked.map(|values| Assignment { segments: Segments::Masked { max_rows: 50 }, values });
    for device in devices() {
        for assignment in ragged.iter().chain(&masked) {
            pass(&GateUpSwigluCase::new(assignment.clone(), (128, 256)), &device);
        }
    }
}

/// Nobody has a row twice, though an end falls back behind an earlier one: within a lane's experts, and over some lanes.
#[test]
fn segments_that_fall_back() {
    for device in devices() {
        for (expert, fallen) in [(0, 1), (0, 38), (3, 5), (14, 1), (15, 1), (15, 20), (16, 22), (37, 1)] {
            let assignment = Assignment::fallen_back(40, expert, fallen);
            pass(&GateUpSwigluCase::new(assignment, (128, 128)), &device);
        }
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    for &instance in GATE_UP_INSTANCES {
        let case = GateUpSwigluCase::new(Assignment::ragged(&[70, 1, 140], 2), (256, 384)).with(instance);
        for machines in schedules(4) {
            let bytes = |device| pass(&case, device).into_iter().map(|out| out.bytes).collect::<Vec<_>>();
            let first = bytes(&machines[0]);
            for (number, device) in machines.iter().enumerate().skip(1) {
                assert!(bytes(device) == first, "{} number {number}", device.name());
            }
        }
    }
}

/// By the model: an expert of DeepSeek-V3 with few rows waits for its weights, and with many L2 gives B to pairs of CTAs.
#[test]
fn tiles_of_as_many_rows_as_experts_have() {
    let tuning = |expected_rows: usize| {
        let segments = Segments::Ragged { rows: 256 * expected_rows };
        let spec = GateUpSwigluSpec::new(256, 2048, 7168, segments);
        GateUpSwiglu::tuning_for(&spec, 132).expect("a tuning").to_string()
    };
    assert_eq!(tuning(2), "gate_up_swiglu_m64_n128_c1_bf16");
    assert_eq!(tuning(4096), "gate_up_swiglu_m128_n128_c2_bf16");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_routing(
        counts in prop::collection::vec(prop_oneof![Just(0_usize), 0..20_usize, 60..140_usize], 1..6),
        width in 1..20_usize, hidden in 1..24_usize, spare in 0..9_usize, seed in any::<u64>(),
        pick in any::<prop::sample::Index>(), class in 0..CLASSES.len(), power in any::<bool>(),
        clamped in any::<bool>(), masked in any::<bool>(), order in 0..2_usize,
    ) {
        let most = counts.iter().max().copied().unwrap_or(0);
        let assignment =
            if masked { Assignment::masked(&counts, most + spare) } else { Assignment::ragged(&counts, spare) };
        let instance = GATE_UP_INSTANCES[pick.index(GATE_UP_INSTANCES.len())];
        let mut case = GateUpSwigluCase::new(assignment, (16 * width, 16 * hidden)).with(instance);
        case.gemm.class = CLASSES[class];
        case.rule = Rule::OWN[usize::from(power)];
        case.clamp = clamped.then_some(0.5);
        case.order = ORDERS[order];
        for device in seeded([seed]) {
            pass_in(&case, &device, Memory::Poisoned(seed));
            fused_is_unfused(case.clone(), &device);
        }
    }
}
