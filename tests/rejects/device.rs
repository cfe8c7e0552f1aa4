//! Devices that are not there.

use std::path::Path;

use deepseek_kernels::error::MachineProblem;
use deepseek_kernels::{Device, EmulatorOptions, Error};

use crate::message;

#[test]
fn an_emulator_library_that_is_not_there() {
    // SAFETY: nothing is loaded.
    let result =
        unsafe { Device::emulated_from_library(Path::new("no/such.so"), EmulatorOptions::default()) };
    let error = message(result);
    assert!(error.starts_with("cannot load the emulator library no/such.so: "), "{error}");
}

/// On a machine without a driver the answer is an error; with one, a device or an error, never a panic.
#[test]
fn no_gpu_is_an_error_value() {
    match Device::open_gpu(0) {
        Ok(device) => assert!(device.multiprocessors() > 0),
        Err(Error::Machine(MachineProblem::NoDriver { tried })) => {
            assert_eq!(tried, "libcuda.so and libcuda.so.1")
        }
        Err(other) => assert!(!other.to_string().is_empty()),
    }
}
