//! Time on a GPU, by CUDA events.

use std::sync::Arc;
use std::time::Duration;

use deepseek_kernels::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, sys::CUevent_flags};

/// Written between launches so that nothing of the operands stays in L2: several times its 50 MiB.
pub const FLUSH_BYTES: usize = 256 << 20;

/// Time of `launches` runs on the stream, flushing L2 before each when `cold`; the flushes are not counted.
pub fn time(
    stream: &Arc<CudaStream>,
    flush: Option<&mut CudaSlice<u8>>,
    launches: u64,
    mut run: impl FnMut(),
) -> Duration {
    let event = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("event");
    let elapsed = |start: &CudaEvent, end: &CudaEvent| {
        Duration::from_secs_f32(start.elapsed_ms(end).expect("ms") / 1e3)
    };
    match flush {
        None => {
            let start = event();
            (0..launches).for_each(|_| run());
            elapsed(&start, &event())
        }
        Some(flush) => (0..launches)
            .map(|_| {
                stream.memset_zeros(flush).expect("flush");
                let start = event();
                run();
                elapsed(&start, &event())
            })
            .sum(),
    }
}
