//! Launches for the operand trace, each beside the case of its operation: small shapes in which several tiles per CTA, ragged
//! edges, more K blocks than stages, clusters, accumulation and an empty sum occur. Memory is made up: words that are read
//! as counts, ids, slots or positions are below 252, so that some are in range and some not.

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
pub struct Params(Vec<u8>);

impl Params {
    pub fn of<T>() -> Self {
        Self(vec![0; size_of::<T>()])
    }

    pub fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// A list at `offset`, a little more than `columns` indices from row to row. Of two words, no made-up index fits 32 bits.
    pub fn indices(self, offset: usize, region: u64, columns: u64, words_per_index: u32) -> Self {
        self.u64(offset + offset_of!(Indices, words), region)
            .u64(offset + offset_of!(Indices, pitch), (columns + 2) * u64::from(words_per_index))
            .u32(offset + offset_of!(Indices, words_per_index), words_per_index)
    }

    /// The launch with these parameters.
    pub fn launch(self, kernel: String, grid: u32, smem_bytes: u32) -> Launch {
        Launch { kernel, grid, smem_bytes, params: self.0 }
    }
}

/// Of a kernel that is no instance.
pub fn fixed(kernel: &FixedKernel, grid: u32, params: Params) -> Launch {
    let FixedKernel { name, smem_bytes, .. } = *kernel;
    params.launch(name.to_owned(), grid, smem_bytes)
}
