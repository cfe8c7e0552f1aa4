//! Keys of E4M3 codes with one scale for the whole cache.

use std::sync::Arc;

use check::case::{attempt, memory_of};
use check::devices::{devices, machines};
use check::goldens::integers;
use check::mla::decode::{MlaDecodeCase, MlaDecodeProblem, STALE_PAGE, instances};
use check::mla::kv_append::{FORMATS, KvAppendCase, KvAppendProblem};
use check::mla::{CacheRows, KEY, LATENT, ROPE};
use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::table::mla::MlaInstance;
use deepseek_kernels::{Device, bf16};
use oracles::mla::{AttentionClass, dequantize_kv_fp8_per_tensor};

use super::{passed, step};

const SCALES: [f32; 10] = [
    1.0,
    0.0123,
    -0.0123,
    1e-40,
    0.0,
    -0.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
];

fn per_tensor(rope: usize, lengths: &[usize]) -> MlaDecodeCase {
    MlaDecodeCase { rope, ..step(KvFormat::Fp8PerTensor, lengths) }
}

/// The same step with a BF16 cache that holds the values.
fn with_values(problem: &MlaDecodeProblem) -> MlaDecodeProblem {
    let mut same = problem.clone();
    let CacheRows::Fp8PerTensor { rows, scale } = &problem.cache else { unreachable!() };
    same.cache = CacheRows::Bf16(dequantize_kv_fp8_per_tensor(rows, *scale));
    (same.case.format, same.spec.format) = (KvFormat::Bf16, KvFormat::Bf16);
    let instance = |instance| MlaInstance { format: KvFormat::Bf16, ..instance };
    same.case.instance = problem.case.instance.map(instance);
    same
}

/// A page that is not there, and a sequence without any that is.
fn without_pages(case: MlaDecodeCase) -> MlaDecodeProblem {
    let mut problem = case.problem().expect("inputs");
    let columns = problem.table.len() / problem.lengths.len();
    problem.table[1] = STALE_PAGE;
    problem.table[columns..2 * columns].fill(STALE_PAGE);
    problem.finite = false;
    problem
}

#[test]
fn the_bits_are_those_of_a_bf16_cache_of_the_values() {
    for device in machines() {
        for rope in [ROPE, 0] {
            for instance in instances(KvFormat::Fp8PerTensor) {
                for class in AttentionClass::ALL {
                    let case = per_tensor(rope, &[300, 0, 65]);
                    let case = MlaDecodeCase { instance: Some(instance), class, ..case };
                    let problem = MlaDecodeCase { q_tokens: 2, causal: true, ..case }.problem().expect("inputs");
                    assert_eq!(passed(&problem, &device), passed(&with_values(&problem), &device), "{class}");
                }
            }
            for page_size in [Some(1), Some(12), None] {
                let case = MlaDecodeCase { page_size, pages_apart: true, ..per_tensor(rope, &[130, 77]) };
                let problem = case.problem().expect("inputs");
                assert_eq!(passed(&problem, &device), passed(&with_values(&problem), &device), "{page_size:?}");
            }
        }
    }
}

/// Every code under every kind of scale, NaN under two. What is not there stays zeros: keys past the end, pages, positions.
#[test]
fn every_code_under_every_scale() {
    const HEADS: usize = 2;
    for device in machines() {
        for rope in [ROPE, 0] {
            for instance in instances(KvFormat::Fp8PerTensor) {
                for (with_nan, scales) in [(false, &SCALES[..]), (true, &SCALES[..2])] {
                    let case = MlaDecodeCase { heads: HEADS, ..per_tensor(rope, &[70, 100, 65]) };
                    let case = MlaDecodeCase { instance: Some(instance), ..case };
                    let mut problem = without_pages(case);
                    let CacheRows::Fp8PerTensor { rows, .. } = &mut problem.cache else { unreachable!() };
                    for (i, code) in rows.iter_mut().enumerate() {
                        *code = (i + i / 256 * 37) as u8;
                        *code ^= u8::from(!with_nan && *code & 0x7f == 0x7f);
                    }
                    for &kind in scales {
                        let CacheRows::Fp8PerTensor { scale, .. } = &mut problem.cache else { unreachable!() };
                        *scale = kind;
                        let got = passed(&problem, &device);
                        assert_eq!(got, passed(&with_values(&problem), &device), "{kind}, position of {rope}");
                        let out = got[0].widened();
                        let absent = &out[HEADS * LATENT..2 * HEADS * LATENT];
                        assert!(absent.iter().all(|&x| x == 0.0), "{kind}: pages that are not there");
                    }
                }
            }
        }
    }
}

/// The bytes of a cache after an append, after every check.
fn appended(problem: &KvAppendProblem, device: &Device) -> Vec<u8> {
    let ran = attempt(Arc::new(problem.clone()), device, memory_of("kv_append"));
    ran.unwrap_or_else(|error| panic!("{error:#}\n{problem:?}")).outputs.swap_remove(0).bytes
}

/// Tokens one after the other, as many as there are rows.
fn append(rope: usize, tokens: usize) -> KvAppendProblem {
    let case = KvAppendCase { rope, rows: tokens, one_matrix: false, ..KvAppendCase::new(FORMATS[3], tokens) };
    KvAppendProblem { slots: (0..tokens as i32).collect(), ..case.problem().expect("inputs") }
}

/// A NaN stays one, also where a quotient is none; what is beyond the greatest code becomes it. A scale of 0, Inf or NaN is
/// reported, which is judged with the rest.
#[test]
fn values_under_every_scale() {
    const GREATEST: u8 = 0x7e;
    let values = [1.0, -3.0, 0.0, -0.0, 1e-38, 1e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    for device in devices() {
        for rope in [ROPE, 0] {
            for scale in SCALES.into_iter().chain([1e30, f32::MAX]) {
                let mut problem = append(rope, 5);
                problem.scale = scale;
                // Each kind of data by itself, so that a report comes from the one that it belongs to.
                appended(&problem, &device);
                let keys = problem.latent.iter_mut().chain(&mut problem.k_pe).enumerate();
                keys.for_each(|(i, x)| *x = bf16::from_f32(values[i % values.len()]));
                let codes = appended(&problem, &device);
                for (latent, row) in problem.latent.chunks(LATENT).zip(codes.chunks(LATENT + rope)) {
                    for (x, &code) in latent.iter().zip(row) {
                        let quotient = x.to_f32() / scale;
                        assert_eq!(code & 0x7f == 0x7f, quotient.is_nan(), "{x} / {scale}");
                        if quotient.abs() >= 448.0 {
                            assert_eq!(code & 0x7f, GREATEST, "{x} / {scale}");
                        }
                    }
                }
            }
        }
    }
}

const TORCH: &str = include_str!("../../goldens/kv_per_tensor.txt");
const TORCH_SCALE: f32 = 0.0123;

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().as_chunks::<2>().0;
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).expect("digits"), 16).expect("digits");
    digits.iter().map(|pair| byte(pair)).collect()
}

/// Codes, and the values that attention sees, of `make_kv_per_tensor.py`.
#[test]
fn codes_and_values_are_torchs() {
    let lines: Vec<Vec<&str>> = TORCH.lines().map(|line| line.split(' ').collect()).collect();
    let codes: Vec<u8> = lines.iter().flat_map(|line| bytes(line[1])).collect();
    let words: Vec<u8> = lines.iter().flat_map(|line| bytes(line[2])).collect();
    let values: Vec<bf16> =
        words.as_chunks::<2>().0.iter().map(|&word| bf16::from_bits(u16::from_be_bytes(word))).collect();
    let tokens = lines.len();
    assert_eq!((tokens, codes.len(), values.len()), (6, 6 * KEY, 6 * KEY));
    for device in devices() {
        let mut problem = append(ROPE, tokens);
        problem.scale = TORCH_SCALE;
        for (token, (latent, k_pe)) in
            problem.latent.chunks_mut(LATENT).zip(problem.k_pe.chunks_mut(ROPE)).enumerate()
        {
            let key = integers(KEY, token as u32).map(|x| x * 0.75 * (-2.0 - 3.0 * token as f32).exp2());
            let places = latent.iter_mut().chain(k_pe);
            places.zip(key).for_each(|(place, x)| *place = bf16::from_f32(x));
        }
        assert_eq!(appended(&problem, &device), codes);

        let mut of_codes = MlaDecodeCase { page_size: None, ..per_tensor(ROPE, &[tokens]) }.problem().expect("inputs");
        of_codes.case.class = AttentionClass::Positive;
        let CacheRows::Fp8PerTensor { rows, scale } = &mut of_codes.cache else { unreachable!() };
        rows[..codes.len()].copy_from_slice(&codes);
        *scale = TORCH_SCALE;
        let mut of_values = with_values(&of_codes);
        let CacheRows::Bf16(rows) = &mut of_values.cache else { unreachable!() };
        rows[..values.len()].copy_from_slice(&values);
        assert_eq!(passed(&of_codes, &device), passed(&of_values, &device));
    }
}
