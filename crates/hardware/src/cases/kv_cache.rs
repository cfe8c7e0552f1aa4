//! What fills the KV cache: rotation and append. One right result each, to the bit.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{
    Heads, HeadsMut, KvAppend, KvAppendArgs, KvAppendSpec, KvCacheMut, KvFormat, Rope, RopeArgs, RopeSpec,
    RopeTable, YarnRope,
};
use deepseek_kernels::{Buffer, Device, Matrix, MatrixMut, Stream, bf16};
use oracles::mla::AttentionClass;
use oracles::mla::{kv_append_bf16, kv_append_fp8, rope};
use oracles::quant::QuantizeScale;

use super::SEED;
use crate::case::{Case, Judgement, Output, Prepared, Scalar, Work, unwritten};

const LATENT: usize = KvFormat::LATENT;
const ROPE: usize = KvFormat::ROPE;
const KEY: usize = LATENT + ROPE;
/// Rows of the table of angles.
const POSITIONS: usize = 4096;

/// The rotated columns of absorbed queries `[tokens, heads, 576]`.
#[derive(Debug, Clone, Copy)]
pub struct RopeCase {
    /// Tokens.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
}

impl RopeCase {
    fn rows(&self) -> usize {
        self.tokens * self.heads
    }

    /// Different for neighbours, in no order.
    fn positions(&self) -> Vec<i32> {
        (0..self.tokens).map(|token| (token * 2_654_435_761 % POSITIONS) as i32).collect()
    }
}

impl Case for RopeCase {
    fn operation(&self) -> &'static str {
        "rope"
    }

    fn shape(&self) -> String {
        format!("{}x{}", self.tokens, self.heads)
    }

    fn work(&self) -> Work {
        Work { flops: 0, bytes: (4 * self.rows() * ROPE + self.tokens * 4 * ROPE) as u64 }
    }

    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>> {
        let x = AttentionClass::Normal.generate(self.rows(), 0, 0, SEED).q;
        let inputs = Arc::new((x, RopeTable::yarn(YarnRope::DEEPSEEK_V3)?.cos_sin(POSITIONS)?));
        (0..sets).map(|_| Ok(Box::new(Rotation::new(device, *self, inputs.clone())?) as _)).collect()
    }
}

struct Rotation {
    case: RopeCase,
    /// X and the table.
    inputs: Arc<(Vec<bf16>, Vec<f32>)>,
    plan: Rope,
    x: Buffer<bf16>,
    positions: Buffer<i32>,
    table: Buffer<f32>,
    out: Buffer<bf16>,
}

impl Rotation {
    fn new(device: &Device, case: RopeCase, inputs: Arc<(Vec<bf16>, Vec<f32>)>) -> Result<Self> {
        let RopeCase { tokens, heads } = case;
        Ok(Self {
            plan: Rope::plan(device, RopeSpec { tokens, heads, positions: POSITIONS })?,
            x: device.upload(&inputs.0)?,
            positions: device.upload(&case.positions())?,
            table: device.upload(&inputs.1)?,
            out: unwritten(device, case.rows() * KEY)?,
            case,
            inputs,
        })
    }
}

impl Prepared for Rotation {
    fn instance(&self) -> String {
        self.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let RopeCase { tokens, heads } = self.case;
        let args = RopeArgs {
            x: Heads::new(self.x.slice(LATENT), tokens, heads, heads * KEY, KEY)?,
            positions: Matrix::new(&self.positions, 1, tokens)?,
            table: Matrix::new(&self.table, POSITIONS, ROPE)?,
            out: HeadsMut::new(self.out.slice_mut(LATENT), tokens, heads, heads * KEY, KEY)?,
        };
        self.plan.run(stream, args)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.out)?])
    }

    /// What must not be touched included.
    fn judge(&self) -> Result<Judgement> {
        let x: Vec<bf16> = self.inputs.0.chunks(KEY).flat_map(|head| &head[LATENT..]).copied().collect();
        let rotated = rope(&x, self.case.heads, &self.case.positions(), &self.inputs.1)?;
        let untouched = [bf16::SENTINEL; LATENT];
        let expected: Vec<bf16> =
            rotated.chunks(ROPE).flat_map(|head| untouched.iter().chain(head)).copied().collect();
        Ok(Judgement::of_bits(&self.out.to_vec()?, &expected))
    }
}

/// New tokens into every second row of a cache, the last one first.
#[derive(Debug, Clone, Copy)]
pub struct AppendCase {
    /// What a row holds.
    pub format: KvFormat,
    /// Tokens.
    pub tokens: usize,
}

impl AppendCase {
    fn rows(&self) -> usize {
        2 * self.tokens
    }

    fn slots(&self) -> Vec<i32> {
        (0..self.tokens as i32).rev().map(|token| 2 * token + 1).collect()
    }
}

impl Case for AppendCase {
    fn operation(&self) -> &'static str {
        match self.format {
            KvFormat::Bf16 => "kv_append_bf16",
            KvFormat::Fp8 => "kv_append_fp8",
        }
    }

    fn shape(&self) -> String {
        self.tokens.to_string()
    }

    fn work(&self) -> Work {
        let row = match self.format {
            KvFormat::Bf16 => 2 * KEY,
            KvFormat::Fp8 => KvFormat::Fp8.columns(),
        };
        Work { flops: 0, bytes: (self.tokens * (2 * KEY + row + 4)) as u64 }
    }

    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>> {
        let keys = Arc::new(AttentionClass::Normal.generate(0, self.tokens, self.tokens, SEED).keys);
        (0..sets)
            .map(|_| {
                Ok(match self.format {
                    KvFormat::Bf16 => Box::new(Appended::<bf16>::new(device, *self, keys.clone())?) as _,
                    KvFormat::Fp8 => Box::new(Appended::<u8>::new(device, *self, keys.clone())?) as _,
                })
            })
            .collect()
    }
}

/// Elements of a cache.
trait Stored: Scalar {
    fn cache(rows: MatrixMut<'_, Self>) -> KvCacheMut<'_>;
    /// What an append makes of rows of sentinels.
    fn expected(case: &AppendCase, latent: &[bf16], k_pe: &[bf16]) -> Result<Vec<Self>>;
}

impl Stored for bf16 {
    fn cache(rows: MatrixMut<'_, Self>) -> KvCacheMut<'_> {
        KvCacheMut::Bf16(rows)
    }

    fn expected(case: &AppendCase, latent: &[bf16], k_pe: &[bf16]) -> Result<Vec<Self>> {
        let mut rows = vec![Self::SENTINEL; case.rows() * case.format.columns()];
        kv_append_bf16(latent, k_pe, &case.slots(), &mut rows)?;
        Ok(rows)
    }
}

impl Stored for u8 {
    fn cache(rows: MatrixMut<'_, Self>) -> KvCacheMut<'_> {
        KvCacheMut::Fp8(rows)
    }

    fn expected(case: &AppendCase, latent: &[bf16], k_pe: &[bf16]) -> Result<Vec<Self>> {
        let mut rows = vec![Self::SENTINEL; case.rows() * case.format.columns()];
        kv_append_fp8(latent, k_pe, &case.slots(), QuantizeScale::PowerOfTwo, &mut rows)?;
        Ok(rows)
    }
}

struct Appended<T> {
    case: AppendCase,
    /// `[tokens, 576]`.
    keys: Arc<Vec<bf16>>,
    plan: KvAppend,
    input: Buffer<bf16>,
    slots: Buffer<i32>,
    cache: Buffer<T>,
}

impl<T: Stored> Appended<T> {
    fn new(device: &Device, case: AppendCase, keys: Arc<Vec<bf16>>) -> Result<Self> {
        Ok(Self {
            plan: KvAppend::plan(device, KvAppendSpec::new(case.tokens, case.rows(), case.format))?,
            input: device.upload(&keys)?,
            slots: device.upload(&case.slots())?,
            cache: unwritten(device, case.rows() * case.format.columns())?,
            case,
            keys,
        })
    }
}

impl<T: Stored> Prepared for Appended<T> {
    fn instance(&self) -> String {
        "kv_append".to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()> {
        let AppendCase { tokens, format } = self.case;
        let args = KvAppendArgs {
            latent: Matrix::with_pitch(&self.input, tokens, LATENT, KEY)?,
            k_pe: Matrix::with_pitch(self.input.slice(LATENT), tokens, ROPE, KEY)?,
            slots: Matrix::new(&self.slots, 1, tokens)?,
            cache: T::cache(MatrixMut::new(&mut self.cache, self.case.rows(), format.columns())?),
        };
        self.plan.run(stream, args)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("cache", &self.cache)?])
    }

    /// Rows that nobody named included.
    fn judge(&self) -> Result<Judgement> {
        let (latent, k_pe): (Vec<_>, Vec<_>) =
            self.keys.chunks_exact(KEY).map(|key| key.split_at(LATENT)).unzip();
        let expected = T::expected(&self.case, &latent.concat(), &k_pe.concat())?;
        Ok(Judgement::of_bits(&self.cache.to_vec()?, &expected))
    }
}
