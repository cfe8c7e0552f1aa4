//! The emulator's operand trace (`cuda/hopper/emulated/machine/trace.h`): what each thread of a launch does, in program order.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::ops::Range;
use std::ptr;

use super::bindings::*;
use super::emulated::{kernel_name, message};

/// A launch on memory that never exists.
#[derive(Debug)]
pub struct TracedLaunch<'a> {
    /// Name of the kernel.
    pub kernel: &'a str,
    /// CTAs.
    pub grid: u32,
    /// Dynamic shared memory per CTA.
    pub smem_bytes: u32,
    /// The kernel's parameter struct.
    pub params: &'a [u8],
    /// Addresses that pointers in it may have.
    pub regions: &'a [Range<u64>],
}

/// One operation: by which thread of which CTA, the name of the function in `ptx/`, and its operands.
pub type Record<'a> = &'a mut dyn FnMut(usize, usize, &'static str, &[u64]);

/// What stands where a CTA reads a count, if the caller says so.
pub type Word<'a> = &'a dyn Fn(usize, u64) -> Option<u32>;

struct Context<'a> {
    record: Record<'a>,
    word: Word<'a>,
    names: BTreeMap<u64, String>,
}

impl TracedLaunch<'_> {
    /// Runs the launch in trace mode; the operations of a thread come in program order. Of what `word` does not know the emulator
    /// makes something up. Returns what the kernel calls places in shared memory, as `full[2]`, by their addresses.
    ///
    /// # Errors
    /// The emulator's report when the launch is impossible.
    pub fn run(&self, word: Word<'_>, record: Record<'_>) -> Result<BTreeMap<u64, String>, String> {
        let kernel = kernel_name(self.kernel);
        let region = |range: &Range<u64>| EmuRegion {
            base: ptr::without_provenance(range.start as usize),
            bytes: range.end - range.start,
            writable: 1,
            name: c"operand".as_ptr(),
            ..Default::default()
        };
        let regions: Vec<EmuRegion> = self.regions.iter().map(region).collect();
        // The struct is as aligned as its tensor maps.
        let mut params = vec![TensorMap::default(); self.params.len().div_ceil(size_of::<TensorMap>())];
        for (map, bytes) in params.iter_mut().zip(self.params.chunks(size_of::<TensorMap>())) {
            map.opaque[..bytes.len()].copy_from_slice(bytes);
        }
        let mut context = Context { record, word, names: BTreeMap::new() };
        let request = EmuLaunch {
            kernel: kernel.as_ptr(),
            params: params.as_ptr().cast(),
            params_bytes: self.params.len() as u64,
            grid: self.grid,
            smem_bytes: self.smem_bytes,
            regions: regions.as_ptr(),
            region_count: regions.len() as u32,
            trace: Some(recorded),
            trace_context: ptr::from_mut(&mut context).cast(),
            trace_word: Some(said),
            ..Default::default()
        };
        let mut report = EmuReport::default();
        // SAFETY: everything `request` points to outlives the call; in trace mode no region is read or written.
        unsafe { emu_launch(&request, &mut report) };
        match report.status == EMU_OK as i32 {
            true => Ok(context.names),
            false => Err(format!("{}: the emulator: {}", self.kernel, message(&report.message))),
        }
    }
}

unsafe extern "C" fn recorded(context: *mut c_void, record: *const EmuTraceRecord) {
    // SAFETY: `context` is that of `run`, which nobody else touches during the call; the record is the emulator's, its
    // name a string literal, its operands an array that lives through this call.
    let (context, record, name, operands) = unsafe {
        let record = &*record;
        let operands = match record.operand_count {
            0 => &[],
            count => std::slice::from_raw_parts(record.operands, count as usize),
        };
        (&mut *context.cast::<Context>(), record, CStr::from_ptr::<'static>(record.op), operands)
    };
    let name = name.to_str().unwrap_or("a name that is not UTF-8");
    if let ("name_shared", &[address, text, index]) = (name, operands) {
        // SAFETY: the kernel's name for the place, a string literal.
        let text = unsafe { CStr::from_ptr(ptr::with_exposed_provenance::<c_char>(text as usize)) };
        context.names.insert(address, format!("{}[{index}]", text.to_string_lossy()));
        return;
    }
    (context.record)(record.cta as usize, record.thread as usize, name, operands);
}

unsafe extern "C" fn said(context: *mut c_void, cta: u32, address: u64, word: *mut u32) -> i32 {
    // SAFETY: as in `recorded`; `word` is a variable of the caller's.
    let (context, word) = unsafe { (&*context.cast::<Context>(), &mut *word) };
    let Some(said) = (context.word)(cta as usize, address) else { return 0 };
    *word = said;
    1
}
