//! Memory that kernels use, wherever it is.

use std::fmt;

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

use super::{Extent, Stored, ViewMut};
use crate::device::{RawSlice, RawSliceMut};

/// Memory that a kernel reads: host memory for the emulator, device memory for a GPU.
pub enum Slice<'a, T> {
    /// Host memory.
    Host(&'a [T]),
    /// Memory of a GPU, whose users cudarc orders.
    Cuda(CudaView<'a, T>),
    /// Memory by its address, whose users the caller orders.
    Raw(RawSlice<'a, T>),
}

/// Memory that a kernel writes.
pub enum SliceMut<'a, T> {
    /// Host memory.
    Host(&'a mut [T]),
    /// Memory of a GPU, whose users cudarc orders.
    Cuda(CudaViewMut<'a, T>),
    /// Memory by its address, whose users the caller orders.
    Raw(RawSliceMut<'a, T>),
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        match self {
            Self::Host(slice) => Self::Host(slice),
            Self::Cuda(view) => Self::Cuda(view.slice(..)),
            Self::Raw(raw) => Self::Raw(raw.clone()),
        }
    }
}

/// What both have in common.
macro_rules! slice {
    ($name:ident) => {
        /// Where it lies and how long it is: what it holds is too much to print, and a GPU's memory is not to be read for it.
        impl<T> fmt::Debug for $name<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let memory = match self {
                    Self::Host(_) => "Host",
                    Self::Cuda(_) => "Cuda",
                    Self::Raw(_) => "Raw",
                };
                write!(f, "{}::{memory}(len {})", stringify!($name), self.len())
            }
        }

        impl<T> $name<'_, T> {
            /// Elements.
            pub fn len(&self) -> usize {
                match self {
                    Self::Host(slice) => slice.len(),
                    Self::Cuda(view) => view.len(),
                    Self::Raw(raw) => raw.len(),
                }
            }

            /// Whether there is none.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }
    };
}

slice!(Slice);
slice!(SliceMut);

impl<T> Slice<'_, T> {
    /// The elements from `start` on; none when there are not that many.
    pub(crate) fn tail(&self, start: usize) -> Self {
        let start = start.min(self.len());
        match self {
            Self::Host(slice) => Self::Host(&slice[start..]),
            Self::Cuda(view) => Self::Cuda(view.slice(start..)),
            Self::Raw(raw) => Self::Raw(raw.part(start, raw.len() - start)),
        }
    }
}

impl<T> SliceMut<'_, T> {
    /// The elements from `start` on; none when there are not that many.
    pub(crate) fn tail(&mut self, start: usize) -> SliceMut<'_, T> {
        let len = self.len();
        let start = start.min(len);
        match self {
            Self::Host(slice) => SliceMut::Host(&mut slice[start..]),
            Self::Cuda(view) => SliceMut::Cuda(view.slice_mut(start..)),
            Self::Raw(raw) => SliceMut::Raw(raw.part(start, len - start)),
        }
    }
}

/// As one row.
impl<'a, T: Stored + 'a> ViewMut<'a> for SliceMut<'a, T> {
    type Element = T;

    fn slice_mut(&mut self) -> &mut Self {
        self
    }

    fn extent(&self) -> Extent {
        Extent::of_vector(self.len())
    }
}

/// What was written, to be read.
impl<'a, T> From<&'a SliceMut<'_, T>> for Slice<'a, T> {
    fn from(slice: &'a SliceMut<'_, T>) -> Self {
        match slice {
            SliceMut::Host(host) => Self::Host(host),
            SliceMut::Cuda(view) => Self::Cuda(view.as_view()),
            SliceMut::Raw(raw) => Self::Raw(raw.as_raw()),
        }
    }
}

/// For a while.
impl<'a, T> From<&'a mut SliceMut<'_, T>> for SliceMut<'a, T> {
    fn from(slice: &'a mut SliceMut<'_, T>) -> Self {
        slice.tail(0)
    }
}

impl<'a, T> From<&'a [T]> for Slice<'a, T> {
    fn from(slice: &'a [T]) -> Self {
        Self::Host(slice)
    }
}
impl<'a, T> From<&'a Vec<T>> for Slice<'a, T> {
    fn from(vec: &'a Vec<T>) -> Self {
        Self::Host(vec)
    }
}
impl<'a, T> From<&'a CudaSlice<T>> for Slice<'a, T> {
    fn from(slice: &'a CudaSlice<T>) -> Self {
        Self::Cuda(slice.as_view())
    }
}
impl<'a, T> From<CudaView<'a, T>> for Slice<'a, T> {
    fn from(view: CudaView<'a, T>) -> Self {
        Self::Cuda(view)
    }
}
impl<'a, T> From<RawSlice<'a, T>> for Slice<'a, T> {
    fn from(raw: RawSlice<'a, T>) -> Self {
        Self::Raw(raw)
    }
}
impl<'a, T> From<&'a mut [T]> for SliceMut<'a, T> {
    fn from(slice: &'a mut [T]) -> Self {
        Self::Host(slice)
    }
}
impl<'a, T> From<&'a mut Vec<T>> for SliceMut<'a, T> {
    fn from(vec: &'a mut Vec<T>) -> Self {
        Self::Host(vec)
    }
}
impl<'a, T> From<&'a mut CudaSlice<T>> for SliceMut<'a, T> {
    fn from(slice: &'a mut CudaSlice<T>) -> Self {
        Self::Cuda(slice.as_view_mut())
    }
}
impl<'a, T> From<CudaViewMut<'a, T>> for SliceMut<'a, T> {
    fn from(view: CudaViewMut<'a, T>) -> Self {
        Self::Cuda(view)
    }
}
impl<'a, T> From<RawSliceMut<'a, T>> for SliceMut<'a, T> {
    fn from(raw: RawSliceMut<'a, T>) -> Self {
        Self::Raw(raw)
    }
}
