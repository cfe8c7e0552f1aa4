//! The append to the KV cache: tokens into rows of a cache that already holds something.

mod faults;
mod traced;

pub use faults::FAULTS;
use std::fmt;
use std::sync::Arc;
pub use traced::traced;

use anyhow::Result;
use deepseek_kernels::mla::{KvAppend, KvAppendArgs, KvAppendSpec, KvFormat};
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::{DataFaults, Device, Error, Stream, bf16};
use oracles::mla::{Appended, NewTokens};
use oracles::quant::quantizer_rows;

use super::cache::{CacheOperand, CacheRows, scale_of};
use super::{KEY, LATENT, ROPE};
use crate::case::{Case, Expected, Prepared, Problem, Work, fault_if};
use crate::data::{activations, rows_of};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, IndexOperand, Operand, Output, Scalar};

/// A class of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenClass {
    /// What a norm leaves.
    Activations,
    /// What quantisers find hard, Inf and NaN included; every fifth token has no row.
    EveryKind,
    /// Quotients halfway between two codes: with FP32 scales the last bit of a quotient decides the code.
    Ties,
}

impl fmt::Display for TokenClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Activations => "activations",
            Self::EveryKind => "every kind",
            Self::Ties => "ties",
        })
    }
}

/// What a cache holds, and how its scales are chosen.
pub const FORMATS: [(KvFormat, ScaleFormat); 4] = [
    (KvFormat::Bf16, ScaleFormat::PowerOfTwo),
    (KvFormat::Fp8, ScaleFormat::PowerOfTwo),
    (KvFormat::Fp8, ScaleFormat::Fp32),
    (KvFormat::Fp8PerTensor, ScaleFormat::Fp32),
];

/// New tokens into rows of a cache, in no order.
#[derive(Debug, Clone, Copy)]
pub struct KvAppendCase {
    pub format: (KvFormat, ScaleFormat),
    /// Elements of a rotated key: `ROPE`, or 0.
    pub rope: usize,
    pub tokens: usize,
    /// Of the cache. Tokens beyond them have no row.
    pub rows: usize,
    /// Rows of a page, where something lies between pages and not between rows: as many as divide them.
    pub page_size: Option<usize>,
    pub class: TokenClass,
    /// Latent vector and key are columns of one matrix, of 576 if there are keys.
    pub one_matrix: bool,
    pub seed: u64,
}

impl KvAppendCase {
    /// Activations into every second row or so.
    pub const fn new(format: (KvFormat, ScaleFormat), tokens: usize) -> Self {
        let class = TokenClass::Activations;
        Self {
            format,
            rope: ROPE,
            tokens,
            rows: 2 * tokens,
            page_size: None,
            class,
            one_matrix: true,
            seed: 1,
        }
    }

    /// With its inputs.
    pub fn problem(self) -> Result<KvAppendProblem> {
        let Self { rope, tokens, rows, class, seed, .. } = self;
        let key = LATENT + rope;
        let columns = |wide: &[bf16], width: usize, columns: std::ops::Range<usize>| -> Vec<bf16> {
            wide.chunks_exact(width).flat_map(|row| &row[columns.clone()]).copied().collect()
        };
        let (latent, k_pe) = match class {
            TokenClass::Activations => {
                let both = activations(tokens, key, key, seed);
                (columns(&both, key, 0..LATENT), columns(&both, key, LATENT..key))
            }
            TokenClass::EveryKind => {
                let wide = quantizer_rows(tokens, 2 * ROPE, seed + 1);
                (quantizer_rows(tokens, LATENT, seed), columns(&wide, 2 * ROPE, 0..rope))
            }
            TokenClass::Ties => {
                let tie = |i| if self.format.0 == KvFormat::Fp8PerTensor { tensor_tie(i) } else { tie(i) };
                ((0..tokens * LATENT).map(tie).collect(), (0..tokens * rope).map(tensor_tie).collect())
            }
        };
        let scale = match class {
            TokenClass::Activations => scale_of(&latent),
            TokenClass::EveryKind => 0.37,
            TokenClass::Ties => TENSOR_TIE / 17.0,
        };
        let mut order: Vec<i32> = (0..rows as i32).collect();
        // Any order will do that jumps back and forth.
        order.sort_by_key(|&row| (row as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let slot = |token: usize| match order.get(token) {
            Some(&row) if class != TokenClass::EveryKind || token % 5 != 3 => row,
            _ => -1,
        };
        let slots = (0..tokens).map(slot).collect();
        Ok(KvAppendProblem { case: self, latent, k_pe, scale, slots, expected: Expected::default() })
    }
}

/// The largest value of a block, then halves of steps between codes.
fn tie(i: usize) -> bf16 {
    let (block, i) = (i / 128, i % 128);
    let amax = (2 * block + 1) as f32;
    let sign = if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    bf16::from_f32(if i == 0 { amax } else { sign * amax * 3.0 / 32.0 * (-((i / 2 % 8) as f32)).exp2() })
}

/// 17 times a scale: halfway between two codes, which its product with the scale's reciprocal is not.
const TENSOR_TIE: f32 = 1.148_437_5;

fn tensor_tie(i: usize) -> bf16 {
    let sign = if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    bf16::from_f32(sign * TENSOR_TIE * (-((i / 2 % 8) as f32)).exp2())
}

/// Slots that are no rows of a cache of `rows` rows.
pub fn strangers(rows: usize) -> [i32; 6] {
    [i32::MIN, -2, rows as i32, rows as i32 + 1, 0x4000_0000, i32::MAX]
}

impl Case for KvAppendCase {
    fn operation(&self) -> &'static str {
        match self.format.0 {
            KvFormat::Bf16 => "kv_append_bf16",
            KvFormat::Fp8 => "kv_append_fp8",
            KvFormat::Fp8PerTensor => "kv_append_fp8_per_tensor",
        }
    }

    fn title(&self) -> String {
        format!("append {}{}", self.format.0, if self.rope == 0 { " without positions" } else { "" })
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.tokens, LATENT + self.rope)
    }

    fn label(&self) -> String {
        let fp32 = self.format == (KvFormat::Fp8, ScaleFormat::Fp32);
        let rope = if self.rope == 0 { "_nope" } else { "" };
        format!("{}{}{rope}", self.tokens, if fp32 { "_fp32" } else { "" })
    }

    fn data(&self) -> String {
        self.class.to_string()
    }

    fn work(&self) -> Work {
        let Self { format: (format, _), rope, tokens, .. } = *self;
        Work { flops: 0, bytes: (tokens * (2 * (LATENT + rope) + format.row_bytes(rope) + 4)) as u64 }
    }

    fn kernels(&self, _: &Device) -> Result<Vec<String>> {
        Ok(vec!["kv_append".to_owned()])
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()?))
    }
}

/// Tokens, and where they go.
#[derive(Debug, Clone)]
pub struct KvAppendProblem {
    pub case: KvAppendCase,
    /// `[tokens, 512]`.
    pub latent: Vec<bf16>,
    /// `[tokens, rope]`.
    pub k_pe: Vec<bf16>,
    /// That of the whole cache, if it has one.
    pub scale: f32,
    pub slots: Vec<i32>,
    pub expected: Expected<(CacheRows, Appended)>,
}

impl KvAppendProblem {
    /// These tokens, in this order.
    #[must_use]
    pub fn pick(&self, order: &[usize]) -> Self {
        Self {
            case: KvAppendCase { tokens: order.len(), ..self.case },
            latent: rows_of(&self.latent, LATENT, order),
            k_pe: rows_of(&self.k_pe, self.case.rope, order),
            scale: self.scale,
            slots: rows_of(&self.slots, 1, order),
            expected: Expected::default(),
        }
    }

    /// What the cache holds at first: bytes of every kind.
    fn before(&self) -> CacheRows {
        let KvAppendCase { format: (format, _), rope, rows, .. } = self.case;
        let bytes = (0..rows * format.columns(rope)).map(|i| (i * 37 + i / 256 + 11) as u8);
        match format {
            KvFormat::Bf16 => {
                CacheRows::Bf16(bytes.map(|byte| bf16::from_bits(u16::from(byte) * 257)).collect())
            }
            KvFormat::Fp8 => CacheRows::Fp8(bytes.collect()),
            KvFormat::Fp8PerTensor => CacheRows::Fp8PerTensor { rows: bytes.collect(), scale: self.scale },
        }
    }

    /// What the reference makes of it.
    fn reference(&self) -> Result<(CacheRows, Appended)> {
        let mut cache = self.before();
        let Self { case, latent, k_pe, slots, .. } = self;
        let appended = cache.append(&NewTokens { latent, k_pe, rope: case.rope, slots }, case.format.1)?;
        Ok((cache, appended))
    }

    fn expected(&self) -> Result<&(CacheRows, Appended)> {
        self.expected.get(Scrutiny::Thorough, || self.reference())
    }
}

impl Problem for KvAppendProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(KvAppendRun::new(self, arena)?))
    }
}

/// An append on a device.
pub struct KvAppendRun {
    problem: Arc<KvAppendProblem>,
    pub plan: KvAppend,
    pub operands: KvAppendOperands,
}

pub struct KvAppendOperands {
    tokens: Tokens,
    slots: IndexOperand,
    cache: CacheOperand,
}

/// Latent vectors, and keys if there are any.
enum Tokens {
    Apart(Operand<bf16>, Option<Operand<bf16>>),
    Together(Operand<bf16>),
}

impl KvAppendRun {
    pub fn new(problem: Arc<KvAppendProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let KvAppendCase { format: (format, scale_format), rope, tokens, rows, .. } = problem.case;
        let KvAppendCase { page_size, one_matrix, .. } = problem.case;
        let spec = KvAppendSpec::new(tokens, rows, format).rope(rope).scale_format(scale_format);
        let plan = KvAppend::plan(arena.device(), spec)?;
        let together = page_size.unwrap_or(1);
        let cache_shape = (rows / together, together * format.columns(rope));
        let aligned = Align(16);
        let KvAppendProblem { latent, k_pe, .. } = &*problem;
        let operands = KvAppendOperands {
            tokens: if one_matrix && rope > 0 {
                let rows = latent.chunks_exact(LATENT).zip(k_pe.chunks_exact(ROPE));
                let both: Vec<bf16> = rows.flat_map(|(latent, k_pe)| [latent, k_pe].concat()).collect();
                Tokens::Together(arena.input(&both, (tokens, KEY), aligned)?)
            } else {
                let latent = arena.input(latent, (tokens, LATENT), aligned)?;
                let k_pe = (rope > 0).then(|| arena.input(k_pe, (tokens, ROPE), aligned));
                Tokens::Apart(latent, k_pe.transpose()?)
            },
            slots: arena.indices(&problem.slots, (1, tokens))?,
            cache: CacheOperand::in_out(arena, cache_shape, &problem.before())?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl KvAppendOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<KvAppendArgs<'_>, Error> {
        let (latent, k_pe) = match &self.tokens {
            Tokens::Apart(latent, k_pe) => {
                (latent.matrix()?, k_pe.as_ref().map(Operand::matrix).transpose()?)
            }
            Tokens::Together(both) => (both.part(0..LATENT)?, Some(both.part(LATENT..KEY)?)),
        };
        Ok(KvAppendArgs { latent, k_pe, slots: self.slots.indices()?, cache: self.cache.view_mut()? })
    }
}

impl Prepared for KvAppendRun {
    fn instance(&self) -> String {
        "kv_append".to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![self.operands.cache.read()?])
    }

    /// Rows that nobody named included.
    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let KvAppendCase { format: (format, _), rope, .. } = self.problem.case;
        let columns = format.columns(rope);
        let difference = match (&self.operands.cache, &self.problem.expected()?.0) {
            (CacheOperand::Bf16(got), CacheRows::Bf16(want)) => {
                different(got, want, columns, |_, x| x.bits(), |column| format!("value {column}"))?
            }
            (CacheOperand::Fp8(got), CacheRows::Fp8(want)) => {
                different(got, want, columns, canonical, place)?
            }
            (CacheOperand::Fp8PerTensor { rows: got, .. }, CacheRows::Fp8PerTensor { rows: want, .. }) => {
                let code = |column| format!("code {column}");
                different(got, want, columns, |_, byte| canonical_code(byte), code)?
            }
            _ => Some("a cache of another format".to_owned()),
        };
        let elements = self.problem.case.rows * columns;
        Ok(vec![Check::equal("bytes", elements, difference), self.operands.cache.guarded()?])
    }

    fn faults(&self) -> DataFaults {
        // What the reference cannot do, the judge tells.
        let Ok((_, Appended { strange_slot, nonfinite })) = self.problem.expected() else {
            return DataFaults::NONE;
        };
        fault_if(*strange_slot, DataFaults::CACHE_SLOT) | fault_if(*nonfinite, DataFaults::NONFINITE_INPUT)
    }
}

/// The first element whose bits are others, and what it is of its row.
fn different<T: Scalar>(
    got: &Operand<T>,
    want: &[T],
    columns: usize,
    bits: impl Fn(usize, T) -> u32,
    place: impl Fn(usize) -> String,
) -> Result<Option<String>> {
    let got = got.values()?;
    let same = |(i, (got, want)): (usize, (&T, &T))| bits(i % columns, *got) == bits(i % columns, *want);
    let wrong = got.iter().zip(want).enumerate().find(|&pair| !same(pair));
    Ok(wrong.map(|(i, (got, want))| {
        let (row, column) = (i / columns, i % columns);
        format!("row {row}, {}: expected {:#x}, got {:#x}", place(column), want.bits(), got.bits())
    }))
}

/// The PTX manual promises a NaN for a NaN, not its sign: both codes count as one.
fn canonical(byte: usize, value: u8) -> u32 {
    if byte < LATENT { canonical_code(value) } else { value.into() }
}

fn canonical_code(code: u8) -> u32 {
    if code & 0x7f == 0x7f { 0x7f } else { code.into() }
}

/// What a byte of an FP8 row belongs to.
fn place(byte: usize) -> String {
    match byte {
        0..LATENT => format!("code {byte}"),
        LATENT..528 => format!("scale {}", (byte - LATENT) / 4),
        _ => format!("key {}", (byte - 528) / 2),
    }
}
