//! The operations that the fused one stands for, one after another.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use deepseek_kernels::moe::{SwigluQuantize, SwigluQuantizeArgs, SwigluQuantizeSpec};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales1x128Mut};
use deepseek_kernels::{Device, F8E4M3, Matrix, MatrixMut, Vector, bf16};
use oracles::gemm::GemmInputs;

use super::{GateUpSwigluCase, GateUpSwigluProblem};
use crate::case::{Problem, memory_of, wait};
use crate::gemm::grouped_fp8_gemm::{GroupedFp8GemmCase, GroupedFp8GemmProblem};
use crate::memory::Arena;

impl GateUpSwigluProblem {
    /// The products with the first of every expert's gate and up, or with the second.
    fn product(&self, part: usize, device: &Device) -> Result<Vec<bf16>> {
        let GroupedFp8GemmCase { n, k, .. } = self.gemm.case;
        let width = n / 2;
        let of_part = |own: &GemmInputs| GemmInputs {
            n: width,
            parts: 1,
            b: own.b[part * width * k..][..width * k].to_vec(),
            sfb: own.sfb[part * (own.sfb.len() / 2)..][..own.sfb.len() / 2].to_vec(),
            ..own.clone()
        };
        let case = GroupedFp8GemmCase { instance: None, n: width, parts: 1, ..self.gemm.case.clone() };
        let apart = GroupedFp8GemmProblem::new(case, self.gemm.experts.iter().map(of_part).collect());
        let mut apart = Arc::new(apart).prepare(&mut Arena::new(device, memory_of("unfused")))?;
        apart.launch(device.stream()?)?;
        wait(device.stream()?)?;
        Ok(apart.outputs()?.first().ok_or_else(|| anyhow!("no product"))?.values())
    }

    /// Codes and scales by two grouped GEMMs and an activation on the same operands.
    ///
    /// # Errors
    /// Of the device.
    pub fn apart(&self, device: &Device) -> Result<(Vec<F8E4M3>, Vec<f32>)> {
        let GateUpSwigluCase { gemm, clamp, rule, order } = &self.case;
        let (rows, width) = (gemm.assignment.rows(), gemm.n / 2);
        let [first, second] = [self.product(0, device)?, self.product(1, device)?];
        let row = |product: &[bf16], row: usize| product[row * width..][..width].to_vec();
        let gate_up: Vec<bf16> = (0..rows).flat_map(|r| [row(&first, r), row(&second, r)].concat()).collect();

        let experts = gemm.assignment.experts().len();
        let spec = SwigluQuantizeSpec::new(width, experts, gemm.assignment.segments);
        let spec = spec.clamp(*clamp).rule(rule.rule()).order(*order);
        let (x, segments) = (device.upload(&gate_up)?, device.upload(&gemm.assignment.values)?);
        let mut q = device.zeros::<F8E4M3>(rows * width)?;
        let mut sf = device.zeros::<f32>(Scales1x128::<MMajor>::elements(rows, width))?;
        let args = SwigluQuantizeArgs {
            x: Matrix::new(&x, rows, 2 * width)?,
            segments: Vector::new(&segments, gemm.assignment.values.len())?,
            routing: None,
            q: MatrixMut::new(&mut q, rows, width)?,
            sf: Scales1x128Mut::new(&mut sf, rows, width)?,
        };
        SwigluQuantize::plan(device, spec)?.run(device.stream()?, args)?;
        let sf = sf.to_vec()?;
        let pitch = rows.next_multiple_of(4);
        let sf = (0..width.div_ceil(128)).flat_map(|g| &sf[g * pitch..][..rows]).copied().collect();
        Ok((q.to_vec()?, sf))
    }
}
