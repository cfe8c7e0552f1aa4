//! What the dense and the grouped GEMM share: the choice of an instance, the checks, the parameters of a launch.

use std::fmt;

use float8::F8E4M3;
use half::bf16;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::ffi::{Fp8GemmParams, TensorMap};
use crate::fp8_gemm::{Fp8GemmSpec, problem};
use crate::instances::{GEMM_INSTANCES, GemmInstance, OutputType};
use crate::launch::{Address, MAX_DIM, check_limit, check_multiple};
use crate::scales::BLOCK;
use crate::tensor::{Element, Extent};
use crate::tensor_map::{Dimension, MapElement, Swizzle, TensorMapSpec};

/// Element types of D: [`bf16`] (the FP32 sum rounded once) or `f32`.
pub trait GemmOutput: Element {
    /// The compiled output.
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
pub struct GemmChoice {
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

impl GemmChoice {
    /// Ranks every compiled instance for a shape on a device of `multiprocessors`, by a model of the two pipes that a
    /// K block occupies: the tensor core, and the path from L2. Pure: no device is asked.
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] for n and k, [`Error::TooLarge`].
    pub fn for_shape(spec: &Fp8GemmSpec, output: OutputType, multiprocessors: u32) -> Result<Self> {
        let problem = problem(spec);
        problem.check_sizes("m")?;
        let instances = GEMM_INSTANCES.iter().filter(|i| i.output == output);
        problem.fastest(instances, spec.m, multiprocessors)
    }

    /// The launch of one instance for `rows` rows per expert.
    pub(crate) fn with_instance(
        problem: &GemmProblem,
        instance: GemmInstance,
        rows: usize,
        multiprocessors: u32,
    ) -> Result<Self> {
        let GemmInstance { block_m, block_n, cluster, output, .. } = instance;
        let clusters_m = rows.div_ceil((block_m * cluster) as usize) as u64;
        let tiles_of_one = clusters_m * u64::from(cluster) * problem.n.div_ceil(block_n as usize) as u64;
        let tiles = problem.experts as u64 * tiles_of_one;
        check_limit("tiles of D", tiles, u64::from(u32::MAX / 2))?;
        let tiles = tiles as u32;
        let slots = (multiprocessors / cluster).max(1) * cluster;
        let grid = tiles.min(slots);
        let waves = if grid == 0 { 0 } else { tiles.div_ceil(grid) };

        // wgmma m64nN takes N/2 cycles, or as long as shared memory needs for its operands: 2048 + 32 N bytes at 128.
        let (n, slices) = (f64::from(block_n), f64::from(block_m / 64));
        let tensor = 4.0 * slices * (n / 2.0).max(16.0 + n / 4.0);
        let rows = f64::from(block_m).min(rows as f64);
        let l2 = (128.0 * rows + 128.0 * n / f64::from(cluster) + 4.0 * rows) / L2_BYTES_PER_CYCLE;
        let store = rows * n * f64::from(output.bytes()) / L2_BYTES_PER_CYCLE;
        let tile = (problem.k / BLOCK) as f64 * tensor.max(l2) + store + TILE_OVERHEAD_CYCLES;
        Ok(Self { instance, grid, tiles, waves, cycles: f64::from(waves) * tile })
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

/// Where an operand lies.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub base: Address,
    pub extent: &'a Extent,
}

/// The operands of a launch; B and its scales with all experts below each other.
#[derive(Clone, Copy)]
pub(crate) struct GemmOperands<'a> {
    pub a: Operand<'a>,
    pub b: Operand<'a>,
    pub sfa: Operand<'a>,
    pub sfb: Operand<'a>,
    pub d: Operand<'a>,
}

impl GemmProblem {
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
            let choice = GemmChoice::with_instance(self, *instance, rows, multiprocessors)?;
            if best.is_none_or(|best| choice.cycles < best.cycles) {
                best = Some(choice);
            }
        }
        best.ok_or(Error::KernelsNotBuilt { reason: "no GEMM instance has this output type" })
    }

    /// Fails unless rows of every operand start where TMA can start.
    pub fn check_pitches<D: Element>(
        &self,
        a: &Extent,
        b: &Extent,
        sfa: &Extent,
        sfb: &Extent,
        d: &Extent,
    ) -> Result<()> {
        a.expect_pitch("a", size_of::<F8E4M3>(), 16)?;
        b.expect_pitch("b", size_of::<F8E4M3>(), 16)?;
        sfa.expect_pitch("sfa", size_of::<f32>(), 16)?;
        d.expect_pitch("d", size_of::<D>(), 16)?;
        check_limit("pitch of sfb", sfb.pitch as u64, u64::from(u32::MAX))
    }

    /// The parameters of a launch of `instance` with a D of type `D`.
    pub fn params<D: Element>(
        &self,
        device: &Device,
        instance: &GemmInstance,
        operands: &GemmOperands,
        accumulate: bool,
    ) -> Result<Fp8GemmParams> {
        let GemmInstance { block_m, block_n, cluster, .. } = *instance;
        let GemmOperands { a, b, sfa, sfb, d } = *operands;
        let d_bytes = D::MAP.bytes() as u32;
        let b_rows = Dimension { size: self.n as u64, ..b.rows(MapElement::U8, block_n / cluster) };
        let b_experts =
            Dimension { size: self.experts as u64, stride: b_rows.stride * self.n as u64, box_size: 1 };
        let input = |operand: Operand, name, element, box_columns, outer: &[Dimension]| {
            // Without K blocks there is nothing to describe, and the kernel does not look.
            if self.k == 0 {
                Ok(TensorMap::default())
            } else {
                operand.map(device, name, element, box_columns, outer)
            }
        };
        Ok(Fp8GemmParams {
            map_a: input(a, "a", MapElement::U8, BLOCK as u32, &[a.rows(MapElement::U8, block_m)])?,
            map_b: input(b, "b", MapElement::U8, BLOCK as u32, &[b_rows, b_experts])?,
            map_sfa: input(sfa, "sfa", MapElement::F32, block_m, &[sfa.rows(MapElement::F32, 1)])?,
            map_d: d.map(device, "d", D::MAP, block_n.min(128 / d_bytes), &[d.rows(D::MAP, 64)])?,
            sfb: sfb.base.cast(),
            d: d.base.cast(),
            d_pitch: d.extent.pitch as u64,
            sfb_expert_stride: (self.n.div_ceil(BLOCK) * sfb.extent.pitch) as u64,
            sfb_pitch: sfb.extent.pitch as u32,
            m: self.rows as u32,
            n: self.n as u32,
            k_blocks: (self.k / BLOCK) as u32,
            accumulate: u32::from(accumulate),
            ..Default::default()
        })
    }
}

impl Operand<'_> {
    fn rows(&self, element: MapElement, box_rows: u32) -> Dimension {
        Dimension::rows(self.extent, element, box_rows)
    }

    /// Tiles lie swizzled in shared memory; scales of A as they are: each thread reads two of them.
    fn map(
        &self,
        device: &Device,
        operand: &'static str,
        element: MapElement,
        box_columns: u32,
        outer: &[Dimension],
    ) -> Result<TensorMap> {
        let swizzle = match operand {
            "sfa" => Swizzle::None,
            _ => Swizzle::for_row_bytes(box_columns * element.bytes() as u32),
        };
        let columns = self.extent.columns as u64;
        device.encode(&TensorMapSpec {
            operand,
            element,
            base: self.base,
            columns,
            box_columns,
            outer,
            swizzle,
        })
    }
}
