//! TMA descriptors: how a tensor is cut into boxes. Encoded by the driver or by the emulator, once a plan.

use std::ffi::c_void;
use std::iter;

use super::element::MapElement;
use super::extent::Extent;
use crate::error::{Error, OperandProblem, Result};

/// How a box's rows are permuted in shared memory (`cuda/hopper/tile/swizzle.h`).
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

    /// Bytes of the rows that it permutes, when it does.
    fn span(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Span32 => Some(32),
            Self::Span64 => Some(64),
            Self::Span128 => Some(128),
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

    /// An index every `pitch` elements.
    pub fn every(pitch: usize, size: usize, element: MapElement, box_size: u32) -> Self {
        Self::spaced((pitch as u64).saturating_mul(element.bytes()), size, box_size)
    }

    /// An index every so many bytes. The descriptor wants strides in multiples of 16 bytes, and below 2^40, even where a
    /// single index makes the stride moot.
    pub fn spaced(bytes: u64, size: usize, box_size: u32) -> Self {
        const LARGEST: u64 = (1 << 40) - 16;
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
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct TensorMapArrays {
    pub rank: u32,
    pub dims: [u64; MAX_RANK],
    /// Of dimensions 1, 2, ...
    pub strides: [u64; MAX_RANK - 1],
    pub box_sizes: [u32; MAX_RANK],
}

impl TensorMapSpec<'_> {
    /// Fails unless the driver would take the map: it says no more than that a value is invalid.
    pub fn arrays(&self) -> Result<TensorMapArrays> {
        let rank = 1 + self.outer.len();
        if let Some(rule) = self.broken_rule(rank) {
            return Err(Error::Operand {
                operand: self.operand,
                problem: OperandProblem::TensorMap { rule },
            });
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

    /// The rules of `cuTensorMapEncodeTiled`, in the order of its documentation.
    fn broken_rule(&self, rank: usize) -> Option<String> {
        if !(2..=MAX_RANK).contains(&rank) {
            return Some(format!("expected 2 to {MAX_RANK} dimensions, got {rank}"));
        }
        if self.base.is_null() || !(self.base as u64).is_multiple_of(16) {
            return Some(format!(
                "the address must be a multiple of 16 bytes and not 0, got {:p}",
                self.base
            ));
        }
        let row = (self.columns, self.box_columns);
        for (size, box_size) in iter::once(row).chain(self.outer.iter().map(|d| (d.size, d.box_size))) {
            if !(1..=1 << 32).contains(&size) {
                return Some(format!("a dimension must be 1 to 2^32, got {size}"));
            }
            if !(1..=256).contains(&box_size) {
                return Some(format!("a box must be 1 to 256 wide, got {box_size}"));
            }
        }
        for stride in self.outer.iter().map(|dimension| dimension.stride) {
            if !stride.is_multiple_of(16) || stride >= 1 << 40 {
                return Some(format!("a stride must be a multiple of 16 bytes below 2^40, got {stride}"));
            }
        }
        let bytes = u64::from(self.box_columns) * self.element.bytes();
        if !bytes.is_multiple_of(16) {
            return Some(format!("a row of the box must be a multiple of 16 bytes, got {bytes}"));
        }
        let span = self.swizzle.span()?;
        (bytes > span).then(|| format!("a row of the box must fit the swizzle's {span} bytes, got {bytes}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each with one rule broken, and what the error says; the same on every machine, for no encoder is asked.
    #[test]
    fn a_refused_map_names_the_rule() {
        let base: *const c_void = std::ptr::without_provenance(4096);
        let good = Dimension { size: 8, stride: 256, box_size: 8 };
        let [thin, wide] = [0, 257].map(|box_size| Dimension { box_size, ..good });
        let [empty, endless] = [0, (1 << 32) + 1].map(|size| Dimension { size, ..good });
        let [odd, far] = [264, 1 << 40].map(|stride| Dimension { stride, ..good });
        let reason = |base, columns, box_columns, outer: &[Dimension], swizzle| {
            let element = MapElement::Bf16;
            let spec = TensorMapSpec { operand: "a", element, base, columns, box_columns, outer, swizzle };
            spec.arrays().err().map(|error| error.to_string())
        };
        let of = |outer: &[Dimension]| reason(base, 128, 64, outer, Swizzle::Span128);
        assert_eq!(of(&[good]), None);
        let odd_base = std::ptr::without_provenance(4104);
        for (got, expected) in [
            (of(&[]), "expected 2 to 5 dimensions, got 1"),
            (of(&[good; 5]), "expected 2 to 5 dimensions, got 6"),
            (
                reason(odd_base, 128, 64, &[good], Swizzle::None),
                "the address must be a multiple of 16 bytes and not 0, got 0x1008",
            ),
            (
                reason(std::ptr::null(), 128, 64, &[good], Swizzle::None),
                "the address must be a multiple of 16 bytes and not 0, got 0x0",
            ),
            (reason(base, 0, 64, &[good], Swizzle::None), "a dimension must be 1 to 2^32, got 0"),
            (of(&[empty]), "a dimension must be 1 to 2^32, got 0"),
            (of(&[good, endless]), "a dimension must be 1 to 2^32, got 4294967297"),
            (of(&[thin]), "a box must be 1 to 256 wide, got 0"),
            (of(&[wide]), "a box must be 1 to 256 wide, got 257"),
            (of(&[odd]), "a stride must be a multiple of 16 bytes below 2^40, got 264"),
            (of(&[far]), "a stride must be a multiple of 16 bytes below 2^40, got 1099511627776"),
            (
                reason(base, 128, 12, &[good], Swizzle::None),
                "a row of the box must be a multiple of 16 bytes, got 24",
            ),
            (
                reason(base, 128, 64, &[good], Swizzle::Span64),
                "a row of the box must fit the swizzle's 64 bytes, got 128",
            ),
        ] {
            assert_eq!(got, Some(format!("tensor map of a: {expected}")));
        }
    }

    #[test]
    fn the_pitch_of_a_single_row_is_moot() {
        let stride = |rows, pitch| {
            let extent = Extent { rows, columns: 4, pitch };
            Dimension::rows(&extent, MapElement::F32, 1).stride
        };
        assert_eq!((stride(1, usize::MAX), stride(1, 5), stride(2, 8)), ((1 << 40) - 16, 32, 32));
    }
}
