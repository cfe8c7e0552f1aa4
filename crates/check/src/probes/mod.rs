//! What the emulator believes of the hardware, asked of a device one instruction at a time.

pub mod catalogue;
pub mod convert;
mod faults;
mod findings;
pub mod product;
pub mod tma;
pub mod tma_copy;
pub mod wgmma;
pub mod wgmma_inputs;

pub use faults::FAULTS;
pub use findings::{Difference, Findings};

use catalogue::{ENTRIES, Entry};
use deepseek_kernels::Device;
use deepseek_kernels::probe::kernels::CLUSTER;
use deepseek_kernels::probe::{Outcome, Probe, UNWRITTEN};
use deepseek_kernels::{DeviceKind, Result};

use crate::devices::{runs_emulated, seeded};

/// How many values a sweep tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// What a GPU computes in a second or two.
    Full,
    /// Those next to where results change: what the emulator can do, or a real driver's stand-in.
    Quick,
}

/// Asks every question of a topic. On the emulator, which the answers are about, none may differ; a GPU may differ where
/// nothing relies on the answer.
pub fn ask(devices: &[Device], topic: &str) {
    let entries: Vec<&Entry> = ENTRIES.iter().filter(|entry| entry.name.starts_with(topic)).collect();
    assert!(!entries.is_empty(), "no question begins with {topic}");
    for device in devices {
        let effort = if runs_emulated(device) { Effort::Quick } else { Effort::Full };
        for entry in &entries {
            let findings =
                (entry.run)(device, effort).unwrap_or_else(|error| panic!("{}: {error}", entry.name));
            assert!(findings.checked > 0, "{}: nothing was compared", entry.name);
            let text = format!("{}, {}: {}: {findings}", device.name(), entry.name, entry.belief);
            if entry.relied_on || device.kind() == DeviceKind::Emulated {
                assert_eq!(findings.different, 0, "{text}");
            } else if findings.different > 0 {
                eprintln!("NOT AS BELIEVED, and not relied on: {text}");
            }
        }
    }
}

/// Fails unless a comparison was made and found nothing.
pub fn assert_clean(device: &Device, findings: Result<Findings>) {
    let findings = findings.unwrap_or_else(|error| panic!("{}: {error}", device.name()));
    assert!(findings.checked > 0 && findings.different == 0, "{}: {findings}", device.name());
}

/// The emulator with several seeds, and the GPU if there is one.
pub fn machines() -> Vec<Device> {
    seeded((1..4).chain([0]))
}

pub fn run(device: &Device, probe: &Probe) -> Outcome {
    probe.run(device).unwrap_or_else(|error| panic!("{}: {error}", device.name()))
}

/// The output words, all of which the probe must have written.
pub fn run_words(device: &Device, probe: &Probe) -> Vec<u32> {
    let output = run(device, probe).output;
    let unwritten = output.iter().position(|&word| word == UNWRITTEN);
    assert_eq!(unwritten, None, "{}: output word not written", device.name());
    output
}

/// Compares words and names the first that differs.
pub fn assert_words(what: &str, got: &[u32], expected: &[u32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    if let Some(index) = (0..got.len()).find(|&i| got[i] != expected[i]) {
        panic!(
            "{what}: word {index} of {} is {:#010x}, expected {:#010x}",
            got.len(),
            got[index],
            expected[index]
        );
    }
}

/// Runs the probe in which two CTAs hand words over, and compares what each thread saw.
pub fn check_cluster(device: &Device) {
    const GRID: u32 = 4;
    const THREADS: u32 = 64;
    let seen = |i: u32| {
        let (cta, opposite) = (i / THREADS, THREADS - 1 - i % THREADS);
        let other = cta ^ 1;
        [cta % 2, other, 10 + other, opposite]
    };
    let mut expected: Vec<u32> = (0..GRID * THREADS).flat_map(seen).collect();
    expected.extend((0..GRID * THREADS).flat_map(|i| [i / THREADS, i % THREADS]));
    let probe = Probe { output_words: expected.len(), ..Probe::new(CLUSTER, GRID) };
    assert_words(device.name(), &run_words(device, &probe), &expected);
}
