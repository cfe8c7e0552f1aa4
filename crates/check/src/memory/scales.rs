//! Operands as scales, whose layout says what rows and columns are.

use deepseek_kernels::quant::{
    MMajor, RowMajor, Scales1x128, Scales1x128Mut, Scales128x128, Scales128x128Mut,
};

use super::Operand;

impl Operand<f32> {
    /// `[k/128, m]`.
    ///
    /// # Errors
    /// None: the buffer holds the matrix. So for the others.
    pub fn m_major(&self) -> deepseek_kernels::Result<Scales1x128<'_, MMajor>> {
        Scales1x128::with_pitch(self.slice(), self.columns, 128 * self.rows, self.pitch)
    }

    pub fn m_major_mut(&mut self) -> deepseek_kernels::Result<Scales1x128Mut<'_, MMajor>> {
        let Self { rows, columns, pitch, .. } = *self;
        Scales1x128Mut::with_pitch(self.slice_mut(), columns, 128 * rows, pitch)
    }

    /// `[m, k/128]`.
    pub fn row_major(&self) -> deepseek_kernels::Result<Scales1x128<'_, RowMajor>> {
        Scales1x128::with_pitch(self.slice(), self.rows, 128 * self.columns, self.pitch)
    }

    pub fn row_major_mut(&mut self) -> deepseek_kernels::Result<Scales1x128Mut<'_, RowMajor>> {
        let Self { rows, columns, pitch, .. } = *self;
        Scales1x128Mut::with_pitch(self.slice_mut(), rows, 128 * columns, pitch)
    }

    /// `[ceil(n/128), k/128]`.
    pub fn blocks(&self) -> deepseek_kernels::Result<Scales128x128<'_>> {
        Scales128x128::with_pitch(self.slice(), 128 * self.rows, 128 * self.columns, self.pitch)
    }

    pub fn blocks_mut(&mut self) -> deepseek_kernels::Result<Scales128x128Mut<'_>> {
        let Self { rows, columns, pitch, .. } = *self;
        Scales128x128Mut::with_pitch(self.slice_mut(), 128 * rows, 128 * columns, pitch)
    }
}
