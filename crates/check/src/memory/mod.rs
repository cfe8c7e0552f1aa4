//! Operands in memory: where they lie, and what lies around them.

mod output;
mod scales;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::ops::Range;

use anyhow::Result;
use deepseek_kernels::cudarc::driver::DeviceRepr;
use deepseek_kernels::{Buffer, Device, DeviceKind, F8E4M3, Matrix, MatrixMut, Slice, SliceMut, bf16};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;

use crate::judge::Check;

pub use output::Output;

/// How the operands of a problem lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// As tight as alignment allows: what is timed.
    Plain,
    /// Behind some elements of poison, with poison between the rows, as the seed draws it for each operand, and behind the
    /// last one. Read, poison spoils a result; written, it is found.
    Poisoned(u64),
}

/// Element types of operands.
pub trait Scalar: DeviceRepr + Copy + Debug + PartialEq + Send + Sync + 'static {
    /// In files.
    const DTYPE: Dtype;
    /// Around operands: for floating point a NaN, for indices one that is none.
    const POISON: Self;
    /// Fills outputs before a run: what no kernel writes, or next to never.
    const SENTINEL: Self;
    /// The bits, in the low end of a word.
    fn bits(self) -> u32;
    /// Of the bits in the low end of a word.
    fn from_bits(bits: u32) -> Self;
    /// The bits, where all NaN count as one: neither PTX nor IEEE 754 promises which NaN an operation gives.
    fn canonical_bits(self) -> u32 {
        self.bits()
    }
}

macro_rules! scalar {
    ($type:ty, $dtype:ident, $poison:expr, $sentinel:expr, $bits:expr, $from_bits:expr $(, $nan:expr)?) => {
        impl Scalar for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            const POISON: Self = $poison;
            const SENTINEL: Self = $sentinel;
            fn bits(self) -> u32 {
                $bits(self)
            }
            fn from_bits(bits: u32) -> Self {
                $from_bits(bits)
            }
            $(fn canonical_bits(self) -> u32 {
                if self.is_nan() { $nan } else { self.bits() }
            })?
        }
    };
}

scalar!(u8, U8, 0xff, 0xa5, u32::from, |x| x as u8);
scalar!(u32, U32, 0xdead_beef, 0x5a5a_5a5a, |x| x, |x| x);
scalar!(i32, I32, i32::MIN, 0x5a5a_5a5a, i32::cast_unsigned, u32::cast_signed);
scalar!(
    f32,
    F32,
    f32::from_bits(0x7fe5_a5e5),
    f32::from_bits(0x7fe5_a5e5),
    f32::to_bits,
    f32::from_bits,
    0x7fff_ffff
);
scalar!(
    bf16,
    BF16,
    bf16::from_bits(0x7fe5),
    bf16::from_bits(0x7fe5),
    |x: bf16| x.to_bits().into(),
    |x| bf16::from_bits(x as u16),
    0x7fff
);
// Every NaN code counts as one, so that no NaN can say that nothing was written.
scalar!(
    F8E4M3,
    F8_E4M3,
    F8E4M3::from_bits(0xff),
    F8E4M3::from_bits(0x01),
    |x: F8E4M3| x.to_bits().into(),
    |x| F8E4M3::from_bits(x as u8),
    0x7f
);

/// Where the rows of a matrix may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Address and pitch are multiples of so many bytes.
    Aligned(usize),
    /// Rows follow each other without a gap; the address is a multiple of so many bytes.
    Packed(usize),
}

/// Elements of poison behind an operand.
const BEHIND: usize = 64;

/// Puts operands on a device.
pub struct Arena<'d> {
    device: &'d Device,
    /// Draws where poisoned operands lie.
    rng: Option<Xoshiro256PlusPlus>,
}

impl<'d> Arena<'d> {
    /// For the operands of one problem.
    pub fn new(device: &'d Device, memory: Memory) -> Self {
        let rng = match memory {
            Memory::Plain => None,
            Memory::Poisoned(seed) => Some(Xoshiro256PlusPlus::seed_from_u64(seed)),
        };
        Self { device, rng }
    }

    /// A matrix to be read, row-major and dense in `data`. On the emulator nothing lies behind its last element, and a read
    /// there is outside every region; on a GPU poison does.
    ///
    /// # Errors
    /// Of the device.
    ///
    /// # Panics
    /// Unless `data` has `rows * columns` elements.
    pub fn input<T: Scalar>(
        &mut self,
        data: &[T],
        shape: (usize, usize),
        layout: Rows,
    ) -> Result<Operand<T>> {
        assert_eq!(data.len(), shape.0 * shape.1, "elements of {shape:?}");
        self.repeated(data, shape, layout)
    }

    /// As [`Self::input`], a matrix whose rows are those of `data` again and again.
    ///
    /// # Errors
    /// Of the device.
    pub fn repeated<T: Scalar>(
        &mut self,
        data: &[T],
        shape: (usize, usize),
        layout: Rows,
    ) -> Result<Operand<T>> {
        assert!(data.len().is_multiple_of(shape.1.max(1)), "rows of {} columns", shape.1);
        let behind = if self.device.kind() == DeviceKind::Emulated { 0 } else { BEHIND };
        self.place(data, shape, layout, behind)
    }

    /// A list to be read: one row.
    ///
    /// # Errors
    /// Of the device.
    pub fn list<T: Scalar>(&mut self, data: &[T]) -> Result<Operand<T>> {
        self.input(data, (1, data.len()), Rows::Packed(size_of::<T>()))
    }

    /// A matrix that is read and written.
    ///
    /// # Errors
    /// As [`Self::input`].
    ///
    /// # Panics
    /// As [`Self::input`].
    pub fn in_out<T: Scalar>(
        &mut self,
        data: &[T],
        shape: (usize, usize),
        layout: Rows,
    ) -> Result<Operand<T>> {
        assert_eq!(data.len(), shape.0 * shape.1, "elements of {shape:?}");
        self.place(data, shape, layout, BEHIND)
    }

    /// A matrix of sentinels, to be overwritten.
    ///
    /// # Errors
    /// Of the device.
    pub fn output<T: Scalar>(&mut self, shape: (usize, usize), layout: Rows) -> Result<Operand<T>> {
        self.place(&vec![T::SENTINEL; shape.0 * shape.1], shape, layout, BEHIND)
    }

    fn place<T: Scalar>(
        &mut self,
        data: &[T],
        (rows, columns): (usize, usize),
        layout: Rows,
        behind: usize,
    ) -> Result<Operand<T>> {
        let (Rows::Aligned(align) | Rows::Packed(align)) = layout;
        let unit = (align / size_of::<T>()).max(1);
        let [before, gap, behind] = match &mut self.rng {
            None => [0; 3],
            Some(rng) => [rng.random_range(1..4), rng.random_range(1..4), behind],
        };
        let pitch = match layout {
            Rows::Packed(_) => columns,
            Rows::Aligned(_) => columns.next_multiple_of(unit) + gap * unit,
        };
        let offset = before * unit;
        let length = rows.saturating_sub(1) * pitch + if rows == 0 { 0 } else { columns };
        let mut host = vec![T::POISON; offset + length + behind];
        for (row, values) in (0..rows).zip(data.chunks_exact(columns.max(1)).cycle()) {
            host[offset + row * pitch..][..columns].copy_from_slice(values);
        }
        Ok(Operand { buffer: self.device.upload(&host)?, rows, columns, offset, pitch })
    }
}

/// A matrix in a buffer, whose other elements are poison.
pub struct Operand<T> {
    buffer: Buffer<T>,
    rows: usize,
    columns: usize,
    offset: usize,
    pitch: usize,
}

impl<T: Scalar> Operand<T> {
    /// From the first element on.
    pub fn slice(&self) -> Slice<'_, T> {
        self.buffer.slice(self.offset)
    }

    /// From the first element on.
    pub fn slice_mut(&mut self) -> SliceMut<'_, T> {
        self.buffer.slice_mut(self.offset)
    }

    /// From an element of the first row on.
    pub fn slice_from(&self, column: usize) -> Slice<'_, T> {
        self.buffer.slice(self.offset + column)
    }

    /// From an element of the first row on.
    pub fn slice_mut_from(&mut self, column: usize) -> SliceMut<'_, T> {
        self.buffer.slice_mut(self.offset + column)
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
        Matrix::with_pitch(self.slice_from(columns.start), self.rows, columns.len(), self.pitch)
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
