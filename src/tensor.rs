//! Borrowed views: a slice with a shape. Whatever a view promises is checked when it is made.

use cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DeviceRepr};
use float8::F8E4M3;
use half::bf16;

use crate::error::{Error, Result, Shape};
use crate::tensor_map::MapElement;

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for float8::F8E4M3 {}
}

/// Element types of the kernels: `f32`, [`bf16`], [`F8E4M3`] and `u8`, bytes that hold more than one of them.
pub trait Element: DeviceRepr + Copy + Send + Sync + 'static + sealed::Sealed {
    /// The TMA data type.
    #[doc(hidden)]
    const MAP: MapElement;
}

impl Element for u8 {
    const MAP: MapElement = MapElement::U8;
}
impl Element for f32 {
    const MAP: MapElement = MapElement::F32;
}
impl Element for bf16 {
    const MAP: MapElement = MapElement::Bf16;
}
impl Element for F8E4M3 {
    const MAP: MapElement = MapElement::U8;
}

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

impl<T> Slice<'_, T> {
    fn len(&self) -> usize {
        match self {
            Self::Host(slice) => slice.len(),
            Self::Cuda(view) => view.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> SliceMut<'_, T> {
    fn len(&self) -> usize {
        match self {
            Self::Host(slice) => slice.len(),
            Self::Cuda(view) => view.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
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

/// Rows, columns and the distance between rows, all in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub rows: usize,
    pub columns: usize,
    pub pitch: usize,
}

impl Extent {
    /// Checks that rows do not overlap and that `len` elements hold the matrix.
    fn checked(rows: usize, columns: usize, pitch: usize, len: usize) -> Result<Self> {
        if pitch < columns {
            return Err(Error::PitchTooSmall { columns, pitch });
        }
        let extent = Self { rows, columns, pitch };
        let needed = extent.elements();
        if needed > len as u128 {
            let needed = u64::try_from(needed).unwrap_or(u64::MAX);
            return Err(Error::SliceTooShort { shape: extent.shape(), pitch, needed, len });
        }
        Ok(extent)
    }

    /// Elements from the first to the last one, both included.
    fn elements(&self) -> u128 {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        (self.rows as u128 - 1) * self.pitch as u128 + self.columns as u128
    }

    pub fn shape(&self) -> Shape {
        Shape(self.rows, self.columns)
    }

    /// Fails unless the shape is `rows` x `columns`.
    pub fn expect(&self, what: &'static str, rows: usize, columns: usize) -> Result<()> {
        let expected = Shape(rows, columns);
        if self.shape() == expected {
            Ok(())
        } else {
            Err(Error::Shape { what, expected, got: self.shape() })
        }
    }

    /// Fails unless the rows follow each other without a gap.
    pub fn expect_dense(&self, operand: &'static str) -> Result<()> {
        let Self { rows, columns, pitch } = *self;
        if rows <= 1 || pitch == columns { Ok(()) } else { Err(Error::NotDense { operand, columns, pitch }) }
    }

    /// Fails unless rows start `align` bytes apart.
    pub fn expect_pitch(&self, operand: &'static str, element_bytes: usize, align: u64) -> Result<()> {
        // The pitch of a single row is moot, however large.
        let got = (self.pitch as u64).saturating_mul(element_bytes as u64);
        if self.rows <= 1 || got.is_multiple_of(align) {
            return Ok(());
        }
        Err(Error::Misaligned { operand, what: "pitch", need: align, got })
    }
}

/// A matrix that a kernel reads: `rows` x `columns`, row-major, rows `pitch` elements apart.
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
}

/// A matrix that a kernel writes.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_may_end_before_its_last_pitch() {
        let data = [0.0_f32; 9];
        assert!(Matrix::with_pitch(&data[..], 2, 4, 5).is_ok());
        assert_eq!(
            Matrix::with_pitch(&data[..8], 2, 4, 5).err().unwrap().to_string(),
            "[2, 4] with pitch 5 needs 9 elements, the slice has 8"
        );
    }

    #[test]
    fn sizes_beyond_the_address_space_are_refused_not_wrapped() {
        let data = [0.0_f32; 4];
        let error = Matrix::with_pitch(&data[..], usize::MAX, 1, usize::MAX).err().unwrap();
        assert!(matches!(error, Error::SliceTooShort { needed: u64::MAX, .. }), "{error}");
    }
}
