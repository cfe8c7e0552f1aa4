//! Attention of one sequence over its latent cache: its values are the first part of its keys.

use half::bf16;

use super::attention::{Attention, Form, MlaBounded};
use super::attention_bits::{Approximations, MlaBits, Sight};
use crate::codec::{decode_e4m3, encode_bf16};
use crate::{BLOCK, ShapeError, check_length};

/// Elements of a key that are the latent, and with it the value.
const LATENT: usize = 512;
/// Bytes of the scales of a key in an FP8 cache.
const SCALES: usize = LATENT / BLOCK * 4;

/// The queries of one sequence and all its keys.
#[derive(Clone, Copy, Debug)]
pub struct MlaSequence<'a> {
    /// `[q_tokens * heads, 512 + rope]`.
    pub q: &'a [bf16],
    /// `[n, 512 + rope]`, in the order of the sequence, as stored or [dequantised](dequantize_kv_fp8). The first 512 elements
    /// are the value too.
    pub keys: &'a [bf16],
    /// Elements of a key and of a query that carry the position: 64, or 0.
    pub rope: usize,
    /// Query tokens, the last of the sequence.
    pub q_tokens: usize,
    /// Heads of a query token.
    pub heads: usize,
    /// What a dot product is multiplied by before the exponential.
    pub scale: f32,
    /// Whether query token t sees only the first `n - (q_tokens - 1 - t)` keys.
    pub causal: bool,
    /// Keys of a split; 0: one split.
    pub split_keys: usize,
}

impl MlaSequence<'_> {
    /// Elements of a key and of a query.
    fn key(&self) -> usize {
        LATENT + self.rope
    }

    /// Keys.
    fn len(&self) -> usize {
        self.keys.len() / self.key()
    }

    fn check(&self) -> Result<(), ShapeError> {
        check_length("q", self.q_tokens * self.heads * self.key(), self.q.len())?;
        check_length("keys", self.len() * self.key(), self.keys.len())
    }

    /// Keys that a row sees.
    fn visible(&self, row: usize) -> usize {
        let n = self.len();
        if self.causal { (n + row / self.heads + 1).saturating_sub(self.q_tokens) } else { n }
    }

    fn attention(&self) -> Result<Attention<'_>, ShapeError> {
        self.check()?;
        let Self { q, keys, scale, split_keys, .. } = *self;
        // The position is scored first.
        let form = Form { key: self.key(), value: LATENT, first: LATENT, block: 64 };
        Ok(Attention { form, q, keys, values: keys, value_pitch: form.key, scale, split_keys })
    }
}

/// Softmax attention in f64: `out = sum p_j v_j`, `p = softmax(scale * q k_j)`, of finite operands.
///
/// The bound holds for every kernel that multiplies in k16 steps of Hopper's BF16 `wgmma`, the rope part of a key first,
/// follows the maximum in blocks of 64 keys, rounds p to BF16 for the second product only, and merges splits of
/// `split_keys` keys from FP32 partial results.
pub fn mla_decode(sequence: &MlaSequence) -> Result<MlaBounded, ShapeError> {
    let rows: Vec<usize> = (0..sequence.q_tokens * sequence.heads).collect();
    Ok(sequence.attention()?.bounded(&rows, |row| sequence.visible(row)))
}

/// Some rows of a sequence, of any operands, as docs/numerics.md has it under "MLA decode": by the tensor-core model, with a
/// machine's approximations. Of a NaN only that it is one.
pub fn mla_decode_bits(
    sequence: &MlaSequence,
    rows: &[usize],
    machine: Approximations,
) -> Result<MlaBits, ShapeError> {
    let sight = |row| Sight { visible: sequence.visible(row), read: sequence.len() };
    Ok(sequence.attention()?.bits(rows, sight, machine))
}

/// Keys `[n, 512 + rope]` in BF16 from the rows of an FP8 cache: 512 E4M3 codes, four FP32 scales, `rope` BF16 values.
///
/// A code times its scale is rounded to FP32, then to BF16.
pub fn dequantize_kv_fp8(rows: &[u8], rope: usize) -> Result<Vec<bf16>, ShapeError> {
    let row_bytes = LATENT + SCALES + 2 * rope;
    check_length("rows", rows.len() / row_bytes * row_bytes, rows.len())?;
    let mut keys = Vec::with_capacity(rows.len() / row_bytes * (LATENT + rope));
    for row in rows.chunks_exact(row_bytes) {
        let (codes, rest) = row.split_at(LATENT);
        let (scales, rope) = rest.split_at(SCALES);
        for (codes, scale) in codes.chunks_exact(BLOCK).zip(scales.as_chunks().0) {
            let scale = f32::from_le_bytes(*scale);
            keys.extend(dequantize_kv_fp8_per_tensor(codes, scale));
        }
        keys.extend(rope.as_chunks().0.iter().map(|&bytes| bf16::from_bits(u16::from_le_bytes(bytes))));
    }
    Ok(keys)
}

/// Keys in BF16 from the codes of an FP8 cache with one scale, as many of both: rounded as by [`dequantize_kv_fp8`].
pub fn dequantize_kv_fp8_per_tensor(codes: &[u8], scale: f32) -> Vec<bf16> {
    codes.iter().map(|&code| bf16::from_bits(encode_bf16(decode_e4m3(code) * scale))).collect()
}

/// The first `len` keys of a sequence, each `width` elements, brought into order from its pages.
///
/// `len` is clamped to what the table holds, and to 0. A page outside `rows` gives zeros.
pub fn gather_pages<T: Copy + Default>(
    rows: &[T],
    width: usize,
    page_size: usize,
    page_table: &[i32],
    len: i32,
) -> Vec<T> {
    let len = usize::try_from(len).unwrap_or(0).min(page_table.len() * page_size);
    let mut keys = Vec::with_capacity(len * width);
    for key in 0..len {
        let (page, offset) = (page_table[key / page_size], key % page_size);
        let first = usize::try_from(page).ok().map(|page| (page * page_size + offset) * width);
        match first.and_then(|first| rows.get(first..first + width)) {
            Some(row) => keys.extend_from_slice(row),
            None => keys.resize(keys.len() + width, T::default()),
        }
    }
    keys
}
