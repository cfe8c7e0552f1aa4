//! The emulated Hopper: its options, and its library as a table of functions.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::Library;

use super::bindings::*;
use super::counts::KernelCounts;
use crate::error::{BuildProblem, Error, OperandProblem, Result};
use crate::tensor::MapElement;
use crate::tensor::tensor_map::{Swizzle, TensorMapArrays, TensorMapSpec};

/// The emulator: linked into the crate, or loaded from a file that holds other kernels.
pub(crate) struct EmulatorLibrary {
    launch: unsafe extern "C" fn(*const EmuLaunch, *mut EmuReport),
    kernel_info: unsafe extern "C" fn(*const c_char, *mut EmuKernelInfo) -> i32,
    encode: unsafe extern "C" fn(*const EmuTensorMapSpec, *mut TensorMap, *mut c_char, u64) -> i32,
    /// Keeps the code mapped.
    _library: Option<Library>,
}

impl EmulatorLibrary {
    /// The one that build.rs compiled.
    #[cfg(has_emulator)]
    pub fn linked() -> Result<Self> {
        Ok(Self {
            launch: emu_launch,
            kernel_info: emu_kernel_info,
            encode: emu_tensor_map_encode,
            _library: None,
        })
    }

    /// The one that build.rs compiled: it did not.
    #[cfg(not(has_emulator))]
    pub fn linked() -> Result<Self> {
        Err(BuildProblem::NoEmulator { reason: env!("DK_NO_EMULATOR_REASON") }.into())
    }

    /// Loads a shared library with the functions of `cuda/hopper/emulated/machine/emu.h`.
    ///
    /// # Safety
    /// The library was built from `cuda/hopper/emulated/machine` of this version.
    pub unsafe fn load(path: &Path) -> Result<Self> {
        let failed = |error: libloading::Error| {
            // What the loader itself has said is the error behind.
            let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            Error::from(BuildProblem::EmulatorLibrary { path: path.display().to_string(), reason })
        };
        // SAFETY: the caller vouches for the library; the signatures are those of emu.h, and the functions stay mapped
        // as long as `_library` lives beside them.
        unsafe {
            let library = Library::new(path).map_err(failed)?;
            Ok(Self {
                launch: *library.get(b"emu_launch\0").map_err(failed)?,
                kernel_info: *library.get(b"emu_kernel_info\0").map_err(failed)?,
                encode: *library.get(b"emu_tensor_map_encode\0").map_err(failed)?,
                _library: Some(library),
            })
        }
    }

    /// Bytes of the one parameter of the kernel of this name, if there is one.
    pub fn params_bytes(&self, name: &CStr) -> Option<usize> {
        let mut info = EmuKernelInfo::default();
        // SAFETY: both pointers are valid for the call.
        let found = unsafe { (self.kernel_info)(name.as_ptr(), &mut info) };
        (found != 0).then_some(info.params_bytes as usize)
    }

    /// Runs a launch: what it did. `Err` holds the report of what the kernel did wrong.
    ///
    /// # Safety
    /// `launch.regions` describe memory that is valid, and exclusively the launch's where writable.
    pub unsafe fn launch(&self, launch: &EmuLaunch) -> std::result::Result<EmuCounts, String> {
        let mut report = EmuReport::default();
        // SAFETY: the emulator checks every access against the regions, which the caller vouches for.
        unsafe { (self.launch)(launch, &mut report) };
        if report.status == EMU_OK as i32 { Ok(report.counts) } else { Err(message(&report.message)) }
    }

    /// Encodes a tensor map by the driver's rules.
    pub fn encode(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        let TensorMapArrays { rank, dims, strides, box_sizes } = spec.arrays()?;
        let raw = EmuTensorMapSpec {
            base: spec.base,
            element: match spec.element {
                MapElement::U8 => EMU_U8,
                MapElement::Bf16 => EMU_BF16,
                MapElement::F32 => EMU_F32,
            },
            swizzle: match spec.swizzle {
                Swizzle::None => EMU_SWIZZLE_NONE,
                Swizzle::Span32 => EMU_SWIZZLE_32B,
                Swizzle::Span64 => EMU_SWIZZLE_64B,
                Swizzle::Span128 => EMU_SWIZZLE_128B,
            },
            rank,
            dims,
            strides,
            box_: box_sizes,
            ..Default::default()
        };
        let mut map = TensorMap::default();
        let mut reason = [0; 256];
        // SAFETY: all pointers are valid for the call; `base` is only stored.
        let status = unsafe { (self.encode)(&raw, &mut map, reason.as_mut_ptr(), reason.len() as u64) };
        if status == 0 {
            Ok(map)
        } else {
            Err(Error::Operand {
                operand: spec.operand,
                problem: OperandProblem::TensorMap { rule: message(&reason) },
            })
        }
    }
}

/// The emulator's fused sum of 32 E4M3 products onto `c`.
#[cfg(all(feature = "probes", has_emulator))]
pub fn fused_dot_e4m3(c: f32, a: &[u8; 32], b: &[u8; 32]) -> f32 {
    // SAFETY: the function reads 32 codes of each operand.
    unsafe { emu_fused_dot_e4m3(c, a.as_ptr(), b.as_ptr()) }
}

/// The emulator's fused sum of 16 BF16 products onto `c`.
#[cfg(all(feature = "probes", has_emulator))]
pub fn fused_dot_bf16(c: f32, a: &[u16; 16], b: &[u16; 16]) -> f32 {
    // SAFETY: the function reads 16 values of each operand.
    unsafe { emu_fused_dot_bf16(c, a.as_ptr(), b.as_ptr()) }
}

/// A C string in a fixed array, cut at the array's end if it has no terminator.
pub(super) fn message(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A kernel's name for C; our names hold no zero byte.
pub(crate) fn kernel_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

/// How the emulator runs. The same options and operands replay the same run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Chooses the interleaving of threads and of asynchronous copies.
    pub seed: u64,
    /// Checks the state of every byte of shared memory, and the rules of wgmma.
    pub check_state: bool,
    /// Checks that conflicting accesses are ordered.
    pub check_races: bool,
    /// Multiprocessors that the planner sees: the size of a persistent grid.
    pub multiprocessors: u32,
    /// Has the tensor core write zeros instead of products. Results are wrong then; what a launch does is counted in seconds
    /// at sizes whose products would take hours.
    pub skip_products: bool,
    /// Counts the wavefronts of accesses to shared memory, which makes those slower.
    pub count_wavefronts: bool,
}

impl Default for EmulatorOptions {
    /// All checks, seed 0, eight multiprocessors.
    fn default() -> Self {
        Self {
            seed: 0,
            check_state: true,
            check_races: true,
            multiprocessors: 8,
            skip_products: false,
            count_wavefronts: false,
        }
    }
}

/// The emulator and what a launch needs besides its operands.
pub(crate) struct Emulator {
    pub library: EmulatorLibrary,
    pub options: EmulatorOptions,
    pub error_words: [AtomicU32; FAULT_KINDS as usize],
    counts: Mutex<BTreeMap<String, KernelCounts>>,
}

impl Emulator {
    pub fn new(library: EmulatorLibrary, options: EmulatorOptions) -> Self {
        Self { library, options, error_words: Default::default(), counts: Mutex::default() }
    }

    /// Adds what a launch did.
    pub fn count(&self, kernel: &str, counts: &EmuCounts) {
        let mut all = self.lock_counts();
        let of_kernel = all.entry(kernel.to_owned()).or_default();
        of_kernel.launches += 1;
        of_kernel.counts.add(counts);
    }

    pub fn take_counts(&self) -> BTreeMap<String, KernelCounts> {
        std::mem::take(&mut self.lock_counts())
    }

    fn lock_counts(&self) -> MutexGuard<'_, BTreeMap<String, KernelCounts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
