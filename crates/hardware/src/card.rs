//! Facts about the card that a result is worth nothing without.

use anyhow::{Context, Result};
use deepseek_kernels::cudarc::driver::{CudaContext, sys::CUdevice_attribute as Attribute};
use serde::Serialize;

/// What a GPU says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: i32,
    /// Bytes of L2.
    pub l2_bytes: i32,
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Highest clock of the multiprocessors, kHz.
    pub clock_khz: i32,
    /// Highest clock of the memory, kHz.
    pub memory_clock_khz: i32,
    /// Bits of the memory's bus.
    pub memory_bus_bits: i32,
}

impl Card {
    /// Asks the driver.
    ///
    /// # Errors
    /// Of the driver.
    pub fn read(context: &CudaContext) -> Result<Self> {
        let ask = |attribute| context.attribute(attribute).with_context(|| format!("{attribute:?}"));
        Ok(Self {
            name: context.name()?,
            capability: context.compute_capability()?,
            multiprocessors: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            l2_bytes: ask(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            memory_bytes: context.total_mem()?,
            clock_khz: ask(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            memory_clock_khz: ask(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            memory_bus_bits: ask(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
        })
    }
}
