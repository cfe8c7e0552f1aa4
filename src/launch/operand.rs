//! What an operation asks of an operand, and what the kernel gets of it.

use std::ffi::c_void;

use crate::error::{Error, Result, Shape};
use crate::tensor::Extent;

/// Where an operand lies, before it has the type of a parameter.
pub(super) type Address = *mut c_void;

/// What an operand must be like.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// In reports of the emulator, and in messages.
    pub(super) name: &'static str,
    /// Axes, as in `[k/128, m]`, and their sizes; none where any will do.
    shape: Option<(&'static str, Shape)>,
    align: u64,
}

impl Layout {
    /// `axes` starts with the operand's name.
    pub fn matrix(axes: &'static str, [rows, columns]: [usize; 2]) -> Self {
        Self::of_shape(axes, Shape::Matrix(rows, columns))
    }

    /// `axes` starts with the operand's name, as in `counts [experts]`.
    pub fn vector(axes: &'static str, len: usize) -> Self {
        Self::of_shape(axes, Shape::Vector(len))
    }

    fn of_shape(axes: &'static str, shape: Shape) -> Self {
        let (name, axes) = axes.split_once(' ').unwrap_or((axes, ""));
        Self { shape: Some((axes, shape)), ..Self::of_any_shape(name) }
    }

    pub const fn of_any_shape(name: &'static str) -> Self {
        Self { name, shape: None, align: 1 }
    }

    /// Where several operands have the same axes.
    pub fn called(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Every row starts at a multiple of `bytes`.
    pub const fn aligned(self, bytes: u64) -> Self {
        Self { align: bytes, ..self }
    }

    pub(super) fn check_extent(&self, extent: &Extent, element_bytes: usize) -> Result<()> {
        if let Some((axes, shape)) = self.shape {
            extent.expect(self.name, axes, shape)?;
        }
        extent.expect_pitch(self.name, element_bytes, self.align)
    }

    /// As the operand needs it, and an element of so many bytes: slices by address may lie anywhere.
    pub(super) fn check_address(&self, address: Address, element_bytes: usize) -> Result<()> {
        let need = self.align.max(element_bytes as u64);
        let got = address as u64 % need;
        if got == 0 { Ok(()) } else { Err(Error::misaligned(self.name, "address", need, got)) }
    }
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

/// Fails unless an operand is given where it is wanted, and nowhere else: `one` or `none` say what is expected, and why.
pub(crate) fn check_given(
    operand: &'static str,
    given: bool,
    wanted: bool,
    one: &'static str,
    none: &'static str,
) -> Result<()> {
    match (given, wanted) {
        (true, false) => Err(Error::other_kind(operand, none, "one")),
        (false, true) => Err(Error::other_kind(operand, one, "none")),
        _ => Ok(()),
    }
}

/// The operand of a view, if there is one.
pub(crate) fn optional<V, A: Default>(
    view: Option<V>,
    operand: impl FnOnce(V) -> Result<Operand<A>>,
) -> Result<Operand<A>> {
    view.map_or_else(|| Ok(Operand::default()), operand)
}
