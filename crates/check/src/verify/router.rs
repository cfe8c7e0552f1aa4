//! Checks of the router and of what balances it.

use crate::router::gate_model;
use deepseek_kernels::router::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, Gate, GateInput, GateSpec, Routing,
};
use deepseek_kernels::{Buffer, Device, Matrix, MatrixMut};
use oracles::router::{GateOptions, Routed, bias_update, expert_load, gate_logits, gate_select};

use super::judge::first_difference;
use super::machine::{text, timed};
use super::report::{Checked, Row};
use super::runner::{Job, Outcome};
use crate::data::{activations, weights};
use crate::judge::Check;

/// DeepSeek-V3's router on this many tokens.
pub struct RouterJob {
    pub tokens: usize,
    pub seed: u64,
}

const SPEED: f32 = 1e-3;

impl Job for RouterJob {
    fn label(&self) -> String {
        format!("route {} tokens", self.tokens)
    }

    fn cost(&self) -> u128 {
        // A tile of the logits' kernel costs the same with few tokens.
        let GateSpec { tokens, hidden, experts, .. } = self.spec();
        (tokens.next_multiple_of(32) * hidden * experts) as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let (seconds, checks) =
            self.check(device).unwrap_or_else(|failure| (None, vec![Check::failed("run", failure)]));
        let GateSpec { tokens, hidden, experts, .. } = self.spec();
        Outcome::Rows(vec![Row {
            operation: "route and balance".to_owned(),
            shape: format!("{tokens} x {experts} x {hidden}"),
            instance: "gate_*, expert_load, bias_update".to_owned(),
            data: "activations".to_owned(),
            checks,
            seconds,
            matrix: None,
        }])
    }
}

/// What the kernels write.
struct Outputs {
    ids: Buffer<i32>,
    weights: Buffer<f32>,
    scores: Buffer<f32>,
    counts: Buffer<u32>,
    bias: Buffer<f32>,
}

impl RouterJob {
    fn spec(&self) -> GateSpec {
        GateSpec::deepseek_v3(self.tokens)
    }

    fn check(&self, device: &Device) -> Checked {
        let GateSpec { tokens, hidden, experts, top_k, .. } = self.spec();
        let x = activations(tokens, hidden, hidden, self.seed);
        let w: Vec<f32> = weights(experts, hidden, self.seed).iter().map(|w| w.to_f32()).collect();
        let mut bias: Vec<f32> = (0..experts).map(|e| (e as f32 * 0.7).sin() * 0.1 - 1.0).collect();
        let bias_there = device.upload(&bias).map_err(text)?;
        let mut outputs = Outputs {
            ids: device.upload(&vec![i32::MIN; tokens * top_k]).map_err(text)?,
            weights: device.upload(&vec![f32::NAN; tokens * top_k]).map_err(text)?,
            scores: device.upload(&vec![f32::NAN; tokens * experts]).map_err(text)?,
            counts: device.upload(&vec![0; experts]).map_err(text)?,
            bias: bias_there,
        };
        let seconds = self.route(device, (&x, &w), &mut outputs)?;

        let logits = gate_logits(&x, &w, tokens, experts, hidden).map_err(text)?;
        let want = gate_select(
            &gate_model(&self.spec()),
            &logits,
            GateOptions { bias: Some(&bias), ..Default::default() },
        );
        let Routed { ids, weights, scores, .. } = want.map_err(text)?;
        let mut counts = vec![0; experts];
        expert_load(&ids, &mut counts);
        bias_update(&counts, &mut bias, SPEED).map_err(text)?;
        let checks = vec![
            same_bits("scores", &outputs.scores, &scores)?,
            same_integers("experts", &outputs.ids, &ids)?,
            same_bits("weights", &outputs.weights, &weights)?,
            same_integers("counts", &outputs.counts, &counts)?,
            same_bits("bias", &outputs.bias, &bias)?,
            Check::equal("report", 1, device.poll_error().err().map(text)),
        ];
        Ok((seconds, checks))
    }

    /// Routes, counts, and moves the bias; the seconds of all launches.
    fn route(
        &self,
        device: &Device,
        (x, w): (&[deepseek_kernels::bf16], &[f32]),
        out: &mut Outputs,
    ) -> Result<Option<f64>, String> {
        let spec = self.spec();
        let GateSpec { tokens, hidden, experts, top_k, .. } = spec;
        let gate = Gate::plan(device, spec).map_err(text)?;
        let load =
            ExpertLoad::plan(device, ExpertLoadSpec { tokens, routes: top_k, experts }).map_err(text)?;
        let update = BiasUpdate::plan(device, BiasUpdateSpec { experts, speed: SPEED }).map_err(text)?;
        let (x, w) = (device.upload(x).map_err(text)?, device.upload(w).map_err(text)?);
        let mut workspace = device.upload(&vec![f32::NAN; gate.workspace_len()]).map_err(text)?;
        let mut max_vio = device.upload(&[f32::NAN]).map_err(text)?;
        let launches = [
            timed(device, |stream| {
                let input = GateInput {
                    hidden: Matrix::new(&x, tokens, hidden)?,
                    weight: Matrix::new(&w, experts, hidden)?,
                    workspace: workspace.slice_mut(0),
                };
                let routing = Routing {
                    bias: Some(out.bias.slice(0)),
                    mask: None,
                    fixed_ids: None,
                    ids: MatrixMut::new(&mut out.ids, tokens, top_k)?,
                    weights: MatrixMut::new(&mut out.weights, tokens, top_k)?,
                    scores: Some(MatrixMut::new(&mut out.scores, tokens, experts)?),
                };
                gate.run(stream, input, routing)
            })?,
            timed(device, |stream| {
                load.run(stream, Matrix::new(&out.ids, tokens, top_k)?, out.counts.slice_mut(0))
            })?,
            timed(device, |stream| {
                update.run(stream, out.counts.slice(0), out.bias.slice_mut(0), max_vio.slice_mut(0))
            })?,
        ];
        Ok(launches.into_iter().sum())
    }
}

fn same_bits(oracle: &'static str, got: &Buffer<f32>, want: &[f32]) -> Result<Check, String> {
    let got = got.to_vec().map_err(text)?;
    Ok(Check::equal(oracle, want.len(), first_difference(&got, want)))
}

fn same_integers<T>(oracle: &'static str, got: &Buffer<T>, want: &[T]) -> Result<Check, String>
where
    T: deepseek_kernels::cudarc::driver::DeviceRepr + Clone + PartialEq + std::fmt::Display,
{
    let got = got.to_vec().map_err(text)?;
    let wrong = got.iter().zip(want).position(|(got, want)| got != want);
    let failure = wrong.map(|i| format!("[{i}]: expected {}, got {}", want[i], got[i]));
    Ok(Check::equal(oracle, want.len(), failure))
}
