//! The shape of a decode step, and how its keys are split.

use std::fmt;

#[cfg(doc)]
use crate::device::Device;
use crate::error::Result;
use crate::launch::{Layout, MAX_DIM, check_factor, check_limit, check_multiple, check_range};
use crate::mla::cache::{CacheRows, KvFormat, LATENT, ROPE, check_rope};
use crate::mla::lse::LseOrder;
use crate::setters::setters;
use crate::table::mla::{MLA_BLOCK_KEYS, MLA_BLOCK_ROWS, MLA_INSTANCES, MlaInstance};

/// Most query tokens of a sequence in one step.
pub const MAX_Q_TOKENS: usize = 64;
/// Most heads.
pub const MAX_HEADS: usize = 128;
/// Rows of Q that a CTA takes.
pub(super) const BLOCK_ROWS: usize = MLA_BLOCK_ROWS as usize;
pub(super) const BLOCK_KEYS: usize = MLA_BLOCK_KEYS as usize;

/// Where the keys of a sequence lie in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvPaging {
    /// In pages that a table on the device lists. A page id that does not exist reads as zeros, and
    /// [`Device::poll_error`] tells of it.
    Paged {
        /// Pages of the cache.
        pages: usize,
        /// Keys of a page: any number from 1 on. The more of the powers of two up to 64 divide it, the fewer copies fetch
        /// the keys.
        page_size: usize,
        /// Columns of the page table.
        pages_per_sequence: usize,
    },
    /// Sequence `b` owns the rows from `b * capacity` on.
    Contiguous {
        /// Keys that a sequence has room for.
        capacity: usize,
    },
}

/// What the LSE of a row without keys is. Its output is 0 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EmptyLse {
    /// The logarithm of an empty sum: merging with it changes nothing.
    #[default]
    NegativeInfinity,
    /// As FlashMLA has it.
    PositiveInfinity,
}

impl EmptyLse {
    pub(in crate::mla) fn value(self) -> f32 {
        match self {
            Self::NegativeInfinity => f32::NEG_INFINITY,
            Self::PositiveInfinity => f32::INFINITY,
        }
    }
}

/// Shape of a decode step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MlaDecodeSpec {
    /// Sequences: any number, 0 included.
    pub batch: usize,
    /// Query tokens of a sequence, the last of its keys, or most of them where they vary: 1 to 64.
    pub q_tokens: usize,
    /// Where sequences have different numbers of query tokens, those of all: rows of q, of which offsets on the device say whose
    /// they are. Any number, 0 included; rows that are nobody's are not touched. None: every sequence has `q_tokens`.
    pub packed_tokens: Option<usize>,
    /// Query heads: 1 to 128. All share one latent key.
    pub heads: usize,
    /// What a row of the cache holds.
    pub format: KvFormat,
    /// Elements of a key, and of a query, beside the latent: 64 that carry the position, or 0. Without them a key is its
    /// value, as in models without positions, or with the position within the 512 (DeepSeek-V4). The bits are those of a
    /// position of zeros.
    pub rope: usize,
    /// Where the keys lie.
    pub paging: KvPaging,
    /// What scores are multiplied with: positive, at most 65536. There is no default, because the width of a key is not
    /// what models divide by: DeepSeek-V3 has 0.1352337788608801.
    pub softmax_scale: f32,
    /// Query token t of n sees the first `length - (n - 1 - t)` keys only.
    pub causal: bool,
    /// Keys per split: a multiple of 64, at least one. Part of the bits of a result. Long splits write fewer partial results; short ones
    /// let few sequences fill a GPU. [`fastest_split`](Self::fastest_split) weighs them.
    pub split_keys: usize,
    /// Most keys of all sequences together, any number, where that is less than `batch * capacity`: such as what the cache holds, if
    /// sequences share no pages. Room for partial results is needed for so many only. Of a batch with more, the last
    /// sequences, those that with all before them have more, count as empty, and [`Device::poll_error`] tells of it.
    pub total_keys: Option<usize>,
    /// How lse lies.
    pub lse_order: LseOrder,
    /// What the LSE of a row without keys is.
    pub empty_lse: EmptyLse,
}

/// A choice of [`MlaDecodeSpec::split_keys`] where neither batch nor lengths are known: [`MlaDecodeSpec::fastest_split`]
/// chooses better.
pub const DEFAULT_SPLIT_KEYS: usize = 2048;

/// What two plans must agree on to share their splits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SplitShape {
    batch: usize,
    q_tokens: usize,
    packed_tokens: Option<usize>,
    capacity: usize,
    split_keys: usize,
    total_keys: Option<usize>,
}

impl MlaDecodeSpec {
    /// One query token a sequence, keys with a position.
    pub const fn new(
        batch: usize,
        heads: usize,
        format: KvFormat,
        paging: KvPaging,
        softmax_scale: f32,
    ) -> Self {
        Self {
            batch,
            q_tokens: 1,
            packed_tokens: None,
            heads,
            format,
            rope: ROPE,
            paging,
            softmax_scale,
            causal: true,
            split_keys: DEFAULT_SPLIT_KEYS,
            total_keys: None,
            lse_order: LseOrder::TokensHeads,
            empty_lse: EmptyLse::NegativeInfinity,
        }
    }

    /// Keys that the pages of a sequence hold.
    pub fn capacity(&self) -> usize {
        match self.paging {
            KvPaging::Paged { page_size, pages_per_sequence, .. } => {
                page_size.saturating_mul(pages_per_sequence)
            }
            KvPaging::Contiguous { capacity } => capacity,
        }
    }

    /// The [`split_keys`](Self::split_keys) that a model of an H100 likes best for a full batch of sequences with about
    /// `keys` keys each, on a device of `multiprocessors`; what `split_keys` holds does not matter.
    ///
    /// Splits are part of the bits of a result: choose once per deployment, not per step.
    pub fn fastest_split(&self, keys: usize, multiprocessors: u32) -> usize {
        let keys = keys.min(MAX_DIM as usize / BLOCK_KEYS * BLOCK_KEYS);
        let whole = keys.max(1).next_multiple_of(BLOCK_KEYS);
        let halves = std::iter::successors(Some(whole.next_power_of_two() / 2), |split| Some(split / 2));
        let candidates = halves.take_while(|&split| split >= BLOCK_KEYS);
        let mut best = (whole, self.modelled_time(keys, whole, multiprocessors));
        for split in candidates {
            let time = self.modelled_time(keys, split, multiprocessors);
            // Parts cost memory as well.
            if time < 0.95 * best.1 {
                best = (split, time);
            }
        }
        best.0
    }

    /// Microseconds of a step, to rank splits: CTAs take turns on the splits, then the parts of every row are added up.
    /// Fitted to an H100, within 25 % of what was measured there (`benches/results/NOTES.md`).
    fn modelled_time(&self, keys: usize, split_keys: usize, multiprocessors: u32) -> f64 {
        const START: f64 = 4.0;
        const LAUNCH: f64 = 4.0;
        const PART: f64 = 0.15;
        const BYTES_PER_MICROSECOND: f64 = 2.5e6;
        let block = match self.format {
            KvFormat::Bf16 => 2.3,
            KvFormat::Fp8 | KvFormat::Fp8PerTensor => 3.6,
        };
        let rows = self.q_tokens.saturating_mul(self.heads);
        let tiles = rows.div_ceil(BLOCK_ROWS).max(1);
        let workers = (multiprocessors as usize / tiles).max(1);
        let splits = keys.div_ceil(split_keys).max(1);
        let rounds = self.batch.saturating_mul(splits).div_ceil(workers) as f64;
        let blocks = split_keys.min(keys).div_ceil(BLOCK_KEYS) as f64;
        let attend = rounds * (START + block * blocks);
        if splits == 1 {
            return attend;
        }
        // Every part is written and read.
        let parts = self.batch as f64 * rows as f64 * splits as f64;
        let bytes = parts * (LATENT * 2 * size_of::<f32>()) as f64;
        attend + LAUNCH + PART * splits as f64 + bytes / BYTES_PER_MICROSECOND
    }

    /// Query tokens of all sequences.
    pub(super) fn tokens(&self) -> usize {
        self.packed_tokens.unwrap_or(self.batch * self.q_tokens)
    }

    pub(super) fn q_layout(&self) -> Layout {
        let axes = match self.rope {
            0 => "q [tokens * heads, 512]",
            _ => "q [tokens * heads, 576]",
        };
        Layout::matrix(axes, [self.tokens() * self.heads, LATENT + self.rope]).aligned(16)
    }

    /// Rows of Q of a sequence, at most.
    pub(super) fn rows(&self) -> usize {
        self.q_tokens * self.heads
    }

    pub(super) fn pages(&self) -> (usize, usize) {
        match self.paging {
            KvPaging::Paged { pages, page_size, .. } => (pages, page_size),
            KvPaging::Contiguous { capacity } => (self.batch, capacity),
        }
    }

    pub(super) fn cache_rows(&self) -> CacheRows {
        let (pages, page_size) = self.pages();
        let Self { format, rope, .. } = *self;
        CacheRows { format, rope, rows: pages * page_size, page_size: Some(page_size) }
    }

    pub(super) fn split_shape(&self) -> SplitShape {
        let Self { batch, q_tokens, packed_tokens, split_keys, total_keys, .. } = *self;
        SplitShape { batch, q_tokens, packed_tokens, capacity: self.capacity(), split_keys, total_keys }
    }

    pub(super) fn max_splits(&self) -> usize {
        self.capacity().div_ceil(self.split_keys).max(1)
    }

    /// Splits that the sequences may have together: each has whole ones, and one more at most.
    pub(super) fn splits(&self) -> usize {
        let of_each = self.batch.saturating_mul(self.max_splits());
        let of_all = self.total_keys.map(|keys| (keys / self.split_keys).saturating_add(self.batch));
        of_all.map_or(of_each, |splits| splits.min(of_each))
    }

    pub(super) fn check(&self) -> Result<()> {
        check_range("q_tokens", self.q_tokens, MAX_Q_TOKENS as u64)?;
        check_range("heads", self.heads, MAX_HEADS as u64)?;
        check_rope(self.rope)?;
        check_range("split_keys", self.split_keys, MAX_DIM)?;
        check_multiple("split_keys", self.split_keys, BLOCK_KEYS)?;
        if let KvPaging::Paged { page_size, .. } = self.paging {
            check_range("page_size", page_size, MAX_DIM)?;
        }
        check_factor("softmax_scale", self.softmax_scale)?;
        let (pages, page_size) = self.pages();
        check_limit("rows of the cache", pages.saturating_mul(page_size) as u64, MAX_DIM)?;
        check_limit("keys of a sequence", self.capacity() as u64, MAX_DIM)?;
        let rows = self.batch.saturating_mul(self.rows());
        check_limit("batch * q_tokens * heads", rows as u64, MAX_DIM)?;
        let rows = self.tokens().saturating_mul(self.heads);
        check_limit("rows of q", rows as u64, MAX_DIM)?;
        self.lse_order.check(self.tokens())?;
        check_limit("splits", self.splits() as u64, MAX_DIM)
    }
}

setters!(MlaDecodeSpec {
    q_tokens: usize,
    packed_tokens: Option<usize>,
    rope: usize,
    causal: bool,
    split_keys: usize,
    total_keys: Option<usize>,
    lse_order: LseOrder,
    empty_lse: EmptyLse,
});

/// The compiled kernels that read rows of this format.
pub(super) fn instances(format: KvFormat) -> impl Iterator<Item = &'static MlaInstance> {
    MLA_INSTANCES.iter().filter(move |instance| instance.format == format)
}

impl fmt::Display for SplitShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, q_tokens, packed_tokens, capacity, split_keys, total_keys } = self;
        write!(f, "batch {batch}, ")?;
        match packed_tokens {
            None => write!(f, "query tokens {q_tokens}")?,
            Some(all) => write!(f, "query tokens up to {q_tokens}, {all} together")?,
        }
        write!(f, ", {capacity} keys a sequence, splits of {split_keys}")?;
        total_keys.map_or(Ok(()), |keys| write!(f, ", {keys} keys together"))
    }
}

/// What the planner chose: [`Display`](fmt::Display) prints it on one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MlaChoice {
    /// The compiled configuration.
    pub instance: MlaInstance,
    /// Tiles of 64 rows that the queries of a sequence make.
    pub row_tiles: u32,
    /// Splits that run at the same time, each on `row_tiles` CTAs.
    pub workers: u32,
    /// Keys of a split.
    pub split_keys: usize,
    /// Splits that a sequence may have.
    pub max_splits: u32,
    /// Splits that all may have together.
    pub splits: usize,
}

impl fmt::Display for MlaChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, row_tiles, workers, split_keys, max_splits, splits } = self;
        let name = instance.name();
        write!(
            f,
            "{name}: {row_tiles} row tiles x {workers} splits of {split_keys} keys at a time, up to {max_splits} a \
             sequence and {splits} together"
        )
    }
}
