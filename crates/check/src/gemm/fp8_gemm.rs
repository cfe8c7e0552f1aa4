//! The dense FP8 GEMM.

mod faults;

use crate::trace::{Launch, Params, fillings, region};
use deepseek_kernels::bindings::Fp8GemmParams;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, GemmOutput};
use deepseek_kernels::table::gemm::{GEMM_INSTANCES, GemmInstance, OutputType, SLICE_ROWS};
use deepseek_kernels::table::quant::BLOCK;
use deepseek_kernels::{Device, Error, F8E4M3, Stream, Tuning, bf16};
use oracles::gemm::{Elements, Epilogue, GemmClass, GemmInputs, Output as Rounding, Sample, bit_model};

use super::anatomy::{self, Sums};
use crate::anatomy::{Anatomy, Hypothesis, Tiling};
use crate::case::{Case, Expected, Prepared, Problem, Work};
use crate::data::repeated;
use crate::judge::{Check, GemmJudge, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output, Scalar};

/// `D = A . B^T`, block-scaled.
#[derive(Debug, Clone, Copy)]
pub struct Fp8GemmCase {
    /// Rows of A and D.
    pub m: usize,
    /// Rows of B.
    pub n: usize,
    /// Columns of A and B.
    pub k: usize,
    pub output: OutputType,
    pub accumulate: bool,
    /// Instead of the planner's choice.
    pub instance: Option<GemmInstance>,
    pub class: GemmClass,
    /// At most `DRAWN` rows of A and of B differ, the rest repeats them: large operands are drawn in no time. The
    /// values do not matter for time, their memory does.
    pub repeated: bool,
    pub seed: u64,
}

/// Rows of A and of B that differ: no tile is like one that is a power of two away. Whole blocks of scales of B.
const DRAWN: (usize, usize) = (509, 1152);

impl Fp8GemmCase {
    /// Signed integers, BF16, by the planner's choice.
    pub const fn new((m, n, k): (usize, usize, usize)) -> Self {
        Self {
            m,
            n,
            k,
            output: OutputType::Bf16,
            accumulate: false,
            instance: None,
            class: GemmClass::SignedIntegers,
            repeated: false,
            seed: 1,
        }
    }

    /// An instance, with its type of D.
    pub const fn with(self, instance: GemmInstance) -> Self {
        Self { instance: Some(instance), output: instance.output, ..self }
    }

    pub fn spec(&self) -> Fp8GemmSpec {
        let Self { m, n, k, accumulate, .. } = *self;
        Fp8GemmSpec::new(m, n, k).accumulate(accumulate)
    }

    pub(super) fn inputs(&self) -> Result<GemmInputs> {
        let Self { m, n, k, class, seed, .. } = *self;
        if !self.repeated {
            return Ok(class.generate((m, n, k), seed)?);
        }
        let drawn = class.generate((m.min(DRAWN.0), n.min(DRAWN.1), k), seed)?;
        let sfa = drawn.sfa.chunks(drawn.m.max(1)).flat_map(|line| repeated(line, 1, m)).collect();
        Ok(GemmInputs {
            m,
            n,
            k,
            parts: 1,
            a: repeated(&drawn.a, k, m),
            sfa,
            b: repeated(&drawn.b, k, n),
            sfb: repeated(&drawn.sfb, k.div_ceil(128), n.div_ceil(128)),
        })
    }

    /// With its inputs.
    pub fn problem(self) -> Result<Fp8GemmProblem> {
        Ok(Fp8GemmProblem::new(self, self.inputs()?))
    }
}

impl Case for Fp8GemmCase {
    fn operation(&self) -> &'static str {
        "fp8_gemm"
    }

    fn title(&self) -> String {
        let element = match self.output {
            OutputType::Bf16 => "BF16",
            OutputType::F32 => "F32",
        };
        format!("FP8 GEMM, {element} D {}", if self.accumulate { "+=" } else { "=" })
    }

    fn shape(&self) -> String {
        format!("{} x {} x {}", self.m, self.n, self.k)
    }

    fn label(&self) -> String {
        let Self { m, n, k, .. } = self;
        let output = match self.output {
            OutputType::Bf16 => "bf16",
            OutputType::F32 => "f32",
        };
        let accumulate = if self.accumulate { "_accumulate" } else { "" };
        let instance = self.instance.map_or_else(String::new, |instance| format!("_{}", instance.name()));
        format!("{m}x{n}x{k}_{output}{accumulate}{instance}")
    }

    fn data(&self) -> String {
        self.class.to_string()
    }

    fn work(&self) -> Work {
        let Self { m, n, k, .. } = *self;
        let scales = 4 * k.div_ceil(128) * (m + n.div_ceil(128));
        let d = m * n * self.output.bytes() as usize * if self.accumulate { 2 } else { 1 };
        Work { flops: 2 * (m * n * k) as u64, bytes: (m * k + n * k + scales + d) as u64 }
    }

    fn kernels(&self, device: &Device) -> Result<Vec<String>> {
        let (spec, multiprocessors) = (self.spec(), device.multiprocessors());
        Ok(vec![match (self.instance, self.output) {
            (Some(instance), _) => instance.name(),
            (None, OutputType::Bf16) => Fp8Gemm::<bf16>::tuning_for(&spec, multiprocessors)?.to_string(),
            (None, OutputType::F32) => Fp8Gemm::<f32>::tuning_for(&spec, multiprocessors)?.to_string(),
        }])
    }

    fn repeatable(&self) -> bool {
        !self.accumulate
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()?))
    }
}

/// A GEMM with its inputs.
#[derive(Debug, Clone)]
pub struct Fp8GemmProblem {
    pub case: Fp8GemmCase,
    pub inputs: GemmInputs,
    pub expected: Expected<GemmJudge>,
}

impl Fp8GemmProblem {
    /// Of inputs of the case's shape.
    pub fn new(case: Fp8GemmCase, inputs: GemmInputs) -> Self {
        Self { case, inputs, expected: Expected::default() }
    }
}

/// What D holds before an accumulation: small integers, which every type has.
fn before(row: usize, column: usize) -> f32 {
    ((row * 31 + column * 17) % 97) as f32 - 48.0
}

impl Problem for Fp8GemmProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(match self.case.output {
            OutputType::Bf16 => Box::new(Fp8GemmRun::<bf16>::new(self, arena)?),
            OutputType::F32 => Box::new(Fp8GemmRun::<f32>::new(self, arena)?),
        })
    }
}

/// Element types of D, for the references.
pub trait Element: GemmOutput + Scalar {
    const ROUNDING: Rounding;
    fn widen(self) -> f32;
    /// Of a value that the type holds exactly.
    fn narrow(x: f32) -> Self;
}

impl Element for bf16 {
    const ROUNDING: Rounding = Rounding::Bf16;
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(x: f32) -> Self {
        Self::from_f32(x)
    }
}

impl Element for f32 {
    const ROUNDING: Rounding = Rounding::F32;
    fn widen(self) -> f32 {
        self
    }
    fn narrow(x: f32) -> Self {
        x
    }
}

/// A GEMM on a device.
pub struct Fp8GemmRun<D> {
    problem: Arc<Fp8GemmProblem>,
    pub plan: Fp8Gemm<D>,
    pub operands: Fp8GemmOperands<D>,
}

pub struct Fp8GemmOperands<D> {
    a: Operand<F8E4M3>,
    sfa: Operand<f32>,
    b: Operand<F8E4M3>,
    sfb: Operand<f32>,
    d: Operand<D>,
}

impl<D: Element> Fp8GemmRun<D> {
    pub fn new(problem: Arc<Fp8GemmProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let GemmInputs { m, n, k, a, sfa, b, sfb, .. } = &problem.inputs;
        let (m, n, k, k_blocks) = (*m, *n, *k, k.div_ceil(128));
        let spec = problem.case.spec();
        let plan = match problem.case.instance {
            Some(instance) => Fp8Gemm::plan_with(arena.device(), spec, &Tuning::named(instance.name()))?,
            None => Fp8Gemm::plan(arena.device(), spec)?,
        };
        let before: Vec<D> = match problem.case.accumulate {
            true => (0..m * n).map(|i| D::narrow(before(i / n, i % n))).collect(),
            false => vec![D::SENTINEL; m * n],
        };
        let aligned = Align(16);
        let operands = Fp8GemmOperands {
            a: arena.input(a, (m, k), aligned)?,
            sfa: arena.input(sfa, (k_blocks, m), aligned)?,
            b: arena.input(b, (n, k), aligned)?,
            sfb: arena.input(sfb, (n.div_ceil(128), k_blocks), Align(4))?,
            d: arena.in_out(&before, (m, n), aligned)?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl<D: Element> Fp8GemmOperands<D> {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<Fp8GemmArgs<'_, D>, Error> {
        Ok(Fp8GemmArgs {
            a: self.a.matrix()?,
            sfa: self.sfa.m_major()?,
            b: self.b.matrix()?,
            sfb: self.sfb.blocks()?,
            d: self.d.matrix_mut()?,
        })
    }
}

impl<D: Element> Prepared for Fp8GemmRun<D> {
    fn instance(&self) -> String {
        self.plan.tuning().to_string()
    }

    fn reason(&self) -> Option<String> {
        Some(self.plan.choice().to_string())
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("d", &self.operands.d)?])
    }

    fn anatomy(&self) -> Option<&dyn Anatomy> {
        Some(self)
    }

    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let Fp8GemmProblem { case, inputs, expected } = &*self.problem;
        let d = self.operands.d.values()?;
        let got = |row: usize, column: usize| d[row * inputs.n + column].widen();
        let d_alone =
            if case.accumulate { self.operands.d.guarded("d") } else { self.operands.d.written("d") };
        let initial: &Elements = &before;
        let epilogue = Epilogue { output: D::ROUNDING, initial: case.accumulate.then_some(initial) };
        let (oracles, operands) = (case.class.oracles(), inputs.operands()?);
        let ask = || Ok(GemmJudge::new(scrutiny, oracles, &operands, &epilogue, case.seed));
        Ok([vec![d_alone?], expected.get(scrutiny, ask)?.judge(&got)].concat())
    }
}

impl<D: Element> Anatomy for Fp8GemmRun<D> {
    fn expected(&self) -> Result<Vec<Output>> {
        let Fp8GemmProblem { case, inputs, .. } = &*self.problem;
        let initial: &Elements = &before;
        let epilogue = Epilogue { output: D::ROUNDING, initial: case.accumulate.then_some(initial) };
        let d = bit_model(&inputs.operands()?, &epilogue, &Sample::all(inputs.m, inputs.n));
        Ok(vec![Output::of("d", inputs.n, &d.into_iter().map(D::narrow).collect::<Vec<_>>())])
    }

    fn tiling(&self) -> Tiling {
        anatomy::matrix_tiling(&self.instance(), self.problem.inputs.m)
    }

    fn hypotheses(&self) -> Vec<Hypothesis<'_>> {
        let Fp8GemmProblem { case, inputs, .. } = &*self.problem;
        let initial = case.accumulate.then_some(before as fn(usize, usize) -> f32);
        Sums::of_matrix(inputs, initial).hypotheses()
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    let each = GEMM_INSTANCES.iter().flat_map(|instance| [full_ring(instance), empty_sum(instance)]);
    each.chain([two_bands(&GEMM_INSTANCES[0])]).collect()
}

/// What the exploration of protocols launches: three tiles for two clusters, with every number of K blocks that matters.
pub fn explored() -> Vec<Launch> {
    let of = |instance: &GemmInstance| {
        let (rows, n) = (3 * instance.block_m * instance.cluster - 9, instance.block_n);
        let launch = |k_blocks| gemm(instance, 2, rows, n, k_blocks, false);
        fillings(instance.stages()).into_iter().map(launch).collect::<Vec<_>>()
    };
    GEMM_INSTANCES.iter().flat_map(of).collect()
}

/// The boxes of `Fp8GemmParams`, which are the field at `at`.
pub fn boxes(params: Params, at: usize, instance: &GemmInstance, a_box_rows: u32) -> Params {
    let d = SLICE_ROWS * instance.d_box_columns() * instance.output.bytes();
    params
        .boxes(at + offset_of!(Fp8GemmParams, map_a), a_box_rows * BLOCK)
        .boxes(at + offset_of!(Fp8GemmParams, map_sfa), a_box_rows * 4)
        .boxes(at + offset_of!(Fp8GemmParams, map_b), instance.b_box_rows() * BLOCK)
        .boxes(at + offset_of!(Fp8GemmParams, map_d), d)
}

fn gemm(instance: &GemmInstance, clusters: u32, m: u32, n: u32, k_blocks: u32, accumulate: bool) -> Launch {
    let a_box_rows = instance.block_m.min(m.next_multiple_of(8));
    let params = Params::of::<Fp8GemmParams>()
        .u64(offset_of!(Fp8GemmParams, sfb), region(0))
        .u64(offset_of!(Fp8GemmParams, d), region(1))
        .u64(offset_of!(Fp8GemmParams, d_pitch), u64::from(n) + 24)
        .u32(offset_of!(Fp8GemmParams, sfb_pitch), k_blocks + 3)
        .u32(offset_of!(Fp8GemmParams, m), m)
        .u32(offset_of!(Fp8GemmParams, n), n)
        .u32(offset_of!(Fp8GemmParams, k_blocks), k_blocks)
        .u32(offset_of!(Fp8GemmParams, accumulate), accumulate.into())
        .u32(offset_of!(Fp8GemmParams, a_box_rows), a_box_rows);
    boxes(params, 0, instance, a_box_rows).launch(
        instance.name(),
        clusters * instance.cluster,
        instance.smem_bytes(),
    )
}

/// Two clusters share four tiles, ragged at both edges; the ring goes round more than once.
fn full_ring(instance: &GemmInstance) -> Launch {
    let m = 2 * instance.block_m * instance.cluster - 9;
    let n = instance.block_n + 8;
    gemm(instance, 2, m, n, instance.stages() + 1, true)
}

/// More rows of tiles than a band of the tile order is high.
fn two_bands(instance: &GemmInstance) -> Launch {
    gemm(instance, 2, 17 * instance.block_m * instance.cluster, 2 * instance.block_n, 1, false)
}

/// No K block at all, more CTAs than tiles, and rows that no box of A has.
fn empty_sum(instance: &GemmInstance) -> Launch {
    gemm(instance, 2, 5, instance.block_n, 0, false)
}
