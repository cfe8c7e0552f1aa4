//! Rows, columns and pitch of a view.

use crate::error::{Error, Result, Shape};

/// Rows, columns and the distance between rows, all in elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub rows: usize,
    pub columns: usize,
    pub pitch: usize,
}

impl Extent {
    /// Checks that rows do not overlap and that `len` elements hold the matrix.
    pub fn checked(rows: usize, columns: usize, pitch: usize, len: usize) -> Result<Self> {
        if pitch < columns {
            return Err(Error::PitchTooSmall { columns, pitch });
        }
        let extent = Self { rows, columns, pitch };
        let needed = extent.elements();
        if needed > len as u128 {
            let needed = u64::try_from(needed).unwrap_or(u64::MAX);
            return Err(Error::SliceTooShort { shape: extent.shape(), pitch, needed, len });
        }
        Ok(extent)
    }

    /// Elements from the first to the last one, both included.
    pub fn elements(&self) -> u128 {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        (self.rows as u128 - 1) * self.pitch as u128 + self.columns as u128
    }

    pub fn shape(&self) -> Shape {
        Shape(self.rows, self.columns)
    }

    /// Fails unless the shape is `rows` x `columns`.
    pub fn expect(&self, what: &'static str, rows: usize, columns: usize) -> Result<()> {
        let expected = Shape(rows, columns);
        if self.shape() == expected {
            Ok(())
        } else {
            Err(Error::Shape { what, expected, got: self.shape() })
        }
    }

    /// Fails unless the rows follow each other without a gap.
    pub fn expect_dense(&self, operand: &'static str) -> Result<()> {
        let Self { rows, columns, pitch } = *self;
        if rows <= 1 || pitch == columns { Ok(()) } else { Err(Error::NotDense { operand, columns, pitch }) }
    }

    /// Fails unless rows start `align` bytes apart.
    pub fn expect_pitch(&self, operand: &'static str, element_bytes: usize, align: u64) -> Result<()> {
        // The pitch of a single row is moot, however large.
        let got = (self.pitch as u64).saturating_mul(element_bytes as u64);
        if self.rows <= 1 || got.is_multiple_of(align) {
            return Ok(());
        }
        Err(Error::Misaligned { operand, what: "pitch", need: align, got })
    }
}
