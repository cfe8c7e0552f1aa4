//! The append to the KV cache: byte for byte what the reference gives.

use check::devices::{FEW_MULTIPROCESSORS, devices, emulators, seeded};
use check::mla::kv_append::{Append, FORMATS, LATENT, ROPE, Tokens, slots, strangers};
use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::{Error, bf16};
use oracles::mla::{dequantize_kv_fp8, kv_append_fp8};
use oracles::quant::QuantizeScale;
use oracles::quant::quantizer_rows;
use proptest::prelude::*;

#[test]
fn values_of_every_kind() {
    for device in devices() {
        for format in FORMATS {
            for one_matrix in [false, true] {
                let tokens = Tokens::new(slots(37, 50, 1), 2);
                Append { tokens: &tokens, rows: 50, format, one_matrix }.check(&device);
            }
        }
    }
}

#[test]
fn quotients_between_two_codes() {
    // Otherwise the test could not tell a quotient from a product with the reciprocal.
    let tokens = Tokens::ties(10);
    let reciprocal = |block: &[bf16]| {
        let scale = block[0].to_f32() / 448.0;
        block.iter().filter(|x| x.to_f32() / scale != x.to_f32() * (1.0 / scale)).count()
    };
    assert!(tokens.latent.chunks(128).map(reciprocal).sum::<usize>() > 100);
    for device in devices() {
        for format in FORMATS {
            Append { tokens: &tokens, rows: 10, format, one_matrix: false }.check(&device);
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
        let mut latent = vec![bf16::ZERO; rows * LATENT];
        latent.chunks_mut(128).zip(&amax).for_each(|(block, &amax)| block[77] = amax);
        let k_pe = vec![bf16::ZERO; rows * ROPE];
        let tokens = Tokens { latent, k_pe, slots: (0..rows as i32).collect() };
        for format in [ScaleFormat::PowerOfTwo, ScaleFormat::Fp32] {
            Append { tokens: &tokens, rows, format: (KvFormat::Fp8, format), one_matrix: false }
                .check(&device);
        }
    }
}

#[test]
fn slots_that_are_no_rows_are_reported_and_skipped() {
    for device in devices() {
        for format in FORMATS {
            for stranger in strangers(9) {
                let mut tokens = Tokens::new(vec![4, 8, 0, -1, 7, 2], 3);
                tokens.slots[4] = stranger;
                Append { tokens: &tokens, rows: 9, format, one_matrix: false }.check(&device);
            }
        }
    }
}

/// Tokens without a slot hold nothing but NaN: neither stored nor reported, because not read.
#[test]
fn padding_is_not_read() {
    for device in devices() {
        for format in FORMATS {
            let mut tokens = Tokens::new(slots(12, 12, 4), 5);
            tokens.latent =
                tokens.latent.iter().map(|x| if x.is_finite() { *x } else { bf16::ONE }).collect();
            for (token, latent) in tokens.latent.chunks_mut(LATENT).enumerate() {
                if tokens.slots[token] == -1 {
                    latent.fill(bf16::NAN);
                }
            }
            Append { tokens: &tokens, rows: 12, format, one_matrix: true }.check(&device);
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for format in FORMATS {
            for (slots, rows) in [(vec![], 3), (vec![-1, -1], 0), (vec![0], 0)] {
                let tokens = Tokens::new(slots, 1);
                Append { tokens: &tokens, rows, format, one_matrix: false }.check(&device);
            }
        }
    }
}

/// Which other tokens there are, and in which order, changes no row.
#[test]
fn a_row_depends_on_its_token_alone() {
    for device in devices() {
        for format in FORMATS {
            let tokens = Tokens::new(slots(23, 23, 6), 7);
            let run = |tokens: &Tokens| Append { tokens, rows: 23, format, one_matrix: false }.run(&device);
            let all = run(&tokens);
            let order: Vec<usize> = (0..23).map(|t| (t * 7 + 5) % 23).collect();
            assert_eq!(all, run(&tokens.pick(&order)));

            let bytes = format.0.row_bytes();
            for token in (0..23).filter(|&t| tokens.slots[t] >= 0) {
                let row = tokens.slots[token] as usize * bytes..;
                let alone = run(&tokens.pick(&[token]));
                assert_eq!(alone[row.clone()][..bytes], all[row][..bytes], "token {token}");
            }
        }
    }
}

/// Named twice, a row holds bytes of both tokens: the emulator says so instead of choosing.
#[test]
fn a_slot_named_twice_is_a_race() {
    for format in FORMATS {
        let tokens = Tokens::new(vec![3, 1, 3], 8);
        let append = Append { tokens: &tokens, rows: 5, format, one_matrix: false };
        for device in emulators([FEW_MULTIPROCESSORS]) {
            let Err(Error::Emulated { report, .. }) = append.try_run(&device) else {
                panic!("went unnoticed")
            };
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
        kv_append_fp8(latent, &k_pe, &slots, format, &mut cache).expect("reference");
        for (x, row) in latent.chunks(LATENT).zip(cache.chunks(656)) {
            let back = dequantize_kv_fp8(row).expect("reference");
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
        count in 0..40_usize, spare in 0..20_usize, seed in 0..1_000_u64, strange in any::<bool>(),
        format in 0..3_usize, one_matrix in any::<bool>(),
    ) {
        let rows = count + spare;
        let mut tokens = Tokens::new(slots(count, rows, seed), seed);
        if strange && count > 0 {
            let at = seed as usize % count;
            tokens.slots[at] = strangers(rows)[seed as usize % 6];
        }
        for device in seeded([seed]) {
            Append { tokens: &tokens, rows, format: FORMATS[format], one_matrix }.check(&device);
        }
    }
}
