//! Cases of latent attention.

pub mod absorb;
pub(crate) mod cache;
pub mod decode;
pub mod golden;
pub mod kv_append;
mod lse;
pub mod merge_states;
mod packed;
pub mod prefill;
pub mod rope;
pub mod shapes;
mod values;

use crate::planted::Fault;
use crate::trace::Launch;
use deepseek_kernels::mla::{KvFormat, MAX_Q_TOKENS};
use deepseek_kernels::table::gemm::OutputType;
use deepseek_kernels::table::mla::{MLA_INSTANCES, MlaInstance};
use oracles::mla::{AttentionClass, HeadColumns, Side};

pub use cache::CacheRows;
pub use values::Values;

use crate::case::{Cases, boxed};
use crate::deepseek_v3::{HEADS, tokens};
use crate::families::Extent;
use absorb::AbsorbCase;
use decode::MlaDecodeCase;
use kv_append::KvAppendCase;
use merge_states::MergeStatesCase;
use prefill::{KeyLayout, MlaPrefillCase};
use rope::RopeCase;
use shapes::{Lengths, MlaShape, Source, shapes};

/// Columns of a latent vector, of what is rotated, and of both: a key or an absorbed query.
pub const LATENT: usize = KvFormat::LATENT;
pub const ROPE: usize = KvFormat::ROPE;
pub const KEY: usize = LATENT + ROPE;

/// What caches hold.
pub const CACHES: [KvFormat; 3] = [KvFormat::Bf16, KvFormat::Fp8, KvFormat::Fp8PerTensor];

/// Rows of the tables of angles of timed rotations.
const POSITIONS: usize = 8192;

/// Every kernel: sequences of several splits and pages, tiles that are not full.
pub fn smoke() -> Cases {
    let decode = |&instance: &MlaInstance| MlaDecodeCase {
        instance: Some(instance),
        heads: 64 * instance.cluster as usize,
        split_keys: Some(64),
        ..MlaDecodeCase::new(instance.format, vec![150; 2])
    };
    let mut cases = boxed(MLA_INSTANCES.iter().map(decode));
    let packed = MlaDecodeCase::new(KvFormat::Bf16, vec![150, 70, 3]).packed(vec![2, 0, 1]);
    cases.extend(boxed([MlaDecodeCase { split_keys: Some(64), ..packed }]));
    let alone = MLA_INSTANCES.iter().filter(|instance| instance.cluster == 1);
    cases.extend(boxed(alone.map(decode).map(|case| MlaDecodeCase { rope: 0, ..case })));
    let append =
        |rope| kv_append::FORMATS.map(|format| KvAppendCase { rope, ..KvAppendCase::new(format, 9) });
    cases.extend(boxed([ROPE, 0].into_iter().flat_map(append)));
    cases.extend(boxed([RopeCase::new(5, 3, 90)]));
    cases.extend(boxed([Side::Query, Side::Output].map(|side| AbsorbCase::new(side, 70, 2))));
    cases.extend(boxed([MergeStatesCase::new(7, 3)]));
    let prefill = MlaPrefillCase::new(vec![(140, 300), (3, 150)]);
    cases.extend(boxed([
        MlaPrefillCase { layout: KeyLayout::Joined, causal: false, ..prefill.clone() },
        MlaPrefillCase { columns: HeadColumns::GLM_5, ..prefill.clone() },
        prefill,
    ]));
    cases
}

/// The shapes by which decode kernels are compared in public, and the steps around them with DeepSeek-V3's heads.
pub fn timed(extent: Extent) -> Cases {
    let (shapes, tokens, heads): (_, &[_], _) = match extent {
        Extent::Full => (shapes(), &[1, 16, 128, 4096], 128),
        Extent::Reduced => (small_shapes().into(), &[1, 5], 4),
    };
    let mut cases = boxed(timed_steps(&shapes));
    cases.extend(boxed([timed_packed(extent)]));
    cases.extend(boxed(timed_prefill(extent)));
    cases.extend(tokens.iter().flat_map(|&tokens| timed_around(tokens, heads)));
    cases
}

/// Attention over both caches and of a prefill, and what surrounds it: the cache's rows, and the heads of DeepSeek-V3 or those of one of eight
/// ranks.
pub fn layer(extent: Extent, seed: u64) -> Cases {
    let (absorbed, heads) = match extent {
        Extent::Full => (64, HEADS),
        Extent::Reduced => (tokens(extent), 16),
    };
    let (tokens, values) = (tokens(extent), Values::Activations);
    let mut cases = boxed([RopeCase { values, seed, ..RopeCase::new(tokens, HEADS, POSITIONS) }]);
    let [bf16, fp8, _, per_tensor] = kv_append::FORMATS;
    cases.extend(boxed(
        [bf16, fp8, per_tensor].map(|format| KvAppendCase { seed, ..KvAppendCase::new(format, tokens) }),
    ));
    let absorb = |side| AbsorbCase { values, seed, ..AbsorbCase::new(side, absorbed, heads) };
    cases.extend(boxed([Side::Query, Side::Output].map(absorb)));
    let merge = |output| MergeStatesCase { output, values, seed, ..MergeStatesCase::new(absorbed, heads) };
    cases.extend(boxed([OutputType::Bf16, OutputType::F32].map(merge)));
    cases.extend(boxed(layer_decode(extent, seed)));
    cases.extend(boxed(layer_prefill(extent, seed)));
    cases
}

/// Both caches with the mean of a power of two of keys, with one key that counts alone, and with ordinary data; several splits
/// a sequence, and sequences without keys.
fn layer_decode(extent: Extent, seed: u64) -> Vec<MlaDecodeCase> {
    let (heads, lengths, split_keys) = match extent {
        Extent::Full => (HEADS, vec![0, 4096, 1, 1024, 1500], 512),
        // Two query tokens make two tiles of rows, which share their keys.
        Extent::Reduced => (64, vec![0, 256, 1, 301], 128),
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
    let formats = CACHES.into_iter();
    // As after a step of speculation: some sequences have drafts, one is done.
    let tokens = [2, 1, 0, 2, 1];
    let packed = |case: MlaDecodeCase| {
        let tokens = (0..case.lengths.len()).map(|sequence| tokens[sequence % tokens.len()]).collect();
        case.packed(tokens)
    };
    let packed = formats.clone().map(|format| packed(of(format, cases[2])));
    formats.flat_map(|format| cases.map(|case| of(format, case))).chain(packed).collect()
}

/// A prompt, the last part of one, and tokens without keys: the mean of equal weights, one key that counts alone, and ordinary
/// data, causal and not; with heads of either width.
fn layer_prefill(extent: Extent, seed: u64) -> Vec<MlaPrefillCase> {
    let (heads, sequences) = match extent {
        Extent::Full => (HEADS, vec![(1000, 1000), (0, 60), (300, 2048), (5, 0), (129, 129)]),
        Extent::Reduced => (2, vec![(140, 140), (0, 60), (70, 300), (5, 0)]),
    };
    let of = |(columns, class, causal)| MlaPrefillCase {
        class,
        causal,
        heads,
        columns,
        alone: true,
        seed,
        ..MlaPrefillCase::new(sequences.clone())
    };
    let cases = [
        (HeadColumns::DEEPSEEK_V3, AttentionClass::Uniform, true),
        (HeadColumns::DEEPSEEK_V3, AttentionClass::OneKey, true),
        (HeadColumns::DEEPSEEK_V3, AttentionClass::Normal, false),
        (HeadColumns::GLM_5, AttentionClass::OneKey, false),
        (HeadColumns::GLM_5, AttentionClass::Normal, true),
    ];
    cases.map(of).into()
}

/// Prompts of one length, and of several, after others' keys; with the heads of DeepSeek-V3, and of one of eight ranks; a prompt
/// with those of GLM-5.
fn timed_prefill(extent: Extent) -> Vec<MlaPrefillCase> {
    let of = |heads, sequences: &[(usize, usize)]| MlaPrefillCase {
        heads,
        repeated: true,
        ..MlaPrefillCase::new(sequences.to_vec())
    };
    match extent {
        Extent::Full => vec![
            of(16, &[(4096, 4096)]),
            of(128, &[(4096, 4096)]),
            of(16, &[(16_384, 16_384)]),
            of(16, &[(2048, 16_384)]),
            of(16, &[(512, 512), (3000, 3000), (77, 77), (1500, 4096), (1024, 1024)]),
            MlaPrefillCase { columns: HeadColumns::GLM_5, ..of(64, &[(4096, 4096)]) },
        ],
        Extent::Reduced => vec![
            of(2, &[(150, 150), (20, 270)]),
            MlaPrefillCase { columns: HeadColumns::GLM_5, ..of(2, &[(150, 150)]) },
        ],
    }
}

/// Each once, with every cache.
pub fn timed_steps(shapes: &[MlaShape]) -> Vec<MlaDecodeCase> {
    let mut cases: Vec<MlaDecodeCase> = vec![];
    for shape in shapes.iter().filter(|shape| shape.q_tokens <= MAX_Q_TOKENS) {
        let case = MlaDecodeCase {
            q_tokens: shape.q_tokens,
            heads: shape.heads,
            // A query token alone sees everything.
            causal: shape.causal && shape.q_tokens > 1,
            ..timed_decode(KvFormat::Bf16, shape.lengths())
        };
        let same = |other: &MlaDecodeCase| {
            (&other.lengths, other.q_tokens, other.heads, other.causal)
                == (&case.lengths, case.q_tokens, case.heads, case.causal)
        };
        if !cases.iter().any(same) {
            cases.push(case);
        }
    }
    let of = |format| cases.iter().map(move |case| MlaDecodeCase { format, ..case.clone() });
    CACHES.into_iter().flat_map(of).collect()
}

/// Speculation, of whose drafts some are left: from one query token to four.
fn timed_packed(extent: Extent) -> MlaDecodeCase {
    let (batch, keys) = match extent {
        Extent::Full => (64, 4096),
        Extent::Reduced => (3, 100),
    };
    let case = MlaDecodeCase { causal: true, ..timed_decode(KvFormat::Bf16, vec![keys; batch]) };
    case.packed((0..batch).map(|sequence| 1 + sequence % 4).collect())
}

/// One query token of 128 heads, the splits that suit an H100 best, and normal data in repeated rows.
pub fn timed_decode(format: KvFormat, lengths: Vec<usize>) -> MlaDecodeCase {
    MlaDecodeCase { heads: 128, split_keys: None, repeated: true, ..MlaDecodeCase::new(format, lengths) }
}

/// A tile of rows with several query tokens and splits, and two tiles that share their keys.
fn small_shapes() -> [MlaShape; 2] {
    let shape = |q_tokens, heads, lengths: &'static [usize]| MlaShape {
        source: Source::FlashMla,
        batch: lengths.len(),
        q_tokens,
        heads,
        lengths: Lengths::List(lengths),
        causal: true,
    };
    [shape(2, 16, &[2100, 0, 65]), shape(1, 128, &[70])]
}

/// What surrounds the attention of so many tokens, with activations in repeated rows.
pub fn timed_around(tokens: usize, heads: usize) -> Cases {
    let (values, repeated) = (Values::Activations, true);
    let mut cases = boxed([RopeCase { values, repeated, ..RopeCase::new(tokens, heads, POSITIONS) }]);
    let [bf16, fp8, _, per_tensor] = kv_append::FORMATS;
    cases.extend(boxed([bf16, fp8, per_tensor].map(|format| KvAppendCase::new(format, tokens))));
    let absorb = |side| AbsorbCase { values, repeated, ..AbsorbCase::new(side, tokens, heads) };
    cases.extend(boxed([Side::Query, Side::Output].map(absorb)));
    cases.extend(boxed([MergeStatesCase { values, repeated, ..MergeStatesCase::new(tokens, heads) }]));
    cases
}

/// All of them, or so many at equal distances, the first and the last included.
fn spread(count: usize, most: usize) -> Vec<usize> {
    match count <= most {
        true => (0..count).collect(),
        false => (0..most).map(|i| i * (count - 1) / (most - 1)).collect(),
    }
}

/// Launches of every kernel, for the operand trace.
pub fn traced() -> Vec<Launch> {
    [
        absorb::traced(),
        decode::traced(),
        kv_append::traced(),
        merge_states::traced(),
        prefill::traced(),
        rope::traced(),
    ]
    .concat()
}

/// Launches whose protocols are explored.
pub fn explored() -> Vec<Launch> {
    [absorb::explored(), decode::explored(), prefill::explored()].concat()
}

/// Faults in its kernels.
pub fn faults() -> Vec<Fault> {
    [
        absorb::FAULTS,
        decode::FAULTS,
        decode::ORDER_FAULTS,
        decode::PACKED_FAULTS,
        decode::PER_TENSOR_FAULTS,
        kv_append::FAULTS,
        merge_states::FAULTS,
        prefill::FAULTS,
        rope::FAULTS,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_spread_to_both_ends() {
        assert_eq!(spread(3, 4), [0, 1, 2]);
        assert_eq!(spread(10, 4), [0, 3, 6, 9]);
    }
}
