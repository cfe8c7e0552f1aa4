//! What a case does, counted on the emulated Hopper: instructions and bytes, no times.

use anyhow::Result;
use deepseek_kernels::{Device, EmulatorOptions};

use super::record::CountsRecord;
use crate::case::Case;
use crate::memory::{Arena, Memory};

/// As many multiprocessors as an H100 has: what the planner sees, and the size of a persistent grid.
pub const MULTIPROCESSORS: u32 = 132;

/// What a case was found to do.
pub struct Counted {
    pub instance: String,
    pub reason: Option<String>,
    pub counts: CountsRecord,
}

/// Of an emulator that counts at any size: it checks nothing and multiplies nothing.
pub const COUNTING: EmulatorOptions = EmulatorOptions {
    seed: 0,
    check_state: false,
    check_races: false,
    multiprocessors: MULTIPROCESSORS,
    skip_products: true,
    count_wavefronts: true,
};

/// Runs a case once on a device that counts.
///
/// # Errors
/// Of the case.
pub fn count(case: &dyn Case, device: &Device) -> Result<Counted> {
    let mut prepared = case.draw()?.prepare(&mut Arena::new(device, Memory::Plain))?;
    let _of_preparation = device.take_counts();
    prepared.launch(device.stream()?)?;
    let mut counts = CountsRecord::default();
    device.take_counts().values().for_each(|kernel| counts.add(&kernel.counts));
    Ok(Counted { instance: prepared.instance(), reason: prepared.reason(), counts })
}

#[cfg(test)]
mod tests {
    use deepseek_kernels::table::gemm::{GEMM_INSTANCES, GemmInstance, OutputType};

    use super::*;
    use crate::families::{self, Extent};
    use crate::gemm::timed_gemm;

    fn device() -> Device {
        Device::emulated_with(COUNTING).unwrap()
    }

    /// What makes large sizes affordable changes no count.
    #[test]
    fn products_and_checks_change_no_count() {
        let everything = Device::emulated_with(EmulatorOptions {
            multiprocessors: MULTIPROCESSORS,
            count_wavefronts: true,
            ..Default::default()
        });
        let (everything, counting) = (everything.unwrap(), device());
        for case in families::all(|family| (family.timed)(Extent::Reduced)) {
            let [full, quick] = [&everything, &counting].map(|device| count(&*case, device).unwrap());
            assert_eq!(full.counts.all(), quick.counts.all(), "{}", case.name());
        }
    }

    /// What a case is said to move at least, its kernels do move. Of a layer that is an average: which experts are hit, the case
    /// does not know.
    #[test]
    fn no_case_moves_less_than_its_least() {
        let device = device();
        let mut less = vec![];
        let cases = families::all(|family| (family.timed)(Extent::Reduced));
        for case in cases.iter().filter(|case| case.operation() != "moe_layer") {
            let counts = count(&**case, &device).unwrap().counts;
            let moved = ["tma_load_bytes", "global_load_bytes", "tma_store_bytes", "global_store_bytes"];
            let moved: u64 = moved.iter().map(|name| counts.get(name)).sum();
            let least = case.work().bytes;
            if moved < least {
                less.push(format!("{} moved {moved} of {least}", case.name()));
            }
        }
        assert!(less.is_empty(), "{less:#?}");
    }

    /// Of whole tiles, each of whose operands is read once a tile: with the scales of A, a number a row and block of K.
    #[test]
    fn a_gemm_does_what_its_tiles_say() {
        let device = device();
        let alone = |instance: &&GemmInstance| instance.cluster == 1 && instance.output == OutputType::Bf16;
        for &instance in GEMM_INSTANCES.iter().filter(alone) {
            let [block_m, block_n] = [instance.block_m, instance.block_n].map(|block| block as usize);
            let (m, n, k) = (2 * block_m, 3 * block_n, 512);
            let (tiles, k_blocks) = (6, k / 128);
            let Counted { counts, .. } = count(&timed_gemm((m, n, k)).with(instance), &device).unwrap();
            let wgmma = format!("m64n{block_n}k32.e4m3");
            let expected = [(wgmma.clone(), (tiles * k_blocks * 4 * block_m / 64) as u64)];
            assert_eq!(counts.wgmmas, expected.into(), "{wgmma}");
            assert_eq!(counts.tensor_flops, 2 * (m * n * k) as u64);
            assert_eq!(counts.get("accumulators_read"), (m * n * k_blocks) as u64);
            let loaded = tiles * k_blocks * ((block_m + block_n) * 128 + 4 * block_m);
            assert_eq!(counts.get("tma_load_bytes"), loaded as u64, "{wgmma}");
            assert_eq!(counts.get("shared_conflicts"), 0, "{wgmma}");
        }
    }
}
