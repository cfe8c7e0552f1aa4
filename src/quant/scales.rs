//! Scale factors: FP32 multipliers that turn codes back into values (`weight_scale_inv` in checkpoints).

use std::marker::PhantomData;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::Layout;
use crate::tensor::{Extent, Matrix, MatrixMut, Slice, SliceMut, View, ViewMut};

/// Elements of K, and rows of a weight, that share a scale.
pub(crate) const BLOCK: usize = crate::table::quant::BLOCK as usize;

/// Layout of 1x128 scales: [`MMajor`] or [`RowMajor`].
pub trait ScaleLayout: sealed::Layout {}

mod sealed {
    pub trait Layout {
        /// Name and axes in messages.
        const AXES: &'static str;
        /// Rows and columns in memory of the scales of an `[m, k]` matrix.
        fn shape(m: usize, k_blocks: usize) -> (usize, usize);
        /// From one row in memory to the next, without a pitch given.
        fn pitch(columns: usize) -> usize;
        /// Distance in memory between neighbours along m, and along k, for a row pitch.
        fn strides(pitch: u64) -> (u64, u64);
    }
}

/// `[ceil(k/128), m]`: the scales of one K block are contiguous along m. This is what the GEMM reads, rows from multiples of 16
/// bytes on.
#[derive(Debug)]
pub enum MMajor {}
/// `[m, ceil(k/128)]`: the scales of one row are contiguous, as most code produces them.
#[derive(Debug)]
pub enum RowMajor {}

impl ScaleLayout for MMajor {}
impl ScaleLayout for RowMajor {}

impl sealed::Layout for MMajor {
    const AXES: &'static str = "sfa [ceil(k/128), m]";
    fn shape(m: usize, k_blocks: usize) -> (usize, usize) {
        (k_blocks, m)
    }
    fn pitch(m: usize) -> usize {
        // No slice holds rows so long that there is no such multiple.
        m.checked_next_multiple_of(16 / size_of::<f32>()).unwrap_or(m)
    }
    fn strides(pitch: u64) -> (u64, u64) {
        (1, pitch)
    }
}
impl sealed::Layout for RowMajor {
    const AXES: &'static str = "sfa [m, ceil(k/128)]";
    fn shape(m: usize, k_blocks: usize) -> (usize, usize) {
        (m, k_blocks)
    }
    fn pitch(k_blocks: usize) -> usize {
        k_blocks
    }
    fn strides(pitch: u64) -> (u64, u64) {
        (pitch, 1)
    }
}

/// Blocks of a row of `k`; the last one may be short.
pub(crate) const fn blocks(k: usize) -> usize {
    k.div_ceil(BLOCK)
}

/// One scale per 1x128 of an `[m, k]` matrix, to be read.
#[derive(Debug)]
pub struct Scales1x128<'a, L> {
    matrix: Matrix<'a, f32>,
    layout: PhantomData<L>,
}

/// One scale per 1x128 of an `[m, k]` matrix, to be written.
#[derive(Debug)]
pub struct Scales1x128Mut<'a, L> {
    matrix: MatrixMut<'a, f32>,
    layout: PhantomData<L>,
}

impl<L> Clone for Scales1x128<'_, L> {
    fn clone(&self) -> Self {
        Self { matrix: self.matrix.clone(), layout: PhantomData }
    }
}

impl<'a, L: ScaleLayout> Scales1x128<'a, L> {
    /// Elements that [`Scales1x128::new`] asks for at most: memory for the scales of an `[m, k]` matrix.
    pub fn elements(m: usize, k: usize) -> usize {
        let (rows, columns) = L::shape(m, blocks(k));
        rows.saturating_mul(L::pitch(columns))
    }

    /// Scales without gaps; of [`MMajor`], with rows of a multiple of four, as the GEMM reads them.
    ///
    /// # Errors
    /// [`Error::View`].
    pub fn new(slice: impl Into<Slice<'a, f32>>, m: usize, k: usize) -> Result<Self> {
        Self::with_pitch(slice, m, k, L::pitch(L::shape(m, blocks(k)).1))
    }

    /// Rows of the layout `pitch` elements apart. The GEMM wants a multiple of 4 (16 bytes).
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_pitch(slice: impl Into<Slice<'a, f32>>, m: usize, k: usize, pitch: usize) -> Result<Self> {
        let (rows, columns) = L::shape(m, blocks(k));
        Ok(Self { matrix: Matrix::with_pitch(slice, rows, columns, pitch)?, layout: PhantomData })
    }
}

impl<'a, L: ScaleLayout> Scales1x128Mut<'a, L> {
    /// Scales without gaps; of [`MMajor`], with rows of a multiple of four, as the GEMM reads them.
    ///
    /// # Errors
    /// [`Error::View`].
    pub fn new(slice: impl Into<SliceMut<'a, f32>>, m: usize, k: usize) -> Result<Self> {
        Self::with_pitch(slice, m, k, L::pitch(L::shape(m, blocks(k)).1))
    }

    /// Rows of the layout `pitch` elements apart.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_pitch(slice: impl Into<SliceMut<'a, f32>>, m: usize, k: usize, pitch: usize) -> Result<Self> {
        let (rows, columns) = L::shape(m, blocks(k));
        Ok(Self { matrix: MatrixMut::with_pitch(slice, rows, columns, pitch)?, layout: PhantomData })
    }
}

/// 1x128 scales of an `[m, k]` matrix, as operands.
pub(crate) fn scales_1x128<L: ScaleLayout>(m: usize, k_blocks: usize) -> Layout {
    let (rows, columns) = L::shape(m, k_blocks);
    Layout::matrix(L::AXES, [rows, columns])
}

impl<L> View for Scales1x128<'_, L> {
    type Element = f32;

    fn slice(&self) -> &Slice<'_, f32> {
        self.matrix.slice()
    }

    fn extent(&self) -> Extent {
        self.matrix.extent()
    }
}

impl<'a, L> ViewMut<'a> for Scales1x128Mut<'a, L> {
    type Element = f32;

    fn slice_mut(&mut self) -> &mut SliceMut<'a, f32> {
        self.matrix.slice_mut()
    }

    fn extent(&self) -> Extent {
        self.matrix.extent()
    }
}

/// One scale per 128x128 of an `[n, k]` matrix: `[ceil(n/128), ceil(k/128)]`, to be read.
#[derive(Debug, Clone)]
pub struct Scales128x128<'a>(Matrix<'a, f32>);

/// One scale per 128x128 of an `[n, k]` matrix: `[ceil(n/128), ceil(k/128)]`, to be written.
#[derive(Debug)]
pub struct Scales128x128Mut<'a>(MatrixMut<'a, f32>);

impl View for Scales128x128<'_> {
    type Element = f32;

    fn slice(&self) -> &Slice<'_, f32> {
        self.0.slice()
    }

    fn extent(&self) -> Extent {
        self.0.extent()
    }
}

impl<'a> ViewMut<'a> for Scales128x128Mut<'a> {
    type Element = f32;

    fn slice_mut(&mut self) -> &mut SliceMut<'a, f32> {
        self.0.slice_mut()
    }

    fn extent(&self) -> Extent {
        self.0.extent()
    }
}

/// Axes in messages.
pub(crate) const SFB_AXES: &str = "sfb [ceil(n/128), ceil(k/128)]";

impl<'a> Scales128x128<'a> {
    /// Scales without gaps.
    ///
    /// # Errors
    /// [`Error::View`].
    pub fn new(slice: impl Into<Slice<'a, f32>>, n: usize, k: usize) -> Result<Self> {
        Self::with_pitch(slice, n, k, blocks(k))
    }

    /// Rows `pitch` elements apart.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_pitch(slice: impl Into<Slice<'a, f32>>, n: usize, k: usize, pitch: usize) -> Result<Self> {
        Ok(Self(Matrix::with_pitch(slice, n.div_ceil(BLOCK), blocks(k), pitch)?))
    }
}

impl<'a> Scales128x128Mut<'a> {
    /// Scales without gaps.
    ///
    /// # Errors
    /// [`Error::View`].
    pub fn new(slice: impl Into<SliceMut<'a, f32>>, n: usize, k: usize) -> Result<Self> {
        Self::with_pitch(slice, n, k, blocks(k))
    }

    /// Rows `pitch` elements apart.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_pitch(slice: impl Into<SliceMut<'a, f32>>, n: usize, k: usize, pitch: usize) -> Result<Self> {
        Ok(Self(MatrixMut::with_pitch(slice, n.div_ceil(BLOCK), blocks(k), pitch)?))
    }
}
