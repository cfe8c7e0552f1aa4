//! Bad input of the operations around the experts' GEMMs: an error that says what was expected and what came.

use std::num::NonZeroU32;

use check::devices::emulated;
use deepseek_kernels::gemm::Segments;
use deepseek_kernels::moe::{
    Combine, CombineArgs, CombineSpec, ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec, GatherQuantize,
    GatherQuantizeArgs, GatherQuantizeSpec, RoutingWeights, SwigluQuantize, SwigluQuantizeArgs,
    SwigluQuantizeSpec,
};
use deepseek_kernels::quant::{MMajor, ScaleFormat, Scales1x128Mut};
use deepseek_kernels::{Error, F8E4M3, Matrix, MatrixMut, Stream, bf16};

use crate::{Size, message};

const MAP: ExpertMapSpec = ExpertMapSpec { tokens: 2, top_k: 3, experts: 4, layout: ExpertLayout::Ragged };

#[test]
fn plans_of_maps() {
    let plan = |spec| message(ExpertMap::plan(&emulated(0), spec));
    assert_eq!(plan(ExpertMapSpec { experts: 513, ..MAP }), "experts must be at most 512, got 513");
    let huge = ExpertMapSpec { tokens: 1 << 30, top_k: 2, ..MAP };
    assert_eq!(plan(huge), "tokens * top_k must be at most 2147483647, got 2147483648");
    let endless = ExpertMapSpec { tokens: usize::MAX, ..MAP };
    assert_eq!(plan(endless), format!("tokens * top_k must be at most 2147483647, got {}", u64::MAX));
    let alignment = NonZeroU32::new(u32::MAX).expect("not 0");
    let padded = ExpertMapSpec { layout: ExpertLayout::Aligned { alignment }, ..MAP };
    assert_eq!(plan(padded), "rows must be at most 2147483647, got 17179869180");
    let roomy = ExpertMapSpec { layout: ExpertLayout::Masked { max_rows: usize::MAX }, ..MAP };
    assert_eq!(plan(roomy), format!("rows must be at most 2147483647, got {}", u64::MAX));
}

/// Runs with `sizes` of ids, row_route, route_row, offsets, counts, demand, workspace.
fn run_map(sizes: [Size; 7]) -> Result<(), Error> {
    let device = emulated(0);
    let plan = ExpertMap::plan(&device, MAP).expect("plan");
    let mut memory = vec![vec![0_i32; 64]; 6];
    let mut workspace = vec![0_u32; 64];
    let [ids, row_route, route_row, offsets, counts, demand] = &mut memory[..] else { unreachable!() };
    let write =
        |data, (rows, columns, pitch): Size| MatrixMut::with_pitch(data, rows, columns, pitch).expect("view");
    plan.run(
        Stream::Emulated,
        ExpertMapArgs {
            ids: Matrix::with_pitch(&*ids, sizes[0].0, sizes[0].1, sizes[0].2).expect("view"),
            row_route: write(row_route, sizes[1]),
            route_row: write(route_row, sizes[2]),
            offsets: write(offsets, sizes[3]),
            counts: write(counts, sizes[4]),
            demand: write(demand, sizes[5]),
            workspace: MatrixMut::with_pitch(&mut workspace, sizes[6].0, sizes[6].1, sizes[6].2)
                .expect("view"),
        },
    )
}

#[test]
fn operands_of_maps() {
    let good = [(2, 3, 3), (1, 6, 6), (2, 3, 3), (1, 5, 5), (1, 4, 4), (1, 5, 5), (1, 5, 5)];
    assert_eq!(run_map(good), Ok(()));
    for (operand, size, expected) in [
        (0, (3, 2, 2), "expected ids [tokens, top_k] [2, 3], got [3, 2]"),
        (0, (2, 3, 4), "ids: rows must follow each other without a gap: expected pitch 3, got 4"),
        (1, (1, 7, 7), "expected row_route [1, rows] [1, 6], got [1, 7]"),
        (2, (2, 4, 4), "expected route_row [tokens, top_k] [2, 3], got [2, 4]"),
        (2, (2, 3, 5), "route_row: rows must follow each other without a gap: expected pitch 3, got 5"),
        (3, (1, 4, 4), "expected offsets [1, experts + 1] [1, 5], got [1, 4]"),
        (4, (1, 5, 5), "expected counts [1, experts] [1, 4], got [1, 5]"),
        (5, (1, 4, 4), "expected demand [1, experts + 1] [1, 5], got [1, 4]"),
        (6, (1, 4, 4), "expected workspace [1, workspace] [1, 5], got [1, 4]"),
    ] {
        let mut sizes = good;
        sizes[operand] = size;
        assert_eq!(message(run_map(sizes)), expected);
    }
}

const RAGGED: Segments = Segments::Ragged { rows: 6 };

fn gather_spec() -> GatherQuantizeSpec {
    let format = ScaleFormat::Fp32;
    GatherQuantizeSpec { tokens: 2, top_k: 3, hidden: 128, experts: 4, segments: RAGGED, format }
}

fn swiglu_spec() -> SwigluQuantizeSpec {
    SwigluQuantizeSpec {
        intermediate: 128,
        experts: 4,
        segments: RAGGED,
        clamp: None,
        format: ScaleFormat::Fp32,
    }
}

#[test]
fn plans_by_row() {
    let device = emulated(0);
    let gather = |spec| message(GatherQuantize::plan(&device, spec));
    let swiglu = |spec| message(SwigluQuantize::plan(&device, spec));
    assert_eq!(
        gather(GatherQuantizeSpec { hidden: 64, ..gather_spec() }),
        "hidden must be a multiple of 128, got 64"
    );
    assert_eq!(
        gather(GatherQuantizeSpec { experts: 513, ..gather_spec() }),
        "experts must be at most 512, got 513"
    );
    let segments = Segments::Masked { max_rows: 1 << 30 };
    let message = "rows must be at most 2147483647, got 4294967296";
    assert_eq!(gather(GatherQuantizeSpec { segments, ..gather_spec() }), message);
    assert_eq!(swiglu(SwigluQuantizeSpec { segments, ..swiglu_spec() }), message);
    let segments = Segments::Ragged { rows: 1 << 30 };
    let message = "CTAs of the gather must be at most 2147483647, got 3758096384";
    assert_eq!(gather(GatherQuantizeSpec { segments, hidden: 7168, ..gather_spec() }), message);
    let message = "intermediate must be a multiple of 128, got 8";
    assert_eq!(swiglu(SwigluQuantizeSpec { intermediate: 8, ..swiglu_spec() }), message);
}

/// Runs with `sizes` of x, row_route, segments, q and rows of sf; x from `first` on.
fn run_gather(sizes: [Size; 4], sf_rows: usize, first: usize) -> Result<(), Error> {
    let plan = GatherQuantize::plan(&emulated(0), gather_spec()).expect("plan");
    let (x, integers) = (vec![bf16::ONE; 2000], vec![0_i32; 64]);
    let (mut q, mut sf) = (vec![F8E4M3::ZERO; 2000], vec![0.0; 64]);
    let [xs, routes, segments, qs] = sizes;
    plan.run(
        Stream::Emulated,
        GatherQuantizeArgs {
            x: Matrix::with_pitch(&x[first..], xs.0, xs.1, xs.2).expect("view"),
            row_route: Matrix::with_pitch(&integers, routes.0, routes.1, routes.2).expect("view"),
            segments: Matrix::with_pitch(&integers, segments.0, segments.1, segments.2).expect("view"),
            q: MatrixMut::with_pitch(&mut q, qs.0, qs.1, qs.2).expect("view"),
            sf: Scales1x128Mut::<MMajor>::new(&mut sf, sf_rows, 128).expect("view"),
        },
    )
}

#[test]
fn operands_of_gathers() {
    let good = [(2, 128, 128), (1, 6, 6), (1, 5, 5), (6, 128, 128)];
    assert_eq!(run_gather(good, 6, 0), Ok(()));
    for (operand, size, expected) in [
        (0, (3, 128, 128), "expected x [tokens, hidden] [2, 128], got [3, 128]"),
        (0, (2, 128, 132), "x: pitch must be a multiple of 16 bytes, got 264"),
        (1, (1, 2, 2), "expected row_route [1, rows] [1, 6], got [1, 2]"),
        (2, (1, 4, 4), "expected segments [1, experts + 1] [1, 5], got [1, 4]"),
        (3, (2, 128, 128), "expected q [rows, hidden] [6, 128], got [2, 128]"),
        (3, (6, 128, 132), "q: pitch must be a multiple of 8 bytes, got 132"),
    ] {
        let mut sizes = good;
        sizes[operand] = size;
        assert_eq!(message(run_gather(sizes, 6, 0)), expected);
    }
    assert_eq!(message(run_gather(good, 5, 0)), "expected sfa [k/128, m] [1, 6], got [1, 5]");
    assert_eq!(message(run_gather(good, 6, 1)), "x: address must be a multiple of 16 bytes, got 2");
}

/// Runs with `sizes` of x, segments, q, weights, row_route.
fn run_swiglu(sizes: [Size; 5], segments: Segments) -> Result<(), Error> {
    let plan =
        SwigluQuantize::plan(&emulated(0), SwigluQuantizeSpec { segments, ..swiglu_spec() }).expect("plan");
    let (x, integers, floats) = (vec![bf16::ONE; 3000], vec![0_i32; 64], vec![1.0; 64]);
    let (mut q, mut sf) = (vec![F8E4M3::ZERO; 2000], vec![0.0; 64]);
    let [xs, ends, qs, weights, routes] = sizes;
    let integers =
        |(rows, columns, pitch): Size| Matrix::with_pitch(&integers, rows, columns, pitch).expect("view");
    plan.run(
        Stream::Emulated,
        SwigluQuantizeArgs {
            x: Matrix::with_pitch(&x, xs.0, xs.1, xs.2).expect("view"),
            segments: integers(ends),
            routing: Some(RoutingWeights {
                weights: Matrix::with_pitch(&floats, weights.0, weights.1, weights.2).expect("view"),
                row_route: integers(routes),
            }),
            q: MatrixMut::with_pitch(&mut q, qs.0, qs.1, qs.2).expect("view"),
            sf: Scales1x128Mut::<MMajor>::new(&mut sf, qs.0, 128).expect("view"),
        },
    )
}

#[test]
fn operands_of_swiglus() {
    let good = [(6, 256, 256), (1, 5, 5), (6, 128, 128), (2, 3, 3), (1, 6, 6)];
    assert_eq!(run_swiglu(good, RAGGED), Ok(()));
    for (operand, size, expected) in [
        (0, (6, 128, 128), "expected x [rows, 2 * intermediate] [6, 256], got [6, 128]"),
        (0, (6, 256, 260), "x: pitch must be a multiple of 16 bytes, got 520"),
        (1, (1, 4, 4), "expected segments [1, experts + 1] [1, 5], got [1, 4]"),
        (2, (7, 128, 128), "expected q [rows, intermediate] [6, 128], got [7, 128]"),
        (3, (2, 3, 4), "weights: rows must follow each other without a gap: expected pitch 3, got 4"),
        (4, (1, 5, 5), "expected row_route [1, rows] [1, 6], got [1, 5]"),
    ] {
        let mut sizes = good;
        sizes[operand] = size;
        assert_eq!(message(run_swiglu(sizes, RAGGED)), expected);
    }
    let masked = [(8, 256, 256), (1, 5, 5), (8, 128, 128), (2, 3, 3), (1, 8, 8)];
    let result = run_swiglu(masked, Segments::Masked { max_rows: 2 });
    assert_eq!(message(result), "expected segments [1, experts] [1, 4], got [1, 5]");
}

/// Runs with `sizes` of y, route_row, weights, shared, residual, out.
fn run_combine(sizes: [Size; 6]) -> Result<(), Error> {
    let plan =
        Combine::plan(&emulated(0), CombineSpec { tokens: 2, top_k: 3, hidden: 16, rows: 6 }).expect("plan");
    let (halves, integers, floats) = (vec![bf16::ONE; 300], vec![0_i32; 64], vec![1.0; 64]);
    let mut out = vec![bf16::ZERO; 300];
    let [y, routes, weights, shared, residual, o] = sizes;
    let halves =
        |(rows, columns, pitch): Size| Matrix::with_pitch(&halves, rows, columns, pitch).expect("view");
    plan.run(
        Stream::Emulated,
        CombineArgs {
            y: halves(y),
            route_row: Matrix::with_pitch(&integers, routes.0, routes.1, routes.2).expect("view"),
            weights: Some(Matrix::with_pitch(&floats, weights.0, weights.1, weights.2).expect("view")),
            shared: Some(halves(shared)),
            residual: Some(halves(residual)),
            out: MatrixMut::with_pitch(&mut out, o.0, o.1, o.2).expect("view"),
        },
    )
}

#[test]
fn combines() {
    let device = emulated(0);
    let plan = |spec| message(Combine::plan(&device, spec));
    let spec = CombineSpec { tokens: 2, top_k: 3, hidden: 16, rows: 6 };
    assert_eq!(plan(CombineSpec { hidden: 12, ..spec }), "hidden must be a multiple of 8, got 12");
    assert_eq!(
        plan(CombineSpec { rows: 1 << 31, ..spec }),
        "rows must be at most 2147483647, got 2147483648"
    );
    assert_eq!(
        plan(CombineSpec { tokens: 1 << 31, ..spec }),
        "tokens must be at most 2147483647, got 2147483648"
    );

    let good = [(6, 16, 16), (2, 3, 3), (2, 3, 3), (2, 16, 16), (2, 16, 16), (2, 16, 16)];
    assert_eq!(run_combine(good), Ok(()));
    for (operand, size, expected) in [
        (0, (5, 16, 16), "expected y [rows, hidden] [6, 16], got [5, 16]"),
        (0, (6, 16, 20), "y: pitch must be a multiple of 16 bytes, got 40"),
        (1, (3, 2, 2), "expected route_row [tokens, top_k] [2, 3], got [3, 2]"),
        (1, (2, 3, 4), "route_row: rows must follow each other without a gap: expected pitch 3, got 4"),
        (2, (2, 2, 2), "expected weights [tokens, top_k] [2, 3], got [2, 2]"),
        (2, (2, 3, 6), "weights: rows must follow each other without a gap: expected pitch 3, got 6"),
        (3, (2, 8, 8), "expected shared [tokens, hidden] [2, 16], got [2, 8]"),
        (3, (2, 16, 18), "shared: pitch must be a multiple of 16 bytes, got 36"),
        (4, (1, 16, 16), "expected residual [tokens, hidden] [2, 16], got [1, 16]"),
        (4, (2, 16, 17), "residual: pitch must be a multiple of 16 bytes, got 34"),
        (5, (2, 24, 24), "expected out [tokens, hidden] [2, 16], got [2, 24]"),
        (5, (2, 16, 19), "out: pitch must be a multiple of 16 bytes, got 38"),
    ] {
        let mut sizes = good;
        sizes[operand] = size;
        assert_eq!(message(run_combine(sizes)), expected);
    }
}
