//! What the dense and the grouped GEMM share: the choice of an instance.

use std::fmt;

use half::bf16;

use crate::error::{Error, Result};
use crate::launch::{MAX_DIM, check_limit, check_multiple};
use crate::quant::BLOCK;
use crate::table::gemm::{GemmInstance, OutputType};
use crate::tensor::Element;
use crate::tuning::Tuning;

/// Element types of D: [`bf16`] (the FP32 sum rounded once) or `f32`.
pub trait GemmOutput: Element {
    /// The compiled output.
    #[doc(hidden)]
    const OUTPUT: OutputType;
}

impl GemmOutput for bf16 {
    const OUTPUT: OutputType = OutputType::Bf16;
}
impl GemmOutput for f32 {
    const OUTPUT: OutputType = OutputType::F32;
}

/// What the planner chose for a shape, and why: [`Display`](fmt::Display) prints it on one line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GemmChoice {
    /// The compiled configuration.
    pub instance: GemmInstance,
    /// CTAs launched: at most one per multiprocessor, each walks its tiles.
    pub grid: u32,
    /// Tiles of D, those past the edge that complete a cluster included.
    pub tiles: u32,
    /// Tiles of the busiest CTA.
    pub waves: u32,
    /// The planner's estimate in clock cycles: a ranking of instances, not a prediction of time.
    pub cycles: f64,
}

impl fmt::Display for GemmChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} stages, {} KiB, {} tiles on {} CTAs in {} waves",
            self.instance.name(),
            self.instance.stages(),
            self.instance.smem_bytes() / 1024,
            self.tiles,
            self.grid,
            self.waves
        )
    }
}

/// Bytes that one multiprocessor can draw from L2 per cycle, all of them drawing: 6154 B/cycle over 132.
const L2_BYTES_PER_CYCLE: f64 = 46.0;
/// Cycles to fill the ring before the first product of a tile, and to drain a tile to shared memory after the last.
const TILE_OVERHEAD_CYCLES: f64 = 1000.0;

/// The instance of a tuning's name.
pub(crate) fn named<'i>(
    mut instances: impl Iterator<Item = &'i GemmInstance>,
    tuning: &Tuning,
    expected: &'static str,
) -> Result<&'i GemmInstance> {
    let found = instances.find(|instance| instance.name() == tuning.name());
    found.ok_or_else(|| Error::out_of_range("tuning", expected, tuning))
}

impl GemmInstance {
    pub(crate) fn tuning(&self) -> Tuning {
        Tuning::named(self.name())
    }
}

/// The sizes of a GEMM: `rows` rows of A and D, one `[n, k]` matrix B per expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GemmProblem {
    pub experts: usize,
    pub rows: usize,
    pub n: usize,
    pub k: usize,
}

impl GemmProblem {
    /// The launch of one instance for `rows` rows per expert.
    pub fn launch(&self, instance: &GemmInstance, rows: usize, multiprocessors: u32) -> Result<GemmChoice> {
        let GemmInstance { block_m, block_n, cluster, output, .. } = *instance;
        let clusters_m = rows.div_ceil((block_m * cluster) as usize) as u64;
        let tiles_of_one = clusters_m * u64::from(cluster) * self.n.div_ceil(block_n as usize) as u64;
        let tiles = self.experts as u64 * tiles_of_one;
        check_limit("tiles of D", tiles, u64::from(u32::MAX / 2))?;
        let tiles = tiles as u32;
        let ctas = (multiprocessors / cluster).max(1) * cluster;
        let grid = tiles.min(ctas);
        let waves = if grid == 0 { 0 } else { tiles.div_ceil(grid) };

        // wgmma m64nN takes N/2 cycles, or as long as shared memory needs for its operands: 2048 + 32 N bytes at 128.
        let (n, slices) = (f64::from(block_n), f64::from(block_m / 64));
        let tensor = 4.0 * slices * (n / 2.0).max(16.0 + n / 4.0);
        let rows = f64::from(block_m).min(rows as f64);
        let l2 = (128.0 * rows + 128.0 * n / f64::from(cluster) + 4.0 * rows) / L2_BYTES_PER_CYCLE;
        let store = rows * n * f64::from(output.bytes()) / L2_BYTES_PER_CYCLE;
        let tile = (self.k / BLOCK) as f64 * tensor.max(l2) + store + TILE_OVERHEAD_CYCLES;
        Ok(GemmChoice { instance: *instance, grid, tiles, waves, cycles: f64::from(waves) * tile })
    }

    /// Fails unless the kernels can index the sizes. `rows` is what the rows are called.
    pub fn check_sizes(&self, rows: &'static str) -> Result<()> {
        check_multiple("n", self.n, 8)?;
        check_multiple("k", self.k, BLOCK)?;
        for (what, got) in [(rows, self.rows), ("n", self.n), ("k", self.k)] {
            check_limit(what, got as u64, MAX_DIM)?;
        }
        Ok(())
    }

    /// The instance that the planner's model likes best for `rows` rows per expert.
    pub fn fastest<'i>(
        &self,
        instances: impl Iterator<Item = &'i GemmInstance>,
        rows: usize,
        multiprocessors: u32,
    ) -> Result<GemmChoice> {
        let mut best: Option<GemmChoice> = None;
        for instance in instances {
            let choice = self.launch(instance, rows, multiprocessors)?;
            if best.is_none_or(|best| choice.cycles < best.cycles) {
                best = Some(choice);
            }
        }
        best.ok_or_else(|| Error::out_of_range("type of d", "one that a kernel writes", "another"))
    }
}
