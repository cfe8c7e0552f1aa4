//! A step of multi-head latent attention with this crate's kernels alone, from the projections' outputs to what the output projection
//! reads, against Hugging Face.
//!
//! `cargo run --release --example decode_step` fills a paged cache with two prompts of 70 and 130 tokens, then decodes two
//! tokens of each at once:
//!
//! ```text
//! q [tokens, heads * 192] ──┬─ 128 of a head ── MlaAbsorb ──┬─► q [.., 576] ──┐
//!                           └─ 64 of a head ─── Rope ───────┘                 ├─ MlaDecode ── MlaAbsorb ─► out
//! kv [tokens, 576] ─────────┬─ 512 latent ───── KvAppend ───┬─► cache ────────┘
//!                           └─ 64 ── Rope ──────────────────┘
//! ```
//!
//! The output is compared with `tests/goldens/mla.txt`, and with the same attention in f64 over what the cache holds.

use std::error::Error;
use std::ops::Range;

use check::mla::golden::{Golden, HEADS};
use deepseek_kernels::mla::{
    Heads, HeadsMut, KvAppend, KvAppendArgs, KvAppendSpec, KvCache, KvCacheMut, KvFormat, KvPaging,
    MlaAbsorb, MlaAbsorbOutputArgs, MlaAbsorbQueryArgs, MlaAbsorbSpec, MlaAttendArgs, MlaDecode,
    MlaDecodeArgs, MlaDecodeSpec, MlaScheduleArgs, Rope, RopeArgs, RopeSpec, RopeTable, YarnRope,
};
use deepseek_kernels::{Buffer, Device, Matrix, MatrixMut, Vector, bf16};
use oracles::mla::{MlaStep, calc_diff, dequantize_kv_fp8, gather_pages};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LATENT: usize = KvFormat::LATENT;
const ROPE: usize = KvFormat::ROPE;
const KEY: usize = LATENT + ROPE;
/// Of a head: what is absorbed, and what it gives.
const NOPE: usize = 128;
const VALUE: usize = 128;
const QUERY: usize = HEADS * (NOPE + ROPE);

const PAGE: usize = 64;
/// Pages of the two sequences, in no order.
const PAGES: [[i32; 3]; 2] = [[4, 1, -1], [2, 5, 0]];
const POSITIONS: usize = 1 << 15;
/// Query tokens of a sequence in the step.
const Q_TOKENS: usize = 2;

/// How far a token's output may be from Hugging Face's: a bar, set before anything was measured, and not a bound. Rounding
/// to BF16 on the way, each value by up to 2^-8 of itself, comes near it; one wrong element of 512 exceeds it.
const CALC_DIFF: f64 = 1e-5;

fn main() -> Result<()> {
    run(&Device::open_gpu(0).or_else(|_| Device::emulated())?)
}

/// The step with both caches, compared.
fn run(device: &Device) -> Result<()> {
    let sequences = [Golden::read(0), Golden::read(1)];
    println!("two tokens of two sequences, {HEADS} heads; {}", device.name());
    for format in [KvFormat::Bf16, KvFormat::Fp8] {
        let mut layer = Layer::new(device, &sequences, format)?;
        layer.append(&sequences, |golden| 0..golden.first + 1)?;
        layer.append(&sequences, |golden| golden.first + 1..golden.first + 1 + Q_TOKENS)?;
        let out = layer.attend(&sequences)?;
        device.poll_error()?;
        layer.compare(&sequences, &out)?;
    }
    Ok(())
}

/// One layer: its weights, its cache, what it was planned for.
struct Layer<'d> {
    device: &'d Device,
    format: KvFormat,
    softmax_scale: f32,
    /// `[heads * 256, 512]`.
    w: Buffer<bf16>,
    /// `[positions, 64]`.
    angles: Buffer<f32>,
    cache: Cache,
}

enum Cache {
    Bf16(Buffer<bf16>),
    Fp8(Buffer<u8>),
}

impl Cache {
    fn write(&mut self) -> Result<KvCacheMut<'_>> {
        let rows = 6 * PAGE;
        Ok(match self {
            Self::Bf16(cache) => KvCacheMut::Bf16(MatrixMut::new(cache, rows, KEY)?),
            Self::Fp8(cache) => KvCacheMut::Fp8(MatrixMut::new(cache, rows, KvFormat::Fp8.columns(ROPE))?),
        })
    }

    fn read(&self) -> Result<KvCache<'_>> {
        let rows = 6 * PAGE;
        Ok(match self {
            Self::Bf16(cache) => KvCache::Bf16(Matrix::new(cache, rows, KEY)?),
            Self::Fp8(cache) => KvCache::Fp8(Matrix::new(cache, rows, KvFormat::Fp8.columns(ROPE))?),
        })
    }

    /// The keys of a sequence as attention understands them, `[length, 576]`.
    fn keys(&self, sequence: usize, length: usize) -> Result<Vec<bf16>> {
        let (pages, length) = (&PAGES[sequence], length as i32);
        Ok(match self {
            Self::Bf16(cache) => gather_pages(&cache.to_vec()?, KEY, PAGE, pages, length),
            Self::Fp8(cache) => {
                let rows = gather_pages(&cache.to_vec()?, KvFormat::Fp8.columns(ROPE), PAGE, pages, length);
                dequantize_kv_fp8(&rows, ROPE)?
            }
        })
    }
}

impl<'d> Layer<'d> {
    fn new(device: &'d Device, sequences: &[Golden; 2], format: KvFormat) -> Result<Self> {
        let rope = RopeTable::yarn(YarnRope::DEEPSEEK_V3)?;
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b * f32::EPSILON;
        let theirs = &sequences[0].frequencies;
        assert!(
            rope.frequencies().iter().zip(theirs).all(near),
            "Hugging Face's frequencies, but for the last bit"
        );
        let cache = match format {
            KvFormat::Bf16 => Cache::Bf16(device.upload(&vec![bf16::NAN; 6 * PAGE * KEY])?),
            KvFormat::Fp8PerTensor => return Err("codes of a position are not Hugging Face's".into()),
            KvFormat::Fp8 => Cache::Fp8(device.upload(&vec![0xff; 6 * PAGE * KvFormat::Fp8.columns(ROPE)])?),
        };
        Ok(Self {
            device,
            format,
            softmax_scale: rope.softmax_scale(NOPE + ROPE) as f32,
            w: device.upload(&sequences[0].w_kvb)?,
            angles: device.upload(&rope.cos_sin(POSITIONS)?)?,
            cache,
        })
    }

    fn positions(&self, sequences: &[Golden; 2], tokens: &Tokens) -> Result<Buffer<i32>> {
        let of = |(golden, range): (&Golden, &Range<usize>)| golden.positions[range.clone()].to_vec();
        Ok(self.device.upload(&sequences.iter().zip(tokens).flat_map(of).collect::<Vec<_>>())?)
    }

    /// Keys of some tokens of each sequence: rotated, and written to the cache.
    fn append(&mut self, sequences: &[Golden; 2], range: impl Fn(&Golden) -> Range<usize>) -> Result<()> {
        let tokens = sequences.each_ref().map(range);
        // What the projection gives: latent (after its norm) and position side by side.
        let (mut kv, mut slots) = (vec![], vec![]);
        for ((golden, range), pages) in sequences.iter().zip(&tokens).zip(PAGES) {
            for token in range.clone() {
                kv.extend_from_slice(&golden.c_kv[token * LATENT..][..LATENT]);
                kv.extend_from_slice(&golden.k_pe[token * ROPE..][..ROPE]);
                slots.push(pages[token / PAGE] * PAGE as i32 + (token % PAGE) as i32);
            }
        }
        let (count, device) = (slots.len(), self.device);
        let (kv, slots) = (device.upload(&kv)?, device.upload(&slots)?);
        let positions = self.positions(sequences, &tokens)?;
        let mut rotated = device.upload(&vec![bf16::NAN; count * ROPE])?;

        let rope = Rope::plan(device, RopeSpec::new(count, 1, POSITIONS))?;
        let args = RopeArgs {
            x: Heads::new(kv.slice(LATENT), count, 1, KEY, ROPE)?,
            positions: Vector::from(&positions).into(),
            table: Matrix::new(&self.angles, POSITIONS, ROPE)?,
            out: HeadsMut::new(&mut rotated, count, 1, ROPE, ROPE)?,
        };
        rope.run(device.stream()?, args)?;
        let append = KvAppend::plan(device, KvAppendSpec::new(count, 6 * PAGE, self.format))?;
        let args = KvAppendArgs {
            latent: Matrix::with_pitch(&kv, count, LATENT, KEY)?,
            k_pe: Some(Matrix::new(&rotated, count, ROPE)?),
            slots: Vector::from(&slots).into(),
            cache: self.cache.write()?,
        };
        Ok(append.run(device.stream()?, args)?)
    }

    /// `[tokens, heads * 128]` of the last tokens of each sequence.
    fn attend(&self, sequences: &[Golden; 2]) -> Result<Vec<bf16>> {
        let tokens = sequences.each_ref().map(|golden| golden.first + 1..golden.first + 1 + Q_TOKENS);
        let (device, count) = (self.device, 2 * Q_TOKENS);
        let rows = count * HEADS;
        let of = |(golden, range): (&Golden, &Range<usize>)| {
            golden.q[range.start * QUERY..range.end * QUERY].to_vec()
        };
        let q = device.upload(&sequences.iter().zip(&tokens).flat_map(of).collect::<Vec<_>>())?;
        let positions = self.positions(sequences, &tokens)?;
        let lengths = device.upload(&tokens.each_ref().map(|range| range.end as i32))?;
        let table = device.upload(&PAGES.concat())?;
        let mut latent_q = device.upload(&vec![bf16::NAN; rows * KEY])?;
        let mut latent_out = device.upload(&vec![bf16::NAN; rows * LATENT])?;
        let mut lse = device.upload(&vec![f32::NAN; rows])?;
        let mut out = device.upload(&vec![bf16::NAN; rows * VALUE])?;

        let absorb = MlaAbsorb::plan(device, MlaAbsorbSpec::new(count, HEADS))?;
        let args = MlaAbsorbQueryArgs {
            q: Matrix::new(&q, count, QUERY)?,
            w: self.w()?,
            q_latent: MatrixMut::new(&mut latent_q, rows, KEY)?,
        };
        absorb.run_query(device.stream()?, args)?;
        let rope = Rope::plan(device, RopeSpec::new(count, HEADS, POSITIONS))?;
        let args = RopeArgs {
            x: Heads::new(q.slice(NOPE), count, HEADS, QUERY, NOPE + ROPE)?,
            positions: Vector::from(&positions).into(),
            table: Matrix::new(&self.angles, POSITIONS, ROPE)?,
            out: HeadsMut::new(latent_q.slice_mut(LATENT), count, HEADS, HEADS * KEY, KEY)?,
        };
        rope.run(device.stream()?, args)?;

        let decode = MlaDecode::plan(device, self.decode_spec())?;
        println!("{}", decode.choice());
        let mut tables = device.zeros(decode.tables())?;
        let mut scratch = device.zeros(decode.scratch_bytes())?;
        let schedule = MlaScheduleArgs {
            lengths: Vector::from(&lengths).into(),
            q_offsets: None,
            tables: (&mut tables).into(),
        };
        let attend = MlaAttendArgs {
            q: Matrix::new(&latent_q, rows, KEY)?,
            cache: self.cache.read()?,
            page_table: Some(Matrix::new(&table, 2, PAGES[0].len())?.into()),
            scratch: (&mut scratch).into(),
            out: MatrixMut::new(&mut latent_out, rows, LATENT)?,
            lse: MatrixMut::new(&mut lse, count, HEADS)?,
        };
        decode.run(device.stream()?, MlaDecodeArgs { schedule, attend })?;
        let args = MlaAbsorbOutputArgs {
            latent: Matrix::new(&latent_out, rows, LATENT)?,
            w: self.w()?,
            out: MatrixMut::new(&mut out, count, HEADS * VALUE)?,
        };
        absorb.run_output(device.stream()?, args)?;
        Ok(out.to_vec()?)
    }

    fn w(&self) -> Result<Matrix<'_, bf16>> {
        Ok(Matrix::new(&self.w, HEADS * (NOPE + VALUE), LATENT)?)
    }

    fn decode_spec(&self) -> MlaDecodeSpec {
        let paging = KvPaging::Paged { pages: 6, page_size: PAGE, pages_per_sequence: PAGES[0].len() };
        MlaDecodeSpec::new(2, HEADS, self.format, paging, self.softmax_scale).q_tokens(Q_TOKENS)
    }

    /// Token by token, with Hugging Face and with f64 over what the cache holds.
    fn compare(&self, sequences: &[Golden; 2], out: &[bf16]) -> Result<()> {
        for (index, golden) in sequences.iter().enumerate() {
            let end = golden.first + 1 + Q_TOKENS;
            let stored = self.cache.keys(index, end)?;
            let latents: Vec<bf16> = stored.chunks(KEY).flat_map(|key| &key[..LATENT]).copied().collect();
            let exact = MlaStep { c_kv: &latents, ..golden.step(end, Q_TOKENS) }.absorbed()?;
            for token in 0..Q_TOKENS {
                let of_token = token * HEADS * VALUE..(token + 1) * HEADS * VALUE;
                let out = &out[index * Q_TOKENS * HEADS * VALUE..][of_token.clone()];
                let out: Vec<f32> = out.iter().map(|x| x.to_f32()).collect();
                let rounding = calc_diff(&exact[of_token], &out);
                let hugging_face = calc_diff(&golden.out[1 + token], &out);
                println!(
                    "{}, sequence {index}, token {token}: calc_diff {rounding:.1e} from f64 over the stored keys, \
                     {hugging_face:.1e} from Hugging Face",
                    self.format
                );
                // The golden's latents are small integers times a power of two: exact in an FP8 cache too.
                let judged = rounding.max(hugging_face);
                assert!(judged <= CALC_DIFF, "calc_diff {judged:e}, expected at most {CALC_DIFF:e}");
            }
        }
        Ok(())
    }
}

/// Tokens of each sequence.
type Tokens = [Range<usize>; 2];

#[cfg(test)]
mod tests {
    /// On every device.
    #[test]
    fn the_step_agrees_with_hugging_face() -> super::Result<()> {
        check::devices::devices().iter().try_for_each(super::run)
    }
}
