//! A layer of routed experts, to the bit: what the references of its steps give one after another.

use std::mem::swap;
use std::ops::Range;
use std::sync::Arc;

use check::case::{Prepared, attempt, memory_of, pass};
use check::devices::{devices, machines, schedules};
use check::goldens::integers;
use check::judge::Scrutiny;
use check::memory::Arena;
use check::moe::moe_layer::{MoeLayerCase, MoeLayerProblem, MoeLayerRun, Projection};
use deepseek_kernels::moe::GateUpOrder;
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{Device, F8E4M3, bf16};
use oracles::mla::calc_diff;

const HIDDEN: usize = 256;
const EXPERTS: usize = 32;

/// DeepSeek-V3's router, of fewer experts and shorter tokens.
fn gate(tokens: usize, hidden: usize) -> GateSpec {
    let mut gate = GateSpec::deepseek_v3(tokens);
    (gate.hidden, gate.experts) = (hidden, EXPERTS);
    gate
}

fn case(tokens: usize, seed: u64) -> MoeLayerCase {
    MoeLayerCase { seed, ..MoeLayerCase::new(gate(tokens, HIDDEN), 128) }
}

fn out(problem: MoeLayerProblem, device: &Device) -> Vec<bf16> {
    let ran = attempt(Arc::new(problem), device, memory_of("layer"));
    ran.unwrap_or_else(|error| panic!("{error:#}")).outputs[0].values()
}

fn passes(run: &mut MoeLayerRun, device: &Device) {
    run.launch(device.stream().expect("stream")).expect("launch");
    for check in run.judge(Scrutiny::Thorough).expect("judgement") {
        assert_eq!(check.failure, None, "{} on {}", check.oracle, device.name());
    }
}

/// Experts and tokens that are no whole blocks.
#[test]
fn short_blocks() {
    for device in devices() {
        for (hidden, width) in [(256, 192), (320, 128), (576, 208), (64, 16)] {
            let case = MoeLayerCase { seed: 4, ..MoeLayerCase::new(gate(33, hidden), width) };
            pass(&case, &device);
        }
    }
}

/// 16 of 896 experts, all here or a part of them.
#[test]
fn many_experts() {
    let gate = GateSpec::new(7, 64, 896, 16).groups(14).kept_groups(7).route_scale(2.5);
    for device in devices() {
        for (local, repeated) in [(None, true), (Some(112), false)] {
            pass(&MoeLayerCase { local, repeated, mask: true, ..MoeLayerCase::new(gate, 32) }, &device);
        }
    }
}

/// Twice with other tokens: nothing of the first run is left in the second.
#[test]
fn one_token_and_many() {
    for device in devices() {
        for tokens in [0, 1, 9, 70] {
            let prepare = |seed| {
                let problem = Arc::new(case(tokens, seed).problem().expect("inputs"));
                MoeLayerRun::new(problem, &mut Arena::new(&device, memory_of("layer"))).expect("operands")
            };
            let (mut first, mut second) = (prepare(2), prepare(3));
            passes(&mut first, &device);
            swap(&mut first.plan, &mut second.plan);
            passes(&mut second, &device);
            assert_eq!(device.poll_error(), Ok(()));
        }
    }
}

#[test]
fn every_option() {
    for device in devices() {
        for (shared, residual, clamp) in [(false, false, None), (true, false, Some(0.5)), (false, true, None)]
        {
            pass(&MoeLayerCase { shared, residual, clamp, ..case(5, 4) }, &device);
        }
        pass(&MoeLayerCase { repeated: true, ..case(5, 4) }, &device);
        pass(&MoeLayerCase { order: GateUpOrder::UpFirst, clamp: Some(0.5), ..case(5, 4) }, &device);
        for (shared, residual) in [(false, false), (true, false), (false, true), (true, true)] {
            pass(&MoeLayerCase { mask: true, shared, residual, ..case(11, 4) }, &device);
        }
    }
}

/// Whatever the hidden states of padding are, nothing is reported, no other token has other bits, and its own output is what is
/// added to that of experts: in one launch behind the logits and in many.
#[test]
fn padding_has_no_experts() {
    for tokens in [7, 131] {
        let mut good = case(tokens, 11).problem().expect("inputs");
        good.mask = Some((0..tokens as u32).map(|t| u32::from(t % 3 != 1) << (t % 32)).collect());
        let mut bad = good.clone();
        let row = |t: usize| t * HIDDEN..(t + 1) * HIDDEN;
        let padding: Vec<usize> = (0..tokens).filter(|t| t % 3 == 1).collect();
        for (i, &t) in padding.iter().enumerate() {
            bad.x[row(t)].fill([bf16::NAN, bf16::INFINITY, bf16::MAX][i % 3]);
        }
        let nothing = MoeLayerProblem { shared: None, residual: None, ..good.clone() };
        for device in devices() {
            let expected = out(good.clone(), &device);
            assert!(out(bad.clone(), &device) == expected, "padding counts");
            assert!(padding.iter().all(|&t| expected[row(t)] == unserved(&good)[row(t)]), "shared and residual");
            let alone = out(nothing.clone(), &device);
            assert!(padding.iter().all(|&t| alone[row(t)].iter().all(|x| x.to_bits() == 0)), "+0");
            let all = out(MoeLayerProblem { mask: None, ..good.clone() }, &device);
            assert!((0..tokens).filter(|t| t % 3 != 1).all(|t| all[row(t)] == expected[row(t)]), "other tokens");
        }
    }
}

#[test]
fn all_tokens_to_the_same_experts() {
    let mut problem = case(40, 4).problem().expect("inputs");
    // Only the last groups can win, and of them the same experts for every token.
    let bias = |e: usize| if e >= EXPERTS - 16 && e.is_multiple_of(2) { 5.0 } else { -5.0 };
    problem.bias = (0..EXPERTS).map(bias).collect();
    for device in devices() {
        out(problem.clone(), &device);
    }
}

/// Some of the tokens, as a batch of their own.
fn part(mut problem: MoeLayerProblem, tokens: Range<usize>) -> MoeLayerProblem {
    let cut = |data: &mut Vec<bf16>| *data = data[tokens.start * HIDDEN..tokens.end * HIDDEN].to_vec();
    cut(&mut problem.x);
    problem.shared.iter_mut().chain(&mut problem.residual).for_each(cut);
    problem.mask = problem.mask.map(|mask| mask[tokens.clone()].to_vec());
    problem.case.gate.tokens = tokens.len();
    problem
}

/// A token's output depends on that token alone.
#[test]
fn batches_can_be_split() {
    let whole = MoeLayerCase { mask: true, ..case(33, 6) }.problem().expect("inputs");
    for device in devices() {
        let parts = [0..1, 1..20, 20..33].map(|tokens| out(part(whole.clone(), tokens), &device)).concat();
        assert!(out(whole.clone(), &device) == parts, "a split batch gives other bits");
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let problem = case(12, 8).problem().expect("inputs");
    for machines in schedules(4) {
        let first = out(problem.clone(), &machines[0]);
        for (number, device) in machines.iter().enumerate().skip(1) {
            assert!(out(problem.clone(), device) == first, "{} number {number}", device.name());
        }
    }
}

/// Some experts of a layer, as a rank has them: `place` says on which an expert is, and which of its own it is.
fn rank(all: &MoeLayerProblem, rank: usize, place: &dyn Fn(usize) -> (usize, usize)) -> MoeLayerProblem {
    let mut local: Vec<usize> = (0..EXPERTS).filter(|&expert| place(expert).0 == rank).collect();
    local.sort_by_key(|&expert| place(expert).1);
    let mut problem = all.clone();
    problem.case.local = Some(local.len());
    problem.local_ids = Some((0..EXPERTS).map(place).map(|(of, id)| if of == rank { id as i32 } else { -1 }).collect());
    for projection in [&mut problem.gate_up, &mut problem.down] {
        let (codes, scales) = (projection.weight.len() / EXPERTS, projection.scales.len() / EXPERTS);
        projection.weight = local.iter().flat_map(|e| projection.weight[e * codes..][..codes].to_vec()).collect();
        projection.scales = local.iter().flat_map(|e| projection.scales[e * scales..][..scales].to_vec()).collect();
    }
    problem
}

/// What ranks give, each judged by itself, adds up to what a rank with all experts gives; to its bits where the experts of a
/// token are all on one rank. Ranks whose experts follow each other, and ranks among which they are dealt.
#[test]
fn ranks_add_up_to_the_layer() {
    const RANKS: usize = 4;
    const TOKENS: usize = 17;
    let dealt = |expert: usize| (expert % RANKS, expert / RANKS);
    let followed = |expert: usize| (expert / 8, 7 - expert % 8);
    // Experts of four groups, and of the one that a rank has if they follow each other.
    for (groups, kept_groups, top_k) in [(8, 4, 8), (RANKS, 1, 4)] {
        let mut case = case(TOKENS, 12);
        case.gate = case.gate.groups(groups).kept_groups(kept_groups);
        case.gate.top_k = top_k;
        let all = MoeLayerCase { shared: false, residual: false, ..case }.problem().expect("inputs");
        for device in devices() {
            let whole = out(all.clone(), &device);
            for place in [&dealt as &dyn Fn(usize) -> (usize, usize), &followed] {
                let parts: Vec<_> = (0..RANKS).map(|index| out(rank(&all, index, place), &device)).collect();
                let sum = |i: usize| parts.iter().map(|part| part[i].to_f64()).sum::<f64>();
                let sums: Vec<f64> = (0..whole.len()).map(sum).collect();
                let got: Vec<f32> = whole.iter().map(|x| x.to_f32()).collect();
                // The parts and the whole are rounded to BF16, each by at most 2^-9 of itself.
                let difference = calc_diff(&sums, &got);
                assert!(difference <= 2.0_f64.powi(-17), "{difference:e}");
            }
            if kept_groups == 1 {
                let alone: Vec<_> = (0..RANKS).map(|index| out(rank(&all, index, &followed), &device)).collect();
                for t in 0..TOKENS {
                    let row = |part: &[bf16]| part[t * HIDDEN..][..HIDDEN].to_vec();
                    let nothing = vec![bf16::ZERO; HIDDEN];
                    let mut rows: Vec<_> = alone.iter().map(|part| row(part)).collect();
                    rows.retain(|row| *row != nothing);
                    assert!(rows == [row(&whole)], "token {t}");
                }
            }
        }
    }
}

/// No expert, one, and all, in one launch behind the logits and in many.
#[test]
fn any_number_of_experts_here() {
    for device in devices() {
        for local in [0, 1, EXPERTS] {
            pass(&MoeLayerCase { local: Some(local), mask: true, ..case(11, 13) }, &device);
            pass(&MoeLayerCase { local: Some(local), ..case(131, 13) }, &device);
        }
    }
}

/// Shared experts and residual alone: what a token has that no expert serves.
fn unserved(problem: &MoeLayerProblem) -> Vec<bf16> {
    let addends = problem.shared.iter().flatten().zip(problem.residual.iter().flatten());
    addends.map(|(shared, residual)| bf16::from_f32(shared.to_f32() + residual.to_f32())).collect()
}

/// Hidden states of NaN choose nobody, those of Inf are quantised as 448: both are reported, and no other token has other bits.
#[test]
fn a_token_that_is_not_finite_spoils_no_other() {
    // By one launch behind the logits, and by many.
    for tokens in [9, 130] {
        let good = case(tokens, 9).problem().expect("inputs");
        let mut bad = good.clone();
        bad.x[3 * HIDDEN + 7] = bf16::NAN;
        bad.x[5 * HIDDEN + 200] = bf16::NEG_INFINITY;
        for device in machines() {
            let before = out(good.clone(), &device);
            let after = out(bad.clone(), &device);
            let row = |out: &[bf16], token: usize| out[token * HIDDEN..][..HIDDEN].to_vec();
            assert!(row(&after, 3) == row(&unserved(&good), 3), "of NaN");
            assert!((0..tokens).all(|t| [3, 5].contains(&t) || row(&before, t) == row(&after, t)), "others");
            // Nothing of it is left.
            assert!(out(good.clone(), &device) == before, "after NaN");
        }
    }
}

/// A bias of -Inf leaves every expert out, as was asked for, one of NaN too, which is reported.
#[test]
fn a_bias_that_serves_nobody() {
    for device in devices() {
        for bias in [f32::NEG_INFINITY, f32::NAN] {
            let mut problem = case(9, 10).problem().expect("inputs");
            problem.bias.fill(bias);
            let expected = unserved(&problem);
            assert!(out(problem, &device) == expected, "{bias}");
        }
    }
}

/// In [-8, 8): exact in E4M3.
fn small(count: usize, seed: u32) -> impl Iterator<Item = f32> {
    integers(count, seed).map(|x| (x / 16.0).floor())
}

/// What Hugging Face's block computes in FP32 from the same weights. Only the activations between the two products are
/// rounded here and not there: each by at most 2^-4 of itself, independently, so the relative RMS of a sum of them is at
/// most that, and `calc_diff`, which is half its square, at most 2^-9.
#[test]
fn hugging_face_computes_the_same() {
    const TOKENS: usize = 40;
    const SIZE: usize = 128;
    const EXACT: f32 = 1.0 / 64.0;
    let projection = |n: usize, k: usize, seed| Projection {
        weight: small(EXPERTS * n * k, seed).map(F8E4M3::from_f32).collect(),
        scales: vec![EXACT; EXPERTS * n / 128 * k.div_ceil(128)],
    };
    let problem = MoeLayerProblem {
        case: MoeLayerCase { shared: false, residual: false, ..MoeLayerCase::new(gate(TOKENS, SIZE), SIZE) },
        gate: integers(EXPERTS * SIZE, 12).map(|x| x / 4096.0).collect(),
        bias: integers(EXPERTS, 13).map(|x| x / 1024.0 - 1.5).collect(),
        mask: None,
        local_ids: None,
        gate_up: projection(2 * SIZE, SIZE, 14),
        down: projection(SIZE, SIZE, 15),
        x: small(TOKENS * SIZE, 11).map(|x| bf16::from_f32(x / 4.0)).collect(),
        shared: None,
        residual: None,
    };
    for device in devices() {
        let got = out(problem.clone(), &device);
        let mut known = 0;
        for line in include_str!("../../goldens/moe_layer.txt").lines() {
            let (token, values) = line.split_once(' ').expect("a token and its output");
            let token: usize = token.parse().expect("a token");
            let expected: Vec<f64> =
                values.split(' ').map(|value| value.parse().expect("a number")).collect();
            let got: Vec<f32> = got[token * SIZE..][..SIZE].iter().map(|x| x.to_f32()).collect();
            let difference = calc_diff(&expected, &got);
            assert!(difference <= 1.0 / 512.0, "token {token}: calc_diff {difference:e}");
            known += 1;
        }
        assert_eq!(known, TOKENS, "the file is whole");
    }
}
