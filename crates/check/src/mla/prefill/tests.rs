//! The judges of prefill.

use std::sync::Arc;

use deepseek_kernels::{Stream, bf16};
use oracles::mla::AttentionClass;

use super::{MlaPrefillCase, MlaPrefillRun, VALUE};
use crate::case::Prepared;
use crate::devices::emulated;
use crate::judge::Scrutiny;
use crate::memory::{Arena, Memory};

/// What every oracle says of a run whose results are changed: the names of those that reject it.
fn rejecting(case: &MlaPrefillCase, change: impl Fn(&mut [bf16], &mut [f32])) -> Vec<&'static str> {
    let device = emulated(0);
    let problem = Arc::new(case.clone().problem().unwrap());
    let mut run = MlaPrefillRun::new(problem.clone(), &mut Arena::new(&device, Memory::Plain)).unwrap();
    run.launch(Stream::Emulated).unwrap();
    let (mut out, mut lse) = run.results().unwrap();
    change(&mut out, &mut lse);
    let checks = problem.judge(&out, &lse, Scrutiny::Thorough, true).unwrap();
    assert!(checks.iter().all(|check| check.checked > 0), "{checks:?}");
    checks.into_iter().filter(|check| check.failure.is_some()).map(|check| check.oracle).collect()
}

#[test]
fn a_wrong_element_fails_every_oracle_of_its_class() {
    for (class, exact) in [
        (AttentionClass::Normal, None),
        (AttentionClass::Uniform, Some("exact mean")),
        (AttentionClass::OneKey, Some("dominant key")),
    ] {
        let sequences = vec![(5, 64), (0, 3), (2, 128)];
        let case = MlaPrefillCase { class, causal: false, ..MlaPrefillCase::new(sequences) };
        assert_eq!(rejecting(&case, |_, _| ()), [""; 0]);
        let wrong = rejecting(&case, |out, _| out[3 * VALUE + 7] += bf16::ONE);
        assert_eq!(wrong, ["bound"].into_iter().chain(exact).chain(["bit model"]).collect::<Vec<_>>());
        let last = (5 + 2) * 2 - 1;
        let wrong = rejecting(&case, |_, lse| lse[last] += 0.1);
        assert_eq!(wrong, ["bound of lse", "bit model of lse"]);
    }
}
