//! Operands in memory with guards around them.

use std::fmt::Debug;

use deepseek_kernels::cudarc::driver::DeviceRepr;
use deepseek_kernels::gemm::GemmOutput;
use deepseek_kernels::{Buffer, Device, Matrix, MatrixMut, Slice, SliceMut, bf16};
use oracles::gemm::Output;

/// Where a matrix lies in a larger buffer: elements before it, and from row to row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub offset: usize,
    pub pitch: usize,
}

impl Placement {
    pub fn dense(columns: usize) -> Self {
        Self { offset: 0, pitch: columns }
    }
}

/// A matrix in a buffer whose every other element is poison: read, it spoils a result; written, it is found.
pub struct Guarded<T> {
    buffer: Buffer<T>,
    rows: usize,
    columns: usize,
    placement: Placement,
    poison: T,
}

/// Elements behind the last row.
const TAIL: usize = 64;

impl<T: DeviceRepr + Copy> Guarded<T> {
    pub fn new(
        device: &Device,
        data: &[T],
        rows: usize,
        columns: usize,
        placement: Placement,
        poison: T,
    ) -> Self {
        Self::of_length(device, data, rows, columns, placement, poison, rows * placement.pitch + TAIL)
    }

    /// An operand that ends with its last element, so that a read past it is outside every region.
    pub fn ending(
        device: &Device,
        data: &[T],
        rows: usize,
        columns: usize,
        placement: Placement,
        poison: T,
    ) -> Self {
        let length = rows.saturating_sub(1) * placement.pitch + columns;
        Self::of_length(device, data, rows, columns, placement, poison, length)
    }

    /// `length` elements from the first one on.
    fn of_length(
        device: &Device,
        data: &[T],
        rows: usize,
        columns: usize,
        placement: Placement,
        poison: T,
        length: usize,
    ) -> Self {
        assert_eq!(data.len(), rows * columns);
        let mut host = vec![poison; placement.offset + length];
        for (row, values) in data.chunks(columns.max(1)).enumerate() {
            host[placement.offset + row * placement.pitch..][..columns].copy_from_slice(values);
        }
        let buffer = device.upload(&host).expect("upload");
        Self { buffer, rows, columns, placement, poison }
    }

    /// A matrix of poison, to be overwritten.
    pub fn unwritten(device: &Device, rows: usize, columns: usize, placement: Placement, poison: T) -> Self {
        Self::new(device, &vec![poison; rows * columns], rows, columns, placement, poison)
    }

    /// From the first element on.
    pub fn slice(&self) -> Slice<'_, T> {
        self.buffer.slice(self.placement.offset)
    }

    /// From an element of the first row on.
    pub fn slice_from(&self, column: usize) -> Slice<'_, T> {
        self.buffer.slice(self.placement.offset + column)
    }

    /// From the first element on.
    pub fn slice_mut(&mut self) -> SliceMut<'_, T> {
        self.buffer.slice_mut(self.placement.offset)
    }

    pub fn matrix(&self) -> Matrix<'_, T> {
        Matrix::with_pitch(self.slice(), self.rows, self.columns, self.placement.pitch).expect("view")
    }

    pub fn matrix_mut(&mut self) -> MatrixMut<'_, T> {
        let Self { rows, columns, placement, .. } = *self;
        MatrixMut::with_pitch(self.slice_mut(), rows, columns, placement.pitch).expect("view")
    }

    pub fn pitch(&self) -> usize {
        self.placement.pitch
    }

    /// The matrix, row-major and dense, after checking with `bits` that every element around it still is poison.
    pub fn into_checked<B: PartialEq + Debug>(self, bits: impl Fn(T) -> B) -> Vec<T> {
        let host = self.buffer.to_vec().expect("download");
        let mut data = Vec::with_capacity(self.rows * self.columns);
        for (index, &value) in host.iter().enumerate() {
            let column = index.checked_sub(self.placement.offset).map(|i| i % self.placement.pitch.max(1));
            let row = index.checked_sub(self.placement.offset).map(|i| i / self.placement.pitch.max(1));
            if column.is_some_and(|c| c < self.columns) && row.is_some_and(|r| r < self.rows) {
                data.push(value);
            } else {
                assert_eq!(bits(value), bits(self.poison), "element {index} around the matrix was written");
            }
        }
        data
    }
}

/// A NaN that no kernel produces: an element that still holds it was not written.
pub trait Sentinel: GemmOutput {
    const SENTINEL: Self;
    const OUTPUT_MODEL: Output;
    fn widen(self) -> f32;
    fn narrow(x: f32) -> Self;
    fn bits(self) -> u32;
}

impl Sentinel for bf16 {
    const SENTINEL: Self = bf16::from_bits(0x7fc1);
    const OUTPUT_MODEL: Output = Output::Bf16;
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(x: f32) -> Self {
        bf16::from_f32(x)
    }
    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

impl Sentinel for f32 {
    const SENTINEL: Self = f32::from_bits(0x7fc1_0001);
    const OUTPUT_MODEL: Output = Output::F32;
    fn widen(self) -> f32 {
        self
    }
    fn narrow(x: f32) -> Self {
        x
    }
    fn bits(self) -> u32 {
        self.to_bits()
    }
}
