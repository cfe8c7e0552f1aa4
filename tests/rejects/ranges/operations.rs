//! The one list of operations and the fields of their specs.

use std::num::NonZeroU32;
use std::sync::Arc;

use check::case::{Case, Problem};
use check::gemm::fp8_gemm::Fp8GemmCase;
use check::gemm::grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase};
use check::mla::ROPE;
use check::mla::absorb::AbsorbCase;
use check::mla::decode::MlaDecodeCase;
use check::mla::kv_append::KvAppendCase;
use check::mla::merge_states::MergeStatesCase;
use check::mla::prefill::MlaPrefillCase;
use check::mla::rope::RopeCase;
use check::moe::combine::CombineCase;
use check::moe::expert_map::ExpertMapCase;
use check::moe::gate_map::GateMapCase;
use check::moe::gate_up_swiglu::GateUpSwigluCase;
use check::moe::gather_quantize::GatherQuantizeCase;
use check::moe::moe_layer::MoeLayerCase;
use check::moe::swiglu_quantize::SwigluQuantizeCase;
use check::quant::Rule;
use check::quant::dequantize::DequantizeCase;
use check::quant::quantize_1x128::Quantize1x128Case;
use check::quant::quantize_128x128::Quantize128x128Case;
use check::quant::rms_norm::{NormOutput, RmsNormCase};
use check::quant::transpose_scales::TransposeScalesCase;
use check::router::bias_update::BiasUpdateCase;
use check::router::expert_load::ExpertLoadCase;
use check::router::gate::GateCase;
use check::router::sequence_balance_loss::SequenceBalanceLossCase;
use deepseek_kernels::bf16;
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmSpec, GroupedFp8Gemm, GroupedFp8GemmSpec, Segments};
use deepseek_kernels::mla::{
    EmptyLse, KvAppend, KvAppendSpec, KvFormat, KvPaging, LseOrder, MergeStates, MergeStatesSpec, MlaAbsorb,
    MlaAbsorbSpec, MlaDecode, MlaDecodeSpec, MlaPrefill, MlaPrefillSpec, Rope, RopePairs, RopeSpec,
};
use deepseek_kernels::moe::{
    Combine, CombineSpec, ExpertLayout, ExpertMap, ExpertMapSpec, GateMap, GateMapSpec, GateUpOrder,
    GateUpSwiglu, GateUpSwigluSpec, GatherQuantize, GatherQuantizeSpec, MoeLayer, MoeLayerSpec,
    SwigluQuantize, SwigluQuantizeSpec,
};
use deepseek_kernels::quant::{
    Dequantize128x128, DequantizeSpec, NormRounding, Quantize1x128, Quantize128x128, QuantizeRule,
    QuantizeSpec, RmsNorm, RmsNormSpec, ScaleFormat, TransposeScales, TransposeScalesSpec,
};
use deepseek_kernels::router::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, Gate, GateSpec, GroupScore, Scoring,
    SequenceBalanceLoss, SequenceBalanceLossSpec,
};

use oracles::mla::{AttentionClass, HeadColumns, Side};

use super::{AnySpecs, Change, NUMBERS, SIZES, Specs};

/// A spec with its fields, each with the values that it is changed to; what plans it; what a run costs, and its inputs.
macro_rules! specs {
    (
        $operation:literal: $good:expr, $plan:expr, |$spec:ident: $type:ty| $problem:expr;
        sizes $($size:expr),*;
        $($field:ident: $values:expr),+ $(,)?
    ) => {
        Specs::<$type> {
            operation: $operation,
            good: $good,
            fields: vec![$((
                stringify!($field),
                $values
                    .into_iter()
                    .map(|value| Box::new(move |spec: &mut $type| spec.$field = value) as Change<$type>)
                    .collect(),
            )),+],
            plan: |device, spec| $plan(device, spec).map(drop),
            sizes: |$spec| vec![$($size),*],
            problem: |$spec| $problem,
        }
    };
}

/// The inputs of a case.
fn drawn(case: impl Case) -> Option<Arc<dyn Problem>> {
    Some(case.draw().expect("inputs"))
}

fn numbers() -> Vec<Option<f32>> {
    [None].into_iter().chain(NUMBERS.map(Some)).collect()
}

fn counts() -> Vec<Option<usize>> {
    [None].into_iter().chain(SIZES.map(Some)).collect()
}

fn lse_orders() -> Vec<LseOrder> {
    let sequences = SIZES.map(|q_tokens| LseOrder::SequencesHeadsTokens { q_tokens });
    [LseOrder::TokensHeads, LseOrder::HeadsTokens].into_iter().chain(sequences).collect()
}

fn segments() -> Vec<Segments> {
    let both = |size| [Segments::Ragged { rows: size }, Segments::Masked { max_rows: size }];
    SIZES.into_iter().flat_map(both).collect()
}

fn layouts() -> Vec<ExpertLayout> {
    let alignments = [1, 2, 128, 1 << 31, u32::MAX].into_iter().filter_map(NonZeroU32::new);
    let aligned = alignments.map(|alignment| ExpertLayout::Aligned { alignment });
    let masked = SIZES.map(|max_rows| ExpertLayout::Masked { max_rows });
    [ExpertLayout::Ragged].into_iter().chain(aligned).chain(masked).collect()
}

/// Every page table with one number that is another, and every contiguous cache.
fn pagings() -> Vec<KvPaging> {
    let paged =
        |pages, page_size, pages_per_sequence| KvPaging::Paged { pages, page_size, pages_per_sequence };
    let of_size = |size| {
        [paged(size, 64, 3), paged(9, size, 3), paged(9, 64, size), paged(0, size, 0), paged(size, 64, size)]
            .into_iter()
            .chain([KvPaging::Contiguous { capacity: size }])
    };
    SIZES.into_iter().flat_map(of_size).collect()
}

/// Rows in use: as many for each expert, and some for nobody.
fn assignment(experts: usize, segments: Segments) -> Assignment {
    match segments {
        Segments::Ragged { rows } => {
            let counts = vec![rows / (experts + 1); experts];
            let spare = rows - counts.iter().sum::<usize>();
            Assignment::ragged(&counts, spare)
        }
        Segments::Masked { max_rows } => Assignment::masked(&vec![max_rows.min(3); experts], max_rows),
    }
}

/// A map whose rows lie in these segments, if there is one.
fn map(spec: ExpertMapSpec, segments: Segments) -> Option<ExpertMapCase> {
    let spec = match segments {
        Segments::Ragged { .. } => spec,
        Segments::Masked { max_rows } => spec.layout(ExpertLayout::Masked { max_rows }),
    };
    let case = ExpertMapCase { spec, ..ExpertMapCase::new((0, 0, 0)) };
    (spec.segments() == segments).then_some(case)
}

fn rows_of(segments: Segments) -> usize {
    match segments {
        Segments::Ragged { rows } => rows,
        Segments::Masked { max_rows } => max_rows,
    }
}

const GATE: GateSpec = GateSpec::new(5, 64, 8, 2).groups(4).kept_groups(2).shared(1);

const ORDERS: [GateUpOrder; 2] = [GateUpOrder::GateFirst, GateUpOrder::UpFirst];

/// Every router that differs from `good` in one field.
fn gates(good: GateSpec) -> Vec<GateSpec> {
    let Specs { fields, .. } = gate(good);
    let changed = |change: &Change<GateSpec>| {
        let mut spec = good;
        change(&mut spec);
        spec
    };
    fields.iter().flat_map(|(_, values)| values).map(changed).collect()
}

fn gate(good: GateSpec) -> Specs<GateSpec> {
    specs! {
        "gate": good, Gate::plan, |spec: GateSpec| drawn(GateCase::new(spec));
        sizes spec.tokens, spec.hidden, spec.experts;
        tokens: SIZES,
        hidden: SIZES,
        experts: SIZES,
        top_k: SIZES,
        groups: SIZES,
        kept_groups: SIZES,
        shared: SIZES,
        scoring: [Scoring::Sigmoid, Scoring::Softmax, Scoring::SqrtSoftplus],
        group_score: [GroupScore::Max, GroupScore::TopTwoSum],
        normalize: [false, true],
        route_scale: NUMBERS,
    }
}

/// Every operation, in the order of the families.
pub fn all() -> Vec<Box<dyn AnySpecs>> {
    [gemm(), quant(), router(), maps(), experts(), mla()].into_iter().flatten().collect()
}

fn gemm() -> Vec<Box<dyn AnySpecs>> {
    vec![
        Box::new(specs! {
            "fp8_gemm": Fp8GemmSpec::new(5, 16, 128), Fp8Gemm::<bf16>::plan,
            |spec: Fp8GemmSpec| {
                let case = Fp8GemmCase::new((spec.m, spec.n, spec.k));
                drawn(Fp8GemmCase { accumulate: spec.accumulate, ..case })
            };
            sizes spec.m, spec.n, spec.k;
            m: SIZES,
            n: SIZES,
            k: SIZES,
            accumulate: [false, true],
        }),
        Box::new(specs! {
            "grouped_fp8_gemm": GroupedFp8GemmSpec::new(3, 16, 128, Segments::Ragged { rows: 9 }),
            GroupedFp8Gemm::plan,
            |spec: GroupedFp8GemmSpec| {
                let case = GroupedFp8GemmCase::new(assignment(spec.experts, spec.segments), (spec.n, spec.k));
                drawn(GroupedFp8GemmCase { expected_rows: Some(spec.expected_rows), ..case })
            };
            sizes spec.experts, rows_of(spec.segments), spec.n, spec.k;
            experts: SIZES,
            n: SIZES,
            k: SIZES,
            segments: segments(),
            expected_rows: SIZES,
        }),
    ]
}

/// Every rule that cases know, and floors that none has.
fn rules() -> Vec<QuantizeRule> {
    let floored = NUMBERS.map(|floor| QuantizeRule::TILE_KERNELS.amax_floor(floor));
    let inverse = NUMBERS.map(|floor| QuantizeRule::TRANSFORMER_ENGINE.amax_floor(floor));
    Rule::ALL.iter().map(Rule::rule).chain(floored).chain(inverse).collect()
}

/// The rule as cases have it.
fn known(rule: QuantizeRule) -> Option<Rule> {
    Rule::ALL.into_iter().find(|known| known.rule() == rule)
}

fn quant() -> Vec<Box<dyn AnySpecs>> {
    vec![
        Box::new(specs! {
            "quantize_1x128": QuantizeSpec::new(5, 128), Quantize1x128::plan,
            |spec: QuantizeSpec| {
                drawn(Quantize1x128Case { rule: known(spec.rule)?, ..Quantize1x128Case::new((spec.rows, spec.k)) })
            };
            sizes spec.rows, spec.k;
            rows: SIZES,
            k: SIZES,
            rule: rules(),
        }),
        Box::new(specs! {
            "quantize_128x128": QuantizeSpec::new(5, 128), Quantize128x128::plan,
            |spec: QuantizeSpec| {
                let case = Quantize128x128Case::new((spec.rows, spec.k));
                drawn(Quantize128x128Case { rule: known(spec.rule)?, ..case })
            };
            sizes spec.rows, spec.k;
            rows: SIZES,
            k: SIZES,
            rule: rules(),
        }),
        Box::new(specs! {
            "dequantize": DequantizeSpec::new(5, 128), Dequantize128x128::plan,
            |spec: DequantizeSpec| drawn(DequantizeCase::new((spec.rows, spec.k)));
            sizes spec.rows, spec.k;
            rows: SIZES,
            k: SIZES,
        }),
        Box::new(specs! {
            "transpose_scales": TransposeScalesSpec::new(5, 256), TransposeScales::plan,
            |spec: TransposeScalesSpec| drawn(TransposeScalesCase::new((spec.m, spec.k)));
            sizes spec.m, spec.k;
            m: SIZES,
            k: SIZES,
        }),
        Box::new(specs! {
            "rms_norm": RmsNormSpec::new(3, 128, 1e-6), RmsNorm::plan,
            |spec: RmsNormSpec| {
                let RmsNormSpec { eps, rounding, rule, .. } = spec;
                let case = RmsNormCase::new((spec.rows, spec.hidden));
                drawn(RmsNormCase { eps, rounding, output: NormOutput::Fp8(known(rule)?), ..case })
            };
            sizes spec.rows, spec.hidden;
            rows: SIZES,
            hidden: SIZES,
            eps: NUMBERS,
            rounding: [NormRounding::Once, NormRounding::EachStep],
            rule: rules(),
        }),
    ]
}

fn router() -> Vec<Box<dyn AnySpecs>> {
    vec![
        Box::new(gate(GATE)),
        Box::new(specs! {
            "expert_load": ExpertLoadSpec::new(5, 2, 8), ExpertLoad::plan,
            |spec: ExpertLoadSpec| drawn(ExpertLoadCase::new((spec.tokens, spec.routes), spec.experts));
            sizes spec.tokens, spec.routes, spec.experts;
            tokens: SIZES,
            routes: SIZES,
            experts: SIZES,
        }),
        Box::new(specs! {
            "bias_update": BiasUpdateSpec::new(8, 1e-3), BiasUpdate::plan,
            |spec: BiasUpdateSpec| {
                drawn(BiasUpdateCase { speed: spec.speed, ..BiasUpdateCase::new(spec.experts) })
            };
            sizes spec.experts;
            experts: SIZES,
            speed: NUMBERS,
        }),
        Box::new(specs! {
            "sequence_balance_loss": SequenceBalanceLossSpec::new(2, 5, 8, 2, 0.25), SequenceBalanceLoss::plan,
            |spec: SequenceBalanceLossSpec| {
                drawn(SequenceBalanceLossCase { spec, ..SequenceBalanceLossCase::new((0, 0), (0, 0)) })
            };
            sizes spec.sequences, spec.length, spec.experts;
            sequences: SIZES,
            length: SIZES,
            experts: SIZES,
            top_k: SIZES,
            alpha: NUMBERS,
        }),
    ]
}

fn maps() -> Vec<Box<dyn AnySpecs>> {
    vec![
        Box::new(specs! {
            "expert_map": ExpertMapSpec::new(5, 2, 8), ExpertMap::plan,
            |spec: ExpertMapSpec| drawn(ExpertMapCase { spec, ..ExpertMapCase::new((0, 0, 0)) });
            sizes spec.tokens, spec.top_k, spec.experts, spec.rows();
            tokens: SIZES,
            top_k: SIZES,
            experts: SIZES,
            local_experts: counts(),
            layout: layouts(),
        }),
        Box::new(specs! {
            "gate_map": GateMapSpec::new(GATE), GateMap::plan,
            |spec: GateMapSpec| {
                let case = GateMapCase::new(GateCase::new(spec.gate)).laid_out(spec.layout);
                drawn(GateMapCase { local: spec.local_experts, ..case })
            };
            sizes spec.gate.tokens, spec.gate.hidden, spec.gate.experts, spec.map().rows() / 64;
            gate: gates(GATE),
            local_experts: counts(),
            layout: layouts(),
        }),
    ]
}

fn experts() -> Vec<Box<dyn AnySpecs>> {
    let layer_gate = GateSpec::new(5, 128, 8, 2).groups(4).kept_groups(2);
    vec![
        Box::new(specs! {
            "gate_up_swiglu": GateUpSwigluSpec::new(3, 128, 128, Segments::Ragged { rows: 9 }), GateUpSwiglu::plan,
            |spec: GateUpSwigluSpec| {
                let GateUpSwigluSpec { clamp, rule, order, intermediate, hidden, expected_rows, .. } = spec;
                let assignment = assignment(spec.experts, spec.segments);
                let mut case = GateUpSwigluCase::new(assignment, (intermediate, hidden));
                case.gemm.expected_rows = Some(expected_rows);
                drawn(GateUpSwigluCase { clamp, order, rule: known(rule)?, ..case })
            };
            sizes spec.experts, rows_of(spec.segments), spec.intermediate, spec.hidden;
            experts: SIZES,
            intermediate: SIZES,
            hidden: SIZES,
            segments: segments(),
            expected_rows: SIZES,
            clamp: numbers(),
            rule: rules(),
            order: ORDERS,
        }),
        Box::new(specs! {
            "gather_quantize": GatherQuantizeSpec::new(5, 2, 128, 8, Segments::Ragged { rows: 10 }),
            GatherQuantize::plan,
            |spec: GatherQuantizeSpec| {
                let map = map(ExpertMapSpec::new(spec.tokens, spec.top_k, spec.experts), spec.segments)?;
                drawn(GatherQuantizeCase { rule: known(spec.rule)?, ..GatherQuantizeCase::new(map, spec.hidden) })
            };
            sizes spec.tokens, spec.top_k, spec.experts, rows_of(spec.segments), spec.hidden;
            tokens: SIZES,
            top_k: SIZES,
            hidden: SIZES,
            experts: SIZES,
            segments: segments(),
            rule: rules(),
        }),
        Box::new(specs! {
            "swiglu_quantize": SwigluQuantizeSpec::new(128, 8, Segments::Ragged { rows: 10 }), SwigluQuantize::plan,
            |spec: SwigluQuantizeSpec| {
                let SwigluQuantizeSpec { clamp, rule, order, .. } = spec;
                let map = map(ExpertMapSpec::new(rows_of(spec.segments), 1, spec.experts), spec.segments)?;
                drawn(SwigluQuantizeCase { clamp, order, rule: known(rule)?, ..SwigluQuantizeCase::new(map, spec.intermediate) })
            };
            sizes spec.experts, rows_of(spec.segments), spec.intermediate;
            intermediate: SIZES,
            experts: SIZES,
            segments: segments(),
            clamp: numbers(),
            rule: rules(),
            order: ORDERS,
        }),
        Box::new(specs! {
            "combine": CombineSpec::new(5, 2, 128, 10), Combine::plan,
            |spec: CombineSpec| {
                let map = ExpertMapCase::new((spec.tokens, spec.top_k, 7));
                (map.spec.rows() == spec.rows).then(|| drawn(CombineCase::new(map, spec.hidden)))?
            };
            sizes spec.tokens, spec.top_k, spec.hidden, spec.rows;
            tokens: SIZES,
            top_k: SIZES,
            hidden: SIZES,
            rows: SIZES,
        }),
        Box::new(specs! {
            "moe_layer": MoeLayerSpec::new(layer_gate, 128), MoeLayer::plan,
            |spec: MoeLayerSpec| {
                let MoeLayerSpec { clamp, rule, order, local_experts: local, .. } = spec;
                drawn(MoeLayerCase { local, order, clamp, rule: known(rule)?, ..MoeLayerCase::new(spec.gate, spec.intermediate) })
            };
            sizes spec.gate.tokens, spec.gate.hidden, spec.gate.experts, spec.intermediate;
            gate: gates(layer_gate),
            local_experts: counts(),
            intermediate: SIZES,
            clamp: numbers(),
            rule: rules(),
            order: ORDERS,
        }),
    ]
}

fn mla() -> Vec<Box<dyn AnySpecs>> {
    let decode = MlaDecodeCase::new(KvFormat::Bf16, vec![70, 3]).spec();
    vec![
        Box::new(specs! {
            "mla_decode": decode, MlaDecode::plan, |spec: MlaDecodeSpec| decode_problem(spec);
            sizes spec.batch, spec.q_tokens, spec.packed_tokens.unwrap_or_default(), spec.heads, 64;
            batch: SIZES,
            q_tokens: SIZES,
            packed_tokens: counts(),
            heads: SIZES,
            format: [KvFormat::Bf16, KvFormat::Fp8, KvFormat::Fp8PerTensor],
            rope: SIZES,
            paging: pagings(),
            softmax_scale: NUMBERS,
            causal: [false, true],
            split_keys: SIZES,
            total_keys: counts(),
            lse_order: lse_orders(),
            empty_lse: [EmptyLse::NegativeInfinity, EmptyLse::PositiveInfinity],
        }),
        Box::new(prefill(HeadColumns::DEEPSEEK_V3)),
        Box::new(prefill(HeadColumns::GLM_5)),
        Box::new(specs! {
            "kv_append": KvAppendSpec::new(5, 12, KvFormat::Fp8), KvAppend::plan,
            |spec: KvAppendSpec| {
                let case = KvAppendCase::new((spec.format, spec.scale_format), spec.tokens);
                drawn(KvAppendCase { rows: spec.rows, rope: spec.rope, ..case })
            };
            sizes spec.tokens, spec.rows;
            tokens: SIZES,
            rows: SIZES,
            format: [KvFormat::Bf16, KvFormat::Fp8, KvFormat::Fp8PerTensor],
            rope: SIZES,
            scale_format: [ScaleFormat::Fp32, ScaleFormat::PowerOfTwo],
        }),
        Box::new(specs! {
            "rope": RopeSpec::new(5, 3, 11), Rope::plan,
            |spec: RopeSpec| {
                let case = RopeCase::new(spec.tokens, spec.heads, spec.positions);
                drawn(case.with_columns(spec.columns, spec.pairs))
            };
            sizes spec.tokens, spec.heads, spec.positions, spec.columns;
            tokens: SIZES,
            heads: SIZES,
            positions: SIZES,
            columns: SIZES,
            pairs: [RopePairs::Neighbours, RopePairs::Halves],
        }),
        Box::new(specs! {
            "mla_absorb": MlaAbsorbSpec::new(5, 3), MlaAbsorb::plan,
            |spec: MlaAbsorbSpec| {
                let MlaAbsorbSpec { tokens, heads, nope, rope, value, .. } = spec;
                let columns = HeadColumns { nope, rope, value };
                drawn(AbsorbCase { columns, ..AbsorbCase::new(Side::Output, tokens, heads) })
            };
            sizes spec.tokens, spec.heads, spec.nope.max(spec.value).max(spec.rope), 16;
            tokens: SIZES,
            heads: SIZES,
            nope: SIZES,
            rope: SIZES,
            value: SIZES,
        }),
        Box::new(specs! {
            "merge_states": MergeStatesSpec::new(5, 3), MergeStates::<bf16>::plan,
            |spec: MergeStatesSpec| {
                let MergeStatesSpec { tokens, heads, columns, lse_order, infinity_is_empty, .. } = spec;
                let case = MergeStatesCase::new(tokens, heads);
                drawn(MergeStatesCase { columns, lse_order, infinity_is_empty, ..case })
            };
            sizes spec.tokens, spec.heads, spec.columns;
            tokens: SIZES,
            heads: SIZES,
            columns: SIZES,
            lse_order: lse_orders(),
            infinity_is_empty: [false, true],
        }),
    ]
}

/// Of the cases' sequences, unless their pages are others.
fn decode_problem(spec: MlaDecodeSpec) -> Option<Arc<dyn Problem>> {
    let MlaDecodeSpec { format, rope, q_tokens, packed_tokens, heads, causal, lse_order, empty_lse, .. } =
        spec;
    let case = MlaDecodeCase::new(format, vec![70, 3]);
    let case = MlaDecodeCase {
        rope,
        q_tokens,
        packed: packed_tokens.map(|_| vec![q_tokens, 1]),
        heads,
        causal,
        lse_order,
        empty_lse,
        class: AttentionClass::Positive,
        ..case
    };
    let expected = case.spec();
    if (spec.batch, spec.paging) != (expected.batch, expected.paging) {
        return None;
    }
    let mut problem = case.problem().expect("inputs");
    problem.spec = spec;
    problem.q.resize(problem.tokens() * heads * problem.case.key(), bf16::ONE);
    Some(Arc::new(problem))
}

/// With heads of a width that is compiled.
fn prefill(columns: HeadColumns) -> Specs<MlaPrefillSpec> {
    specs! {
        "mla_prefill": MlaPrefillCase { columns, ..MlaPrefillCase::new(vec![(9, 70), (3, 3)]) }.spec(), MlaPrefill::plan,
        |spec: MlaPrefillSpec| prefill_problem(spec);
        sizes spec.batch, spec.tokens, spec.keys, spec.heads, 8;
        batch: SIZES,
        tokens: SIZES,
        keys: SIZES,
        heads: SIZES,
        nope: SIZES.into_iter().chain([192]),
        value: SIZES.into_iter().chain([192]),
        softmax_scale: NUMBERS,
        causal: [false, true],
        lse_order: lse_orders(),
        empty_lse: [EmptyLse::NegativeInfinity, EmptyLse::PositiveInfinity],
    }
}

/// Of the case's sequences, unless there are others.
fn prefill_problem(spec: MlaPrefillSpec) -> Option<Arc<dyn Problem>> {
    let MlaPrefillSpec { heads, nope, value, causal, lse_order, empty_lse, .. } = spec;
    let columns = HeadColumns { nope, rope: ROPE, value };
    let case = MlaPrefillCase::new(vec![(9, 70), (3, 3)]);
    let case = MlaPrefillCase {
        heads,
        columns,
        causal,
        lse_order,
        empty_lse,
        class: AttentionClass::Positive,
        ..case
    };
    let expected = case.spec();
    if (spec.batch, spec.tokens, spec.keys) != (expected.batch, expected.tokens, expected.keys) {
        return None;
    }
    let mut problem = case.problem().expect("inputs");
    problem.spec = spec;
    Some(Arc::new(problem))
}
