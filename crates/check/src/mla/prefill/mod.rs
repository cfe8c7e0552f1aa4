//! MLA prefill: packed sequences, whatever is nobody's query, key or value poisoned.

mod faults;
mod problem;
mod run;

use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::Device;
use deepseek_kernels::bindings::MlaPrefillParams;
use deepseek_kernels::mla::{EmptyLse, LseOrder, MlaPrefillSpec};
use deepseek_kernels::table::mla::{
    MLA_PREFILL_BLOCK_ROWS, MLA_PREFILL_INSTANCES, MLA_TILE_COLUMNS, MlaPrefillInstance,
};
use oracles::mla::{AttentionClass, HeadColumns};

pub use faults::FAULTS;
pub use problem::MlaPrefillProblem;
pub use run::{MlaPrefillOperands, MlaPrefillRun};

use crate::case::{Case, Problem, Work};
use crate::deepseek_v3::SOFTMAX_SCALE;
use crate::trace::{Launch, Params, WORDS_PER_INDEX, fillings, region};

/// Columns of a head's query or key, of which the last ones are rotated; of its value. As DeepSeek-V3 has them.
pub const QUERY: usize = HeadColumns::DEEPSEEK_V3.key();
pub const NOPE: usize = HeadColumns::DEEPSEEK_V3.nope;
pub const VALUE: usize = HeadColumns::DEEPSEEK_V3.value;

/// Where keys and values lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLayout {
    /// As `kv_b_proj` leaves them: of each head the columns of its key, then its value; heads share the position.
    Projected,
    /// Whole keys, each head with a position of its own; values elsewhere.
    Joined,
}

/// Sequences of one prefill.
#[derive(Debug, Clone)]
pub struct MlaPrefillCase {
    /// Query tokens of each, and its keys.
    pub sequences: Vec<(usize, usize)>,
    pub heads: usize,
    pub columns: HeadColumns,
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
    /// Two heads of DeepSeek-V3, causal, keys as they are projected.
    pub const fn new(sequences: Vec<(usize, usize)>) -> Self {
        Self {
            sequences,
            heads: 2,
            columns: HeadColumns::DEEPSEEK_V3,
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

    /// The one that is compiled for these columns.
    fn kernel(&self) -> String {
        let HeadColumns { nope, value, .. } = self.columns;
        let fits = |it: &&MlaPrefillInstance| (it.nope as usize, it.value as usize) == (nope, value);
        MLA_PREFILL_INSTANCES.iter().find(fits).expect("a kernel of these heads").name()
    }

    /// What the plan is of. Some rows are nobody's.
    pub fn spec(&self) -> MlaPrefillSpec {
        let (tokens, keys) = (self.tokens() + SPARE.0, self.keys() + SPARE.1);
        MlaPrefillSpec::new(self.sequences.len(), tokens, keys, self.heads, SOFTMAX_SCALE)
            .nope(self.columns.nope)
            .value(self.columns.value)
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
        let HeadColumns { value, .. } = self.columns;
        let columns = match self.columns {
            HeadColumns::DEEPSEEK_V3 => String::new(),
            columns => format!(", keys of {}, values of {value}", columns.key()),
        };
        format!("MLA prefill{columns}{}", if self.causal { ", causal" } else { "" })
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
        let Self { heads, columns, causal, layout, .. } = self;
        let (batch, tokens, keys) = (self.sequences.len(), self.tokens(), self.keys());
        let mask = if *causal { "" } else { "_full" };
        let layout = if *layout == KeyLayout::Joined { "_joined" } else { "" };
        let HeadColumns { nope, value, .. } = *columns;
        let columns = match *columns {
            HeadColumns::DEEPSEEK_V3 => String::new(),
            _ => format!("_n{nope}v{value}"),
        };
        format!("b{batch}q{tokens}k{keys}h{heads}{mask}{layout}{columns}")
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
        let (of_head, rope) = (self.columns.key() + self.columns.value, self.columns.rope);
        let of_keys = heads * self.columns.rows() + self.k_pe_heads() * rope;
        Work {
            flops: (2 * heads * pairs * of_head) as u64,
            bytes: (2 * (tokens * heads * of_head + keys * of_keys) + 4 * tokens * heads) as u64,
        }
    }

    fn kernels(&self, _: &Device) -> Result<Vec<String>> {
        Ok(vec![self.kernel()])
    }

    /// `ex2.approx` and `lg2.approx` are specified to a bound, not to the bit.
    fn portable_bits(&self) -> bool {
        false
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..self.clone() })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.clone().problem()?))
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    let of = |instance| WORDS_PER_INDEX.map(|words_per_index| traced_with(instance, words_per_index));
    MLA_PREFILL_INSTANCES.iter().flat_map(of).collect()
}

/// What the exploration of protocols launches: a sequence's tile, of which the last keys do not exist, and a CTA without one.
pub fn explored() -> Vec<Launch> {
    let of = |instance: &MlaPrefillInstance| {
        let launch = |blocks: u32| {
            let keys = (blocks * instance.block_keys).saturating_sub(3);
            let params = traced_params(instance, 1)
                .u32(offset_of!(MlaPrefillParams, batch), 1)
                .u32(offset_of!(MlaPrefillParams, tokens), 100)
                .u32(offset_of!(MlaPrefillParams, keys), keys)
                .u32(offset_of!(MlaPrefillParams, tiles), 2)
                .u32(offset_of!(MlaPrefillParams, causal), 0)
                .words(region(0), &[0, 100])
                .words(region(1), &[0, keys]);
            params.launch(instance.name(), 2, instance.smem_bytes())
        };
        fillings(MlaPrefillInstance::STAGES).into_iter().map(launch).collect::<Vec<_>>()
    };
    MLA_PREFILL_INSTANCES.iter().flat_map(of).collect()
}

/// Two tiles of two heads, of which some exist. Offsets are made up: some are out of order.
fn traced_with(instance: &MlaPrefillInstance, words_per_index: u32) -> Launch {
    traced_params(instance, words_per_index).launch(instance.name(), 6, instance.smem_bytes())
}

fn traced_params(instance: &MlaPrefillInstance, words_per_index: u32) -> Params {
    let row = 2 * MLA_TILE_COLUMNS;
    Params::of::<MlaPrefillParams>()
        .boxes(offset_of!(MlaPrefillParams, map_q), MLA_PREFILL_BLOCK_ROWS * row)
        .boxes(offset_of!(MlaPrefillParams, map_k_nope), instance.block_keys * row)
        .boxes(offset_of!(MlaPrefillParams, map_k_pe), instance.block_keys * row)
        .boxes(offset_of!(MlaPrefillParams, map_v), instance.block_keys * row)
        .indices(offset_of!(MlaPrefillParams, q_offsets), region(0), 40, words_per_index)
        .indices(offset_of!(MlaPrefillParams, k_offsets), region(1), 40, words_per_index)
        .u64(offset_of!(MlaPrefillParams, out), region(2))
        .u64(offset_of!(MlaPrefillParams, lse), region(3))
        .u64(offset_of!(MlaPrefillParams, error_words), region(4))
        .u64(offset_of!(MlaPrefillParams, out_token_stride), 2 * 264)
        .u64(offset_of!(MlaPrefillParams, out_head_stride), 264)
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
        .u32(offset_of!(MlaPrefillParams, empty_lse), f32::NEG_INFINITY.to_bits())
}

#[cfg(test)]
mod tests;
