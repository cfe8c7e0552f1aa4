//! Bits that do not depend on where operands lie, nor on the run.

use anyhow::Result;
use deepseek_kernels::{Device, DeviceKind, EmulatorOptions};

use super::invariance::{FORMATS, LENGTHS, compare_all};
use super::{Comparisons, bits};
use crate::case::{boxed, memory_of, wait};
use crate::families;
use crate::memory::{Arena, Memory};
use crate::mla::decode::MlaDecodeCase;

/// Pages of several sizes, next to each other and apart, and no pages.
pub fn pages(device: &Device) -> Result<Comparisons> {
    let mut held = Comparisons::default();
    for format in FORMATS {
        let sizes = [Some(64), Some(1), Some(3), Some(16), Some(192), None];
        let ways = sizes.into_iter().flat_map(|page_size| [(page_size, false), (page_size, true)]);
        // No split is shorter than the longest page.
        let case = |(page_size, pages_apart)| MlaDecodeCase {
            page_size,
            pages_apart,
            split_keys: Some(192),
            ..MlaDecodeCase::new(format, LENGTHS.to_vec())
        };
        compare_all(&boxed(ways.map(case)), device, &mut held)?;
    }
    Ok(held)
}

/// Every smoke case again on the same operands, and in other memory; on the emulator under another schedule too.
pub fn two_runs(device: &Device) -> Result<Comparisons> {
    let mut held = Comparisons::default();
    let other = match device.kind() {
        DeviceKind::Cuda => device.clone(),
        DeviceKind::Emulated => {
            Device::emulated_with(EmulatorOptions { seed: 11, multiprocessors: 5, ..Default::default() })?
        }
    };
    for case in families::all(|family| (family.smoke)()) {
        let (problem, memory) = (case.draw()?, memory_of(&case.name()));
        let mut prepared = problem.clone().prepare(&mut Arena::new(device, memory))?;
        let mut run = || {
            prepared.launch(device.stream()?)?;
            wait(device.stream()?)?;
            prepared.outputs()
        };
        let first = run()?;
        if case.repeatable() {
            held.compare(&format!("{}, again", case.name()), &first, &run()?);
        }
        let elsewhere = bits(problem, &other, Memory::Poisoned(12))?;
        held.compare(&format!("{}, in other memory", case.name()), &first, &elsewhere);
    }
    Ok(held)
}
