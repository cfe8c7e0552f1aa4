//! The FP8 block-scaled GEMM: `D[m, n] = sum over g of sfa[m, g] * sfb[n/128, g] * (A_g . B_g^T)`, g counting blocks of
//! 128 along K.
//!
//! The order of the sum is part of the contract (`docs/numerics.md`): inside a block the tensor core's fused sums of 32
//! in ascending order, then `acc = fma(sfa * sfb, block, acc)` in FP32, blocks ascending. So a row's bits depend on
//! nothing but that row of A and B: not on m, the tile shape, the number of multiprocessors, or the stream.

use std::fmt;
use std::marker::PhantomData;

use float8::F8E4M3;
use half::bf16;

use crate::device::{Device, KernelHandle, Stream};
use crate::error::{Error, Result};
use crate::ffi::{Fp8GemmParams, TensorMap};
use crate::instances::{GEMM_INSTANCES, GemmInstance, OutputType};
use crate::launch::{Address, Launch, MAX_DIM, check_limit};
use crate::scales::{BLOCK, MMajor, SFB_AXES, Scales1x128, Scales128x128};
use crate::tensor::{Element, Extent, Matrix, MatrixMut};
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

/// Shape of a GEMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fp8GemmSpec {
    /// Rows of A and D: any number, 0 included.
    pub m: usize,
    /// Rows of B, columns of D: a multiple of 8, 0 included.
    pub n: usize,
    /// Columns of A and B: a multiple of 128; 0 writes zeros.
    pub k: usize,
    /// `D = round(sum + D)` instead of `D = round(sum)`: D is added in FP32, after the sum.
    pub accumulate: bool,
}

/// Operands of a GEMM. Addresses and pitches of a, b, d and sfa are multiples of 16 bytes.
pub struct Fp8GemmArgs<'a, D> {
    /// `[m, k]`.
    pub a: Matrix<'a, F8E4M3>,
    /// `[k/128, m]`.
    pub sfa: Scales1x128<'a, MMajor>,
    /// `[n, k]`.
    pub b: Matrix<'a, F8E4M3>,
    /// `[ceil(n/128), k/128]`.
    pub sfb: Scales128x128<'a>,
    /// `[m, n]`; written, and read too when accumulating. Nothing between its rows is touched.
    pub d: MatrixMut<'a, D>,
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
        if !spec.n.is_multiple_of(8) {
            return Err(Error::NotAMultiple { what: "n", multiple: 8, got: spec.n });
        }
        if !spec.k.is_multiple_of(BLOCK) {
            return Err(Error::NotAMultiple { what: "k", multiple: BLOCK, got: spec.k });
        }
        for (what, got) in [("m", spec.m), ("n", spec.n), ("k", spec.k)] {
            check_limit(what, got as u64, MAX_DIM)?;
        }
        let mut best: Option<Self> = None;
        for instance in GEMM_INSTANCES.iter().filter(|i| i.output == output) {
            let choice = Self::with_instance(spec, *instance, multiprocessors)?;
            if best.is_none_or(|best| choice.cycles < best.cycles) {
                best = Some(choice);
            }
        }
        best.ok_or(Error::KernelsNotBuilt { reason: "no GEMM instance has this output type" })
    }

    /// The launch of one instance for a shape.
    fn with_instance(spec: &Fp8GemmSpec, instance: GemmInstance, multiprocessors: u32) -> Result<Self> {
        let GemmInstance { block_m, block_n, cluster, output } = instance;
        let clusters_m = spec.m.div_ceil((block_m * cluster) as usize) as u64;
        let tiles = clusters_m * u64::from(cluster) * spec.n.div_ceil(block_n as usize) as u64;
        check_limit("tiles of D", tiles, u64::from(u32::MAX / 2))?;
        let tiles = tiles as u32;
        let slots = (multiprocessors / cluster).max(1) * cluster;
        let grid = tiles.min(slots);
        let waves = if grid == 0 { 0 } else { tiles.div_ceil(grid) };

        // wgmma m64nN takes N/2 cycles, or as long as shared memory needs for its operands: 2048 + 32 N bytes at 128.
        let (n, slices) = (f64::from(block_n), f64::from(block_m / 64));
        let tensor = 4.0 * slices * (n / 2.0).max(16.0 + n / 4.0);
        let rows = f64::from(block_m).min(spec.m as f64);
        let l2 = (128.0 * rows + 128.0 * n / f64::from(cluster) + 4.0 * rows) / L2_BYTES_PER_CYCLE;
        let store = rows * n * f64::from(output.bytes()) / L2_BYTES_PER_CYCLE;
        let tile = (spec.k / BLOCK) as f64 * tensor.max(l2) + store + TILE_OVERHEAD_CYCLES;
        Ok(Self { instance, grid, tiles, waves, cycles: f64::from(waves) * tile })
    }
}

/// A planned GEMM with a D of type `D`: make it once per shape, run it any number of times.
pub struct Fp8Gemm<D> {
    device: Device,
    kernel: KernelHandle,
    spec: Fp8GemmSpec,
    choice: GemmChoice,
    output: PhantomData<D>,
}

impl<D: GemmOutput> Fp8Gemm<D> {
    /// Chooses an instance for the shape.
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] for n and k, [`Error::TooLarge`].
    pub fn plan(device: &Device, spec: Fp8GemmSpec) -> Result<Self> {
        let choice = GemmChoice::for_shape(&spec, D::OUTPUT, device.multiprocessors())?;
        Self::with_choice(device, spec, choice)
    }

    /// Uses a given instance instead: for tuning, and for tests that every instance gives the same bits.
    ///
    /// # Errors
    /// As [`Fp8Gemm::plan`]; [`Error::KernelsNotBuilt`] when the instance is not one of [`GEMM_INSTANCES`] with D's type.
    pub fn plan_instance(device: &Device, spec: Fp8GemmSpec, instance: GemmInstance) -> Result<Self> {
        GemmChoice::for_shape(&spec, D::OUTPUT, device.multiprocessors())?;
        if instance.output != D::OUTPUT {
            return Err(Error::KernelsNotBuilt { reason: "the instance writes another output type" });
        }
        let choice = GemmChoice::with_instance(&spec, instance, device.multiprocessors())?;
        Self::with_choice(device, spec, choice)
    }

    fn with_choice(device: &Device, spec: Fp8GemmSpec, choice: GemmChoice) -> Result<Self> {
        let kernel = device.kernel(&choice.instance.name())?;
        Ok(Self { device: device.clone(), kernel, spec, choice, output: PhantomData })
    }

    /// What the planner chose.
    pub fn choice(&self) -> &GemmChoice {
        &self.choice
    }

    /// Enqueues the GEMM on `stream` and returns; on the emulator, computes it. Allocates nothing on the device, waits
    /// for nothing, and can be captured in a graph. With m = 0 or n = 0 nothing is launched.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Misaligned`], [`Error::WrongDevice`]; then nothing was launched. Launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: Fp8GemmArgs<'_, D>) -> Result<()> {
        self.check(&args)?;
        let stream = stream.into();
        let mut launch = Launch::new(&self.device, &self.kernel, &stream)?;
        let a = launch.read_aligned(c"a", &args.a.slice, 16)?;
        let b = launch.read_aligned(c"b", &args.b.slice, 16)?;
        let sfa = launch.read_aligned(c"sfa", &args.sfa.matrix.slice, 16)?;
        let sfb = launch.read(c"sfb", &args.sfb.0.slice)?;
        let d = launch.write_aligned(c"d", &mut args.d.slice, 16)?;
        if self.choice.grid == 0 {
            return Ok(());
        }
        let GemmInstance { block_m, block_n, cluster, .. } = self.choice.instance;
        let d_chunk = (block_n * D::MAP.bytes() as u32).min(128) / D::MAP.bytes() as u32;
        let params = Fp8GemmParams {
            map_a: self.operand_map("a", a, &args.a.extent, MapElement::U8, [block_m, 128])?,
            map_b: self.operand_map("b", b, &args.b.extent, MapElement::U8, [block_n / cluster, 128])?,
            map_sfa: self.operand_map("sfa", sfa, &args.sfa.matrix.extent, MapElement::F32, [1, block_m])?,
            map_d: self.map("d", d, &args.d.extent, D::MAP, [64, d_chunk])?,
            sfb: sfb.cast(),
            d: d.cast(),
            d_pitch: args.d.extent.pitch as u64,
            sfb_pitch: args.sfb.0.extent.pitch as u32,
            m: self.spec.m as u32,
            n: self.spec.n as u32,
            k_blocks: (self.spec.k / BLOCK) as u32,
            accumulate: u32::from(self.spec.accumulate),
        };
        launch.run(self.choice.grid, self.choice.instance.threads(), self.choice.instance.smem_bytes(), &params)
    }

    fn check(&self, args: &Fp8GemmArgs<'_, D>) -> Result<()> {
        let Fp8GemmSpec { m, n, k, .. } = self.spec;
        args.a.extent.expect("a [m, k]", m, k)?;
        args.b.extent.expect("b [n, k]", n, k)?;
        args.d.extent.expect("d [m, n]", m, n)?;
        args.sfa.expect(m, k / BLOCK)?;
        args.sfb.0.extent.expect(SFB_AXES, n.div_ceil(BLOCK), k / BLOCK)?;
        args.a.extent.expect_pitch("a", size_of::<F8E4M3>(), 16)?;
        args.b.extent.expect_pitch("b", size_of::<F8E4M3>(), 16)?;
        args.sfa.matrix.extent.expect_pitch("sfa", size_of::<f32>(), 16)?;
        args.d.extent.expect_pitch("d", size_of::<D>(), 16)?;
        check_limit("pitch of sfb", args.sfb.0.extent.pitch as u64, u64::from(u32::MAX))
    }

    /// The map of an input; without K blocks there is nothing to describe and the kernel does not look.
    fn operand_map(
        &self,
        operand: &'static str,
        base: Address,
        extent: &Extent,
        element: MapElement,
        tile: [u32; 2],
    ) -> Result<TensorMap> {
        if self.spec.k == 0 { Ok(TensorMap::default()) } else { self.map(operand, base, extent, element, tile) }
    }

    fn map(
        &self,
        operand: &'static str,
        base: Address,
        extent: &Extent,
        element: MapElement,
        [box_rows, box_columns]: [u32; 2],
    ) -> Result<TensorMap> {
        let row_bytes = box_columns * element.bytes() as u32;
        // The scales of A lie in shared memory as they are: each thread reads two of them.
        let swizzle = if operand == "sfa" { Swizzle::None } else { Swizzle::for_row_bytes(row_bytes) };
        self.device.encode(&TensorMapSpec {
            operand,
            element,
            base,
            columns: extent.columns as u64,
            box_columns,
            outer: &[Dimension::rows(extent, element, box_rows)],
            swizzle,
        })
    }
}
