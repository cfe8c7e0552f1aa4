use half::bf16;

use crate::codec::{E4M3_MAX, encode_e4m3};
use crate::quant::QuantizeScale;
use crate::{BLOCK, ShapeError, check_length};

/// Elements of a token's latent vector.
const LATENT: usize = 512;
/// Bytes of the scales of an FP8 row.
const SCALES: usize = LATENT / BLOCK * 4;

/// What is appended.
#[derive(Clone, Copy, Debug)]
pub struct NewTokens<'a> {
    /// `[tokens, 512]`.
    pub latent: &'a [bf16],
    /// `[tokens, rope]`.
    pub k_pe: &'a [bf16],
    /// Elements of a rotated key: 64, or 0.
    pub rope: usize,
    /// `[tokens]`.
    pub slots: &'a [i32],
}

/// What an append met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// A slot was neither -1 nor a row.
    pub strange_slot: bool,
    /// A quantised value was Inf or NaN, or a scale that was given Inf, NaN or 0.
    pub nonfinite: bool,
}

/// `cache[slots[t]] = latent[t], k_pe[t]` for tokens t in ascending order; a slot that is no row of the cache
/// `[rows, 512 + rope]` is skipped.
pub fn kv_append_bf16(tokens: &NewTokens, cache: &mut [bf16]) -> Result<Appended, ShapeError> {
    tokens.fill_rows(cache, LATENT + tokens.rope, |latent, k_pe, row, _| {
        row[..LATENT].copy_from_slice(latent);
        row[LATENT..].copy_from_slice(k_pe);
    })
}

/// As [`kv_append_bf16`] into rows of bytes: 512 E4M3 codes, 4 FP32 scales, `rope` BF16.
///
/// The scale of 128 values is `max(amax / 448, 1e-4)` of the finite ones, for power-of-two scales the least power of two
/// that is not below it. A code is the saturating nearest E4M3 of `x / scale`; a NaN stays NaN and an Inf becomes +-448.
pub fn kv_append_fp8(
    tokens: &NewTokens,
    scale: QuantizeScale,
    cache: &mut [u8],
) -> Result<Appended, ShapeError> {
    tokens.fill_rows(cache, LATENT + SCALES + 2 * tokens.rope, |latent, k_pe, row, appended| {
        let (codes, rest) = row.split_at_mut(LATENT);
        let (scales, key) = rest.split_at_mut(SCALES);
        for (g, block) in latent.chunks_exact(BLOCK).enumerate() {
            let scale = block_scale(block, scale);
            scales[4 * g..][..4].copy_from_slice(&scale.to_ne_bytes());
            for (code, x) in codes[g * BLOCK..].iter_mut().zip(block) {
                *code = encode_e4m3(x.to_f32() / scale);
                appended.nonfinite |= !x.is_finite();
            }
        }
        for (bytes, x) in key.chunks_exact_mut(2).zip(k_pe) {
            bytes.copy_from_slice(&x.to_ne_bytes());
        }
    })
}

/// As [`kv_append_bf16`] into rows of `512 + rope` E4M3 codes under one scale: the saturating nearest of `x / scale` in FP32. A
/// NaN stays NaN, also as a quotient, and an Inf becomes +-448.
pub fn kv_append_fp8_per_tensor(
    tokens: &NewTokens,
    scale: f32,
    cache: &mut [u8],
) -> Result<Appended, ShapeError> {
    tokens.fill_rows(cache, LATENT + tokens.rope, |latent, k_pe, row, appended| {
        for (code, x) in row.iter_mut().zip(latent.iter().chain(k_pe)) {
            *code = encode_e4m3(x.to_f32() / scale);
            appended.nonfinite |= !x.is_finite() || !scale.is_finite() || scale == 0.0;
        }
    })
}

impl NewTokens<'_> {
    /// Every row of a token, in order, from its latent vector and its key.
    fn fill_rows<T>(
        &self,
        cache: &mut [T],
        columns: usize,
        mut fill: impl FnMut(&[bf16], &[bf16], &mut [T], &mut Appended),
    ) -> Result<Appended, ShapeError> {
        let Self { latent, k_pe, rope, slots } = *self;
        check_length("latent", slots.len() * LATENT, latent.len())?;
        check_length("k_pe", slots.len() * rope, k_pe.len())?;
        check_length("cache", cache.len() / columns * columns, cache.len())?;
        let mut appended = Appended::default();
        for (token, (latent, &slot)) in latent.chunks(LATENT).zip(slots).enumerate() {
            let row = usize::try_from(slot).ok().and_then(|row| cache.chunks_mut(columns).nth(row));
            match row {
                Some(row) => fill(latent, &k_pe[token * rope..][..rope], row, &mut appended),
                None => appended.strange_slot |= slot != -1,
            }
        }
        Ok(appended)
    }
}

fn block_scale(block: &[bf16], format: QuantizeScale) -> f32 {
    let finite = block.iter().map(|x| x.to_f32().abs()).filter(|x| x.is_finite());
    let scale = (finite.fold(0.0, f32::max) / E4M3_MAX).max(1e-4);
    match format {
        QuantizeScale::Fp32 => scale,
        QuantizeScale::PowerOfTwo => {
            let powers = (-13..128).map(|exponent| crate::pow2(exponent) as f32);
            powers.into_iter().find(|&power| power >= scale).unwrap_or(f32::INFINITY)
        }
    }
}
