//! A matrix in memory, and what judges say of it.

use std::ops::Range;

use anyhow::Result;
use deepseek_kernels::{Buffer, Matrix, MatrixMut, Slice, SliceMut, Vector, VectorMut};

use super::{Scalar, raw};
use crate::judge::Check;

/// A matrix in a buffer, whose other elements are poison.
pub struct Operand<T> {
    pub(super) buffer: Buffer<T>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) offset: usize,
    pub(super) pitch: usize,
    /// Given by its address.
    pub(super) raw: bool,
}

impl<T: Scalar> Operand<T> {
    /// From the first element on.
    pub fn slice(&self) -> Slice<'_, T> {
        self.slice_from(0)
    }

    /// From the first element on.
    pub fn slice_mut(&mut self) -> SliceMut<'_, T> {
        self.slice_mut_from(0)
    }

    /// From an element of the first row on.
    pub fn slice_from(&self, column: usize) -> Slice<'_, T> {
        let start = self.offset + column;
        if self.raw { raw::slice(&self.buffer, start) } else { self.buffer.slice(start) }
    }

    /// From an element of the first row on.
    pub fn slice_mut_from(&mut self, column: usize) -> SliceMut<'_, T> {
        let start = self.offset + column;
        if self.raw { raw::slice_mut(&mut self.buffer, start) } else { self.buffer.slice_mut(start) }
    }

    /// The view of the first row.
    ///
    /// # Errors
    /// None: the buffer holds it.
    pub fn vector(&self) -> deepseek_kernels::Result<Vector<'_, T>> {
        Vector::new(self.slice(), self.columns)
    }

    /// The view of the first row.
    ///
    /// # Errors
    /// As [`Self::vector`].
    pub fn vector_mut(&mut self) -> deepseek_kernels::Result<VectorMut<'_, T>> {
        let columns = self.columns;
        VectorMut::new(self.slice_mut(), columns)
    }

    /// The view.
    ///
    /// # Errors
    /// None: the buffer holds the matrix.
    pub fn matrix(&self) -> deepseek_kernels::Result<Matrix<'_, T>> {
        Matrix::with_pitch(self.slice(), self.rows, self.columns, self.pitch)
    }

    /// The view.
    ///
    /// # Errors
    /// None: the buffer holds the matrix.
    pub fn matrix_mut(&mut self) -> deepseek_kernels::Result<MatrixMut<'_, T>> {
        let Self { rows, columns, pitch, .. } = *self;
        MatrixMut::with_pitch(self.slice_mut(), rows, columns, pitch)
    }

    /// The view of some columns.
    ///
    /// # Errors
    /// None: the buffer holds the matrix.
    pub fn part(&self, columns: Range<usize>) -> deepseek_kernels::Result<Matrix<'_, T>> {
        self.matrix()?.column_range(columns)
    }

    /// Elements from one row to the next.
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// What it holds now, row-major and dense.
    ///
    /// # Errors
    /// Of the device, those of earlier launches included.
    pub fn values(&self) -> Result<Vec<T>> {
        Ok(self.split()?.0)
    }

    /// The matrix, and where around it something is not poison any more: an index into the buffer.
    fn split(&self) -> Result<(Vec<T>, Option<usize>)> {
        let host = self.buffer.to_vec()?;
        let mut data = Vec::with_capacity(self.rows * self.columns);
        let (mut end, mut written) = (0, None);
        let mut poison = |gap: Range<usize>| {
            let place = || host[gap.clone()].iter().position(|x| x.bits() != T::POISON.bits());
            written = written.or_else(|| place().map(|i| gap.start + i));
        };
        for row in 0..self.rows {
            let start = self.offset + row * self.pitch;
            poison(end..start);
            end = start + self.columns;
            data.extend_from_slice(&host[start..end]);
        }
        poison(end..host.len());
        Ok((data, written))
    }

    /// Nothing around it was written.
    ///
    /// # Errors
    /// Of the device.
    pub fn guarded(&self, name: &str) -> Result<Check> {
        let (data, around) = self.split()?;
        let failure = around.map(|i| format!("element {i} around {name} was written"));
        Ok(Check::equal("guards", data.len(), failure))
    }

    /// All of it was written, and nothing around it.
    ///
    /// # Errors
    /// Of the device.
    pub fn written(&self, name: &str) -> Result<Check> {
        let (data, around) = self.split()?;
        let left = data.iter().position(|x| x.bits() == T::SENTINEL.bits());
        let place = |i: usize| format!("{name}[{}, {}] was not written", i / self.columns, i % self.columns);
        let failure = left.map(place);
        let failure = failure.or_else(|| around.map(|i| format!("element {i} around {name} was written")));
        Ok(Check::equal("written", data.len(), failure))
    }

    /// It holds `expected`, bit for bit, all NaN being one, and nothing around it was written. `oracle` says who expects it.
    ///
    /// # Errors
    /// Of the device.
    pub fn equals(&self, oracle: &'static str, name: &str, expected: &[T]) -> Result<Check> {
        self.rows_equal(oracle, name, 0..self.rows, expected)
    }

    /// As [`Self::equals`], of some rows; `expected` is what they hold.
    ///
    /// # Errors
    /// Of the device.
    pub fn rows_equal(
        &self,
        oracle: &'static str,
        name: &str,
        rows: Range<usize>,
        expected: &[T],
    ) -> Result<Check> {
        let (mut data, around) = self.split()?;
        data.truncate(rows.end * self.columns);
        let mut wanted = data[..rows.start * self.columns].to_vec();
        wanted.extend_from_slice(expected);
        let failure = Check::difference(name, self.columns, &data, &wanted);
        let failure = failure.or_else(|| around.map(|i| format!("element {i} around {name} was written")));
        let sample = (rows.len() < self.rows).then_some([rows.len(), self.columns]);
        Ok(Check { sample, ..Check::equal(oracle, expected.len(), failure) })
    }
}
