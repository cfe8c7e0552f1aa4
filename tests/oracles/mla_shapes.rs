//! The benchmark's formulas against figures that were worked out apart from them.

use std::collections::HashSet;

use check::mla::shapes::{BF16_ROW, FP8_ROW, Lengths, MlaShape, Source, shapes};

/// GFLOP, and MB with a cache in BF16 and one in FP8, of a batch of 128 sequences.
#[test]
fn flops_and_bytes() {
    for (heads, q_tokens, keys, gflop, bf16, fp8) in [
        (16, 1, 4096, 18, 608, 348),
        (16, 2, 16384, 146, 2425, 1385),
        (64, 2, 4096, 146, 640, 380),
        (128, 1, 8192, 292, 1244, 724),
        (128, 2, 32768, 2336, 4903, 2823),
    ] {
        let lengths = Lengths::Fixed(keys);
        let shape = MlaShape { source: Source::FlashMla, batch: 128, q_tokens, heads, lengths, causal: true };
        let lengths = shape.lengths();
        let rounded = |x: u64, unit: f64| (x as f64 / unit).round() as u64;
        assert_eq!(rounded(shape.flops(&lengths), 1e9), gflop, "{}", shape.name());
        assert_eq!(rounded(shape.bytes(&lengths, BF16_ROW), 1e6), bf16, "{}", shape.name());
        assert_eq!(rounded(shape.bytes(&lengths, FP8_ROW), 1e6), fp8, "{}", shape.name());
    }
}

#[test]
fn every_shape_is_one_of_a_list() {
    let shapes = shapes();
    let count = |source| shapes.iter().filter(|shape| shape.source == source).count();
    let counts = [
        (Source::FlashMla, 16),
        (Source::FlashMlaFirst, 48),
        (Source::FlashMlaBench, 6),
        (Source::FlashAttention3, 16),
        (Source::FlashInfer, 18),
        (Source::ThunderMla, 6),
        (Source::Vllm, 320),
    ];
    for (source, expected) in counts {
        assert_eq!(count(source), expected, "{source:?}");
    }
    let names: HashSet<String> =
        shapes.iter().map(|shape| format!("{:?} {}", shape.source, shape.name())).collect();
    assert_eq!(names.len(), shapes.len(), "a name is used twice");
}

#[test]
fn lengths() {
    for shape in shapes() {
        let lengths = shape.lengths();
        assert_eq!(lengths.len(), shape.batch);
        assert_eq!(lengths, shape.lengths(), "other lengths the second time");
        let mean = lengths.iter().sum::<usize>() as f64 / shape.batch as f64;
        match shape.lengths {
            Lengths::Normal(expected) => {
                assert!(lengths.iter().all(|length| *length >= shape.q_tokens));
                // 128 draws: three standard errors are 0.13 of the mean, and negative draws raise it a little.
                assert!((mean / expected as f64 - 1.0).abs() < 0.15, "{}: {mean}", shape.name());
                assert!(lengths.iter().any(|length| *length < expected / 2));
            }
            Lengths::Rising(first) => assert_eq!(lengths[127], first + 254),
            Lengths::Uniform(low, high) => {
                assert!(
                    lengths.iter().all(|length| (low..=high).contains(length)) && lengths[0] != lengths[1]
                );
            }
            Lengths::Fixed(length) => assert_eq!(mean, length as f64),
            Lengths::List(list) => assert_eq!(lengths, list),
        }
    }
}
