//! Of gate, up and SwiGLU.

use std::sync::Arc;

use check::devices::emulated;
use check::gemm::grouped_fp8_gemm::Assignment;
use check::memory::{Arena, Memory};
use check::moe::gate_up_swiglu::{GateUpSwigluCase, GateUpSwigluRun};
use deepseek_kernels::gemm::{GroupedFp8Gemm, Segments};
use deepseek_kernels::moe::{GateUpSwiglu, GateUpSwigluSpec};
use deepseek_kernels::quant::{QuantizeRule, Scales1x128, Scales1x128Mut};
use deepseek_kernels::{Matrix, MatrixMut, Vector};

use crate::{message, with};

const SPEC: GateUpSwigluSpec = GateUpSwigluSpec::new(3, 128, 256, Segments::Ragged { rows: 8 });

#[test]
fn plans() {
    let plan = |change: &dyn Fn(&mut GateUpSwigluSpec)| {
        message(GateUpSwiglu::plan(&emulated(0), with(SPEC, change)))
    };
    assert_eq!(plan(&|spec| spec.experts = 1025), "experts must be at most 1024, got 1025");
    assert_eq!(plan(&|spec| spec.intermediate = 72), "intermediate must be a multiple of 16, got 72");
    let message = "rule of a fused SwiGLU must be one without quotients; GroupedFp8Gemm and SwigluQuantize take x / scale with \
                   FP32 scales, got DEEPSEEK";
    assert_eq!(plan(&|spec| spec.rule = QuantizeRule::DEEPSEEK), message);
    let message = "hidden must be at most 2147483647, got 2147483648";
    assert_eq!(plan(&|spec| spec.hidden = 1 << 31), message);
    let message = "intermediate must be at most 1073741823, got 1073741824";
    assert_eq!(plan(&|spec| spec.intermediate = 1 << 30), message);
    let message = "experts * 2 * intermediate must be at most 2147483647, got 3221225472";
    assert_eq!(plan(&|spec| spec.intermediate = 1 << 29), message);
    let masked = |max_rows| plan(&|spec| spec.segments = Segments::Masked { max_rows });
    assert_eq!(masked(1 << 30), "rows must be at most 2147483647, got 3221225472");
}

#[test]
fn a_tuning_of_another_operation() {
    let grouped = GroupedFp8Gemm::tunings().next().expect("a tuning");
    let expected = "tuning must be one of GateUpSwiglu::tunings(), got grouped_fp8_gemm_m64_n32_c1_bf16";
    assert_eq!(message(GateUpSwiglu::plan_with(&emulated(0), SPEC, &grouped)), expected);
}

fn gate_up(assignment: Assignment) -> GateUpSwigluRun {
    let problem = Arc::new(GateUpSwigluCase::new(assignment, (128, 256)).problem().expect("inputs"));
    GateUpSwigluRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    gate_up(Assignment::ragged(&[2, 3, 3], 0));
    a_with_a_row_too_many: |args, spare| args.a = Matrix::new(&spare.codes, 9, 256)?
        => "expected a [rows, hidden] [8, 256], got [9, 256]";
    b_of_the_gate_alone: |args, spare| args.b = Matrix::new(&spare.codes, 3 * 128, 256)?
        => "expected b [experts * 2 * intermediate, hidden] [768, 256], got [384, 256]";
    sfa_of_fewer_rows: |args, spare| args.sfa = Scales1x128::new(&spare.floats, 7, 256)?
        => "expected sfa [ceil(k/128), m] [2, 8], got [2, 7]";
    sfb_of_the_gate_alone: |args, spare| args.sfb = Matrix::new(&spare.floats, 3, 2)?
        => "expected sfb [experts * 2 * ceil(intermediate/128), ceil(hidden/128)] [6, 2], got [3, 2]";
    ends_with_one_missing: |args, spare| args.segments = Vector::new(&spare.integers, 3)?
        => "expected segments [experts + 1] [4], got [3]";
    q_of_gate_and_up: |args, spare| args.q = MatrixMut::new(&mut spare.codes, 8, 256)?
        => "expected q [rows, intermediate] [8, 128], got [8, 256]";
    q_with_a_pitch_of_half_a_store: |args, spare| args.q = MatrixMut::with_pitch(&mut spare.codes, 8, 128, 136)?
        => "q: pitch must be a multiple of 16 bytes, got 136";
    sf_of_fewer_rows: |args, spare| args.sf = Scales1x128Mut::new(&mut spare.floats, 7, 128)?
        => "expected sf [ceil(k/128), m] [1, 8], got [1, 7]";
}

rejects! {
    gate_up(Assignment::masked(&[2, 1, 2], 2));
    segments_of_the_other_kind: |args, spare| args.segments = Vector::new(&spare.integers, 4)?
        => "expected segments [experts] [3], got [4]";
}
