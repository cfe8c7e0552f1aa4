//! TMA descriptors: how a tensor is cut into boxes. Encoded per launch, by the driver or by the emulator.

use std::ffi::c_void;

use crate::error::{Error, Result};
use crate::tensor::Extent;

/// Element types that TMA distinguishes here; E4M3 travels as bytes.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapElement {
    U8,
    Bf16,
    F32,
}

impl MapElement {
    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// How a box's rows are permuted in shared memory (`cuda/tile/swizzle.h`).
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    None,
    Span32,
    Span64,
    Span128,
}

impl Swizzle {
    /// The swizzle for rows of this many bytes.
    pub(crate) fn for_row_bytes(bytes: u32) -> Self {
        match bytes {
            32 => Self::Span32,
            64 => Self::Span64,
            128 => Self::Span128,
            _ => Self::None,
        }
    }
}

/// Dimensions of a tensor that TMA can describe.
pub(crate) const MAX_RANK: usize = 5;

/// A dimension of a tensor other than the contiguous one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dimension {
    pub size: u64,
    /// Bytes from one index to the next.
    pub stride: u64,
    pub box_size: u32,
}

impl Dimension {
    /// The rows of a matrix.
    pub fn rows(extent: &Extent, element: MapElement, box_size: u32) -> Self {
        Self::every(extent.pitch, extent.rows, element, box_size)
    }

    /// An index every `pitch` elements. The descriptor wants strides in multiples of 16 bytes, and below 2^40, even where a
    /// single index makes the stride moot.
    pub fn every(pitch: usize, size: usize, element: MapElement, box_size: u32) -> Self {
        const LARGEST: u64 = (1 << 40) - 16;
        let bytes = (pitch as u64).saturating_mul(element.bytes());
        let stride = if size > 1 { bytes } else { bytes.min(LARGEST).next_multiple_of(16) };
        Self { size: size as u64, stride, box_size }
    }
}

/// A tensor in global memory and the box that one copy moves; what outreaches the tensor reads as zero and is
/// not written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorMapSpec<'a> {
    /// Name in messages.
    pub operand: &'static str,
    pub element: MapElement,
    pub base: *const c_void,
    /// Of a row: elements that follow each other in memory.
    pub columns: u64,
    pub box_columns: u32,
    /// The other dimensions, fastest first: one for a matrix.
    pub outer: &'a [Dimension],
    pub swizzle: Swizzle,
}

/// A spec as the encoders take it, dimensions fastest first.
pub(crate) struct TensorMapArrays {
    pub rank: u32,
    pub dims: [u64; MAX_RANK],
    /// Of dimensions 1, 2, ...
    pub strides: [u64; MAX_RANK - 1],
    pub box_sizes: [u32; MAX_RANK],
}

impl TensorMapSpec<'_> {
    /// Fails unless the rank is one that TMA knows.
    pub fn arrays(&self) -> Result<TensorMapArrays> {
        let rank = 1 + self.outer.len();
        if !(2..=MAX_RANK).contains(&rank) {
            let reason = format!("expected 2 to {MAX_RANK} dimensions, got {rank}");
            return Err(Error::TensorMap { operand: self.operand, reason });
        }
        let mut arrays = TensorMapArrays {
            rank: rank as u32,
            dims: [self.columns, 0, 0, 0, 0],
            strides: [0; MAX_RANK - 1],
            box_sizes: [self.box_columns, 0, 0, 0, 0],
        };
        for (i, dimension) in self.outer.iter().enumerate() {
            arrays.dims[i + 1] = dimension.size;
            arrays.strides[i] = dimension.stride;
            arrays.box_sizes[i + 1] = dimension.box_size;
        }
        Ok(arrays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pitch_of_a_single_row_is_moot() {
        let stride = |rows, pitch| {
            let extent = Extent { rows, columns: 4, pitch };
            Dimension::rows(&extent, MapElement::F32, 1).stride
        };
        assert_eq!((stride(1, usize::MAX), stride(1, 5), stride(2, 8)), ((1 << 40) - 16, 32, 32));
    }
}
