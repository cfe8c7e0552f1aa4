//! Results that are changed are rejected.

use super::*;
use crate::case::Prepared;
use crate::judge::Scrutiny;
use crate::memory::{Align, Arena, Memory};
use crate::mla::CACHES;
use deepseek_kernels::{Stream, bf16};

/// What the oracles look at, and which of them reject a result after `change`.
fn rejecting(
    case: &MlaDecodeCase,
    change: impl Fn(&mut [bf16], &mut [f32]),
) -> (usize, Vec<(&'static str, String)>) {
    let (device, memory) = (Device::emulated().unwrap(), Memory::Poisoned(5));
    let problem = Arc::new(case.clone().problem().unwrap());
    let mut run = MlaDecodeRun::new(problem, &mut Arena::new(&device, memory)).unwrap();
    run.launch(Stream::Emulated).unwrap();
    let (mut out, mut lse) = (run.operands.out.values().unwrap(), run.operands.lse.values().unwrap());
    change(&mut out, &mut lse);
    let mut arena = Arena::new(&device, memory);
    let shape = (case.lengths.len() * case.q_tokens * case.heads, LATENT);
    run.operands.out = arena.in_out(&out, shape, Align(16)).unwrap();
    let shape = (case.lengths.len() * case.q_tokens, case.heads);
    run.operands.lse = arena.in_out(&lse, shape, Align(4)).unwrap();
    let checks = run.judge(Scrutiny::Thorough).unwrap();
    let bounds = checks.iter().filter(|check| check.oracle.starts_with("bound"));
    let checked = bounds.map(|check| check.checked).sum();
    (checked, checks.into_iter().filter_map(|check| Some((check.oracle, check.failure?))).collect())
}

#[test]
fn a_wrong_element_fails_every_oracle_of_its_class() {
    let names = [
        (AttentionClass::Uniform, 1, "exact mean"),
        (AttentionClass::OneKey, 2, "dominant key"),
        (AttentionClass::Normal, 2, "FlashMLA's bar"),
    ];
    for format in CACHES {
        for (class, q_tokens, name) in names {
            let case = MlaDecodeCase {
                class,
                q_tokens,
                heads: 4,
                causal: q_tokens > 1,
                alone: true,
                seed: 3,
                ..MlaDecodeCase::new(format, vec![64, 0, 130])
            };
            assert_eq!(rejecting(&case, |_, _| ()), (3 * q_tokens * 4 * (LATENT + 1), vec![]), "{class}");
            let (_, wrong) = rejecting(&case, |out, _| out[LATENT + 5] += bf16::ONE);
            let oracles: Vec<_> = wrong.iter().map(|(oracle, _)| *oracle).collect();
            assert_eq!(oracles, ["bound", name, "bit model", "batch invariance"], "{class}");
            assert!(wrong.iter().all(|(_, failure)| failure.starts_with("sequence 0")), "{wrong:?}");
            let (_, wrong) = rejecting(&case, |_, lse| *lse.last_mut().unwrap() += 0.1);
            assert!(wrong[0].0 == "bound of lse" && wrong[0].1.starts_with("sequence 2: "), "{wrong:?}");
        }
    }
}

/// Of a large step a few heads are judged, with the rows of the cache that they see.
#[test]
fn a_repeated_step_is_judged_briefly() {
    let device = Device::emulated().unwrap();
    for format in CACHES {
        let case =
            MlaDecodeCase { repeated: true, heads: 6, ..MlaDecodeCase::new(format, vec![150, 64, 70]) };
        let problem = Arc::new(case.problem().unwrap());
        let mut run = MlaDecodeRun::new(problem, &mut Arena::new(&device, Memory::Plain)).unwrap();
        run.launch(Stream::Emulated).unwrap();
        for (scrutiny, elements) in [(Scrutiny::Brief, 6 * LATENT), (Scrutiny::Thorough, 18 * LATENT)] {
            let checks = run.judge(scrutiny).unwrap();
            assert!(checks.iter().all(|check| check.failure.is_none()), "{checks:?}");
            assert_eq!(checks[0].checked, elements, "{scrutiny:?}");
        }
    }
}

/// A length counts for no more keys than its pages hold, and so hides no sequence from the judge.
#[test]
fn a_length_that_cannot_be_leaves_everything_judged() {
    let device = Device::emulated().unwrap();
    let mut problem = MlaDecodeCase::new(KvFormat::Bf16, vec![64, 64, 70]).problem().unwrap();
    problem.case.class = AttentionClass::Positive;
    problem.lengths = vec![i32::MAX, -1, 70];
    let mut run = MlaDecodeRun::new(Arc::new(problem), &mut Arena::new(&device, Memory::Plain)).unwrap();
    run.launch(Stream::Emulated).unwrap();
    let checks = run.judge(Scrutiny::Thorough).unwrap();
    assert_eq!((checks[0].checked, checks[0].failure.as_ref()), (3 * 16 * LATENT, None));
}
