//! Slices with rows and columns.

use std::ops::Range;

#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, ViewProblem};

use super::extent::Extent;
use super::slice::{Slice, SliceMut};

/// A matrix that a kernel reads: `rows` x `columns`, row-major, rows `pitch` elements apart.
#[derive(Debug)]
pub struct Matrix<'a, T> {
    pub(crate) slice: Slice<'a, T>,
    pub(crate) extent: Extent,
}

/// A matrix that a kernel writes; nothing between its rows is touched.
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    pub(crate) slice: SliceMut<'a, T>,
    pub(crate) extent: Extent,
}

impl<T> Clone for Matrix<'_, T> {
    fn clone(&self) -> Self {
        Self { slice: self.slice.clone(), extent: self.extent }
    }
}

/// What both have in common.
macro_rules! matrix {
    ($name:ident, $slice:ident, $life:lifetime $(, $mut:tt)?) => {
        impl<'a, T> $name<'a, T> {
            /// Rows that follow each other without a gap.
            ///
            /// # Errors
            /// [`Error::View`] when the slice does not hold `rows * columns` elements.
            pub fn new(slice: impl Into<$slice<'a, T>>, rows: usize, columns: usize) -> Result<Self> {
                Self::with_pitch(slice, rows, columns, columns)
            }

            /// Rows `pitch` elements apart; what lies between them is never touched.
            ///
            /// # Errors
            /// [`Error::View`] when rows overlap, or the slice is too short.
            pub fn with_pitch(
                slice: impl Into<$slice<'a, T>>,
                rows: usize,
                columns: usize,
                pitch: usize,
            ) -> Result<Self> {
                let slice = slice.into();
                let extent = Extent::checked(rows, columns, pitch, slice.len())?;
                Ok(Self { slice, extent })
            }

            /// Some of its columns: an operand may lie beside others in one matrix.
            ///
            /// # Errors
            /// [`Error::View`] when there are not that many.
            pub fn column_range(&$($mut)? self, columns: Range<usize>) -> Result<$name<$life, T>> {
                let Range { start, end } = columns;
                if start > end || end > self.extent.columns {
                    return Err(ViewProblem::NoSuchColumns { start, end, shape: self.extent.shape() }.into());
                }
                let extent = Extent { columns: end - start, ..self.extent };
                Ok($name { slice: self.slice.tail(start), extent })
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
    };
}

matrix!(Matrix, Slice, 'a);
matrix!(MatrixMut, SliceMut, '_, mut);

/// What was written, for those who read it.
impl<'a, T> From<&'a MatrixMut<'_, T>> for Matrix<'a, T> {
    fn from(matrix: &'a MatrixMut<'_, T>) -> Self {
        Self { slice: (&matrix.slice).into(), extent: matrix.extent }
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
    fn columns_of_a_matrix_are_one_of_the_same_pitch() {
        let mut data: Vec<u8> = (0..9).collect();
        let mut matrix = MatrixMut::with_pitch(&mut data, 2, 4, 5).unwrap();
        let part = matrix.column_range(1..3).unwrap();
        assert_eq!((part.rows(), part.columns(), part.pitch()), (2, 2, 5));
        assert!(matches!(part.slice, SliceMut::Host([1, 2, 3, 4, 5, 6, 7, 8])));
        let error = matrix.column_range(3..5).err().unwrap().to_string();
        assert_eq!(error, "columns 3..5 are not in [2, 4]");
    }

    #[test]
    fn sizes_beyond_the_address_space_are_refused_not_wrapped() {
        let data = [0.0_f32; 4];
        let error = Matrix::with_pitch(&data[..], usize::MAX, 1, usize::MAX).err().unwrap();
        assert!(error.to_string().contains(&format!("needs {} elements", u64::MAX)), "{error}");
    }
}
