//! Which checks a list of layers gets.

use deepseek_kernels::DeviceKind;
use deepseek_kernels::gemm::OutputType;
use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::quant::{NormRounding, ScaleFormat};
use deepseek_kernels::router::GateSpec;
use oracles::gemm::GemmClass;
use oracles::mla::{AttentionClass, Side};

use super::case_job::CaseJob;
use super::runner::Job;
use super::shapes::{EMULATED_EXPERTS, EMULATED_ROWS, EMULATED_TOKENS, GPU_EXPERTS, GPU_ROWS, Layer};
use crate::case::Case;
use crate::deepseek_v3::{EXPERT, HEADS, HIDDEN};
use crate::gemm::fp8_gemm::Fp8GemmCase;
use crate::gemm::grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase};
use crate::mla::Values;
use crate::mla::absorb::AbsorbCase;
use crate::mla::decode::MlaDecodeCase;
use crate::mla::kv_append::{self, KvAppendCase};
use crate::mla::merge_states::MergeStatesCase;
use crate::mla::rope::RopeCase;
use crate::moe::moe_layer::MoeLayerCase;
use crate::quant::quantize_1x128::{Layout, Quantize1x128Case};
use crate::quant::quantize_128x128::Quantize128x128Case;
use crate::quant::rms_norm::{NormOutput, RmsNormCase};
use crate::quant::transpose_scales::TransposeScalesCase;
use crate::quant::{FORMATS, QuantizerClass};
use crate::{moe, router};

/// Integers that only one result is right for, and normal data with outlier channels.
const CLASSES: [GemmClass; 2] = [GemmClass::Integers, GemmClass::Outliers];

/// Every output of the GEMM on every class of inputs at every m, every quantiser.
pub fn everything(layers: &[Layer], rows: &[usize], seed: u64) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for &layer in layers {
        for &m in rows {
            let of_class = |class| OUTPUTS.map(|output| gemm(class, m, layer, output, seed));
            jobs.extend(CLASSES.into_iter().flat_map(of_class));
        }
    }
    jobs.extend(activation_jobs(layers, rows, seed));
    let formats = |layer| FORMATS.map(|format| weight_job(layer, format, seed));
    jobs.extend(layers.iter().copied().flat_map(formats));
    jobs
}

/// Each layer meets each output of the GEMM once and one format of scales. Inputs and m change from layer to layer, so
/// that four layers see every combination.
pub fn rotating(layers: &[Layer], seed: u64) -> Vec<Box<dyn Job>> {
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for (i, &layer) in layers.iter().enumerate() {
        for (j, &output) in OUTPUTS.iter().enumerate() {
            let (class, m) = (CLASSES[(i + j) % 2], EMULATED_ROWS[(i / 2 + j / 2) % 2]);
            jobs.push(gemm(class, m, layer, output, seed));
        }
    }
    jobs.extend(activation_jobs(layers, &EMULATED_ROWS, seed));
    jobs.extend(layers.iter().enumerate().map(|(i, &layer)| weight_job(layer, FORMATS[i % 2], seed)));
    jobs
}

/// Routed experts: their router, the steps around their GEMMs, their two projections for experts with rows enough for
/// several tiles, few, one, and none, and a whole layer.
pub fn experts(kind: DeviceKind, seed: u64) -> Vec<Box<dyn Job>> {
    let (tokens, rows, layer) = match kind {
        DeviceKind::Cuda => (GPU_ROWS[0], &GPU_EXPERTS[..], moe_layer(8, 2048)),
        DeviceKind::Emulated => (EMULATED_TOKENS, &EMULATED_EXPERTS[..], moe_layer(3, 256)),
    };
    let grouped = |layer| {
        let case = GroupedFp8GemmCase::new(Assignment::ragged(rows, 0), layer);
        job(GroupedFp8GemmCase { class: GemmClass::Integers, seed, ..case }, seed)
    };
    let mut jobs: Vec<Box<dyn Job>> = EXPERT.map(grouped).into();
    let around = router::deepseek_v3(tokens, seed).into_iter().chain(moe::deepseek_v3(tokens, seed));
    jobs.extend(around.map(|case| boxed_job(case, seed)));
    jobs.push(job(MoeLayerCase { seed, ..layer }, seed));
    jobs
}

/// The norm of hidden states, to both of its outputs and with both of its roundings.
pub fn norms(kind: DeviceKind, seed: u64) -> Vec<Box<dyn Job>> {
    let tokens = match kind {
        DeviceKind::Cuda => GPU_ROWS[0],
        DeviceKind::Emulated => EMULATED_TOKENS,
    };
    let case = RmsNormCase { seed, ..RmsNormCase::new((tokens, HIDDEN)) };
    let each_step = RmsNormCase { rounding: NormRounding::EachStep, residual: false, ..case };
    let fp8 = |format| RmsNormCase { output: NormOutput::Fp8(format), ..case };
    let cases = [case, each_step, fp8(FORMATS[0]), fp8(FORMATS[1])];
    cases.map(|case| job(case, seed)).into()
}

/// Latent attention over both caches, and what surrounds it: the cache's rows, and the heads of DeepSeek-V3 or those of one
/// of eight ranks.
pub fn attention(kind: DeviceKind, seed: u64) -> Vec<Box<dyn Job>> {
    let (tokens, absorbed, heads) = match kind {
        DeviceKind::Cuda => (GPU_ROWS[0], 64, HEADS),
        DeviceKind::Emulated => (EMULATED_TOKENS, EMULATED_TOKENS, 16),
    };
    let values = Values::Activations;
    let [bf16, fp8, _] = kv_append::FORMATS;
    let append = |format| job(KvAppendCase { seed, ..KvAppendCase::new(format, tokens) }, seed);
    let absorb = |side| job(AbsorbCase { values, seed, ..AbsorbCase::new(side, absorbed, heads) }, seed);
    let merge =
        |output| job(MergeStatesCase { output, values, seed, ..MergeStatesCase::new(absorbed, heads) }, seed);
    let mut jobs = vec![
        job(RopeCase { values, seed, ..RopeCase::new(tokens, HEADS, POSITIONS) }, seed),
        append(bf16),
        append(fp8),
        absorb(Side::Query),
        absorb(Side::Output),
        merge(OutputType::Bf16),
        merge(OutputType::F32),
    ];
    jobs.extend(decode(kind, seed).into_iter().map(|case| job(case, seed)));
    jobs
}

/// A layer with DeepSeek-V3's hidden size and router, of fewer experts: what the emulator can compute in seconds.
fn moe_layer(tokens: usize, width: usize) -> MoeLayerCase {
    let (experts, top_k, groups, kept_groups) = (16, 4, 4, 2);
    let gate = GateSpec { experts, top_k, groups, kept_groups, ..GateSpec::deepseek_v3(tokens) };
    MoeLayerCase::new(gate, width)
}

/// Positions of a context, and of a few new tokens.
const POSITIONS: usize = 4096 + 64;

/// Both caches with the mean of a power of two of keys, with one key that counts alone, and with ordinary data; several splits
/// a sequence, and sequences without keys.
fn decode(kind: DeviceKind, seed: u64) -> Vec<MlaDecodeCase> {
    let (heads, lengths, split_keys) = match kind {
        DeviceKind::Cuda => (HEADS, vec![0, 4096, 1, 1024, 1500], 512),
        // Two query tokens make two tiles of rows, which share their keys.
        DeviceKind::Emulated => (64, vec![0, 256, 1, 301], 128),
    };
    let of = |format, (class, q_tokens)| MlaDecodeCase {
        class,
        q_tokens,
        heads,
        split_keys: Some(split_keys),
        causal: q_tokens > 1,
        alone: true,
        seed,
        ..MlaDecodeCase::new(format, lengths.clone())
    };
    let cases = [(AttentionClass::Uniform, 1), (AttentionClass::OneKey, 2), (AttentionClass::Normal, 2)];
    let both = [KvFormat::Bf16, KvFormat::Fp8];
    both.into_iter().flat_map(|format| cases.map(|case| of(format, case))).collect()
}

/// What a reader of the emulator's results has to know about them.
pub fn rotation_note() -> String {
    format!(
        "m is reduced to {EMULATED_ROWS:?} (a GPU runs {GPU_ROWS:?}), experts to a few narrow ones, routed tokens to \
         {EMULATED_TOKENS}, and inputs rotate over the layers: sizes for an emulator, which executes every instruction in \
         software"
    )
}

fn job(case: impl Case + 'static, seed: u64) -> Box<dyn Job> {
    boxed_job(Box::new(case), seed)
}

fn boxed_job(case: Box<dyn Case>, seed: u64) -> Box<dyn Job> {
    Box::new(CaseJob { case, seed })
}

/// What the GEMM writes: the type of D, and whether it is added to.
const OUTPUTS: [(OutputType, bool); 4] =
    [(OutputType::Bf16, false), (OutputType::F32, false), (OutputType::Bf16, true), (OutputType::F32, true)];

fn gemm(
    class: GemmClass,
    m: usize,
    layer: Layer,
    (output, accumulate): (OutputType, bool),
    seed: u64,
) -> Box<dyn Job> {
    let case = Fp8GemmCase::new((m, layer.n, layer.k));
    job(Fp8GemmCase { class, output, accumulate, seed, ..case }, seed)
}

/// Activations depend on k alone, and several layers share one.
fn activation_jobs(layers: &[Layer], rows: &[usize], seed: u64) -> Vec<Box<dyn Job>> {
    let mut widths: Vec<usize> = layers.iter().map(|layer| layer.k).collect();
    widths.sort_unstable();
    widths.dedup();
    let mut jobs: Vec<Box<dyn Job>> = Vec::new();
    for k in widths {
        for &rows in rows {
            let as_read = Quantize1x128Case { seed, ..Quantize1x128Case::new((rows, k)) };
            jobs.push(job(Quantize1x128Case { format: ScaleFormat::Fp32, ..as_read }, seed));
            jobs.push(job(Quantize1x128Case { layout: Layout::RowMajor, ..as_read }, seed));
            jobs.push(job(TransposeScalesCase::new((rows, k)), seed));
        }
    }
    jobs
}

fn weight_job(layer: Layer, format: ScaleFormat, seed: u64) -> Box<dyn Job> {
    let case = Quantize128x128Case::new((layer.n, layer.k));
    job(Quantize128x128Case { class: QuantizerClass::Weights, format, seed, ..case }, seed)
}
