//! Steps of DeepSeek-V3, as one GPU of eight that share the experts takes them: what a share of a step is of.
//!
//! Attention has all heads, of this GPU's own sequences. Of the experts 32 are here, with the tokens of all eight GPUs. Each case
//! stands with the number of layers that run it. Left out: the head, the embedding, and what GPUs send each other.

use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::router::GateSpec;
use oracles::mla::Side;

use crate::case::{Case, Cases};
use crate::deepseek_v3::{EXPERT, EXPERTS, HEADS, HIDDEN, INTERMEDIATE, TOP_K};
use crate::gemm::{timed_gemm, timed_grouped};
use crate::mla::absorb::AbsorbCase;
use crate::mla::kv_append::{self, KvAppendCase};
use crate::mla::prefill::MlaPrefillCase;
use crate::mla::rope::RopeCase;
use crate::mla::{Values, timed_decode};
use crate::moe::combine::CombineCase;
use crate::moe::expert_map::ExpertMapCase;
use crate::moe::gate_map::GateMapCase;
use crate::moe::gather_quantize::GatherQuantizeCase;
use crate::moe::swiglu_quantize::SwigluQuantizeCase;
use crate::moe::timed_gate_up;
use crate::quant::Rule;
use crate::quant::quantize_1x128::Quantize1x128Case;
use crate::quant::rms_norm::{NormOutput, RmsNormCase};
use crate::router::gate::GateCase;

/// Layers, and how many of them have experts.
const LAYERS: usize = 61;
const EXPERT_LAYERS: usize = 58;
/// Width of the others.
const DENSE: usize = 18_432;
/// GPUs that share the experts.
const GPUS: usize = 8;
/// Keys before a decode step, and sequences.
const KEYS: usize = 4096;
const SEQUENCES: usize = 128;
/// Tokens of a prefill.
const PROMPT: usize = 4096;
/// Rows of the tables of angles.
const POSITIONS: usize = 8192;

/// A step.
pub struct Step {
    pub name: &'static str,
    pub title: &'static str,
    pub parts: fn() -> Parts,
}

/// Each case, and how often the step runs it.
pub type Parts = Vec<(Box<dyn Case>, usize)>;

/// All of them.
pub const STEPS: [Step; 2] = [
    Step {
        name: "v3-decode",
        title: "a decode step of DeepSeek-V3: 128 sequences of 4096 keys",
        parts: decode,
    },
    Step { name: "v3-prefill", title: "a prefill of 4096 tokens of DeepSeek-V3", parts: prefill },
];

impl Step {
    /// Its cases.
    pub fn cases(&self) -> Cases {
        (self.parts)().into_iter().map(|(case, _)| case).collect()
    }
}

fn decode() -> Parts {
    let absorb = |side| {
        let case = AbsorbCase::new(side, SEQUENCES, HEADS);
        layer(AbsorbCase { values: Values::Activations, repeated: true, ..case })
    };
    let attention = layer(timed_decode(KvFormat::Bf16, vec![KEYS; SEQUENCES]));
    let mut parts = around_attention(SEQUENCES);
    parts.extend([absorb(Side::Query), attention, absorb(Side::Output)]);
    parts.extend(mlp(SEQUENCES));
    parts
}

fn prefill() -> Parts {
    let attention =
        MlaPrefillCase { heads: HEADS, repeated: true, ..MlaPrefillCase::new(vec![(PROMPT, PROMPT)]) };
    let mut parts = around_attention(PROMPT);
    parts.extend([layer(timed_gemm((PROMPT, 32_768, 512))), layer(attention)]);
    parts.extend(mlp(PROMPT));
    parts
}

fn layer(case: impl Case + 'static) -> (Box<dyn Case>, usize) {
    (Box::new(case), LAYERS)
}

fn norm(tokens: usize) -> RmsNormCase {
    let output = NormOutput::Fp8(Rule::POWER_OF_TWO);
    RmsNormCase { repeated: true, output, ..RmsNormCase::new((tokens, HIDDEN)) }
}

/// The norm, the projections, the rotation and the cache's new rows.
fn around_attention(tokens: usize) -> Parts {
    let rope = RopeCase::new(tokens, HEADS, POSITIONS);
    vec![
        layer(norm(tokens)),
        layer(timed_gemm((tokens, 2112, HIDDEN))),
        layer(timed_gemm((tokens, 24_576, 1536))),
        layer(RopeCase { values: Values::Activations, repeated: true, ..rope }),
        layer(KvAppendCase::new(kv_append::FORMATS[0], tokens)),
        layer(Quantize1x128Case { repeated: true, ..Quantize1x128Case::new((tokens, 16_384)) }),
        layer(timed_gemm((tokens, HIDDEN, 16_384))),
    ]
}

/// The norm with the MLP: a dense one in few layers, else the shared expert and this GPU's part of the routed ones.
fn mlp(tokens: usize) -> Parts {
    let expert = |case: Box<dyn Case>| (case, EXPERT_LAYERS);
    let dense = |n, k| (Box::new(timed_gemm((tokens, n, k))) as _, LAYERS - EXPERT_LAYERS);
    let shared = EXPERT.map(|(n, k)| expert(Box::new(timed_gemm((tokens, n, k))) as _));
    let alone = ExpertMapCase::new((tokens, 1, 1));
    let swiglu = SwigluQuantizeCase { repeated: true, ..SwigluQuantizeCase::new(alone, INTERMEDIATE) };
    let here = (EXPERTS / GPUS, tokens * GPUS * TOP_K / EXPERTS);
    let map = ExpertMapCase::new((tokens, TOP_K, EXPERTS));
    let gate = GateCase { bias: true, scores: false, ..GateCase::new(GateSpec::deepseek_v3(tokens)) };
    let combine = CombineCase { repeated: true, ..CombineCase::new(map, HIDDEN) };
    let routed: [Box<dyn Case>; 5] = [
        Box::new(GateMapCase::new(gate)),
        Box::new(GatherQuantizeCase { repeated: true, ..GatherQuantizeCase::new(map, HIDDEN) }),
        Box::new(timed_gate_up(here, (INTERMEDIATE, HIDDEN))),
        Box::new(timed_grouped(here, EXPERT[1])),
        Box::new(combine),
    ];
    let mut parts = vec![dense(2 * DENSE, HIDDEN), dense(HIDDEN, DENSE)];
    parts.extend(shared);
    parts.push(expert(Box::new(swiglu)));
    parts.extend(routed.map(expert));
    parts
}
