//! What the benches of a GPU share: the GPU itself, criterion's figures by replayed graphs, and small shapes where only
//! whether a bench runs is asked.
#![allow(dead_code, reason = "every bench uses its own part")]

use std::env;

use criterion::Bencher;
use deepseek_kernels::{Device, Stream};

use crate::timing::{L2, Repeats, Timer};

/// Whether criterion runs everything once and measures nothing: with `--test`, and under `cargo test`.
pub fn testing() -> bool {
    let given = |name: &str| env::args().any(|argument| argument == name);
    given("--test") || !given("--bench")
}

/// `all`, or `small` where nothing is measured.
pub fn shapes<T>(all: &'static [T], small: &'static [T]) -> &'static [T] {
    if testing() { small } else { all }
}

/// The GPU and what times it, or the reason why there is none.
///
/// # Panics
/// If there is none where tests are told that there is one.
pub fn open(bench: &str) -> Option<(Device, Timer)> {
    let device = match Device::open_gpu(0) {
        Ok(device) => device,
        Err(error) => {
            let must = env::var_os("DEEPSEEK_KERNELS_TEST_DEVICES").is_some_and(|devices| devices == "gpu");
            assert!(!must, "{bench} is to run on a GPU, but there is none to use: {error}");
            println!("SKIPPED {bench} on a GPU: {error}");
            return None;
        }
    };
    let flush_bytes = if testing() { 1 << 20 } else { 256 << 20 };
    let timer = Timer::new(&device, flush_bytes);
    Some((device, timer))
}

/// Lets criterion ask for as many runs as it likes; at least a graph of them is run.
pub fn measure(b: &mut Bencher<'_>, timer: &mut Timer, l2: L2, mut run: impl FnMut(Stream<'_>)) {
    let runs = if testing() { 1 } else { 20 };
    b.iter_custom(|launches| {
        let replays = launches.div_ceil(u64::from(runs)).min(u64::from(u32::MAX / runs)) as u32;
        let mean = timer.mean(l2, Repeats { runs, replays }, &mut run);
        mean.mul_f64(launches as f64)
    });
}
