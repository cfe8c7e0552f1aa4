//! RMSNorm: bits of the reference and the bound of any correct norm, residuals, codes, and bits that no batch changes.

use std::sync::Arc;

use check::case::{attempt, memory_of, pass, pass_in};
use check::devices::{devices, emulators, schedules, seeded};
use check::memory::{Memory, Output};
use check::quant::Rule;
use check::quant::rms_norm::{NormOutput, RmsNormCase, RmsNormProblem};
use deepseek_kernels::quant::{NormRounding, RmsNorm, RmsNormSpec};
use deepseek_kernels::{Device, EmulatorOptions, F8E4M3, bf16};
use proptest::prelude::*;

const OUTPUTS: [NormOutput; 3] =
    [NormOutput::Bf16, NormOutput::Fp8(Rule::FP32), NormOutput::Fp8(Rule::POWER_OF_TWO)];
const ROUNDINGS: [NormRounding; 2] = [NormRounding::Once, NormRounding::EachStep];

fn ran(problem: RmsNormProblem, device: &Device) -> Vec<Output> {
    attempt(Arc::new(problem), device, memory_of("norm")).expect("right").outputs
}

#[test]
fn what_is_no_norm_is_refused() {
    for device in devices() {
        for (rows, hidden, eps, expected) in [
            (2, 204, 1e-6, "hidden must be a multiple of 8, got 204"),
            (2, 16512, 1e-6, "hidden must be at most 16384, got 16512"),
            (1 << 31, 128, 1e-6, "rows must be at most 2147483647, got 2147483648"),
            (2, 128, -1e-6, "eps must be finite and not negative, got -0.000001"),
            (2, 128, f32::NAN, "eps must be finite and not negative, got NaN"),
        ] {
            let refused = RmsNorm::plan(&device, RmsNormSpec::new(rows, hidden, eps));
            assert_eq!(refused.err().map(|error| error.to_string()).as_deref(), Some(expected));
        }
    }
}

#[test]
fn every_output_rounding_and_residual() {
    for device in devices() {
        for output in OUTPUTS {
            for rounding in ROUNDINGS {
                for residual in [false, true] {
                    let case = RmsNormCase { output, rounding, residual, ..RmsNormCase::new((3, 1152)) };
                    pass(&case, &device);
                }
            }
        }
    }
}

/// One block, a block more than the threads have pieces for, the longest row, and none.
#[test]
fn every_length_of_a_row() {
    for device in devices() {
        for hidden in [8, 128, 192, 256, 384, 576, 2048, 2056, 2176, 7168, 16384] {
            let case = RmsNormCase::new((2, hidden));
            pass(&case, &device);
            pass(&RmsNormCase { output: OUTPUTS[1], ..case }, &device);
        }
        for shape in [(0, 256), (3, 0), (0, 0)] {
            pass(&RmsNormCase::new(shape), &device);
        }
    }
}

/// A row alone gives the bits that it gives in a batch, on any number of multiprocessors and under any schedule.
#[test]
fn batch_invariance() {
    let case = RmsNormCase { output: OUTPUTS[1], ..RmsNormCase::new((9, 1152)) };
    for device in devices() {
        let whole = pass(&case, &device);
        let (codes, scales) = (whole[0].values::<F8E4M3>(), whole[1].values::<f32>());
        for row in [0, 4, 8] {
            let mut alone = case.problem();
            alone.case.rows = 1;
            alone.x = alone.x[row * 1152..][..1152].to_vec();
            alone.residual = alone.residual.map(|residual| residual[row * 1152..][..1152].to_vec());
            let alone = ran(alone, &device);
            assert!(alone[0].values::<F8E4M3>() == codes[row * 1152..][..1152], "codes of row {row}");
            let scales: Vec<f32> = scales.iter().skip(row).step_by(9).copied().collect();
            assert_eq!(alone[1].values::<f32>(), scales, "scales of row {row}");
        }
    }
    let sizes = [1, 132].map(|multiprocessors| EmulatorOptions { multiprocessors, ..Default::default() });
    for machines in schedules(3).into_iter().chain([emulators(sizes)]) {
        let mut results = machines.iter().map(|device| pass(&case, device));
        let first = results.next();
        assert!(results.all(|outputs| Some(outputs) == first));
    }
}

/// What is added here and what was added before are the same norm.
#[test]
fn a_residual_is_a_sum_in_bf16() {
    for device in devices() {
        let together = RmsNormCase::new((4, 640)).problem();
        let mut apart = together.clone();
        let residual = apart.residual.take().expect("a residual");
        let sum = |(x, r): (&bf16, &bf16)| bf16::from_f32(x.to_f32() + r.to_f32());
        apart.x = apart.x.iter().zip(&residual).map(sum).collect();
        let (together, apart) = (ran(together, &device), ran(apart, &device));
        assert_eq!(together[0], apart[0]);
    }
}

/// Rows of zeros, of subnormals, of the largest numbers, and those with Inf and NaN, which are told where codes are written.
#[test]
fn special_rows() {
    for device in devices() {
        for output in OUTPUTS {
            let mut problem = RmsNormCase { output, residual: false, ..RmsNormCase::new((6, 256)) }.problem();
            let rows = [bf16::ZERO, bf16::from_bits(1), bf16::MAX, bf16::INFINITY, bf16::NAN];
            for (row, value) in rows.into_iter().enumerate() {
                problem.x[row * 256..][..if row < 3 { 256 } else { 1 }].fill(value);
            }
            ran(problem, &device);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_and_memory(
        rows in 1..6_usize, blocks in 1..12_usize, output in 0..3_usize, each_step in any::<bool>(),
        residual in any::<bool>(), seed in any::<u64>(),
    ) {
        let case = RmsNormCase {
            output: OUTPUTS[output],
            rounding: ROUNDINGS[usize::from(each_step)],
            residual,
            seed: seed / 2,
            ..RmsNormCase::new((rows, 128 * blocks))
        };
        for device in seeded([seed]) {
            pass_in(&case, &device, Memory::Poisoned(seed));
        }
    }
}
