//! Attention of one head of one sequence, with values of their own.

use half::bf16;

use super::absorb::HeadColumns;
use super::attention::{Attention, Form, MlaBounded};
use super::attention_bits::{Approximations, MlaBits, Sight};
use crate::{ShapeError, check_length};

/// Query tokens for whom keys are taken.
const TILE: usize = 128;

/// The queries, keys and values of one head of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct MlaHead<'a> {
    /// How wide its operands are.
    pub columns: HeadColumns,
    /// `[q_tokens, nope + rope]`.
    pub q: &'a [bf16],
    /// `[n, nope + rope]`.
    pub keys: &'a [bf16],
    /// `[n, value]`.
    pub values: &'a [bf16],
    /// What a dot product is multiplied by before the exponential.
    pub scale: f32,
    /// Whether query token t of m sees only the first `n - (m - 1 - t)` keys.
    pub causal: bool,
}

impl MlaHead<'_> {
    fn q_tokens(&self) -> usize {
        self.q.len() / self.columns.key()
    }

    /// Keys.
    fn n(&self) -> usize {
        self.keys.len() / self.columns.key()
    }

    /// Keys that are taken at a time.
    fn block(&self) -> usize {
        if self.columns == HeadColumns::DEEPSEEK_V3 { 128 } else { 64 }
    }

    /// Keys that a query token sees.
    pub fn visible(&self, token: usize) -> usize {
        if self.causal { (self.n() + token + 1).saturating_sub(self.q_tokens()) } else { self.n() }
    }

    /// Keys of the blocks that some token of its tile sees.
    fn read(&self, token: usize) -> usize {
        let last = ((token / TILE + 1) * TILE).min(self.q_tokens()) - 1;
        self.visible(last).next_multiple_of(self.block()).min(self.n())
    }

    fn attention(&self) -> Result<Attention<'_>, ShapeError> {
        let Self { columns, q, keys, values, scale, .. } = *self;
        let (key, value) = (columns.key(), columns.value);
        check_length("q", self.q_tokens() * key, q.len())?;
        check_length("keys", self.n() * key, keys.len())?;
        check_length("values", self.n() * value, values.len())?;
        let form = Form { key, value, first: 0, block: self.block() };
        Ok(Attention { form, q, keys, values, value_pitch: value, scale, split_keys: 0 })
    }
}

/// Softmax attention in f64: `out = sum p_j v_j`, `p = softmax(scale * q k_j)`, of some query tokens, of finite operands.
///
/// The bound holds for every kernel that multiplies in k16 steps of Hopper's BF16 `wgmma`, the columns of a key in order,
/// follows the maximum in blocks of keys, and rounds p to BF16 for the second product only.
pub fn mla_prefill(head: &MlaHead, tokens: &[usize]) -> Result<MlaBounded, ShapeError> {
    Ok(head.attention()?.bounded(tokens, |token| head.visible(token)))
}

/// Some query tokens, of any operands, as docs/numerics.md has it under "MLA prefill": by the tensor-core model, with a machine's
/// approximations. Of a NaN only that it is one.
pub fn mla_prefill_bits(
    head: &MlaHead,
    tokens: &[usize],
    machine: Approximations,
) -> Result<MlaBits, ShapeError> {
    let sight = |token| Sight { visible: head.visible(token), read: head.read(token) };
    Ok(head.attention()?.bits(tokens, sight, machine))
}
