//! The FP8 block-scaled GEMM of a mixture of experts: every expert multiplies its own rows with its own weights.
//!
//! Which rows are whose stands in device memory and is read by the kernel, so nothing waits for the host and a captured
//! graph follows the routing. Whatever stands there, no row outside the buffers is touched: segments are put in order
//! and cut to the rows there are, and [`Device::poll_error`] tells.
//!
//! A row's bits are those that [`Fp8Gemm`](crate::gemm::Fp8Gemm) gives for that row and that expert's weights.

use std::fmt;

use float8::F8E4M3;
use half::bf16;

use super::operands::{GemmAxes, GemmViews};
use super::planner::{GemmChoice, GemmProblem, named};
use super::segments::Segments;
use crate::device::bindings::GroupedFp8GemmParams;
use crate::device::{Device, Stream, TensorMaps};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::launch::{Kernel, Launch};
use crate::quant::{MMajor, Scales1x128};
use crate::setters::setters;
#[cfg(doc)]
use crate::table::MAX_EXPERTS;
use crate::table::gemm::{GROUPED_GEMM_INSTANCES, GemmInstance};
use crate::tensor::{Matrix, MatrixMut, Vector};
use crate::tuning::Tuning;

/// Shape of a grouped GEMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GroupedFp8GemmSpec {
    /// At most [`MAX_EXPERTS`].
    pub experts: usize,
    /// Rows of one expert's B: a multiple of 8.
    pub n: usize,
    /// Columns of A and B: any number, the last block of 128 may be short.
    pub k: usize,
    /// Whose rows are whose.
    pub segments: Segments,
    /// Rows that an expert typically has: the planner chooses tiles for them. Any number is correct.
    pub expected_rows: usize,
}

impl GroupedFp8GemmSpec {
    /// With as many expected rows as there are for each, if all of them are used.
    pub const fn new(experts: usize, n: usize, k: usize, segments: Segments) -> Self {
        let expected_rows = match segments {
            Segments::Ragged { rows } if experts > 0 => rows.div_ceil(experts),
            Segments::Ragged { rows } => rows,
            Segments::Masked { max_rows } => max_rows,
        };
        Self { experts, n, k, segments, expected_rows }
    }
}

setters!(GroupedFp8GemmSpec { expected_rows: usize });

/// Operands of a grouped GEMM. Addresses and pitches of a, b, d and sfa are multiples of 16 bytes.
#[derive(Debug)]
pub struct GroupedFp8GemmArgs<'a> {
    /// `[rows, k]`; masked: `rows = experts * max_rows`.
    pub a: Matrix<'a, F8E4M3>,
    /// `[ceil(k/128), rows]`.
    pub sfa: Scales1x128<'a, MMajor>,
    /// `[experts * n, k]`: the experts' matrices below each other.
    pub b: Matrix<'a, F8E4M3>,
    /// `[experts * ceil(n/128), ceil(k/128)]`.
    pub sfb: Matrix<'a, f32>,
    /// On the device: `[experts + 1]` (ragged) or `[experts]` (masked), see [`Segments`].
    pub segments: Vector<'a, i32>,
    /// `[rows, n]`; rows of no expert keep what they hold.
    pub d: MatrixMut<'a, bf16>,
}

const AXES: GemmAxes =
    GemmAxes { a: "a [rows, k]", b: "b [experts * n, k]", sfb: "sfb [experts * ceil(n/128), ceil(k/128)]" };

/// A planned grouped GEMM: make it once per shape, run it any number of times.
#[derive(Debug)]
pub struct GroupedFp8Gemm {
    device: Device,
    maps: TensorMaps,
    kernel: Kernel<GroupedFp8GemmParams>,
    spec: GroupedFp8GemmSpec,
    problem: GemmProblem,
    choice: GemmChoice,
}

impl GroupedFp8Gemm {
    /// Chooses a tuning for the shape.
    ///
    /// # Errors
    /// [`Error::Spec`] for sizes.
    pub fn plan(device: &Device, spec: GroupedFp8GemmSpec) -> Result<Self> {
        let problem = problem(&spec)?;
        let choice = Self::fastest(&problem, spec.expected_rows, device.multiprocessors())?;
        Self::with_choice(device, spec, problem, choice)
    }

    /// Uses a given tuning instead.
    ///
    /// # Errors
    /// As [`GroupedFp8Gemm::plan`]; [`Error::Spec`] when it is none of [`GroupedFp8Gemm::tunings`].
    pub fn plan_with(device: &Device, spec: GroupedFp8GemmSpec, tuning: &Tuning) -> Result<Self> {
        let problem = problem(&spec)?;
        let instance = named(GROUPED_GEMM_INSTANCES.iter(), tuning, "one of GroupedFp8Gemm::tunings()")?;
        let rows = problem.planned_rows(spec.expected_rows);
        let choice = problem.launch(instance, rows, device.multiprocessors())?;
        Self::with_choice(device, spec, problem, choice)
    }

    /// Every tuning.
    pub fn tunings() -> impl Iterator<Item = Tuning> {
        GROUPED_GEMM_INSTANCES.iter().map(GemmInstance::tuning)
    }

    /// The tuning that [`GroupedFp8Gemm::plan`] takes on a device of `multiprocessors`. No device is asked.
    ///
    /// # Errors
    /// As [`GroupedFp8Gemm::plan`].
    pub fn tuning_for(spec: &GroupedFp8GemmSpec, multiprocessors: u32) -> Result<Tuning> {
        let choice = Self::fastest(&problem(spec)?, spec.expected_rows, multiprocessors)?;
        Ok(choice.instance.tuning())
    }

    fn fastest(problem: &GemmProblem, expected_rows: usize, multiprocessors: u32) -> Result<GemmChoice> {
        problem.fastest(GROUPED_GEMM_INSTANCES.iter(), problem.planned_rows(expected_rows), multiprocessors)
    }

    fn with_choice(
        device: &Device,
        spec: GroupedFp8GemmSpec,
        problem: GemmProblem,
        choice: GemmChoice,
    ) -> Result<Self> {
        let choice = choice.for_any_routing(&problem, device.multiprocessors());
        let kernel = Kernel::load(device, &choice.instance)?;
        Ok(Self { device: device.clone(), maps: TensorMaps::new(device), kernel, spec, problem, choice })
    }

    /// The tuning it runs with.
    pub fn tuning(&self) -> Tuning {
        self.choice.instance.tuning()
    }

    /// What the planner chose for the expected rows, in words, with the time that its model expects of them.
    pub fn choice(&self) -> impl fmt::Display {
        self.choice
    }

    /// Enqueues the GEMM on `stream` and returns; on the emulator, computes it. Allocates nothing on the device, and
    /// waits for nothing.
    ///
    /// Segments that overlap, run backwards or leave the rows there are end at the nearest row that makes them a
    /// segment, and set a bit that [`Device::poll_error`] returns.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], and [`Error::Spec`] for a pitch of sfb beyond 32 bits; then nothing was launched. Launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: GroupedFp8GemmArgs<'_>) -> Result<()> {
        let GroupedFp8GemmArgs { a, sfa, b, sfb, segments, d } = &mut args;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let operands = self.problem.operands(&mut launch, &AXES, GemmViews { a, sfa, b, sfb })?;
        let d = self.problem.d(&mut launch, "d [rows, n]", d)?;
        let segments = launch.read(segments, self.spec.segments.layout(self.spec.experts))?;
        let GemmChoice { instance, grid, .. } = &self.choice;
        if *grid == 0 {
            return Ok(());
        }
        let gemm = self.problem.params::<bf16>(&self.maps, instance, &operands, &d)?;
        let params = self.spec.segments.params(gemm, self.spec.experts, segments, launch.error_words());
        launch.run(*grid, &params)
    }
}

fn problem(spec: &GroupedFp8GemmSpec) -> Result<GemmProblem> {
    GemmProblem::of_experts(spec.experts, spec.segments, [spec.n, spec.k])
}
