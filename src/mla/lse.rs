//! How the logarithms of sums of exponentials lie.

use std::fmt;

use crate::device::bindings::LseStrides;
use crate::error::{Error, Result};
use crate::launch::{Layout, MAX_DIM, Operand, check_range};

/// The order of an lse, one number a head of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LseOrder {
    /// `[tokens, heads]`: the heads of a token follow one another.
    #[default]
    TokensHeads,
    /// `[heads, tokens]`, as FlashAttention and vLLM have it.
    HeadsTokens,
    /// `[tokens / q_tokens, heads, q_tokens]`, as FlashMLA has it for sequences of `q_tokens` each: a matrix of
    /// `tokens / q_tokens * heads` rows.
    SequencesHeadsTokens {
        /// Of a sequence: at least one.
        q_tokens: usize,
    },
}

impl LseOrder {
    /// Fails if so many tokens are no whole sequences.
    pub(super) fn check(self, tokens: usize) -> Result<()> {
        let Self::SequencesHeadsTokens { q_tokens } = self else { return Ok(()) };
        check_range("q_tokens of lse_order", q_tokens, MAX_DIM)?;
        if tokens.is_multiple_of(q_tokens) {
            return Ok(());
        }
        let got = fmt::from_fn(|f| write!(f, "{tokens} tokens in sequences of {q_tokens}"));
        Err(Error::out_of_range("lse_order", "whole sequences of q_tokens; otherwise another order", got))
    }

    pub(super) fn layout(self, tokens: usize, heads: usize) -> Layout {
        match self {
            Self::TokensHeads => Layout::matrix("lse [tokens, heads]", [tokens, heads]),
            Self::HeadsTokens => Layout::matrix("lse [heads, tokens]", [heads, tokens]),
            Self::SequencesHeadsTokens { q_tokens } => Layout::matrix(
                "lse [tokens / q_tokens * heads, q_tokens]",
                [tokens / q_tokens * heads, q_tokens],
            ),
        }
    }

    pub(super) fn strides<A>(self, lse: &Operand<A>, heads: usize) -> LseStrides {
        let pitch = lse.pitch();
        let [group, token, head, group_tokens] = match self {
            Self::TokensHeads => [pitch, 0, 1, 1],
            Self::HeadsTokens => [1, 0, pitch, 1],
            Self::SequencesHeadsTokens { q_tokens } => [heads as u64 * pitch, 1, pitch, q_tokens as u64],
        };
        LseStrides { group, token, head, group_tokens: group_tokens as u32, ..Default::default() }
    }
}
