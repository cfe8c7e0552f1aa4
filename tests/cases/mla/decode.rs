//! MLA decode against its f64 reference: values within the a-priori bound, and exact where they can be. Everything that is
//! not a key of a sequence is NaN in every test.

mod bits;
mod packed;

use std::sync::Arc;

use check::case::{Case, pass, pass_in};
use check::deepseek_v3::SOFTMAX_SCALE;
use check::devices::{devices, machines, runs_emulated};
use check::judge::Scrutiny;
use check::memory::{Arena, Memory};
use check::mla::decode::{MlaDecodeCase, MlaDecodeRun, instances, varied_lengths};
use check::mla::{CacheRows, KEY, LATENT, ROPE};
use deepseek_kernels::mla::{EmptyLse, KvFormat, KvPaging};
use deepseek_kernels::{Device, DeviceKind, F8E4M3, bf16};
use oracles::mla::AttentionClass;
use proptest::prelude::*;

use super::{FORMATS, assert_lost_rows_alone, passed, step};

#[test]
fn every_class_of_inputs_with_every_instance() {
    for device in machines() {
        for class in AttentionClass::ALL {
            for format in FORMATS {
                for instance in instances(format) {
                    // 256 and 64 keys: powers of two, for the mean.
                    let case = step(format, &[256, 0, 64, 301]);
                    pass(&MlaDecodeCase { class, instance: Some(instance), ..case }, &device);
                }
            }
        }
    }
}

/// Around blocks, pages and splits, an empty sequence first, last and between.
#[test]
fn lengths_at_every_border() {
    let lengths = [0, 1, 63, 64, 65, 0, 127, 128, 129, 191, 192, 193, 255, 256, 257, 384, 0];
    for device in machines() {
        for format in FORMATS {
            for (page_size, split_keys) in [(64, 64), (64, 128), (128, 64), (192, 128), (192, 192), (1, 64), (40, 128)]
            {
                let (page_size, split_keys) = (Some(page_size), Some(split_keys));
                pass(&MlaDecodeCase { page_size, split_keys, heads: 2, ..step(format, &lengths) }, &device);
            }
        }
    }
}

/// Pages that end anywhere, so that every box there is is loaded, by one CTA and by two.
#[test]
fn pages_of_any_size() {
    for device in devices() {
        for format in FORMATS {
            for instance in instances(format) {
                for page_size in [1, 2, 3, 4, 8, 12, 16, 32, 48, 80, 96, 200] {
                    let case = step(format, &[130, 1, 0, 77]);
                    let case = MlaDecodeCase { heads: 3, instance: Some(instance), ..case };
                    pass(&MlaDecodeCase { page_size: Some(page_size), ..case }, &device);
                }
            }
        }
    }
}

#[test]
fn any_number_of_heads_and_query_tokens() {
    for device in devices() {
        for (heads, q_tokens) in [
            (1, 1),
            (1, 8),
            (3, 2),
            (9, 4),
            (16, 4),
            (16, 5),
            (21, 3),
            (32, 2),
            (63, 1),
            (64, 3),
            (65, 1),
            (126, 2),
            (128, 1),
        ] {
            for causal in [false, true] {
                let case = step(KvFormat::Bf16, &[130, 2, q_tokens]);
                pass(&MlaDecodeCase { heads, q_tokens, causal, ..case }, &device);
            }
        }
    }
}

/// More query tokens than speculation has, causal: a chunk of a prompt.
#[test]
fn a_chunk_of_query_tokens() {
    for device in devices() {
        for (q_tokens, heads) in [(9, 16), (33, 5), (64, 3)] {
            let case = step(KvFormat::Bf16, &[130, 20, 0]);
            pass(&MlaDecodeCase { heads, q_tokens, causal: true, ..case }, &device);
        }
    }
}

/// Query tokens that see no key at all, because the sequence is shorter than the step.
#[test]
fn causal_rows_without_keys() {
    for device in devices() {
        for format in FORMATS {
            let case = MlaDecodeCase { q_tokens: 4, heads: 3, causal: true, ..step(format, &[1, 3, 0, 64]) };
            let [out, lse] = pass(&case, &device).try_into().expect("out and lse");
            let rows = 3 * 3;
            assert!(
                out.bytes[..rows * LATENT * 2].iter().all(|&byte| byte == 0),
                "three of four see nothing"
            );
            assert!(lse.widened()[..rows].iter().all(|&x| x == f32::NEG_INFINITY));
        }
    }
}

/// One key outweighs all others, another one for each row: its value comes out to the bit, wherever it lies.
#[test]
fn every_key_can_be_the_dominant_one() {
    for device in devices() {
        for format in FORMATS {
            for causal in [false, true] {
                // 256 rows choose among 200 keys.
                let case = MlaDecodeCase { q_tokens: 2, heads: 128, causal, ..step(format, &[200]) };
                pass(&MlaDecodeCase { class: AttentionClass::OneKey, ..case }, &device);
            }
        }
    }
}

/// The cases of FlashMLA's own test (`tests/test_flash_mla_dense_decoding.py`) with one key head, and its thresholds.
///
/// A GPU takes all of up to 5000 keys, and one of eleven of the larger ones, whose operands take longer to make than
/// the rest of the tests; of each, the first and the last sequence are judged. On the emulator without the batch of 64, with
/// 4096 keys for a single sequence, and of the others every fifth: so all head counts and masks have their turn, of which there
/// are 28 together. Under the fake driver a third of those.
#[test]
fn the_cases_of_flash_mla() {
    for device in machines() {
        let every = if device.kind() == DeviceKind::Emulated { 5 } else { 15 };
        for (index, (keys, case)) in flash_mla_cases().into_iter().enumerate() {
            let (number, batch) = (index + 1, case.lengths.len());
            let MlaDecodeCase { q_tokens, heads, .. } = case;
            if runs_emulated(&device) {
                let small = batch * q_tokens * heads * keys <= 40_000;
                let long = (batch, heads, q_tokens) == (1, 63, 2) && index % 4 >= 2;
                if batch <= 6 && number % every == 0 && (small || long) {
                    pass(&case, &device);
                }
            } else if batch * keys <= 5000 || number % 11 == 0 {
                pass_briefly(&case, &device);
            }
        }
    }
}

/// A few heads by their oracles, and all values for being there.
fn pass_briefly(case: &MlaDecodeCase, device: &Device) {
    let mut run = case
        .draw()
        .and_then(|problem| problem.prepare(&mut Arena::new(device, Memory::Plain)))
        .expect("operands");
    run.launch(device.stream().expect("stream")).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    for check in run.judge(Scrutiny::Brief).expect("judgement") {
        assert_eq!(check.failure, None, "{}: {case:?}", check.oracle);
    }
    let finite = run.outputs().expect("outputs")[0].widened().iter().all(|x| x.is_finite());
    assert!(finite, "{case:?}: something is unwritten");
    device.poll_error().expect("nothing to report");
}

/// With the number of keys that no sequence exceeds.
fn flash_mla_cases() -> Vec<(usize, MlaDecodeCase)> {
    let mut cases = vec![];
    for batch in [1, 2, 6, 64] {
        for q_tokens in [1, 2, 4] {
            for keys in [20, 140, 4096] {
                for heads in [1, 3, 9, 63, 64, 126, 128] {
                    for (varlen, causal) in [(false, false), (false, true), (true, false), (true, true)] {
                        let seed = cases.len() as u64 + 1;
                        let lengths =
                            if varlen { varied_lengths(batch, keys, seed) } else { vec![keys; batch] };
                        let case =
                            MlaDecodeCase { q_tokens, heads, causal, ..step(KvFormat::Bf16, &lengths) };
                        cases.push((keys, MlaDecodeCase { split_keys: Some(1024), seed, ..case }));
                    }
                }
            }
        }
    }
    cases
}

/// FlashMLA's corner case: half of the sequences are empty.
#[test]
fn half_of_the_sequences_are_empty() {
    for device in devices() {
        let batch = if runs_emulated(&device) { 12 } else { 128 };
        for (empty_lse, expected) in
            [(EmptyLse::NegativeInfinity, f32::NEG_INFINITY), (EmptyLse::PositiveInfinity, f32::INFINITY)]
        {
            let lengths: Vec<usize> =
                (0..batch).map(|i| if i % 2 == 0 { 0 } else { 40 * i % 300 + 1 }).collect();
            let case = MlaDecodeCase { q_tokens: 2, heads: 9, empty_lse, ..step(KvFormat::Bf16, &lengths) };
            let lse = pass(&case, &device)[1].widened();
            assert!(lse[..18].iter().all(|&x| x == expected));
        }
    }
}

/// The parts of a row are merged by a warp, whose lanes look at one each, in turns. The key that a row attends to lies in
/// another part for each row.
#[test]
fn a_row_may_have_more_parts_than_a_warp_has_lanes() {
    for device in devices() {
        let case = step(KvFormat::Bf16, &[64 * 40 + 5, 64 * 33, 64 * 32]);
        let case = MlaDecodeCase { heads: 64, split_keys: Some(64), ..case };
        pass(&MlaDecodeCase { class: AttentionClass::OneKey, ..case }, &device);
    }
}

/// A row whose every score is -Inf counts as one without keys, and is reported, whichever of its splits it is in; no other row
/// has other bits. Causal rows see fewer keys, and the first of them none.
#[test]
fn rows_of_nothing_but_negative_infinity() {
    for device in machines() {
        for format in FORMATS {
            for split_keys in [64, 192] {
                let lengths = [100, 3, 150, 0];
                let case = MlaDecodeCase { q_tokens: 4, heads: 5, causal: true, ..step(format, &lengths) };
                let case = MlaDecodeCase { split_keys: Some(split_keys), ..case };
                let mut good = case.problem().expect("inputs");
                good.finite = false;
                // The first column of the position is 1 in every key.
                match &mut good.cache {
                    CacheRows::Bf16(rows) => rows.chunks_exact_mut(KEY).for_each(|row| row[LATENT] = bf16::ONE),
                    CacheRows::Fp8(rows) => rows
                        .chunks_exact_mut(format.columns(ROPE))
                        .for_each(|row| row[LATENT + 16..][..2].copy_from_slice(&bf16::ONE.to_le_bytes())),
                    CacheRows::Fp8PerTensor { rows, .. } => {
                        rows.chunks_exact_mut(KEY).for_each(|row| row[LATENT] = F8E4M3::ONE.to_bits());
                    }
                }
                let mut bad = good.clone();
                let rows = [0, 7, 2 * 20 + 19];
                rows.iter().for_each(|row| bad.q[row * KEY + LATENT] = bf16::NEG_INFINITY);
                let (before, after) = (passed(&good, &device), passed(&bad, &device));
                assert_lost_rows_alone(&before[0], &after[0], &rows, LATENT, 0.0);
                assert_lost_rows_alone(&before[1], &after[1], &rows, 1, f32::NEG_INFINITY);
            }
        }
    }
}

/// Scores of a million of either sign, of query tokens that see fewer keys than there are in a block, or none.
#[test]
fn far_scores_of_masked_rows() {
    for device in devices() {
        for format in FORMATS {
            let case = MlaDecodeCase { q_tokens: 4, heads: 5, causal: true, ..step(format, &[1, 3, 0, 64, 129]) };
            let mut problem = case.problem().expect("inputs");
            problem.q.iter_mut().for_each(|q| *q = bf16::from_f32(q.to_f32() * 2.0_f32.powi(25)));
            passed(&problem, &device);
        }
    }
}

/// Every finite code, and scales of every kind; a NaN among them spoils its own sequence only.
#[test]
fn every_code_and_scale_of_an_fp8_cache() {
    const SCALES: [f32; 6] = [1.0 / 256.0, 0.0, -0.0, -1.0 / 512.0, 1e-40, 3.3e-3];
    for device in devices() {
        let mut clean = step(KvFormat::Fp8, &[200, 130]).problem().expect("inputs");
        clean.case.class = AttentionClass::Positive;
        let CacheRows::Fp8(rows) = &mut clean.cache else { unreachable!() };
        for (index, row) in rows.chunks_mut(KvFormat::Fp8.columns(ROPE)).enumerate() {
            for (i, code) in row[..LATENT].iter_mut().enumerate() {
                *code = (i + 37 * index) as u8;
                *code ^= u8::from(*code & 0x7f == 0x7f); // 0x7f and 0xff are NaN
            }
            for (group, scale) in row[LATENT..][..16].chunks_mut(4).enumerate() {
                scale.copy_from_slice(&SCALES[(index + group) % SCALES.len()].to_ne_bytes());
            }
            row[LATENT + 16..].fill(0x3c); // 2^-7 or so
        }
        let expected = passed(&clean, &device);
        let first = clean.table[0] as usize * 64 * KvFormat::Fp8.columns(ROPE);
        for (at, bytes) in [(5, vec![0x7f]), (LATENT, f32::NAN.to_ne_bytes().to_vec())] {
            let mut spoilt = clean.clone();
            spoilt.finite = false;
            let CacheRows::Fp8(rows) = &mut spoilt.cache else { unreachable!() };
            rows[first + at..][..bytes.len()].copy_from_slice(&bytes);
            let got = passed(&spoilt, &device);
            let out = got[0].widened();
            assert!(out[..out.len() / 2].iter().all(|x| x.is_nan()), "byte {at}");
            assert_eq!(spoilt.part(&got, 1), spoilt.part(&expected, 1), "byte {at}");
        }
    }
}

/// No score is near 0: a mask that stands in for -Inf must be below all of them, and none may overflow.
#[test]
fn logits_far_from_zero() {
    for device in devices() {
        for sign in [-1.0, 1.0] {
            let case = step(KvFormat::Bf16, &[200, 65]);
            let case = MlaDecodeCase { heads: 8, causal: true, q_tokens: 2, ..case };
            let mut problem = case.problem().expect("inputs");
            problem.case.class = AttentionClass::Positive;
            let CacheRows::Bf16(keys) = &mut problem.cache else { unreachable!() };
            // The last eight of the 64 rotated numbers add sign * 8 * 2^20 to every score.
            for key in keys.chunks_mut(KEY).filter(|key| !key[0].is_nan()) {
                key[KEY - 8..].fill(bf16::from_f32(1024.0));
            }
            for q in problem.q.chunks_mut(KEY) {
                q[KEY - 8..].fill(bf16::from_f32(sign * 1024.0));
            }
            let lse = passed(&problem, &device)[1].widened();
            assert!(lse.iter().all(|lse| (lse / 1e6 * sign) > 1.0), "{:?}", &lse[..4]);
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for format in FORMATS {
            assert!(pass(&step(format, &[]), &device)[0].bytes.is_empty());
            pass(&step(format, &[0, 0, 0]), &device);
            // A table without columns.
            let mut problem = step(format, &[0, 0]).problem().expect("inputs");
            let KvPaging::Paged { pages, page_size, .. } = problem.spec.paging else { unreachable!() };
            problem.spec.paging = KvPaging::Paged { pages, page_size, pages_per_sequence: 0 };
            problem.table.clear();
            assert!(passed(&problem, &device)[0].bytes.iter().all(|&byte| byte == 0));
        }
    }
}

/// The first queries of a causal step see none: the key that counts for the others is one that they see.
#[test]
fn fewer_keys_than_queries() {
    for device in devices() {
        for format in FORMATS {
            let case = MlaDecodeCase { q_tokens: 7, causal: true, ..step(format, &[0, 1, 4, 6, 7]) };
            pass(&MlaDecodeCase { class: AttentionClass::OneKey, ..case }, &device);
        }
    }
}

#[test]
fn the_scale_of_the_tests_is_deepseeks() {
    assert_eq!(SOFTMAX_SCALE, 0.135_233_778_860_880_1_f64 as f32);
}

/// Rows of a large cache repeat, as those that are timed do.
#[test]
fn caches_of_repeated_rows() {
    for device in devices() {
        for format in FORMATS {
            let case = MlaDecodeCase { repeated: true, split_keys: None, ..step(format, &[4200, 0, 70]) };
            let problem = Arc::new(case.clone().problem().expect("inputs"));
            let run = MlaDecodeRun::new(problem, &mut Arena::new(&device, Memory::Plain)).expect("operands");
            assert_eq!(run.plan.decode.spec().capacity(), 4224, "no more than the longest sequence needs");
            pass(&case, &device);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_step(
        batch in 1_usize..5,
        most in 1_usize..400,
        q_tokens in 1_usize..=8,
        heads in 1_usize..=40,
        pages in 0_usize..4,
        splits in 1_usize..3,
        format in 0_usize..3,
        causal: bool,
        packed: bool,
        class in 0..AttentionClass::ALL.len(),
        seed: u32,
    ) {
        let seed = u64::from(seed);
        let case = MlaDecodeCase {
            class: AttentionClass::ALL[class],
            q_tokens,
            heads,
            page_size: (pages > 0).then_some(64 * pages),
            split_keys: Some(64 * pages.max(1) * splits),
            causal,
            seed,
            ..step(FORMATS[format], &varied_lengths(batch, most, seed))
        };
        // As many as a sequence has, one less in the next, and so on, with those that nobody asks.
        let tokens = (0..batch).map(|sequence| (q_tokens + batch - sequence) % (q_tokens + 1)).collect();
        let case = if packed { case.packed(tokens) } else { case };
        for device in devices() {
            pass_in(&case, &device, Memory::Poisoned(seed));
        }
    }
}
