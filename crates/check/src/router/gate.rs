//! The gate on operands in poisoned memory: experts, weights and scores bit for bit what the references give.

use deepseek_kernels::router::{Gate, GateInput, GateSpec, GateWeight, Routing};
use deepseek_kernels::{Device, Error, bf16};
use oracles::router::{GateOptions, Routed, gate_select};

use super::gate_model;
use crate::guarded::{Guarded, Placement};

/// Values that the kernels never write: an unwritten element is found.
pub const UNWRITTEN: f32 = f32::from_bits(0x7fc1_0001);
const UNWRITTEN_ID: i32 = i32::MIN;

/// A NaN has many bit patterns.
fn bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

/// The results of one launch, in memory with gaps.
pub struct Results {
    pub ids: Guarded<i32>,
    pub weights: Guarded<f32>,
    pub scores: Guarded<f32>,
}

impl Results {
    pub fn new(device: &Device, spec: &GateSpec) -> Self {
        let (t, routes) = (spec.tokens, spec.routes());
        let place = |columns: usize| Placement { offset: 3, pitch: columns + 1 };
        Self {
            ids: Guarded::unwritten(device, t, routes, place(routes), UNWRITTEN_ID),
            weights: Guarded::unwritten(device, t, routes, place(routes), UNWRITTEN),
            scores: Guarded::unwritten(device, t, spec.experts, place(spec.experts), UNWRITTEN),
        }
    }

    /// Results first: a poll waits for nothing.
    pub fn into_routed(self, device: &Device) -> Routed {
        let (ids, weights) = (self.ids.into_checked(|id| id), self.weights.into_checked(f32::to_bits));
        let scores = self.scores.into_checked(f32::to_bits);
        let bad_id = match device.poll_error() {
            Ok(()) => false,
            Err(Error::Data(faults)) => faults.expert_id(),
            Err(error) => panic!("{error}"),
        };
        Routed { ids, weights, scores, bad_id }
    }
}

/// Selects on the device; every operand lies in poison.
fn select(device: &Device, spec: &GateSpec, logits: &[f32], options: GateOptions) -> Routed {
    let GateSpec { tokens, experts, top_k, .. } = *spec;
    let gate = Gate::plan(device, *spec).expect("plan");
    let place = |columns: usize| Placement { offset: 1, pitch: columns + 2 };
    let logits = Guarded::new(device, logits, tokens, experts, place(experts), f32::INFINITY);
    let bias = options.bias.map(|bias| Guarded::new(device, bias, 1, experts, place(experts), f32::INFINITY));
    let mask = options.mask.map(|mask| Guarded::new(device, mask, 1, tokens, place(tokens), 0));
    let fixed = options.fixed_ids.map(|ids| Guarded::new(device, ids, tokens, top_k, place(top_k), -2));
    let mut results = Results::new(device, spec);
    let routing = Routing {
        bias: bias.as_ref().map(Guarded::slice),
        mask: mask.as_ref().map(Guarded::slice),
        fixed_ids: fixed.as_ref().map(Guarded::matrix),
        ids: results.ids.matrix_mut(),
        weights: results.weights.matrix_mut(),
        scores: Some(results.scores.matrix_mut()),
    };
    gate.select(device.stream().expect("stream"), logits.matrix(), routing).unwrap_or_else(|e| panic!("{e}"));
    results.into_routed(device)
}

/// Panics with the first wrong score, or else the first token with wrong experts, or else the first wrong weight.
pub fn compare(spec: &GateSpec, got: &Routed, expected: &Routed) {
    compare_bits(spec, "scores", &got.scores, &expected.scores);
    let routes = spec.routes().max(1);
    let rows = got.ids.chunks(routes).zip(expected.ids.chunks(routes));
    if let Some((t, (got, want))) = rows.enumerate().find(|(_, (got, want))| got != want) {
        panic!("wrong experts of token {t}: expected {want:?}, got {got:?} ({spec:?})");
    }
    compare_bits(spec, "weights", &got.weights, &expected.weights);
    assert!(got.bad_id || !expected.bad_id, "a bad id went unreported");
    assert!(!got.bad_id || expected.bad_id, "good ids were reported");
}

fn compare_bits(spec: &GateSpec, what: &str, got: &[f32], expected: &[f32]) {
    let wrong = got.iter().zip(expected).position(|(got, want)| bits(*got) != bits(*want));
    assert_eq!(wrong.map(|i| (i, got[i], expected[i])), None, "wrong {what} of {spec:?}");
}

/// Selects and compares with the reference.
pub fn check_select(device: &Device, spec: &GateSpec, logits: &[f32], options: GateOptions) -> Routed {
    let expected = gate_select(&gate_model(spec), logits, options).expect("reference");
    let got = select(device, spec, logits, options);
    compare(spec, &got, &expected);
    got
}

/// Routes on the device, from hidden states; returns what the workspace holds then, too: sums over parts of K.
pub fn route<W: GateWeight>(
    device: &Device,
    spec: &GateSpec,
    (hidden, weight): (&[bf16], &[W]),
    poison: W,
) -> (Routed, Vec<f32>) {
    let GateSpec { tokens, hidden: k, experts, .. } = *spec;
    let gate = Gate::plan(device, *spec).expect("plan");
    let place = Placement { offset: 8, pitch: k + 8 };
    let x = Guarded::new(device, hidden, tokens, k, place, bf16::NAN);
    let w = Guarded::new(device, weight, experts, k, place, poison);
    let len = gate.workspace_len();
    let mut workspace = Guarded::unwritten(device, 1, len, Placement { offset: 1, pitch: len }, UNWRITTEN);
    let mut results = Results::new(device, spec);
    let routing = Routing {
        bias: None,
        mask: None,
        fixed_ids: None,
        ids: results.ids.matrix_mut(),
        weights: results.weights.matrix_mut(),
        scores: Some(results.scores.matrix_mut()),
    };
    let input = GateInput { hidden: x.matrix(), weight: w.matrix(), workspace: workspace.slice_mut() };
    gate.run(device.stream().expect("stream"), input, routing).unwrap_or_else(|e| panic!("{e}"));
    let partial = workspace.into_checked(f32::to_bits);
    (results.into_routed(device), partial)
}
