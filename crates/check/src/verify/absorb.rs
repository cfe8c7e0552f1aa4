//! Checks of what surrounds MLA's attention: absorbed projections, merged states.

use deepseek_kernels::cudarc::driver::DeviceRepr;
use deepseek_kernels::mla::{
    AbsorbOutputArgs, AbsorbQueryArgs, AttentionState, AttentionStateMut, MergeStates, MergeStatesSpec,
    MlaAbsorb, MlaAbsorbSpec,
};
use deepseek_kernels::{Buffer, Device, Error, Matrix, MatrixMut, bf16};
use oracles::mla::{HeadProduct, Side, State, merge_states};

use super::judge::{Cell, first_difference};
use super::machine::{text, timed};
use super::report::{Checked, Row};
use super::runner::{Job, Outcome};
use crate::data::{activations, weights};
use crate::judge::Check;

/// DeepSeek-V3's widths, with this many heads.
pub struct AbsorbJob {
    pub tokens: usize,
    pub heads: usize,
    pub seed: u64,
}

const QUERY: usize = 192;
const LATENT: usize = 512;
const ROW: usize = 576;
const VALUE: usize = 128;
const HEAD_ROWS: usize = 256;

impl Job for AbsorbJob {
    fn label(&self) -> String {
        format!("absorb and merge {} tokens of {} heads", self.tokens, self.heads)
    }

    fn cost(&self) -> u128 {
        // Tiles of 64 tokens, two projections.
        (2 * self.tokens.next_multiple_of(64) * self.heads * VALUE * LATENT) as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let rows = self.tokens * self.heads;
        Outcome::Rows(vec![
            Row::of(
                "activations",
                "MLA query, absorbed",
                format!("{rows} x {LATENT} x {VALUE}"),
                "mla_absorb_query",
                self.query(device),
            ),
            Row::of(
                "activations",
                "MLA output, absorbed",
                format!("{rows} x {VALUE} x {LATENT}"),
                "mla_absorb_output",
                self.output(device),
            ),
            Row::of(
                "activations",
                "merge states, BF16",
                format!("{rows} x {LATENT}"),
                "merge_states",
                self.merge::<bf16>(device),
            ),
            Row::of(
                "activations",
                "merge states, FP32",
                format!("{rows} x {LATENT}"),
                "merge_states",
                self.merge::<f32>(device),
            ),
        ])
    }
}

impl AbsorbJob {
    fn plan(&self, device: &Device) -> Result<MlaAbsorb, String> {
        MlaAbsorb::plan(device, MlaAbsorbSpec { tokens: self.tokens, heads: self.heads }).map_err(text)
    }

    fn w(&self) -> Vec<bf16> {
        weights(self.heads * HEAD_ROWS, LATENT, self.seed)
    }

    fn query(&self, device: &Device) -> Checked {
        let Self { tokens, heads, seed } = *self;
        let (q, w) = (activations(tokens, heads * QUERY, heads * QUERY, seed), self.w());
        let plan = self.plan(device)?;
        let (gq, gw) = (device.upload(&q).map_err(text)?, device.upload(&w).map_err(text)?);
        let mut out = device.upload(&vec![bf16::SENTINEL; tokens * heads * ROW]).map_err(text)?;
        let seconds = timed(device, |stream| {
            plan.run_query(
                stream,
                AbsorbQueryArgs {
                    q: Matrix::new(&gq, tokens, heads * QUERY)?,
                    w: Matrix::new(&gw, heads * HEAD_ROWS, LATENT)?,
                    q_latent: MatrixMut::new(&mut out, tokens * heads, ROW)?,
                },
            )
        })?;
        let out = out.to_vec().map_err(text)?;
        let got: Vec<bf16> = out.chunks(ROW).flat_map(|row| &row[..LATENT]).copied().collect();
        Ok((seconds, judge(&HeadProduct::new(Side::Query, &q, &w, tokens, heads).map_err(text)?, &got)))
    }

    fn output(&self, device: &Device) -> Checked {
        let Self { tokens, heads, seed } = *self;
        let (latent, w) = (activations(tokens * heads, LATENT, LATENT, seed), self.w());
        let plan = self.plan(device)?;
        let (glatent, gw) = (device.upload(&latent).map_err(text)?, device.upload(&w).map_err(text)?);
        let mut out = device.upload(&vec![bf16::SENTINEL; tokens * heads * VALUE]).map_err(text)?;
        let seconds = timed(device, |stream| {
            plan.run_output(
                stream,
                AbsorbOutputArgs {
                    latent: Matrix::new(&glatent, tokens * heads, LATENT)?,
                    w: Matrix::new(&gw, heads * HEAD_ROWS, LATENT)?,
                    out: MatrixMut::new(&mut out, tokens, heads * VALUE)?,
                },
            )
        })?;
        let product = HeadProduct::new(Side::Output, &latent, &w, tokens, heads).map_err(text)?;
        Ok((seconds, judge(&product, &out.to_vec().map_err(text)?)))
    }

    /// Distances of the two parts from nothing to hopeless, some of them empty.
    fn merge<T: Cell + DeviceRepr>(&self, device: &Device) -> Checked {
        let Self { tokens, heads, seed } = *self;
        let rows = tokens * heads;
        let parts = [0, 1].map(|part: u16| {
            let o = activations(rows, LATENT, LATENT, seed + u64::from(part));
            let lse = |row: usize| match row % 11 {
                10 => f32::NEG_INFINITY,
                kind => (row as f32 * 0.37).sin() * kind as f32 * f32::from(9 * part + 1),
            };
            (o.iter().map(|x| x.to_f32()).collect::<Vec<f32>>(), (0..rows).map(lse).collect::<Vec<f32>>())
        });
        let narrow = |o: &[f32]| o.iter().map(|&x| T::narrow(x)).collect::<Vec<T>>();
        let upload = |(o, lse): &(Vec<f32>, Vec<f32>)| {
            Ok::<_, String>((device.upload(&narrow(o)).map_err(text)?, device.upload(lse).map_err(text)?))
        };
        let (a, b) = (upload(&parts[0])?, upload(&parts[1])?);
        let mut o = device.upload(&vec![T::SENTINEL; rows * LATENT]).map_err(text)?;
        let mut lse = device.upload(&vec![f32::SENTINEL; rows]).map_err(text)?;
        let spec = MergeStatesSpec { tokens, heads, infinity_is_empty: false };
        let plan = MergeStates::<T>::plan(device, spec).map_err(text)?;
        let seconds = timed(device, |stream| {
            let out = AttentionStateMut {
                o: MatrixMut::new(&mut o, rows, LATENT)?,
                lse: MatrixMut::new(&mut lse, tokens, heads)?,
            };
            plan.run(stream, [state(&a, spec)?, state(&b, spec)?], out)
        })?;
        let states = parts.each_ref().map(|(o, lse)| State { o, lse });
        let (want_o, want_lse) = merge_states(states, LATENT, false, T::REFERENCE).map_err(text)?;
        let got_o: Vec<f32> = o.to_vec().map_err(text)?.into_iter().map(Cell::widen).collect();
        let checks = vec![
            Check::equal("o", want_o.len(), first_difference(&got_o, &want_o)),
            Check::equal("lse", want_lse.len(), first_difference(&lse.to_vec().map_err(text)?, &want_lse)),
        ];
        Ok((seconds, checks))
    }
}

fn state<T>(
    (o, lse): &(Buffer<T>, Buffer<f32>),
    MergeStatesSpec { tokens, heads, .. }: MergeStatesSpec,
) -> Result<AttentionState<'_, T>, Error>
where
    T: DeviceRepr + Clone,
{
    Ok(AttentionState { o: Matrix::new(o, tokens * heads, LATENT)?, lse: Matrix::new(lse, tokens, heads)? })
}

fn judge(product: &HeadProduct<'_>, got: &[bf16]) -> Vec<Check> {
    let place = |i: usize| format!("[{}, {}]", i / product.n(), i % product.n());
    let model = product.bit_model();
    let bits = model.iter().zip(got).position(|(want, got)| want.to_bits() != got.to_bits());
    let bits = bits.map(|i| format!("{}: expected {}, got {}", place(i), model[i], got[i]));
    let bound = product.bound();
    // A NaN is far from everything.
    let near = |((want, bound), got): (&(f64, f64), &bf16)| (got.to_f64() - want).abs() <= *bound;
    let far = bound.iter().zip(got).position(|pair| !near(pair));
    let far = far.map(|i| format!("{}: expected {} +- {}, got {}", place(i), bound[i].0, bound[i].1, got[i]));
    vec![Check::equal("bit model", model.len(), bits), Check::equal("bound", bound.len(), far)]
}
