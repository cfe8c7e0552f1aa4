//! What a GPU says of its clocks, its heat and its power, by the driver's own program.

use std::process::Command;

use anyhow::{Context, Result};
use deepseek_kernels::cudarc::driver::CudaContext;
use deepseek_kernels::cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::record::CardState;

/// Reasons to hold clocks down that are no choice of the user's: a slowdown by hardware, heat, and the power supply.
const THROTTLED: u64 = 0x8 | 0x20 | 0x40 | 0x80;

/// How to ask; nothing where the program is not, as beside the fake driver.
pub struct Card {
    bus: String,
}

impl Card {
    /// The GPU of a context.
    ///
    /// # Errors
    /// Of the driver.
    pub fn of(context: &CudaContext) -> Result<Self> {
        let ask = |attribute| context.attribute(attribute).with_context(|| format!("{attribute:?}"));
        let domain = ask(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = ask(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let device = ask(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        Ok(Self { bus: format!("{domain:08x}:{bus:02x}:{device:02x}.0") })
    }

    /// At this moment, if it can be told.
    pub fn state(&self) -> Option<CardState> {
        parsed(&self.ask("clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_throttle_reasons.active")?)
    }

    /// The version of the driver, if it can be told.
    pub fn driver(&self) -> Option<String> {
        Some(self.ask("driver_version")?.trim().to_owned())
    }

    fn ask(&self, fields: &str) -> Option<String> {
        let asked = Command::new("nvidia-smi")
            .arg(format!("--id={}", self.bus))
            .arg(format!("--query-gpu={fields}"))
            .arg("--format=csv,noheader,nounits")
            .output()
            .ok()?;
        asked.status.success().then(|| String::from_utf8_lossy(&asked.stdout).into_owned())
    }
}

fn parsed(line: &str) -> Option<CardState> {
    let fields: Vec<&str> = line.trim().split(',').map(str::trim).collect();
    let [clock, memory_clock, celsius, watts, reasons] = fields[..] else { return None };
    let reasons = u64::from_str_radix(reasons.strip_prefix("0x")?, 16).ok()?;
    Some(CardState {
        clock_mhz: clock.parse().ok()?,
        memory_clock_mhz: memory_clock.parse().ok()?,
        celsius: celsius.parse().ok()?,
        watts: watts.parse().ok()?,
        throttled: reasons & THROTTLED != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_a_limit_of_power_is_no_throttling() {
        let state = parsed("1755, 2619, 41, 312.40, 0x0000000000000004\n").unwrap();
        assert_eq!((state.clock_mhz, state.celsius, state.watts, state.throttled), (1755, 41, 312.4, false));
        assert!(parsed("345, 2619, 89, 100.00, 0x0000000000000040").unwrap().throttled);
        assert_eq!(parsed("[N/A], 2619, 41, 312.40, 0x0"), None);
        assert_eq!(parsed(""), None);
    }
}
