//! A matrix in memory, and what judges say of it.

use std::ops::Range;

use anyhow::Result;
use deepseek_kernels::{Buffer, Matrix, MatrixMut, Slice, SliceMut, Vector, VectorMut};

use super::far::Mapping;
use super::{Scalar, raw};
use crate::judge::Check;

/// What an operand lies in.
pub(super) enum Room<T> {
    Buffer(Buffer<T>),
    /// The same, given by its address.
    Raw(Buffer<T>),
    /// Of which only rows and what is next to them are ever looked at.
    Far(Mapping<T>),
}

/// Elements before and behind a far row that are poison.
pub(super) const BESIDE: usize = 64;

/// A matrix in memory, whose other elements are poison.
pub struct Operand<T> {
    pub(super) room: Room<T>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) offset: usize,
    pub(super) pitch: usize,
}

/// What an operand holds, and how it lies there.
struct Held<T> {
    elements: Vec<T>,
    offset: usize,
    pitch: usize,
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
        match &self.room {
            Room::Buffer(buffer) => buffer.slice(start),
            Room::Raw(buffer) => raw::slice(buffer, start),
            Room::Far(mapping) => raw::far(mapping, start),
        }
    }

    /// From an element of the first row on.
    pub fn slice_mut_from(&mut self, column: usize) -> SliceMut<'_, T> {
        let start = self.offset + column;
        match &mut self.room {
            Room::Buffer(buffer) => buffer.slice_mut(start),
            Room::Raw(buffer) => raw::slice_mut(buffer, start),
            Room::Far(mapping) => raw::far_mut(mapping, start),
        }
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

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.columns
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

    /// All there is, or of far rows these and what is beside them.
    fn held(&self) -> Result<Held<T>> {
        let Self { offset, pitch, .. } = *self;
        Ok(match &self.room {
            Room::Buffer(buffer) | Room::Raw(buffer) => Held { elements: buffer.to_vec()?, offset, pitch },
            Room::Far(mapping) => {
                let with_neighbours = |row: usize| {
                    let first = offset + row * pitch - BESIDE;
                    mapping.part(first, (self.columns + 2 * BESIDE).min(mapping.len() - first))
                };
                let elements = (0..self.rows).flat_map(with_neighbours).copied().collect();
                Held { elements, offset: BESIDE, pitch: self.columns + 2 * BESIDE }
            }
        })
    }

    /// The matrix, and where around it something is not poison any more: an index into what it lies in.
    fn split(&self) -> Result<(Vec<T>, Option<usize>)> {
        let Held { elements: host, offset, pitch } = self.held()?;
        let mut data = Vec::with_capacity(self.rows * self.columns);
        let (mut end, mut written) = (0, None);
        let mut poison = |gap: Range<usize>| {
            let place = || host[gap.clone()].iter().position(|x| x.bits() != T::POISON.bits());
            written = written.or_else(|| place().map(|i| gap.start + i));
        };
        for row in 0..self.rows {
            let start = offset + row * pitch;
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
