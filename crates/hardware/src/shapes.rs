//! Which cases the programs take, in order of importance.

use deepseek_kernels::gemm::{GEMM_INSTANCES, OutputType};
use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::router::GateSpec;

use crate::case::Case;
use crate::cases::{
    AbsorbCase, AppendCase, AttentionCase, GemmCase, GroupedCase, MergeCase, MoeCase, QuantizeCase,
    Quantizer, RopeCase, Side,
};

type Cases = Vec<Box<dyn Case>>;

fn boxed(cases: impl IntoIterator<Item = impl Case + 'static>) -> Cases {
    cases.into_iter().map(|case| Box::new(case) as _).collect()
}

fn gemm(m: usize, n: usize, k: usize) -> GemmCase {
    GemmCase { shape: (m, n, k), output: OutputType::Bf16, instance: None }
}

/// Experts and rows of one, with the two weights of DeepSeek-V3's.
fn grouped<const N: usize>(experts: [(usize, usize); N]) -> Cases {
    let layers = [(4096, 7168), (7168, 2048)];
    let case = |(experts, rows)| layers.map(|layer| GroupedCase { experts, rows, layer });
    boxed(experts.into_iter().flat_map(case))
}

/// A layer of few and narrow experts.
fn small_moe(tokens: usize) -> MoeCase {
    let gate = GateSpec {
        hidden: 512,
        experts: 8,
        top_k: 2,
        groups: 4,
        kept_groups: 2,
        ..GateSpec::deepseek_v3(tokens)
    };
    MoeCase { gate, width: 256 }
}

fn small_attention(format: KvFormat, cluster: u32) -> AttentionCase {
    let heads = 64 * cluster as usize;
    AttentionCase { heads, split_keys: Some(64), ..AttentionCase::decode(format, 2, 150) }
}

/// One of every family and of every GEMM and attention kernel, small enough for the emulator: more than one lap of the
/// ring, tails in every direction, more than one split.
pub fn smoke() -> Cases {
    let instance = |instance: &deepseek_kernels::gemm::GemmInstance| GemmCase {
        shape: (instance.block_m as usize * instance.cluster as usize + 3, 136, 1664),
        output: instance.output,
        instance: Some(*instance),
    };
    let formats = [KvFormat::Bf16, KvFormat::Fp8];
    let quantizer = |quantizer| QuantizeCase { quantizer, rows: 36, k: 512 };
    let mut cases =
        boxed([quantizer(Quantizer::Rows), quantizer(Quantizer::Blocks), quantizer(Quantizer::Transpose)]);
    cases.extend(boxed(GEMM_INSTANCES.iter().map(instance)));
    cases.extend(boxed([4, 40, 100, 150].map(|rows| GroupedCase { experts: 5, rows, layer: (136, 640) })));
    cases.extend(boxed(
        formats.iter().flat_map(|&format| [1, 2].map(|cluster| small_attention(format, cluster))),
    ));
    cases.extend(boxed([small_moe(5)]));
    cases.extend(boxed(formats.map(|format| AppendCase { format, tokens: 9 })));
    cases.extend(boxed([RopeCase { tokens: 5, heads: 3 }]));
    cases.extend(boxed([Side::Query, Side::Output].map(|side| AbsorbCase { side, tokens: 70, heads: 2 })));
    cases.extend(boxed([MergeCase { tokens: 7, heads: 3 }]));
    cases
}

/// The numbers that matter most: about 35.
pub fn first() -> Cases {
    let mut cases = boxed([
        gemm(4096, 7168, 2048),
        gemm(4096, 2112, 7168),
        gemm(4096, 4096, 7168),
        gemm(4096, 7168, 16384),
        gemm(64, 2112, 7168),
        gemm(64, 7168, 2048),
        gemm(128, 24576, 1536),
        gemm(128, 4096, 7168),
        gemm(1, 2112, 7168),
        gemm(1, 7168, 16384),
    ]);
    cases.extend(grouped([(8, 4096), (32, 192)]));
    for format in [KvFormat::Bf16, KvFormat::Fp8] {
        let decode = |batch, length| AttentionCase::decode(format, batch, length);
        cases.extend(boxed([
            decode(128, 4096),
            decode(64, 8192),
            decode(1, 4096),
            decode(1, 65536),
            decode(32, 1024),
            AttentionCase { heads: 16, ..decode(128, 4096) },
            AttentionCase { heads: 64, ..decode(64, 4096) },
            AttentionCase { q_tokens: 2, ..decode(64, 4096) },
        ]));
    }
    cases.extend(boxed(
        [Quantizer::Rows, Quantizer::Blocks, Quantizer::Transpose].map(|quantizer| QuantizeCase {
            quantizer,
            rows: 4096,
            k: 7168,
        }),
    ));
    cases.extend(boxed([64, 512, 4096].map(MoeCase::deepseek_v3)));
    cases
}

/// What a plan chooses, against what it might choose: tiles, CTAs alone and in pairs, splits.
pub fn rivals() -> Cases {
    let pairs = GEMM_INSTANCES.iter().filter(|i| i.block_m >= 128 && i.output == OutputType::Bf16);
    let mut cases =
        boxed(pairs.map(|&instance| GemmCase { instance: Some(instance), ..gemm(4096, 7168, 2048) }));
    // One row takes longer than 64: from how many on?
    cases.extend(boxed([2, 4, 8, 16, 32].map(|m| gemm(m, 2112, 7168))));
    for format in [KvFormat::Bf16, KvFormat::Fp8] {
        cases.extend(boxed([1, 2].map(|cluster| AttentionCase {
            cluster: Some(cluster),
            ..AttentionCase::decode(format, 128, 4096)
        })));
        let splits = [(1, 4096, 64), (1, 4096, 128), (1, 4096, 256), (1, 4096, 512)];
        let longer = [(1, 65536, 512), (1, 65536, 1024), (32, 1024, 256), (32, 1024, 512), (128, 4096, 4096)];
        cases.extend(boxed(splits.into_iter().chain(longer).map(|(batch, length, split_keys)| {
            AttentionCase { split_keys: Some(split_keys), ..AttentionCase::decode(format, batch, length) }
        })));
    }
    cases
}

/// What edits of the kernels are compared on.
pub fn variants() -> Cases {
    let large = GEMM_INSTANCES.iter().filter(|i| i.block_m >= 128 && i.output == OutputType::Bf16);
    let mut cases = boxed(large.flat_map(|&instance| {
        [gemm(4096, 7168, 2048), gemm(4096, 2112, 7168)]
            .map(|case| GemmCase { instance: Some(instance), ..case })
    }));
    cases.extend(boxed([gemm(64, 2112, 7168), gemm(1, 2112, 7168), gemm(128, 4096, 7168)]));
    cases.extend(grouped([(8, 4096)]));
    for format in [KvFormat::Bf16, KvFormat::Fp8] {
        cases.extend(boxed([1, 2].map(|cluster| AttentionCase {
            cluster: Some(cluster),
            ..AttentionCase::decode(format, 128, 4096)
        })));
    }
    cases
}

/// The rest, in order of importance, until time is up.
pub fn rest() -> Cases {
    let layers =
        [(576, 7168), (32768, 512), (24576, 1536), (7168, 16384), (4096, 7168), (7168, 2048), (2112, 7168)];
    let mut cases = grouped([(4, 8192), (32, 20), (6, 1024), (6, 20)]);
    for m in [4096, 128, 64, 1, 16, 256, 1024] {
        cases.extend(boxed(layers.map(|(n, k)| gemm(m, n, k))));
    }
    for tokens in [128, 4096] {
        cases.extend(boxed([Side::Query, Side::Output].map(|side| AbsorbCase { side, tokens, heads: 128 })));
        cases.extend(boxed([RopeCase { tokens, heads: 128 }]));
        cases.extend(boxed([KvFormat::Bf16, KvFormat::Fp8].map(|format| AppendCase { format, tokens })));
        cases.extend(boxed([MergeCase { tokens, heads: 128 }]));
    }
    for format in [KvFormat::Bf16, KvFormat::Fp8] {
        for length in [1024, 2048, 8192, 16384] {
            let heads = [16, 32, 64, 128];
            cases.extend(boxed(
                heads.map(|heads| AttentionCase { heads, ..AttentionCase::decode(format, 128, length) }),
            ));
        }
    }
    cases
}

/// A few of each list's kinds, for a rehearsal on the emulator.
pub fn reduced() -> Cases {
    let mut cases = boxed([gemm(3, 136, 256)]);
    cases.extend(boxed([QuantizeCase { quantizer: Quantizer::Rows, rows: 8, k: 256 }]));
    cases.extend(boxed([small_attention(KvFormat::Bf16, 1)]));
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_list_names_a_case_twice() {
        for (list, least) in
            [(smoke(), 30), (first(), 30), (rivals(), 8), (variants(), 8), (rest(), 60), (reduced(), 3)]
        {
            let names: HashSet<String> = list.iter().map(|case| case.name()).collect();
            assert_eq!(names.len(), list.len());
            assert!(list.len() >= least, "{}", list.len());
            assert!(names.iter().all(|name| !name.contains([' ', ','])), "{names:?}");
        }
    }

    /// `docs/numerics.md` leaves the bits of attention alone to the machine.
    #[test]
    fn bits_of_attention_alone_are_the_machines_own() {
        for case in smoke() {
            assert_eq!(case.portable_bits(), !case.operation().starts_with("mla_decode"), "{}", case.name());
        }
    }
}
