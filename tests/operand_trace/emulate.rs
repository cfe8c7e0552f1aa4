//! The emulator's side of the trace.

use std::ffi::{CStr, CString, c_void};
use std::ptr;

use deepseek_kernels as _; // links the emulator

use crate::trace::Operation;
use check::trace::{Launch, REGION_BYTES, REGIONS, region};
use deepseek_kernels::bindings::{
    EMU_OK, EmuLaunch, EmuRegion, EmuReport, EmuTraceRecord, TensorMap, emu_launch,
};

/// Operations by CTA and thread, in program order.
pub type Traces = Vec<Vec<Vec<Operation>>>;

/// Runs the launch in trace mode.
pub fn run(launch: &Launch, threads: usize) -> Result<Traces, String> {
    let kernel = CString::new(launch.kernel.as_str()).map_err(|error| error.to_string())?;
    let regions = (0..REGIONS).map(|i| EmuRegion {
        base: ptr::without_provenance(region(i) as usize),
        bytes: REGION_BYTES,
        writable: 1,
        name: c"operand".as_ptr(),
        ..Default::default()
    });
    let regions: Vec<_> = regions.collect();
    // The struct is as aligned as its tensor maps.
    let mut params = vec![TensorMap::default(); launch.params.len().div_ceil(size_of::<TensorMap>())];
    for (map, bytes) in params.iter_mut().zip(launch.params.chunks(size_of::<TensorMap>())) {
        map.opaque[..bytes.len()].copy_from_slice(bytes);
    }
    let mut traces: Traces = vec![vec![Vec::new(); threads]; launch.grid as usize];
    let request = EmuLaunch {
        kernel: kernel.as_ptr(),
        params: params.as_ptr().cast(),
        params_bytes: launch.params.len() as u64,
        grid: launch.grid,
        smem_bytes: launch.smem_bytes,
        regions: regions.as_ptr(),
        region_count: regions.len() as u32,
        trace: Some(record),
        trace_context: ptr::from_mut(&mut traces).cast(),
        ..Default::default()
    };
    let mut report = EmuReport::default();
    // SAFETY: everything `request` points to outlives the call; in trace mode no region is read or written.
    unsafe { emu_launch(&request, &mut report) };
    if report.status == EMU_OK as i32 {
        return Ok(traces);
    }
    // SAFETY: the emulator ends the message with a zero.
    let message = unsafe { CStr::from_ptr(report.message.as_ptr()) };
    Err(format!("{}: the emulator: {}", launch.kernel, message.to_string_lossy()))
}

unsafe extern "C" fn record(context: *mut c_void, record: *const EmuTraceRecord) {
    // SAFETY: `context` is the traces of `run`, which nobody else touches during the call; the record is the
    // emulator's, its name a string literal, its operands an array that lives through this call.
    let (traces, record, name, operands) = unsafe {
        let record = &*record;
        let operands = match record.operand_count {
            0 => &[],
            count => std::slice::from_raw_parts(record.operands, count as usize),
        };
        (&mut *context.cast::<Traces>(), record, CStr::from_ptr::<'static>(record.op), operands)
    };
    let name = name.to_str().unwrap_or("a name that is not UTF-8");
    traces[record.cta as usize][record.thread as usize].push(Operation { name, operands: operands.to_vec() });
}
