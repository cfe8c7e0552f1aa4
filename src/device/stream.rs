//! Where work is queued, and what its user orders.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::CudaStream;

#[cfg(doc)]
use super::Device;

/// The queue that a run joins: a stream of the GPU, or none on the emulator, which finishes before `run` returns.
///
/// # Order
/// With cudarc's event tracking on, as it comes, a run waits for earlier users of its operands on other streams, and they
/// for it; operands that belong to another `CudaContext` object of the same context are joined by their stream. With
/// tracking off the caller orders, and keeps operands until the run is over, as the safety rules of cudarc's
/// `disable_event_tracking` say; so it does with operands by address ([`RawSlice`](crate::RawSlice)), tracking on or off.
///
/// Where nothing has to be ordered so, with tracking off, with operands by address and in captures, a launch is three calls of
/// the driver: which context is current, whether the stream is captured, the kernel. A tracked operand is waited for and
/// recorded by every run that uses it, on its own stream too: cudarc's later users on other streams rely on that record.
///
/// # Captures
/// A run may be captured into a graph, in every mode, tracked or not: it only adds its kernels, waits for no event and
/// records none. The caller orders:
/// * work on the operands, scratch included, before a launch of the graph, and work after it on another stream than the
///   graph's: cudarc does not know what a graph does;
/// * runs of one capture on several streams, by events of the caller's.
///
/// A graph holds addresses. As long as it may be launched, keep its operands and a clone of the [`Device`] (the kernels and
/// the words they report to); plans may go.
///
/// While any stream is captured, [`Device::gpu`], every `plan` and [`Device::upload`] may be called and do not become part
/// of the graph; an upload is refused while [`Device::stream`] itself is captured.
/// [`Buffer::to_vec`](crate::Buffer::to_vec) needs a wait for the whole context, which CUDA forbids: it is refused. The last
/// clone of a device waits when it is dropped; if a stream that has launched its kernels is captured then, it leaves them
/// loaded instead. Of captures in which no kernel of the device was launched it cannot know, and CUDA invalidates these.
#[derive(Clone, Copy)]
pub enum Stream<'a> {
    /// A stream of the device's context.
    Cuda(&'a Arc<CudaStream>),
    /// The calling thread.
    Emulated,
}

/// Which of the two; of a GPU's, the driver's handle.
impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cuda(stream) => write!(f, "Stream::Cuda({:?})", stream.cu_stream()),
            Self::Emulated => f.write_str("Stream::Emulated"),
        }
    }
}

impl<'a> From<&'a Arc<CudaStream>> for Stream<'a> {
    fn from(stream: &'a Arc<CudaStream>) -> Self {
        Self::Cuda(stream)
    }
}
