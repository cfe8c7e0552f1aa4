//! Devices whose bits may be compared.

use std::fmt;

use deepseek_kernels::{Device, DeviceKind};
use serde::{Deserialize, Serialize};

/// Raised when the emulated Hopper changes the bits of a result on purpose.
const EMULATED_REVISION: u32 = 1;
/// What every GPU has that runs these kernels.
const COMPUTE_CAPABILITY: &str = "9.0";

/// Devices of one class give the same bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceClass {
    /// `emulated`, `gpu`, or what an engine says.
    pub kind: String,
    pub name: String,
    /// Of the emulator its revision, of a GPU its compute capability.
    pub version: String,
}

impl DeviceClass {
    /// Of a device.
    pub fn of(device: &Device) -> Self {
        let (kind, version) = match device.kind() {
            DeviceKind::Cuda => ("gpu", COMPUTE_CAPABILITY.to_owned()),
            DeviceKind::Emulated => ("emulated", EMULATED_REVISION.to_string()),
        };
        Self { kind: kind.to_owned(), name: device.name().to_owned(), version }
    }
}

impl fmt::Display for DeviceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, version } = self;
        let version_of = if kind == "gpu" { "compute capability" } else { "revision" };
        write!(f, "{name} ({kind}, {version_of} {version})")
    }
}
