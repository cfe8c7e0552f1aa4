//! Rows further apart than 32 bits count: memory of which only what is touched takes any.

use std::slice;

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::Scalar;

/// The address space that the rows of one operand may take: strides of tensor maps are less than 2^40 bytes, and a matrix may
/// be one of several that lie below each other.
const MOST_BYTES: usize = 1 << 39;

/// Elements from row to row, at least: so many that 32 bits cannot count the elements before the last row, nor, unless the
/// rows are many, those of one.
pub fn distance<T>(seed: u64, rows: usize) -> usize {
    let wanted = if seed.is_multiple_of(2) { 1 << 31 } else { 1 << 32 };
    wanted.min(MOST_BYTES / (rows.max(1) * size_of::<T>()))
}

/// Elements of this process, all 0.
pub struct Mapping<T> {
    start: *mut T,
    len: usize,
}

impl<T: Scalar> Mapping<T> {
    /// # Errors
    /// Of the operating system.
    pub fn zeros(len: usize) -> Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: the kernel chooses where; nothing else lies there.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len * size_of::<T>(), access, flags) };
        Ok(Self { start: start.with_context(|| format!("no address space for {len} elements"))?.cast(), len })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn address(&self) -> *mut T {
        self.start
    }

    /// Some of the elements.
    ///
    /// # Panics
    /// Unless there are as many.
    pub fn part(&self, first: usize, len: usize) -> &[T] {
        assert!(len <= self.len && first <= self.len - len, "{len} elements from {first} on of {}", self.len);
        // SAFETY: they are mapped, and of a type to which all bits are values. Kernels run to their end before anybody looks.
        unsafe { slice::from_raw_parts(self.start.wrapping_add(first), len) }
    }

    /// Some of the elements.
    ///
    /// # Panics
    /// Unless there are as many.
    pub fn part_mut(&mut self, first: usize, len: usize) -> &mut [T] {
        assert!(len <= self.len && first <= self.len - len, "{len} elements from {first} on of {}", self.len);
        // SAFETY: as above, and nobody else has the mapping.
        unsafe { slice::from_raw_parts_mut(self.start.wrapping_add(first), len) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and whoever borrowed it is gone. What remains mapped after an error only
        // takes addresses.
        let _ = unsafe { munmap(self.start.cast(), self.len * size_of::<T>()) };
    }
}
