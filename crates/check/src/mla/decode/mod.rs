//! MLA decode: sequences in a cache with pages in no order, whatever is nobody's key poisoned.

mod anatomy;
mod faults;
mod judge;
mod order_faults;
mod packed_faults;
mod per_tensor_faults;
mod problem;
mod run;
mod traced;

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{EmptyLse, KvFormat, KvPaging, LseOrder, MlaDecode, MlaDecodeSpec};
use deepseek_kernels::table::mla::{MLA_INSTANCES, MlaInstance};
use deepseek_kernels::{Device, Tuning};
use oracles::mla::AttentionClass;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

pub use faults::FAULTS;
pub use order_faults::FAULTS as ORDER_FAULTS;
pub use packed_faults::FAULTS as PACKED_FAULTS;
pub use per_tensor_faults::FAULTS as PER_TENSOR_FAULTS;
pub use problem::{MlaDecodeProblem, STALE_PAGE};
pub use run::{MlaDecodeOperands, MlaDecodePlan, MlaDecodeRun};
pub use traced::{explored, traced};

use super::{LATENT, ROPE};
use crate::case::{Case, Problem, Work};
use crate::deepseek_v3::SOFTMAX_SCALE;

/// Of an H100, on which splits are to suit the cases that are given none.
const MULTIPROCESSORS: u32 = 132;

/// How a step is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launches {
    /// All at once.
    Whole,
    /// The schedule, then attention with its splits.
    Apart,
}

/// Sequences of one decode step.
#[derive(Debug, Clone)]
pub struct MlaDecodeCase {
    pub format: KvFormat,
    /// Elements of a key and of a query that carry the position.
    pub rope: usize,
    /// Keys of each sequence.
    pub lengths: Vec<usize>,
    /// Query tokens of each sequence, or most of one.
    pub q_tokens: usize,
    /// Query tokens of each sequence, if not all have `q_tokens`.
    pub packed: Option<Vec<usize>>,
    pub heads: usize,
    /// Query tokens see the keys up to themselves only.
    pub causal: bool,
    /// Keys of a page; none: the cache is contiguous.
    pub page_size: Option<usize>,
    /// Something lies between pages, as the other layers do in a pool of all; otherwise between keys.
    pub pages_apart: bool,
    /// Keys of a split; none: those that suit an H100 best.
    pub split_keys: Option<usize>,
    pub lse_order: LseOrder,
    pub empty_lse: EmptyLse,
    /// Instead of the planner's choice.
    pub instance: Option<MlaInstance>,
    pub launches: Launches,
    /// Every sequence runs alone too, and is to give the bits that it gives in the batch.
    pub alone: bool,
    pub class: AttentionClass,
    /// At most `DRAWN` queries and rows of the cache differ, the rest repeats them, and there are no more rows than the
    /// sequences need. Values do not matter for time, their memory does.
    pub repeated: bool,
    pub seed: u64,
}

/// Packed query tokens before the first sequence, and behind the last.
const SPARE: (usize, usize) = (1, 2);

/// Queries and rows that differ, where the others repeat them. A prime, so that no two pages near each other are alike.
pub const DRAWN: usize = 4099;

impl MlaDecodeCase {
    /// One query token of 16 heads, pages of 64 keys, splits of two pages.
    pub const fn new(format: KvFormat, lengths: Vec<usize>) -> Self {
        Self {
            format,
            rope: ROPE,
            lengths,
            q_tokens: 1,
            packed: None,
            heads: 16,
            causal: false,
            page_size: Some(64),
            pages_apart: false,
            split_keys: Some(128),
            lse_order: LseOrder::TokensHeads,
            empty_lse: EmptyLse::NegativeInfinity,
            instance: None,
            launches: Launches::Whole,
            alone: false,
            class: AttentionClass::Normal,
            repeated: false,
            seed: 1,
        }
    }

    /// With so many query tokens of each sequence.
    #[must_use]
    pub fn packed(self, tokens: Vec<usize>) -> Self {
        Self { q_tokens: tokens.iter().copied().max().unwrap_or(1).max(1), packed: Some(tokens), ..self }
    }

    /// Query tokens of a sequence.
    fn tokens(&self, sequence: usize) -> usize {
        self.packed.as_ref().map_or(self.q_tokens, |tokens| tokens[sequence])
    }

    /// Query tokens that there are.
    fn all_tokens(&self) -> usize {
        let of_sequences = (0..self.lengths.len()).map(|sequence| self.tokens(sequence)).sum();
        if self.packed.is_some() { SPARE.0 + of_sequences + SPARE.1 } else { of_sequences }
    }

    /// Rows of Q of all sequences, in order.
    fn rows(&self) -> impl Iterator<Item = usize> {
        (0..self.lengths.len()).map(|sequence| self.tokens(sequence) * self.heads)
    }

    /// Elements of a key and of a query.
    pub fn key(&self) -> usize {
        LATENT + self.rope
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// What the plan is of. Unless rows repeat, a column of the page table and some pages are nobody's, and the end of a
    /// contiguous cache is no multiple of 64. Of packed query tokens the first ones and the last are nobody's.
    pub fn spec(&self) -> MlaDecodeSpec {
        let Self { format, rope, q_tokens, heads, causal, lse_order, empty_lse, .. } = *self;
        let (batch, longest) = (self.lengths.len(), self.longest());
        let spare = usize::from(!self.repeated);
        let paging = match self.page_size {
            None => KvPaging::Contiguous { capacity: longest.max(1) + 5 * spare },
            Some(page_size) => {
                let pages_per_sequence = longest.max(spare).div_ceil(page_size) + spare;
                KvPaging::Paged {
                    pages: batch * pages_per_sequence + 3 * spare,
                    page_size,
                    pages_per_sequence,
                }
            }
        };
        let spec = MlaDecodeSpec::new(batch, heads, format, paging, SOFTMAX_SCALE)
            .rope(rope)
            .q_tokens(q_tokens)
            .packed_tokens(self.packed.as_ref().map(|_| self.all_tokens()))
            .causal(causal)
            .lse_order(lse_order)
            .empty_lse(empty_lse);
        let split_keys = self.split_keys.unwrap_or_else(|| spec.fastest_split(longest, MULTIPROCESSORS));
        spec.split_keys(split_keys)
    }

    fn plan(&self, device: &Device, spec: MlaDecodeSpec) -> deepseek_kernels::Result<MlaDecode> {
        match self.instance {
            Some(instance) => MlaDecode::plan_with(device, spec, &Tuning::named(instance.name())),
            None => MlaDecode::plan(device, spec),
        }
    }
}

/// Every instance that can read the format.
pub fn instances(format: KvFormat) -> impl Iterator<Item = MlaInstance> {
    MLA_INSTANCES.iter().copied().filter(move |instance| instance.format == format)
}

/// Random lengths up to `most`, some of them 0.
pub fn varied_lengths(batch: usize, most: usize, seed: u64) -> Vec<usize> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..batch).map(|_| if rng.random_bool(0.3) { 0 } else { rng.random_range(1..=most) }).collect()
}

impl Case for MlaDecodeCase {
    fn operation(&self) -> &'static str {
        match self.format {
            KvFormat::Bf16 => "mla_decode_bf16",
            KvFormat::Fp8 => "mla_decode_fp8",
            KvFormat::Fp8PerTensor => "mla_decode_fp8_per_tensor",
        }
    }

    fn title(&self) -> String {
        let format = match self.format {
            KvFormat::Bf16 => "BF16",
            KvFormat::Fp8 => "FP8",
            KvFormat::Fp8PerTensor => "per-tensor FP8",
        };
        let rope = if self.rope == 0 { " without positions" } else { "" };
        format!("MLA decode, {format} cache{rope}{}", if self.causal { ", causal" } else { "" })
    }

    /// Query tokens, heads, and the keys of each sequence.
    fn shape(&self) -> String {
        let joined = |counts: &[usize]| counts.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
        let tokens = self.packed.as_ref().map_or(self.q_tokens.to_string(), |tokens| joined(tokens));
        format!("{tokens} x {} x {}", self.heads, joined(&self.lengths))
    }

    /// Several query tokens are causal unless it says that they are not.
    fn label(&self) -> String {
        let Self { rope, lengths, q_tokens, heads, causal, split_keys, .. } = self;
        let (least, most) = (lengths.iter().min().unwrap_or(&0), self.longest());
        let keys = if *least == most { format!("s{most}") } else { format!("s{least}-{most}") };
        let cluster = self.instance.map(|instance| format!("_c{}", instance.cluster));
        let split = split_keys.map(|split| format!("_split{split}"));
        let mask = match (*causal, *q_tokens > 1) {
            (true, false) => "_causal",
            (false, true) => "_full",
            _ => "",
        };
        let (cluster, split) = (cluster.unwrap_or_default(), split.unwrap_or_default());
        let packed = if self.packed.is_some() { "_packed" } else { "" };
        let rope = if *rope == 0 { "_nope" } else { "" };
        format!("b{}q{q_tokens}{keys}h{heads}{cluster}{split}{mask}{packed}{rope}", lengths.len())
    }

    fn data(&self) -> String {
        self.class.to_string()
    }

    /// As all count who publish such numbers: hidden keys of a causal mask included, every key moved once.
    fn work(&self) -> Work {
        let keys: usize = self.lengths.iter().sum();
        let queries: usize = self.rows().sum();
        let pairs: usize = self.rows().zip(&self.lengths).map(|(rows, keys)| rows * keys).sum();
        Work {
            flops: (2 * pairs * (self.key() + LATENT)) as u64,
            bytes: (2 * queries * (self.key() + LATENT) + keys * self.format.row_bytes(self.rope)) as u64,
        }
    }

    fn kernels(&self, device: &Device) -> Result<Vec<String>> {
        let attend = self.plan(device, self.spec())?.tuning().to_string();
        Ok(vec!["mla_schedule".to_owned(), attend, "mla_combine".to_owned()])
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

#[cfg(test)]
mod tests;
