//! Which checks a list of layers gets.

use deepseek_kernels::DeviceKind;
use deepseek_kernels::table::gemm::OutputType;
use oracles::gemm::GemmClass;

use super::case_job::CaseJob;
use super::runner::Job;
use super::shapes::{EMULATED_ROWS, GPU_ROWS, Layer};
use crate::case::Case;
use crate::deepseek_v3::tokens;
use crate::families::{self, Extent};
use crate::gemm::fp8_gemm::Fp8GemmCase;
use crate::quant::quantize_1x128::{Layout, Quantize1x128Case};
use crate::quant::quantize_128x128::Quantize128x128Case;
use crate::quant::transpose_scales::TransposeScalesCase;
use crate::quant::{QuantizerClass, Rule};

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
    let formats = |layer| Rule::OWN.map(|rule| weight_job(layer, rule, seed));
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
    jobs.extend(layers.iter().enumerate().map(|(i, &layer)| weight_job(layer, Rule::OWN[i % 2], seed)));
    jobs
}

/// Every family's part of a layer.
pub fn operations(kind: DeviceKind, seed: u64) -> Vec<Box<dyn Job>> {
    let extent = match kind {
        DeviceKind::Cuda => Extent::Full,
        DeviceKind::Emulated => Extent::Reduced,
    };
    let cases = families::all(|family| (family.layer)(extent, seed));
    cases.into_iter().map(|case| Box::new(CaseJob { case, seed }) as _).collect()
}

/// What a reader of the emulator's results has to know about them.
pub fn rotation_note() -> String {
    format!(
        "m is reduced to {EMULATED_ROWS:?} (a GPU runs {GPU_ROWS:?}), experts to a few narrow ones, routed tokens to \
         {}, and inputs rotate over the layers: sizes for an emulator, which executes every instruction in \
         software",
        tokens(Extent::Reduced)
    )
}

fn job(case: impl Case + 'static, seed: u64) -> Box<dyn Job> {
    Box::new(CaseJob { case: Box::new(case), seed })
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
            jobs.push(job(Quantize1x128Case { rule: Rule::FP32, ..as_read }, seed));
            jobs.push(job(Quantize1x128Case { layout: Layout::RowMajor, ..as_read }, seed));
            jobs.push(job(TransposeScalesCase::new((rows, k)), seed));
        }
    }
    jobs
}

fn weight_job(layer: Layer, rule: Rule, seed: u64) -> Box<dyn Job> {
    let case = Quantize128x128Case::new((layer.n, layer.k));
    job(Quantize128x128Case { class: QuantizerClass::Weights, rule, seed, ..case }, seed)
}
