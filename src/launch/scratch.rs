//! Memory that a run needs besides its operands, cut into pieces.

use std::mem::transmute;

use cudarc::driver::CudaViewMut;

use super::operand::Layout;
use crate::device::RawSliceMut;
use crate::error::{Error, OperandProblem, Result};
use crate::tensor::{SliceMut, Stored};

/// What the address of scratch is a multiple of, in bytes.
pub const SCRATCH_ALIGN: usize = 16;

/// Cuts scratch into typed pieces; what they hold before the run does not matter.
pub(crate) struct Pieces<'a> {
    /// None: only the size is asked for.
    memory: Option<SliceMut<'a, u8>>,
    bytes: usize,
}

impl<'a> Pieces<'a> {
    /// Pieces of nothing, to learn how many [`bytes`](Self::bytes) they need.
    pub fn counted() -> Self {
        Self { memory: None, bytes: 0 }
    }

    /// Pieces of scratch that has the `bytes` that were counted.
    pub fn of(memory: SliceMut<'a, u8>, bytes: usize) -> Result<Self> {
        check_len(memory.len(), bytes)?;
        if let SliceMut::Host(host) = &memory
            && bytes > 0
        {
            SCRATCH.check_address(host.as_ptr().cast_mut().cast(), 1)?;
        }
        Ok(Self { memory: Some(memory), bytes: 0 })
    }

    /// The next `len` elements.
    pub fn take<T: Stored>(&mut self, len: usize) -> SliceMut<'a, T> {
        let start = self.bytes;
        self.bytes += (len * size_of::<T>()).next_multiple_of(SCRATCH_ALIGN);
        match &mut self.memory {
            None => SliceMut::Host(&mut []),
            // SAFETY: no other piece has these bytes, and those of all pieces were counted.
            Some(memory) => unsafe { piece(memory, start, len) },
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What a launch asks of scratch.
pub(super) const SCRATCH: Layout = Layout::of_any_shape("scratch").aligned(SCRATCH_ALIGN as u64);

/// Fails unless there are as many bytes.
pub(super) fn check_len(got: usize, needed: usize) -> Result<()> {
    if got >= needed {
        return Ok(());
    }
    Err(Error::Operand { operand: SCRATCH.name, problem: OperandProblem::TooShort { needed, got } })
}

/// `len` elements from byte `start` on.
///
/// # Safety
/// `memory` has them, and no other piece does.
unsafe fn piece<'a, T: Stored>(memory: &mut SliceMut<'a, u8>, start: usize, len: usize) -> SliceMut<'a, T> {
    match memory {
        SliceMut::Host(host) => {
            let address = host.as_mut_ptr().wrapping_add(start).cast();
            // SAFETY: these elements of the borrowed memory are nobody else's, they start at a multiple of `SCRATCH_ALIGN`, and
            // every element type is valid whatever its bits are.
            SliceMut::Host(unsafe { std::slice::from_raw_parts_mut(address, len) })
        }
        SliceMut::Raw(raw) => {
            let address = raw.address().wrapping_add(start).cast();
            // SAFETY: these elements of the borrowed memory are nobody else's.
            SliceMut::Raw(unsafe { RawSliceMut::borrowed(address, len) })
        }
        SliceMut::Cuda(view) => {
            let mut bytes = view.slice_mut(start..start + len * size_of::<T>());
            // SAFETY: every element type is valid whatever its bits are, and the view has as many bytes.
            let elements = unsafe { bytes.transmute_mut::<T>(len) };
            let elements = elements.unwrap_or_else(|| unreachable!("a view of {len} elements"));
            // SAFETY: nobody else has these bytes for as long as the memory is borrowed; cudarc cannot split for longer than
            // a call.
            SliceMut::Cuda(unsafe { transmute::<CudaViewMut<'_, T>, CudaViewMut<'a, T>>(elements) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'a>(pieces: &mut Pieces<'a>) -> (SliceMut<'a, u8>, SliceMut<'a, f32>, SliceMut<'a, i32>) {
        (pieces.take(3), pieces.take(5), pieces.take(0))
    }

    #[test]
    fn pieces_lie_apart_in_what_was_counted() {
        let mut counted = Pieces::counted();
        cut(&mut counted);
        assert_eq!(counted.bytes(), 16 + 32);
        let mut memory = [0_u128; 3];
        let bytes = memory.as_mut_ptr().cast::<u8>();
        // SAFETY: three words of 16 bytes, which nobody else uses meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, 48) };
        let mut pieces = Pieces::of(SliceMut::Host(bytes), counted.bytes()).unwrap();
        let (SliceMut::Host(a), SliceMut::Host(b), SliceMut::Host(c)) = cut(&mut pieces) else {
            panic!("pieces of the host's memory")
        };
        assert_eq!((a.len(), b.len(), c.len()), (3, 5, 0));
        a.fill(0xff);
        b.fill(f32::from_bits(0x0102_0304));
        assert_eq!(
            memory.map(|word| word.to_le_bytes()[..4].to_vec()),
            [vec![0xff, 0xff, 0xff, 0], vec![4, 3, 2, 1], vec![4, 3, 2, 1],]
        );
    }

    #[test]
    fn scratch_that_is_short_or_anywhere_is_refused() {
        let mut memory = [0_u128; 3];
        let bytes = memory.as_mut_ptr().cast::<u8>();
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, 48) };
        let refused = |memory: SliceMut<'_, u8>, bytes| Pieces::of(memory, bytes).err().unwrap().to_string();
        assert_eq!(
            refused(SliceMut::Host(&mut bytes[..40]), 48),
            "scratch must have at least 48 bytes, got 40"
        );
        assert_eq!(
            refused(SliceMut::Host(&mut bytes[8..]), 32),
            "scratch: address must be a multiple of 16 bytes, got 8"
        );
        assert!(Pieces::of(SliceMut::Host(&mut []), 0).is_ok());
    }
}
