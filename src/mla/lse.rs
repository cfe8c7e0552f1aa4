//! How the logarithms of sums of exponentials lie.

use crate::launch::{Layout, Operand};

/// The order of an lse, one number a head of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LseOrder {
    /// `[tokens, heads]`: the heads of a token follow one another.
    #[default]
    TokensHeads,
    /// `[heads, tokens]`, as FlashAttention and vLLM have it.
    HeadsTokens,
}

impl LseOrder {
    pub(super) fn layout(self, tokens: usize, heads: usize) -> Layout {
        match self {
            Self::TokensHeads => Layout::matrix("lse [tokens, heads]", [tokens, heads]),
            Self::HeadsTokens => Layout::matrix("lse [heads, tokens]", [heads, tokens]),
        }
    }

    /// Elements from token to token, and from head to head.
    pub(super) fn strides<A>(self, lse: &Operand<A>) -> [u64; 2] {
        match self {
            Self::TokensHeads => [lse.pitch(), 1],
            Self::HeadsTokens => [1, lse.pitch()],
        }
    }
}
