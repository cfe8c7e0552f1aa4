//! Operands by address, as an engine with memory of its own gives them.

use deepseek_kernels::cudarc::driver::{DevicePtr, DeviceSlice};
use deepseek_kernels::{Buffer, RawSlice, RawSliceMut, Slice, SliceMut};

use super::Scalar;
use super::far::Mapping;

/// Where a buffer lies.
pub fn address<T: Scalar>(buffer: &Buffer<T>) -> *const T {
    match buffer.slice(0) {
        Slice::Host(host) => host.as_ptr(),
        // What cudarc orders here is not ordered any more when the address is used.
        Slice::Cuda(view) => view.device_ptr(view.stream()).0 as *const T,
        Slice::Raw(raw) => unreachable!("a buffer knows its memory, not {raw:?}"),
    }
}

/// The elements of a buffer from `start` on, by their address.
pub fn slice<T: Scalar>(buffer: &Buffer<T>, start: usize) -> Slice<'_, T> {
    let len = buffer.slice(start).len();
    // SAFETY: the buffer holds the elements; it was complete when it was made, and who runs on it does so on one stream and
    // waits before it is read or dropped.
    unsafe { RawSlice::new(buffer, address(buffer).wrapping_add(start), len) }.into()
}

/// The elements of a buffer from `start` on, by their address.
pub fn slice_mut<T: Scalar>(buffer: &mut Buffer<T>, start: usize) -> SliceMut<'_, T> {
    let len = buffer.slice(start).len();
    let address = match buffer.slice_mut(0) {
        SliceMut::Host(host) => host.as_mut_ptr(),
        SliceMut::Cuda(_) | SliceMut::Raw(_) => address(buffer).cast_mut(),
    };
    // SAFETY: as above, and nobody else has the buffer.
    unsafe { RawSliceMut::new(buffer, address.wrapping_add(start), len) }.into()
}

/// The elements of a mapping from `start` on, by their address.
pub fn far<T: Scalar>(mapping: &Mapping<T>, start: usize) -> Slice<'_, T> {
    let (address, len) = (mapping.address().wrapping_add(start), mapping.len() - start);
    // SAFETY: the mapping holds the elements; the emulator, which alone has such memory, is done with them when a run returns.
    unsafe { RawSlice::new(mapping, address.cast_const(), len) }.into()
}

/// The elements of a mapping from `start` on, by their address.
pub fn far_mut<T: Scalar>(mapping: &mut Mapping<T>, start: usize) -> SliceMut<'_, T> {
    let (address, len) = (mapping.address().wrapping_add(start), mapping.len() - start);
    // SAFETY: as above, and nobody else has the mapping.
    unsafe { RawSliceMut::new(mapping, address, len) }.into()
}
