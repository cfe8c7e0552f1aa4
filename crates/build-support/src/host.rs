//! What the host's compiler makes: the emulated Hopper, and the CUDA driver that runs on it.

use std::env;
use std::path::Path;

use crate::compile::Task;
use crate::driver::Driver;
use crate::emulator::Emulator;
use crate::{Kernel, leave_out};

/// Both, each as far as it can be built.
pub struct Host {
    emulator: Option<Emulator>,
    driver: Option<Driver>,
}

impl Host {
    /// Adds what is to be compiled to `tasks`.
    pub fn plan(out: &Path, cuda: &Path, kernels: &[Kernel], tasks: &mut Vec<Task>) -> Result<Self, String> {
        let emulator = match Emulator::find(out) {
            Ok(mut emulator) => {
                tasks.extend(emulator.tasks(cuda, kernels)?);
                Some(emulator)
            }
            Err(reason) => {
                println!("cargo:warning=built without the emulated Hopper: {reason}");
                leave_out("EMULATOR", &reason);
                None
            }
        };
        let is_asked_for = env::var_os("CARGO_FEATURE_FAKE_DRIVER").is_some();
        let driver = is_asked_for.then(|| plan_driver(out, cuda, emulator.as_ref(), tasks)).flatten();
        Ok(Self { emulator, driver })
    }

    /// Links what was planned, when all tasks are done.
    pub fn link(self) -> Result<(), String> {
        let Some(emulator) = self.emulator else { return Ok(()) };
        if let Some(driver) = self.driver {
            driver.link(&emulator)?;
            println!("cargo:rustc-cfg=has_driver");
        }
        emulator.link()?;
        println!("cargo:rustc-cfg=has_emulator");
        Ok(())
    }
}

fn plan_driver(
    out: &Path,
    cuda: &Path,
    emulator: Option<&Emulator>,
    tasks: &mut Vec<Task>,
) -> Option<Driver> {
    let planned = emulator
        .ok_or("there is no emulated Hopper to run its kernels".to_owned())
        .and_then(|emulator| Driver::plan(out, cuda, emulator));
    match planned {
        Ok((driver, own)) => {
            tasks.extend(own);
            Some(driver)
        }
        Err(reason) => {
            leave_out("DRIVER", &reason);
            None
        }
    }
}
