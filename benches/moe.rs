//! A layer of routed experts with DeepSeek-V3's router, and the steps around its GEMMs, on a GPU. The steps are bound by
//! memory: their throughput is in bytes that must be read or written once. Results are judged by the tests, and here only
//! for being there. Without a GPU the kernels are SKIPPED.

use check::bench::gpu;
use check::bench::gpu::{Gpu, L2};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deepseek_kernels::gemm::Segments;
use deepseek_kernels::moe::{
    Combine, CombineArgs, CombineSpec, ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec, ExpertWeights,
    GatherQuantize, GatherQuantizeArgs, GatherQuantizeSpec, MoeLayer, MoeLayerArgs, MoeLayerSpec,
    SwigluQuantize, SwigluQuantizeArgs, SwigluQuantizeSpec,
};
use deepseek_kernels::quant::{MMajor, ScaleFormat, Scales1x128Mut};
use deepseek_kernels::router::{Gate, GateInput, GateSpec, Routing};
use deepseek_kernels::{Buffer, Device, F8E4M3, Matrix, MatrixMut, Stream, bf16};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

const TOKENS: [usize; 3] = [64, 512, 4096];
const FEW_TOKENS: [usize; 2] = [3, 6];

/// Width of an expert; its weights take 44 MB, those of 256 experts 11 GB.
fn width() -> usize {
    if gpu::testing() { 128 } else { 2048 }
}

/// DeepSeek-V3's router, or a small one like it.
fn gate_spec(tokens: usize) -> GateSpec {
    let spec = GateSpec::deepseek_v3(tokens);
    if gpu::testing() { GateSpec { hidden: 512, experts: 32, ..spec } } else { spec }
}

/// Hidden states and the router.
struct Routed {
    spec: GateSpec,
    hidden: Buffer<bf16>,
    weight: Buffer<f32>,
    bias: Buffer<f32>,
    ids: Buffer<i32>,
    weights: Buffer<f32>,
    workspace: Buffer<f32>,
    gate: Gate,
}

impl Routed {
    fn new(device: &Device, tokens: usize) -> Self {
        let spec = gate_spec(tokens);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let gate = Gate::plan(device, spec).expect("plan");
        let hidden: Vec<bf16> =
            (0..tokens * spec.hidden).map(|_| bf16::from_f32(rng.random_range(-1.7..1.7))).collect();
        let weight: Vec<f32> =
            (0..spec.experts * spec.hidden).map(|_| rng.random_range(-0.02..0.02)).collect();
        Self {
            hidden: device.upload(&hidden).expect("hidden"),
            weight: device.upload(&weight).expect("weight"),
            bias: device.upload(&vec![0.0; spec.experts]).expect("bias"),
            ids: device.upload(&vec![-1; tokens * spec.routes()]).expect("ids"),
            weights: device.upload(&vec![0.0; tokens * spec.routes()]).expect("weights"),
            workspace: device.upload(&vec![0.0; gate.workspace_len()]).expect("workspace"),
            gate,
            spec,
        }
    }

    fn run(&mut self, stream: Stream) {
        let GateSpec { tokens, hidden, experts, .. } = self.spec;
        let routes = self.spec.routes();
        let input = GateInput {
            hidden: Matrix::new(&self.hidden, tokens, hidden).expect("hidden"),
            weight: Matrix::<f32>::new(&self.weight, experts, hidden).expect("weight"),
            workspace: self.workspace.slice_mut(0),
        };
        let routing = Routing {
            bias: Some(self.bias.slice(0)),
            mask: None,
            fixed_ids: None,
            ids: MatrixMut::new(&mut self.ids, tokens, routes).expect("ids"),
            weights: MatrixMut::new(&mut self.weights, tokens, routes).expect("weights"),
            scores: None,
        };
        self.gate.run(stream, input, routing).expect("gate");
    }

    fn bytes(&self) -> u64 {
        let GateSpec { tokens, hidden, experts, .. } = self.spec;
        (2 * tokens * hidden + 4 * experts * hidden + 8 * tokens * self.spec.routes()) as u64
    }
}

/// The map of a routing.
struct Mapped {
    map: ExpertMap,
    row_route: Buffer<i32>,
    route_row: Buffer<i32>,
    offsets: Buffer<i32>,
    counts: Buffer<i32>,
    demand: Buffer<i32>,
    workspace: Buffer<u32>,
}

impl Mapped {
    fn new(device: &Device, gate: &GateSpec) -> Self {
        let (tokens, top_k, experts) = (gate.tokens, gate.routes(), gate.experts);
        let spec = ExpertMapSpec { tokens, top_k, experts, layout: ExpertLayout::Ragged };
        let map = ExpertMap::plan(device, spec).expect("plan");
        let zeros = |len| device.upload(&vec![0; len]).expect("buffer");
        Self {
            row_route: zeros(spec.rows()),
            route_row: zeros(tokens * top_k),
            offsets: zeros(experts + 1),
            counts: zeros(experts),
            demand: zeros(experts + 1),
            workspace: device.upload(&vec![0; map.workspace()]).expect("workspace"),
            map,
        }
    }

    fn run(&mut self, stream: Stream, ids: &Buffer<i32>) {
        let ExpertMapSpec { tokens, top_k, experts, .. } = *self.map.spec();
        let (rows, workspace) = (self.map.spec().rows(), self.map.workspace());
        let args = ExpertMapArgs {
            ids: Matrix::new(ids, tokens, top_k).expect("ids"),
            row_route: MatrixMut::new(&mut self.row_route, 1, rows).expect("row_route"),
            route_row: MatrixMut::new(&mut self.route_row, tokens, top_k).expect("route_row"),
            offsets: MatrixMut::new(&mut self.offsets, 1, experts + 1).expect("offsets"),
            counts: MatrixMut::new(&mut self.counts, 1, experts).expect("counts"),
            demand: MatrixMut::new(&mut self.demand, 1, experts + 1).expect("demand"),
            workspace: MatrixMut::new(&mut self.workspace, 1, workspace).expect("workspace"),
        };
        self.map.run(stream, args).expect("map");
    }
}

/// The steps around the experts' GEMMs, on the rows of a map.
struct Steps {
    gather: GatherQuantize,
    swiglu: SwigluQuantize,
    combine: Combine,
    q: Buffer<F8E4M3>,
    sf: Buffer<f32>,
    /// `[rows, 2 * width]`, and as `[rows, hidden]` what the experts computed.
    wide: Buffer<bf16>,
    out: Buffer<bf16>,
    rows: usize,
    pitch: usize,
    spec: GateSpec,
}

impl Steps {
    fn new(device: &Device, spec: GateSpec, rows: usize) -> Self {
        let GateSpec { tokens, hidden, experts, .. } = spec;
        let (top_k, segments, format) = (spec.routes(), Segments::Ragged { rows }, ScaleFormat::PowerOfTwo);
        let gather = GatherQuantizeSpec { tokens, top_k, hidden, experts, segments, format };
        let swiglu = SwigluQuantizeSpec { intermediate: width(), experts, segments, clamp: None, format };
        let pitch = rows.next_multiple_of(4);
        let widest = hidden.max(2 * width());
        Self {
            gather: GatherQuantize::plan(device, gather).expect("plan"),
            swiglu: SwigluQuantize::plan(device, swiglu).expect("plan"),
            combine: Combine::plan(device, CombineSpec { tokens, top_k, hidden, rows }).expect("plan"),
            q: device.upload(&vec![F8E4M3::ZERO; rows * hidden]).expect("q"),
            sf: device.upload(&vec![0.0; hidden / 128 * pitch]).expect("sf"),
            wide: device.upload(&vec![bf16::ONE; rows * widest]).expect("rows"),
            out: device.upload(&vec![bf16::NAN; tokens * hidden]).expect("out"),
            rows,
            pitch,
            spec,
        }
    }

    fn gather(&mut self, stream: Stream, routed: &Routed, mapped: &Mapped) {
        let GateSpec { tokens, hidden, experts, .. } = self.spec;
        let args = GatherQuantizeArgs {
            x: Matrix::new(&routed.hidden, tokens, hidden).expect("x"),
            row_route: Matrix::new(&mapped.row_route, 1, self.rows).expect("row_route"),
            segments: Matrix::new(&mapped.offsets, 1, experts + 1).expect("segments"),
            q: MatrixMut::new(&mut self.q, self.rows, hidden).expect("q"),
            sf: Scales1x128Mut::<MMajor>::with_pitch(&mut self.sf, self.rows, hidden, self.pitch)
                .expect("sf"),
        };
        self.gather.run(stream, args).expect("gather");
    }

    fn swiglu(&mut self, stream: Stream, mapped: &Mapped) {
        let args = SwigluQuantizeArgs {
            x: Matrix::new(&self.wide, self.rows, 2 * width()).expect("x"),
            segments: Matrix::new(&mapped.offsets, 1, self.spec.experts + 1).expect("segments"),
            routing: None,
            q: MatrixMut::new(&mut self.q, self.rows, width()).expect("q"),
            sf: Scales1x128Mut::<MMajor>::with_pitch(&mut self.sf, self.rows, width(), self.pitch)
                .expect("sf"),
        };
        self.swiglu.run(stream, args).expect("swiglu");
    }

    fn combine(&mut self, stream: Stream, routed: &Routed, mapped: &Mapped) {
        let GateSpec { tokens, hidden, .. } = self.spec;
        let routes = self.spec.routes();
        let args = CombineArgs {
            y: Matrix::new(&self.wide, self.rows, hidden).expect("y"),
            route_row: Matrix::new(&mapped.route_row, tokens, routes).expect("route_row"),
            weights: Some(Matrix::new(&routed.weights, tokens, routes).expect("weights")),
            shared: None,
            residual: None,
            out: MatrixMut::new(&mut self.out, tokens, hidden).expect("out"),
        };
        self.combine.run(stream, args).expect("combine");
    }
}

/// A whole layer; all experts share the codes, not the memory.
struct Layer {
    layer: MoeLayer,
    gate_up: (Buffer<F8E4M3>, Buffer<f32>),
    down: (Buffer<F8E4M3>, Buffer<f32>),
    out: Buffer<bf16>,
}

impl Layer {
    fn new(device: &Device, gate: GateSpec) -> Self {
        let spec = MoeLayerSpec { gate, intermediate: width(), clamp: None, format: ScaleFormat::PowerOfTwo };
        let projection = |n: usize, k: usize| {
            let code = |i: usize| F8E4M3::from_bits((i % 96) as u8 | ((i % 2) << 7) as u8);
            let codes: Vec<F8E4M3> = (0..gate.experts * n * k).map(code).collect();
            let scales = vec![1e-3_f32; gate.experts * n / 128 * (k / 128)];
            (device.upload(&codes).expect("weight"), device.upload(&scales).expect("scales"))
        };
        Self {
            layer: MoeLayer::plan(device, spec).expect("plan"),
            gate_up: projection(2 * width(), gate.hidden),
            down: projection(gate.hidden, width()),
            out: device.upload(&vec![bf16::NAN; gate.tokens * gate.hidden]).expect("out"),
        }
    }

    fn run(&mut self, stream: Stream, routed: &Routed) {
        let GateSpec { tokens, hidden, experts, .. } = routed.spec;
        let (gate_up, down) = (&self.gate_up, &self.down);
        let args = MoeLayerArgs {
            hidden: Matrix::new(&routed.hidden, tokens, hidden).expect("hidden"),
            gate: Matrix::<f32>::new(&routed.weight, experts, hidden).expect("gate"),
            bias: Some(routed.bias.slice(0)),
            gate_up: ExpertWeights {
                weight: Matrix::new(&gate_up.0, experts * 2 * width(), hidden).expect("weight"),
                scales: Matrix::new(&gate_up.1, experts * 2 * width() / 128, hidden / 128).expect("scales"),
            },
            down: ExpertWeights {
                weight: Matrix::new(&down.0, experts * hidden, width()).expect("weight"),
                scales: Matrix::new(&down.1, experts * hidden / 128, width() / 128).expect("scales"),
            },
            shared: None,
            residual: None,
            out: MatrixMut::new(&mut self.out, tokens, hidden).expect("out"),
        };
        self.layer.run(stream, args).expect("layer");
    }
}

/// One cold benchmark, whose throughput is `per_run`.
fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    gpu: &mut Gpu,
    (name, tokens): (&str, usize),
    per_run: Throughput,
    mut run: impl FnMut(Stream<'_>),
) {
    group.throughput(per_run);
    group.bench_function(BenchmarkId::new(name, tokens), |b| gpu.measure(b, L2::Cold, &mut run));
}

fn kernels(c: &mut Criterion) {
    let Some(gpu) = &mut Gpu::open("moe") else { return };
    let mut group = c.benchmark_group("moe, cold");
    let bytes = |bytes: usize| Throughput::Bytes(bytes as u64);
    for &tokens in gpu::shapes(&TOKENS, &FEW_TOKENS) {
        let mut routed = Routed::new(&gpu.device, tokens);
        let per_run = Throughput::Bytes(routed.bytes());
        bench(&mut group, gpu, ("gate", tokens), per_run, |stream| routed.run(stream));
        let ids = routed.ids.to_vec().expect("ids");
        let experts = routed.spec.experts as i32;
        assert!(ids.iter().all(|id| (0..experts).contains(id)), "the gate chose nobody");

        let mut mapped = Mapped::new(&gpu.device, &routed.spec);
        bench(&mut group, gpu, ("map", tokens), bytes(12 * ids.len()), |stream| {
            mapped.run(stream, &routed.ids)
        });

        let (rows, hidden) = (ids.len(), routed.spec.hidden);
        let mut steps = Steps::new(&gpu.device, routed.spec, rows);
        let per_run = bytes(2 * tokens * hidden + rows * (hidden + hidden / 32));
        bench(&mut group, gpu, ("gather", tokens), per_run, |stream| {
            steps.gather(stream, &routed, &mapped);
        });
        let per_run = bytes(rows * (4 * width() + width() + width() / 32));
        bench(&mut group, gpu, ("swiglu", tokens), per_run, |stream| steps.swiglu(stream, &mapped));
        let per_run = bytes(2 * (rows + tokens) * hidden);
        bench(&mut group, gpu, ("combine", tokens), per_run, |stream| {
            steps.combine(stream, &routed, &mapped);
        });

        let mut layer = Layer::new(&gpu.device, routed.spec);
        let flops = Throughput::Elements((6 * ids.len() * hidden * width()) as u64);
        bench(&mut group, gpu, ("layer", tokens), flops, |stream| layer.run(stream, &routed));
        let out = layer.out.to_vec().expect("out");
        assert!(out.iter().all(|x| x.is_finite()), "the layer left something unwritten");
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
