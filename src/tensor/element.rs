//! Element types.

use cudarc::driver::DeviceRepr;
use float8::F8E4M3;
use half::bf16;

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
