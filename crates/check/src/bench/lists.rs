//! Lists of cases by name: those that others publish figures of, and our own.

use deepseek_kernels::mla::KvFormat;

use super::steps::STEPS;
use crate::case::{Cases, boxed};
use crate::deepseek_v3::{HIDDEN, LAYERS};
use crate::families::{self, Extent};
use crate::gemm::grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase};
use crate::gemm::{timed_gemm, timed_grouped};
use crate::mla::shapes::{Source, shapes};
use crate::mla::timed_steps;
use oracles::gemm::GemmClass;

/// Names, and what the lists hold.
pub const LISTS: [(&str, &str); 9] = [
    ("small", "every operation at sizes of seconds for the emulator"),
    ("v3-decode", "a decode step of DeepSeek-V3"),
    ("v3-prefill", "a prefill of DeepSeek-V3"),
    ("deepgemm", "DeepGEMM's dense, contiguous and masked shapes"),
    ("tileops", "TileOPs' nightly list of FP8 products"),
    ("atlas", "Atlas' products of 16 rows"),
    ("flashmla", "FlashMLA's decode shapes, both caches of 1152 and 656 bytes a key"),
    ("mla", "every public decode shape: FlashMLA's, FlashAttention-3's, FlashInfer's, ThunderMLA's, vLLM's"),
    ("all", "every operation at the sizes of models"),
];

/// The cases of a list.
///
/// # Errors
/// In one line, that there is none of that name, and which there are.
pub fn cases(name: &str) -> Result<Cases, String> {
    if let Some(step) = STEPS.iter().find(|step| step.name == name) {
        return Ok(step.cases());
    }
    Ok(match name {
        "small" => families::all(|family| (family.timed)(Extent::Reduced)),
        "all" => families::all(|family| (family.timed)(Extent::Full)),
        "deepgemm" => deepgemm(),
        "tileops" => boxed(TILEOPS.map(timed_gemm)),
        "atlas" => boxed(ATLAS.map(timed_gemm)),
        "flashmla" => decode(|source| {
            matches!(source, Source::FlashMla | Source::FlashMlaFirst | Source::FlashMlaBench)
        }),
        "mla" => decode(|_| true),
        _ => {
            let names = LISTS.map(|(name, _)| name).join(", ");
            return Err(format!("no list is called {name}; there are {names}"));
        }
    })
}

/// `nightly-bench` of 2026-08-22.
const TILEOPS: [(usize, usize, usize); 9] = [
    (1, HIDDEN, 2048),
    (128, HIDDEN, 2048),
    (1, 2112, HIDDEN),
    (128, 2112, HIDDEN),
    (4096, 2112, HIDDEN),
    (4096, HIDDEN, 2048),
    (4096, 4096, HIDDEN),
    (4096, HIDDEN, 16_384),
    (4096, 24_576, 1536),
];

/// Avarok-Cybersecurity/atlas, issue 994.
const ATLAS: [(usize, usize, usize); 4] =
    [(16, 16_384, 5120), (16, 12_288, 5120), (16, 5120, 6144), (16, 1024, 5120)];

/// `tests/generators.py`: dense with 64, 128 and 4096 rows; experts with rows in a list, and masked ones.
fn deepgemm() -> Cases {
    let dense = [1, 64, 128, 4096].into_iter().flat_map(|m| LAYERS.map(|(n, k)| timed_gemm((m, n, k))));
    let layers = [(6144, HIDDEN), (HIDDEN, 3072), (4096, 4096), (4096, 2048)];
    let contiguous = [(4, 8192), (8, 4096)];
    let contiguous =
        contiguous.into_iter().flat_map(|experts| layers.map(|layer| timed_grouped(experts, layer)));
    let masked = [(6, 1024), (6, 20), (32, 192), (32, 20)];
    let masked = masked.into_iter().flat_map(|experts| layers.map(|layer| timed_masked(experts, layer)));
    let mut cases = boxed(dense);
    cases.extend(boxed(contiguous));
    cases.extend(boxed(masked));
    cases
}

/// As `timed_grouped`, with room for 4096 rows of each expert.
fn timed_masked((experts, rows): (usize, usize), layer: (usize, usize)) -> GroupedFp8GemmCase {
    const MAX_ROWS: usize = 4096;
    let counts: Vec<usize> = (0..experts).map(|e| rows * (70 + 37 * e % 61) / 100).collect();
    GroupedFp8GemmCase {
        class: GemmClass::Normal,
        repeated: true,
        expected_rows: Some(rows),
        ..GroupedFp8GemmCase::new(Assignment::masked(&counts, MAX_ROWS), layer)
    }
}

/// Public shapes of a source, with the caches that others have too.
fn decode(wanted: fn(Source) -> bool) -> Cases {
    let shapes: Vec<_> = shapes().into_iter().filter(|shape| wanted(shape.source)).collect();
    let steps = timed_steps(&shapes).into_iter();
    boxed(steps.filter(|case| matches!(case.format, KvFormat::Bf16 | KvFormat::Fp8)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_list_has_cases_and_none_twice() {
        for (name, _) in LISTS {
            let cases = cases(name).unwrap();
            let names: HashSet<String> = cases.iter().map(|case| case.name()).collect();
            assert!(!cases.is_empty());
            assert_eq!(names.len(), cases.len(), "{name}");
        }
        let error = cases("deepgem").err().unwrap();
        assert!(error.starts_with("no list is called deepgem; there are small, v3-decode, "), "{error}");
    }
}
