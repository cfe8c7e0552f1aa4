//! Rows, columns and pitch of a view.

use crate::error::{Error, OperandProblem, Result, Shape, ViewProblem};

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
            return Err(ViewProblem::PitchTooSmall { columns, pitch }.into());
        }
        let extent = Self { rows, columns, pitch };
        let needed = extent.elements();
        if needed > len as u128 {
            let needed = u64::try_from(needed).unwrap_or(u64::MAX);
            return Err(ViewProblem::SliceTooShort { shape: extent.shape(), pitch, needed, len }.into());
        }
        Ok(extent)
    }

    /// One row.
    pub fn of_vector(len: usize) -> Self {
        Self { rows: 1, columns: len, pitch: len }
    }

    /// Elements from the first to the last one, both included.
    pub fn elements(&self) -> u128 {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        (self.rows as u128 - 1) * self.pitch as u128 + self.columns as u128
    }

    pub fn shape(&self) -> Shape {
        Shape::Matrix(self.rows, self.columns)
    }

    /// Fails unless it has the shape; a vector is one row.
    pub fn expect(&self, operand: &'static str, axes: &'static str, expected: Shape) -> Result<()> {
        let got = match expected {
            Shape::Vector(_) if self.rows == 1 => Shape::Vector(self.columns),
            _ => self.shape(),
        };
        if got == expected {
            return Ok(());
        }
        Err(Error::Operand { operand, problem: OperandProblem::Shape { axes, expected, got } })
    }

    /// Fails unless rows start `align` bytes apart.
    pub fn expect_pitch(&self, operand: &'static str, element_bytes: usize, align: u64) -> Result<()> {
        // The pitch of a single row is moot, however large.
        let got = (self.pitch as u64).saturating_mul(element_bytes as u64);
        if self.rows <= 1 || got.is_multiple_of(align) {
            return Ok(());
        }
        Err(Error::misaligned(operand, "pitch", align, got))
    }
}
