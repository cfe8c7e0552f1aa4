//! Of the gather and of SwiGLU.

use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::moe::expert_map::ExpertMapCase;
use check::moe::gather_quantize::{GatherQuantizeCase, GatherQuantizeRun};
use check::moe::swiglu_quantize::{SwigluQuantizeCase, SwigluQuantizeRun};
use deepseek_kernels::gemm::Segments;
use deepseek_kernels::moe::{
    ExpertLayout, GatherQuantize, GatherQuantizeSpec, RoutingWeights, SwigluQuantize, SwigluQuantizeSpec,
};
use deepseek_kernels::quant::Scales1x128Mut;
use deepseek_kernels::{Matrix, MatrixMut, Vector};

use crate::{message, with};

const RAGGED: Segments = Segments::Ragged { rows: 6 };
const GATHER: GatherQuantizeSpec = GatherQuantizeSpec::new(2, 3, 128, 4, RAGGED);
const SWIGLU: SwigluQuantizeSpec = SwigluQuantizeSpec::new(128, 4, RAGGED);

#[test]
fn plans() {
    let device = emulated(0);
    let gather = |spec| message(GatherQuantize::plan(&device, spec));
    let swiglu = |spec| message(SwigluQuantize::plan(&device, spec));
    let odd = "hidden must be a multiple of 8, got 68";
    assert_eq!(gather(with(GATHER, |spec| spec.hidden = 68)), odd);
    let many = "experts must be at most 1024, got 1025";
    assert_eq!(gather(with(GATHER, |spec| spec.experts = 1025)), many);
    let segments = Segments::Masked { max_rows: 1 << 30 };
    let message = "rows must be at most 2147483647, got 4294967296";
    assert_eq!(gather(with(GATHER, |spec| spec.segments = segments)), message);
    assert_eq!(swiglu(with(SWIGLU, |spec| spec.segments = segments)), message);
    let segments = Segments::Ragged { rows: 1 << 30 };
    let message = "CTAs of the gather must be at most 268435455, got 3758096384";
    assert_eq!(gather(with(GATHER, |spec| (spec.segments, spec.hidden) = (segments, 7168))), message);
    let message = "intermediate must be a multiple of 8, got 12";
    assert_eq!(swiglu(with(SWIGLU, |spec| spec.intermediate = 12)), message);
}

const MAP: ExpertMapCase = ExpertMapCase::new((2, 3, 4));

fn gather() -> GatherQuantizeRun {
    let problem = Arc::new(GatherQuantizeCase::new(MAP, 128).problem());
    GatherQuantizeRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    gather();
    x_with_a_row_too_many: |args, spare| args.x = Matrix::new(&spare.halves, 3, 128)?
        => "expected x [tokens, hidden] [2, 128], got [3, 128]";
    x_with_an_odd_pitch: |args, spare| args.x = Matrix::with_pitch(&spare.halves, 2, 128, 132)?
        => "x: pitch must be a multiple of 16 bytes, got 264";
    x_at_an_odd_address: |args, spare| args.x = Matrix::new(&spare.halves[1..], 2, 128)?
        => "x: address must be a multiple of 16 bytes, got 2";
    row_route_of_fewer_rows: |args, spare| args.row_route = Vector::new(&spare.integers, 2)?
        => "expected row_route [rows] [6], got [2]";
    segments_with_one_missing: |args, spare| args.segments = Vector::new(&spare.integers, 4)?
        => "expected segments [experts + 1] [5], got [4]";
    q_of_fewer_rows: |args, spare| args.q = MatrixMut::new(&mut spare.codes, 2, 128)?
        => "expected q [rows, hidden] [6, 128], got [2, 128]";
    q_with_an_odd_pitch: |args, spare| args.q = MatrixMut::with_pitch(&mut spare.codes, 6, 128, 132)?
        => "q: pitch must be a multiple of 8 bytes, got 132";
    sf_of_fewer_rows: |args, spare| args.sf = Scales1x128Mut::new(&mut spare.floats, 5, 128)?
        => "expected sf [ceil(k/128), m] [1, 6], got [1, 5]";
}

fn swiglu(map: ExpertMapCase) -> SwigluQuantizeRun {
    let case = SwigluQuantizeCase { weighted: true, ..SwigluQuantizeCase::new(map, 128) };
    SwigluQuantizeRun::new(Arc::new(case.problem()), &mut Arena::new(&emulated(0), Memory::Plain))
        .expect("operands")
}

/// Operands of the routing that some test wants otherwise.
fn routing<'a, 'b>(routing: &'b mut Option<RoutingWeights<'a>>) -> &'b mut RoutingWeights<'a> {
    routing.as_mut().expect("a case with weights")
}

rejects! {
    swiglu(MAP);
    x_of_one_half: |args, spare| args.x = Matrix::new(&spare.halves, 6, 128)?
        => "expected x [rows, 2 * intermediate] [6, 256], got [6, 128]";
    x_of_both_halves_with_an_odd_pitch: |args, spare|
        args.x = Matrix::with_pitch(&spare.halves, 6, 256, 260)?
        => "x: pitch must be a multiple of 16 bytes, got 520";
    ends_with_one_missing: |args, spare| args.segments = Vector::new(&spare.integers, 4)?
        => "expected segments [experts + 1] [5], got [4]";
    q_with_a_row_too_many: |args, spare| args.q = MatrixMut::new(&mut spare.codes, 7, 128)?
        => "expected q [rows, intermediate] [6, 128], got [7, 128]";
    row_route_with_one_missing: |args, spare|
        routing(&mut args.routing).row_route = Vector::new(&spare.integers, 5)?
        => "expected row_route [rows] [6], got [5]";
}

rejects! {
    swiglu(MAP.laid_out(ExpertLayout::Masked { max_rows: 2 }));
    segments_of_the_other_kind: |args, spare| args.segments = Vector::new(&spare.integers, 5)?
        => "expected segments [experts] [4], got [5]";
}
