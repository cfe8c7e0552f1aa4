//! The driver: whether it is there, how old it is, and its errors.

use std::ffi::c_void;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

use crate::error::{Error, MachineProblem, Result};

/// What cudarc looks for first and last.
const DRIVER_NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// Functions of the driver that are called on the way to a result; a driver that lacks one is too old.
const FUNCTIONS: [&str; 36] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetParamInfo",
    "cuFuncLoad",
    "cuFuncSetAttribute",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
    "cuThreadExchangeStreamCaptureMode",
];

/// cudarc panics when the driver's library or a function in it is missing, so look first.
pub(crate) fn require_functions() -> Result<()> {
    // SAFETY: loading the driver runs its initialisers, which is what every CUDA program does.
    let mut loaded =
        DRIVER_NAMES.iter().filter_map(|&name| unsafe { Some((name, libloading::Library::new(name).ok()?)) });
    let Some((library, handle)) = loaded.next() else {
        return Err(MachineProblem::NoDriver { tried: "libcuda.so and libcuda.so.1" }.into());
    };
    for function in FUNCTIONS {
        // SAFETY: the address is not used.
        if unsafe { handle.get::<*const c_void>(function.as_bytes()) }.is_err() {
            return Err(MachineProblem::DriverFunctionMissing { library, function }.into());
        }
    }
    Ok(())
}

pub(super) fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: the result is valid for the call.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(driver_error("reading the driver's version"))?;
    Ok(version)
}

/// Any driver of the CUDA generation that compiled the kernels loads them, and of no generation before.
pub(super) fn require_version(found: i32, needed: i32) -> Result<()> {
    if found >= needed { Ok(()) } else { Err(MachineProblem::DriverTooOld { needed, found }.into()) }
}

/// Turns a driver error into ours, without asking the driver for text.
pub(crate) fn driver_error(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |DriverError(code)| Error::Driver { call: call.into(), code: code as i32, name: format!("{code:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_of_an_older_generation_are_refused() {
        assert_eq!(require_version(13_000, 13_000), Ok(()));
        assert_eq!(require_version(13_010, 13_000), Ok(()));
        assert_eq!(
            require_version(12_040, 13_000).unwrap_err().to_string(),
            "the NVIDIA driver is too old: expected one for CUDA 13.0 or newer, got one for CUDA 12.4"
        );
    }
}
