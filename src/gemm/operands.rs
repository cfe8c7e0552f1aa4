//! Where the operands of a GEMM lie, dense or grouped: their checks, and the parameters of a launch.

use float8::F8E4M3;

use super::planner::GemmProblem;
use crate::device::Device;
use crate::device::bindings::{Fp8GemmParams, TensorMap};
use crate::error::Result;
use crate::launch::{Address, check_limit};
use crate::quant::BLOCK;
use crate::table::gemm::GemmInstance;
use crate::tensor::tensor_map::{Dimension, Swizzle, TensorMapSpec};
use crate::tensor::{Element, Extent, MapElement};

/// Where an operand lies.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub base: Address,
    pub extent: &'a Extent,
}

/// The operands of a launch; B and its scales with all experts below each other.
#[derive(Clone, Copy)]
pub(crate) struct GemmOperands<'a> {
    pub a: Operand<'a>,
    pub b: Operand<'a>,
    pub sfa: Operand<'a>,
    pub sfb: Operand<'a>,
    pub d: Operand<'a>,
}

impl GemmProblem {
    /// Fails unless rows of every operand start where TMA can start.
    pub fn check_pitches<D: Element>(
        &self,
        a: &Extent,
        b: &Extent,
        sfa: &Extent,
        sfb: &Extent,
        d: &Extent,
    ) -> Result<()> {
        a.expect_pitch("a", size_of::<F8E4M3>(), 16)?;
        b.expect_pitch("b", size_of::<F8E4M3>(), 16)?;
        sfa.expect_pitch("sfa", size_of::<f32>(), 16)?;
        d.expect_pitch("d", size_of::<D>(), 16)?;
        check_limit("pitch of sfb", sfb.pitch as u64, u64::from(u32::MAX))
    }

    /// The parameters of a launch of `instance` with a D of type `D`.
    pub fn params<D: Element>(
        &self,
        device: &Device,
        instance: &GemmInstance,
        operands: &GemmOperands,
        accumulate: bool,
    ) -> Result<Fp8GemmParams> {
        let GemmInstance { block_m, block_n, cluster, .. } = *instance;
        let GemmOperands { a, b, sfa, sfb, d } = *operands;
        let d_bytes = D::MAP.bytes() as u32;
        let b_rows = Dimension { size: self.n as u64, ..b.rows(MapElement::U8, block_n / cluster) };
        let b_experts =
            Dimension { size: self.experts as u64, stride: b_rows.stride * self.n as u64, box_size: 1 };
        let input = |operand: Operand, name, element, box_columns, outer: &[Dimension]| {
            // Without K blocks there is nothing to describe, and the kernel does not look.
            if self.k == 0 {
                Ok(TensorMap::default())
            } else {
                operand.map(device, name, element, box_columns, outer)
            }
        };
        Ok(Fp8GemmParams {
            map_a: input(a, "a", MapElement::U8, BLOCK as u32, &[a.rows(MapElement::U8, block_m)])?,
            map_b: input(b, "b", MapElement::U8, BLOCK as u32, &[b_rows, b_experts])?,
            map_sfa: input(sfa, "sfa", MapElement::F32, block_m, &[sfa.rows(MapElement::F32, 1)])?,
            map_d: d.map(device, "d", D::MAP, block_n.min(128 / d_bytes), &[d.rows(D::MAP, 64)])?,
            sfb: sfb.base.cast(),
            d: d.base.cast(),
            d_pitch: d.extent.pitch as u64,
            sfb_expert_stride: (self.n.div_ceil(BLOCK) * sfb.extent.pitch) as u64,
            sfb_pitch: sfb.extent.pitch as u32,
            m: self.rows as u32,
            n: self.n as u32,
            k_blocks: (self.k / BLOCK) as u32,
            accumulate: u32::from(accumulate),
            ..Default::default()
        })
    }
}

impl Operand<'_> {
    fn rows(&self, element: MapElement, box_rows: u32) -> Dimension {
        Dimension::rows(self.extent, element, box_rows)
    }

    /// Tiles lie swizzled in shared memory; scales of A as they are: each thread reads two of them.
    fn map(
        &self,
        device: &Device,
        operand: &'static str,
        element: MapElement,
        box_columns: u32,
        outer: &[Dimension],
    ) -> Result<TensorMap> {
        let swizzle = match operand {
            "sfa" => Swizzle::None,
            _ => Swizzle::for_row_bytes(box_columns * element.bytes() as u32),
        };
        let columns = self.extent.columns as u64;
        device.encode(&TensorMapSpec {
            operand,
            element,
            base: self.base,
            columns,
            box_columns,
            outer,
            swizzle,
        })
    }
}
