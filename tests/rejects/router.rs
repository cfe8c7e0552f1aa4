//! Bad operands and shapes of the router and of what balances it.

use check::devices::emulated;
use deepseek_kernels::router::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, Gate, GateInput, GateSpec, GroupScore, Routing,
    Scoring, SequenceBalanceLoss, SequenceBalanceLossSpec,
};
use deepseek_kernels::{Matrix, MatrixMut, Stream, bf16};

use crate::message;

/// A router of eight experts for four tokens.
const GATE: GateSpec = GateSpec {
    tokens: 4,
    hidden: 64,
    experts: 8,
    top_k: 2,
    groups: 4,
    kept_groups: 2,
    shared: 1,
    scoring: Scoring::Sigmoid,
    group_score: GroupScore::TopTwoSum,
    normalize: true,
    route_scale: 1.0,
};

#[test]
fn routers_that_cannot_be() {
    let device = emulated(0);
    let cases = [
        (GateSpec { hidden: 65, ..GATE }, "hidden must be a multiple of 32, got 65"),
        (GateSpec { tokens: 1 << 31, ..GATE }, "tokens must be at most 2147483647, got 2147483648"),
        (GateSpec { hidden: 1 << 31, ..GATE }, "hidden must be at most 2147483647, got 2147483648"),
        (GateSpec { experts: 520, ..GATE }, "experts must be at most 512, got 520"),
        (GateSpec { experts: 99, groups: 33, ..GATE }, "groups must be at most 32, got 33"),
        (GateSpec { experts: 0, groups: 2, ..GATE }, "groups must be at most 1, got 2"),
        (GateSpec { experts: 9, ..GATE }, "experts must be a multiple of 4, got 9"),
        (GateSpec { groups: 0, ..GATE }, "groups must be at least 1, got 0"),
        (GateSpec { kept_groups: 5, ..GATE }, "kept groups must be at most 4, got 5"),
        (GateSpec { top_k: 33, ..GATE }, "routed experts of a token must be at most 32, got 33"),
        (GateSpec { top_k: 30, shared: 3, ..GATE }, "experts of a token must be at most 32, got 33"),
    ];
    for (spec, expected) in cases {
        assert_eq!(message(Gate::plan(&device, spec)), expected);
    }
}

/// Everything a router takes, of the right size, with room to spare.
struct GateMemory {
    hidden: Vec<bf16>,
    weight: Vec<f32>,
    workspace: Vec<f32>,
    bias: Vec<f32>,
    mask: Vec<u32>,
    ids: Vec<i32>,
    weights: Vec<f32>,
    scores: Vec<f32>,
}

impl GateMemory {
    fn new() -> Self {
        Self {
            hidden: vec![bf16::ONE; 8 * 64],
            weight: vec![1.0; 16 * 64],
            workspace: vec![-1.0; 32],
            bias: vec![0.0; 8],
            mask: vec![1; 4],
            ids: vec![-7; 64],
            weights: vec![-1.0; 64],
            scores: vec![-1.0; 64],
        }
    }

    /// Routes after `change` made one operand wrong; the message, and nothing is written.
    fn rejected(&mut self, change: impl for<'a> FnOnce(&mut GateInput<'a, f32>, &mut Routing<'a>)) -> String {
        let fixed = [0; 64];
        let mut input = GateInput {
            hidden: Matrix::new(&self.hidden, 4, 64).expect("view"),
            weight: Matrix::new(&self.weight, 8, 64).expect("view"),
            workspace: (&mut self.workspace).into(),
        };
        let mut routing = Routing {
            bias: Some((&self.bias).into()),
            mask: Some((&self.mask).into()),
            fixed_ids: Some(Matrix::new(&fixed[..], 4, 2).expect("view")),
            ids: MatrixMut::new(&mut self.ids, 4, 3).expect("view"),
            weights: MatrixMut::new(&mut self.weights, 4, 3).expect("view"),
            scores: Some(MatrixMut::new(&mut self.scores, 4, 8).expect("view")),
        };
        change(&mut input, &mut routing);
        let gate = Gate::plan(&emulated(0), GATE).expect("plan");
        let error = message(gate.run(Stream::Emulated, input, routing));
        assert!(self.ids.iter().all(|&id| id == -7) && self.weights.iter().all(|&w| w == -1.0));
        let rest = self.scores.iter().chain(&self.workspace);
        assert!(rest.copied().all(|x| x == -1.0), "scores or workspace were written");
        error
    }
}

#[test]
fn operands_of_a_router() {
    let short = |what: &str, needed: usize, len: usize| {
        format!("{what} needs {needed} elements, the slice has {len}")
    };
    let mut memory = GateMemory::new();
    static DATA: [bf16; 640] = [bf16::ONE; 640];
    static WEIGHT: [f32; 640] = [1.0; 640];
    static IDS: [i32; 64] = [0; 64];
    let error = memory.rejected(|input, _| input.hidden = Matrix::new(&DATA[..], 5, 64).expect("view"));
    assert_eq!(error, "expected hidden [tokens, hidden] [4, 64], got [5, 64]");
    let error = memory.rejected(|input, _| input.weight = Matrix::new(&WEIGHT[..], 8, 32).expect("view"));
    assert_eq!(error, "expected weight [experts, hidden] [8, 64], got [8, 32]");
    let error =
        memory.rejected(|input, _| input.hidden = Matrix::with_pitch(&DATA[..], 4, 64, 68).expect("view"));
    assert_eq!(error, "hidden: pitch must be a multiple of 16 bytes, got 136");
    let error =
        memory.rejected(|input, _| input.weight = Matrix::with_pitch(&WEIGHT[..], 8, 64, 66).expect("view"));
    assert_eq!(error, "weight: pitch must be a multiple of 16 bytes, got 264");
    let error =
        memory.rejected(|_, routing| routing.fixed_ids = Some(Matrix::new(&IDS[..], 4, 3).expect("view")));
    assert_eq!(error, "expected fixed ids [tokens, top_k] [4, 2], got [4, 3]");
    let error = memory.rejected(|_, routing| routing.bias = Some((&WEIGHT[..7]).into()));
    assert_eq!(error, short("[1, 8] with pitch 8", 8, 7));
    let error = memory.rejected(|_, routing| routing.mask = Some((&[1_u32, 2, 3][..]).into()));
    assert_eq!(error, short("[1, 4] with pitch 4", 4, 3));

    memory.workspace.truncate(31);
    assert_eq!(memory.rejected(|_, _| {}), short("[4, 8] with pitch 8", 32, 31));
    memory.workspace.push(0.0);
    let gate = Gate::plan(&emulated(0), GATE).expect("plan");
    for (shapes, expected) in [
        ([(4, 2), (4, 3), (4, 8)], "expected ids [tokens, top_k + shared] [4, 3], got [4, 2]"),
        ([(4, 3), (5, 3), (4, 8)], "expected weights [tokens, top_k + shared] [4, 3], got [5, 3]"),
        ([(4, 3), (4, 3), (4, 7)], "expected scores [tokens, experts] [4, 8], got [4, 7]"),
    ] {
        let (mut ids, mut weights, mut scores) = ([0; 64], [0.0; 64], [0.0; 64]);
        let routing = Routing {
            bias: None,
            mask: None,
            fixed_ids: None,
            ids: MatrixMut::new(&mut ids[..], shapes[0].0, shapes[0].1).expect("view"),
            weights: MatrixMut::new(&mut weights[..], shapes[1].0, shapes[1].1).expect("view"),
            scores: Some(MatrixMut::new(&mut scores[..], shapes[2].0, shapes[2].1).expect("view")),
        };
        let logits = Matrix::new(&WEIGHT[..], 4, 8).expect("view");
        assert_eq!(message(gate.select(Stream::Emulated, logits, routing)), expected);
    }
}

#[test]
fn operands_of_balancing() {
    let device = emulated(0);
    let load =
        |tokens, routes, experts| ExpertLoad::plan(&device, ExpertLoadSpec { tokens, routes, experts });
    assert_eq!(message(load(1 << 31, 1, 8)), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(message(load(1, 33, 8)), "experts of a token must be at most 32, got 33");
    assert_eq!(message(load(1, 8, 513)), "experts must be at most 512, got 513");
    let plan = load(3, 2, 8).expect("plan");
    let (ids, mut counts) = ([0; 8], [0_u32; 8]);
    let view = |rows| Matrix::new(&ids[..], rows, 2).expect("view");
    let error = plan.run(Stream::Emulated, view(4), (&mut counts[..]).into());
    assert_eq!(message(error), "expected ids [tokens, routes] [3, 2], got [4, 2]");
    let error = plan.run(Stream::Emulated, view(3), (&mut counts[..7]).into());
    assert_eq!(message(error), "[1, 8] with pitch 8 needs 8 elements, the slice has 7");

    let update = |experts| BiasUpdate::plan(&device, BiasUpdateSpec { experts, speed: 1e-3 });
    assert_eq!(message(update(513)), "experts must be at most 512, got 513");
    let (mut bias, mut vio) = ([0.0_f32; 8], [0.0_f32; 1]);
    let mut run = |counts: usize, biases: usize, vios: usize| {
        let counts = [0_u32; 8][..counts].to_vec();
        let (bias, vio) = ((&mut bias[..biases]).into(), (&mut vio[..vios]).into());
        message(update(8).expect("plan").run(Stream::Emulated, (&counts).into(), bias, vio))
    };
    assert_eq!(run(7, 8, 1), "[1, 8] with pitch 8 needs 8 elements, the slice has 7");
    assert_eq!(run(8, 6, 1), "[1, 8] with pitch 8 needs 8 elements, the slice has 6");
    assert_eq!(run(8, 8, 0), "[1, 1] with pitch 1 needs 1 elements, the slice has 0");

    let spec = SequenceBalanceLossSpec { sequences: 2, length: 3, experts: 8, top_k: 2, alpha: 1.0 };
    let plan = |spec| SequenceBalanceLoss::plan(&device, spec);
    let too_long = SequenceBalanceLossSpec { length: 1 << 30, ..spec };
    assert_eq!(message(plan(too_long)), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(
        message(plan(SequenceBalanceLossSpec { top_k: 33, ..spec })),
        "routed experts of a token must be at most 32, got 33"
    );
    let scores = [0.5_f32; 64];
    let mut loss = [0.0_f32; 2];
    let mut run = |rows: usize, losses: usize| {
        let scores = Matrix::new(&scores[..], rows, 8).expect("view");
        message(plan(spec).expect("plan").run(Stream::Emulated, scores, (&mut loss[..losses]).into()))
    };
    assert_eq!(run(5, 2), "expected scores [sequences * length, experts] [6, 8], got [5, 8]");
    assert_eq!(run(6, 1), "[1, 2] with pitch 2 needs 2 elements, the slice has 1");
}
