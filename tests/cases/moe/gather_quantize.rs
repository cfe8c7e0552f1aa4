//! The gather: byte for byte what the reference gives, on the rows that experts use and nowhere else.

use std::sync::Arc;

use check::case::{attempt, memory_of, pass, pass_in};
use check::devices::{devices, seeded};
use check::memory::Memory;
use check::moe::expert_map::ExpertMapCase;
use check::moe::gather_quantize::GatherQuantizeCase;
use check::moe::{LAYOUTS, ROUTINGS, Routing};
use check::quant::Rule;
use deepseek_kernels::bf16;
use proptest::prelude::*;

#[test]
fn gathered_rows_are_those_of_the_quantiser() {
    for device in devices() {
        for layout in LAYOUTS {
            for (index, routing) in ROUTINGS.into_iter().enumerate() {
                let map = ExpertMapCase { routing, ..ExpertMapCase::new((40, 3, 7)).laid_out(layout) };
                let rule = Rule::OWN[index % 2];
                pass(&GatherQuantizeCase { rule, ..GatherQuantizeCase::new(map, 384) }, &device);
            }
        }
    }
}

/// A route that does not exist is padding; the judge knows that it is told of.
#[test]
fn routes_that_do_not_exist_are_zero() {
    let map = ExpertMapCase { routing: Routing::Uniform, ..ExpertMapCase::new((6, 2, 3)) };
    for device in devices() {
        let run = |routes: [i32; 2]| {
            let mut problem = GatherQuantizeCase::new(map, 256).problem();
            problem.x.fill(bf16::ONE);
            [problem.batch.map.row_route[3], problem.batch.map.row_route[7]] = routes;
            attempt(Arc::new(problem), &device, memory_of("routes")).expect("right").outputs
        };
        assert!(run([12, i32::MIN]) == run([-1, -1]));
    }
}

/// Ragged rows are used up to the last end, whatever stands before it.
#[test]
fn the_last_end_alone_counts() {
    let map = ExpertMapCase { routing: Routing::Uniform, ..ExpertMapCase::new((6, 2, 3)) };
    for device in devices() {
        for (last, ends) in [(7, [0, 12, 3]), (7, [9, -1, 12]), (0, [0, 5, 6]), (12, [3, i32::MAX, i32::MIN])] {
            let mut problem = GatherQuantizeCase::new(map, 128).problem();
            problem.batch.map.offsets = [&ends[..], &[last]].concat();
            attempt(Arc::new(problem), &device, memory_of("ends")).expect("right");
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        pass(&GatherQuantizeCase::new(ExpertMapCase::new((0, 2, 3)), 128), &device);
        pass(&GatherQuantizeCase::new(ExpertMapCase::new((4, 2, 3)), 0), &device);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_batch(
        tokens in 1..40_usize, top_k in 1..5_usize, experts in 1..12_usize, pieces in 1..50_usize, layout in 0..3_usize,
        routing in 0..ROUTINGS.len(), power in any::<bool>(), seed in any::<u64>(),
    ) {
        let map = ExpertMapCase::new((tokens, top_k, experts)).laid_out(LAYOUTS[layout]);
        let map = ExpertMapCase { routing: ROUTINGS[routing], seed, ..map };
        let rule = Rule::OWN[usize::from(power)];
        for device in seeded([seed]) {
            let case = GatherQuantizeCase { rule, ..GatherQuantizeCase::new(map, 8 * pieces) };
            pass_in(&case, &device, Memory::Poisoned(seed));
        }
    }
}
