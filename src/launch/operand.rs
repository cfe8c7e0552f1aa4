//! What an operation asks of an operand, and what the kernel gets of it.

use std::ffi::c_void;

use crate::error::{Error, Result, Shape};
use crate::tensor::Extent;

/// Where an operand lies, before it has the type of a parameter.
pub(super) type Address = *mut c_void;

/// What an operand must be like.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// In reports of the emulator, and in messages about the address or the device.
    pub(super) name: &'static str,
    /// Name and axes, as in `sfa [k/128, m]`, and their sizes; none where any will do.
    shape: Option<(&'static str, Shape)>,
    align: u64,
    dense: bool,
}

impl Layout {
    /// `axes` starts with the operand's name.
    pub fn new(axes: &'static str, [rows, columns]: [usize; 2]) -> Self {
        Self { shape: Some((axes, Shape(rows, columns))), ..Self::of_any_shape(name_of(axes)) }
    }

    pub fn of_any_shape(name: &'static str) -> Self {
        Self { name, shape: None, align: 1, dense: false }
    }

    /// Where several operands have the same axes.
    pub fn called(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Every row starts at a multiple of `bytes`.
    pub fn aligned(self, bytes: u64) -> Self {
        Self { align: bytes, ..self }
    }

    /// Rows follow each other without a gap.
    pub fn dense(self) -> Self {
        Self { dense: true, ..self }
    }

    pub(super) fn check_extent(&self, extent: &Extent, element_bytes: usize) -> Result<()> {
        let mut name = self.name;
        if let Some((axes, Shape(rows, columns))) = self.shape {
            extent.expect(axes, rows, columns)?;
            name = name_of(axes);
        }
        if self.dense {
            extent.expect_dense(name)?;
        }
        extent.expect_pitch(name, element_bytes, self.align)
    }

    pub(super) fn check_address(&self, address: Address) -> Result<()> {
        let (need, got) = (self.align, address as u64 % self.align);
        if got == 0 {
            Ok(())
        } else {
            Err(Error::Misaligned { operand: self.name, what: "address", need, got })
        }
    }
}

/// `sfa` of `sfa [k/128, m]`.
fn name_of(axes: &'static str) -> &'static str {
    axes.split_once(" [").map_or(axes, |(name, _)| name)
}

/// An operand of a launch, as its struct of parameters takes it: `A` is `*const` of what is read, `*mut` of what is written.
/// The default is the operand that is not there: null, of no rows.
#[derive(Clone, Copy, Default)]
pub(crate) struct Operand<A> {
    /// In messages.
    pub name: &'static str,
    pub pointer: A,
    pub extent: Extent,
}

impl<A> Operand<A> {
    /// Elements from one row to the next.
    pub fn pitch(&self) -> u64 {
        self.extent.pitch as u64
    }

    /// The same with another type of pointer.
    pub fn map<B>(self, pointer: impl FnOnce(A) -> B) -> Operand<B> {
        Operand { name: self.name, pointer: pointer(self.pointer), extent: self.extent }
    }
}

impl<T> Operand<*mut T> {
    /// For those who only look where it lies.
    pub fn cast_const(self) -> Operand<*const T> {
        self.map(<*mut T>::cast_const)
    }
}

/// The operand of a view, if there is one.
pub(crate) fn optional<V, A: Default>(
    view: Option<V>,
    operand: impl FnOnce(V) -> Result<Operand<A>>,
) -> Result<Operand<A>> {
    view.map_or_else(|| Ok(Operand::default()), operand)
}
