//! Merged states of attention: bit for bit what the reference gives, and within the error bound of f64.

use check::devices::{devices, seeded};
use check::guarded::Sentinel;
use check::mla::merge_states::{COLUMNS, Merge, Part, same};
use deepseek_kernels::cudarc::driver::DeviceRepr;
use deepseek_kernels::{Device, bf16};
use oracles::log1p_f32;
use oracles::mla::{State, merge_states_bound};
use proptest::prelude::*;
use rayon::prelude::*;

/// Runs a check with both types of o.
macro_rules! both {
    ($function:ident($($argument:expr),*)) => {{
        $function::<bf16>($($argument),*);
        $function::<f32>($($argument),*);
    }};
}

#[test]
fn any_number_of_rows() {
    fn check<T: Sentinel + DeviceRepr>(device: &Device) {
        for (tokens, heads) in [(1, 1), (1, 3), (2, 2), (5, 1), (3, 16), (1, 128), (67, 2)] {
            Merge::random::<T>(tokens, heads, 8.0, 1).check::<T>(device);
        }
    }
    for device in devices() {
        both!(check(&device));
    }
}

/// From equal weights to one that vanishes; logarithms far from 0, and next to it.
#[test]
fn any_distance_of_the_parts() {
    fn check<T: Sentinel + DeviceRepr>(device: &Device) {
        let distances = [0.0, 1e-7, 0.1, 0.69, 0.7, 3.0, 17.0, 87.0, 103.9, 104.1, 1e4, 3e38];
        for base in [0.0, 1e-6, -0.4, 30.0, -1000.0, 1e30] {
            let mut case = Merge::random::<T>(distances.len(), 1, 1.0, 2);
            case.parts[0].lse.fill(base);
            case.parts[1].lse = distances.iter().map(|distance| base - distance).collect();
            case.check::<T>(device);
            case.swapped().check::<T>(device);
        }
    }
    for device in devices() {
        both!(check(&device));
    }
}

#[test]
fn results_are_within_the_bound_of_f64() {
    fn check<T: Sentinel + DeviceRepr>(device: &Device) {
        for spread in [0.01, 1.0, 10.0, 60.0] {
            let case = Merge::random::<T>(40, 2, spread, 3);
            let (o, lse) = case.run::<T>(device);
            let parts = case.parts.each_ref().map(|part| State { o: &part.o, lse: &part.lse });
            let (want_o, want_lse) = merge_states_bound(parts, COLUMNS, T::OUTPUT_MODEL).expect("reference");
            for ((want, bound), got) in want_lse.into_iter().zip(lse) {
                assert!((f64::from(got) - want).abs() <= bound, "lse: expected {want} +- {bound}, got {got}");
            }
            for ((want, bound), got) in want_o.into_iter().zip(o) {
                let got = f64::from(got.widen());
                assert!((got - want).abs() <= bound, "o: expected {want} +- {bound}, got {got}");
            }
        }
    }
    for device in devices() {
        both!(check(&device));
    }
}

#[test]
fn the_parts_may_change_places() {
    fn check<T: Sentinel + DeviceRepr>(device: &Device) {
        let mut case = Merge::random::<T>(50, 2, 5.0, 4);
        case.parts[1].lse[7] = case.parts[0].lse[7];
        case.parts[0].empty_row(9, f32::NEG_INFINITY);
        let ((o, lse), (other_o, other_lse)) = (case.run::<T>(device), case.swapped().run::<T>(device));
        assert!(o.iter().zip(&other_o).all(|(x, y)| x.bits() == y.bits()));
        assert!(lse.iter().zip(&other_lse).all(|(x, y)| x.to_bits() == y.to_bits()));
    }
    for device in devices() {
        both!(check(&device));
    }
}

/// Every combination of empty parts: the other one as it is, NaN and -0 included; of two, 0 and -Inf.
#[test]
fn a_part_without_keys_changes_nothing() {
    fn check<T: Sentinel + DeviceRepr>(device: &Device) {
        let mut case = Merge::random::<T>(6, 1, 4.0, 5);
        case.parts[0].empty_row(0, f32::NEG_INFINITY);
        case.parts[1].empty_row(1, f32::NEG_INFINITY);
        case.parts[0].empty_row(2, f32::NEG_INFINITY);
        case.parts[1].empty_row(2, f32::NEG_INFINITY);
        // Whatever the only part holds.
        case.parts[1].empty_row(3, f32::NEG_INFINITY);
        case.parts[0].lse[3] = f32::NAN;
        case.parts[1].empty_row(4, f32::NEG_INFINITY);
        let special = [f32::NAN, f32::INFINITY, -0.0];
        for (x, special) in case.parts[0].o[4 * COLUMNS..5 * COLUMNS].iter_mut().zip(special) {
            *x = special;
        }
        case.check::<T>(device);
        let (o, lse) = case.run::<T>(device);
        let row = |row: usize| o[row * COLUMNS..][..COLUMNS].iter().map(|x| x.bits()).collect::<Vec<_>>();
        let given = |part: usize, row: usize| {
            let o = &case.parts[part].o[row * COLUMNS..][..COLUMNS];
            o.iter().map(|&x| T::narrow(x).bits()).collect::<Vec<_>>()
        };
        assert_eq!((row(0), lse[0].to_bits()), (given(1, 0), case.parts[1].lse[0].to_bits()));
        assert_eq!((row(1), lse[1].to_bits()), (given(0, 1), case.parts[0].lse[1].to_bits()));
        assert_eq!((row(2), lse[2]), (vec![0; COLUMNS], f32::NEG_INFINITY));
        assert_eq!(row(4), given(0, 4));
    }
    for device in devices() {
        both!(check(&device));
    }
}

/// As one asks: the same as -Inf, or the infinity that it is.
#[test]
fn positive_infinity_is_empty_if_the_option_says_so() {
    fn check<T: Sentinel + DeviceRepr>(device: &Device) {
        let mut case = Merge::random::<T>(4, 1, 4.0, 6);
        case.parts[0].empty_row(0, f32::INFINITY);
        case.parts[1].empty_row(1, f32::INFINITY);
        case.parts[0].empty_row(2, f32::INFINITY);
        case.parts[1].empty_row(2, f32::NEG_INFINITY);
        case.infinity_is_empty = true;
        case.check::<T>(device);
        let (o, lse) = case.run::<T>(device);
        assert!(o.iter().all(|x| !x.widen().is_nan()) && lse[2] == f32::NEG_INFINITY);
        case.infinity_is_empty = false;
        case.check::<T>(device);
        assert_eq!(case.run::<T>(device).1[..3], [f32::INFINITY; 3]);
    }
    for device in devices() {
        both!(check(&device));
    }
}

#[test]
fn nan_stays_in_its_row() {
    fn check<T: Sentinel + DeviceRepr>(device: &Device) {
        let mut case = Merge::random::<T>(5, 1, 4.0, 7);
        case.parts[0].lse[1] = f32::NAN;
        case.parts[1].lse[2] = f32::NAN;
        case.parts[1].o[3 * COLUMNS + 5] = f32::NAN;
        case.check::<T>(device);
        let (o, _) = case.run::<T>(device);
        for (i, x) in o.iter().enumerate() {
            let (row, column) = (i / COLUMNS, i % COLUMNS);
            assert_eq!(
                x.widen().is_nan(),
                row == 1 || row == 2 || (row, column) == (3, 5),
                "[{row}, {column}]"
            );
        }
    }
    for device in devices() {
        both!(check(&device));
    }
}

/// Merging with a state of one's own keys again leaves o, and log 2 more in the lse.
#[test]
fn a_state_merged_with_itself() {
    for device in devices() {
        let part = Part::random::<f32>(9, 3.0, 8);
        let case = Merge { parts: [part.clone(), part], heads: 3, infinity_is_empty: false };
        let (o, lse) = case.run::<f32>(&device);
        assert!(o == case.parts[0].o);
        for (got, lse) in lse.iter().zip(&case.parts[0].lse) {
            assert_eq!(*got, lse + std::f32::consts::LN_2);
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for heads in [0, 2] {
            let parts = [1, 2].map(|seed| Part::random::<bf16>(0, 1.0, seed));
            Merge { parts, heads, infinity_is_empty: false }.check::<bf16>(&device);
        }
    }
}

/// Every 61st float of [0, 1], and both ends of each branch.
#[test]
fn log1p_is_within_its_bound() {
    let ulps = |x: f32| {
        let (got, exact) = (log1p_f32(x), f64::from(x).ln_1p());
        let ulp = f64::from((exact as f32).next_up() - exact as f32);
        (f64::from(got) - exact).abs() / ulp
    };
    let one = 1.0_f32.to_bits();
    let worst = (0..one / 61).into_par_iter().map(|i| ulps(f32::from_bits(61 * i))).reduce(|| 0.0, f64::max);
    let half = 0.5_f32;
    let edges = [f32::MIN_POSITIVE, half.next_down(), half, half.next_up(), 1.0_f32.next_down(), 1.0];
    let worst = edges.into_iter().map(ulps).fold(worst, f64::max);
    println!("log1p is off by {worst:.3} ulp at most");
    assert!(worst <= 1.0, "{worst} ulp");
    assert!(same(log1p_f32(0.0), 0.0) && log1p_f32(f32::NAN).is_nan());
    assert_eq!(log1p_f32(1.0), std::f32::consts::LN_2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_states(
        tokens in 1..12_usize, heads in 1..5_usize, spread in 0.0..120.0_f32, seed in 0..1000_u64, wide in any::<bool>(),
        infinity_is_empty in any::<bool>(), holes in proptest::collection::vec((0..2_usize, 0..48_usize, 0..4_usize), 0..6),
    ) {
        let mut case = if wide {
            Merge::random::<f32>(tokens, heads, spread, seed)
        } else {
            Merge::random::<bf16>(tokens, heads, spread, seed)
        };
        case.infinity_is_empty = infinity_is_empty;
        for (part, row, kind) in holes {
            let lse = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0][kind];
            case.parts[part].empty_row(row % (tokens * heads), lse);
        }
        for device in seeded([seed]) {
            if wide { case.check::<f32>(&device) } else { case.check::<bf16>(&device) }
        }
    }
}
