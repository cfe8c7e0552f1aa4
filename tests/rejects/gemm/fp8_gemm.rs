//! Of the dense one.

use std::sync::Arc;

use check::devices::emulated;
use check::gemm::fp8_gemm::{Fp8GemmCase, Fp8GemmRun};
use check::memory::{Arena, Memory};
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmSpec, GroupedFp8Gemm};
use deepseek_kernels::quant::{Scales1x128, Scales128x128};
use deepseek_kernels::table::gemm::{GEMM_INSTANCES, OutputType};
use deepseek_kernels::{Device, EmulatorOptions, Matrix, MatrixMut, Tuning, bf16};

use crate::{message, with};

const M: usize = 8;
const N: usize = 16;
const K: usize = 256;
const SPEC: Fp8GemmSpec = Fp8GemmSpec::new(M, N, K);

fn gemm() -> Fp8GemmRun<f32> {
    let case = Fp8GemmCase { output: OutputType::F32, ..Fp8GemmCase::new((M, N, K)) };
    let problem = Arc::new(case.problem().expect("inputs"));
    Fp8GemmRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    gemm();
    a_of_another_shape: |args, spare| args.a = Matrix::new(&spare.codes, M, K - 128)?
        => "expected a [m, k] [8, 256], got [8, 128]";
    a_with_too_many_rows: |args, spare| args.a = Matrix::new(&spare.codes, M + 1, K)?
        => "expected a [m, k] [8, 256], got [9, 256]";
    b_of_another_shape: |args, spare| args.b = Matrix::new(&spare.codes, N - 8, K)?
        => "expected b [n, k] [16, 256], got [8, 256]";
    sfa_with_a_missing_row: |args, spare| args.sfa = Scales1x128::new(&spare.floats, M - 1, K)?
        => "expected sfa [ceil(k/128), m] [2, 8], got [2, 7]";
    sfa_of_another_k: |args, spare| args.sfa = Scales1x128::new(&spare.floats, M, K + 128)?
        => "expected sfa [ceil(k/128), m] [2, 8], got [3, 8]";
    sfb_of_another_n: |args, spare| args.sfb = Scales128x128::new(&spare.floats, 129, K)?
        => "expected sfb [ceil(n/128), ceil(k/128)] [1, 2], got [2, 2]";
    a_too_short: |args, spare| args.a = Matrix::new(&spare.codes[..M * K - 1], M, K)?
        => "[8, 256] with pitch 256 needs 2048 elements, the slice has 2047";
    sfa_too_short: |args, spare| args.sfa = Scales1x128::new(&spare.floats[..15], M, K)?
        => "[2, 8] with pitch 8 needs 16 elements, the slice has 15";
    sfb_too_short: |args, spare| args.sfb = Scales128x128::new(&spare.floats[..1], N, K)?
        => "[1, 2] with pitch 2 needs 2 elements, the slice has 1";
    sfb_empty: |args, spare| args.sfb = Scales128x128::new(&spare.floats[..0], N, K)?
        => "[1, 2] with pitch 2 needs 2 elements, the slice has 0";
    a_with_overlapping_rows: |args, spare| args.a = Matrix::with_pitch(&spare.codes, M, K, K - 16)?
        => "pitch must be at least the number of columns: expected >= 256, got 240";
    a_with_an_odd_pitch: |args, spare| args.a = Matrix::with_pitch(&spare.codes, M, K, K + 8)?
        => "a: pitch must be a multiple of 16 bytes, got 264";
    b_with_an_odd_pitch: |args, spare| args.b = Matrix::with_pitch(&spare.codes, N, K, K + 1)?
        => "b: pitch must be a multiple of 16 bytes, got 257";
    sfa_with_an_odd_pitch: |args, spare| args.sfa = Scales1x128::with_pitch(&spare.floats, M, K, M + 1)?
        => "sfa: pitch must be a multiple of 16 bytes, got 36";
    a_at_an_odd_address: |args, spare| args.a = Matrix::new(&spare.codes[1..], M, K)?
        => "a: address must be a multiple of 16 bytes, got 1";
    b_at_an_odd_address: |args, spare| args.b = Matrix::new(&spare.codes[8..], N, K)?
        => "b: address must be a multiple of 16 bytes, got 8";
    sfa_at_an_odd_address: |args, spare| args.sfa = Scales1x128::new(&spare.floats[1..], M, K)?
        => "sfa: address must be a multiple of 16 bytes, got 4";
    scales_of_another_k: |args, spare| args.sfb = Scales128x128::new(&spare.floats, N, K + 1)?
        => "expected sfb [ceil(n/128), ceil(k/128)] [1, 2], got [1, 3]";
    d_of_another_shape: |args, spare| args.d = MatrixMut::new(&mut spare.floats, M, N + 8)?
        => "expected d [m, n] [8, 16], got [8, 24]";
    d_too_short: |args, spare| args.d = MatrixMut::new(&mut spare.floats[..M * N - 1], M, N)?
        => "[8, 16] with pitch 16 needs 128 elements, the slice has 127";
    d_with_an_odd_pitch: |args, spare| args.d = MatrixMut::with_pitch(&mut spare.floats, M, N, N + 2)?
        => "d: pitch must be a multiple of 16 bytes, got 72";
    d_at_an_odd_address: |args, spare| args.d = MatrixMut::new(&mut spare.floats[2..], M, N)?
        => "d: address must be a multiple of 16 bytes, got 8";
}

fn plan_error(spec: Fp8GemmSpec) -> String {
    message(Fp8Gemm::<f32>::plan(&emulated(0), spec))
}

#[test]
fn n_not_a_multiple_of_8() {
    assert_eq!(plan_error(with(SPEC, |spec| spec.n = 12)), "n must be a multiple of 8, got 12");
}

#[test]
fn sizes_beyond_what_tma_counts() {
    const OVER: &str = "must be at most 2147483647, got 2147483648";
    let huge = 1 << 31;
    assert_eq!(plan_error(with(SPEC, |spec| spec.m = huge)), format!("m {OVER}"));
    assert_eq!(plan_error(with(SPEC, |spec| spec.n = huge)), format!("n {OVER}"));
    assert_eq!(plan_error(with(SPEC, |spec| spec.k = huge)), format!("k {OVER}"));
    let wide = plan_error(Fp8GemmSpec::new(huge - 1, huge - 8, K));
    assert!(wide.starts_with("tiles of D must be at most 2147483647, got "), "{wide}");
}

#[test]
fn tunings_of_another_output_or_of_none() {
    let f32 = |tuning: &Tuning| message(Fp8Gemm::<f32>::plan_with(&emulated(0), SPEC, tuning));
    let of_f32 = "tuning must be one of Fp8Gemm::<f32>::tunings(), got ";
    let bf16 = Fp8Gemm::<bf16>::tunings().next().expect("a tuning");
    assert_eq!(f32(&bf16), format!("{of_f32}fp8_gemm_m64_n16_c1_bf16"));
    assert_eq!(f32(&Tuning::named("")), of_f32);
    assert_eq!(
        f32(&Tuning::named("fp8_gemm_m64_n128_c1_f32 ")),
        format!("{of_f32}fp8_gemm_m64_n128_c1_f32 ")
    );
    let odd = with(SPEC, |spec| spec.n = 12);
    assert_eq!(
        message(Fp8Gemm::<f32>::plan_with(&emulated(0), odd, &Tuning::named("none"))),
        "n must be a multiple of 8, got 12"
    );
}

/// Its kernel takes another struct.
#[test]
fn a_tuning_of_the_grouped_gemm() {
    let grouped = GroupedFp8Gemm::tunings().next().expect("a tuning");
    let error = message(Fp8Gemm::<bf16>::plan_with(&emulated(0), SPEC, &grouped));
    let expected = "tuning must be one of Fp8Gemm::<bf16>::tunings(), got grouped_fp8_gemm_m64_n32_c1_bf16";
    assert_eq!(error, expected);
}

/// Tiles, CTAs and waves, of which a choice prints.
fn launch(choice: &str) -> [usize; 3] {
    let words: Vec<&str> = choice.split([' ', ',']).collect();
    ["tiles", "CTAs", "waves"].map(|unit| {
        let number = words.windows(2).find(|pair| pair[1] == unit).map(|pair| pair[0].parse());
        number.unwrap_or_else(|| panic!("no {unit} in {choice}")).expect("a number")
    })
}

/// The planner is pure: the same shape gives the same choice on every device of that size, and every choice covers D.
#[test]
fn every_plan_covers_d() {
    let options = EmulatorOptions { multiprocessors: 132, ..EmulatorOptions::default() };
    let device = Device::emulated_with(options).expect("the tests need a C++ compiler");
    for m in [1, 63, 64, 65, 128, 1000, 4096] {
        for (n, k) in [(8, 128), (576, 7168), (32768, 512)] {
            let spec = Fp8GemmSpec::new(m, n, k);
            let gemm = Fp8Gemm::<bf16>::plan(&device, spec).expect("a plan");
            assert_eq!(Fp8Gemm::<bf16>::tuning_for(&spec, 132), Ok(gemm.tuning()));
            let of_bf16 = GEMM_INSTANCES.iter().filter(|instance| instance.output == OutputType::Bf16);
            let mut of_name = of_bf16.filter(|instance| instance.name() == gemm.tuning().name());
            let instance = of_name.next().expect("a tuning is an instance's name");
            let choice = gemm.choice().to_string();
            let [tiles, ctas, waves] = launch(&choice);
            let needed = m.div_ceil(instance.block_m as usize) * n.div_ceil(instance.block_n as usize);
            assert!(tiles >= needed && ctas <= 132, "{choice}");
            assert!(ctas.is_multiple_of(instance.cluster as usize) && ctas * waves >= tiles, "{choice}");
        }
    }
}
