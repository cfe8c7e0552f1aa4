//! Slices that are lists.

#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, Shape, ViewProblem};

use super::extent::Extent;
use super::slice::{Slice, SliceMut};

/// A list that a kernel reads.
#[derive(Debug)]
pub struct Vector<'a, T> {
    pub(crate) slice: Slice<'a, T>,
    /// One row.
    pub(crate) extent: Extent,
}

/// A list that a kernel writes.
#[derive(Debug)]
pub struct VectorMut<'a, T> {
    pub(crate) slice: SliceMut<'a, T>,
    /// One row.
    pub(crate) extent: Extent,
}

impl<T> Clone for Vector<'_, T> {
    fn clone(&self) -> Self {
        Self { slice: self.slice.clone(), extent: self.extent }
    }
}

/// What both have in common.
macro_rules! vector {
    ($name:ident, $slice:ident) => {
        impl<'a, T> $name<'a, T> {
            /// The first `len` elements of a slice; all of a slice are its `into()`.
            ///
            /// # Errors
            /// [`Error::View`] when the slice does not hold as many.
            pub fn new(slice: impl Into<$slice<'a, T>>, len: usize) -> Result<Self> {
                let slice = slice.into();
                if slice.len() < len {
                    let (shape, needed, len) = (Shape::Vector(len), len as u64, slice.len());
                    return Err(ViewProblem::SliceTooShort { shape, pitch: 1, needed, len }.into());
                }
                Ok(Self { slice, extent: Extent::of_vector(len) })
            }

            /// Elements.
            pub fn len(&self) -> usize {
                self.extent.columns
            }

            /// Whether there is none.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }

        /// All of a slice.
        impl<'a, T, S: Into<$slice<'a, T>>> From<S> for $name<'a, T> {
            fn from(slice: S) -> Self {
                let slice = slice.into();
                Self { extent: Extent::of_vector(slice.len()), slice }
            }
        }
    };
}

vector!(Vector, Slice);
vector!(VectorMut, SliceMut);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_all_of_a_slice_or_its_beginning() {
        let data = vec![0_i32; 5];
        assert_eq!(Vector::from(&data).len(), 5);
        assert_eq!(Vector::new(&data, 3).unwrap().len(), 3);
        let error = Vector::new(&data, 6).err().unwrap().to_string();
        assert_eq!(error, "[6] needs 6 elements, the slice has 5");
    }
}
