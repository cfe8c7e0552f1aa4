//! MLA prefill: borders of tiles, blocks and sequences, offsets that cannot be, and bits that depend on the sequence alone.

use std::sync::Arc;

use check::case::{attempt, memory_of, pass, pass_in};
use check::devices::{FEW_MULTIPROCESSORS, devices, emulators, machines, schedules};
use check::memory::{Memory, Output};
use check::mla::ROPE;
use check::mla::prefill::{KeyLayout, MlaPrefillCase, MlaPrefillProblem, NOPE, QUERY, VALUE};
use deepseek_kernels::mla::{EmptyLse, LseOrder};
use deepseek_kernels::{Device, EmulatorOptions, bf16};
use oracles::mla::{AttentionClass, HeadColumns};
use proptest::prelude::*;

use super::assert_lost_rows_alone;

/// Heads of either width, whose blocks of keys are of 128 and of 64; causal or not.
const FORMS: [(HeadColumns, bool); 4] = [
    (HeadColumns::DEEPSEEK_V3, false),
    (HeadColumns::DEEPSEEK_V3, true),
    (HeadColumns::GLM_5, false),
    (HeadColumns::GLM_5, true),
];

fn case(sequences: &[(usize, usize)]) -> MlaPrefillCase {
    MlaPrefillCase::new(sequences.to_vec())
}

fn full(sequences: &[(usize, usize)]) -> MlaPrefillCase {
    MlaPrefillCase { causal: false, ..case(sequences) }
}

fn passed(problem: &MlaPrefillProblem, device: &Device) -> Vec<Output> {
    attempt(Arc::new(problem.clone()), device, memory_of("a prefill")).unwrap_or_else(|e| panic!("{e:#}")).outputs
}

/// Tokens as many as keys, on both sides of the borders of tiles and blocks.
#[test]
fn lengths_at_every_border() {
    for device in machines() {
        for (columns, causal) in FORMS {
            let lengths = [1, 63, 64, 65, 127, 128, 129, 255, 256, 257];
            let sequences: Vec<_> = lengths.map(|length| (length, length)).into();
            pass(&MlaPrefillCase { columns, causal, heads: 1, ..case(&sequences) }, &device);
        }
    }
}

/// More keys than tokens, as behind a cached prefix, fewer, and none of either.
#[test]
fn tokens_and_keys_of_any_numbers() {
    const SEQUENCES: [(usize, usize); 9] =
        [(1, 500), (130, 100), (64, 65), (3, 0), (0, 7), (200, 1), (0, 0), (128, 640), (17, 130)];
    for device in devices() {
        for layout in [KeyLayout::Projected, KeyLayout::Joined] {
            for (columns, causal) in FORMS {
                pass(&MlaPrefillCase { layout, columns, causal, heads: 3, ..case(&SEQUENCES) }, &device);
            }
        }
    }
}

#[test]
fn values_of_every_class() {
    for device in machines() {
        for class in AttentionClass::ALL {
            for (columns, causal) in FORMS {
                pass(&MlaPrefillCase { class, columns, causal, ..case(&[(70, 300), (256, 256)]) }, &device);
            }
        }
    }
}

/// One key outweighs all others, another one for each row: its value comes out to the bit, wherever it lies.
#[test]
fn every_key_can_be_the_dominant_one() {
    for device in devices() {
        let case = full(&[(300, 290)]);
        pass(&MlaPrefillCase { class: AttentionClass::OneKey, layout: KeyLayout::Joined, ..case }, &device);
    }
}

#[test]
fn lse_in_every_order() {
    // Tokens, with those that are nobody's, are a multiple of 13.
    for device in devices() {
        for lse_order in [LseOrder::HeadsTokens, LseOrder::SequencesHeadsTokens { q_tokens: 13 }] {
            let case = MlaPrefillCase { heads: 3, ..case(&[(130, 200), (5, 0), (70, 70)]) };
            pass(&MlaPrefillCase { lse_order, ..case }, &device);
        }
        let case = MlaPrefillCase { heads: 3, alone: true, ..case(&[(130, 200), (5, 0), (70, 70)]) };
        pass(&MlaPrefillCase { lse_order: LseOrder::HeadsTokens, ..case }, &device);
    }
}

#[test]
fn tokens_without_keys() {
    for device in devices() {
        for (empty_lse, expected) in
            [(EmptyLse::NegativeInfinity, f32::NEG_INFINITY), (EmptyLse::PositiveInfinity, f32::INFINITY)]
        {
            // Of 200 tokens 140 see nothing; then a sequence without keys.
            let case = MlaPrefillCase { empty_lse, ..case(&[(200, 60), (130, 0)]) };
            let [out, lse] = pass(&case, &device).try_into().expect("out and lse");
            let (row, rows) = (2 * VALUE * 2, [0..140, 200..330]);
            for rows in rows {
                assert!(out.bytes[rows.start * row..rows.end * row].iter().all(|&byte| byte == 0));
                assert!(lse.widened()[2 * rows.start..2 * rows.end].iter().all(|&x| x == expected));
            }
        }
    }
}

/// A row whose every score is -Inf counts as one without keys, and is reported; no other row has other bits.
#[test]
fn rows_of_nothing_but_negative_infinity() {
    for device in devices() {
        let mut good = case(&[(140, 200), (5, 3)]).problem().expect("inputs");
        good.finite = false;
        good.k_pe.chunks_exact_mut(ROPE).for_each(|row| row[0] = bf16::ONE);
        let mut bad = good.clone();
        let rows = [0, 77, 279];
        rows.iter().for_each(|row| bad.q[row * QUERY + NOPE] = bf16::NEG_INFINITY);
        let (before, after) = (passed(&good, &device), passed(&bad, &device));
        assert_lost_rows_alone(&before[0], &after[0], &rows, VALUE, 0.0);
        assert_lost_rows_alone(&before[1], &after[1], &rows, 1, f32::NEG_INFINITY);
    }
}

/// Boxes reach into the next sequence, whose keys and values may be anything: no bit of this one's rows tells of them.
#[test]
fn nan_stays_in_its_sequence() {
    for device in devices() {
        for (columns, causal) in FORMS {
            let case = MlaPrefillCase { columns, causal, ..case(&[(70, 100), (130, 150), (9, 40)]) };
            let clean = case.problem().expect("inputs");
            let expected = passed(&clean, &device);
            let mut spoilt = clean.clone();
            spoilt.finite = false;
            let (q, k) = clean.ranges(1);
            spoilt.q[q.start * 2 * columns.key()..q.end * 2 * columns.key()].fill(bf16::NAN);
            spoilt.k_nope[k.start * 2 * columns.nope..k.end * 2 * columns.nope].fill(bf16::INFINITY);
            spoilt.k_pe[k.start * ROPE..k.end * ROPE].fill(bf16::NAN);
            spoilt.v[k.start * 2 * columns.value..k.end * 2 * columns.value].fill(bf16::NAN);
            let got = passed(&spoilt, &device);
            for (sequence, tokens) in [(0, 70), (2, 9)] {
                let [got, expected] = [&got, &expected].map(|outputs| clean.part(outputs, sequence, tokens));
                assert_eq!(got, expected, "sequence {sequence}");
            }
        }
    }
}

/// A query of NaN spoils its own row, a key or a value of NaN the rows of its head that see it: the bit model says which.
#[test]
fn nan_spoils_what_sees_it() {
    for device in machines() {
        let clean = case(&[(150, 300)]).problem().expect("inputs");
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(bf16::from_f32) {
            let changes: [fn(&mut MlaPrefillProblem, bf16); 4] = [
                |it, x| it.q[7 * QUERY + 5] = x,
                |it, x| it.k_nope[(160 * 2 + 1) * NOPE + 3] = x,
                |it, x| it.k_pe[200 * ROPE + 60] = x,
                |it, x| it.v[(160 * 2 + 1) * VALUE + 9] = x,
            ];
            for change in changes {
                let mut spoilt = clean.clone();
                spoilt.finite = false;
                change(&mut spoilt, special);
                passed(&spoilt, &device);
            }
        }
    }
}

#[test]
fn nothing_to_do() {
    for device in devices() {
        assert!(pass(&case(&[]), &device)[0].nonfinite().iter().all(|&x| x), "written");
        pass(&case(&[(0, 0), (0, 5)]), &device);
        for offsets in [[0, 0], [0, 1], [-1, 0]] {
            let mut problem = case(&[(0, 0)]).problem().expect("inputs");
            (problem.spec.tokens, problem.spec.keys) = (0, 0);
            for rows in [&mut problem.q, &mut problem.k_nope, &mut problem.k_pe, &mut problem.v] {
                rows.clear();
            }
            problem.q_offsets = offsets.into();
            passed(&problem, &device);
        }
    }
}

// ------------------------------------------------------------------------------------------------- the same bits

#[test]
fn neither_the_size_of_the_gpu_nor_the_schedule_changes_a_bit() {
    let problem = case(&[(300, 300), (0, 9), (70, 515)]).problem().expect("inputs");
    let sizes =
        [1, 7, 132].map(|multiprocessors| EmulatorOptions { multiprocessors, ..FEW_MULTIPROCESSORS });
    for machines in schedules(4).into_iter().chain([emulators(sizes)]) {
        let mut results = machines.iter().map(|device| passed(&problem, device));
        let first = results.next();
        assert!(results.all(|outputs| Some(outputs) == first));
    }
}

/// A sequence alone gives what it gives in a batch, whatever the others are.
#[test]
fn the_rest_of_the_batch_changes_no_bit() {
    for device in machines() {
        for causal in [false, true] {
            let case = case(&[(70, 300), (129, 129), (1, 70), (0, 5), (300, 150)]);
            pass(&MlaPrefillCase { causal, alone: true, ..case }, &device);
        }
    }
}

/// The last tokens of a prompt give the bits that they give in the whole: other tiles, other rows of a tile, the same keys.
#[test]
fn a_chunk_gives_the_bits_of_the_whole() {
    for device in machines() {
        for (columns, causal) in FORMS {
            for class in [AttentionClass::Normal, AttentionClass::Peaked] {
                let case = MlaPrefillCase { columns, causal, class, ..case(&[(3, 9), (300, 400)]) };
                let whole = case.problem().expect("inputs");
                let bits = passed(&whole, &device);
                for tokens in [1, 5, 64, 129, 172, 299] {
                    let chunk = whole.only(1, tokens);
                    let got = passed(&chunk, &device);
                    assert_eq!(chunk.part(&got, 0, tokens), whole.part(&bits, 1, tokens), "{tokens} tokens");
                }
            }
        }
    }
}

#[test]
fn where_keys_lie_changes_no_bit() {
    for device in devices() {
        let of = |layout| MlaPrefillCase { layout, heads: 1, ..case(&[(140, 300), (5, 5)]) };
        assert_eq!(pass(&of(KeyLayout::Projected), &device), pass(&of(KeyLayout::Joined), &device));
    }
}

/// Sequences may begin behind others that are not asked for.
#[test]
fn rows_before_the_first_sequence_are_not_touched() {
    for device in devices() {
        let mut problem = case(&[(140, 140), (70, 200)]).problem().expect("inputs");
        let expected = passed(&problem, &device);
        let expected = problem.part(&expected, 1, 70);
        problem.spec.batch = 1;
        problem.q_offsets.remove(0);
        problem.k_offsets.remove(0);
        let got = passed(&problem, &device);
        assert_eq!(problem.part(&got, 0, 70), expected);
    }
}

// ------------------------------------------------------------------------------------------------------ bad data

/// What stands there is cut to ranges in order, and reported; what has to be is judged with the rest.
#[test]
fn offsets_that_cannot_be_are_cut_and_reported() {
    const GOOD: [i32; 4] = [0, 130, 135, 144];
    const CHANGES: [(usize, i32); 10] = [
        (0, -1),
        (0, 131),
        (1, -5),
        (1, 139),
        (1, i32::MAX),
        (2, 129),
        (2, i32::MIN),
        (3, 134),
        (3, 148),
        (3, 0),
    ];
    for device in machines() {
        let good = case(&[(130, 130), (5, 5), (9, 9)]).problem().expect("inputs").with_spare_rows();
        assert_eq!((&good.q_offsets[..], &good.k_offsets[..]), (&GOOD[..], &GOOD[..]));
        for (place, value) in CHANGES {
            for (of_q, of_k) in [(true, false), (false, true), (true, true)] {
                let mut problem = good.clone();
                for offsets in
                    [of_q.then_some(&mut problem.q_offsets), of_k.then_some(&mut problem.k_offsets)]
                {
                    offsets.into_iter().for_each(|offsets| offsets[place] = value);
                }
                passed(&problem, &device);
            }
        }
    }
}

/// More sequences than a warp looks at at a time, in order or not.
#[test]
fn more_sequences_than_a_warp_has_lanes() {
    for device in devices() {
        let mut sequences: Vec<_> = (0..70).map(|i| (i % 4, i % 7)).collect();
        sequences[65] = (150, 150);
        let problem = case(&sequences).problem().expect("inputs").with_spare_rows();
        passed(&problem, &device);
        for (place, value) in [(10, 90), (33, 0), (64, 80), (70, 3)] {
            let mut problem = problem.clone();
            problem.q_offsets[place] = value;
            problem.k_offsets[71 - place] = value;
            passed(&problem, &device);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_prefill(
        sequences in prop::collection::vec((0_usize..300, 0_usize..400), 0..4),
        heads in 1_usize..=4,
        form in 0..FORMS.len(),
        joined: bool,
        by_heads: bool,
        class in 0..AttentionClass::ALL.len(),
        seed: u32,
    ) {
        let layout = if joined { KeyLayout::Joined } else { KeyLayout::Projected };
        let lse_order = if by_heads { LseOrder::HeadsTokens } else { LseOrder::TokensHeads };
        let (columns, causal) = FORMS[form];
        let (class, seed) = (AttentionClass::ALL[class], u64::from(seed));
        let case = MlaPrefillCase { heads, columns, causal, layout, lse_order, class, seed, ..case(&sequences) };
        for device in devices() {
            pass_in(&case, &device, Memory::Poisoned(seed));
        }
    }
}
