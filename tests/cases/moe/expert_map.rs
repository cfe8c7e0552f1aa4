//! The expert map: equal to the reference, and true to its own definition.

use std::num::NonZeroU32;
use std::sync::Arc;

use check::case::{attempt, memory_of, pass};
use check::devices::{devices, machines, runs_emulated, seeded};
use check::moe::expert_map::{ExpertMapCase, ExpertMapProblem, mapped};
use check::moe::{ROUTINGS, Routing, strangers};
use deepseek_kernels::Device;
use deepseek_kernels::moe::{ExpertLayout, ExpertMapSpec};
use oracles::moe::Mapped;
use proptest::prelude::*;

const EXPERTS: [usize; 10] = [1, 2, 3, 5, 256, 257, 512, 513, 896, 1024];

fn aligned(alignment: u32) -> ExpertLayout {
    ExpertLayout::Aligned { alignment: NonZeroU32::new(alignment).expect("not 0") }
}

fn masked(max_rows: usize) -> ExpertLayout {
    ExpertLayout::Masked { max_rows }
}

/// Compares with the reference and the definition.
fn check(device: &Device, spec: ExpertMapSpec, ids: &[i32]) -> Mapped {
    check_local(device, spec, ids, None)
}

/// The same of experts that are not all here.
fn check_local(device: &Device, spec: ExpertMapSpec, ids: &[i32], local_ids: Option<&[i32]>) -> Mapped {
    let case = ExpertMapCase { spec, ..ExpertMapCase::new((0, 0, 0)) };
    let local = local_ids.map(<[i32]>::to_vec);
    let problem = Arc::new(ExpertMapProblem { case, ids: ids.to_vec(), local_ids: local });
    let ran = attempt(problem, device, memory_of("expert map"));
    let got = mapped(&ran.unwrap_or_else(|error| panic!("{spec:?}: {error:#}")).outputs);
    let meant: Vec<i32> = match local_ids {
        None => ids.to_vec(),
        // What is no id stays none.
        Some(local_ids) => {
            let meant = |&id: &i32| local_ids.get(id as usize).copied().unwrap_or(if id == -1 { -1 } else { i32::MAX });
            ids.iter().map(meant).collect()
        }
    };
    invariants(&spec, &meant, &got);
    got
}

/// What makes a map a map, said without the reference.
fn invariants(spec: &ExpertMapSpec, ids: &[i32], map: &Mapped) {
    let experts = spec.local();
    let mut filled = 0;
    for expert in 0..experts {
        let (start, end) = (map.offsets[expert] as usize, map.offsets[expert + 1] as usize);
        let used = start + map.counts[expert] as usize;
        assert!(start <= used && used <= end && end <= map.row_route.len(), "segment of expert {expert}");
        for row in start..end {
            let route = map.row_route[row];
            if row >= used {
                assert_eq!(route, -1, "padding row {row}");
                continue;
            }
            assert_eq!(ids[route as usize], expert as i32, "row {row}");
            assert_eq!(map.route_row[route as usize], row as i32, "row {row} and back");
            assert!(row == start || map.row_route[row - 1] < route, "order at row {row}");
            filled += 1;
        }
        if let ExpertLayout::Aligned { alignment } = spec.layout {
            assert!(start.is_multiple_of(alignment.get() as usize), "start of expert {expert}");
        }
    }
    let end = map.offsets[experts] as usize;
    assert!(map.row_route[end..].iter().all(|&route| route == -1), "rows behind the last segment");
    assert_eq!(map.route_row.iter().filter(|&&row| row != -1).count(), filled, "routes with a row");
    let asked = ids.iter().filter(|&&id| id != -1).count();
    assert_eq!(map.demand.iter().sum::<i32>() as usize, asked, "every route that asked is counted");
    if !matches!(spec.layout, ExpertLayout::Masked { .. }) {
        assert_eq!(map.counts, map.demand[..experts], "nothing is dropped for want of room");
    }
}

#[test]
fn every_routing_of_every_number_of_experts() {
    for device in machines() {
        for experts in EXPERTS {
            for (index, routing) in ROUTINGS.into_iter().enumerate() {
                // 111 tokens of 5: three blocks, the last one ragged.
                let (tokens, top_k) =
                    [(1, 1), (1, 8), (33, 8), (111, 5), (64, 4), (50, 6)][(index + experts) % 6];
                let ids = routing.ids((tokens, top_k, experts), experts as u64);
                let layout = [ExpertLayout::Ragged, aligned(64), masked(7)];
                let spec = |layout| ExpertMapSpec::new(tokens, top_k, experts).layout(layout);
                // The layout is of no account to two of three launches; the emulator's time is in those.
                let layouts = if experts < 256 { &layout[..] } else { &layout[index % 3..][..1] };
                layouts.iter().for_each(|&layout| drop(check(&device, spec(layout), &ids)));
            }
        }
    }
}

#[test]
fn every_layout() {
    for device in devices() {
        let (tokens, top_k, experts) = (90, 6, 11);
        let layouts = [
            aligned(1),
            aligned(2),
            aligned(7),
            aligned(128),
            masked(0),
            masked(1),
            masked(48),
            masked(1000),
        ];
        for routing in ROUTINGS {
            let ids = routing.ids((tokens, top_k, experts), 3);
            for layout in layouts {
                check(&device, ExpertMapSpec::new(tokens, top_k, experts).layout(layout), &ids);
            }
        }
    }
}

#[test]
fn alignment_one_is_ragged() {
    for device in devices() {
        let spec = |layout| ExpertMapSpec::new(77, 4, 9).layout(layout);
        let ids = Routing::Uniform.ids((77, 4, 9), 1);
        let ragged = check(&device, spec(ExpertLayout::Ragged), &ids);
        assert_eq!(ragged, check(&device, spec(aligned(1)), &ids));
    }
}

/// Ranks whose experts follow each other, and ranks among which they are dealt: each has the routes of its own experts, in the
/// order in which one that has all of them has them. Ids of no expert are every rank's to tell of.
#[test]
fn ranks_have_the_rows_of_their_experts() {
    const RANKS: usize = 4;
    for device in devices() {
        for (index, routing) in ROUTINGS.into_iter().enumerate() {
            let (tokens, top_k, experts) = (150, 4, 22);
            let ids = routing.ids((tokens, top_k, experts), index as u64);
            let spec = ExpertMapSpec::new(tokens, top_k, experts);
            let all = check(&device, spec, &ids);
            let of = |map: &Mapped, expert: usize| {
                map.row_route[map.offsets[expert] as usize..][..map.counts[expert] as usize].to_vec()
            };
            let dealt = |expert: usize| (expert % RANKS, expert / RANKS);
            let followed = |expert: usize| (expert / 6, expert % 6);
            for place in [&dealt as &dyn Fn(usize) -> (usize, usize), &followed] {
                for rank in 0..RANKS {
                    let here = (0..experts).filter(|&expert| place(expert).0 == rank);
                    let local: Vec<usize> = here.collect();
                    let local_ids: Vec<i32> = (0..experts)
                        .map(|expert| if local.contains(&expert) { place(expert).1 as i32 } else { -1 })
                        .collect();
                    let layout = [ExpertLayout::Ragged, aligned(16), masked(600)][(index + rank) % 3];
                    let spec = spec.local_experts(Some(local.len())).layout(layout);
                    let map = check_local(&device, spec, &ids, Some(&local_ids));
                    for expert in local {
                        assert_eq!(of(&map, place(expert).1), of(&all, expert), "expert {expert} of rank {rank}");
                    }
                    assert_eq!(map.demand.last(), all.demand.last(), "strangers on rank {rank}");
                }
            }
        }
    }
}

/// A list of nobody, of one expert for all, in reverse, and with entries that are none, whatever is drawn.
#[test]
fn any_list_of_local_ids() {
    for device in devices() {
        let (tokens, top_k, experts) = (40, 3, 9);
        for routing in ROUTINGS {
            let ids = routing.ids((tokens, top_k, experts), 5);
            let spec = |local| ExpertMapSpec::new(tokens, top_k, experts).local_experts(Some(local));
            let reversed: Vec<i32> = (0..experts as i32).rev().collect();
            check_local(&device, spec(0), &ids, Some(&[-1; 9]));
            check_local(&device, spec(1), &ids, Some(&[0; 9]));
            check_local(&device, spec(9), &ids, Some(&reversed));
            for stranger in strangers(3) {
                let list = [-1, 2, stranger, 0, 1, -1, stranger, 2, -1];
                let map = check_local(&device, spec(3).layout(masked(11)), &ids, Some(&list));
                let none = ids.iter().filter(|&&id| matches!(id, 2 | 6) || !(-1..9).contains(&id)).count();
                assert_eq!(map.demand[3], none as i32, "{stranger}");
            }
        }
        for seed in 0..5 {
            let case = ExpertMapCase { routing: Routing::Strangers, seed, ..ExpertMapCase::new((90, 5, 14)) };
            pass(&case.with_local(seed as usize * 3), &device);
        }
    }
}

#[test]
fn nothing_to_map() {
    for device in devices() {
        for (tokens, top_k, experts) in [(0, 8, 256), (5, 0, 3), (0, 0, 1), (4, 2, 0)] {
            for layout in [ExpertLayout::Ragged, aligned(128), masked(5)] {
                let ids = vec![-1; tokens * top_k];
                check(&device, ExpertMapSpec::new(tokens, top_k, experts).layout(layout), &ids);
            }
        }
    }
}

/// A block with its last route filled, one route more, and more blocks than the scan has lanes.
#[test]
fn edges_of_blocks() {
    for device in devices() {
        for tokens in [255, 256, 257, 511, 512, 513, 32 * 256 + 1, 128 * 256] {
            let mut ids = Routing::Uniform.ids((tokens, 1, 3), tokens as u64);
            if tokens > 513 {
                // Most routes dropped: the emulator's time is in those that are not.
                ids.iter_mut().enumerate().filter(|(route, _)| route % 19 > 0).for_each(|(_, id)| *id = -1);
            }
            check(&device, ExpertMapSpec::new(tokens, 1, 3), &ids);
        }
        if !runs_emulated(&device) {
            let ids = Routing::Uniform.ids((65536, 8, 256), 9);
            check(&device, ExpertMapSpec::new(65536, 8, 256).layout(aligned(128)), &ids);
        }
    }
}

#[test]
fn deepseek_v3_prefill() {
    for device in devices() {
        let (tokens, top_k, experts) = (if runs_emulated(&device) { 256 } else { 4096 }, 8, 256);
        let ids = Routing::Uniform.ids((tokens, top_k, experts), 2);
        check(&device, ExpertMapSpec::new(tokens, top_k, experts), &ids);
    }
}

#[test]
fn each_stranger_is_dropped_alone() {
    for device in devices() {
        for experts in [1, 5, 257] {
            for stranger in strangers(experts) {
                let ids = [0, stranger, experts as i32 - 1, -1];
                let spec = ExpertMapSpec::new(2, 2, experts);
                let map = check(&device, spec, &ids);
                assert_eq!(map.route_row, [0, -1, 1, -1], "{stranger}");
                assert_eq!(map.demand[experts], 1, "{stranger}");
            }
        }
    }
}

/// Tokens in another order: every expert still has the same tokens, in the new order.
#[test]
fn a_permutation_of_tokens_permutes_the_rows_of_an_expert() {
    for device in devices() {
        let (tokens, top_k, experts) = (70, 4, 6);
        let spec = ExpertMapSpec::new(tokens, top_k, experts);
        let ids = Routing::Uniform.ids((tokens, top_k, experts), 4);
        let from = |token: usize| (token * 29 + 11) % tokens;
        let permuted: Vec<i32> = (0..tokens).flat_map(|t| ids[from(t) * top_k..][..top_k].to_vec()).collect();
        let (plain, moved) = (check(&device, spec, &ids), check(&device, spec, &permuted));
        assert_eq!(plain.counts, moved.counts);
        for expert in 0..experts {
            let rows = plain.offsets[expert] as usize..plain.offsets[expert + 1] as usize;
            let back = |route: &i32| (from(*route as usize / top_k) * top_k + *route as usize % top_k) as i32;
            let mut routes: Vec<i32> = moved.row_route[rows.clone()].iter().map(back).collect();
            routes.sort_unstable();
            assert_eq!(routes, plain.row_route[rows], "expert {expert}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_ids(
        tokens in 0..120_usize, top_k in 0..9_usize, experts in 1..40_usize, layout in 0..3_u8, size in 1..20_u32,
        routing in 0..ROUTINGS.len(), seed in any::<u64>(),
    ) {
        let layout = match layout {
            0 => ExpertLayout::Ragged,
            1 => aligned(size),
            _ => masked(size as usize),
        };
        let ids = ROUTINGS[routing].ids((tokens, top_k, experts), seed);
        for device in seeded([seed]) {
            check(&device, ExpertMapSpec::new(tokens, top_k, experts).layout(layout), &ids);
        }
    }
}
