//! Checks of the grouped GEMM.

use deepseek_kernels::gemm::{GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec, Segments};
use deepseek_kernels::quant::Scales1x128;
use deepseek_kernels::{Device, F8E4M3, Matrix, MatrixMut, bf16};
use oracles::gemm::{Epilogue, Oracle, Output};
use oracles::gemm::{GemmClass, GemmInputs};

use super::gemm::scale_pitch;
use super::judge::{Cell, judge, written};
use super::machine::{text, timed};
use super::report::{Check, Row};
use super::runner::{Job, Outcome};
use super::shapes::Layer;

/// Experts with one layer each, and the rows that each has.
pub struct GroupedJob {
    pub layer: Layer,
    pub rows: Vec<usize>,
    pub seed: u64,
}

const CLASS: GemmClass = GemmClass::Integers;

struct Checked {
    instance: String,
    seconds: Option<f64>,
    checks: Vec<Check>,
}

impl Job for GroupedJob {
    fn label(&self) -> String {
        format!("grouped FP8 GEMM {}", self.shape())
    }

    fn cost(&self) -> u128 {
        let tiles: usize = self.rows.iter().map(|rows| rows.next_multiple_of(64)).sum();
        tiles as u128 * (self.layer.n * self.layer.k) as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let checked = self.check(device).unwrap_or_else(|failure| Checked {
            instance: String::new(),
            seconds: None,
            checks: vec![Check::failed("run", failure)],
        });
        Outcome::Rows(vec![Row {
            operation: format!("grouped FP8 GEMM, {} experts", self.rows.len()),
            shape: self.shape(),
            instance: checked.instance,
            data: CLASS.to_string(),
            checks: checked.checks,
            seconds: checked.seconds,
            matrix: None,
        }])
    }
}

impl GroupedJob {
    fn shape(&self) -> String {
        let rows: Vec<String> = self.rows.iter().map(ToString::to_string).collect();
        format!("{} x {} x {}", rows.join("+"), self.layer.n, self.layer.k)
    }

    fn check(&self, device: &Device) -> Result<Checked, String> {
        let Layer { n, k } = self.layer;
        let of =
            |(e, &rows): (usize, &usize)| CLASS.generate((rows, n, k), self.seed + e as u64).map_err(text);
        let experts = self.rows.iter().enumerate().map(of).collect::<Result<Vec<GemmInputs>, _>>()?;
        let rows: usize = self.rows.iter().sum();
        let (d, instance, seconds) = self.multiply(device, &experts, rows)?;

        let mut checks = vec![written(&d, n)];
        for &oracle in CLASS.oracles() {
            checks.push(self.judge(oracle, &experts, &d)?);
        }
        let reported = device.poll_error().err().map(text);
        checks.push(Check::equal("segments", self.rows.len(), reported));
        Ok(Checked { instance, seconds, checks })
    }

    fn multiply(
        &self,
        device: &Device,
        experts: &[GemmInputs],
        rows: usize,
    ) -> Result<(Vec<bf16>, String, Option<f64>), String> {
        let Layer { n, k } = self.layer;
        let pitch = scale_pitch(rows);
        let mut segments = vec![0_i32];
        let mut sfa = vec![f32::NAN; k / 128 * pitch];
        for own in experts {
            let first = segments.last().map_or(0, |&row| row as usize);
            for (g, scales) in own.sfa.chunks_exact(own.m.max(1)).enumerate() {
                sfa[g * pitch + first..][..scales.len()].copy_from_slice(scales);
            }
            segments.push((first + own.m) as i32);
        }
        let a: Vec<F8E4M3> = experts.iter().flat_map(|own| own.a.iter().copied()).collect();
        let b: Vec<F8E4M3> = experts.iter().flat_map(|own| own.b.iter().copied()).collect();
        let sfb: Vec<f32> = experts.iter().flat_map(|own| own.sfb.iter().copied()).collect();
        let (a, b) = (device.upload(&a).map_err(text)?, device.upload(&b).map_err(text)?);
        let (sfa, sfb) = (device.upload(&sfa).map_err(text)?, device.upload(&sfb).map_err(text)?);
        let segments = device.upload(&segments).map_err(text)?;
        let mut d = device.upload(&vec![bf16::SENTINEL; rows * n]).map_err(text)?;

        let count = experts.len();
        let expected_rows = rows.div_ceil(count.max(1));
        let spec =
            GroupedFp8GemmSpec { experts: count, n, k, segments: Segments::Ragged { rows }, expected_rows };
        let gemm = GroupedFp8Gemm::plan(device, spec).map_err(text)?;
        let seconds = timed(device, |stream| {
            let args = GroupedFp8GemmArgs {
                a: Matrix::new(&a, rows, k)?,
                sfa: Scales1x128::with_pitch(&sfa, rows, k, pitch)?,
                b: Matrix::new(&b, count * n, k)?,
                sfb: Matrix::new(&sfb, count * n.div_ceil(128), k / 128)?,
                segments: Matrix::new(&segments, 1, count + 1)?,
                d: MatrixMut::new(&mut d, rows, n)?,
            };
            gemm.run(stream, args)
        })?;
        Ok((d.to_vec().map_err(text)?, gemm.choice().instance.name(), seconds))
    }

    /// One oracle on every expert's rows: the first failure, else the worst error.
    fn judge(&self, oracle: Oracle, experts: &[GemmInputs], d: &[bf16]) -> Result<Check, String> {
        let n = self.layer.n;
        let mut first = 0;
        let mut total: Option<Check> = None;
        for (e, own) in experts.iter().enumerate() {
            let operands = own.operands().map_err(text)?;
            let got = |row: usize, column: usize| d[(first + row) * n + column].widen();
            let mut check = judge(oracle, &operands, &Epilogue::store(Output::Bf16), &got, self.seed);
            check.failure = check.failure.map(|failure| format!("expert {e}: {failure}"));
            first += own.m;
            total = Some(match total {
                Some(before) => before.and(check),
                None => check,
            });
        }
        total.ok_or_else(|| "no experts".to_owned())
    }
}
