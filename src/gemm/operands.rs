//! Where the operands of a GEMM lie, dense or grouped: their checks, and the parameters of a launch.

use float8::F8E4M3;

use super::planner::GemmProblem;
use crate::device::TensorMaps;
use crate::device::bindings::{Fp8GemmParams, TensorMap};
use crate::error::Result;
use crate::launch::{KernelParams, Launch, Layout, Operand, check_limit};
use crate::quant::{BLOCK, MMajor, Scales1x128, blocks, scales_1x128};
use crate::table::gemm::{GemmInstance, SLICE_ROWS};
use crate::tensor::tensor_map::{Dimension, Swizzle, TensorMapSpec};
use crate::tensor::{Element, MapElement, Matrix, MatrixMut, View};

/// Rows of a swizzle atom of 128 bytes: a box of A has whole atoms.
const ATOM_ROWS: usize = 8;

/// What a run multiplies; B and its scales with all experts below each other.
pub(crate) struct GemmViews<'v, 'a, S> {
    pub a: &'v Matrix<'a, F8E4M3>,
    pub sfa: &'v Scales1x128<'a, MMajor>,
    pub b: &'v Matrix<'a, F8E4M3>,
    pub sfb: &'v S,
}

/// Names and axes in messages.
pub(crate) struct GemmAxes {
    pub a: &'static str,
    pub b: &'static str,
    pub sfb: &'static str,
}

/// What a launch multiplies.
pub(crate) struct GemmOperands {
    a: Operand<*const u8>,
    b: Operand<*const u8>,
    sfa: Operand<*const f32>,
    sfb: Operand<*const f32>,
    sfb_pitch: u32,
}

/// Elements from row to row of the scales of B, which kernels count with 32 bits; of a single row the pitch is moot.
///
/// # Errors
/// [`Error::Spec`](crate::Error::Spec) when they are more. `what` says so.
pub(crate) fn sfb_pitch(what: &'static str, sfb: &Operand<*const f32>) -> Result<u32> {
    let pitch = if sfb.extent.rows > 1 { sfb.pitch() } else { 0 };
    check_limit(what, pitch, u32::MAX.into())?;
    Ok(pitch as u32)
}

impl GemmProblem {
    /// Fails unless the views have the shapes of the problem, and rows start where TMA can start.
    pub fn operands<'l, S: View<Element = f32>, P: KernelParams>(
        &self,
        launch: &mut Launch<'l, P>,
        axes: &GemmAxes,
        views: GemmViews<'l, '_, S>,
    ) -> Result<GemmOperands> {
        let Self { experts, rows, n, k, .. } = *self;
        let sfb_shape = [experts * self.scale_rows(), blocks(k)];
        let a = launch.read(views.a, Layout::matrix(axes.a, [rows, k]).aligned(16))?;
        let b = launch.read(views.b, Layout::matrix(axes.b, [experts * n, k]).aligned(16))?;
        let sfa = launch.read(views.sfa, scales_1x128::<MMajor>(rows, blocks(k)).aligned(16))?;
        let sfb = launch.read(views.sfb, Layout::matrix(axes.sfb, sfb_shape))?;
        let sfb_pitch = sfb_pitch("pitch of sfb", &sfb)?;
        Ok(GemmOperands { a, b, sfa, sfb, sfb_pitch })
    }

    /// D, which fails likewise.
    pub fn d<'l, 'a: 'l, D: Element, P: KernelParams>(
        &self,
        launch: &mut Launch<'l, P>,
        axes: &'static str,
        d: &'l mut MatrixMut<'a, D>,
    ) -> Result<Operand<*mut D::Raw>> {
        launch.write(d, Layout::matrix(axes, [self.rows, self.n]).aligned(16))
    }

    /// The parameters of a launch of `instance` that writes D.
    pub fn params<D: Element>(
        &self,
        maps: &TensorMaps,
        instance: &GemmInstance,
        operands: &GemmOperands,
        d: &Operand<*mut D::Raw>,
    ) -> Result<Fp8GemmParams> {
        let products = self.products(maps, instance, operands)?;
        let rows = Dimension::rows(&d.extent, D::MAP, SLICE_ROWS);
        Ok(Fp8GemmParams {
            d: d.pointer.cast(),
            d_pitch: d.pitch(),
            map_d: map(maps, &d.cast_const(), D::MAP, instance.d_box_columns(), &[rows])?,
            ..products
        })
    }

    /// The parameters of a launch of `instance`, but for D.
    pub fn products(
        &self,
        maps: &TensorMaps,
        instance: &GemmInstance,
        operands: &GemmOperands,
    ) -> Result<Fp8GemmParams> {
        let GemmOperands { a, b, sfa, sfb, sfb_pitch } = operands;
        // TMA fills the rows of a box that lie outside of A too.
        let a_box_rows = self.rows.next_multiple_of(ATOM_ROWS).min(instance.block_m as usize) as u32;
        let codes = |operand: &Operand<*const u8>, box_rows| {
            Dimension::rows(&operand.extent, MapElement::U8, box_rows)
        };
        let rows_of_part = (self.n / self.parts) as u64;
        let b_rows = Dimension { size: rows_of_part, ..codes(b, instance.b_box_rows()) };
        let b_matrices = Dimension {
            size: (self.experts * self.parts) as u64,
            stride: b_rows.stride * rows_of_part,
            box_size: 1,
        };
        let sfa_rows = Dimension::rows(&sfa.extent, MapElement::F32, 1);
        let mut params = Fp8GemmParams {
            sfb: sfb.pointer,
            sfb_stride: (blocks(self.n / self.parts) * sfb.extent.pitch) as u64,
            sfb_pitch: *sfb_pitch,
            m: self.rows as u32,
            n: self.n as u32,
            k_blocks: blocks(self.k) as u32,
            a_box_rows,
            ..Default::default()
        };
        // Without K blocks there is nothing to describe, and the kernel does not look.
        if self.k > 0 {
            params.map_a = map(maps, a, MapElement::U8, BLOCK as u32, &[codes(a, a_box_rows)])?;
            params.map_b = map(maps, b, MapElement::U8, BLOCK as u32, &[b_rows, b_matrices])?;
            params.map_sfa = map(maps, sfa, MapElement::F32, a_box_rows, &[sfa_rows])?;
        }
        Ok(params)
    }
}

/// Tiles lie swizzled in shared memory; scales of A as they are: each thread reads two of them.
fn map<T>(
    maps: &TensorMaps,
    operand: &Operand<*const T>,
    element: MapElement,
    box_columns: u32,
    outer: &[Dimension],
) -> Result<TensorMap> {
    let swizzle = match operand.name {
        "sfa" => Swizzle::None,
        _ => Swizzle::for_row_bytes(box_columns * element.bytes() as u32),
    };
    maps.encode(&TensorMapSpec {
        operand: operand.name,
        element,
        base: operand.pointer.cast(),
        columns: operand.extent.columns as u64,
        box_columns,
        outer,
        swizzle,
    })
}
