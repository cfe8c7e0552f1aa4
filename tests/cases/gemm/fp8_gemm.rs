//! The FP8 GEMM on every device, judged element by element: exact integers, the tensor core's bit model, and the
//! a-priori bound. Every gap around every operand holds NaN, and D starts as a NaN that no kernel writes.

use check::devices::{devices, emulators, schedules, seeded};
use check::gemm::{GemmLayout, check_gemm, run_gemm};
use check::memory::{Placement, Sentinel};
use deepseek_kernels::gemm::{GEMM_INSTANCES, GemmInstance, OutputType};
use deepseek_kernels::{Device, EmulatorOptions, bf16};
use oracles::gemm::GemmClass;
use oracles::gemm::Oracle;
use proptest::prelude::*;

const EXACT: [Oracle; 1] = [Oracle::Exact];

fn instances(output: OutputType) -> impl Iterator<Item = GemmInstance> {
    GEMM_INSTANCES.iter().copied().filter(move |i| i.output == output)
}

/// One GEMM in the tightest layout, checked by every oracle of its class.
fn check<D: Sentinel>(
    device: &Device,
    class: GemmClass,
    shape: (usize, usize, usize),
    instance: Option<GemmInstance>,
) {
    let (m, n, k) = shape;
    let inputs = class.generate(shape, (m + n + k) as u64).expect("inputs");
    let layout = GemmLayout::tight(m, n, k, size_of::<D>());
    let d =
        run_gemm::<D>(device, &inputs, &layout, instance, None).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
    let what = format!("{} {shape:?} {class:?} {:?}", device.name(), instance.map(|i| i.name()));
    check_gemm(&what, &inputs, class.oracles(), None, &d);
}

#[test]
fn every_class_of_inputs() {
    for device in devices() {
        for class in GemmClass::ALL {
            check::<bf16>(&device, class, (130, 136, 384), None);
            check::<f32>(&device, class, (66, 24, 256), None);
        }
    }
}

#[test]
fn every_instance_at_its_edges() {
    for device in devices() {
        for instance in instances(OutputType::Bf16) {
            edges::<bf16>(&device, instance);
        }
        for instance in instances(OutputType::F32) {
            edges::<f32>(&device, instance);
        }
    }
}

/// Rows and columns one short of, at and past a tile; fewer K blocks than stages, as many, more.
fn edges<D: Sentinel>(device: &Device, instance: GemmInstance) {
    let (bm, bn, stages) = (instance.block_m as usize, instance.block_n as usize, instance.stages() as usize);
    for (m, n, k_blocks) in [
        (1, 8, 1),
        (bm - 1, bn - 8, 2),
        (bm, bn, stages),
        (bm + 1, bn + 8, stages + 1),
        (2 * bm + 17, 2 * bn + 8, 3),
    ] {
        check::<D>(device, GemmClass::SignedIntegers, (m, n.max(8), 128 * k_blocks), Some(instance));
    }
}

#[test]
fn promotion_happens_every_128() {
    for device in devices() {
        check::<bf16>(&device, GemmClass::Integers, (17, 16, 2048), None);
        check::<f32>(&device, GemmClass::Ones, (2, 8, 32768), None);
    }
}

#[test]
fn every_m_around_the_tile_sizes() {
    for device in devices() {
        for m in [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257] {
            check::<bf16>(&device, GemmClass::SignedIntegers, (m, 24, 256), None);
        }
        for n in (8..=136).step_by(8) {
            check::<bf16>(&device, GemmClass::SignedIntegers, (3, n, 128), None);
        }
    }
}

#[test]
fn no_k_writes_zeros_and_no_rows_or_columns_write_nothing() {
    for device in devices() {
        let inputs = GemmClass::SignedIntegers.generate((70, 16, 0), 1).expect("inputs");
        let d = run_gemm::<f32>(&device, &inputs, &GemmLayout::tight(70, 16, 0, 4), None, None).expect("run");
        assert!(d.iter().all(|x| x.to_bits() == 0), "+0 everywhere");
        for (m, n) in [(0, 16), (5, 0), (0, 0)] {
            let inputs = GemmClass::SignedIntegers.generate((m, n, 128), 1).expect("inputs");
            let d = run_gemm::<bf16>(&device, &inputs, &GemmLayout::tight(m, n, 128, 2), None, None);
            assert_eq!(d.expect("run"), []);
        }
    }
}

fn accumulates<D: Sentinel>(device: &Device, class: GemmClass, (m, n, k): (usize, usize, usize)) {
    let inputs = class.generate((m, n, k), 5).expect("inputs");
    let before: Vec<D> = (0..m * n).map(|i| D::narrow((i % 97) as f32 - 48.0)).collect();
    let layout = GemmLayout::tight(m, n, k, size_of::<D>());
    let d = run_gemm(device, &inputs, &layout, None, Some(&before)).expect("run");
    check_gemm(&format!("accumulate {class:?}"), &inputs, class.oracles(), Some(&before), &d);
}

#[test]
fn accumulates_into_d() {
    for device in devices() {
        for class in [GemmClass::SignedIntegers, GemmClass::Normal] {
            accumulates::<bf16>(&device, class, (130, 72, 256));
            accumulates::<f32>(&device, class, (65, 40, 256));
        }
        accumulates::<f32>(&device, GemmClass::SignedIntegers, (9, 16, 0));
    }
}

/// Bits depend on the row and the column alone: not on the instance, the multiprocessors, or the other rows.
#[test]
fn batch_invariance() {
    let (m, n, k) = (300, 136, 1024);
    let inputs = GemmClass::Outliers.generate((m, n, k), 11).expect("inputs");
    let layout = GemmLayout::tight(m, n, k, 2);
    for device in devices() {
        let whole = run_gemm::<bf16>(&device, &inputs, &layout, None, None).expect("run");
        for instance in instances(OutputType::Bf16) {
            let d = run_gemm::<bf16>(&device, &inputs, &layout, Some(instance), None).expect("run");
            assert!(d == whole, "{} gives other bits", instance.name());
        }
        for rows in [0..1, 37..102, 299..300] {
            let mut part = inputs.clone();
            part.m = rows.len();
            part.a = inputs.a[rows.start * k..rows.end * k].to_vec();
            part.sfa = inputs.sfa.chunks(m).flat_map(|scales| scales[rows.clone()].to_vec()).collect();
            let layout = GemmLayout::tight(part.m, n, k, 2);
            let d = run_gemm::<bf16>(&device, &part, &layout, None, None).expect("run");
            assert!(d == whole[rows.start * n..rows.end * n], "rows {rows:?} alone give other bits");
        }
    }
    let sizes =
        [4, 1, 3, 132].map(|multiprocessors| EmulatorOptions { multiprocessors, ..Default::default() });
    let of_sizes = emulators(sizes);
    let run = |device| run_gemm::<bf16>(device, &inputs, &layout, None, None).expect("run");
    for pair in of_sizes.windows(2) {
        let counts = [pair[0].multiprocessors(), pair[1].multiprocessors()];
        assert!(run(&pair[0]) == run(&pair[1]), "{counts:?} multiprocessors do not agree");
    }
}

/// Whatever the schedule, no rule is broken and the bits are the same.
#[test]
fn every_schedule_gives_the_same_bits() {
    let (m, n, k) = (200, 136, 1024);
    let inputs = GemmClass::Normal.generate((m, n, k), 3).expect("inputs");
    let layout = GemmLayout::tight(m, n, k, 2);
    for instance in instances(OutputType::Bf16) {
        let run = |device: &Device| {
            run_gemm::<bf16>(device, &inputs, &layout, Some(instance), None).unwrap_or_else(|e| panic!("{e}"))
        };
        for machines in schedules(4) {
            let first = run(&machines[0]);
            for (number, device) in machines.iter().enumerate().skip(1) {
                assert!(run(device) == first, "{} {} number {number}", instance.name(), device.name());
            }
        }
    }
}

/// Any 16-byte-aligned address and pitch: `units` of 16 bytes before the matrix and after each row.
fn placement(columns: usize, element: usize) -> impl Strategy<Value = Placement> {
    let unit = 16 / element;
    (0..4_usize, 0..4_usize).prop_map(move |(before, gap)| Placement {
        offset: before * unit,
        pitch: columns.next_multiple_of(unit) + gap * unit,
    })
}

fn layout((m, n, k): (usize, usize, usize), d_bytes: usize) -> impl Strategy<Value = GemmLayout> {
    let sfb =
        (0..3_usize, 0..3_usize).prop_map(move |(offset, gap)| Placement { offset, pitch: k / 128 + gap });
    (placement(k, 1), placement(k, 1), placement(m, 4), sfb, placement(n, d_bytes))
        .prop_map(|(a, b, sfa, sfb, d)| GemmLayout { a, b, sfa, sfb, d })
}

type Case = ((usize, usize, usize), GemmLayout, u64);

fn case(d_bytes: usize) -> impl Strategy<Value = Case> {
    (1..200_usize, 1..20_usize, 0..6_usize, any::<u64>())
        .prop_map(|(m, n, k, seed)| ((m, 8 * n, 128 * k), seed))
        .prop_flat_map(move |(shape, seed)| (Just(shape), layout(shape, d_bytes), Just(seed)))
}

fn any_case<D: Sentinel>(((m, n, k), layout, seed): Case, instance: Option<GemmInstance>) {
    let inputs = GemmClass::SignedIntegers.generate((m, n, k), seed).expect("inputs");
    for device in seeded([seed]) {
        let d = run_gemm::<D>(&device, &inputs, &layout, instance, None).unwrap_or_else(|e| panic!("{e}"));
        check_gemm(device.name(), &inputs, &EXACT, None, &d);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_and_layout_bf16(case in case(2), pick in any::<prop::sample::Index>()) {
        let all: Vec<_> = instances(OutputType::Bf16).collect();
        any_case::<bf16>(case, Some(all[pick.index(all.len())]));
    }

    #[test]
    fn any_shape_and_layout_f32(case in case(4)) {
        any_case::<f32>(case, None);
    }
}
