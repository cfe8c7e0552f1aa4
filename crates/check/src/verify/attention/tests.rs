//! Results that are changed are rejected.

use super::*;

/// The oracles that reject a result, after `change`.
fn rejecting(job: &AttentionJob, change: impl Fn(&mut Attended)) -> Vec<(&'static str, String)> {
    let device = Device::emulated().unwrap();
    let problem = job.problem().unwrap();
    let cache = problem.cache.upload(&device).unwrap();
    let mut got = job.attend(&device, &problem, &cache, 0..job.lengths.len()).unwrap();
    change(&mut got);
    let mut checks = job.judge(&problem, &got).unwrap();
    checks.push(job.batch_invariance(&device, &problem, &cache, &got).unwrap());
    checks.into_iter().filter_map(|check| Some((check.oracle, check.failure?))).collect()
}

#[test]
fn a_wrong_element_fails_every_oracle_of_its_class() {
    let names = [
        (AttentionClass::Uniform, "exact mean"),
        (AttentionClass::OneKey, "dominant key"),
        (AttentionClass::Normal, "FlashMLA's bar"),
    ];
    for mut job in jobs(DeviceKind::Emulated, 3) {
        (job.lengths, job.heads) = (vec![64, 0, 130], 4);
        assert_eq!(rejecting(&job, |_| ()), [], "{}", job.label());
        let wrong = rejecting(&job, |got| got.out[LATENT + 5] += bf16::ONE);
        let oracles: Vec<_> = wrong.iter().map(|(oracle, _)| *oracle).collect();
        let name = names.iter().find(|(class, _)| *class == job.class).unwrap().1;
        assert_eq!(oracles, ["bound", name, "batch invariance"], "{}", job.label());
        assert!(wrong.iter().all(|(_, failure)| failure.starts_with("sequence 0")), "{wrong:?}");
        let wrong = rejecting(&job, |got| *got.lse.last_mut().unwrap() += 0.1);
        assert!(wrong[0].0 == "bound of lse" && wrong[0].1.starts_with("sequence 2: "), "{wrong:?}");
    }
}
