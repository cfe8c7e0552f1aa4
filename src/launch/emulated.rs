//! A launch on the emulator: operands become regions that the kernel may touch.

use std::ffi::{CStr, CString};

use super::kernel::Kernel;
use super::operand::Address;
use crate::device::Emulator;
use crate::device::bindings::{EmuLaunch, EmuRegion};
use crate::error::{Error, Result};

pub(super) struct EmulatedLaunch<'l, P> {
    emulator: &'l Emulator,
    kernel: &'l Kernel<P>,
    name: &'l CStr,
    regions: Vec<EmuRegion>,
    /// Of the regions.
    names: Vec<CString>,
}

impl<'l, P> EmulatedLaunch<'l, P> {
    pub fn new(emulator: &'l Emulator, kernel: &'l Kernel<P>, name: &'l CStr) -> Self {
        Self { emulator, kernel, name, regions: Vec::new(), names: Vec::new() }
    }

    pub fn read<T>(&mut self, name: &str, memory: *const T, len: usize) -> Address {
        self.region(name, memory.cast_mut().cast(), len * size_of::<T>(), false)
    }

    pub fn write<T>(&mut self, name: &str, memory: *mut T, len: usize) -> Address {
        self.region(name, memory.cast(), len * size_of::<T>(), true)
    }

    pub fn error_words(&mut self) -> *mut u32 {
        let words = &self.emulator.error_words;
        let base = self.region("error_words", words.as_ptr().cast_mut().cast(), size_of_val(words), true);
        if let Some(region) = self.regions.last_mut() {
            region.host = 1;
        }
        base.cast()
    }

    fn region(&mut self, name: &str, base: Address, bytes: usize, writable: bool) -> Address {
        let name = CString::new(name).unwrap_or_default();
        self.regions.push(EmuRegion {
            base,
            bytes: bytes as u64,
            writable: u32::from(writable),
            name: name.as_ptr(),
            ..Default::default()
        });
        self.names.push(name);
        base
    }

    pub fn run(self, grid: u32, params: &P) -> Result<()> {
        let options = &self.emulator.options;
        let launch = EmuLaunch {
            kernel: self.name.as_ptr(),
            params: std::ptr::from_ref(params).cast(),
            params_bytes: size_of::<P>() as u64,
            grid,
            smem_bytes: self.kernel.smem_bytes,
            regions: self.regions.as_ptr(),
            region_count: self.regions.len() as u32,
            seed: options.seed,
            check_state: u32::from(options.check_state),
            check_races: u32::from(options.check_races),
            skip_products: u32::from(options.skip_products),
            count_wavefronts: u32::from(options.count_wavefronts),
            ..Default::default()
        };
        // SAFETY: the name is a C string, and the parameters are a P, both alive for the whole call. The regions are borrowed
        // host slices, mutably borrowed where writable, or raw ones, for which their makers promise the same, and the error
        // words, which are atomics that the device owns.
        let result = unsafe { self.emulator.library.launch(&launch) };
        let kernel = self.name.to_string_lossy();
        match result {
            Ok(counts) => {
                self.emulator.count(&kernel, &counts);
                Ok(())
            }
            Err(report) => Err(Error::Emulated { kernel: kernel.into_owned(), seed: options.seed, report }),
        }
    }
}
