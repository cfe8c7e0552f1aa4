//! What the dense and the grouped GEMM share: the choice of an instance.

use std::fmt;

use half::bf16;

use super::model::{Estimate, Loop, Machine};
use super::segments::Segments;
use crate::error::{Error, Result};
use crate::launch::{MAX_DIM, check_limit, check_multiple};
use crate::quant::{BLOCK, blocks};
use crate::table::MAX_EXPERTS;
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
    /// Tiles of D, those past the edge that complete a cluster included; those that a CTA takes together are one.
    pub tiles: u32,
    /// Tiles of the busiest CTA.
    pub waves: u32,
    /// What the model expects of it, by which instances are ranked.
    pub estimate: Estimate,
}

impl GemmChoice {
    /// For experts: what the expected rows make of the grid is only a guess, and any routing must find CTAs enough.
    pub fn for_any_routing(self, problem: &GemmProblem, multiprocessors: u32) -> Self {
        let empty = problem.rows == 0 || problem.n == 0 || problem.experts == 0;
        let grid = if empty { 0 } else { Machine::h100(multiprocessors).ctas(self.instance.cluster) };
        Self { grid, ..self }
    }
}

impl fmt::Display for GemmChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} stages, {} KiB, {} tiles on {} CTAs in {} waves, {}",
            self.instance.name(),
            self.instance.stages(),
            self.instance.smem_bytes() / 1024,
            self.tiles,
            self.grid,
            self.waves,
            self.estimate
        )
    }
}

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
    /// B is so many matrices below each other, each with rows of scales of its own.
    pub parts: usize,
}

impl GemmProblem {
    /// Rows of scales of an expert's B.
    pub fn scale_rows(&self) -> usize {
        self.parts * blocks(self.n / self.parts)
    }

    /// The launch of one instance for `rows` rows per expert.
    pub fn launch(&self, instance: &GemmInstance, rows: usize, multiprocessors: u32) -> Result<GemmChoice> {
        let GemmInstance { cluster, .. } = *instance;
        let (kernel, machine) = (Loop::of(instance), Machine::h100(multiprocessors));
        let tiles = kernel.tiles(self, rows);
        check_limit("tiles of D", tiles, u64::from(u32::MAX / 2))?;
        let tiles = tiles as u32;
        let grid = tiles.min(machine.ctas(cluster));
        let waves = if grid == 0 { 0 } else { tiles.div_ceil(grid) };
        let estimate = machine.time(&kernel, self, rows, tiles, grid);
        Ok(GemmChoice { instance: *instance, grid, tiles, waves, estimate })
    }

    /// What has to come from memory or go there: weights, `rows` rows of A with their scales, and of D, for each expert.
    pub fn bytes(&self, rows: usize, output_bytes: f64) -> f64 {
        let [experts, rows, n, k] = [self.experts, rows, self.n, self.k].map(|size| size as f64);
        let scale = size_of::<f32>() as f64 / BLOCK as f64;
        experts * (n * k + rows * (k * (1.0 + scale) + n * output_bytes))
    }

    /// The rows of experts, each with an `[n, k]` matrix B; fails as [`Self::check_sizes`] does.
    pub fn of_experts(experts: usize, segments: Segments, [n, k]: [usize; 2]) -> Result<Self> {
        check_limit("experts", experts as u64, MAX_EXPERTS.into())?;
        let rows = match segments {
            Segments::Ragged { rows } => rows,
            Segments::Masked { max_rows } => {
                check_limit("max_rows", max_rows as u64, MAX_DIM)?;
                experts * max_rows
            }
        };
        let problem = Self { experts, rows, n, k, parts: 1 };
        problem.check_sizes("rows")?;
        check_limit("experts * n", (experts * n) as u64, MAX_DIM)?;
        Ok(problem)
    }

    /// The rows of an expert that a plan is made for: those that are expected, one at least, and no more than there are.
    pub fn planned_rows(&self, expected: usize) -> usize {
        expected.clamp(1, self.rows.max(1))
    }

    /// Fails unless the kernels can index the sizes. `rows` is what the rows are called.
    pub fn check_sizes(&self, rows: &'static str) -> Result<()> {
        check_multiple("n", self.n, 8)?;
        for (what, got) in [(rows, self.rows), ("n", self.n), ("k", self.k)] {
            check_limit(what, got as u64, MAX_DIM)?;
        }
        Ok(())
    }

    /// The instance that the planner's model likes best for `rows` rows per expert; of equals the first.
    pub fn fastest<'i>(
        &self,
        instances: impl Iterator<Item = &'i GemmInstance>,
        rows: usize,
        multiprocessors: u32,
    ) -> Result<GemmChoice> {
        let mut best: Option<GemmChoice> = None;
        for instance in instances {
            let choice = self.launch(instance, rows, multiprocessors)?;
            if best.is_none_or(|best| choice.estimate.us < best.estimate.us) {
                best = Some(choice);
            }
        }
        best.ok_or_else(|| Error::out_of_range("type of d", "one that a kernel writes", "another"))
    }
}
