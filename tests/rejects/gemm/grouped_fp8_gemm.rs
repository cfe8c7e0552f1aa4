//! Of the grouped one.

use std::sync::Arc;

use check::devices::emulated;
use check::gemm::grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase, GroupedFp8GemmRun};
use check::memory::Memory;
use deepseek_kernels::gemm::{GEMM_INSTANCES, GroupedFp8Gemm, GroupedFp8GemmSpec, Segments};
use deepseek_kernels::quant::Scales1x128;
use deepseek_kernels::{Matrix, MatrixMut};

use crate::message;

const EXPERTS: usize = 3;
const ROWS: usize = 8;
const N: usize = 16;
const K: usize = 256;
const SPEC: GroupedFp8GemmSpec = GroupedFp8GemmSpec {
    experts: EXPERTS,
    n: N,
    k: K,
    expected_rows: 2,
    segments: Segments::Ragged { rows: ROWS },
};

#[test]
fn plans() {
    let plan = |spec| message(GroupedFp8Gemm::plan(&emulated(0), spec));
    assert_eq!(plan(GroupedFp8GemmSpec { experts: 513, ..SPEC }), "experts must be at most 512, got 513");
    assert_eq!(plan(GroupedFp8GemmSpec { n: 12, ..SPEC }), "n must be a multiple of 8, got 12");
    assert_eq!(plan(GroupedFp8GemmSpec { k: 130, ..SPEC }), "k must be a multiple of 128, got 130");
    let huge = GroupedFp8GemmSpec { segments: Segments::Masked { max_rows: 1 << 31 }, ..SPEC };
    assert_eq!(plan(huge), "max_rows must be at most 2147483647, got 2147483648");
    let many = GroupedFp8GemmSpec { segments: Segments::Masked { max_rows: 1 << 30 }, ..SPEC };
    assert_eq!(plan(many), "rows must be at most 2147483647, got 3221225472");
    let wide = GroupedFp8GemmSpec { n: 1 << 30, ..SPEC };
    assert_eq!(plan(wide), "experts * n must be at most 2147483647, got 3221225472");
    let dense = GroupedFp8Gemm::plan_instance(&emulated(0), SPEC, GEMM_INSTANCES[0]);
    let expected = "instance must be one of GROUPED_GEMM_INSTANCES, got fp8_gemm_m64_n16_c1_bf16";
    assert_eq!(message(dense), expected);
}

fn gemm(assignment: Assignment) -> GroupedFp8GemmRun {
    let case = GroupedFp8GemmCase::new(assignment, (N, K));
    let problem = Arc::new(case.problem().expect("inputs"));
    GroupedFp8GemmRun::new(problem, &emulated(0), Memory::Plain).expect("operands")
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
        => "expected sfa [k/128, m] [2, 8], got [1, 8]";
    sfa_with_an_odd_pitch: |args, spare| args.sfa = Scales1x128::with_pitch(&spare.floats, ROWS, K, ROWS + 1)?
        => "sfa: pitch must be a multiple of 16 bytes, got 36";
    b_of_one_expert: |args, spare| args.b = Matrix::new(&spare.codes, N, K)?
        => "expected b [experts * n, k] [48, 256], got [16, 256]";
    b_with_an_odd_pitch: |args, spare| args.b = Matrix::with_pitch(&spare.codes, EXPERTS * N, K, K + 8)?
        => "b: pitch must be a multiple of 16 bytes, got 264";
    sfb_of_one_expert: |args, spare| args.sfb = Matrix::new(&spare.floats, 1, K / 128)?
        => "expected sfb [experts * ceil(n/128), k/128] [3, 2], got [1, 2]";
    segments_with_one_missing: |args, spare| args.segments = Matrix::new(&spare.integers, 1, EXPERTS)?
        => "expected segments [1, experts + 1] [1, 4], got [1, 3]";
    d_of_another_shape: |args, spare| args.d = MatrixMut::new(&mut spare.halves, ROWS, N + 8)?
        => "expected d [rows, n] [8, 16], got [8, 24]";
    d_with_an_odd_pitch: |args, spare| args.d = MatrixMut::with_pitch(&mut spare.halves, ROWS, N, N + 4)?
        => "d: pitch must be a multiple of 16 bytes, got 40";
}

rejects! {
    gemm(Assignment::masked(&[1, 4, 0], 4));
    segments_of_the_other_kind: |args, spare| args.segments = Matrix::new(&spare.integers, 1, EXPERTS + 1)?
        => "expected segments [1, experts] [1, 3], got [1, 4]";
}
