//! Memory that a run needs besides its operands, cut into pieces.

use std::marker::PhantomData;
use std::mem::transmute;
use std::slice;

use cudarc::driver::CudaViewMut;

use super::operand::Layout;
use crate::device::RawSliceMut;
use crate::error::{Error, OperandProblem, Result};
use crate::tensor::{SliceMut, Stored};

/// What the address of scratch is a multiple of, in bytes.
pub const SCRATCH_ALIGN: usize = 16;

/// What a launch asks of scratch.
pub(super) const SCRATCH: Layout = Layout::of_any_shape("scratch").aligned(SCRATCH_ALIGN as u64);

/// Fails unless there are as many bytes.
pub(super) fn check_len(got: usize, needed: usize) -> Result<()> {
    if got >= needed {
        return Ok(());
    }
    Err(Error::Operand { operand: SCRATCH.name, problem: OperandProblem::TooShort { needed, got } })
}

/// Cuts scratch into typed pieces; what they hold before the run does not matter.
pub(crate) struct Pieces<'a> {
    memory: Memory<'a>,
    /// Bytes of the memory, and of the pieces so far.
    len: usize,
    taken: usize,
}

/// Where the pieces come from. Those of the host have one address that they all derive from.
enum Memory<'a> {
    /// Nowhere: only the size is asked for.
    Counted,
    Host(*mut u8, PhantomData<&'a mut [u8]>),
    Cuda(CudaViewMut<'a, u8>),
    Raw(RawSliceMut<'a, u8>),
}

impl<'a> Pieces<'a> {
    /// Pieces of nothing, to learn how many bytes they need.
    pub fn counted() -> Self {
        Self { memory: Memory::Counted, len: usize::MAX, taken: 0 }
    }

    /// Pieces of scratch that has the `bytes` that were counted.
    pub fn of(scratch: SliceMut<'a, u8>, bytes: usize) -> Result<Self> {
        check_len(scratch.len(), bytes)?;
        let len = scratch.len();
        let memory = match scratch {
            SliceMut::Host(host) => {
                let address = host.as_mut_ptr();
                if len > 0 {
                    SCRATCH.check_address(address.cast(), 1)?;
                }
                Memory::Host(address, PhantomData)
            }
            SliceMut::Cuda(view) => Memory::Cuda(view),
            SliceMut::Raw(raw) => Memory::Raw(raw),
        };
        Ok(Self { memory, len, taken: 0 })
    }

    /// The next `len` elements.
    pub fn take<T: Stored>(&mut self, len: usize) -> Result<SliceMut<'a, T>> {
        let start = self.taken;
        let bytes = len.saturating_mul(size_of::<T>()).checked_next_multiple_of(SCRATCH_ALIGN);
        let end = bytes.and_then(|bytes| start.checked_add(bytes)).unwrap_or(usize::MAX);
        check_len(self.len, end)?;
        self.taken = end;
        Ok(match &mut self.memory {
            Memory::Counted => SliceMut::Host(&mut []),
            Memory::Host(..) if len == 0 => SliceMut::Host(&mut []),
            Memory::Host(address, _) => {
                // SAFETY: the elements lie in the borrowed memory, from a multiple of `SCRATCH_ALIGN` on, and are no other
                // piece's, for `taken` has passed them. Every element type is valid whatever its bits are.
                SliceMut::Host(unsafe { slice::from_raw_parts_mut(address.add(start).cast(), len) })
            }
            Memory::Raw(raw) => {
                // SAFETY: as above, but for the address, which a launch checks.
                let piece = unsafe { RawSliceMut::borrowed(raw.address().wrapping_add(start).cast(), len) };
                SliceMut::Raw(piece)
            }
            Memory::Cuda(view) => {
                let mut bytes = view.slice_mut(start..start + len * size_of::<T>());
                // SAFETY: every element type is valid whatever its bits are.
                let piece = unsafe { bytes.transmute_mut::<T>(len) };
                let piece = piece.unwrap_or_else(|| unreachable!("a view of {len} elements"));
                // SAFETY: the elements are no other piece's, so that they are borrowed for as long as the memory is; cudarc
                // itself cannot split a view for longer than a call.
                SliceMut::Cuda(unsafe { transmute::<CudaViewMut<'_, T>, CudaViewMut<'a, T>>(piece) })
            }
        })
    }

    /// Bytes of the pieces so far.
    pub fn bytes(&self) -> usize {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'a>(pieces: &mut Pieces<'a>) -> (SliceMut<'a, u8>, SliceMut<'a, f32>, SliceMut<'a, i32>) {
        (pieces.take(3).unwrap(), pieces.take(5).unwrap(), pieces.take(0).unwrap())
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
        let mut nothing = Pieces::of(SliceMut::Host(&mut []), 0).unwrap();
        assert!(nothing.take::<f32>(0).unwrap().is_empty());
        let error = nothing.take::<f32>(1).err().unwrap().to_string();
        assert_eq!(error, "scratch must have at least 16 bytes, got 0");
    }
}
