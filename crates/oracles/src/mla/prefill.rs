//! Attention of one head of one sequence, with values of their own.

use half::bf16;

use super::attention::{Attention, Form, MlaBounded};
use super::attention_bits::{Approximations, MlaBits, Sight};
use crate::{ShapeError, check_length};

/// Elements of a key and of a query: 128, and 64 that carry the position.
const KEY: usize = 192;
/// Elements of a value.
const VALUE: usize = 128;

/// Keys that are taken at a time, and query tokens for whom they are.
const BLOCK: usize = 128;

const FORM: Form = Form { key: KEY, value: VALUE, first: 0, block: BLOCK };

/// The queries, keys and values of one head of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct MlaHead<'a> {
    /// `[q_tokens, 192]`.
    pub q: &'a [bf16],
    /// `[n, 192]`.
    pub keys: &'a [bf16],
    /// `[n, 128]`.
    pub values: &'a [bf16],
    /// What a dot product is multiplied by before the exponential.
    pub scale: f32,
    /// Whether query token t of m sees only the first `n - (m - 1 - t)` keys.
    pub causal: bool,
}

impl MlaHead<'_> {
    /// Keys that a query token sees.
    pub fn visible(&self, token: usize) -> usize {
        let n = self.keys.len() / KEY;
        if self.causal { (n + token + 1).saturating_sub(self.q.len() / KEY) } else { n }
    }

    /// Keys of the blocks that some token of its tile sees.
    fn read(&self, token: usize) -> usize {
        let last = ((token / BLOCK + 1) * BLOCK).min(self.q.len() / KEY) - 1;
        self.visible(last).next_multiple_of(BLOCK).min(self.keys.len() / KEY)
    }

    fn attention(&self) -> Result<Attention<'_>, ShapeError> {
        let Self { q, keys, values, scale, .. } = *self;
        check_length("q", q.len() / KEY * KEY, q.len())?;
        check_length("keys", keys.len() / KEY * KEY, keys.len())?;
        check_length("values", keys.len() / KEY * VALUE, values.len())?;
        Ok(Attention { form: FORM, q, keys, values, value_pitch: VALUE, scale, split_keys: 0 })
    }
}

/// Softmax attention in f64: `out = sum p_j v_j`, `p = softmax(scale * q k_j)`, of some query tokens, of finite operands.
///
/// The bound holds for every kernel that multiplies in k16 steps of Hopper's BF16 `wgmma`, the columns of a key in order,
/// follows the maximum in blocks of 128 keys, and rounds p to BF16 for the second product only.
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
