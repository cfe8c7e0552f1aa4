//! The devices to test on.

use std::cell::OnceCell;
use std::env;
use std::sync::{Arc, OnceLock};

use deepseek_kernels::cudarc::driver::CudaContext;
use deepseek_kernels::{Device, DeviceKind, EmulatorOptions, Error};

const SWITCH: &str = "DEEPSEEK_KERNELS_TEST_DEVICES";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The emulator, and a GPU if there is one.
    Both,
    /// A GPU alone, which must be there: its host has no time for what CI has proved on the emulator.
    Gpu,
    Emulated,
}

impl Choice {
    fn of_environment() -> Self {
        let value = env::var_os(SWITCH);
        match value.as_deref().map(|value| value.to_string_lossy()).as_deref() {
            None | Some("both") => Self::Both,
            Some("gpu") => Self::Gpu,
            Some("emulated") => Self::Emulated,
            Some(other) => panic!("{SWITCH}: expected both, gpu or emulated, got {other:?}"),
        }
    }
}

/// The emulator and the GPU, as far as they are asked for and there. Without a GPU the test says so: it did not run there.
pub fn devices() -> Vec<Device> {
    seeded([0])
}

/// The emulator once with each seed, and the GPU.
pub fn seeded(seeds: impl IntoIterator<Item = u64>) -> Vec<Device> {
    let emulated = match Choice::of_environment() {
        Choice::Gpu => Vec::new(),
        Choice::Both | Choice::Emulated => seeds.into_iter().map(emulated).collect(),
    };
    [emulated, gpu().into_iter().collect()].concat()
}

/// As [`devices`], but for a GPU of the fake driver: for what a kernel alone decides by its data, as its kernels are the
/// emulator's. What a host decides (plans, options, shapes, strides, kinds of memory) is asked of all devices.
pub fn machines() -> Vec<Device> {
    let mut machines = devices();
    machines.retain(has_own_kernels);
    machines
}

/// Groups of machines that must agree to the bit: the emulator under several schedules, and a GPU, whose schedule is never
/// quite the same, as many times.
pub fn schedules(count: u64) -> Vec<Vec<Device>> {
    let emulators = emulators((0..count).map(|seed| EmulatorOptions { seed, ..FEW_MULTIPROCESSORS }));
    let gpus = gpu().filter(has_own_kernels).map(|gpu| vec![gpu; count as usize]).unwrap_or_default();
    [emulators, gpus].into_iter().filter(|machines| !machines.is_empty()).collect()
}

/// Whether what the kernels of a device do is not what those of the emulator do.
fn has_own_kernels(device: &Device) -> bool {
    let fake = device.kind() == DeviceKind::Cuda && fake_driver();
    if fake {
        eprintln!("SKIPPED under the fake driver: its kernels are the emulator's");
    }
    !fake
}

/// For what only the emulator can show; none where a GPU alone is asked for.
pub fn emulators(options: impl IntoIterator<Item = EmulatorOptions>) -> Vec<Device> {
    if Choice::of_environment() == Choice::Gpu {
        eprintln!("SKIPPED on the emulator: {SWITCH}=gpu");
        return Vec::new();
    }
    options.into_iter().map(emulated_with).collect()
}

/// So that CTAs walk several tiles.
pub const FEW_MULTIPROCESSORS: EmulatorOptions = EmulatorOptions {
    seed: 0,
    check_state: true,
    check_races: true,
    multiprocessors: 4,
    skip_products: false,
    count_wavefronts: false,
};

/// For rows far apart ([`Memory::Far`](crate::memory::Memory::Far)), for many, and for many runs: without the tables of who
/// wrote what, which have an entry for every four bytes.
pub const FAR: EmulatorOptions =
    EmulatorOptions { check_state: false, check_races: false, ..FEW_MULTIPROCESSORS };

/// The emulated Hopper with a seed, on few multiprocessors.
pub fn emulated(seed: u64) -> Device {
    emulated_with(EmulatorOptions { seed, ..FEW_MULTIPROCESSORS })
}

fn emulated_with(options: EmulatorOptions) -> Device {
    Device::emulated_with(options).expect("the tests need a C++ compiler")
}

/// The GPU, unless there is none or the emulator alone is asked for.
///
/// Every test, which is a thread, has a device of its own: its error word, stream and event tracking are no other test's.
pub fn gpu() -> Option<Device> {
    thread_local! {
        static GPU: OnceCell<Result<Device, Error>> = const { OnceCell::new() };
    }
    let choice = Choice::of_environment();
    if choice == Choice::Emulated {
        return None;
    }
    match GPU.with(|gpu| gpu.get_or_init(open_gpu).clone()) {
        Ok(gpu) => Some(gpu),
        Err(error) if choice == Choice::Gpu => panic!("{SWITCH}=gpu, but there is none to use: {error}"),
        Err(error) => {
            eprintln!("SKIPPED on a GPU: {error}");
            None
        }
    }
}

fn open_gpu() -> Result<Device, Error> {
    /// Keeps the primary context: torn down after one test and made again for the next, it would take longer than they do.
    static CONTEXT: OnceLock<Arc<CudaContext>> = OnceLock::new();
    let device = Device::open_gpu(0)?;
    CONTEXT.get_or_init(|| CudaContext::new(0).expect("it was opened just now"));
    Ok(device)
}

/// Whether the emulator runs the device's kernels, which makes them slow: it does so under the fake driver too.
pub fn runs_emulated(device: &Device) -> bool {
    device.kind() == DeviceKind::Emulated || fake_driver()
}

/// Whether the driver is the project's own, known by a function that no other has.
fn fake_driver() -> bool {
    // SAFETY: a driver library runs no more than its initialisers, as it did when the device was opened.
    let driver = unsafe { libloading::Library::new("libcuda.so.1") };
    // SAFETY: the function is looked up and not called.
    driver.is_ok_and(|driver| unsafe { driver.get::<unsafe extern "C" fn()>(b"fake_cuda_live\0") }.is_ok())
}
