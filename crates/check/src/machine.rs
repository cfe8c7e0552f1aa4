//! The devices to run on.

use std::num::NonZero;
use std::thread;

use deepseek_kernels::{Device, EmulatorOptions, Error};

use crate::cli::DeviceChoice;

/// What the checks run on.
pub struct Machine {
    /// One per thread of the runner: a GPU is one, an emulated Hopper there may be many of.
    pub devices: Vec<Device>,
    /// Why it is not a GPU, if one was asked for.
    pub fallback: Option<Error>,
}

impl Machine {
    /// A GPU, or emulators with these options.
    ///
    /// # Errors
    /// Why there is none, in one line.
    pub fn open(choice: DeviceChoice, emulator: EmulatorOptions) -> Result<Self, String> {
        let machine = match choice {
            DeviceChoice::Gpu => Device::open_gpu(0).map(|gpu| Self { devices: vec![gpu], fallback: None }),
            DeviceChoice::Emulated => Self::emulated(&emulator, None),
            DeviceChoice::Auto => match Device::open_gpu(0) {
                Ok(gpu) => Ok(Self { devices: vec![gpu], fallback: None }),
                Err(error) => Self::emulated(&emulator, Some(error)),
            },
        };
        machine.map_err(|error| format!("no device to run on: {error}"))
    }

    fn emulated(options: &EmulatorOptions, fallback: Option<Error>) -> Result<Self, Error> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let device = |_| Device::emulated_with(options.clone());
        Ok(Self { devices: (0..threads).map(device).collect::<Result<_, _>>()?, fallback })
    }

    pub fn device(&self) -> &Device {
        &self.devices[0]
    }
}
