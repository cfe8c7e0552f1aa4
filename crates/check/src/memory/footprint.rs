//! What an arena put on a GPU, kept: to be put there again and again, changed, in the same memory.

use deepseek_kernels::Buffer;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use safetensors::Dtype;

use super::{Scalar, raw};

/// Every operand that an arena has put on a GPU.
#[derive(Default)]
pub struct Footprint(Vec<Place>);

/// An operand.
pub struct Place {
    /// On the GPU.
    pub address: u64,
    /// What it held when it was put there.
    pub bytes: Vec<u8>,
    element_bytes: usize,
    /// Elements that may change places: a kernel takes any of them at any of these.
    movable: Vec<usize>,
    /// The element that asks for nothing, if there is one: index -1, a mask or a count of 0.
    nothing: Option<i32>,
}

impl Footprint {
    pub(super) fn add<T: Scalar>(&mut self, buffer: &Buffer<T>, data: &[T], any_order: bool) {
        assert!(size_of::<T>() <= size_of::<u32>(), "indices are of 32 bits in plain memory");
        let bytes = data.iter().flat_map(|x| x.bits().to_le_bytes().into_iter().take(size_of::<T>()));
        // Numbers, counts and masks: plain memory has no indices of these types.
        let number = matches!(T::DTYPE, Dtype::BF16 | Dtype::F32 | Dtype::F8_E4M3 | Dtype::U32);
        // A NaN, and what is no index, stays: what nobody reads lies there, and elsewhere it would drown what is read.
        let moves =
            |&i: &usize| (any_order || number) && data[i].canonical_bits() != T::POISON.canonical_bits();
        self.0.push(Place {
            address: raw::address(buffer) as u64,
            bytes: bytes.collect(),
            element_bytes: size_of::<T>(),
            movable: (0..data.len()).filter(moves).collect(),
            nothing: if any_order { Some(-1) } else { (T::DTYPE == Dtype::U32).then_some(0) },
        });
    }

    pub fn places(&self) -> &[Place] {
        &self.0
    }
}

impl Place {
    /// Whether an element can ask for nothing.
    pub fn can_hold_fewer(&self) -> bool {
        self.nothing.is_some()
    }

    /// Other data of the same kind, the same ones for the same seed.
    ///
    /// With `fewer`, the last half of what can ask for nothing does: there is room for more tokens than there are.
    pub fn shuffled(&self, seed: u64, fewer: bool) -> Vec<u8> {
        let mut sources = self.movable.clone();
        sources.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed));
        let element = |i: usize| i * self.element_bytes..(i + 1) * self.element_bytes;
        let mut bytes = self.bytes.clone();
        for (&to, from) in self.movable.iter().zip(sources) {
            bytes[element(to)].copy_from_slice(&self.bytes[element(from)]);
        }
        if let Some(nothing) = self.nothing.filter(|_| fewer) {
            let rest = &self.movable[self.movable.len() / 2..];
            rest.iter().for_each(|&i| bytes[element(i)].copy_from_slice(&nothing.to_le_bytes()));
        }
        bytes
    }
}
