//! Element types.

use cudarc::driver::DeviceRepr;
use float8::F8E4M3;
use half::bf16;

/// What a view can hold: the kernels' structs point to a C type of theirs. Nobody outside of the crate can name it, so that it
/// seals [`Element`].
pub trait Stored {
    /// The C type.
    type Raw;
}

impl Stored for u8 {
    type Raw = u8;
}
impl Stored for u32 {
    type Raw = u32;
}
impl Stored for i32 {
    type Raw = i32;
}
impl Stored for i64 {
    type Raw = i64;
}
impl Stored for f32 {
    type Raw = f32;
}
impl Stored for bf16 {
    type Raw = u16;
}
impl Stored for F8E4M3 {
    type Raw = u8;
}

/// Element types of the kernels: `f32`, [`bf16`], [`F8E4M3`] and `u8`, bytes that hold more than one of them.
pub trait Element: DeviceRepr + Copy + Send + Sync + 'static + Stored {
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

/// Element types that TMA distinguishes here; E4M3 travels as bytes.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
