//! Parts of a step put together: one schedule for several layers, and a context that lies in two places.

use std::sync::Arc;

use check::case::{Prepared, attempt, memory_of, pass};
use check::devices::{FEW_MULTIPROCESSORS, devices, emulators, machines};
use check::judge::Scrutiny;
use check::memory::{Arena, Memory, Output};
use check::mla::LATENT;
use check::mla::decode::{MlaDecodeCase, MlaDecodeProblem, MlaDecodeRun};
use check::mla::merge_states::{MergeStatesCase, MergeStatesProblem, Part};
use deepseek_kernels::Device;
use deepseek_kernels::mla::{KvFormat, KvPaging, MlaDecode, MlaDecodeSpec};
use deepseek_kernels::table::mla::MLA_SCHEDULE;
use oracles::gemm::Output as Rounding;
use oracles::mla::AttentionClass;
use oracles::mla::{MlaBounded, State, merge_states_bound};

use super::{FORMATS, passed, step};

// ------------------------------------------------------------------------------------------------- the length of a split

/// What was fastest on an H100 (`benches/results/NOTES.md`): format, batch, keys of each sequence, keys of a split.
#[test]
fn the_fastest_splits_are_those_that_were_measured() {
    for (format, batch, keys, expected) in [
        (KvFormat::Bf16, 1, 4096, 256),
        (KvFormat::Bf16, 1, 65_536, 1024),
        (KvFormat::Bf16, 32, 1024, 1024),
        (KvFormat::Bf16, 128, 4096, 4096),
        (KvFormat::Fp8, 1, 4096, 128),
        (KvFormat::Fp8, 1, 65_536, 1024),
        (KvFormat::Fp8, 32, 1024, 512),
        (KvFormat::Fp8, 128, 4096, 4096),
    ] {
        let mut spec = MlaDecodeCase { heads: 128, ..step(format, &[100]) }.spec();
        spec.batch = batch;
        let got = spec.fastest_split(keys, 132);
        assert_eq!(got, expected, "{batch} sequences of {keys} keys, {format:?}");
    }
}

/// Whatever the sizes, the plan takes it.
#[test]
fn a_fastest_split_is_always_a_split() {
    for device in emulators([FEW_MULTIPROCESSORS]) {
        for (batch, keys) in
            [(0, 0), (1, 0), (0, 1), (1, 1), (3, 63), (3, 65), (2, 1000), (1, usize::MAX >> 32)]
        {
            for multiprocessors in [0, 1, 132] {
                let mut spec = step(KvFormat::Bf16, &[100]).spec();
                spec.batch = batch;
                let split_keys = spec.fastest_split(keys, multiprocessors);
                assert!(split_keys >= 64 && split_keys.is_multiple_of(64), "{split_keys}");
                MlaDecode::plan(&device, spec.split_keys(split_keys)).expect("plan");
            }
        }
    }
}

/// Partial results need room for the keys that there may be, not for the longest sequence as often as there are sequences.
#[test]
fn room_is_for_the_keys_of_all_sequences() {
    for device in emulators([FEW_MULTIPROCESSORS]) {
        let paging = KvPaging::Paged { pages: 8192, page_size: 64, pages_per_sequence: 2560 };
        let spec = MlaDecodeSpec::new(256, 128, KvFormat::Bf16, paging, 1.0).split_keys(2048);
        let bytes = |spec| MlaDecode::plan(&device, spec).expect("plan").scratch_bytes();
        let part = 128 * (LATENT + 2) * 4;
        assert_eq!(bytes(spec), 256 * 80 * part);
        assert_eq!(bytes(spec.total_keys(Some(8192 * 64))), (256 + 256) * part);
        assert_eq!(bytes(spec.total_keys(Some(usize::MAX))), bytes(spec));
    }
}

// ------------------------------------------------------------------------------------------------- many sequences

/// More sequences than one CTA of the schedule has threads: neighbours on both sides of the border are equally long, or empty,
/// and the order of their splits, of whole ones and of rests, leads over it. Keys that there is no room for begin behind it.
#[test]
fn more_sequences_than_a_cta_of_the_schedule_has_threads() {
    const BORDER: usize = MLA_SCHEDULE.threads as usize;
    let equal = |i: usize| if i.abs_diff(BORDER) < 3 { 65 } else { 1 + 37 * i % 70 };
    let problem = |batch: usize, length: &dyn Fn(usize) -> usize| {
        let lengths: Vec<usize> = (0..batch).map(length).collect();
        let case = MlaDecodeCase { heads: 1, split_keys: Some(64), ..step(KvFormat::Bf16, &lengths) };
        case.problem().expect("inputs")
    };
    let empty_ones = |batch: usize| {
        let length = |i: usize| if [BORDER - 1, BORDER, batch - 1].contains(&i) { 0 } else { equal(i) };
        problem(batch, &length)
    };
    let mut crowded = problem(BORDER + 30, &equal);
    crowded.spec.total_keys = Some(crowded.lengths[..BORDER + 2].iter().sum::<i32>() as usize);
    for device in machines() {
        for problem in [empty_ones(BORDER + 1), problem(2 * BORDER + 1, &equal), empty_ones(300), crowded.clone()] {
            passed(&problem, &device);
        }
    }
}

// ---------------------------------------------------------------------------------------------------- several layers

/// Caches, pages, formats and heads may change from layer to layer; lengths do not.
#[test]
fn layers_share_one_schedule() {
    for device in devices() {
        for causal in [false, true] {
            let layer = |seed, format, heads| MlaDecodeCase {
                seed,
                heads,
                causal,
                q_tokens: 2,
                ..step(format, &[300, 0, 64, 191])
            };
            let layers =
                [layer(1, KvFormat::Bf16, 16), layer(2, KvFormat::Bf16, 64), layer(3, KvFormat::Fp8, 5)];
            let prepare = |case: &MlaDecodeCase| {
                let problem = Arc::new(case.clone().problem().expect("inputs"));
                MlaDecodeRun::new(problem, &mut Arena::new(&device, memory_of("layers"))).expect("operands")
            };
            let mut scheduled = prepare(&layers[0]);
            let stream = device.stream().expect("stream");
            let call = scheduled.operands.args().expect("views");
            let mut splits = scheduled.plan.decode.schedule(stream, call.schedule).expect("schedule");
            // The first one again: attention leaves the splits as they are.
            for layer in [0, 1, 2, 0] {
                let mut run = prepare(&layers[layer]);
                let call = run.operands.args().expect("views");
                run.plan.decode.attend(stream, &mut splits, call.attend).expect("attend");
                for check in run.judge(Scrutiny::Thorough).expect("judgement") {
                    assert_eq!(check.failure, None, "layer {layer}, {}", check.oracle);
                }
                let bits = run.outputs().expect("outputs");
                assert!(bits == pass(&layers[layer], &device), "layer {layer}");
            }
            let checks = scheduled.judge(Scrutiny::Brief).expect("judgement");
            let tables = checks.iter().find(|check| check.oracle == "guards").expect("guards");
            assert_eq!(tables.failure, None);
        }
    }
}

// ---------------------------------------------------------------------------------------------------- two places

/// Both parts' states, and their merge.
fn merged(device: &Device, parts: &[MlaDecodeProblem; 2]) -> ([Part; 2], Vec<Output>) {
    let states = parts.each_ref().map(|problem| Part::of_step(&passed(problem, device)));
    let MlaDecodeSpec { batch, q_tokens, heads, .. } = parts[0].spec;
    let case = MergeStatesCase::new(batch * q_tokens, heads);
    let problem = Arc::new(MergeStatesProblem { case, parts: states.clone() });
    let ran = attempt(problem, device, Memory::Poisoned(1)).expect("right");
    (states, ran.outputs)
}

/// Attention over both parts of a context and the merge of their states are as near to attention in f64 over the whole
/// as their own error bounds allow.
#[test]
fn two_parts_of_a_context_merge_into_the_whole() {
    for device in devices() {
        for format in FORMATS {
            for class in [AttentionClass::Normal, AttentionClass::Positive, AttentionClass::Peaked] {
                for causal in [false, true] {
                    let case = step(format, &[300, 193, 450]);
                    let case = MlaDecodeCase { class, causal, q_tokens: 2, heads: 8, ..case };
                    let whole = case.problem().expect("inputs");
                    let parts = whole.halves(2);
                    let (states, got) = merged(&device, &parts);
                    let results = [Part::of_step(&got), Part::of_step(&passed(&whole, &device))];
                    let heads: Vec<usize> = (0..8).collect();
                    let reference = |problem: &MlaDecodeProblem, sequence| {
                        problem.reference(sequence, &heads).expect("shapes")
                    };
                    for sequence in 0..3 {
                        let of_parts = parts.each_ref().map(|part| reference(part, sequence));
                        check_merged(&reference(&whole, sequence), &of_parts, &states, &results, sequence);
                    }
                }
            }
        }
    }
}

/// Of `results`, the first is merged, the second attention over the whole.
///
/// The merge is within its bound of the exact merge of what the parts are. That differs from the merge of what they should
/// be by no more than the larger of the errors of lse, E; and in o by the errors of the parts' o, of which it is a mean, and
/// by the change of the weight w: as its derivative by lse is w (1 - w), at most 2 E e^(2 E) w (1 - w) of their distance.
fn check_merged(
    reference: &MlaBounded,
    parts: &[MlaBounded; 2],
    states: &[Part; 2],
    [merged, direct]: &[Part; 2],
    sequence: usize,
) {
    let rows = reference.lse.len();
    let first = sequence * rows;
    let states = states
        .each_ref()
        .map(|part| State { o: &part.o[first * LATENT..][..rows * LATENT], lse: &part.lse[first..][..rows] });
    let (o, lse) = merge_states_bound(states, LATENT, Rounding::Bf16).expect("shapes");
    let [a, b] = parts;
    for (row, &(_, of_merge)) in lse.iter().enumerate() {
        let error = a.lse_bound[row].max(b.lse_bound[row]);
        let bound = of_merge + error;
        let whole = [reference.lse[row], direct.lse[first + row].into()];
        for (whole, slack) in whole.into_iter().zip([0.0, reference.lse_bound[row]]) {
            let distance = (f64::from(merged.lse[first + row]) - whole).abs();
            assert!(distance <= bound + slack, "sequence {sequence}, lse[{row}]: {distance:e} from {whole}");
        }
        let w = 1.0 / (1.0 + (b.lse[row] - a.lse[row]).exp());
        let moved = 2.0 * error * (2.0 * error).exp() * w * (1.0 - w);
        for (column, &(_, of_merge)) in o[row * LATENT..][..LATENT].iter().enumerate() {
            let i = row * LATENT + column;
            let bound = of_merge + a.out_bound[i].max(b.out_bound[i]) + moved * (a.out[i] - b.out[i]).abs();
            let at = first * LATENT + i;
            let whole = [reference.out[i], direct.o[at].into()];
            for (whole, slack) in whole.into_iter().zip([0.0, reference.out_bound[i]]) {
                let distance = (f64::from(merged.o[at]) - whole).abs();
                assert!(
                    distance <= bound + slack,
                    "sequence {sequence}, out[{row}, {column}]: {distance:e} from {whole}"
                );
            }
        }
    }
}

/// Where one key counts alone, its value comes out of the merge to the bit, from whichever part.
#[test]
fn the_dominant_key_may_be_in_either_part() {
    for device in machines() {
        for format in FORMATS {
            let class = AttentionClass::OneKey;
            let case = MlaDecodeCase { class, heads: 32, ..step(format, &[200, 130]) };
            let whole = case.problem().expect("inputs");
            let ([a, b], got) = merged(&device, &whole.halves(1));
            let larger = |a: &Part, b: &Part| a.lse.iter().zip(&b.lse).any(|(a, b)| a > b);
            assert!(larger(&a, &b) && larger(&b, &a));
            assert_eq!(got[0].bytes, passed(&whole, &device)[0].bytes);
        }
    }
}

/// A part without keys leaves the other one, which is the whole, bit for bit.
#[test]
fn a_part_may_be_empty() {
    for device in devices() {
        for format in FORMATS {
            let case = MlaDecodeCase { q_tokens: 2, ..step(format, &[64, 0, 33]) };
            let problem = case.problem().expect("inputs");
            let whole = passed(&problem, &device);
            for pages in [0, 1] {
                let (states, got) = merged(&device, &problem.halves(pages));
                assert!(states[pages].lse.iter().all(|&x| x == f32::NEG_INFINITY));
                let bytes = |outputs: &[Output]| [outputs[0].bytes.clone(), outputs[1].bytes.clone()];
                assert_eq!(bytes(&got), bytes(&whole));
            }
        }
    }
}
