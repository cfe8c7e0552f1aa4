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
// Only read. The low half of the poison is an index.
scalar!(i64, I64, (1 << 40) + 1, (1 << 40) + 1, |x| x as u32, |x: u32| x.cast_signed().into());
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
