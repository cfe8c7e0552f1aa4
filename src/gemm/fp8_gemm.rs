//! The FP8 block-scaled GEMM: `D[m, n] = sum over g of sfa[m, g] * sfb[n/128, g] * (A_g . B_g^T)`, g counting blocks of
//! 128 along K.
//!
//! The order of the sum is part of the contract (`docs/numerics.md`): inside a block the tensor core's fused sums of 32
//! in ascending order, then `acc = fma(sfa * sfb, block, acc)` in FP32, blocks ascending. So a row's bits depend on
//! nothing but that row of A and B: not on m, the tile shape, the number of multiprocessors, or the stream.

use std::fmt;
use std::marker::PhantomData;

use float8::F8E4M3;

use super::operands::{GemmAxes, GemmViews};
use super::planner::{GemmChoice, GemmOutput, GemmProblem, named};
use crate::device::bindings::Fp8GemmParams;
use crate::device::{Device, Stream, TensorMaps};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{Kernel, Launch};
use crate::quant::{MMajor, SFB_AXES, Scales1x128, Scales128x128};
use crate::setters::setters;
use crate::table::gemm::{GEMM_INSTANCES, GemmInstance, OutputType};
use crate::tensor::{Matrix, MatrixMut};
use crate::tuning::Tuning;

/// Shape of a GEMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Fp8GemmSpec {
    /// Rows of A and D: any number, 0 included.
    pub m: usize,
    /// Rows of B, columns of D: a multiple of 8, 0 included.
    pub n: usize,
    /// Columns of A and B: any number, the last block of 128 may be short; 0 writes zeros.
    pub k: usize,
    /// `D = round(sum + D)` instead of `D = round(sum)`: D is added in FP32, after the sum.
    pub accumulate: bool,
}

impl Fp8GemmSpec {
    /// `D = A . B^T`.
    pub const fn new(m: usize, n: usize, k: usize) -> Self {
        Self { m, n, k, accumulate: false }
    }
}

setters!(Fp8GemmSpec { accumulate: bool });

/// Operands of a GEMM. Addresses and pitches of a, b, d and sfa are multiples of 16 bytes.
#[derive(Debug)]
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

const AXES: GemmAxes = GemmAxes { a: "a [m, k]", b: "b [n, k]", sfb: SFB_AXES };

/// A planned GEMM with a D of type `D`: make it once per shape, run it any number of times.
#[derive(Debug)]
pub struct Fp8Gemm<D> {
    device: Device,
    maps: TensorMaps,
    kernel: Kernel<Fp8GemmParams>,
    problem: GemmProblem,
    accumulate: bool,
    choice: GemmChoice,
    output: PhantomData<D>,
}

impl<D: GemmOutput> Fp8Gemm<D> {
    /// Chooses a tuning for the shape.
    ///
    /// # Errors
    /// [`Error::Spec`] for sizes.
    pub fn plan(device: &Device, spec: Fp8GemmSpec) -> Result<Self> {
        Self::with_choice(device, spec, Self::fastest(&spec, device.multiprocessors())?)
    }

    /// Uses a given tuning instead.
    ///
    /// # Errors
    /// As [`Fp8Gemm::plan`]; [`Error::Spec`] when it is none of [`Fp8Gemm::tunings`].
    pub fn plan_with(device: &Device, spec: Fp8GemmSpec, tuning: &Tuning) -> Result<Self> {
        let expected = match D::OUTPUT {
            OutputType::Bf16 => "one of Fp8Gemm::<bf16>::tunings()",
            OutputType::F32 => "one of Fp8Gemm::<f32>::tunings()",
        };
        let problem = problem(&spec)?;
        let instance = named(Self::instances(), tuning, expected)?;
        let choice = problem.launch(instance, spec.m, device.multiprocessors())?;
        Self::with_choice(device, spec, choice)
    }

    /// Every tuning for a D of this type.
    pub fn tunings() -> impl Iterator<Item = Tuning> {
        Self::instances().map(GemmInstance::tuning)
    }

    /// The tuning that [`Fp8Gemm::plan`] takes on a device of `multiprocessors`: the fastest by a model of an H100, whose
    /// parts [`Fp8Gemm::choice`] prints. No device is asked.
    ///
    /// # Errors
    /// As [`Fp8Gemm::plan`].
    pub fn tuning_for(spec: &Fp8GemmSpec, multiprocessors: u32) -> Result<Tuning> {
        Ok(Self::fastest(spec, multiprocessors)?.instance.tuning())
    }

    fn instances() -> impl Iterator<Item = &'static GemmInstance> {
        GEMM_INSTANCES.iter().filter(|instance| instance.output == D::OUTPUT)
    }

    fn fastest(spec: &Fp8GemmSpec, multiprocessors: u32) -> Result<GemmChoice> {
        problem(spec)?.fastest(Self::instances(), spec.m, multiprocessors)
    }

    fn with_choice(device: &Device, spec: Fp8GemmSpec, choice: GemmChoice) -> Result<Self> {
        let kernel = Kernel::load(device, &choice.instance)?;
        let (problem, accumulate) = (problem(&spec)?, spec.accumulate);
        let maps = TensorMaps::new(device);
        Ok(Self { device: device.clone(), maps, kernel, problem, accumulate, choice, output: PhantomData })
    }

    /// The tuning it runs with.
    pub fn tuning(&self) -> Tuning {
        self.choice.instance.tuning()
    }

    /// What the planner chose, in words, and the microseconds that its model expects, for an H100 with a cold L2.
    pub fn choice(&self) -> impl fmt::Display {
        self.choice
    }

    /// Enqueues the GEMM on `stream` and returns; on the emulator, computes it. Allocates nothing on the device, and
    /// waits for nothing. With m = 0 or n = 0 nothing is launched.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], and [`Error::Spec`] for a pitch of sfb beyond 32 bits; then nothing was launched. Launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: Fp8GemmArgs<'_, D>) -> Result<()> {
        let problem = &self.problem;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let Fp8GemmArgs { a, sfa, b, sfb, d } = &mut args;
        let operands = problem.operands(&mut launch, &AXES, GemmViews { a, sfa, b, sfb })?;
        let d = problem.d(&mut launch, "d [m, n]", d)?;
        let GemmChoice { instance, grid, .. } = &self.choice;
        if *grid == 0 {
            return Ok(());
        }
        let params = problem.params::<D>(&self.maps, instance, &operands, &d)?;
        launch.run(*grid, &Fp8GemmParams { accumulate: u32::from(self.accumulate), ..params })
    }
}

/// One expert has all rows.
fn problem(spec: &Fp8GemmSpec) -> Result<GemmProblem> {
    let problem = GemmProblem { experts: 1, rows: spec.m, n: spec.n, k: spec.k, parts: 1 };
    problem.check_sizes("m")?;
    Ok(problem)
}
