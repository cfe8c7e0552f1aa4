//! Which cases the timings take, in order of importance.

use check::case::{Cases, boxed};
use check::deepseek_v3::{EXPERT, HEADS, HIDDEN, INTERMEDIATE, LAYERS};
use check::families::{self, Extent};
use check::gemm::{timed_gemm, timed_grouped};
use check::mla::decode::{MlaDecodeCase, instances};
use check::mla::{CACHES, timed_around, timed_decode};
use check::moe::{timed_gate_up, timed_layer};
use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::table::gemm::{GEMM_INSTANCES, GemmInstance, OutputType};

/// Experts and rows of one, with the two weights of DeepSeek-V3's.
fn grouped<const N: usize>(experts: [(usize, usize); N]) -> Cases {
    let case = |experts| EXPERT.map(|layer| timed_grouped(experts, layer));
    boxed(experts.into_iter().flat_map(case))
}

fn decode(format: KvFormat, batch: usize, length: usize) -> MlaDecodeCase {
    timed_decode(format, vec![length; batch])
}

/// A cache's attention with every instance.
fn decode_instances(format: KvFormat) -> Cases {
    let case = |instance| MlaDecodeCase { instance: Some(instance), ..decode(format, 128, 4096) };
    boxed(instances(format).map(case))
}

/// The instances with large tiles.
fn large() -> impl Iterator<Item = GemmInstance> {
    let wanted = |i: &&GemmInstance| i.block_m >= 128 && i.output == OutputType::Bf16;
    GEMM_INSTANCES.iter().filter(wanted).copied()
}

/// The numbers that matter most: about 45.
pub fn first() -> Cases {
    let mut cases = boxed(
        [
            (4096, HIDDEN, 2048),
            (4096, 2112, HIDDEN),
            (4096, 4096, HIDDEN),
            (4096, HIDDEN, 16384),
            (64, 2112, HIDDEN),
            (64, HIDDEN, 2048),
            (128, 24576, 1536),
            (128, 4096, HIDDEN),
            (1, 2112, HIDDEN),
            (1, HIDDEN, 16384),
        ]
        .map(timed_gemm),
    );
    cases.extend(grouped([(8, 4096), (32, 192)]));
    let gate_up = |experts| timed_gate_up(experts, (INTERMEDIATE, HIDDEN));
    cases.extend(boxed([(8, 4096), (32, 192), (32, 20)].map(gate_up)));
    for format in CACHES {
        let decode = |batch, length| decode(format, batch, length);
        cases.extend(boxed([
            decode(128, 4096),
            decode(64, 8192),
            decode(1, 4096),
            decode(1, 65536),
            decode(32, 1024),
            MlaDecodeCase { heads: 16, ..decode(128, 4096) },
            MlaDecodeCase { heads: 64, ..decode(64, 4096) },
            MlaDecodeCase { q_tokens: 2, causal: true, ..decode(64, 4096) },
        ]));
    }
    cases.extend(check::quant::timed(Extent::Full));
    cases.extend(boxed(
        [64, 512, 4096].map(|tokens| timed_layer(GateSpec::deepseek_v3(tokens), INTERMEDIATE)),
    ));
    cases
}

/// What a plan chooses, against what it might choose: tiles, CTAs alone and in pairs, splits.
pub fn rivals() -> Cases {
    let gemm = timed_gemm((4096, HIDDEN, 2048));
    let mut cases = boxed(large().map(|instance| gemm.with(instance)));
    // One row takes longer than 64: from how many on?
    cases.extend(boxed([2, 4, 8, 16, 32].map(|m| timed_gemm((m, 2112, HIDDEN)))));
    for format in CACHES {
        cases.extend(decode_instances(format));
        let splits = [(1, 4096, 64), (1, 4096, 128), (1, 4096, 256), (1, 4096, 512)];
        let longer = [(1, 65536, 512), (1, 65536, 1024), (32, 1024, 256), (32, 1024, 512), (128, 4096, 4096)];
        let case = |(batch, length, split)| MlaDecodeCase {
            split_keys: Some(split),
            ..decode(format, batch, length)
        };
        cases.extend(boxed(splits.into_iter().chain(longer).map(case)));
    }
    cases
}

/// What edits of the kernels are compared on.
pub fn variants() -> Cases {
    let layers = [(4096, HIDDEN, 2048), (4096, 2112, HIDDEN)];
    let mut cases = boxed(large().flat_map(|instance| layers.map(|shape| timed_gemm(shape).with(instance))));
    cases.extend(boxed([(64, 2112, HIDDEN), (1, 2112, HIDDEN), (128, 4096, HIDDEN)].map(timed_gemm)));
    cases.extend(grouped([(8, 4096)]));
    cases.extend(CACHES.into_iter().flat_map(decode_instances));
    cases
}

/// The rest, in order of importance, until time is up.
pub fn rest() -> Cases {
    let mut cases = grouped([(4, 8192), (32, 20), (6, 1024), (6, 20)]);
    for m in [4096, 128, 64, 1, 16, 256, 1024] {
        cases.extend(boxed(LAYERS.map(|(n, k)| timed_gemm((m, n, k)))));
    }
    for tokens in [128, 4096] {
        cases.extend(timed_around(tokens, HEADS));
    }
    for format in CACHES {
        for length in [1024, 2048, 8192, 16384] {
            let case = |heads| MlaDecodeCase { heads, ..decode(format, 128, length) };
            cases.extend(boxed([16, 32, 64, 128].map(case)));
        }
    }
    cases
}

/// Small ones of every family, for a rehearsal on the emulator.
pub fn reduced() -> Cases {
    families::all(|family| (family.timed)(Extent::Reduced).into_iter().take(1).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_list_names_a_case_twice() {
        for (list, least) in [(first(), 30), (rivals(), 8), (variants(), 8), (rest(), 60), (reduced(), 5)] {
            let names: HashSet<String> = list.iter().map(|case| case.name()).collect();
            assert_eq!(names.len(), list.len());
            assert!(list.len() >= least, "{}", list.len());
            assert!(names.iter().all(|name| !name.contains([' ', ','])), "{names:?}");
        }
    }

    /// `docs/numerics.md` leaves the bits of attention alone to the machine.
    #[test]
    fn bits_of_attention_alone_are_the_machines_own() {
        for case in families::all(|family| (family.smoke)()) {
            let attends = ["mla_decode", "mla_prefill"].iter().any(|name| case.operation().starts_with(name));
            assert_eq!(case.portable_bits(), !attends, "{}", case.name());
        }
    }
}
