//! Checks of what fills the KV cache: rotation, append.

use deepseek_kernels::mla::{
    Heads, HeadsMut, KvAppend, KvAppendArgs, KvAppendSpec, KvCacheMut, KvFormat, Rope, RopeArgs, RopeSpec,
    RopeTable, YarnRope,
};
use deepseek_kernels::{Device, Matrix, MatrixMut, bf16};
use oracles::mla::{kv_append_bf16, kv_append_fp8, rope};
use oracles::quant::QuantizeScale;

use super::judge::Cell;
use super::machine::{text, timed};
use super::report::{Checked, Row};
use super::runner::{Job, Outcome};
use crate::data::activations;
use crate::judge::Check;

/// DeepSeek-V3's attention, on this many new tokens.
pub struct KvCacheJob {
    pub tokens: usize,
    pub seed: u64,
}

const HEADS: usize = 128;
const LATENT: usize = KvFormat::LATENT;
const ROPE: usize = KvFormat::ROPE;
/// Columns of a head's query, of which the last 64 are rotated; columns of it after absorption.
const QUERY: usize = 128 + ROPE;
const ABSORBED: usize = LATENT + ROPE;
const POSITIONS: usize = 4096 + 64;
const PAGE_SIZE: usize = 64;

impl Job for KvCacheJob {
    fn label(&self) -> String {
        format!("rotate and append {} tokens", self.tokens)
    }

    fn cost(&self) -> u128 {
        // As the quantisers.
        16 * (self.tokens * (HEADS * ROPE + 2 * ABSORBED)) as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let append = |format| {
            let shape = format!("{} x {ABSORBED}", self.tokens);
            Row::of(
                "activations",
                &format!("append {format}"),
                shape,
                "kv_append",
                self.check_append(device, format),
            )
        };
        Outcome::Rows(vec![
            Row::of(
                "activations",
                "rotate",
                format!("{} x {HEADS} x {ROPE}", self.tokens),
                "rope",
                self.check_rope(device),
            ),
            append(KvFormat::Bf16),
            append(KvFormat::Fp8),
        ])
    }
}

impl KvCacheJob {
    /// Different for every token, in no order.
    fn scattered(&self, below: usize) -> Vec<i32> {
        (0..self.tokens).map(|token| ((token * 2_654_435_761 + self.seed as usize) % below) as i32).collect()
    }

    /// Queries `[tokens, heads * 192]` to the last columns of `[tokens * heads, 576]`.
    fn check_rope(&self, device: &Device) -> Checked {
        let tokens = self.tokens;
        let x = activations(tokens, HEADS * QUERY, HEADS * QUERY, self.seed);
        let table = RopeTable::yarn(YarnRope::DEEPSEEK_V3).and_then(|table| table.cos_sin(POSITIONS));
        let (table, positions) = (table.map_err(text)?, self.scattered(POSITIONS));
        let plan =
            Rope::plan(device, RopeSpec { tokens, heads: HEADS, positions: POSITIONS }).map_err(text)?;
        let gx = device.upload(&x).map_err(text)?;
        let gpositions = device.upload(&positions).map_err(text)?;
        let gtable = device.upload(&table).map_err(text)?;
        let mut out = device.upload(&vec![bf16::SENTINEL; tokens * HEADS * ABSORBED]).map_err(text)?;
        let seconds = timed(device, |stream| {
            plan.run(
                stream,
                RopeArgs {
                    x: Heads::new(gx.slice(QUERY - ROPE), tokens, HEADS, HEADS * QUERY, QUERY)?,
                    positions: Matrix::new(&gpositions, 1, tokens)?,
                    table: Matrix::new(&gtable, POSITIONS, ROPE)?,
                    out: HeadsMut::new(out.slice_mut(LATENT), tokens, HEADS, HEADS * ABSORBED, ABSORBED)?,
                },
            )
        })?;
        let rotated: Vec<bf16> = x.chunks(QUERY).flat_map(|head| &head[QUERY - ROPE..]).copied().collect();
        let rotated = rope(&rotated, HEADS, &positions, &table).map_err(text)?;
        let untouched = [bf16::SENTINEL; LATENT];
        let want: Vec<bf16> = rotated.chunks(ROPE).flat_map(|head| [&untouched, head].concat()).collect();
        let bits = |x: &bf16| x.to_bits();
        Ok((seconds, checks(device, &out.to_vec().map_err(text)?, &want, bits)))
    }

    fn check_append(&self, device: &Device, format: KvFormat) -> Checked {
        let tokens = self.tokens;
        let rows = (2 * tokens).next_multiple_of(PAGE_SIZE);
        let both = activations(tokens, ABSORBED, ABSORBED, self.seed);
        // Rows in between are nobody's.
        let slots: Vec<i32> = (0..tokens as i32).rev().map(|token| 2 * token + 1).collect();
        let plan = KvAppend::plan(device, KvAppendSpec::new(tokens, rows, format)).map_err(text)?;
        let (gboth, gslots) = (device.upload(&both).map_err(text)?, device.upload(&slots).map_err(text)?);
        let append = |cache: KvCacheMut<'_>| {
            timed(device, |stream| {
                let args = KvAppendArgs {
                    latent: Matrix::with_pitch(&gboth, tokens, LATENT, ABSORBED)?,
                    k_pe: Matrix::with_pitch(gboth.slice(LATENT), tokens, ROPE, ABSORBED)?,
                    slots: Matrix::new(&gslots, 1, tokens)?,
                    cache,
                };
                plan.run(stream, args)
            })
        };
        let part = |columns: std::ops::Range<usize>| -> Vec<bf16> {
            both.chunks(ABSORBED).flat_map(|row| &row[columns.clone()]).copied().collect()
        };
        let (latent, k_pe) = (part(0..LATENT), part(LATENT..ABSORBED));
        let elements = rows * format.columns();
        match format {
            KvFormat::Bf16 => {
                let mut want = vec![bf16::SENTINEL; elements];
                let mut cache = device.upload(&want).map_err(text)?;
                let view = MatrixMut::new(&mut cache, rows, format.columns()).map_err(text)?;
                let seconds = append(KvCacheMut::Bf16(view))?;
                kv_append_bf16(&latent, &k_pe, &slots, &mut want).map_err(text)?;
                Ok((seconds, checks(device, &cache.to_vec().map_err(text)?, &want, |x| x.to_bits())))
            }
            KvFormat::Fp8 => {
                let mut want = vec![0xff_u8; elements];
                let mut cache = device.upload(&want).map_err(text)?;
                let view = MatrixMut::new(&mut cache, rows, format.columns()).map_err(text)?;
                let seconds = append(KvCacheMut::Fp8(view))?;
                kv_append_fp8(&latent, &k_pe, &slots, QuantizeScale::PowerOfTwo, &mut want).map_err(text)?;
                Ok((seconds, checks(device, &cache.to_vec().map_err(text)?, &want, |&byte| byte)))
            }
        }
    }
}

/// All of the memory, what must not be touched included, and that nothing was reported.
fn checks<T, B: PartialEq>(device: &Device, got: &[T], want: &[T], bits: impl Fn(&T) -> B) -> Vec<Check>
where
    T: std::fmt::Display,
{
    let wrong = want.iter().zip(got).position(|(want, got)| bits(want) != bits(got));
    let failure = wrong.map(|i| format!("[{i}]: expected {}, got {}", want[i], got[i]));
    vec![
        Check::equal("bytes", want.len(), failure),
        Check::equal("report", 1, device.poll_error().err().map(text)),
    ]
}
