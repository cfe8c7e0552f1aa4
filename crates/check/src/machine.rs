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
    pub fn open(choice: DeviceChoice, seed: u64) -> Result<Self, Error> {
        match choice {
            DeviceChoice::Gpu => Ok(Self { devices: vec![Device::open_gpu(0)?], fallback: None }),
            DeviceChoice::Emulated => Self::emulated(seed, None),
            DeviceChoice::Auto => match Device::open_gpu(0) {
                Ok(gpu) => Ok(Self { devices: vec![gpu], fallback: None }),
                Err(error) => Self::emulated(seed, Some(error)),
            },
        }
    }

    fn emulated(seed: u64, fallback: Option<Error>) -> Result<Self, Error> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let device = |_| Device::emulated_with(EmulatorOptions { seed, ..Default::default() });
        Ok(Self { devices: (0..threads).map(device).collect::<Result<_, _>>()?, fallback })
    }

    pub fn device(&self) -> &Device {
        &self.devices[0]
    }
}
