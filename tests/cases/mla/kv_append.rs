//! The append to the KV cache: byte for byte what the reference gives.

use std::sync::Arc;

use check::case::{attempt, memory_of, pass, pass_in};
use check::devices::{FEW_MULTIPROCESSORS, devices, emulators, seeded};
use check::memory::Memory;
use check::mla::kv_append::{FORMATS, KvAppendCase, KvAppendProblem, TokenClass, strangers};
use check::mla::{LATENT, ROPE};
use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::{Device, bf16};
use oracles::mla::{NewTokens, dequantize_kv_fp8, kv_append_fp8};
use oracles::quant::QuantizeScale;
use oracles::quant::quantizer_rows;
use proptest::prelude::*;

fn case(format: (KvFormat, ScaleFormat), tokens: usize, rows: usize) -> KvAppendCase {
    KvAppendCase {
        rows,
        class: TokenClass::EveryKind,
        one_matrix: false,
        ..KvAppendCase::new(format, tokens)
    }
}

/// The bytes of the cache, after every check.
fn run(problem: KvAppendProblem, device: &Device) -> Vec<u8> {
    let ran = attempt(Arc::new(problem.clone()), device, memory_of("kv_append"));
    ran.unwrap_or_else(|error| panic!("{error:#}\n{problem:?}")).outputs.swap_remove(0).bytes
}

#[test]
fn values_of_every_kind() {
    for device in devices() {
        for format in FORMATS {
            for one_matrix in [false, true] {
                pass(&KvAppendCase { one_matrix, ..case(format, 37, 50) }, &device);
                let activations = TokenClass::Activations;
                pass(&KvAppendCase { one_matrix, class: activations, ..case(format, 37, 50) }, &device);
            }
        }
    }
}

/// Latent vectors alone: a copy, or codes and their scales.
#[test]
fn keys_without_a_position() {
    for device in devices() {
        for format in FORMATS {
            for page_size in [None, Some(10)] {
                pass(&KvAppendCase { rope: 0, page_size, ..case(format, 37, 50) }, &device);
            }
            let ties = KvAppendCase { class: TokenClass::Ties, rope: 0, ..case(format, 10, 10) };
            pass(&ties, &device);
        }
    }
}

#[test]
fn quotients_between_two_codes() {
    let ties = |format| KvAppendCase { class: TokenClass::Ties, ..case(format, 10, 10) };
    // Otherwise the test could not tell a quotient from a product with the reciprocal.
    let reciprocal = |block: &[bf16]| {
        let scale = block[0].to_f32() / 448.0;
        block.iter().filter(|x| x.to_f32() / scale != x.to_f32() * (1.0 / scale)).count()
    };
    let tokens = ties(FORMATS[2]).problem().expect("inputs");
    assert!(tokens.latent.chunks(128).map(reciprocal).sum::<usize>() > 100);
    for device in devices() {
        for format in FORMATS {
            pass(&ties(format), &device);
        }
    }
}

#[test]
fn every_scale_of_a_block_that_is_a_single_value() {
    for device in devices() {
        // Every exponent of BF16, and one step around powers of two of the scale.
        let amax =
            (0..255_u16).flat_map(|exponent| [0, 1, 0x5f, 0x60, 0x61, 0x7f].map(|f| exponent << 7 | f));
        let amax: Vec<bf16> = amax.map(bf16::from_bits).collect();
        let rows = amax.len().div_ceil(4);
        for format in [ScaleFormat::PowerOfTwo, ScaleFormat::Fp32] {
            let mut problem = case((KvFormat::Fp8, format), rows, rows).problem().expect("inputs");
            problem.latent.fill(bf16::ZERO);
            problem.latent.chunks_mut(128).zip(&amax).for_each(|(block, &amax)| block[77] = amax);
            problem.slots = (0..rows as i32).collect();
            run(problem, &device);
        }
    }
}

#[test]
fn slots_that_are_no_rows_are_reported_and_skipped() {
    for device in devices() {
        for format in FORMATS {
            for stranger in strangers(9) {
                let mut problem = case(format, 6, 9).problem().expect("inputs");
                problem.slots = vec![4, 8, 0, -1, stranger, 2];
                run(problem, &device);
            }
        }
    }
}

/// Tokens without a slot hold nothing but NaN: neither stored nor reported, because not read.
#[test]
fn padding_is_not_read() {
    for device in devices() {
        for format in FORMATS {
            let mut problem =
                KvAppendCase { one_matrix: true, ..case(format, 12, 12) }.problem().expect("inputs");
            for (token, latent) in problem.latent.chunks_mut(LATENT).enumerate() {
                latent.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = bf16::ONE);
                if problem.slots[token] == -1 {
                    latent.fill(bf16::NAN);
                }
            }
            assert!(problem.slots.contains(&-1));
            run(problem, &device);
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for format in FORMATS {
            for (slots, rows) in [(vec![], 3), (vec![-1, -1], 0), (vec![0], 0)] {
                let problem = case(format, slots.len(), rows).problem().expect("inputs");
                run(KvAppendProblem { slots, ..problem }, &device);
            }
        }
    }
}

/// Which other tokens there are, and in which order, changes no row.
#[test]
fn a_row_depends_on_its_token_alone() {
    for device in devices() {
        for format in FORMATS {
            let tokens = KvAppendCase { seed: 6, ..case(format, 23, 23) }.problem().expect("inputs");
            let all = run(tokens.clone(), &device);
            let order: Vec<usize> = (0..23).map(|t| (t * 7 + 5) % 23).collect();
            assert_eq!(all, run(tokens.pick(&order), &device));

            let bytes = format.0.row_bytes(ROPE);
            for token in (0..23).filter(|&t| tokens.slots[t] >= 0) {
                let row = tokens.slots[token] as usize * bytes..;
                let alone = run(tokens.pick(&[token]), &device);
                assert_eq!(alone[row.clone()][..bytes], all[row][..bytes], "token {token}");
            }
        }
    }
}

/// Pages with something between them: other rows are not touched, and the bytes are those of one matrix of keys.
#[test]
fn pages_that_lie_apart() {
    for device in devices() {
        for format in FORMATS {
            let whole = run(case(format, 23, 48).problem().expect("inputs"), &device);
            for page_size in [2, 16, 48] {
                let case = KvAppendCase { page_size: Some(page_size), ..case(format, 23, 48) };
                assert_eq!(run(case.problem().expect("inputs"), &device), whole, "pages of {page_size}");
            }
        }
    }
}

/// Named twice, a row holds bytes of both tokens: the emulator says so instead of choosing.
#[test]
fn a_slot_named_twice_is_a_race() {
    for format in FORMATS {
        let problem = case(format, 3, 5).problem().expect("inputs");
        let problem = Arc::new(KvAppendProblem { slots: vec![3, 1, 3], ..problem });
        for device in emulators([FEW_MULTIPROCESSORS]) {
            let ran = attempt(problem.clone(), &device, memory_of("race"));
            let report = ran.err().expect("went unnoticed").to_string();
            assert!(report.contains("not ordered after the write"), "{report}");
        }
    }
}

/// The reference against the definition: a power of two not below the quotient and not twice it, codes that saturate
/// nowhere, and a value that comes back within half a step.
#[test]
fn what_comes_back_is_near_what_went_in() {
    // A value that rounds up beyond the largest BF16 comes back as Inf.
    let comes_back = |x: &bf16| x.to_f32().abs() < 3e38;
    let latent: Vec<bf16> = quantizer_rows(60, LATENT, 9).into_iter().filter(comes_back).collect();
    let tokens = latent.len() / LATENT;
    let latent = &latent[..tokens * LATENT];
    let k_pe = vec![bf16::from_f32(0.3); tokens * ROPE];
    let slots: Vec<i32> = (0..tokens as i32).collect();
    for format in [QuantizeScale::PowerOfTwo, QuantizeScale::Fp32] {
        let mut cache = vec![0; tokens * 656];
        let tokens = NewTokens { latent, k_pe: &k_pe, rope: ROPE, slots: &slots };
        kv_append_fp8(&tokens, format, &mut cache).expect("reference");
        for (x, row) in latent.chunks(LATENT).zip(cache.chunks(656)) {
            let back = dequantize_kv_fp8(row, ROPE).expect("reference");
            assert_eq!(back[LATENT..], k_pe[..ROPE]);
            for (g, block) in x.chunks(128).enumerate() {
                let bytes = row[LATENT + 4 * g..][..4].try_into().expect("four");
                let scale = f64::from(f32::from_ne_bytes(bytes));
                let amax = block.iter().map(|x| x.to_f64().abs()).fold(0.0, f64::max);
                let least = (amax / 448.0).max(1e-4);
                assert!(scale >= least * (1.0 - 1e-7) && scale < 2.0 * least, "{scale} for amax {amax}");
                for (x, back) in block.iter().zip(&back[128 * g..]) {
                    // Half a step of E4M3, a rounding of the scale, one to FP32 and one to BF16.
                    let bound = x.to_f64().abs() * (0.0625 + 0.0042) + scale / 1024.0;
                    assert!((x.to_f64() - back.to_f64()).abs() <= bound, "{x} came back as {back}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape(
        tokens in 0..40_usize, spare in 0..20_usize, seed in 0..1_000_u64, strange in any::<bool>(),
        format in 0..4_usize, one_matrix in any::<bool>(), position in any::<bool>(),
    ) {
        let rope = if position { ROPE } else { 0 };
        let case = KvAppendCase { one_matrix, rope, seed, ..case(FORMATS[format], tokens, tokens + spare) };
        for device in seeded([seed]) {
            if strange && tokens > 0 {
                let mut problem = case.problem().expect("inputs");
                problem.slots[seed as usize % tokens] = strangers(case.rows)[seed as usize % 6];
                run(problem, &device);
            } else {
                pass_in(&case, &device, Memory::Poisoned(seed));
            }
        }
    }
}
