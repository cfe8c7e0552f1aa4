//! The first GEMM of the experts with the activation behind it: gate and up never lie in memory.
//!
//! The result has the bits of [`GroupedFp8Gemm`](crate::gemm::GroupedFp8Gemm), which rounds gate and up to BF16, and
//! [`SwigluQuantize`](crate::moe::SwigluQuantize) after it.

use std::fmt;

use float8::F8E4M3;

use super::swiglu_quantize::GateUpOrder;
use crate::device::bindings::{Fp8GemmParams, GateUpSwigluParams};
use crate::device::{Device, Stream, TensorMaps};
use crate::error::{Error, Result};
use crate::gemm::operands::{GemmAxes, GemmViews};
use crate::gemm::planner::{GemmChoice, GemmProblem, named};
use crate::gemm::{GroupedFp8GemmSpec, Segments};
use crate::launch::{Kernel, Launch, Layout, MAX_DIM, check_limit, check_multiple, check_not_negative};
use crate::quant::{MMajor, QuantizeRule, Scales1x128, Scales1x128Mut, blocks, scales_1x128};
use crate::setters::setters;
use crate::table::gemm::GemmInstance;
use crate::table::moe::GATE_UP_INSTANCES;
use crate::tensor::{Matrix, MatrixMut, Vector};
use crate::tuning::Tuning;

/// Codes that a lane stores at once.
const CODES_AT_ONCE: usize = 16;

/// Shape of gate, up and SwiGLU.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GateUpSwigluSpec {
    /// At most [`MAX_EXPERTS`](crate::gemm::MAX_EXPERTS).
    pub experts: usize,
    /// Columns of the result: a multiple of 16.
    pub intermediate: usize,
    /// Columns of A and B: any number, the last block of 128 may be short.
    pub hidden: usize,
    /// Whose rows are whose.
    pub segments: Segments,
    /// Rows that an expert typically has: the planner chooses tiles for them. Any number is correct.
    pub expected_rows: usize,
    /// `gate <= clamp` and `|up| <= clamp`, before anything else, as far as they are finite; itself finite and not negative.
    pub clamp: Option<f32>,
    /// How a block becomes a scale and codes: any but [`QuantizeRule::DEEPSEEK`] with FP32 scales, whose quotients the steps
    /// apart can do.
    pub rule: QuantizeRule,
    /// Which half of an expert's B is which.
    pub order: GateUpOrder,
}

impl GateUpSwigluSpec {
    /// Gate first, not clamped, quantised by TileKernels' rule, and with as many expected rows as there are for each expert,
    /// if all of them are used.
    pub const fn new(experts: usize, intermediate: usize, hidden: usize, segments: Segments) -> Self {
        let GroupedFp8GemmSpec { expected_rows, .. } =
            GroupedFp8GemmSpec::new(experts, intermediate, hidden, segments);
        let (rule, order) = (QuantizeRule::TILE_KERNELS, GateUpOrder::GateFirst);
        Self { experts, intermediate, hidden, segments, expected_rows, clamp: None, rule, order }
    }
}

setters!(GateUpSwigluSpec { expected_rows: usize, clamp: Option<f32>, rule: QuantizeRule, order: GateUpOrder });

/// Operands of gate, up and SwiGLU. Addresses and pitches of a, b, sfa and q are multiples of 16 bytes.
#[derive(Debug)]
pub struct GateUpSwigluArgs<'a> {
    /// `[rows, hidden]`; masked: `rows = experts * max_rows`.
    pub a: Matrix<'a, F8E4M3>,
    /// `[ceil(hidden/128), rows]`.
    pub sfa: Scales1x128<'a, MMajor>,
    /// `[experts * 2 * intermediate, hidden]`: the experts' matrices below each other, each of gate and up by
    /// [`order`](GateUpSwigluSpec::order).
    pub b: Matrix<'a, F8E4M3>,
    /// `[experts * 2 * ceil(intermediate/128), ceil(hidden/128)]`: gate and up have rows of their own.
    pub sfb: Matrix<'a, f32>,
    /// On the device: `[experts + 1]` (ragged) or `[experts]` (masked), see [`Segments`].
    pub segments: Vector<'a, i32>,
    /// `[rows, intermediate]`; rows of no expert keep what they hold.
    pub q: MatrixMut<'a, F8E4M3>,
    /// `[ceil(intermediate/128), rows]`; likewise.
    pub sf: Scales1x128Mut<'a, MMajor>,
}

const AXES: GemmAxes = GemmAxes {
    a: "a [rows, hidden]",
    b: "b [experts * 2 * intermediate, hidden]",
    sfb: "sfb [experts * 2 * ceil(intermediate/128), ceil(hidden/128)]",
};

/// A planned product of gate and up with SwiGLU: make it once per shape, run it any number of times.
#[derive(Debug)]
pub struct GateUpSwiglu {
    device: Device,
    maps: TensorMaps,
    kernel: Kernel<GateUpSwigluParams>,
    spec: GateUpSwigluSpec,
    problem: GemmProblem,
    choice: GemmChoice,
}

impl GateUpSwiglu {
    /// Chooses a tuning for the shape.
    ///
    /// # Errors
    /// [`Error::Spec`] for sizes.
    pub fn plan(device: &Device, spec: GateUpSwigluSpec) -> Result<Self> {
        let problem = problem(&spec)?;
        let choice = Self::fastest(&problem, spec.expected_rows, device.multiprocessors())?;
        Self::with_choice(device, spec, problem, choice)
    }

    /// Uses a given tuning instead.
    ///
    /// # Errors
    /// As [`GateUpSwiglu::plan`]; [`Error::Spec`] when it is none of [`GateUpSwiglu::tunings`].
    pub fn plan_with(device: &Device, spec: GateUpSwigluSpec, tuning: &Tuning) -> Result<Self> {
        let problem = problem(&spec)?;
        let instance = named(GATE_UP_INSTANCES.iter(), tuning, "one of GateUpSwiglu::tunings()")?;
        let rows = problem.planned_rows(spec.expected_rows);
        let choice = problem.launch(instance, rows, device.multiprocessors())?;
        Self::with_choice(device, spec, problem, choice)
    }

    /// Every tuning.
    pub fn tunings() -> impl Iterator<Item = Tuning> {
        GATE_UP_INSTANCES.iter().map(GemmInstance::tuning)
    }

    /// The tuning that [`GateUpSwiglu::plan`] takes on a device of `multiprocessors`. No device is asked.
    ///
    /// # Errors
    /// As [`GateUpSwiglu::plan`].
    pub fn tuning_for(spec: &GateUpSwigluSpec, multiprocessors: u32) -> Result<Tuning> {
        let choice = Self::fastest(&problem(spec)?, spec.expected_rows, multiprocessors)?;
        Ok(choice.instance.tuning())
    }

    fn fastest(problem: &GemmProblem, expected_rows: usize, multiprocessors: u32) -> Result<GemmChoice> {
        problem.fastest(GATE_UP_INSTANCES.iter(), problem.planned_rows(expected_rows), multiprocessors)
    }

    fn with_choice(
        device: &Device,
        spec: GateUpSwigluSpec,
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

    /// What the planner chose for the expected rows, in words, with the time that its model expects of them. The two tiles of a
    /// block of 128 columns are one there.
    pub fn choice(&self) -> impl fmt::Display {
        self.choice
    }

    /// Enqueues it on `stream` and returns; on the emulator, computes it. Allocates nothing on the device, and waits for nothing.
    ///
    /// Segments that overlap, run backwards or leave the rows there are end at the nearest row that makes them a
    /// segment, and set a bit that [`Device::poll_error`] returns; so do Inf and NaN in what is quantised.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], and [`Error::Spec`] for a pitch of sfb beyond 32 bits; then nothing was launched. Launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: GateUpSwigluArgs<'_>) -> Result<()> {
        let (rows, intermediate) = (self.problem.rows, self.spec.intermediate);
        let codes = Layout::matrix("q [rows, intermediate]", [rows, intermediate]).aligned(16);
        let scales = scales_1x128::<MMajor>(rows, blocks(intermediate)).called("sf");
        let GateUpSwigluArgs { a, sfa, b, sfb, segments, q, sf } = &mut args;
        let mut launch = Launch::new(&self.device, &self.kernel, stream.into())?;
        let operands = self.problem.operands(&mut launch, &AXES, GemmViews { a, sfa, b, sfb })?;
        let segments = launch.read(segments, self.spec.segments.layout(self.spec.experts))?;
        let q = launch.write(q, codes)?;
        let sf = launch.write(sf, scales)?;
        let GemmChoice { instance, grid, .. } = &self.choice;
        if *grid == 0 {
            return Ok(());
        }
        // The kernel counts columns of the result.
        let gemm = self.problem.products(&self.maps, instance, &operands)?;
        let gemm = Fp8GemmParams { n: intermediate as u32, ..gemm };
        let error_words = launch.error_words();
        let params = GateUpSwigluParams {
            grouped: self.spec.segments.params(gemm, self.spec.experts, segments, error_words),
            q: q.pointer,
            sf: sf.pointer,
            q_pitch: q.pitch(),
            sf_pitch: sf.pitch(),
            // Of 0 the sign does not matter.
            clamp: self.spec.clamp.map_or(f32::INFINITY, f32::abs),
            rule: self.spec.rule.parameter(),
            up_first: (self.spec.order == GateUpOrder::UpFirst).into(),
            ..Default::default()
        };
        launch.run(*grid, &params)
    }
}

fn problem(spec: &GateUpSwigluSpec) -> Result<GemmProblem> {
    let GateUpSwigluSpec { experts, intermediate, hidden, segments, clamp, .. } = *spec;
    check_multiple("intermediate", intermediate, CODES_AT_ONCE)?;
    spec.rule.check()?;
    if spec.rule.divides() {
        let expected =
            "one without quotients; GroupedFp8Gemm and SwigluQuantize take x / scale with FP32 scales";
        return Err(Error::out_of_range("rule of a fused SwiGLU", expected, "DEEPSEEK"));
    }
    check_limit("hidden", hidden as u64, MAX_DIM)?;
    check_limit("intermediate", intermediate as u64, MAX_DIM / 2)?;
    clamp.map_or(Ok(()), |clamp| check_not_negative("clamp", clamp))?;
    let columns = experts.saturating_mul(2 * intermediate);
    check_limit("experts * 2 * intermediate", columns as u64, MAX_DIM)?;
    let problem = GemmProblem::of_experts(experts, segments, [2 * intermediate, hidden])?;
    Ok(GemmProblem { parts: 2, ..problem })
}
