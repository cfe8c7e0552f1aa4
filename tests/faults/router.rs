//! Faults in the kernels of the router and of balancing.

use check::router::gate_model;
use deepseek_kernels::router::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, Gate, GateInput, GateSpec, GroupScore, Routing,
    Scoring, SequenceBalanceLoss, SequenceBalanceLossSpec,
};
use deepseek_kernels::{Device, bf16};
use oracles::router::{
    GateOptions, bias_update, expert_load, gate_logits, gate_select, sequence_balance_loss,
};

use super::build::{Edit, Library};
use super::caught_in;
use check::memory::{Guarded, Placement};

const UNWRITTEN: f32 = f32::from_bits(0x7fc1_0001);

/// Numbers without a pattern, in [-1, 1).
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn vector<T: Copy + deepseek_kernels::cudarc::driver::DeviceRepr>(
    device: &Device,
    data: &[T],
    poison: T,
) -> Guarded<T> {
    Guarded::new(device, data, 1, data.len(), Placement { offset: 1, pitch: data.len() }, poison)
}

fn wrong(got: &[f32], expected: &[f32]) -> usize {
    let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    got.iter().zip(expected).filter(|(a, b)| !same(a, b)).count()
}

/// Three groups of five of eight; ties, biases that are all negative, NaN, padding, a shared expert.
const SPEC: GateSpec = GateSpec {
    tokens: 37,
    hidden: 2112,
    experts: 72,
    top_k: 6,
    groups: 8,
    kept_groups: 3,
    shared: 1,
    scoring: Scoring::Sigmoid,
    group_score: GroupScore::TopTwoSum,
    normalize: true,
    route_scale: 2.5,
};

struct Results {
    ids: Guarded<i32>,
    weights: Guarded<f32>,
    scores: Guarded<f32>,
}

impl Results {
    fn new(device: &Device, spec: &GateSpec) -> Self {
        let (t, routes) = (spec.tokens, spec.routes());
        let place = |columns: usize| Placement { offset: 3, pitch: columns + 1 };
        Self {
            ids: Guarded::unwritten(device, t, routes, place(routes), i32::MIN),
            weights: Guarded::unwritten(device, t, routes, place(routes), UNWRITTEN),
            scores: Guarded::unwritten(device, t, spec.experts, place(spec.experts), UNWRITTEN),
        }
    }
}

fn judge(results: Results, spec: &GateSpec, logits: &[f32], options: GateOptions) {
    let expected = gate_select(&gate_model(spec), logits, options).expect("reference");
    assert_eq!(wrong(&results.scores.into_checked(f32::to_bits), &expected.scores), 0, "wrong scores");
    let ids = results.ids.into_checked(|id| id);
    assert_eq!(ids.iter().zip(&expected.ids).filter(|(a, b)| a != b).count(), 0, "wrong experts");
    assert_eq!(wrong(&results.weights.into_checked(f32::to_bits), &expected.weights), 0, "wrong weights");
}

fn select_one(device: &Device, spec: &GateSpec, logits: &[f32], options: GateOptions) {
    let GateSpec { tokens, experts, top_k, .. } = *spec;
    let there = Guarded::new(
        device,
        logits,
        tokens,
        experts,
        Placement { offset: 1, pitch: experts + 2 },
        f32::INFINITY,
    );
    let bias = options.bias.map(|bias| vector(device, bias, f32::INFINITY));
    let mask = options.mask.map(|mask| vector(device, mask, 0));
    let fixed =
        options.fixed_ids.map(|ids| Guarded::new(device, ids, tokens, top_k, Placement::dense(top_k), 0));
    let mut results = Results::new(device, spec);
    let routing = Routing {
        bias: bias.as_ref().map(Guarded::slice),
        mask: mask.as_ref().map(Guarded::slice),
        fixed_ids: fixed.as_ref().map(Guarded::matrix),
        ids: results.ids.matrix_mut(),
        weights: results.weights.matrix_mut(),
        scores: Some(results.scores.matrix_mut()),
    };
    let gate = Gate::plan(device, *spec).expect("plan");
    gate.select(device.stream().expect("stream"), there.matrix(), routing).unwrap_or_else(|e| panic!("{e}"));
    judge(results, spec, logits, options);
}

fn select(device: &Device) {
    let experts = SPEC.experts;
    let mut logits = numbers(SPEC.tokens * experts, 1);
    logits.chunks_mut(experts).step_by(3).flatten().for_each(|x| *x = (3.0 * *x).round());
    logits.iter_mut().skip(5 * experts).step_by(31).for_each(|x| *x = f32::NAN);
    logits[4 * experts..5 * experts].fill(0.0);
    let bias: Vec<f32> = numbers(experts, 2).iter().map(|b| 0.3 * b - 1.5).collect();
    let mask: Vec<u32> = (0..SPEC.tokens as u32).map(|t| t % 5).collect();
    select_one(device, &SPEC, &logits, GateOptions::default());
    select_one(device, &SPEC, &logits, GateOptions { bias: Some(&bias), mask: Some(&mask), fixed_ids: None });
    let softmax =
        GateSpec { scoring: Scoring::Softmax, group_score: GroupScore::Max, normalize: false, ..SPEC };
    select_one(device, &softmax, &logits, GateOptions::default());

    let mut fixed: Vec<i32> = (0..SPEC.tokens * SPEC.top_k).map(|i| (i * 7 % experts) as i32).collect();
    fixed[3] = -1;
    fixed[7] = 72;
    device.poll_error().expect("nothing is wrong yet");
    select_one(device, &SPEC, &logits, GateOptions { fixed_ids: Some(&fixed), ..Default::default() });
    assert!(device.poll_error().is_err(), "bad id went unreported");
}

fn route(device: &Device) {
    let GateSpec { tokens, hidden, experts, .. } = SPEC;
    let x: Vec<bf16> = numbers(tokens * hidden, 3).into_iter().map(bf16::from_f32).collect();
    let w = numbers(experts * hidden, 4);
    let place = Placement { offset: 8, pitch: hidden + 8 };
    let gx = Guarded::new(device, &x, tokens, hidden, place, bf16::NAN);
    let gw = Guarded::new(device, &w, experts, hidden, place, f32::NAN);
    let gate = Gate::plan(device, SPEC).expect("plan");
    let len = gate.workspace_len();
    let mut workspace = Guarded::unwritten(device, 1, len, Placement { offset: 4, pitch: len }, UNWRITTEN);
    let mut results = Results::new(device, &SPEC);
    let routing = Routing {
        bias: None,
        mask: None,
        fixed_ids: None,
        ids: results.ids.matrix_mut(),
        weights: results.weights.matrix_mut(),
        scores: Some(results.scores.matrix_mut()),
    };
    let input = GateInput { hidden: gx.matrix(), weight: gw.matrix(), workspace: workspace.slice_mut() };
    gate.run(device.stream().expect("stream"), input, routing).unwrap_or_else(|e| panic!("{e}"));
    let written = workspace.into_checked(f32::to_bits);
    assert!(written.iter().all(|x| x.to_bits() != UNWRITTEN.to_bits()), "wrong workspace");
    let logits = gate_logits(&x, &w, tokens, experts, hidden).expect("reference");
    judge(results, &SPEC, &logits, GateOptions::default());
}

fn load(device: &Device) {
    let (tokens, routes, experts) = (90, 8, 40);
    let mut ids: Vec<i32> = (0..tokens * routes).map(|i| (i * i % 41) as i32 - 1).collect();
    let run = |ids: &[i32]| {
        let mut expected: Vec<u32> = (0..experts).collect();
        expert_load(ids, &mut expected);
        let gids = Guarded::new(device, ids, tokens, routes, Placement { offset: 1, pitch: routes + 1 }, 7);
        let mut counts = vector(device, &(0..experts).collect::<Vec<u32>>(), 99);
        let spec = ExpertLoadSpec { tokens, routes, experts: experts as usize };
        let plan = ExpertLoad::plan(device, spec).expect("plan");
        plan.run(device.stream().expect("stream"), gids.matrix(), counts.slice_mut())
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(counts.into_checked(|c| c), expected, "wrong counts");
    };
    run(&ids);
    device.poll_error().expect("wrong report: -1 is no fault");
    ids[77] = 40;
    run(&ids);
    assert!(device.poll_error().is_err(), "bad id went unreported");
}

fn bias(device: &Device) {
    for base in [0, u32::MAX - 100] {
        // Of every three experts one has the mean, one more and one as much less.
        let more = |e: u32| e / 3 * 37 % 47;
        let load = |e: u32| base + 48 + [0, more(e), 0][e as usize % 3] - [0, 0, more(e)][e as usize % 3];
        let counts: Vec<u32> = (0..258).map(load).collect();
        let before = numbers(counts.len(), 5);
        let mut expected = before.clone();
        bias_update(&counts, &mut expected, 1e-3).expect("reference");
        let gcounts = vector(device, &counts, 3);
        let mut gbias = vector(device, &before, UNWRITTEN);
        let mut vio = vector(device, &[UNWRITTEN], UNWRITTEN);
        let plan =
            BiasUpdate::plan(device, BiasUpdateSpec { experts: counts.len(), speed: 1e-3 }).expect("plan");
        let stream = device.stream().expect("stream");
        plan.run(stream, gcounts.slice(), gbias.slice_mut(), vio.slice_mut())
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(wrong(&gbias.into_checked(f32::to_bits), &expected), 0, "wrong biases");
        let exact = oracles::router::max_vio(&counts);
        let error = (f64::from(vio.into_checked(f32::to_bits)[0]) - exact).abs();
        assert!(error <= 1e-6 * exact, "wrong MaxVio");
    }
}

fn loss(device: &Device) {
    let spec = SequenceBalanceLossSpec { sequences: 2, length: 27, experts: 72, top_k: 5, alpha: 0.5 };
    let tokens = spec.sequences * spec.length;
    let scores: Vec<f32> = numbers(tokens * 72, 6).iter().map(|x| ((x + 1.5) * 8.0).round() / 8.0).collect();
    let gscores = Guarded::new(device, &scores, tokens, 72, Placement { offset: 1, pitch: 75 }, f32::NAN);
    let mut losses = vector(device, &[UNWRITTEN; 2], UNWRITTEN);
    let plan = SequenceBalanceLoss::plan(device, spec).expect("plan");
    plan.run(device.stream().expect("stream"), gscores.matrix(), losses.slice_mut())
        .unwrap_or_else(|e| panic!("{e}"));
    for (scores, got) in scores.chunks(spec.length * 72).zip(losses.into_checked(f32::to_bits)) {
        let (exact, bound) = sequence_balance_loss(scores, 72, 5, 8).expect("reference");
        assert!((f64::from(got) - 0.5 * exact).abs() <= 0.5 * bound, "wrong loss");
    }
}

/// An operation: its kernels, and what runs and judges it.
type Operation = (&'static [&'static str], fn(&Device));

const SELECT: Operation = (&["gate_logits", "gate_select"], select);
const ROUTE: Operation = (&["gate_logits", "gate_select"], route);
const LOAD: Operation = (&["expert_load"], load);
const BIAS: Operation = (&["bias_update"], bias);
const LOSS: Operation = (&["sequence_balance_loss"], loss);

const LOGITS_CUH: &str = "router/gate_logits.cuh";
const SELECT_CUH: &str = "router/gate_select.cuh";
const KEY_CUH: &str = "router/gate_key.cuh";
const EXP_CUH: &str = "hopper/cta/exp.cuh";
const LOAD_CUH: &str = "router/expert_load.cuh";
const BIAS_CUH: &str = "router/bias_update.cuh";
const LOSS_CUH: &str = "router/sequence_balance_loss.cuh";

/// The unchanged sources, through the same build: nothing is found.
#[test]
fn no_fault() {
    for (kernels, run) in [SELECT, ROUTE, LOAD, BIAS, LOSS] {
        let library = Library::of(kernels, &[]);
        for seed in 0..super::SEEDS {
            run(&library.device(seed));
        }
    }
}

macro_rules! faults {
    ($($name:ident: $operation:expr, $file:expr, $from:literal => $to:literal, [$($cause:literal),+];)*) => {$(
        #[test]
        fn $name() {
            let edits = [Edit { file: $file, from: $from, to: $to }];
            caught_in(&Library::of($operation.0, &edits), &$operation.1, &[$($cause),+]);
        }
    )*};
}

// The choice of experts.
faults! {
    group_score_is_the_best_alone: SELECT, SELECT_CUH,
        "if (second.key == 0) return first.key;" => "return first.key;", ["wrong experts"];
    group_score_counts_one_expert_twice: SELECT, SELECT_CUH, " && gate_expert(i) != first.expert" => "", ["wrong experts"];
    other_groups_are_masked_with_zero: SELECT, SELECT_CUH,
        "(kept >> rGroup[i] & 1) == 0) rKey[i] = 0;" => "(kept >> rGroup[i] & 1) == 0) rKey[i] = order_key(0.0f);", ["wrong experts"];
    one_group_too_many: SELECT, SELECT_CUH, "i < params.kept_groups; ++i" => "i <= params.kept_groups; ++i", ["wrong experts"];
    a_group_is_kept_twice: SELECT, SELECT_CUH, "if (lane == group) of_lane = 0;" => "", ["wrong experts"];
    groups_of_equals_highest_first: SELECT, SELECT_CUH,
        "ptx::reduce_min_u32(of_lane == key ? lane : UINT32_MAX)" => "ptx::reduce_max_u32(of_lane == key ? lane : 0)", ["wrong experts"];
    bias_in_the_weights: SELECT, SELECT_CUH,
        "const float share = params.normalize" => "mine.weight += params.bias != nullptr ? 0.01f : 0.0f; const float share = params.normalize",
        ["wrong weights"];
    no_bias: SELECT, SELECT_CUH, "c += ptx::ldg_f32(params.bias + gate_expert(i));" => "c += 0.0f;", ["wrong experts"];
    scale_before_the_division: SELECT, SELECT_CUH,
        "mine.weight / (sum + 1e-20f)" => "mine.weight * params.route_scale / (sum + 1e-20f) / params.route_scale", ["wrong weights"];
    weights_of_a_sum_in_another_order: SELECT, SELECT_CUH, "sum += score;" => "sum = score + sum * 1.0000001f;", ["wrong weights"];
    nan_is_chosen: SELECT, SELECT_CUH, "c > -kGateInfinity ? order_key(c) : 0" => "c == c ? order_key(c) : UINT32_MAX", ["wrong experts"];
    nan_in_the_softmax: SELECT, SELECT_CUH, "if (rS[i] == rS[i]) sum += rS[i];" => "sum += rS[i];", ["wrong scores"];
    softmax_without_the_largest: SELECT, SELECT_CUH, "exp_f32(rS[i] - largest)" => "exp_f32(rS[i])", ["wrong scores"];
    padding_is_routed: SELECT, SELECT_CUH, "params.mask != nullptr &&" => "false &&", ["wrong experts"];
    bad_id_unreported: SELECT, SELECT_CUH, "if (id != -1 &&" => "if (false &&", ["unreported"];
    bad_id_is_kept: SELECT, SELECT_CUH, "static_cast<uint32_t>(id) < params.experts) return id" => "true) return id", ["wrong experts"];
    shared_experts_start_one_too_high: SELECT, SELECT_CUH, "params.experts + lane - params.top_k" => "params.experts + lane - params.top_k + 1", ["wrong experts"];
    chosen_twice: SELECT, KEY_CUH, "if (gate_expert(i) == best.expert) rKey[i] = 0;" => "", ["wrong experts"];
    of_equals_the_highest: SELECT, KEY_CUH, "rKey[i] > mine.key &&" => "rKey[i] >= mine.key &&", ["wrong experts"];
    of_equals_the_highest_lane: SELECT, KEY_CUH,
        "ptx::reduce_min_u32(mine.key == key ? mine.expert : UINT32_MAX)" => "ptx::reduce_max_u32(mine.key == key ? mine.expert : 0)", ["wrong experts"];
    negative_scores_in_reverse: SELECT, KEY_CUH, "? ~bits : bits | 0x80000000u" => "? bits & 0x7fffffffu : bits | 0x80000000u", ["wrong experts"];
    exponential_without_its_low_part: SELECT, EXP_CUH, "r = ptx::fma_rn(n, -kLn2Low, r);" => "", ["wrong scores"];
}

// The logits.
faults! {
    chunk_starts_from_the_previous: ROUTE, LOGITS_CUH, "const uint32_t first = tile.chunk * GATE_CHUNK;" => "const uint32_t first = 0;", ["wrong scores"];
    last_slice_dropped: ROUTE, LOGITS_CUH, "k < last; k += kGateBlockK" => "k + kGateBlockK < last; k += kGateBlockK", ["wrong scores"];
    no_barrier_before_the_products: ROUTE, LOGITS_CUH,
        "store_slice(next);\n    ptx::syncthreads();" => "store_slice(next);", ["not ordered", "nothing has written"];
    no_barrier_before_the_next_slice: ROUTE, LOGITS_CUH,
        "ptx::syncthreads();  // before the next slice overwrites this one" => "//", ["not ordered"];
    tokens_past_the_end: ROUTE, LOGITS_CUH, "if (tile.t0 + row < params.t) slice.x" => "slice.x", ["outside", "of the same launch has written"];
    experts_past_the_end: ROUTE, LOGITS_CUH, "if (expert < params.experts) ptx::stg_f32" => "ptx::stg_f32", ["race", "outside", "wrong scores"];
    elements_exchanged_in_a_pair: ROUTE, LOGITS_CUH,
        "{{v.x << 16, v.x & 0xffff0000u," => "{{v.x & 0xffff0000u, v.x << 16,", ["wrong scores"];
    chain_not_fused: ROUTE, LOGITS_CUH,
        "ptx::fma_rn(x[i].value[step], w[j].value[step], rSum[i][j])" => "x[i].value[step] * w[j].value[step] + rSum[i][j]", ["wrong scores"];
    rows_overlap_in_shared_memory: ROUTE, LOGITS_CUH,
        "return ptx::smem_base() + row * kGateRowPitch" => "return ptx::smem_base() + row * (kGateRowPitch - 8)", ["not ordered"];
    chunks_in_another_order: ROUTE, SELECT_CUH,
        "logits + chunk * params.chunk_stride" => "logits + (params.chunks - 1 - chunk) * params.chunk_stride + 0 * chunk", ["wrong scores"];
    only_the_first_chunk: ROUTE, SELECT_CUH, "chunk < params.chunks; ++chunk" => "chunk < 1; ++chunk", ["wrong scores"];
}

// Balancing.
faults! {
    last_routes_uncounted: LOAD, LOAD_CUH, "params.t) * params.routes) return" => "params.t) * params.routes - 8) return", ["wrong counts"];
    gaps_counted: LOAD, LOAD_CUH, "index / params.routes * params.ids_pitch + index % params.routes" => "index", ["wrong counts"];
    minus_one_reported: LOAD, LOAD_CUH, "id != UINT32_MAX" => "true", ["wrong report"];
    bad_id_counted: LOAD, LOAD_CUH, "if (id < params.experts)" => "if (id <= params.experts)", ["outside", "around the matrix"];
    bad_id_of_a_count_unreported: LOAD, LOAD_CUH, "id != UINT32_MAX" => "false", ["unreported"];
    sign_reversed: BIAS, BIAS_CUH, "load < loads.total ? bias" => "load > loads.total ? bias", ["wrong biases"];
    mean_is_not_neutral: BIAS, BIAS_CUH, "if (load == loads.total) return;" => "", ["wrong biases"];
    loads_compared_in_32_bits: BIAS, BIAS_CUH, "const uint64_t load = " => "const uint64_t load = (uint32_t)", ["wrong biases"];
    total_in_32_bits: BIAS, BIAS_CUH, "shift < 64; shift += 16" => "shift < 32; shift += 16", ["wrong biases"];
    first_experts_only: BIAS, BIAS_CUH, "e < params.experts; e += 32" => "e < 32; e += 32", ["wrong biases"];
    loss_of_half_the_tokens: LOSS, LOSS_CUH, "t += kBalanceWarps)" => "t += 2 * kBalanceWarps)", ["wrong loss"];
    loss_of_the_first_sequence: LOSS, LOSS_CUH, "static_cast<uint64_t>(ptx::cta_idx()) * params.length + t" => "t", ["wrong loss"];
    shares_not_normalised: LOSS, LOSS_CUH, "use.share[i] += s[i] / sum;" => "use.share[i] += s[i];", ["wrong loss"];
    no_barrier_before_the_warps_are_added: LOSS, LOSS_CUH, "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    one_warp_forgotten: LOSS, LOSS_CUH, "warp < kBalanceWarps; ++warp" => "warp + 1 < kBalanceWarps; ++warp", ["wrong loss"];
}
