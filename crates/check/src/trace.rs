//! Launches for the operand trace, each beside the case of its operation: small shapes in which several tiles per CTA, ragged
//! edges, more K blocks than stages, clusters, accumulation and an empty sum occur. Memory is made up: words that are read
//! as counts, ids, slots or positions are below 252, so that some are in range and some not. What decides how often the stages of
//! a ring are filled, the launches whose protocols are explored say themselves.

use std::collections::BTreeMap;
use std::mem::offset_of;

use deepseek_kernels::bindings::Indices;
use deepseek_kernels::table::FixedKernel;

#[derive(Clone)]
pub struct Launch {
    pub kernel: String,
    pub grid: u32,
    pub smem_bytes: u32,
    /// The kernel's parameter struct.
    pub params: Vec<u8>,
    /// Bytes of a box, by where its tensor map lies in there: the map itself is none.
    pub boxes: Vec<(usize, u32)>,
    /// What stands in memory, by address; the rest is made up.
    pub words: BTreeMap<u64, u32>,
}

/// Global memory never exists here: an operand is an address that only it has.
pub const REGION_BYTES: u64 = 1 << 36;
/// More operands than any kernel has.
pub const REGIONS: u64 = 15;

pub fn region(index: u64) -> u64 {
    (1 + index) * REGION_BYTES
}

/// 32 bits of an index, or 64.
pub const WORDS_PER_INDEX: [u32; 2] = [1, 2];

/// A parameter struct, field by field; what is not set is zero.
pub struct Params {
    bytes: Vec<u8>,
    boxes: Vec<(usize, u32)>,
    words: BTreeMap<u64, u32>,
}

impl Params {
    pub fn of<T>() -> Self {
        Self { bytes: vec![0; size_of::<T>()], boxes: Vec::new(), words: BTreeMap::new() }
    }

    pub fn u32(mut self, offset: usize, value: u32) -> Self {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u64(mut self, offset: usize, value: u64) -> Self {
        self.bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// A list at `offset`, a little more than `columns` indices from row to row. Of two words, no made-up index fits 32 bits.
    pub fn indices(self, offset: usize, region: u64, columns: u64, words_per_index: u32) -> Self {
        self.u64(offset + offset_of!(Indices, words), region)
            .u64(offset + offset_of!(Indices, pitch), (columns + 2) * u64::from(words_per_index))
            .u32(offset + offset_of!(Indices, words_per_index), words_per_index)
    }

    /// A tensor map at `offset`, whose boxes have so many bytes.
    pub fn boxes(mut self, offset: usize, bytes: u32) -> Self {
        self.boxes.push((offset, bytes));
        self
    }

    /// What stands in memory from `address` on.
    pub fn words(mut self, address: u64, words: &[u32]) -> Self {
        self.words.extend(words.iter().enumerate().map(|(i, &word)| (address + 4 * i as u64, word)));
        self
    }

    /// The launch with these parameters.
    pub fn launch(self, kernel: String, grid: u32, smem_bytes: u32) -> Launch {
        let Self { bytes: params, boxes, words } = self;
        Launch { kernel, grid, smem_bytes, params, boxes, words }
    }
}

/// How often a ring of so many stages is filled: never, once, up to the last stage, round, and more than once round.
pub fn fillings(stages: u32) -> Vec<u32> {
    let mut counts = vec![0, 1, stages - 1, stages, stages + 1, 2 * stages + 1];
    counts.dedup();
    counts
}

/// Of a kernel that is no instance.
pub fn fixed(kernel: &FixedKernel, grid: u32, params: Params) -> Launch {
    let FixedKernel { name, smem_bytes, .. } = *kernel;
    params.launch(name.to_owned(), grid, smem_bytes)
}
