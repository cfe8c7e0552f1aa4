//! The grouped GEMM: every expert's rows judged by exact integers against that expert's weights, and every other row
//! untouched. What lies between the segments is NaN.

use check::devices::{devices, seeded};
use check::gemm::grouped::{NAN_CODE, Routing, judge, masked, operands, ragged, run};
use check::gemm::{GemmLayout, run_gemm};
use check::memory::Sentinel;
use deepseek_kernels::gemm::{GROUPED_GEMM_INSTANCES, GemmInstance, Segments};
use deepseek_kernels::{Device, Error, bf16};
use oracles::gemm::GemmClass;
use oracles::gemm::Oracle;
use proptest::prelude::*;

fn check(device: &Device, routing: &Routing, (n, k): (usize, usize), instance: Option<GemmInstance>) {
    let inputs = operands(GemmClass::SignedIntegers, routing, n, k, 3);
    let d = run(device, routing, &inputs, (n, k), instance).unwrap_or_else(|e| panic!("{routing:?}: {e}"));
    let name = instance.map(|i| i.name()).unwrap_or_default();
    judge(
        &format!("{} {name} {:?}", device.name(), routing.segments),
        routing,
        &inputs,
        n,
        &[Oracle::Exact],
        &d,
    );
    assert_eq!(device.poll_error(), Ok(()), "{routing:?} is in order");
}

#[test]
fn every_instance_at_the_edges_of_its_tiles() {
    for device in devices() {
        for instance in GROUPED_GEMM_INSTANCES {
            let (bm, bn) = (instance.block_m as usize, instance.block_n as usize);
            let counts = [bm - 1, 0, bm, 1, 0, bm + 1, 2 * bm + 9];
            check(&device, &ragged(&counts, 5), (bn + 8, 384), Some(*instance));
            check(&device, &masked(&counts, 2 * bm + 10), (bn + 8, 256), Some(*instance));
        }
    }
}

#[test]
fn every_way_to_route() {
    for device in devices() {
        for experts in [1, 2, 3, 5, 257] {
            let only = |e: usize| (0..experts).map(|i| if i == e { 70 } else { 0 }).collect::<Vec<_>>();
            let alternate: Vec<usize> = (0..experts).map(|e| if e % 2 == 0 { 3 } else { 0 }).collect();
            for counts in
                [vec![0; experts], vec![1; experts], only(0), only(experts - 1), only(experts / 2), alternate]
            {
                check(&device, &ragged(&counts, 2), (16, 128), None);
                check(&device, &masked(&counts, 72), (16, 128), None);
            }
        }
        let one_token: Vec<usize> = (0..256).map(|e| usize::from(e == 77)).collect();
        check(&device, &ragged(&one_token, 0), (8, 128), None);
        check(&device, &ragged(&[3; 512], 0), (8, 128), None);
    }
}

#[test]
fn no_k_no_columns_no_rows() {
    for device in devices() {
        let routing = ragged(&[3, 0, 66], 1);
        let inputs = operands(GemmClass::SignedIntegers, &routing, 16, 0, 1);
        let d = run(&device, &routing, &inputs, (16, 0), None).expect("run");
        assert!(d[..69 * 16].iter().all(|x| x.to_bits() == 0), "k = 0 writes zeros");
        check(&device, &ragged(&[3, 4], 0), (0, 128), None);
        check(&device, &ragged(&[0, 0], 0), (16, 128), None);
        // Rows that are nobody's, for there is nobody.
        check(&device, &ragged(&[], 7), (16, 128), None);
    }
}

/// The bits of a row are those of the dense GEMM, for every instance.
#[test]
fn the_bits_of_the_dense_gemm() {
    let routing = ragged(&[5, 130, 0, 64], 3);
    let (n, k) = (136, 512);
    let inputs = operands(GemmClass::Outliers, &routing, n, k, 9);
    for device in devices() {
        for instance in GROUPED_GEMM_INSTANCES {
            let d = run(&device, &routing, &inputs, (n, k), Some(*instance)).expect("run");
            for (range, own) in routing.experts.iter().zip(&inputs) {
                let layout = GemmLayout::tight(own.m, n, k, 2);
                let dense = run_gemm::<bf16>(&device, own, &layout, None, None).expect("run");
                assert!(d[range.start * n..range.end * n] == dense, "{} rows {range:?}", instance.name());
            }
        }
    }
}

/// Whatever another expert's operands hold, a row keeps its bits.
#[test]
fn experts_do_not_meet() {
    let (n, k) = (72, 256);
    for routing in [ragged(&[40, 30, 50], 0), masked(&[40, 30, 50], 64)] {
        let inputs = operands(GemmClass::Normal, &routing, n, k, 4);
        for device in devices() {
            let before = run(&device, &routing, &inputs, (n, k), None).expect("run");
            for other in 0..3 {
                let mut changed = inputs.clone();
                changed[other].a.fill(NAN_CODE);
                changed[other].sfa.fill(f32::INFINITY);
                changed[other].b.fill(NAN_CODE);
                changed[other].sfb.fill(f32::NAN);
                let after = run(&device, &routing, &changed, (n, k), None).expect("run");
                for (e, range) in routing.experts.iter().enumerate() {
                    let rows = range.start * n..range.end * n;
                    let same =
                        before[rows.clone()].iter().zip(&after[rows]).all(|(x, y)| x.bits() == y.bits());
                    assert_eq!(same, e != other, "expert {other} changed, expert {e}");
                }
            }
        }
    }
}

/// Whatever stands in the segments: nothing outside is touched, and it is told. What remains is what the documentation
/// says: no segment starts before an earlier one ends, and none leaves the rows there are.
#[test]
fn segments_that_are_none() {
    let (n, k, rows) = (24, 256, 100);
    let max = i32::MAX;
    for values in [
        vec![0, 40, 30, 100],
        vec![0, -5, 50, 100],
        vec![0, 200, 300, 400],
        vec![0, max, i32::MIN, 7],
        vec![-3, 10, 20, 30],
        vec![0, 60, 60, 101],
        vec![90, 95, 97, 100],
    ] {
        let mut before = values[0].clamp(0, rows);
        let mut experts = Vec::new();
        for &end in &values[1..] {
            let end = end.clamp(before, rows);
            experts.push(before as usize..end as usize);
            before = end;
        }
        let in_order = values.is_sorted() && values[0] >= 0 && values[3] <= rows;
        let segments = Segments::Ragged { rows: rows as usize };
        bad(&Routing { segments, values, experts, rows: rows as usize }, (n, k), in_order);
    }
    for values in [vec![51, 3, -1], vec![i32::MIN, max, 0], vec![50, 50, 50]] {
        let used = |count: i32| count.clamp(0, 50) as usize;
        let experts = values.iter().enumerate().map(|(e, &count)| 50 * e..50 * e + used(count)).collect();
        let in_order = values.iter().all(|count| (0..=50).contains(count));
        bad(
            &Routing { segments: Segments::Masked { max_rows: 50 }, values, experts, rows: 150 },
            (n, k),
            in_order,
        );
    }
}

fn bad(routing: &Routing, shape: (usize, usize), in_order: bool) {
    for device in devices() {
        let inputs = operands(GemmClass::SignedIntegers, routing, shape.0, shape.1, 8);
        let d = run(&device, routing, &inputs, shape, None).unwrap_or_else(|e| panic!("{routing:?}: {e}"));
        judge(&format!("{routing:?}"), routing, &inputs, shape.0, &[Oracle::Exact], &d);
        match device.poll_error() {
            Err(Error::Data(faults)) => assert!(!in_order && faults.segment(), "{routing:?}: {faults}"),
            other => assert!(in_order, "{routing:?} went unreported: {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_routing(
        counts in prop::collection::vec(prop_oneof![Just(0_usize), 0..20_usize, 60..140_usize], 1..8),
        n in 1..20_usize, k_blocks in 1..5_usize, spare in 0..9_usize, seed in any::<u64>(),
        pick in any::<prop::sample::Index>(),
    ) {
        let instance = GROUPED_GEMM_INSTANCES[pick.index(GROUPED_GEMM_INSTANCES.len())];
        for device in seeded([seed]) {
            check(&device, &ragged(&counts, spare), (8 * n, 128 * k_blocks), Some(instance));
            let most = counts.iter().max().copied().unwrap_or(0);
            check(&device, &masked(&counts, most + spare), (8 * n, 128 * k_blocks), Some(instance));
        }
    }
}
