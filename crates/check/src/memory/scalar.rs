//! Element types.

use std::fmt::Debug;

use deepseek_kernels::cudarc::driver::DeviceRepr;
use deepseek_kernels::{F8E4M3, bf16};
use safetensors::Dtype;

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
    /// The nearest value, of floating point; none where there is no such infinity.
    fn narrowed(_: f32) -> Option<Self> {
        None
    }
    /// The value, of floating point.
    fn widened(self) -> Option<f32> {
        None
    }
    /// The bits, where all NaN count as one: neither PTX nor IEEE 754 promises which NaN an operation gives.
    fn canonical_bits(self) -> u32 {
        self.bits()
    }
}

macro_rules! scalar {
    ($type:ty, $dtype:ident, $poison:expr, $sentinel:expr, $bits:expr, $from_bits:expr
        $(, $nan:expr, $narrowed:expr, $widened:expr)?) => {
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
            }
            fn narrowed(x: f32) -> Option<Self> {
                $narrowed(x)
            }
            fn widened(self) -> Option<f32> {
                Some($widened(self))
            })?
        }
    };
}

scalar!(u8, U8, 0xff, 0xa5, u32::from, |x| x as u8);
scalar!(u32, U32, 0xdead_beef, 0x5a5a_5a5a, |x| x, |x| x);
scalar!(i32, I32, i32::MIN, 0x5a5a_5a5a, i32::cast_unsigned, u32::cast_signed);
// Only read. The low half of the poison is an index.
scalar!(i64, I64, (1 << 40) + 1, (1 << 40) + 1, |x| x as u32, |x: u32| x.cast_signed().into());
scalar!(
    f32,
    F32,
    f32::from_bits(0x7fe5_a5e5),
    f32::from_bits(0x7fe5_a5e5),
    f32::to_bits,
    f32::from_bits,
    0x7fff_ffff,
    Some,
    |x| x
);
scalar!(
    bf16,
    BF16,
    bf16::from_bits(0x7fe5),
    bf16::from_bits(0x7fe5),
    |x: bf16| x.to_bits().into(),
    |x| bf16::from_bits(x as u16),
    0x7fff,
    |x| Some(bf16::from_f32(x)),
    bf16::to_f32
);
// Every NaN code counts as one, so that no NaN can say that nothing was written.
scalar!(
    F8E4M3,
    F8_E4M3,
    F8E4M3::from_bits(0xff),
    F8E4M3::from_bits(0x01),
    |x: F8E4M3| x.to_bits().into(),
    |x| F8E4M3::from_bits(x as u8),
    0x7f,
    |x: f32| (!x.is_infinite()).then(|| F8E4M3::from_f32(x)),
    |x: F8E4M3| x.to_f32()
);
