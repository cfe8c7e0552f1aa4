//! Gate and map in one launch: what the two operations give, byte for byte, whatever they are given.

use std::num::NonZeroU32;
use std::sync::Arc;

use check::case::{Problem, attempt, memory_of};
use check::devices::{devices, runs_emulated, schedules, seeded};
use check::memory::Output;
use check::moe::expert_map::{ExpertMapCase, ExpertMapProblem};
use check::moe::gate_map::{GateMapCase, GateMapProblem};
use check::moe::{LAYOUTS, ROUTINGS};
use check::router::gate::{GateCase, Source};
use deepseek_kernels::Device;
use deepseek_kernels::moe::{ExpertLayout, GateMap, GateMapSpec};
use deepseek_kernels::router::{GateSpec, GroupScore, Scoring};
use deepseek_kernels::table::moe::{GATE_MAP_ROWS, GATE_MAP_TOKENS};
use proptest::prelude::*;

const MOST: usize = GATE_MAP_TOKENS as usize;

fn outputs(problem: Arc<dyn Problem>, device: &Device, what: &GateMapCase) -> Vec<Output> {
    let ran = attempt(problem, device, memory_of("gate map"));
    ran.unwrap_or_else(|error| panic!("{what:?} on {}: {error:#}", device.name())).outputs
}

/// Compares with the gate, and with the map of what the gate chose; each is judged by its own references, its reports too.
fn check(device: &Device, problem: GateMapProblem) {
    let case = problem.case;
    let gate = outputs(Arc::new(problem.gate.clone()), device, &case);
    let map = ExpertMapCase { spec: case.spec().map(), ..ExpertMapCase::new((0, 0, 0)) };
    let map = ExpertMapProblem { case: map, ids: gate[0].values(), local_ids: problem.local_ids.clone() };
    let apart = [gate, outputs(Arc::new(map), device, &case)].concat();
    assert!(outputs(Arc::new(problem), device, &case) == apart, "{case:?} on {}", device.name());
}

/// Short hidden states: what they are is of no account to the map.
const fn spec(tokens: usize, experts: usize, top_k: usize) -> GateSpec {
    GateSpec::new(tokens, 32, experts, top_k)
}

fn aligned(alignment: u32) -> ExpertLayout {
    ExpertLayout::Aligned { alignment: NonZeroU32::new(alignment).expect("not 0") }
}

/// Every CTA has a token or none, its last one or not; then more tokens than the one launch has room for.
#[test]
fn fused_is_unfused_for_every_number_of_tokens() {
    let experts = [(256, 8), (1, 1), (3, 3), (512, 32), (257, 6), (72, 1), (5, 2), (896, 16), (1024, 6)];
    for device in devices() {
        let many: &[usize] = if runs_emulated(&device) { &[300] } else { &[300, 4096] };
        let tokens = [0, 1, 2, 7, 8, 9, 15, 17, 63, 64, 65, 113, MOST - 1, MOST, MOST + 1];
        for (index, &tokens) in tokens.iter().chain(many).enumerate() {
            for shift in [0, 3] {
                let (experts, top_k) = experts[(index + shift) % experts.len()];
                let gate = GateCase { bias: index % 2 == 0, ..GateCase::new(spec(tokens, experts, top_k)) };
                let layout = [ExpertLayout::Ragged, aligned(64), ExpertLayout::Masked { max_rows: 7 }][index % 3];
                check(&device, GateMapCase::new(gate).laid_out(layout).problem());
            }
        }
    }
}

#[test]
fn fused_is_unfused_for_every_score_and_group() {
    let groups = [(1, 1), (8, 4), (8, 1), (4, 4), (24, 3)];
    let scores = [Scoring::Sigmoid, Scoring::Softmax, Scoring::SqrtSoftplus]
        .map(|scoring| [GroupScore::Max, GroupScore::TopTwoSum].map(|group_score| (scoring, group_score)));
    for device in devices() {
        for (index, (groups, kept)) in groups.into_iter().enumerate() {
            for (scoring, group_score) in scores.concat() {
                let spec = spec(21, 72, 6).groups(groups).kept_groups(kept).scoring(scoring);
                let spec = spec.group_score(group_score).normalize(index % 2 == 0).shared(index % 3);
                let source = [Source::F32, Source::Bf16][index % 2];
                let gate = GateCase { source, mask: index > 1, bias: true, ..GateCase::new(spec.route_scale(2.5)) };
                check(&device, GateMapCase::new(gate).problem());
            }
        }
    }
}

#[test]
fn fused_is_unfused_in_every_layout() {
    let masked = |max_rows| ExpertLayout::Masked { max_rows };
    let others = [aligned(1), aligned(7), aligned(128), masked(0), masked(1), masked(300)];
    for device in devices() {
        for layout in LAYOUTS.into_iter().chain(others) {
            let gate = GateCase { mask: true, ..GateCase::new(spec(50, 11, 4).shared(1)) };
            check(&device, GateMapCase::new(gate).laid_out(layout).problem());
        }
    }
}

/// All to one expert, none at all, every second, ids that do not exist: what a gate of its own would not choose.
#[test]
fn fused_is_unfused_for_ids_that_are_given() {
    for device in devices() {
        for (index, routing) in ROUTINGS.into_iter().enumerate() {
            for (tokens, experts, top_k) in [(MOST, 40, 8), (33, 257, 6), (3, 40, 32), (MOST + 5, 9, 4)] {
                let gate = GateCase { fixed: true, mask: index % 2 == 0, ..GateCase::new(spec(tokens, experts, top_k)) };
                let layout = LAYOUTS[index % 3];
                let mut problem = GateMapCase::new(gate).laid_out(layout).problem();
                problem.gate.fixed_ids = Some(routing.ids((tokens, top_k, experts), tokens as u64));
                check(&device, problem);
            }
        }
    }
}

/// None here, some, all; a list with entries that are none, padding and shared experts, in one launch and in many.
#[test]
fn fused_is_unfused_for_experts_elsewhere() {
    for device in devices() {
        for (index, local) in [0, 1, 8, 40, 73].into_iter().enumerate() {
            for tokens in [5, MOST, MOST + 3] {
                let gate = GateCase { mask: index % 2 == 0, ..GateCase::new(spec(tokens, 72, 6).shared(1)) };
                let case = GateMapCase::new(gate).with_local(local).laid_out(LAYOUTS[(index + tokens) % 3]);
                check(&device, case.problem());
            }
        }
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let gate = GateCase { mask: true, ..GateCase::new(spec(MOST - 3, 72, 6).groups(8).kept_groups(3).shared(1)) };
    let case = GateMapCase::new(gate).laid_out(ExpertLayout::Masked { max_rows: 9 });
    for machines in schedules(4) {
        let ran = |device| outputs(Arc::new(case.problem()), device, &case);
        let first = ran(&machines[0]);
        for device in &machines[1..] {
            assert!(ran(device) == first, "{}", device.name());
        }
    }
}

/// One launch behind the logits for few tokens, unless most of its work were to clear rows.
#[test]
fn the_plan_says_what_it_chose() {
    const APART: &str = "gate_select + expert_map_count + expert_map_scan + expert_map_scatter";
    let masked = |rows| ExpertLayout::Masked { max_rows: rows };
    let rows = GATE_MAP_ROWS as usize / 256;
    let choices = [
        (0, ExpertLayout::Ragged, "gate_logits_few + gate_map".to_owned()),
        (64, masked(rows), "gate_logits_few + gate_map".to_owned()),
        (64, masked(rows + 1), format!("gate_logits_few + {APART}")),
        (MOST, ExpertLayout::Ragged, "gate_logits + gate_map".to_owned()),
        (MOST + 1, ExpertLayout::Ragged, format!("gate_logits + {APART}")),
    ];
    let many = "gate_logits_few + gate_select_many + expert_map_count + expert_map_scan + expert_map_scatter";
    for device in devices() {
        for (tokens, layout, choice) in &choices {
            let spec = GateMapSpec::new(GateSpec::deepseek_v3(*tokens)).layout(*layout);
            assert_eq!(GateMap::plan(&device, spec).expect("a plan").choice().to_string(), *choice);
        }
        let plan = GateMap::plan(&device, GateMapSpec::new(spec(3, 896, 16))).expect("a plan");
        assert_eq!(plan.choice().to_string(), many);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn fused_is_unfused_for_anything(
        tokens in 0..=MOST, top_k in 1..9_usize, shared in 0..3_usize, experts in 1..80_usize, layout in 0..3_usize,
        local in prop::option::of(0..=1_usize << 20), options in any::<[bool; 4]>(), seed in any::<u64>(),
    ) {
        let [bias, mask, fixed, scores] = options;
        let spec = spec(tokens, experts, top_k.min(experts)).shared(shared);
        let local = local.map(|local| local % (experts + shared + 1));
        let gate = GateCase { bias, mask, fixed, scores, seed, ..GateCase::new(spec) };
        for device in seeded([seed]) {
            check(&device, GateMapCase { local, ..GateMapCase::new(gate).laid_out(LAYOUTS[layout]) }.problem());
        }
    }
}
