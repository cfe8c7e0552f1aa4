//! Borrowed views: a slice with a shape. Whatever a view promises is checked when it is made.

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use std::fmt;

mod element;
mod extent;
pub(crate) mod tensor_map;

pub(crate) use element::Stored;
pub use element::{Element, MapElement};
pub(crate) use extent::Extent;

/// Memory that a kernel reads: host memory for the emulator, device memory for a GPU.
pub enum Slice<'a, T> {
    /// Host memory.
    Host(&'a [T]),
    /// Memory of a GPU.
    Cuda(CudaView<'a, T>),
}

/// Memory that a kernel writes.
pub enum SliceMut<'a, T> {
    /// Host memory.
    Host(&'a mut [T]),
    /// Memory of a GPU.
    Cuda(CudaViewMut<'a, T>),
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        match self {
            Self::Host(slice) => Self::Host(slice),
            Self::Cuda(view) => Self::Cuda(view.slice(..)),
        }
    }
}

/// Where it lies and how long it is: what it holds is too much to print, and a GPU's memory is not to be read for it.
impl<T> fmt::Debug for Slice<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match self {
            Self::Host(_) => "Host",
            Self::Cuda(_) => "Cuda",
        };
        write!(f, "Slice::{memory}(len {})", self.len())
    }
}

impl<T> fmt::Debug for SliceMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match self {
            Self::Host(_) => "Host",
            Self::Cuda(_) => "Cuda",
        };
        write!(f, "SliceMut::{memory}(len {})", self.len())
    }
}

impl<T> Slice<'_, T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Host(slice) => slice.len(),
            Self::Cuda(view) => view.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> SliceMut<'_, T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Host(slice) => slice.len(),
            Self::Cuda(view) => view.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

/// A matrix that a kernel reads: `rows` x `columns`, row-major, rows `pitch` elements apart.
#[derive(Debug)]
pub struct Matrix<'a, T> {
    pub(crate) slice: Slice<'a, T>,
    pub(crate) extent: Extent,
}

impl<T> Clone for Matrix<'_, T> {
    fn clone(&self) -> Self {
        Self { slice: self.slice.clone(), extent: self.extent }
    }
}

impl<'a, T> Matrix<'a, T> {
    /// Rows that follow each other without a gap.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`] when the slice does not hold `rows * columns` elements.
    pub fn new(slice: impl Into<Slice<'a, T>>, rows: usize, columns: usize) -> Result<Self> {
        Self::with_pitch(slice, rows, columns, columns)
    }

    /// Rows `pitch` elements apart; what lies between them is never read.
    ///
    /// # Errors
    /// [`Error::PitchTooSmall`], [`Error::SliceTooShort`].
    pub fn with_pitch(
        slice: impl Into<Slice<'a, T>>,
        rows: usize,
        columns: usize,
        pitch: usize,
    ) -> Result<Self> {
        let slice = slice.into();
        let extent = Extent::checked(rows, columns, pitch, slice.len())?;
        Ok(Self { slice, extent })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.extent.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.extent.columns
    }

    /// Elements from one row to the next.
    pub fn pitch(&self) -> usize {
        self.extent.pitch
    }
}

/// A matrix that a kernel writes.
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    pub(crate) slice: SliceMut<'a, T>,
    pub(crate) extent: Extent,
}

impl<'a, T> MatrixMut<'a, T> {
    /// Rows that follow each other without a gap.
    ///
    /// # Errors
    /// [`Error::SliceTooShort`] when the slice does not hold `rows * columns` elements.
    pub fn new(slice: impl Into<SliceMut<'a, T>>, rows: usize, columns: usize) -> Result<Self> {
        Self::with_pitch(slice, rows, columns, columns)
    }

    /// Rows `pitch` elements apart; what lies between them is never touched.
    ///
    /// # Errors
    /// [`Error::PitchTooSmall`], [`Error::SliceTooShort`].
    pub fn with_pitch(
        slice: impl Into<SliceMut<'a, T>>,
        rows: usize,
        columns: usize,
        pitch: usize,
    ) -> Result<Self> {
        let slice = slice.into();
        let extent = Extent::checked(rows, columns, pitch, slice.len())?;
        Ok(Self { slice, extent })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.extent.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.extent.columns
    }

    /// Elements from one row to the next.
    pub fn pitch(&self) -> usize {
        self.extent.pitch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_matrix_may_end_before_its_last_pitch() {
        let data = [0.0_f32; 9];
        assert!(Matrix::with_pitch(&data[..], 2, 4, 5).is_ok());
        assert_eq!(
            Matrix::with_pitch(&data[..8], 2, 4, 5).err().unwrap().to_string(),
            "[2, 4] with pitch 5 needs 9 elements, the slice has 8"
        );
    }

    /// What a view prints says where and how much, and no element.
    #[test]
    fn a_view_prints_its_shape() {
        let data = [0.0_f32; 9];
        let matrix = Matrix::with_pitch(&data[..], 2, 4, 5).unwrap();
        assert_eq!((matrix.rows(), matrix.columns(), matrix.pitch()), (2, 4, 5));
        let text = format!("{matrix:?}");
        assert!(text.contains("Slice::Host(len 9)") && text.contains("pitch: 5"), "{text}");
    }

    #[test]
    fn sizes_beyond_the_address_space_are_refused_not_wrapped() {
        let data = [0.0_f32; 4];
        let error = Matrix::with_pitch(&data[..], usize::MAX, 1, usize::MAX).err().unwrap();
        assert!(matches!(error, Error::SliceTooShort { needed: u64::MAX, .. }), "{error}");
    }
}
