//! The FP8 block-scaled GEMM: `D[m, n] = sum over g of sfa[m, g] * sfb[n/128, g] * (A_g . B_g^T)`, g counting blocks of
//! 128 along K.
//!
//! The order of the sum is part of the contract (`docs/numerics.md`): inside a block the tensor core's fused sums of 32
//! in ascending order, then `acc = fma(sfa * sfb, block, acc)` in FP32, blocks ascending. So a row's bits depend on
//! nothing but that row of A and B: not on m, the tile shape, the number of multiprocessors, or the stream.

use std::marker::PhantomData;

use float8::F8E4M3;

use super::operands::{GemmAxes, GemmViews};
use super::planner::{GemmChoice, GemmOutput, GemmProblem};
use crate::device::bindings::Fp8GemmParams;
use crate::device::{Device, Stream};
use crate::error::{Error, Result};
use crate::launch::{Kernel, Launch};
use crate::quant::{MMajor, SFB_AXES, Scales1x128, Scales128x128};
use crate::table::gemm::{GEMM_INSTANCES, GemmInstance, OutputType};
use crate::tensor::{Matrix, MatrixMut};

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

const AXES: GemmAxes = GemmAxes { a: "a [m, k]", b: "b [n, k]", sfb: SFB_AXES, d: "d [m, n]" };

/// A planned GEMM with a D of type `D`: make it once per shape, run it any number of times.
#[derive(Debug)]
pub struct Fp8Gemm<D> {
    device: Device,
    kernel: Kernel<Fp8GemmParams>,
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
    /// As [`Fp8Gemm::plan`]; [`Error::OutOfRange`] when the instance is not one of
    /// [`GEMM_INSTANCES`](crate::gemm::GEMM_INSTANCES) with D's type.
    pub fn plan_instance(device: &Device, spec: Fp8GemmSpec, instance: GemmInstance) -> Result<Self> {
        GemmChoice::for_shape(&spec, D::OUTPUT, device.multiprocessors())?;
        if instance.output != D::OUTPUT || !GEMM_INSTANCES.contains(&instance) {
            let expected = match D::OUTPUT {
                OutputType::Bf16 => "one of GEMM_INSTANCES with a BF16 D",
                OutputType::F32 => "one of GEMM_INSTANCES with an FP32 D",
            };
            return Err(Error::OutOfRange { what: "instance", expected, got: instance.name() });
        }
        let choice = GemmChoice::with_instance(&problem(&spec), instance, spec.m, device.multiprocessors())?;
        Self::with_choice(device, spec, choice)
    }

    fn with_choice(device: &Device, spec: Fp8GemmSpec, choice: GemmChoice) -> Result<Self> {
        let kernel = Kernel::load(device, &choice.instance)?;
        Ok(Self { device: device.clone(), kernel, spec, choice, output: PhantomData })
    }

    /// What the planner chose.
    pub fn choice(&self) -> &GemmChoice {
        &self.choice
    }

    /// Enqueues the GEMM on `stream` and returns; on the emulator, computes it. Allocates nothing on the device, and
    /// waits for nothing. With m = 0 or n = 0 nothing is launched.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Misaligned`], [`Error::WrongDevice`]; then nothing was launched. Launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: Fp8GemmArgs<'_, D>) -> Result<()> {
        let problem = problem(&self.spec);
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let Fp8GemmArgs { a, sfa, b, sfb, d } = &mut args;
        let operands = problem.operands(&mut launch, &AXES, GemmViews { a, sfa, b, sfb: &sfb.0, d })?;
        let GemmChoice { instance, grid, .. } = &self.choice;
        if *grid == 0 {
            return Ok(());
        }
        let params = problem.params(&self.device, instance, &operands, self.spec.accumulate)?;
        launch.run(*grid, &params)
    }
}

/// One expert has all rows.
pub(crate) fn problem(spec: &Fp8GemmSpec) -> GemmProblem {
    GemmProblem { experts: 1, rows: spec.m, n: spec.n, k: spec.k }
}

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
}
