//! Of maps.

use std::num::NonZeroU32;
use std::sync::Arc;

use check::devices::emulated;
use check::memory::{Arena, Memory};
use check::moe::expert_map::{ExpertMapCase, ExpertMapRun};
use deepseek_kernels::moe::{ExpertLayout, ExpertMap};
use deepseek_kernels::{Matrix, MatrixMut, Vector, VectorMut};

use crate::{message, with};

const MAP: ExpertMapCase = ExpertMapCase::new((2, 3, 4));

#[test]
fn plans() {
    let plan = |spec| message(ExpertMap::plan(&emulated(0), spec));
    assert_eq!(plan(with(MAP.spec, |spec| spec.experts = 1025)), "experts must be at most 1024, got 1025");
    let beyond = with(MAP.spec, |spec| spec.local_experts = Some(5));
    assert_eq!(plan(beyond), "local_experts, of the experts, must be at most 4, got 5");
    let huge = with(MAP.spec, |spec| (spec.tokens, spec.top_k) = (1 << 30, 2));
    assert_eq!(plan(huge), "tokens * top_k must be at most 2147483647, got 2147483648");
    let endless = with(MAP.spec, |spec| spec.tokens = usize::MAX);
    assert_eq!(plan(endless), format!("tokens must be at most 2147483647, got {}", u64::MAX));
    let alignment = NonZeroU32::new(u32::MAX).expect("not 0");
    let padded = MAP.laid_out(ExpertLayout::Aligned { alignment }).spec;
    assert_eq!(plan(padded), "rows must be at most 2147483647, got 17179869180");
    let roomy = MAP.laid_out(ExpertLayout::Masked { max_rows: usize::MAX }).spec;
    assert_eq!(plan(roomy), format!("max_rows must be at most 2147483647, got {}", u64::MAX));
}

fn map() -> ExpertMapRun {
    ExpertMapRun::new(Arc::new(MAP.problem()), &mut Arena::new(&emulated(0), Memory::Plain))
        .expect("operands")
}

rejects! {
    map();
    ids_of_another_shape: |args, spare| args.ids = Matrix::new(&spare.integers, 3, 2)?.into()
        => "expected ids [tokens, top_k] [2, 3], got [3, 2]";
    wide_ids_of_another_shape: |args, spare| args.ids = Matrix::with_pitch(&spare.longs, 2, 2, 3)?.into()
        => "expected ids [tokens, top_k] [2, 3], got [2, 2]";
    unsigned_ids_in_a_row: |args, spare| args.ids = Vector::new(&spare.words, 6)?.into()
        => "expected ids [tokens, top_k] [2, 3], got [1, 6]";
    local_ids_where_all_are_here: |args, spare| args.local_ids = Some(Vector::new(&spare.integers, 4)?.into())
        => "local_ids: expected none, all experts have rows, got some";
    row_route_with_one_too_many: |args, spare| args.mapping.row_route = VectorMut::new(&mut spare.integers, 7)?
        => "expected row_route [rows] [6], got [7]";
    route_row_of_another_shape: |args, spare| args.mapping.route_row = MatrixMut::new(&mut spare.integers, 2, 4)?
        => "expected route_row [tokens, top_k] [2, 3], got [2, 4]";
    offsets_with_one_missing: |args, spare| args.mapping.offsets = VectorMut::new(&mut spare.integers, 4)?
        => "expected offsets [experts + 1] [5], got [4]";
    counts_with_one_too_many: |args, spare| args.mapping.counts = VectorMut::new(&mut spare.integers, 5)?
        => "expected counts [experts] [4], got [5]";
    demand_with_one_missing: |args, spare| args.mapping.demand = VectorMut::new(&mut spare.integers, 4)?
        => "expected demand [experts + 1] [5], got [4]";
    // A count of every expert and of the strangers.
    scratch_too_short: |args, spare| args.scratch = (&mut spare.bytes[..19]).into()
        => "scratch must have at least 20 bytes, got 19";
    scratch_at_an_odd_address: |args, spare| args.scratch = (&mut spare.bytes[12..]).into()
        => "scratch: address must be a multiple of 16 bytes, got 12";
}

fn local() -> ExpertMapRun {
    let problem = Arc::new(MAP.with_local(2).problem());
    ExpertMapRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
}

rejects! {
    local();
    no_local_ids: |args, _spare| args.local_ids = None => "local_ids: expected those of the local experts, got none";
    local_ids_of_the_local_experts_alone: |args, spare| args.local_ids = Some(Vector::new(&spare.integers, 2)?.into())
        => "expected local_ids [experts] [4], got [2]";
    offsets_of_all_experts: |args, spare| args.mapping.offsets = VectorMut::new(&mut spare.integers, 5)?
        => "expected offsets [experts + 1] [3], got [5]";
}
