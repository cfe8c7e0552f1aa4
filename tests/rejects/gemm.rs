//! Every bad input gets an error that says what was expected and what came; nothing is launched, D keeps its bytes, and
//! the device goes on working.

use std::path::Path;

use check::devices::emulated;
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, GEMM_INSTANCES, GemmChoice, OutputType};
use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize128x128, QuantizeSpec, RowMajor, ScaleFormat, Scales1x128, Scales1x128Mut,
    Scales128x128, Scales128x128Mut, TransposeScales,
};
use deepseek_kernels::router::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, Gate, GateInput, GateSpec, GroupScore,
    Routing as GateRouting, Scoring, SequenceBalanceLoss, SequenceBalanceLossSpec,
};
use deepseek_kernels::{Device, EmulatorOptions, Error, F8E4M3, Matrix, MatrixMut, Stream, bf16};

const M: usize = 8;
const N: usize = 16;
const K: usize = 256;
const SPEC: Fp8GemmSpec = Fp8GemmSpec { m: M, n: N, k: K, accumulate: false };

/// Host memory for a GEMM of M x N x K with room to spare.
struct Memory {
    a: Vec<F8E4M3>,
    b: Vec<F8E4M3>,
    sfa: Vec<f32>,
    sfb: Vec<f32>,
    d: Vec<f32>,
}

/// The views that a test gets wrong, one at a time.
struct Views<'a> {
    a: Result<Matrix<'a, F8E4M3>, Error>,
    b: Result<Matrix<'a, F8E4M3>, Error>,
    sfa: Result<Scales1x128<'a, MMajor>, Error>,
    sfb: Result<Scales128x128<'a>, Error>,
}

impl Memory {
    fn new() -> Self {
        Self {
            a: vec![F8E4M3::ONE; 4 * M * K],
            b: vec![F8E4M3::ONE; 4 * N * K],
            sfa: vec![1.0; 8 * M],
            sfb: vec![1.0; 8],
            d: vec![-1.0; 4 * M * N],
        }
    }

    fn views(&self) -> Views<'_> {
        Views {
            a: Matrix::new(&self.a, M, K),
            b: Matrix::new(&self.b, N, K),
            sfa: Scales1x128::new(&self.sfa, M, K),
            sfb: Scales128x128::new(&self.sfb, N, K),
        }
    }
}

type Change = for<'a> fn(&'a Memory, &mut Views<'a>);
type Target = for<'a> fn(&'a mut [f32]) -> Result<MatrixMut<'a, f32>, Error>;

fn dense(d: &mut [f32]) -> Result<MatrixMut<'_, f32>, Error> {
    MatrixMut::new(d, M, N)
}

fn run(device: &Device, memory: &Memory, d: &mut [f32], change: Change, target: Target) -> Result<(), Error> {
    let mut views = memory.views();
    change(memory, &mut views);
    let args = Fp8GemmArgs { a: views.a?, sfa: views.sfa?, b: views.b?, sfb: views.sfb?, d: target(d)? };
    Fp8Gemm::<f32>::plan(device, SPEC)?.run(Stream::Emulated, args)
}

/// The message of the error; D untouched; then the same device runs the GEMM as if nothing had been.
fn rejected(change: Change, target: Target) -> String {
    let device = emulated(0);
    let mut memory = Memory::new();
    let mut d = std::mem::take(&mut memory.d);
    let before = d.clone();
    let error = run(&device, &memory, &mut d, change, target).expect_err("must be rejected");
    assert!(d == before, "D was written although the call failed: {error}");
    run(&device, &memory, &mut d, |_, _| {}, dense).expect("the device still works");
    assert!(d[..M * N].iter().all(|&x| x == K as f32));
    error.to_string()
}

/// One test per message: what is wrong, and the text it must give.
macro_rules! gemm_rejects {
    ($($name:ident: |$memory:ident, $views:ident| $change:expr => $message:literal;)*) => {$(
        #[test]
        fn $name() {
            fn change<'a>($memory: &'a Memory, $views: &mut Views<'a>) {
                $change;
            }
            assert_eq!(rejected(change, dense), $message);
        }
    )*};
}

gemm_rejects! {
    a_of_another_shape: |memory, views| views.a = Matrix::new(&memory.a, M, K - 128)
        => "expected a [m, k] [8, 256], got [8, 128]";
    a_with_too_many_rows: |memory, views| views.a = Matrix::new(&memory.a, M + 1, K)
        => "expected a [m, k] [8, 256], got [9, 256]";
    b_of_another_shape: |memory, views| views.b = Matrix::new(&memory.b, N - 8, K)
        => "expected b [n, k] [16, 256], got [8, 256]";
    sfa_with_a_missing_row: |memory, views| views.sfa = Scales1x128::new(&memory.sfa, M - 1, K)
        => "expected sfa [k/128, m] [2, 8], got [2, 7]";
    sfa_of_another_k: |memory, views| views.sfa = Scales1x128::new(&memory.sfa, M, K + 128)
        => "expected sfa [k/128, m] [2, 8], got [3, 8]";
    sfb_of_another_n: |memory, views| views.sfb = Scales128x128::new(&memory.sfb, 129, K)
        => "expected sfb [ceil(n/128), k/128] [1, 2], got [2, 2]";
    a_too_short: |memory, views| views.a = Matrix::new(&memory.a[..M * K - 1], M, K)
        => "[8, 256] with pitch 256 needs 2048 elements, the slice has 2047";
    sfa_too_short: |memory, views| views.sfa = Scales1x128::new(&memory.sfa[..15], M, K)
        => "[2, 8] with pitch 8 needs 16 elements, the slice has 15";
    sfb_too_short: |memory, views| views.sfb = Scales128x128::new(&memory.sfb[..1], N, K)
        => "[1, 2] with pitch 2 needs 2 elements, the slice has 1";
    sfb_empty: |memory, views| views.sfb = Scales128x128::new(&memory.sfb[..0], N, K)
        => "[1, 2] with pitch 2 needs 2 elements, the slice has 0";
    a_with_overlapping_rows: |memory, views| views.a = Matrix::with_pitch(&memory.a, M, K, K - 16)
        => "pitch must be at least the number of columns: expected >= 256, got 240";
    a_with_an_odd_pitch: |memory, views| views.a = Matrix::with_pitch(&memory.a, M, K, K + 8)
        => "a: pitch must be a multiple of 16 bytes, got 264";
    b_with_an_odd_pitch: |memory, views| views.b = Matrix::with_pitch(&memory.b, N, K, K + 1)
        => "b: pitch must be a multiple of 16 bytes, got 257";
    sfa_with_an_odd_pitch: |memory, views| views.sfa = Scales1x128::with_pitch(&memory.sfa, M, K, M + 1)
        => "sfa: pitch must be a multiple of 16 bytes, got 36";
    a_at_an_odd_address: |memory, views| views.a = Matrix::new(&memory.a[1..], M, K)
        => "a: address must be a multiple of 16 bytes, got 1";
    b_at_an_odd_address: |memory, views| views.b = Matrix::new(&memory.b[8..], N, K)
        => "b: address must be a multiple of 16 bytes, got 8";
    sfa_at_an_odd_address: |memory, views| views.sfa = Scales1x128::new(&memory.sfa[1..], M, K)
        => "sfa: address must be a multiple of 16 bytes, got 4";
    scales_of_a_k_without_blocks: |memory, views| views.sfb = Scales128x128::new(&memory.sfb, N, 200)
        => "k must be a multiple of 128, got 200";
}

macro_rules! d_rejects {
    ($($name:ident: |$d:ident| $target:expr => $message:literal;)*) => {$(
        #[test]
        fn $name() {
            fn target($d: &mut [f32]) -> Result<MatrixMut<'_, f32>, Error> {
                $target
            }
            assert_eq!(rejected(|_, _| {}, target), $message);
        }
    )*};
}

d_rejects! {
    d_of_another_shape: |d| MatrixMut::new(d, M, N + 8) => "expected d [m, n] [8, 16], got [8, 24]";
    d_too_short: |d| MatrixMut::new(&mut d[..M * N - 1], M, N)
        => "[8, 16] with pitch 16 needs 128 elements, the slice has 127";
    d_with_an_odd_pitch: |d| MatrixMut::with_pitch(d, M, N, N + 2)
        => "d: pitch must be a multiple of 16 bytes, got 72";
    d_at_an_odd_address: |d| MatrixMut::new(&mut d[2..], M, N)
        => "d: address must be a multiple of 16 bytes, got 8";
}

fn plan_error(spec: Fp8GemmSpec) -> String {
    Fp8Gemm::<f32>::plan(&emulated(0), spec).err().expect("must be rejected").to_string()
}

#[test]
fn n_not_a_multiple_of_8() {
    assert_eq!(plan_error(Fp8GemmSpec { n: 12, ..SPEC }), "n must be a multiple of 8, got 12");
}

#[test]
fn k_not_a_multiple_of_128() {
    assert_eq!(plan_error(Fp8GemmSpec { k: 130, ..SPEC }), "k must be a multiple of 128, got 130");
}

#[test]
fn sizes_beyond_what_tma_counts() {
    let huge = 1 << 31;
    assert_eq!(plan_error(Fp8GemmSpec { m: huge, ..SPEC }), "m must be at most 2147483647, got 2147483648");
    assert_eq!(plan_error(Fp8GemmSpec { n: huge, ..SPEC }), "n must be at most 2147483647, got 2147483648");
    assert_eq!(plan_error(Fp8GemmSpec { k: huge, ..SPEC }), "k must be at most 2147483647, got 2147483648");
    let wide = Fp8GemmSpec { m: huge - 1, n: huge - 8, ..SPEC };
    assert!(
        plan_error(wide).starts_with("tiles of D must be at most 2147483647, got "),
        "{}",
        plan_error(wide)
    );
}

#[test]
fn an_instance_of_another_output() {
    let bf16 = GEMM_INSTANCES.iter().find(|i| i.output == OutputType::Bf16).expect("instance");
    let error = Fp8Gemm::<f32>::plan_instance(&emulated(0), SPEC, *bf16).err().expect("must be rejected");
    assert_eq!(error.to_string(), "the GPU kernels were not built: the instance writes another output type");
}

#[test]
fn quantisers() {
    let device = emulated(0);
    let spec = QuantizeSpec { rows: 2, k: 128, format: ScaleFormat::Fp32 };
    let odd = QuantizeSpec { k: 64, ..spec };
    let message = "k must be a multiple of 128, got 64";
    assert_eq!(Quantize1x128::plan(&device, odd).err().expect("rejected").to_string(), message);
    assert_eq!(Quantize128x128::plan(&device, odd).err().expect("rejected").to_string(), message);
    let huge = QuantizeSpec { rows: 1 << 31, ..spec };
    let message = "rows must be at most 2147483647, got 2147483648";
    assert_eq!(Quantize1x128::plan(&device, huge).err().expect("rejected").to_string(), message);

    let x = vec![bf16::ONE; 3 * 136];
    let mut q = vec![F8E4M3::ZERO; 3 * 136];
    let mut sf = vec![0.0; 8];
    let plan = Quantize1x128::plan(&device, spec).expect("plan");
    let mut run = |x: Matrix<'_, bf16>, rows: usize| {
        let q = MatrixMut::new(&mut q, 2, 128).expect("q");
        let sf = Scales1x128Mut::<RowMajor>::new(&mut sf, rows, 128).expect("sf");
        plan.run(Stream::Emulated, x, q, sf).expect_err("rejected").to_string()
    };
    let view = |data, pitch| Matrix::with_pitch(data, 2, 128, pitch).expect("x");
    assert_eq!(run(view(&x[..], 128), 3), "expected sfa [m, k/128] [2, 1], got [3, 1]");
    assert_eq!(run(view(&x[..], 132), 2), "x: pitch must be a multiple of 16 bytes, got 264");
    assert_eq!(run(view(&x[1..], 128), 2), "x: address must be a multiple of 16 bytes, got 2");
    assert_eq!(
        run(Matrix::new(&x[..], 3, 128).expect("x"), 2),
        "expected x [rows, k] [2, 128], got [3, 128]"
    );

    let plan = Quantize128x128::plan(&device, spec).expect("plan");
    let sf = Scales128x128Mut::new(&mut sf, 300, 128).expect("sf");
    let q = MatrixMut::new(&mut q[..], 2, 128).expect("q");
    let error = plan.run(Stream::Emulated, view(&x[..], 128), q, sf).expect_err("rejected");
    assert_eq!(error.to_string(), "expected sfb [ceil(n/128), k/128] [1, 1], got [3, 1]");
}

#[test]
fn transposition() {
    let device = emulated(0);
    assert_eq!(
        TransposeScales::plan(&device, 4, 100).err().expect("rejected").to_string(),
        "k must be a multiple of 128, got 100"
    );
    let plan = TransposeScales::plan(&device, 4, 256).expect("plan");
    let (sf, mut out) = (vec![0.0; 16], vec![0.0; 16]);
    let source = Scales1x128::<RowMajor>::new(&sf, 4, 256).expect("view");
    let target = Scales1x128Mut::<MMajor>::new(&mut out, 5, 256).expect("view");
    let error = plan.run(Stream::Emulated, source, target).expect_err("rejected");
    assert_eq!(error.to_string(), "expected sfa [k/128, m] [2, 4], got [2, 5]");
}

#[test]
fn an_emulator_library_that_is_not_there() {
    // SAFETY: nothing is loaded.
    let result =
        unsafe { Device::emulated_from_library(Path::new("no/such.so"), EmulatorOptions::default()) };
    let message = result.err().expect("rejected").to_string();
    assert!(message.starts_with("cannot load the emulator library no/such.so: "), "{message}");
}

/// On a machine without a driver the answer is an error; with one, a device or an error, never a panic.
#[test]
fn no_gpu_is_an_error_value() {
    match Device::open_gpu(0) {
        Ok(device) => assert!(device.multiprocessors() > 0),
        Err(Error::DriverNotFound { tried }) => assert_eq!(tried, "libcuda.so and libcuda.so.1"),
        Err(other) => assert!(!other.to_string().is_empty()),
    }
}

/// The planner is pure: the same shape gives the same choice, and every choice covers D.
#[test]
fn every_plan_covers_d() {
    for m in [1, 63, 64, 65, 128, 1000, 4096] {
        for (n, k) in [(8, 128), (576, 7168), (32768, 512)] {
            let spec = Fp8GemmSpec { m, n, k, accumulate: false };
            let choice = GemmChoice::for_shape(&spec, OutputType::Bf16, 132).expect("choice");
            let instance = choice.instance;
            let tiles = m.div_ceil(instance.block_m as usize) * n.div_ceil(instance.block_n as usize);
            assert!(
                choice.tiles as usize >= tiles
                    && choice.grid <= 132
                    && choice.grid.is_multiple_of(instance.cluster)
            );
            assert!(choice.grid * choice.waves >= choice.tiles, "{choice}");
        }
    }
}

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
        (GateSpec { groups: 0, ..GATE }, "experts must be a multiple of 0, got 8"),
        (GateSpec { kept_groups: 5, ..GATE }, "kept groups must be at most 4, got 5"),
        (GateSpec { top_k: 33, ..GATE }, "routed experts of a token must be at most 32, got 33"),
        (GateSpec { top_k: 30, shared: 3, ..GATE }, "experts of a token must be at most 32, got 33"),
    ];
    for (spec, expected) in cases {
        assert_eq!(Gate::plan(&device, spec).err().expect("rejected").to_string(), expected);
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
    fn rejected(
        &mut self,
        change: impl for<'a> FnOnce(&mut GateInput<'a, f32>, &mut GateRouting<'a>),
    ) -> String {
        let fixed = [0; 64];
        let mut input = GateInput {
            hidden: Matrix::new(&self.hidden, 4, 64).expect("view"),
            weight: Matrix::new(&self.weight, 8, 64).expect("view"),
            workspace: (&mut self.workspace).into(),
        };
        let mut routing = GateRouting {
            bias: Some((&self.bias).into()),
            mask: Some((&self.mask).into()),
            fixed_ids: Some(Matrix::new(&fixed[..], 4, 2).expect("view")),
            ids: MatrixMut::new(&mut self.ids, 4, 3).expect("view"),
            weights: MatrixMut::new(&mut self.weights, 4, 3).expect("view"),
            scores: Some(MatrixMut::new(&mut self.scores, 4, 8).expect("view")),
        };
        change(&mut input, &mut routing);
        let gate = Gate::plan(&emulated(0), GATE).expect("plan");
        let message = gate.run(Stream::Emulated, input, routing).expect_err("rejected").to_string();
        assert!(self.ids.iter().all(|&id| id == -7) && self.weights.iter().all(|&w| w == -1.0));
        message
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
    let message = memory.rejected(|input, _| input.hidden = Matrix::new(&DATA[..], 5, 64).expect("view"));
    assert_eq!(message, "expected hidden [tokens, hidden] [4, 64], got [5, 64]");
    let message = memory.rejected(|input, _| input.weight = Matrix::new(&WEIGHT[..], 8, 32).expect("view"));
    assert_eq!(message, "expected weight [experts, hidden] [8, 64], got [8, 32]");
    let message =
        memory.rejected(|input, _| input.hidden = Matrix::with_pitch(&DATA[..], 4, 64, 68).expect("view"));
    assert_eq!(message, "hidden: pitch must be a multiple of 16 bytes, got 136");
    let message =
        memory.rejected(|input, _| input.weight = Matrix::with_pitch(&WEIGHT[..], 8, 64, 66).expect("view"));
    assert_eq!(message, "weight: pitch must be a multiple of 16 bytes, got 264");
    let message =
        memory.rejected(|_, routing| routing.fixed_ids = Some(Matrix::new(&IDS[..], 4, 3).expect("view")));
    assert_eq!(message, "expected fixed ids [tokens, top_k] [4, 2], got [4, 3]");
    let message = memory.rejected(|_, routing| routing.bias = Some((&WEIGHT[..7]).into()));
    assert_eq!(message, short("[1, 8] with pitch 8", 8, 7));
    let message = memory.rejected(|_, routing| routing.mask = Some((&[1_u32, 2, 3][..]).into()));
    assert_eq!(message, short("[1, 4] with pitch 4", 4, 3));

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
        let routing = GateRouting {
            bias: None,
            mask: None,
            fixed_ids: None,
            ids: MatrixMut::new(&mut ids[..], shapes[0].0, shapes[0].1).expect("view"),
            weights: MatrixMut::new(&mut weights[..], shapes[1].0, shapes[1].1).expect("view"),
            scores: Some(MatrixMut::new(&mut scores[..], shapes[2].0, shapes[2].1).expect("view")),
        };
        let logits = Matrix::new(&WEIGHT[..], 4, 8).expect("view");
        assert_eq!(
            gate.select(Stream::Emulated, logits, routing).expect_err("rejected").to_string(),
            expected
        );
    }
}

#[test]
fn operands_of_balancing() {
    let device = emulated(0);
    let load =
        |tokens, routes, experts| ExpertLoad::plan(&device, ExpertLoadSpec { tokens, routes, experts });
    let message = |error: Option<Error>| error.expect("rejected").to_string();
    assert_eq!(message(load(1 << 31, 1, 8).err()), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(message(load(1, 33, 8).err()), "experts of a token must be at most 32, got 33");
    assert_eq!(message(load(1, 8, 513).err()), "experts must be at most 512, got 513");
    let plan = load(3, 2, 8).expect("plan");
    let (ids, mut counts) = ([0; 8], [0_u32; 8]);
    let view = |rows| Matrix::new(&ids[..], rows, 2).expect("view");
    let error = plan.run(Stream::Emulated, view(4), (&mut counts[..]).into()).err();
    assert_eq!(message(error), "expected ids [tokens, routes] [3, 2], got [4, 2]");
    let error = plan.run(Stream::Emulated, view(3), (&mut counts[..7]).into()).err();
    assert_eq!(message(error), "[1, 8] with pitch 8 needs 8 elements, the slice has 7");

    let update = |experts| BiasUpdate::plan(&device, BiasUpdateSpec { experts, speed: 1e-3 });
    assert_eq!(message(update(513).err()), "experts must be at most 512, got 513");
    let (mut bias, mut vio) = ([0.0_f32; 8], [0.0_f32; 1]);
    let mut run = |counts: usize, biases: usize, vios: usize| {
        let counts = [0_u32; 8][..counts].to_vec();
        let (bias, vio) = ((&mut bias[..biases]).into(), (&mut vio[..vios]).into());
        message(update(8).expect("plan").run(Stream::Emulated, (&counts).into(), bias, vio).err())
    };
    assert_eq!(run(7, 8, 1), "[1, 8] with pitch 8 needs 8 elements, the slice has 7");
    assert_eq!(run(8, 6, 1), "[1, 8] with pitch 8 needs 8 elements, the slice has 6");
    assert_eq!(run(8, 8, 0), "[1, 1] with pitch 1 needs 1 elements, the slice has 0");

    let spec = SequenceBalanceLossSpec { sequences: 2, length: 3, experts: 8, top_k: 2, alpha: 1.0 };
    let plan = |spec| SequenceBalanceLoss::plan(&device, spec);
    let too_long = SequenceBalanceLossSpec { length: 1 << 30, ..spec };
    assert_eq!(message(plan(too_long).err()), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(
        message(plan(SequenceBalanceLossSpec { top_k: 33, ..spec }).err()),
        "routed experts of a token must be at most 32, got 33"
    );
    let scores = [0.5_f32; 64];
    let mut loss = [0.0_f32; 2];
    let mut run = |rows: usize, losses: usize| {
        let scores = Matrix::new(&scores[..], rows, 8).expect("view");
        message(plan(spec).expect("plan").run(Stream::Emulated, scores, (&mut loss[..losses]).into()).err())
    };
    assert_eq!(run(5, 2), "expected scores [sequences * length, experts] [6, 8], got [5, 8]");
    assert_eq!(run(6, 1), "[1, 2] with pitch 2 needs 2 elements, the slice has 1");
}
