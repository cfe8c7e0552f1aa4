//! Operands in memory: where they lie, and what lies around them.

mod far;
mod footprint;
mod indices;
mod operand;
mod output;
mod raw;
mod scalar;
mod scales;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use anyhow::Result;
#[cfg(doc)]
use deepseek_kernels::RawSlice;
use deepseek_kernels::{Device, DeviceKind, SCRATCH_ALIGN};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use far::Mapping;
pub use footprint::{Footprint, Place};
pub use indices::{IndexOperand, IndexType};
pub use operand::Operand;
use operand::Room;
pub use output::Output;
pub use scalar::Scalar;

/// How the operands of a problem lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// As tight as alignment allows: what is timed.
    Plain,
    /// Behind some elements of poison, with poison between the rows, as the seed draws it for each operand, and behind the
    /// last one. Read, poison spoils a result; written, it is found. Indices are of the type that the seed says.
    Poisoned(u64),
    /// As poisoned, and given by address: [`RawSlice`].
    Raw(u64),
    /// By address, with rows 2^31 elements apart for an even seed and 2^32 for an odd one, or as far as tensor maps allow.
    /// Only the emulator has such memory.
    Far(u64),
}

impl Memory {
    /// What indices are kept in: `i32` in plain memory, else the remainder of the seed says.
    pub fn index_type(self) -> IndexType {
        match self {
            Self::Plain => IndexType::I32,
            Self::Poisoned(seed) | Self::Raw(seed) | Self::Far(seed) => IndexType::ALL[(seed % 3) as usize],
        }
    }

    /// The same with a seed next to this one, so that indices are of this type.
    ///
    /// # Panics
    /// For plain memory, whose indices are `i32`.
    #[must_use]
    pub fn with_index_type(self, index: IndexType) -> Self {
        let near = |seed: u64| seed - seed % 3 + index as u64;
        match self {
            Self::Plain => panic!("plain memory has indices of i32"),
            Self::Poisoned(seed) => Self::Poisoned(near(seed)),
            Self::Raw(seed) => Self::Raw(near(seed)),
            Self::Far(seed) => Self::Far(near(seed)),
        }
    }
}

/// Every row begins at a multiple of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Align(pub usize);

/// Elements of poison behind an operand.
const BEHIND: usize = 64;

/// An index as 64 bits: a negative one that says nothing becomes one beyond 32 bits, whose low half would be an index.
fn wide(index: i32) -> i64 {
    if index < -1 { (1 << 32) + 1 } else { index.into() }
}

/// What is wrong with an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Its last row is missing, or of a single row the last element.
    Short,
    /// It begins an element too late for its alignment.
    Address,
    /// Its rows are an element further apart than its alignment allows.
    Pitch,
}

/// An element of an input that is to hold something else than it does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spoilt {
    /// The input among those of floating point, counted from 0.
    pub input: usize,
    /// Modulo the elements there are.
    pub element: usize,
    pub value: f32,
}

/// Puts operands on a device.
pub struct Arena<'d> {
    device: &'d Device,
    memory: Memory,
    /// The operand that is to be wrong, counted from 0.
    flaw: Option<(usize, Flaw)>,
    /// Operands so far.
    placed: usize,
    /// Whether what is not finite is replaced in inputs of floating point.
    finite: bool,
    spoilt: Option<Spoilt>,
    /// Inputs of floating point so far.
    inputs: usize,
    /// Draws where poisoned operands lie.
    rng: Option<Xoshiro256PlusPlus>,
    footprint: Option<Footprint>,
}

impl<'d> Arena<'d> {
    /// For the operands of one problem.
    pub fn new(device: &'d Device, memory: Memory) -> Self {
        let rng = match memory {
            Memory::Plain => None,
            Memory::Poisoned(seed) | Memory::Raw(seed) | Memory::Far(seed) => {
                Some(Xoshiro256PlusPlus::seed_from_u64(seed))
            }
        };
        Self {
            device,
            memory,
            flaw: None,
            placed: 0,
            finite: false,
            spoilt: None,
            inputs: 0,
            rng,
            footprint: None,
        }
    }

    /// For the operands of one problem in plain memory of a GPU, whose [`footprint`](Self::footprint) is kept.
    pub fn recording(device: &'d Device) -> Self {
        Self { footprint: Some(Footprint::default()), ..Self::new(device, Memory::Plain) }
    }

    /// For operands in plain memory of which one is wrong, unless that is none that a kernel could mind.
    pub fn flawed(device: &'d Device, operand: usize, flaw: Flaw) -> Self {
        Self { flaw: Some((operand, flaw)), ..Self::new(device, Memory::Plain) }
    }

    /// For the operands of one problem in plain memory, of which every element is made finite, but for one that may be spoilt.
    pub fn finite(device: &'d Device, spoilt: Option<Spoilt>) -> Self {
        Self { finite: true, spoilt, ..Self::new(device, Memory::Plain) }
    }

    /// Inputs of floating point that it has put there and made finite, empty ones left out.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Whether the element that is to be spoilt was none, or of a type without such a value.
    pub fn is_unspoilt(&self) -> bool {
        self.spoilt.is_some()
    }

    /// Operands that it has put there.
    pub fn placed(&self) -> usize {
        self.placed
    }

    /// Whether no operand got the flaw.
    pub fn is_flawless(&self) -> bool {
        self.flaw.is_some()
    }

    /// What was put on the GPU, if it is kept.
    pub fn footprint(self) -> Option<Footprint> {
        self.footprint
    }

    /// Where it puts them.
    pub fn device(&self) -> &'d Device {
        self.device
    }

    /// How it puts them.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// A matrix to be read, row-major and dense in `data`. On the emulator nothing lies behind its last element, and a read
    /// there is outside every region; on a GPU poison does.
    ///
    /// # Errors
    /// Of the device.
    ///
    /// # Panics
    /// Unless `data` has `rows * columns` elements.
    pub fn input<T: Scalar>(
        &mut self,
        data: &[T],
        shape: (usize, usize),
        align: Align,
    ) -> Result<Operand<T>> {
        assert_eq!(data.len(), shape.0 * shape.1, "elements of {shape:?}");
        self.repeated(data, shape, align)
    }

    /// As [`Self::input`], a matrix whose rows are those of `data` again and again.
    ///
    /// # Errors
    /// Of the device.
    pub fn repeated<T: Scalar>(
        &mut self,
        data: &[T],
        shape: (usize, usize),
        align: Align,
    ) -> Result<Operand<T>> {
        assert!(data.len().is_multiple_of(shape.1.max(1)), "rows of {} columns", shape.1);
        let data = self.spoil(data);
        self.place(&data, shape, align, self.behind(), false)
    }

    /// A list to be read: one row.
    ///
    /// # Errors
    /// Of the device.
    pub fn list<T: Scalar>(&mut self, data: &[T]) -> Result<Operand<T>> {
        self.input(data, (1, data.len()), Align(size_of::<T>()))
    }

    /// Indices to be read, of the memory's type: a matrix, or of one row, a list.
    ///
    /// # Errors
    /// Of the device.
    pub fn indices(&mut self, data: &[i32], shape: (usize, usize)) -> Result<IndexOperand> {
        let any = Align(4);
        Ok(match self.memory.index_type() {
            IndexType::I32 => IndexOperand::I32(self.place(data, shape, any, self.behind(), true)?),
            IndexType::U32 => {
                let data: Vec<u32> = data.iter().map(|index| index.cast_unsigned()).collect();
                IndexOperand::U32(self.input(&data, shape, any)?)
            }
            IndexType::I64 => {
                let data: Vec<i64> = data.iter().map(|&index| wide(index)).collect();
                IndexOperand::I64(self.input(&data, shape, any)?)
            }
        })
    }

    /// Scratch of so many bytes.
    ///
    /// # Errors
    /// Of the device.
    pub fn scratch(&mut self, bytes: usize) -> Result<Operand<u8>> {
        self.output((1, bytes), Align(SCRATCH_ALIGN))
    }

    /// A matrix that is read and written.
    ///
    /// # Errors
    /// As [`Self::input`].
    ///
    /// # Panics
    /// As [`Self::input`].
    pub fn in_out<T: Scalar>(
        &mut self,
        data: &[T],
        shape: (usize, usize),
        align: Align,
    ) -> Result<Operand<T>> {
        assert_eq!(data.len(), shape.0 * shape.1, "elements of {shape:?}");
        let data = self.spoil(data);
        self.place(&data, shape, align, BEHIND, false)
    }

    /// What an input is to hold.
    fn spoil<'t, T: Scalar>(&mut self, data: &'t [T]) -> Cow<'t, [T]> {
        let Some(instead) = T::narrowed(0.5).filter(|_| self.finite && !data.is_empty()) else {
            return Cow::Borrowed(data);
        };
        let next = self.inputs;
        self.inputs += 1;
        let finite = |x: &T| if x.widened().is_some_and(f32::is_finite) { *x } else { instead };
        let mut data: Vec<T> = data.iter().map(finite).collect();
        if let Some(Spoilt { element, value, .. }) = self.spoilt.filter(|spoilt| spoilt.input == next)
            && let Some(value) = T::narrowed(value)
        {
            let element = element % data.len();
            data[element] = value;
            self.spoilt = None;
        }
        Cow::Owned(data)
    }

    /// A matrix of sentinels, to be overwritten.
    ///
    /// # Errors
    /// Of the device.
    pub fn output<T: Scalar>(&mut self, shape: (usize, usize), align: Align) -> Result<Operand<T>> {
        self.place(&vec![T::SENTINEL; shape.0 * shape.1], shape, align, BEHIND, false)
    }

    /// Elements of poison behind what is only read.
    fn behind(&self) -> usize {
        if self.device.kind() == DeviceKind::Emulated { 0 } else { BEHIND }
    }

    /// What is to be wrong with the operand that comes next, whose rows begin at multiples of `unit` elements.
    fn flaw_of_next(&mut self, rows: usize, columns: usize, unit: usize) -> Option<Flaw> {
        let next = self.placed;
        self.placed += 1;
        let minded = |flaw| match flaw {
            Flaw::Short => rows * columns > 0,
            Flaw::Address => rows * columns > 0 && unit > 1,
            Flaw::Pitch => rows > 1 && columns > 0 && unit > 1,
        };
        let (_, flaw) = self.flaw.take_if(|(operand, flaw)| *operand == next && minded(*flaw))?;
        Some(flaw)
    }

    fn place<T: Scalar>(
        &mut self,
        data: &[T],
        (mut rows, mut columns): (usize, usize),
        align: Align,
        behind: usize,
        any_order: bool,
    ) -> Result<Operand<T>> {
        let values = data.chunks_exact(columns.max(1)).cycle();
        let unit = (align.0 / size_of::<T>()).max(1);
        let [before, gap, behind] = match &mut self.rng {
            None => [0; 3],
            Some(rng) => [rng.random_range(1..4), rng.random_range(1..4), behind],
        };
        let mut pitch = columns.next_multiple_of(unit) + gap * unit;
        let mut offset = before * unit;
        match self.flaw_of_next(rows, columns, unit) {
            None => {}
            Some(Flaw::Short) if rows > 1 => rows -= 1,
            Some(Flaw::Short) => columns -= 1,
            Some(Flaw::Address) => offset += 1,
            Some(Flaw::Pitch) => pitch += 1,
        }
        if let Memory::Far(seed) = self.memory
            && rows > 1
        {
            let beside = operand::BESIDE.next_multiple_of(unit);
            offset += beside;
            pitch += (far::distance::<T>(seed, rows) + 2 * beside).next_multiple_of(unit);
        }
        let length = rows.saturating_sub(1) * pitch + if rows == 0 { 0 } else { columns };
        if matches!(self.memory, Memory::Far(_)) && rows > 1 {
            let mut mapping = Mapping::zeros(offset + length + behind)?;
            for (row, values) in (0..rows).zip(values) {
                let start = offset + row * pitch;
                let end = mapping.len().min(start + columns + operand::BESIDE);
                mapping.part_mut(start - operand::BESIDE, end - start + operand::BESIDE).fill(T::POISON);
                mapping.part_mut(start, columns).copy_from_slice(values);
            }
            return Ok(Operand { room: Room::Far(mapping), rows, columns, offset, pitch });
        }
        let mut host = vec![T::POISON; offset + length + behind];
        for (row, values) in (0..rows).zip(values) {
            host[offset + row * pitch..][..columns].copy_from_slice(&values[..columns]);
        }
        let buffer = self.device.upload(&host)?;
        if let Some(footprint) = &mut self.footprint {
            footprint.add(&buffer, &host, any_order);
        }
        let room = match self.memory {
            Memory::Plain | Memory::Poisoned(_) => Room::Buffer(buffer),
            Memory::Raw(_) | Memory::Far(_) => Room::Raw(buffer),
        };
        Ok(Operand { room, rows, columns, offset, pitch })
    }
}
