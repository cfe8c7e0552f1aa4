//! Every operation of the crate, small, on an engine's memory.

use std::sync::Arc;

use deepseek_kernels::cudarc::driver::CudaStream;
use deepseek_kernels::gemm::{
    Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec, Segments,
};
use deepseek_kernels::mla::{
    AbsorbOutputArgs, AbsorbQueryArgs, AttentionState, AttentionStateMut, EmptyLse, Heads, HeadsMut,
    KvAppend, KvAppendArgs, KvAppendSpec, KvCache, KvCacheMut, KvFormat, KvPaging, MergeStates,
    MergeStatesSpec, MlaAbsorb, MlaAbsorbSpec, MlaDecode, MlaDecodeArgs, MlaDecodeSpec, Rope, RopeArgs,
    RopeSpec,
};
use deepseek_kernels::moe::{
    Combine, CombineArgs, CombineSpec, ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec, ExpertWeights,
    GatherQuantize, GatherQuantizeArgs, GatherQuantizeSpec, MoeLayer, MoeLayerArgs, MoeLayerSpec,
    SwigluQuantize, SwigluQuantizeArgs, SwigluQuantizeSpec,
};
use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize128x128, QuantizeSpec, RmsNorm, RmsNormArgs, RmsNormOut, RmsNormSpec,
    RowMajor, ScaleFormat, Scales1x128, Scales1x128Mut, Scales128x128, Scales128x128Mut, TransposeScales,
};
use deepseek_kernels::router::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, Gate, GateInput, GateSpec, Routing,
    SequenceBalanceLoss, SequenceBalanceLossSpec,
};
use deepseek_kernels::{Device, F8E4M3, Matrix, MatrixMut, Result, bf16};

use crate::arena::{Arena, Fill};

type Run = Box<dyn FnMut(&mut Arena, &Arc<CudaStream>) -> Result<()>>;

/// An operation, planned, with its memory.
pub struct Operation {
    pub name: &'static str,
    pub arena: Arena,
    run: Run,
}

impl Operation {
    pub fn run(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        (self.run)(&mut self.arena, stream)
    }

    /// What the data of a seed give when nothing else happens: all is waited for before and after.
    pub fn calm(&mut self, stream: &Arc<CudaStream>, seed: u64) -> Vec<Vec<u32>> {
        self.arena.refill(stream, seed);
        stream.context().synchronize().expect("synchronize");
        self.run(stream).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        stream.context().synchronize().expect("synchronize");
        self.arena.bits(stream)
    }
}

pub type Make = fn(&Device, &Arc<CudaStream>) -> Operation;

/// One for every plan of the crate.
pub const ALL: [Make; 21] = [
    fp8_gemm,
    grouped_fp8_gemm,
    quantize_1x128,
    quantize_128x128,
    transpose_scales,
    rms_norm,
    expert_map,
    gather_quantize,
    swiglu_quantize,
    combine,
    gate,
    expert_load,
    bias_update,
    sequence_balance_loss,
    absorb_query,
    absorb_output,
    merge_states,
    rope,
    kv_append,
    mla_decode,
    moe_layer,
];

fn operation(
    name: &'static str,
    arena: Arena,
    run: impl FnMut(&mut Arena, &Arc<CudaStream>) -> Result<()> + 'static,
) -> Operation {
    Operation { name, arena, run: Box::new(run) }
}

const FORMAT: ScaleFormat = ScaleFormat::PowerOfTwo;

fn fp8_gemm(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (m, n, k) = (72, 64, 256);
    let plan = Fp8Gemm::<bf16>::plan(device, Fp8GemmSpec { m, n, k, accumulate: false }).expect("plan");
    let arena = Arena::default()
        .with::<F8E4M3>(stream, m * k, Fill::Values)
        .with::<F8E4M3>(stream, n * k, Fill::Values)
        .with::<f32>(stream, m * k / 128, Fill::Halves)
        .with::<f32>(stream, k / 128, Fill::Halves)
        .with::<bf16>(stream, m * n, Fill::Poison);
    operation("fp8_gemm", arena, move |arena, stream| {
        let args = Fp8GemmArgs {
            a: Matrix::new(&arena.f8.slices[0], m, k)?,
            b: Matrix::new(&arena.f8.slices[1], n, k)?,
            sfa: Scales1x128::<MMajor>::new(&arena.f32.slices[0], m, k)?,
            sfb: Scales128x128::new(&arena.f32.slices[1], n, k)?,
            d: MatrixMut::new(&mut arena.bf16.slices[0], m, n)?,
        };
        plan.run(stream, args)
    })
}

const EXPERTS: usize = 4;
/// Where the rows of four experts start and end.
const SEGMENTS: [i32; EXPERTS + 1] = [0, 7, 7, 20, 24];
const ROWS: usize = 24;

fn grouped_fp8_gemm(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (n, k) = (128, 128);
    let segments = Segments::Ragged { rows: ROWS };
    let spec = GroupedFp8GemmSpec { experts: EXPERTS, n, k, segments, expected_rows: 6 };
    let plan = GroupedFp8Gemm::plan(device, spec).expect("plan");
    let arena = Arena::default()
        .with::<F8E4M3>(stream, ROWS * k, Fill::Values)
        .with::<F8E4M3>(stream, EXPERTS * n * k, Fill::Values)
        .with::<f32>(stream, ROWS, Fill::Halves)
        .with::<f32>(stream, EXPERTS, Fill::Halves)
        .with::<i32>(stream, EXPERTS + 1, Fill::Fixed(SEGMENTS.to_vec()))
        .with::<bf16>(stream, ROWS * n, Fill::Poison);
    operation("grouped_fp8_gemm", arena, move |arena, stream| {
        let args = GroupedFp8GemmArgs {
            a: Matrix::new(&arena.f8.slices[0], ROWS, k)?,
            sfa: Scales1x128::<MMajor>::new(&arena.f32.slices[0], ROWS, k)?,
            b: Matrix::new(&arena.f8.slices[1], EXPERTS * n, k)?,
            sfb: Matrix::new(&arena.f32.slices[1], EXPERTS, 1)?,
            segments: Matrix::new(&arena.i32.slices[0], 1, EXPERTS + 1)?,
            d: MatrixMut::new(&mut arena.bf16.slices[0], ROWS, n)?,
        };
        plan.run(stream, args)
    })
}

fn quantize_1x128(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (rows, k) = (12, 256);
    let plan = Quantize1x128::plan(device, QuantizeSpec { rows, k, format: FORMAT }).expect("plan");
    let arena = Arena::default()
        .with::<bf16>(stream, rows * k, Fill::Values)
        .with::<F8E4M3>(stream, rows * k, Fill::Poison)
        .with::<f32>(stream, rows * k / 128, Fill::Poison);
    operation("quantize_1x128", arena, move |arena, stream| {
        let x = Matrix::new(&arena.bf16.slices[0], rows, k)?;
        let q = MatrixMut::new(&mut arena.f8.slices[0], rows, k)?;
        plan.run(stream, x, q, Scales1x128Mut::<MMajor>::new(&mut arena.f32.slices[0], rows, k)?)
    })
}

fn quantize_128x128(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (rows, k) = (130, 128);
    let plan = Quantize128x128::plan(device, QuantizeSpec { rows, k, format: FORMAT }).expect("plan");
    let arena = Arena::default()
        .with::<bf16>(stream, rows * k, Fill::Values)
        .with::<F8E4M3>(stream, rows * k, Fill::Poison)
        .with::<f32>(stream, 2, Fill::Poison);
    operation("quantize_128x128", arena, move |arena, stream| {
        let x = Matrix::new(&arena.bf16.slices[0], rows, k)?;
        let q = MatrixMut::new(&mut arena.f8.slices[0], rows, k)?;
        plan.run(stream, x, q, Scales128x128Mut::new(&mut arena.f32.slices[0], rows, k)?)
    })
}

fn transpose_scales(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (m, k) = (40, 512);
    let plan = TransposeScales::plan(device, m, k).expect("plan");
    let arena = Arena::default().with::<f32>(stream, m * k / 128, Fill::Values).with::<f32>(
        stream,
        m * k / 128,
        Fill::Poison,
    );
    operation("transpose_scales", arena, move |arena, stream| {
        let [sf, out] = &mut arena.f32.slices[..] else { unreachable!("two operands") };
        let sf = Scales1x128::<RowMajor>::new(&*sf, m, k)?;
        plan.run(stream, sf, Scales1x128Mut::<MMajor>::new(out, m, k)?)
    })
}

fn rms_norm(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (rows, hidden) = (5, 256);
    let plan = RmsNorm::plan(device, RmsNormSpec::new(rows, hidden, 1e-6).format(FORMAT)).expect("plan");
    let scales = Scales1x128::<MMajor>::elements(rows, hidden).expect("whole blocks");
    let arena = Arena::default()
        .with::<bf16>(stream, rows * hidden, Fill::Values)
        .with::<bf16>(stream, rows * hidden, Fill::Values)
        .with::<bf16>(stream, hidden, Fill::Values)
        .with::<F8E4M3>(stream, rows * hidden, Fill::Poison)
        .with::<f32>(stream, scales, Fill::Poison);
    operation("rms_norm", arena, move |arena, stream| {
        let [x, residual, weight] = &mut arena.bf16.slices[..] else { unreachable!("three operands") };
        let args = RmsNormArgs {
            x: Matrix::new(&*x, rows, hidden)?,
            residual: Some(MatrixMut::new(residual, rows, hidden)?),
            weight: Matrix::new(&*weight, 1, hidden)?,
            out: RmsNormOut::Fp8 {
                q: MatrixMut::new(&mut arena.f8.slices[0], rows, hidden)?,
                sf: Scales1x128Mut::<MMajor>::new(&mut arena.f32.slices[0], rows, hidden)?,
            },
        };
        plan.run(stream, args)
    })
}

fn expert_map(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (tokens, top_k) = (10, 3);
    let spec = ExpertMapSpec { tokens, top_k, experts: EXPERTS, layout: ExpertLayout::Ragged };
    let plan = ExpertMap::plan(device, spec).expect("plan");
    let (routes, workspace) = (tokens * top_k, plan.workspace());
    let mut arena = Arena::default().with::<i32>(stream, routes, Fill::Below(EXPERTS as i32));
    for len in [routes, routes, EXPERTS + 1, EXPERTS, EXPERTS + 1] {
        arena = arena.with::<i32>(stream, len, Fill::Poison);
    }
    let arena = arena.with::<u32>(stream, workspace, Fill::Poison);
    operation("expert_map", arena, move |arena, stream| {
        let [ids, row_route, route_row, offsets, counts, demand] = &mut arena.i32.slices[..] else {
            unreachable!("six operands")
        };
        let args = ExpertMapArgs {
            ids: Matrix::new(&*ids, tokens, top_k)?,
            row_route: MatrixMut::new(row_route, 1, routes)?,
            route_row: MatrixMut::new(route_row, tokens, top_k)?,
            offsets: MatrixMut::new(offsets, 1, EXPERTS + 1)?,
            counts: MatrixMut::new(counts, 1, EXPERTS)?,
            demand: MatrixMut::new(demand, 1, EXPERTS + 1)?,
            workspace: MatrixMut::new(&mut arena.u32.slices[0], 1, workspace)?,
        };
        plan.run(stream, args)
    })
}

fn gather_quantize(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (tokens, top_k, hidden) = (8, 3, 128);
    let segments = Segments::Ragged { rows: ROWS };
    let spec = GatherQuantizeSpec { tokens, top_k, hidden, experts: EXPERTS, segments, format: FORMAT };
    let plan = GatherQuantize::plan(device, spec).expect("plan");
    let arena = Arena::default()
        .with::<bf16>(stream, tokens * hidden, Fill::Values)
        .with::<i32>(stream, ROWS, Fill::Below((tokens * top_k) as i32))
        .with::<i32>(stream, EXPERTS + 1, Fill::Fixed(SEGMENTS.to_vec()))
        .with::<F8E4M3>(stream, ROWS * hidden, Fill::Poison)
        .with::<f32>(stream, ROWS, Fill::Poison);
    operation("gather_quantize", arena, move |arena, stream| {
        let args = GatherQuantizeArgs {
            x: Matrix::new(&arena.bf16.slices[0], tokens, hidden)?,
            row_route: Matrix::new(&arena.i32.slices[0], 1, ROWS)?,
            segments: Matrix::new(&arena.i32.slices[1], 1, EXPERTS + 1)?,
            q: MatrixMut::new(&mut arena.f8.slices[0], ROWS, hidden)?,
            sf: Scales1x128Mut::<MMajor>::new(&mut arena.f32.slices[0], ROWS, hidden)?,
        };
        plan.run(stream, args)
    })
}

fn swiglu_quantize(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let intermediate = 128;
    let segments = Segments::Ragged { rows: ROWS };
    let spec = SwigluQuantizeSpec { intermediate, experts: EXPERTS, segments, clamp: None, format: FORMAT };
    let plan = SwigluQuantize::plan(device, spec).expect("plan");
    let arena = Arena::default()
        .with::<bf16>(stream, ROWS * 2 * intermediate, Fill::Values)
        .with::<i32>(stream, EXPERTS + 1, Fill::Fixed(SEGMENTS.to_vec()))
        .with::<F8E4M3>(stream, ROWS * intermediate, Fill::Poison)
        .with::<f32>(stream, ROWS, Fill::Poison);
    operation("swiglu_quantize", arena, move |arena, stream| {
        let args = SwigluQuantizeArgs {
            x: Matrix::new(&arena.bf16.slices[0], ROWS, 2 * intermediate)?,
            segments: Matrix::new(&arena.i32.slices[0], 1, EXPERTS + 1)?,
            routing: None,
            q: MatrixMut::new(&mut arena.f8.slices[0], ROWS, intermediate)?,
            sf: Scales1x128Mut::<MMajor>::new(&mut arena.f32.slices[0], ROWS, intermediate)?,
        };
        plan.run(stream, args)
    })
}

fn combine(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (tokens, top_k, hidden) = (8, 3, 128);
    let plan = Combine::plan(device, CombineSpec { tokens, top_k, hidden, rows: ROWS }).expect("plan");
    let arena = Arena::default()
        .with::<bf16>(stream, ROWS * hidden, Fill::Values)
        .with::<bf16>(stream, tokens * hidden, Fill::Values)
        .with::<bf16>(stream, tokens * hidden, Fill::Poison)
        .with::<i32>(stream, tokens * top_k, Fill::Below(ROWS as i32))
        .with::<f32>(stream, tokens * top_k, Fill::Halves);
    operation("combine", arena, move |arena, stream| {
        let [y, shared, out] = &mut arena.bf16.slices[..] else { unreachable!("three operands") };
        let args = CombineArgs {
            y: Matrix::new(&*y, ROWS, hidden)?,
            route_row: Matrix::new(&arena.i32.slices[0], tokens, top_k)?,
            weights: Some(Matrix::new(&arena.f32.slices[0], tokens, top_k)?),
            shared: Some(Matrix::new(&*shared, tokens, hidden)?),
            residual: None,
            out: MatrixMut::new(out, tokens, hidden)?,
        };
        plan.run(stream, args)
    })
}

fn gate(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (tokens, hidden, experts) = (9, 128, 32);
    let spec = GateSpec { hidden, experts, ..GateSpec::deepseek_v3(tokens) };
    let plan = Gate::plan(device, spec).expect("plan");
    let routes = spec.routes();
    let arena = Arena::default()
        .with::<bf16>(stream, tokens * hidden, Fill::Values)
        .with::<f32>(stream, experts * hidden, Fill::Values)
        .with::<f32>(stream, experts, Fill::Values)
        .with::<f32>(stream, plan.workspace_len(), Fill::Poison)
        .with::<f32>(stream, tokens * routes, Fill::Poison)
        .with::<i32>(stream, tokens * routes, Fill::Poison);
    operation("gate", arena, move |arena, stream| {
        let [weight, bias, workspace, weights] = &mut arena.f32.slices[..] else {
            unreachable!("four operands")
        };
        let input = GateInput {
            hidden: Matrix::new(&arena.bf16.slices[0], tokens, hidden)?,
            weight: Matrix::<f32>::new(&*weight, experts, hidden)?,
            workspace: workspace.into(),
        };
        let routing = Routing {
            bias: Some((&*bias).into()),
            mask: None,
            fixed_ids: None,
            ids: MatrixMut::new(&mut arena.i32.slices[0], tokens, routes)?,
            weights: MatrixMut::new(weights, tokens, routes)?,
            scores: None,
        };
        plan.run(stream, input, routing)
    })
}

fn expert_load(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (tokens, routes) = (40, 3);
    let plan = ExpertLoad::plan(device, ExpertLoadSpec { tokens, routes, experts: EXPERTS }).expect("plan");
    let arena = Arena::default()
        .with::<i32>(stream, tokens * routes, Fill::Below(EXPERTS as i32))
        .with::<u32>(stream, EXPERTS, Fill::Below(1000));
    operation("expert_load", arena, move |arena, stream| {
        let ids = Matrix::new(&arena.i32.slices[0], tokens, routes)?;
        plan.run(stream, ids, (&mut arena.u32.slices[0]).into())
    })
}

fn bias_update(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let plan = BiasUpdate::plan(device, BiasUpdateSpec { experts: EXPERTS, speed: 0.25 }).expect("plan");
    let arena = Arena::default()
        .with::<u32>(stream, EXPERTS, Fill::Below(9))
        .with::<f32>(stream, EXPERTS, Fill::Values)
        .with::<f32>(stream, 1, Fill::Poison);
    operation("bias_update", arena, move |arena, stream| {
        let [bias, max_vio] = &mut arena.f32.slices[..] else { unreachable!("two operands") };
        plan.run(stream, (&arena.u32.slices[0]).into(), bias.into(), max_vio.into())
    })
}

fn sequence_balance_loss(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (sequences, length, top_k) = (3, 5, 2);
    let spec = SequenceBalanceLossSpec { sequences, length, experts: EXPERTS, top_k, alpha: 0.5 };
    let plan = SequenceBalanceLoss::plan(device, spec).expect("plan");
    let arena = Arena::default().with::<f32>(stream, sequences * length * EXPERTS, Fill::Halves).with::<f32>(
        stream,
        sequences,
        Fill::Poison,
    );
    operation("sequence_balance_loss", arena, move |arena, stream| {
        let [scores, loss] = &mut arena.f32.slices[..] else { unreachable!("two operands") };
        plan.run(stream, Matrix::new(&*scores, sequences * length, EXPERTS)?, loss.into())
    })
}

const HEADS: usize = 2;

fn absorb_query(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let tokens = 5;
    let plan = MlaAbsorb::plan(device, MlaAbsorbSpec { tokens, heads: HEADS }).expect("plan");
    let arena = Arena::default()
        .with::<bf16>(stream, tokens * HEADS * 192, Fill::Values)
        .with::<bf16>(stream, HEADS * 256 * 512, Fill::Values)
        .with::<bf16>(stream, tokens * HEADS * 576, Fill::Poison);
    operation("absorb_query", arena, move |arena, stream| {
        let [q, w, out] = &mut arena.bf16.slices[..] else { unreachable!("three operands") };
        let args = AbsorbQueryArgs {
            q: Matrix::new(&*q, tokens, HEADS * 192)?,
            w: Matrix::new(&*w, HEADS * 256, 512)?,
            q_latent: MatrixMut::new(out, tokens * HEADS, 576)?,
        };
        plan.run_query(stream, args)
    })
}

fn absorb_output(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let tokens = 5;
    let plan = MlaAbsorb::plan(device, MlaAbsorbSpec { tokens, heads: HEADS }).expect("plan");
    let arena = Arena::default()
        .with::<bf16>(stream, tokens * HEADS * 512, Fill::Values)
        .with::<bf16>(stream, HEADS * 256 * 512, Fill::Values)
        .with::<bf16>(stream, tokens * HEADS * 128, Fill::Poison);
    operation("absorb_output", arena, move |arena, stream| {
        let [latent, w, out] = &mut arena.bf16.slices[..] else { unreachable!("three operands") };
        let args = AbsorbOutputArgs {
            latent: Matrix::new(&*latent, tokens * HEADS, 512)?,
            w: Matrix::new(&*w, HEADS * 256, 512)?,
            out: MatrixMut::new(out, tokens, HEADS * 128)?,
        };
        plan.run_output(stream, args)
    })
}

fn merge_states(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let tokens = 4;
    let spec = MergeStatesSpec { tokens, heads: HEADS, infinity_is_empty: false };
    let plan = MergeStates::<bf16>::plan(device, spec).expect("plan");
    let rows = tokens * HEADS;
    let arena = Arena::default()
        .with::<bf16>(stream, rows * 512, Fill::Values)
        .with::<bf16>(stream, rows * 512, Fill::Values)
        .with::<bf16>(stream, rows * 512, Fill::Poison)
        .with::<f32>(stream, rows, Fill::Values)
        .with::<f32>(stream, rows, Fill::Values)
        .with::<f32>(stream, rows, Fill::Poison);
    operation("merge_states", arena, move |arena, stream| {
        let [o0, o1, o] = &mut arena.bf16.slices[..] else { unreachable!("three operands") };
        let [lse0, lse1, lse] = &mut arena.f32.slices[..] else { unreachable!("three operands") };
        let parts = [
            AttentionState { o: Matrix::new(&*o0, rows, 512)?, lse: Matrix::new(&*lse0, tokens, HEADS)? },
            AttentionState { o: Matrix::new(&*o1, rows, 512)?, lse: Matrix::new(&*lse1, tokens, HEADS)? },
        ];
        let out =
            AttentionStateMut { o: MatrixMut::new(o, rows, 512)?, lse: MatrixMut::new(lse, tokens, HEADS)? };
        plan.run(stream, parts, out)
    })
}

fn rope(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (tokens, positions) = (5, 16);
    let plan = Rope::plan(device, RopeSpec { tokens, heads: HEADS, positions }).expect("plan");
    let arena = Arena::default()
        .with::<bf16>(stream, tokens * HEADS * 64, Fill::Values)
        .with::<bf16>(stream, tokens * HEADS * 64, Fill::Poison)
        .with::<i32>(stream, tokens, Fill::Below(positions as i32))
        .with::<f32>(stream, positions * 64, Fill::Values);
    operation("rope", arena, move |arena, stream| {
        let [x, out] = &mut arena.bf16.slices[..] else { unreachable!("two operands") };
        let args = RopeArgs {
            x: Heads::new(&*x, tokens, HEADS, HEADS * 64, 64)?,
            positions: Matrix::new(&arena.i32.slices[0], 1, tokens)?,
            table: Matrix::new(&arena.f32.slices[0], positions, 64)?,
            out: HeadsMut::new(out, tokens, HEADS, HEADS * 64, 64)?,
        };
        plan.run(stream, args)
    })
}

fn kv_append(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (tokens, rows) = (5, 16);
    let plan = KvAppend::plan(device, KvAppendSpec::new(tokens, rows, KvFormat::Bf16)).expect("plan");
    let arena = Arena::default()
        .with::<bf16>(stream, tokens * 512, Fill::Values)
        .with::<bf16>(stream, tokens * 64, Fill::Values)
        .with::<bf16>(stream, rows * 576, Fill::Poison)
        .with::<i32>(stream, tokens, Fill::Fixed(vec![3, 0, -1, 15, 7]));
    operation("kv_append", arena, move |arena, stream| {
        let [latent, k_pe, cache] = &mut arena.bf16.slices[..] else { unreachable!("three operands") };
        let args = KvAppendArgs {
            latent: Matrix::new(&*latent, tokens, 512)?,
            k_pe: Matrix::new(&*k_pe, tokens, 64)?,
            slots: Matrix::new(&arena.i32.slices[0], 1, tokens)?,
            cache: KvCacheMut::Bf16(MatrixMut::new(cache, rows, 576)?),
        };
        plan.run(stream, args)
    })
}

/// Two sequences of any length up to 128, in splits of 64.
pub fn mla_decode(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    let (batch, heads, pages) = (2, 16, 5);
    let spec = MlaDecodeSpec {
        batch,
        q_tokens: 1,
        heads,
        format: KvFormat::Bf16,
        paging: KvPaging::Paged { pages, page_size: 64, pages_per_sequence: 2 },
        softmax_scale: 0.125,
        causal: false,
        split_keys: 64,
        empty_lse: EmptyLse::NegativeInfinity,
    };
    let plan = MlaDecode::plan(device, spec).expect("plan");
    let rows = batch * heads;
    let arena = Arena::default()
        .with::<bf16>(stream, rows * 576, Fill::Values)
        .with::<bf16>(stream, pages * 64 * 576, Fill::Values)
        .with::<bf16>(stream, rows * 512, Fill::Poison)
        .with::<i32>(stream, batch, Fill::Below(129))
        .with::<i32>(stream, batch * 2, Fill::Below(pages as i32))
        .with::<u32>(stream, plan.tables(), Fill::Poison)
        .with::<f32>(stream, plan.partials(), Fill::Poison)
        .with::<f32>(stream, rows, Fill::Poison);
    operation("mla_decode", arena, move |arena, stream| {
        let [q, keys, out] = &mut arena.bf16.slices[..] else { unreachable!("three operands") };
        let [partials, lse] = &mut arena.f32.slices[..] else { unreachable!("two operands") };
        let args = MlaDecodeArgs {
            q: Matrix::new(&*q, rows, 576)?,
            cache: KvCache::Bf16(Matrix::new(&*keys, pages * 64, 576)?),
            page_table: Some(Matrix::new(&arena.i32.slices[1], batch, 2)?),
            partials: MatrixMut::new(partials, 1, plan.partials())?,
            out: MatrixMut::new(out, rows, 512)?,
            lse: MatrixMut::new(lse, batch, heads)?,
        };
        let lengths = Matrix::new(&arena.i32.slices[0], 1, batch)?;
        let tables = MatrixMut::new(&mut arena.u32.slices[0], 1, plan.tables())?;
        plan.run(stream, lengths, tables, args)
    })
}

pub fn moe_spec(tokens: usize) -> MoeLayerSpec {
    MoeLayerSpec {
        gate: GateSpec { hidden: 128, experts: 32, ..GateSpec::deepseek_v3(tokens) },
        intermediate: 128,
        clamp: None,
        format: FORMAT,
    }
}

const MOE_TOKENS: usize = 5;

pub fn moe_layer(device: &Device, stream: &Arc<CudaStream>) -> Operation {
    run_moe_layer(plan_moe_layer(device), moe_layer_operands(stream))
}

pub fn plan_moe_layer(device: &Device) -> MoeLayer {
    MoeLayer::plan(device, moe_spec(MOE_TOKENS)).expect("plan")
}

pub fn moe_layer_operands(stream: &Arc<CudaStream>) -> Arena {
    let spec = moe_spec(MOE_TOKENS);
    let (hidden, experts, width) = (spec.gate.hidden, spec.gate.experts, spec.intermediate);
    Arena::default()
        .with::<bf16>(stream, MOE_TOKENS * hidden, Fill::Values)
        .with::<bf16>(stream, MOE_TOKENS * hidden, Fill::Poison)
        .with::<f32>(stream, experts * hidden, Fill::Values)
        .with::<f32>(stream, experts * 2, Fill::Halves)
        .with::<f32>(stream, experts, Fill::Halves)
        .with::<F8E4M3>(stream, experts * 2 * width * hidden, Fill::Values)
        .with::<F8E4M3>(stream, experts * hidden * width, Fill::Values)
}

pub fn run_moe_layer(mut layer: MoeLayer, operands: Arena) -> Operation {
    let (tokens, spec) = (MOE_TOKENS, moe_spec(MOE_TOKENS));
    let (hidden, experts, width) = (spec.gate.hidden, spec.gate.experts, spec.intermediate);
    operation("moe_layer", operands, move |arena, stream| {
        let [x, out] = &mut arena.bf16.slices[..] else { unreachable!("two operands") };
        let [up, down] = &arena.f8.slices[..] else { unreachable!("two operands") };
        let [gate, up_scales, down_scales] = &arena.f32.slices[..] else { unreachable!("three operands") };
        let args = MoeLayerArgs {
            hidden: Matrix::new(&*x, tokens, hidden)?,
            gate: Matrix::<f32>::new(gate, experts, hidden)?,
            bias: None,
            gate_up: ExpertWeights {
                weight: Matrix::new(up, experts * 2 * width, hidden)?,
                scales: Matrix::new(up_scales, experts * 2, 1)?,
            },
            down: ExpertWeights {
                weight: Matrix::new(down, experts * hidden, width)?,
                scales: Matrix::new(down_scales, experts, 1)?,
            },
            shared: None,
            residual: None,
            out: MatrixMut::new(out, tokens, hidden)?,
        };
        layer.run(stream, args)
    })
}
