//! Borrowed views: a slice with a shape. Whatever a view promises is checked when it is made.

mod element;
mod extent;
mod indices;
mod matrix;
mod slice;
pub(crate) mod tensor_map;
mod vector;

pub(crate) use element::Stored;
pub use element::{Element, MapElement};
pub(crate) use extent::Extent;
pub use indices::Indices;
pub use matrix::{Matrix, MatrixMut};
pub use slice::{Slice, SliceMut};
pub use vector::{Vector, VectorMut};

/// A view that a kernel reads.
pub(crate) trait View {
    type Element: Stored;
    fn slice(&self) -> &Slice<'_, Self::Element>;
    fn extent(&self) -> Extent;
}

/// A view that a kernel writes.
pub(crate) trait ViewMut<'a> {
    type Element: Stored + 'a;
    fn slice_mut(&mut self) -> &mut SliceMut<'a, Self::Element>;
    fn extent(&self) -> Extent;
}

/// The views of both kinds whose fields are a slice and an extent.
macro_rules! views {
    ($matrix:ident, $matrix_mut:ident) => {
        impl<T: Stored> View for $matrix<'_, T> {
            type Element = T;

            fn slice(&self) -> &Slice<'_, T> {
                &self.slice
            }

            fn extent(&self) -> Extent {
                self.extent
            }
        }

        impl<'a, T: Stored + 'a> ViewMut<'a> for $matrix_mut<'a, T> {
            type Element = T;

            fn slice_mut(&mut self) -> &mut SliceMut<'a, T> {
                &mut self.slice
            }

            fn extent(&self) -> Extent {
                self.extent
            }
        }
    };
}

views!(Matrix, MatrixMut);
views!(Vector, VectorMut);
