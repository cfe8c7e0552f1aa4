//! Of maps.

use std::num::NonZeroU32;
use std::sync::Arc;

use check::devices::emulated;
use check::memory::Memory;
use check::moe::expert_map::{ExpertMapCase, ExpertMapRun};
use deepseek_kernels::moe::{ExpertLayout, ExpertMap, ExpertMapSpec};
use deepseek_kernels::{Matrix, MatrixMut};

use crate::message;

const MAP: ExpertMapCase = ExpertMapCase::new((2, 3, 4));

#[test]
fn plans() {
    let plan = |spec| message(ExpertMap::plan(&emulated(0), spec));
    assert_eq!(plan(ExpertMapSpec { experts: 513, ..MAP.spec }), "experts must be at most 512, got 513");
    let huge = ExpertMapSpec { tokens: 1 << 30, top_k: 2, ..MAP.spec };
    assert_eq!(plan(huge), "tokens * top_k must be at most 2147483647, got 2147483648");
    let endless = ExpertMapSpec { tokens: usize::MAX, ..MAP.spec };
    assert_eq!(plan(endless), format!("tokens * top_k must be at most 2147483647, got {}", u64::MAX));
    let alignment = NonZeroU32::new(u32::MAX).expect("not 0");
    let padded = MAP.laid_out(ExpertLayout::Aligned { alignment }).spec;
    assert_eq!(plan(padded), "rows must be at most 2147483647, got 17179869180");
    let roomy = MAP.laid_out(ExpertLayout::Masked { max_rows: usize::MAX }).spec;
    assert_eq!(plan(roomy), format!("rows must be at most 2147483647, got {}", u64::MAX));
}

fn map() -> ExpertMapRun {
    ExpertMapRun::new(Arc::new(MAP.problem()), &emulated(0), Memory::Plain).expect("operands")
}

rejects! {
    map();
    ids_of_another_shape: |args, spare| args.ids = Matrix::new(&spare.integers, 3, 2)?
        => "expected ids [tokens, top_k] [2, 3], got [3, 2]";
    ids_with_gaps: |args, spare| args.ids = Matrix::with_pitch(&spare.integers, 2, 3, 4)?
        => "ids: rows must follow each other without a gap: expected pitch 3, got 4";
    row_route_with_one_too_many: |args, spare| args.row_route = MatrixMut::new(&mut spare.integers, 1, 7)?
        => "expected row_route [1, rows] [1, 6], got [1, 7]";
    route_row_of_another_shape: |args, spare| args.route_row = MatrixMut::new(&mut spare.integers, 2, 4)?
        => "expected route_row [tokens, top_k] [2, 3], got [2, 4]";
    route_row_with_gaps: |args, spare|
        args.route_row = MatrixMut::with_pitch(&mut spare.integers, 2, 3, 5)?
        => "route_row: rows must follow each other without a gap: expected pitch 3, got 5";
    offsets_with_one_missing: |args, spare| args.offsets = MatrixMut::new(&mut spare.integers, 1, 4)?
        => "expected offsets [1, experts + 1] [1, 5], got [1, 4]";
    counts_with_one_too_many: |args, spare| args.counts = MatrixMut::new(&mut spare.integers, 1, 5)?
        => "expected counts [1, experts] [1, 4], got [1, 5]";
    demand_with_one_missing: |args, spare| args.demand = MatrixMut::new(&mut spare.integers, 1, 4)?
        => "expected demand [1, experts + 1] [1, 5], got [1, 4]";
    workspace_with_one_missing: |args, spare| args.workspace = MatrixMut::new(&mut spare.words, 1, 4)?
        => "expected workspace [1, workspace] [1, 5], got [1, 4]";
}
