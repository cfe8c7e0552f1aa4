//! The memory of one operation: filled from a seed, refilled in place, compared by its bits.

use std::sync::Arc;

use deepseek_kernels::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use deepseek_kernels::{F8E4M3, bf16};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// What an operand is filled with.
#[derive(Debug, Clone)]
pub enum Fill {
    /// Anything from -1 to 1.
    Values,
    /// 1/2 or 1: scales, weights.
    Halves,
    /// Whole numbers below this one.
    Below(i32),
    /// These, whatever the seed.
    Fixed(Vec<i32>),
    /// A result: what must be overwritten.
    Poison,
}

pub trait Word: DeviceRepr + Copy {
    fn of(value: f32) -> Self;
    fn poison() -> Self;
    fn bits(self) -> u32;
}

macro_rules! words {
    ($($word:ty, $of:expr, $poison:expr, $bits:expr;)*) => {$(
        impl Word for $word {
            fn of(value: f32) -> Self {
                $of(value)
            }
            fn poison() -> Self {
                $poison
            }
            fn bits(self) -> u32 {
                $bits(self)
            }
        }
    )*};
}
words! {
    bf16, bf16::from_f32, bf16::from_bits(0x7fc1), |x: bf16| x.to_bits().into();
    F8E4M3, F8E4M3::from_f32, F8E4M3::from_bits(0x7f), |x: F8E4M3| x.to_bits().into();
    f32, |x| x, f32::from_bits(0x7fc1_0001), f32::to_bits;
    i32, |x| x as i32, i32::MIN, |x: i32| x as u32;
    u32, |x| x as u32, u32::MAX, |x| x;
}

/// Operands of one type, in the order in which they were added.
pub struct Operands<T> {
    pub slices: Vec<CudaSlice<T>>,
    fills: Vec<(usize, Fill)>,
}

impl<T> Default for Operands<T> {
    fn default() -> Self {
        Self { slices: Vec::new(), fills: Vec::new() }
    }
}

impl<T: Word> Operands<T> {
    /// Room for `len` elements, and never none: a driver allocates nothing of that size.
    fn add(&mut self, stream: &Arc<CudaStream>, len: usize, fill: Fill) {
        self.slices.push(stream.clone_htod(&vec![T::poison(); len.max(1)]).expect("operand"));
        self.fills.push((len, fill));
    }

    fn refill(&mut self, stream: &Arc<CudaStream>, rng: &mut Xoshiro256PlusPlus) {
        for (slice, (len, fill)) in self.slices.iter_mut().zip(&self.fills) {
            let data: Vec<T> = (0..*len)
                .map(|i| match fill {
                    Fill::Values => T::of(rng.random_range(-1.0..1.0)),
                    Fill::Halves => T::of(if rng.random() { 0.5 } else { 1.0 }),
                    Fill::Below(end) => T::of(rng.random_range(0..*end) as f32),
                    Fill::Fixed(values) => T::of(values[i] as f32),
                    Fill::Poison => T::poison(),
                })
                .collect();
            if !data.is_empty() {
                stream.memcpy_htod(&data, slice).expect("refill");
            }
        }
    }

    fn bits(&self, stream: &Arc<CudaStream>) -> Vec<Vec<u32>> {
        let download = |slice| stream.clone_dtoh(slice).expect("download");
        self.slices.iter().map(|slice| download(slice).into_iter().map(T::bits).collect()).collect()
    }
}

/// All operands of an operation, in memory of the engine's.
#[derive(Default)]
pub struct Arena {
    pub bf16: Operands<bf16>,
    pub f8: Operands<F8E4M3>,
    pub f32: Operands<f32>,
    pub i32: Operands<i32>,
    pub u32: Operands<u32>,
}

/// What may be added to an arena: a type's list of operands.
pub trait Placed: Word {
    fn operands(arena: &mut Arena) -> &mut Operands<Self>
    where
        Self: Sized;
}

macro_rules! placed {
    ($($word:ty, $field:ident;)*) => {$(
        impl Placed for $word {
            fn operands(arena: &mut Arena) -> &mut Operands<Self> {
                &mut arena.$field
            }
        }
    )*};
}
placed! { bf16, bf16; F8E4M3, f8; f32, f32; i32, i32; u32, u32; }

impl Arena {
    pub fn with<T: Placed>(mut self, stream: &Arc<CudaStream>, len: usize, fill: Fill) -> Self {
        T::operands(&mut self).add(stream, len, fill);
        self
    }

    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// New data in the same memory, in the order of `stream`.
    pub fn refill(&mut self, stream: &Arc<CudaStream>, seed: u64) {
        let rng = &mut Xoshiro256PlusPlus::seed_from_u64(seed);
        self.bf16.refill(stream, rng);
        self.f8.refill(stream, rng);
        self.f32.refill(stream, rng);
        self.i32.refill(stream, rng);
        self.u32.refill(stream, rng);
    }

    /// All there is, in the order of `stream`.
    pub fn bits(&self, stream: &Arc<CudaStream>) -> Vec<Vec<u32>> {
        [
            self.bf16.bits(stream),
            self.f8.bits(stream),
            self.f32.bits(stream),
            self.i32.bits(stream),
            self.u32.bits(stream),
        ]
        .concat()
    }
}
