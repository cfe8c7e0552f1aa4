//! Of the grouped one.

use std::sync::Arc;

use check::devices::emulated;
use check::gemm::grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase, GroupedFp8GemmRun};
use check::memory::{Arena, Memory};
use deepseek_kernels::gemm::{Fp8Gemm, GroupedFp8Gemm, GroupedFp8GemmSpec, Segments};
use deepseek_kernels::quant::Scales1x128;
use deepseek_kernels::{Matrix, MatrixMut, Vector, bf16};

use crate::{message, with};

const EXPERTS: usize = 3;
const ROWS: usize = 8;
const N: usize = 16;
const K: usize = 256;
const SPEC: GroupedFp8GemmSpec =
    GroupedFp8GemmSpec::new(EXPERTS, N, K, Segments::Ragged { rows: ROWS }).expected_rows(2);

#[test]
fn plans() {
    let plan = |change: &dyn Fn(&mut GroupedFp8GemmSpec)| {
        message(GroupedFp8Gemm::plan(&emulated(0), with(SPEC, change)))
    };
    assert_eq!(plan(&|spec| spec.experts = 1025), "experts must be at most 1024, got 1025");
    assert_eq!(plan(&|spec| spec.n = 12), "n must be a multiple of 8, got 12");
    let masked = |max_rows| plan(&|spec| spec.segments = Segments::Masked { max_rows });
    assert_eq!(masked(1 << 31), "max_rows must be at most 2147483647, got 2147483648");
    assert_eq!(masked(1 << 30), "rows must be at most 2147483647, got 3221225472");
    assert_eq!(plan(&|spec| spec.n = 1 << 30), "experts * n must be at most 2147483647, got 3221225472");
    let dense = Fp8Gemm::<bf16>::tunings().next().expect("a tuning");
    let dense = GroupedFp8Gemm::plan_with(&emulated(0), SPEC, &dense);
    let expected = "tuning must be one of GroupedFp8Gemm::tunings(), got fp8_gemm_m64_n16_c1_bf16";
    assert_eq!(message(dense), expected);
}

fn gemm(assignment: Assignment) -> GroupedFp8GemmRun {
    let case = GroupedFp8GemmCase::new(assignment, (N, K));
    let problem = Arc::new(case.problem().expect("inputs"));
    GroupedFp8GemmRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

fn ragged() -> GroupedFp8GemmRun {
    gemm(Assignment::ragged(&[2, 3, 3], 0))
}

rejects! {
    ragged();
    a_with_a_row_too_many: |args, spare| args.a = Matrix::new(&spare.codes, ROWS + 1, K)?
        => "expected a [rows, k] [8, 256], got [9, 256]";
    a_with_an_odd_pitch: |args, spare| args.a = Matrix::with_pitch(&spare.codes, ROWS, K, K + 8)?
        => "a: pitch must be a multiple of 16 bytes, got 264";
    sfa_of_another_k: |args, spare| args.sfa = Scales1x128::new(&spare.floats, ROWS, 128)?
        => "expected sfa [ceil(k/128), m] [2, 8], got [1, 8]";
    sfa_with_an_odd_pitch: |args, spare| args.sfa = Scales1x128::with_pitch(&spare.floats, ROWS, K, ROWS + 1)?
        => "sfa: pitch must be a multiple of 16 bytes, got 36";
    b_of_one_expert: |args, spare| args.b = Matrix::new(&spare.codes, N, K)?
        => "expected b [experts * n, k] [48, 256], got [16, 256]";
    b_with_an_odd_pitch: |args, spare| args.b = Matrix::with_pitch(&spare.codes, EXPERTS * N, K, K + 8)?
        => "b: pitch must be a multiple of 16 bytes, got 264";
    sfb_of_one_expert: |args, spare| args.sfb = Matrix::new(&spare.floats, 1, K / 128)?
        => "expected sfb [experts * ceil(n/128), ceil(k/128)] [3, 2], got [1, 2]";
    segments_with_one_missing: |args, spare| args.segments = Vector::new(&spare.integers, EXPERTS)?
        => "expected segments [experts + 1] [4], got [3]";
    d_of_another_shape: |args, spare| args.d = MatrixMut::new(&mut spare.halves, ROWS, N + 8)?
        => "expected d [rows, n] [8, 16], got [8, 24]";
    d_with_an_odd_pitch: |args, spare| args.d = MatrixMut::with_pitch(&mut spare.halves, ROWS, N, N + 4)?
        => "d: pitch must be a multiple of 16 bytes, got 40";
}

rejects! {
    gemm(Assignment::masked(&[1, 4, 0], 4));
    segments_of_the_other_kind: |args, spare| args.segments = Vector::new(&spare.integers, EXPERTS + 1)?
        => "expected segments [experts] [3], got [4]";
}
