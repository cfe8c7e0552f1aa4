//! MLA decode against its f64 reference: values within the a-priori bound, exact where they can be, bits that depend on
//! the sequence alone. Everything that is not a key of a sequence is NaN in every test.

use check::devices::{FEW_MULTIPROCESSORS, devices, emulators, runs_emulated, schedules};
use check::mla::decode::{
    Bits, Cache, KEY, LATENT, Operands, SCALE, STALE_PAGE, Step, instances, varied_lengths,
};
use deepseek_kernels::mla::{EmptyLse, KvFormat, KvPaging};
use deepseek_kernels::{DeviceKind, EmulatorOptions, Error};
use oracles::mla::AttentionClass;
use proptest::prelude::*;

const FORMATS: [KvFormat; 2] = [KvFormat::Bf16, KvFormat::Fp8];

#[test]
fn every_class_of_inputs_with_every_instance() {
    for device in devices() {
        for class in AttentionClass::ALL {
            for format in FORMATS {
                for instance in instances(format) {
                    // 256 and 64 keys: powers of two, for the mean.
                    let lengths = vec![256, 0, 64, 301];
                    Step { class, format, instance: Some(instance), lengths, ..Step::default() }
                        .check(&device);
                }
            }
        }
    }
}

/// Around blocks, pages and splits, an empty sequence first, last and between.
#[test]
fn lengths_at_every_border() {
    let lengths = vec![0, 1, 63, 64, 65, 0, 127, 128, 129, 191, 192, 193, 255, 256, 257, 384, 0];
    for device in devices() {
        for format in FORMATS {
            for (page_size, split_keys) in [(64, 64), (64, 128), (128, 64), (192, 128), (192, 192)] {
                let page_size = Some(page_size);
                Step { format, page_size, split_keys, lengths: lengths.clone(), heads: 2, ..Step::default() }
                    .check(&device);
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
                let lengths = vec![130, 2, q_tokens as i32];
                Step { heads, q_tokens, causal, lengths, ..Step::default() }.check(&device);
            }
        }
    }
}

/// Query tokens that see no key at all, because the sequence is shorter than the step.
#[test]
fn causal_rows_without_keys() {
    for device in devices() {
        for format in FORMATS {
            let step = Step {
                format,
                q_tokens: 4,
                heads: 3,
                causal: true,
                lengths: vec![1, 3, 0, 64],
                ..Step::default()
            };
            let bits = step.check(&device);
            assert!(
                bits.out[..3 * 3 * LATENT].iter().all(|&x| x == 0),
                "three of four query tokens see nothing"
            );
            assert!(bits.lse[..9].iter().all(|&x| x == f32::NEG_INFINITY.to_bits()));
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
                let (q_tokens, heads) = (2, 128);
                let lengths = vec![200];
                Step {
                    class: AttentionClass::OneKey,
                    format,
                    causal,
                    q_tokens,
                    heads,
                    lengths,
                    ..Step::default()
                }
                .check(&device);
            }
        }
    }
}

/// The cases of FlashMLA's own test (`tests/test_flash_mla_dense_decoding.py`) with one key head, and its thresholds.
///
/// A GPU takes all of up to 5000 keys, and one of eleven of the larger ones, whose operands take longer to make than
/// the rest of the tests; of each, the first and the last sequence are judged. On the emulator without the batch of 64, with
/// 4096 keys for a single sequence, and a third of the head counts each; under the fake driver a quarter of those.
#[test]
fn the_cases_of_flash_mla() {
    for device in devices() {
        let every = if device.kind() == DeviceKind::Emulated { 3 } else { 12 };
        for (index, (keys, step)) in flash_mla_cases().into_iter().enumerate() {
            let (number, batch) = (index + 1, step.lengths.len());
            let Step { q_tokens, heads, .. } = step;
            if runs_emulated(&device) {
                let small = batch * q_tokens * heads * keys <= 40_000;
                let long = (batch, heads, q_tokens) == (1, 63, 2) && index % 4 >= 2;
                if batch <= 6 && number % every == 0 && (small || long) {
                    step.check(&device);
                }
            } else if batch * keys <= 5000 || number % 11 == 0 {
                let operands = step.operands();
                let bits = operands.run(&device, None).unwrap_or_else(|error| panic!("{step:?}: {error}"));
                assert!(bits.out().iter().all(|x| x.is_finite()), "{step:?}: something is unwritten");
                let (operands, bits) = operands.sampled(&bits);
                operands.judge(step.class, &bits).unwrap_or_else(|text| panic!("{step:?}: {text}"));
            }
        }
    }
}

/// With the number of keys that no sequence exceeds.
fn flash_mla_cases() -> Vec<(usize, Step)> {
    let mut cases = vec![];
    for batch in [1, 2, 6, 64] {
        for q_tokens in [1, 2, 4] {
            for keys in [20, 140, 4096] {
                for heads in [1, 3, 9, 63, 64, 126, 128] {
                    for (varlen, causal) in [(false, false), (false, true), (true, false), (true, true)] {
                        let seed = cases.len() as u64 + 1;
                        let lengths =
                            if varlen { varied_lengths(batch, keys, seed) } else { vec![keys as i32; batch] };
                        let shape = Step { q_tokens, heads, causal, lengths, ..Step::default() };
                        cases.push((keys, Step { split_keys: 1024, seed, ..shape }));
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
        for empty_lse in [EmptyLse::NegativeInfinity, EmptyLse::PositiveInfinity] {
            let lengths: Vec<i32> =
                (0..batch).map(|i| if i % 2 == 0 { 0 } else { 40 * i % 300 + 1 }).collect();
            let step = Step { q_tokens: 2, heads: 9, empty_lse, lengths, ..Step::default() };
            let bits = step.check(&device);
            let expected = match empty_lse {
                EmptyLse::NegativeInfinity => f32::NEG_INFINITY,
                EmptyLse::PositiveInfinity => f32::INFINITY,
            };
            assert!(bits.lse[..18].iter().all(|&x| x == expected.to_bits()));
        }
    }
}

// ------------------------------------------------------------------------------------------------- the same bits

fn long_step(format: KvFormat) -> Step {
    Step { format, lengths: vec![700, 130, 0, 513], q_tokens: 2, heads: 64, causal: true, ..Step::default() }
}

#[test]
fn neither_the_size_of_the_gpu_nor_the_schedule_changes_a_bit() {
    for format in FORMATS {
        let operands = long_step(format).operands();
        let sizes = [1, 2, 3, 4, 7, 132]
            .map(|multiprocessors| EmulatorOptions { multiprocessors, ..FEW_MULTIPROCESSORS });
        for machines in schedules(4).into_iter().chain([emulators(sizes)]) {
            let bits = machines.iter().map(|device| operands.run(device, None).unwrap());
            let bits: Vec<Bits> = bits.collect();
            for (number, pair) in bits.windows(2).enumerate() {
                assert_eq!(pair[0], pair[1], "{format:?}, machines {number} and {}", number + 1);
            }
        }
    }
}

#[test]
fn every_instance_gives_the_same_bits() {
    for device in devices() {
        for format in FORMATS {
            let operands = long_step(format).operands();
            let bits = instances(format).map(|i| operands.run(&device, Some(i)).unwrap());
            let bits: Vec<Bits> = bits.collect();
            assert!(bits.len() > 1 && bits.windows(2).all(|pair| pair[0] == pair[1]), "{}", device.name());
        }
    }
}

/// A sequence alone gives what it gives in a batch, whatever the others are.
#[test]
fn the_rest_of_the_batch_changes_no_bit() {
    for device in devices() {
        for format in FORMATS {
            let step = long_step(format);
            let batch = step.operands();
            let together = batch.run(&device, None).unwrap();
            for index in 0..step.lengths.len() {
                let alone = only(&batch, index).run(&device, None).unwrap();
                assert_eq!(alone, part(&together, &batch, index), "sequence {index}");
            }
        }
    }
}

/// The batch of one sequence, with the same cache.
fn only(batch: &Operands, index: usize) -> Operands {
    let mut alone = batch.clone();
    let rows = batch.spec.q_tokens * batch.spec.heads;
    let columns = batch.table.len() / batch.spec.batch;
    alone.spec.batch = 1;
    alone.lengths = vec![batch.lengths[index]];
    alone.table = batch.table[index * columns..][..columns].to_vec();
    alone.q = batch.q[index * rows * KEY..][..rows * KEY].to_vec();
    alone
}

fn part(bits: &Bits, batch: &Operands, index: usize) -> Bits {
    let rows = batch.spec.q_tokens * batch.spec.heads;
    Bits {
        out: bits.out[index * rows * LATENT..][..rows * LATENT].to_vec(),
        lse: bits.lse[index * rows..][..rows].to_vec(),
    }
}

/// Pages anywhere, pages of another size, no pages at all; a page that two sequences share.
#[test]
fn the_place_of_a_key_changes_no_bit() {
    for device in devices() {
        for format in FORMATS {
            // No split is shorter than the longest page.
            let at = |page_size, seed_of_pages| {
                let step =
                    Step { page_size, lengths: vec![333, 64, 1], split_keys: 192, format, ..Step::default() };
                let mut operands = step.operands();
                if seed_of_pages {
                    reverse_pages(&mut operands);
                }
                operands.run(&device, None).unwrap()
            };
            let bits = at(Some(64), false);
            for (page_size, reversed) in [(Some(64), true), (Some(192), false), (None, false)] {
                assert_eq!(at(page_size, reversed), bits, "{page_size:?} {reversed}");
            }
            let mut twice = Step { lengths: vec![128, 128], format, ..Step::default() }.operands();
            let columns = twice.table.len() / 2;
            let (first, second) = twice.table.split_at_mut(columns);
            second.copy_from_slice(first);
            let half = twice.q.len() / 2;
            twice.q.copy_within(..half, half);
            let bits = twice.run(&device, None).unwrap();
            assert_eq!(part(&bits, &twice, 0), part(&bits, &twice, 1), "a shared prefix");
        }
    }
}

/// Page p becomes page `pages - 1 - p`.
fn reverse_pages(operands: &mut Operands) {
    let KvPaging::Paged { pages, page_size, .. } = operands.spec.paging else { return };
    let row = page_size * operands.spec.format.columns();
    match &mut operands.cache {
        Cache::Bf16(keys) => *keys = keys.chunks(row).rev().flatten().copied().collect(),
        Cache::Fp8(rows) => *rows = rows.chunks(row).rev().flatten().copied().collect(),
    }
    for page in &mut operands.table {
        if (0..pages as i32).contains(page) {
            *page = pages as i32 - 1 - *page;
        }
    }
}

/// The parts of a row are merged by a warp, whose lanes look at one each, in turns. The key that a row attends to lies in
/// another part for each row.
#[test]
fn a_row_may_have_more_parts_than_a_warp_has_lanes() {
    for device in devices() {
        let (class, lengths) = (AttentionClass::OneKey, vec![64 * 40 + 5, 64 * 33, 64 * 32]);
        Step { class, lengths, heads: 64, split_keys: 64, ..Step::default() }.check(&device);
    }
}

#[test]
fn an_only_split_is_the_whole() {
    for device in devices() {
        let short = Step { lengths: vec![100, 128, 0], split_keys: 128, ..Step::default() };
        let alone = Step { lengths: short.lengths.clone(), split_keys: 1024, ..short.clone() };
        assert_eq!(short.check(&device), alone.check(&device));
    }
}

// ------------------------------------------------------------------------------------------------------ bad data

#[test]
fn lengths_that_cannot_be_are_cut_and_reported() {
    for device in devices() {
        let mut operands = Step { lengths: vec![100, 128, 100], ..Step::default() }.operands();
        for (length, same_as) in [(-1, 0), (i32::MIN, 0), (193, 192), (i32::MAX, 192)] {
            // Every page of the table exists, so that every length can be read.
            let columns = operands.table.len() / 3;
            assert_eq!(columns, 3);
            operands.table = (0..9).collect();
            fill(&mut operands.cache);
            operands.lengths[1] = same_as;
            let expected = operands.run(&device, None).unwrap();
            device.poll_error().expect("nothing to report");
            operands.lengths[1] = length;
            assert_eq!(operands.run(&device, None).unwrap(), expected, "{length}");
            let Err(Error::Data(faults)) = device.poll_error() else { panic!("{length}: nothing reported") };
            assert!(faults.sequence_length() && !faults.page_id());
        }
    }
}

/// Every row of the cache holds a key.
fn fill(cache: &mut Cache) {
    let Cache::Bf16(keys) = cache else { panic!("a BF16 cache") };
    *keys = AttentionClass::Normal.generate(0, keys.len() / KEY, 0, 9).keys;
}

#[test]
fn pages_that_do_not_exist_read_as_zeros_and_are_reported() {
    for device in devices() {
        for format in FORMATS {
            for page in [-1, i32::MIN, i32::MAX, STALE_PAGE, 12] {
                let mut operands =
                    Step { lengths: vec![100, 128, 100], format, ..Step::default() }.operands();
                assert!(matches!(
                    operands.spec.paging,
                    KvPaging::Paged { pages: 12, pages_per_sequence: 3, .. }
                ));
                let before = operands.run(&device, None).unwrap();
                device.poll_error().expect("nothing to report");
                operands.table[4] = page;
                let bits = operands.run(&device, None).unwrap();
                operands.judge(AttentionClass::Positive, &bits).unwrap();
                for other in [0, 2] {
                    assert_eq!(
                        part(&bits, &operands, other),
                        part(&before, &operands, other),
                        "sequence {other}"
                    );
                }
                let Err(Error::Data(faults)) = device.poll_error() else {
                    panic!("{page}: nothing reported")
                };
                assert!(faults.page_id() && !faults.sequence_length());
            }
        }
    }
}

/// A query of NaN spoils its own row; a NaN key the rows of its sequence; Inf logits give NaN, as they do in IEEE.
#[test]
fn nan_stays_where_it_is() {
    for device in devices() {
        let step = Step { lengths: vec![200, 130], heads: 8, ..Step::default() };
        let clean = step.operands().run(&device, None).unwrap();
        for special in [f32::NAN, f32::INFINITY] {
            let mut operands = step.operands();
            operands.q[3 * KEY + 7] = half::bf16::from_f32(special);
            let bits = operands.run(&device, None).unwrap();
            for row in 0..16 {
                let out = row * LATENT..(row + 1) * LATENT;
                if row == 3 {
                    assert!(bits.out()[out].iter().all(|x| x.is_nan()) && bits.lse()[row].is_nan());
                } else {
                    assert_eq!(
                        (&bits.out[out.clone()], bits.lse[row]),
                        (&clean.out[out], clean.lse[row]),
                        "row {row}"
                    );
                }
            }
        }
        let mut operands = step.operands();
        let first_page = operands.table[0] as usize;
        let Cache::Bf16(keys) = &mut operands.cache else { unreachable!() };
        keys[first_page * 64 * KEY + 5] = half::bf16::NAN;
        let bits = operands.run(&device, None).unwrap();
        assert!(part(&bits, &operands, 0).out().iter().all(|x| x.is_nan()));
        assert_eq!(part(&bits, &operands, 1), part(&clean, &operands, 1));
    }
}

/// Every finite code, and scales of every kind; a NaN among them spoils its own sequence only.
#[test]
fn every_code_and_scale_of_an_fp8_cache() {
    const SCALES: [f32; 6] = [1.0 / 256.0, 0.0, -0.0, -1.0 / 512.0, 1e-40, 3.3e-3];
    for device in devices() {
        let mut operands =
            Step { lengths: vec![200, 130], format: KvFormat::Fp8, ..Step::default() }.operands();
        let Cache::Fp8(rows) = &mut operands.cache else { unreachable!() };
        for (index, row) in rows.chunks_mut(KvFormat::Fp8.columns()).enumerate() {
            for (i, code) in row[..LATENT].iter_mut().enumerate() {
                *code = (i + 37 * index) as u8;
                *code ^= u8::from(*code & 0x7f == 0x7f); // 0x7f and 0xff are NaN
            }
            for (group, scale) in row[LATENT..][..16].chunks_mut(4).enumerate() {
                scale.copy_from_slice(&SCALES[(index + group) % SCALES.len()].to_ne_bytes());
            }
            row[LATENT + 16..].fill(0x3c); // 2^-7 or so
        }
        let clean = operands.run(&device, None).unwrap();
        operands.judge(AttentionClass::Positive, &clean).unwrap();
        let first = operands.table[0] as usize * 64 * KvFormat::Fp8.columns();
        for (at, bytes) in [(5, vec![0x7f]), (LATENT, f32::NAN.to_ne_bytes().to_vec())] {
            let mut spoilt = operands.clone();
            let Cache::Fp8(rows) = &mut spoilt.cache else { unreachable!() };
            rows[first + at..][..bytes.len()].copy_from_slice(&bytes);
            let bits = spoilt.run(&device, None).unwrap();
            assert!(part(&bits, &spoilt, 0).out().iter().all(|x| x.is_nan()), "byte {at}");
            assert_eq!(part(&bits, &spoilt, 1), part(&clean, &spoilt, 1), "byte {at}");
        }
    }
}

/// No score is near 0: a mask that stands in for -Inf must be below all of them, and none may overflow.
#[test]
fn logits_far_from_zero() {
    for device in devices() {
        for sign in [-1.0, 1.0] {
            let mut operands =
                Step { lengths: vec![200, 65], heads: 8, causal: true, q_tokens: 2, ..Step::default() }
                    .operands();
            let Cache::Bf16(keys) = &mut operands.cache else { unreachable!() };
            // The last eight of the 64 rotated numbers add sign * 8 * 2^20 to every score.
            for key in keys.chunks_mut(KEY).filter(|key| !key[0].is_nan()) {
                key[KEY - 8..].fill(half::bf16::from_f32(1024.0));
            }
            for q in operands.q.chunks_mut(KEY) {
                q[KEY - 8..].fill(half::bf16::from_f32(sign * 1024.0));
            }
            let bits = operands.run(&device, None).unwrap();
            operands.judge(AttentionClass::Positive, &bits).unwrap();
            assert!(bits.lse().iter().all(|lse| (lse / 1e6 * sign) > 1.0), "{:?}", &bits.lse()[..4]);
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        for format in FORMATS {
            let bits = Step { lengths: vec![], format, ..Step::default() }.check(&device);
            assert!(bits.out.is_empty());
            Step { lengths: vec![0, 0, 0], format, ..Step::default() }.check(&device);
            // A table without columns.
            let mut operands = Step { lengths: vec![0, 0], format, ..Step::default() }.operands();
            let KvPaging::Paged { pages, page_size, .. } = operands.spec.paging else { unreachable!() };
            operands.spec.paging = KvPaging::Paged { pages, page_size, pages_per_sequence: 0 };
            operands.table.clear();
            let bits = operands.run(&device, None).unwrap();
            assert!(bits.out.iter().all(|&x| x == 0));
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
        fp8: bool,
        causal: bool,
        class in 0_usize..6,
        seed: u32,
    ) {
        let seed = u64::from(seed);
        let step = Step {
            class: AttentionClass::ALL[class],
            lengths: varied_lengths(batch, most, seed),
            q_tokens,
            heads,
            format: FORMATS[usize::from(fp8)],
            page_size: (pages > 0).then_some(64 * pages),
            split_keys: 64 * pages.max(1) * splits,
            causal,
            seed,
            ..Step::default()
        };
        for device in devices() {
            step.check(&device);
        }
    }
}

#[test]
fn the_scale_of_the_tests_is_deepseeks() {
    assert_eq!(SCALE, 0.135_233_778_860_880_1_f64 as f32);
}
