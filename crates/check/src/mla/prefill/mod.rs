//! MLA prefill: packed sequences, whatever is nobody's query, key or value poisoned.

mod faults;
mod problem;
mod run;

use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::bindings::MlaPrefillParams;
use deepseek_kernels::mla::{EmptyLse, LseOrder, MlaPrefillSpec};
use deepseek_kernels::table::mla::MLA_PREFILL;
use oracles::mla::AttentionClass;

pub use faults::FAULTS;
pub use problem::MlaPrefillProblem;
pub use run::{MlaPrefillOperands, MlaPrefillRun};

use crate::case::{Case, Problem, Work};
use crate::deepseek_v3::SOFTMAX_SCALE;
use crate::trace::{Launch, Params, WORDS_PER_INDEX, fixed, region};

/// Columns of a head's query or key, of which the last ones are rotated; of its value.
pub const QUERY: usize = 192;
pub const NOPE: usize = 128;
pub const VALUE: usize = 128;

/// Where keys and values lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLayout {
    /// As `kv_b_proj` leaves them: of each head 128 columns of its key, then its value; heads share the position.
    Projected,
    /// Keys of 192 columns, each head with a position of its own; values elsewhere.
    Joined,
}

/// Sequences of one prefill.
#[derive(Debug, Clone)]
pub struct MlaPrefillCase {
    /// Query tokens of each, and its keys.
    pub sequences: Vec<(usize, usize)>,
    pub heads: usize,
    /// Query tokens see the keys up to themselves only.
    pub causal: bool,
    pub layout: KeyLayout,
    pub lse_order: LseOrder,
    pub empty_lse: EmptyLse,
    /// Every sequence runs alone too, and is to give the bits that it gives in the batch.
    pub alone: bool,
    pub class: AttentionClass,
    /// At most `DRAWN` tokens and keys differ, the others repeat them. Values do not matter for time, their memory does.
    pub repeated: bool,
    pub seed: u64,
}

/// Tokens that differ, where the others repeat them: a prime, so that no tile is like its neighbours.
pub const DRAWN: usize = 131;
/// Rows of q and of keys behind the last sequence.
const SPARE: (usize, usize) = (3, 5);

impl MlaPrefillCase {
    /// Two heads, causal, keys as they are projected.
    pub const fn new(sequences: Vec<(usize, usize)>) -> Self {
        Self {
            sequences,
            heads: 2,
            causal: true,
            layout: KeyLayout::Projected,
            lse_order: LseOrder::TokensHeads,
            empty_lse: EmptyLse::NegativeInfinity,
            alone: false,
            class: AttentionClass::Normal,
            repeated: false,
            seed: 1,
        }
    }

    fn tokens(&self) -> usize {
        self.sequences.iter().map(|(tokens, _)| tokens).sum()
    }

    fn keys(&self) -> usize {
        self.sequences.iter().map(|(_, keys)| keys).sum()
    }

    /// Rows of keys that are the heads' own, or all heads'.
    const fn k_pe_heads(&self) -> usize {
        match self.layout {
            KeyLayout::Projected => 1,
            KeyLayout::Joined => self.heads,
        }
    }

    /// What the plan is of. Some rows are nobody's.
    pub fn spec(&self) -> MlaPrefillSpec {
        let (tokens, keys) = (self.tokens() + SPARE.0, self.keys() + SPARE.1);
        MlaPrefillSpec::new(self.sequences.len(), tokens, keys, self.heads, SOFTMAX_SCALE)
            .causal(self.causal)
            .lse_order(self.lse_order)
            .empty_lse(self.empty_lse)
    }
}

impl Case for MlaPrefillCase {
    fn operation(&self) -> &'static str {
        "mla_prefill"
    }

    fn title(&self) -> String {
        format!("MLA prefill{}", if self.causal { ", causal" } else { "" })
    }

    /// Heads, and the query tokens and keys of each sequence.
    fn shape(&self) -> String {
        let of = |(tokens, keys): &(usize, usize)| {
            if tokens == keys { tokens.to_string() } else { format!("{tokens}/{keys}") }
        };
        let sequences: Vec<String> = self.sequences.iter().map(of).collect();
        format!("{} x {}", self.heads, sequences.join("+"))
    }

    fn label(&self) -> String {
        let Self { heads, causal, layout, .. } = self;
        let (batch, tokens, keys) = (self.sequences.len(), self.tokens(), self.keys());
        let mask = if *causal { "" } else { "_full" };
        let layout = if *layout == KeyLayout::Joined { "_joined" } else { "" };
        format!("b{batch}q{tokens}k{keys}h{heads}{mask}{layout}")
    }

    fn data(&self) -> String {
        self.class.to_string()
    }

    /// Of the keys that tokens see; everything moved once.
    fn work(&self) -> Work {
        let (heads, tokens, keys) = (self.heads, self.tokens(), self.keys());
        let seen = |&(tokens, keys): &(usize, usize)| -> usize {
            let hidden = |token| if self.causal { tokens - 1 - token } else { 0 };
            (0..tokens).map(|token| keys.saturating_sub(hidden(token))).sum()
        };
        let pairs: usize = self.sequences.iter().map(seen).sum();
        let of_keys = heads * (NOPE + VALUE) + self.k_pe_heads() * (QUERY - NOPE);
        Work {
            flops: (2 * heads * pairs * (QUERY + VALUE)) as u64,
            bytes: (2 * (tokens * heads * (QUERY + VALUE) + keys * of_keys) + 4 * tokens * heads) as u64,
        }
    }

    /// `ex2.approx` and `lg2.approx` are specified to a bound, not to the bit.
    fn portable_bits(&self) -> bool {
        false
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.clone().problem()?))
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    WORDS_PER_INDEX.map(traced_with).into()
}

/// Two tiles of two heads, of which some exist. Offsets are made up: some are out of order.
fn traced_with(words_per_index: u32) -> Launch {
    let params = Params::of::<MlaPrefillParams>()
        .indices(offset_of!(MlaPrefillParams, q_offsets), region(0), 40, words_per_index)
        .indices(offset_of!(MlaPrefillParams, k_offsets), region(1), 40, words_per_index)
        .u64(offset_of!(MlaPrefillParams, out), region(2))
        .u64(offset_of!(MlaPrefillParams, lse), region(3))
        .u64(offset_of!(MlaPrefillParams, error_words), region(4))
        .u64(offset_of!(MlaPrefillParams, out_token_stride), 2 * 136)
        .u64(offset_of!(MlaPrefillParams, out_head_stride), 136)
        .u64(offset_of!(MlaPrefillParams, lse_strides.group), 50)
        .u64(offset_of!(MlaPrefillParams, lse_strides.token), 1)
        .u64(offset_of!(MlaPrefillParams, lse_strides.head), 24)
        .u32(offset_of!(MlaPrefillParams, lse_strides.group_tokens), 20)
        .u32(offset_of!(MlaPrefillParams, batch), 40)
        .u32(offset_of!(MlaPrefillParams, tokens), 240)
        .u32(offset_of!(MlaPrefillParams, keys), 230)
        .u32(offset_of!(MlaPrefillParams, heads), 2)
        .u32(offset_of!(MlaPrefillParams, k_pe_heads), 1)
        .u32(offset_of!(MlaPrefillParams, tiles), 3)
        .u32(offset_of!(MlaPrefillParams, causal), 1)
        .u32(offset_of!(MlaPrefillParams, scale_log2), 0.03_f32.to_bits())
        .u32(offset_of!(MlaPrefillParams, empty_lse), f32::NEG_INFINITY.to_bits());
    fixed(&MLA_PREFILL, 6, params)
}
