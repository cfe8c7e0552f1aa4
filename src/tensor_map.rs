//! TMA descriptors: how a matrix is cut into boxes. Encoded per launch, by the driver or by the emulator.

use std::ffi::c_void;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swizzle {
    None,
    Span32,
    Span64,
    Span128,
}

impl Swizzle {
    /// The swizzle for rows of this many bytes.
    pub fn for_row_bytes(bytes: u32) -> Self {
        match bytes {
            32 => Self::Span32,
            64 => Self::Span64,
            128 => Self::Span128,
            _ => Self::None,
        }
    }
}

/// A row-major matrix in global memory and the box that one copy moves; what outreaches the matrix reads as zero and is
/// not written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorMapSpec {
    /// Name in messages.
    pub operand: &'static str,
    pub element: MapElement,
    pub base: *const c_void,
    pub rows: usize,
    pub columns: usize,
    /// Elements.
    pub pitch: usize,
    pub box_rows: u32,
    pub box_columns: u32,
    pub swizzle: Swizzle,
}

impl TensorMapSpec {
    /// Bytes from row to row, as the descriptor wants them: a multiple of 16 even where a single row makes it moot.
    pub fn pitch_bytes(&self) -> u64 {
        (self.pitch as u64 * self.element.bytes()).next_multiple_of(16)
    }
}
