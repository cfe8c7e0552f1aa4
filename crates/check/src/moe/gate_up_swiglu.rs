//! Gate and up with SwiGLU behind them, judged by the references of the GEMM and of the activation, one after the other.

mod apart;
mod faults;

pub use faults::FAULTS;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::bindings::GateUpSwigluParams;
use deepseek_kernels::moe::{GateUpOrder, GateUpSwiglu, GateUpSwigluArgs, GateUpSwigluSpec};
use deepseek_kernels::table::gemm::GemmInstance;
use deepseek_kernels::table::moe::GATE_UP_INSTANCES;
use deepseek_kernels::{DataFaults, Device, Error, Stream, Tuning, bf16};
use oracles::gemm::{Epilogue, GemmClass, Output as Rounding, Sample, bit_model};
use oracles::moe::swiglu_quantize;
use oracles::quant::Quantized;

use super::batch::QuantizedRows;
use super::{order_suffix, order_title, swiglu_model};
use crate::case::{Case, Expected, Prepared, Problem, Work, fault_if};
use crate::gemm::fp8_gemm;
use crate::gemm::grouped_fp8_gemm::{
    Assignment, GroupedFp8GemmCase, GroupedFp8GemmProblem, GroupedInputs, segments,
};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Output};
use crate::quant::Rule;
use crate::trace::{Launch, Params, fillings, region};

/// Experts that multiply their own rows with their own gate and up.
#[derive(Debug, Clone)]
pub struct GateUpSwigluCase {
    /// Without the activation: n is of gate and up together.
    pub gemm: GroupedFp8GemmCase,
    pub clamp: Option<f32>,
    pub rule: Rule,
    pub order: GateUpOrder,
}

impl GateUpSwigluCase {
    /// Normal data by the planner's choice, gate first, without a clamp, powers of two.
    pub const fn new(assignment: Assignment, (intermediate, hidden): (usize, usize)) -> Self {
        let mut gemm = GroupedFp8GemmCase::new(assignment, (2 * intermediate, hidden));
        gemm.class = GemmClass::Normal;
        gemm.parts = 2;
        Self { gemm, clamp: None, rule: Rule::POWER_OF_TWO, order: GateUpOrder::GateFirst }
    }

    /// By this instance.
    pub fn with(mut self, instance: GemmInstance) -> Self {
        self.gemm.instance = Some(instance);
        self
    }

    const fn intermediate(&self) -> usize {
        self.gemm.n / 2
    }

    fn spec(&self) -> GateUpSwigluSpec {
        let gemm = self.gemm.spec();
        GateUpSwigluSpec::new(gemm.experts, self.intermediate(), gemm.k, gemm.segments)
            .expected_rows(gemm.expected_rows)
            .clamp(self.clamp)
            .rule(self.rule.rule())
            .order(self.order)
    }

    fn plan(&self, device: &Device) -> deepseek_kernels::Result<GateUpSwiglu> {
        match self.gemm.instance {
            Some(instance) => GateUpSwiglu::plan_with(device, self.spec(), &Tuning::named(instance.name())),
            None => GateUpSwiglu::plan(device, self.spec()),
        }
    }

    /// With its inputs.
    ///
    /// # Errors
    /// Of the sizes.
    pub fn problem(self) -> Result<GateUpSwigluProblem> {
        Ok(GateUpSwigluProblem {
            gemm: self.gemm.clone().problem()?,
            case: self,
            expected: Expected::default(),
        })
    }
}

impl Case for GateUpSwigluCase {
    fn operation(&self) -> &'static str {
        "gate_up_swiglu"
    }

    fn title(&self) -> String {
        let experts = self.gemm.assignment.experts().len();
        format!("gate, up and SwiGLU, {experts} experts{}", order_title(self.order))
    }

    fn shape(&self) -> String {
        self.gemm.shape()
    }

    fn label(&self) -> String {
        let clamp = self.clamp.map_or_else(String::new, |clamp| format!("_clamp{clamp}"));
        format!("{}{}{clamp}{}", self.gemm.label(), self.rule.suffix(), order_suffix(self.order))
    }

    fn data(&self) -> String {
        self.gemm.data()
    }

    fn work(&self) -> Work {
        let rows: usize = self.gemm.assignment.experts().iter().map(ExactSizeIterator::len).sum();
        let Work { flops, bytes } = self.gemm.work();
        // A code and a part of a scale instead of gate and up.
        let width = self.intermediate();
        Work { flops, bytes: bytes - (4 * rows * width) as u64 + (rows * (width + width / 32)) as u64 }
    }

    fn kernels(&self, device: &Device) -> Result<Vec<String>> {
        Ok(vec![self.plan(device)?.tuning().to_string()])
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        let mut case = self.clone();
        case.gemm.seed = case.gemm.seed.wrapping_add(by);
        Box::new(case)
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.clone().problem()?))
    }
}

/// With the inputs of every expert.
#[derive(Debug, Clone)]
pub struct GateUpSwigluProblem {
    pub case: GateUpSwigluCase,
    pub gemm: GroupedFp8GemmProblem,
    pub expected: Expected<Quantized>,
}

impl GateUpSwigluProblem {
    /// Some rows of an expert: gate and up in BF16, in their order.
    fn gate_up(&self, expert: usize, rows: Range<usize>) -> Result<Vec<bf16>> {
        let inputs = self.gemm.experts[expert].rows(rows);
        let all = Sample::all(inputs.m, inputs.n);
        let d = bit_model(&inputs.operands()?, &Epilogue::store(Rounding::Bf16), &all);
        Ok(d.into_iter().map(bf16::from_f32).collect())
    }

    fn quantized(&self, gate_up: &[bf16], rows: usize) -> Result<Quantized> {
        let GateUpSwigluCase { clamp, rule, order, .. } = self.case;
        let shape = (rows, self.case.intermediate());
        Ok(swiglu_quantize(&swiglu_model(clamp, order, rule), gate_up, shape, &|_| Some(1.0))?)
    }

    /// Rows of no expert are zero.
    fn reference(&self) -> Result<Quantized> {
        let (rows, n) = (self.case.gemm.assignment.rows(), self.case.gemm.n);
        let mut gate_up = vec![bf16::ZERO; rows * n];
        for (e, range) in self.case.gemm.assignment.experts().into_iter().enumerate() {
            gate_up[range.start * n..range.end * n].copy_from_slice(&self.gate_up(e, 0..range.len())?);
        }
        self.quantized(&gate_up, rows)
    }

    fn expected(&self) -> Result<&Quantized> {
        self.expected.get(Scrutiny::Thorough, || self.reference())
    }
}

impl Problem for GateUpSwigluProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(GateUpSwigluRun::new(self, arena)?))
    }
}

/// Gate, up and SwiGLU on a device.
pub struct GateUpSwigluRun {
    problem: Arc<GateUpSwigluProblem>,
    pub plan: GateUpSwiglu,
    pub operands: GateUpSwigluOperands,
}

pub struct GateUpSwigluOperands {
    inputs: GroupedInputs,
    out: QuantizedRows,
}

impl GateUpSwigluRun {
    pub fn new(problem: Arc<GateUpSwigluProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let plan = problem.case.plan(arena.device())?;
        let out = (problem.case.gemm.assignment.rows(), problem.case.intermediate());
        let operands = GateUpSwigluOperands {
            inputs: GroupedInputs::new(&problem.gemm, arena)?,
            out: QuantizedRows::new(arena, out, Align(16))?,
        };
        Ok(Self { problem, plan, operands })
    }

    /// The last row that somebody has.
    fn judge_last_row(&self) -> Result<Vec<Check>> {
        let experts = self.problem.case.gemm.assignment.experts();
        let last = experts.iter().enumerate().rfind(|(_, rows)| !rows.is_empty());
        let Some((e, rows)) = last else { return Ok(Vec::new()) };
        let gate_up = self.problem.gate_up(e, rows.len() - 1..rows.len())?;
        let expected = self.problem.quantized(&gate_up, 1)?;
        Ok(vec![self.operands.out.q.rows_equal("codes", "q", rows.end - 1..rows.end, &expected.q)?])
    }
}

impl GateUpSwigluOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<GateUpSwigluArgs<'_>, Error> {
        let GroupedInputs { a, sfa, b, sfb, segments } = &self.inputs;
        Ok(GateUpSwigluArgs {
            a: a.matrix()?,
            sfa: sfa.m_major()?,
            b: b.matrix()?,
            sfb: sfb.matrix()?,
            segments: segments.vector()?,
            q: self.out.q.matrix_mut()?,
            sf: self.out.sf.m_major_mut()?,
        })
    }
}

impl Prepared for GateUpSwigluRun {
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
        self.operands.out.outputs()
    }

    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        if scrutiny == Scrutiny::Brief {
            return self.judge_last_row();
        }
        let assignment = &self.problem.case.gemm.assignment;
        let experts = assignment.experts();
        let used = |row| experts.iter().any(|rows| rows.contains(&row));
        self.operands.out.judge(assignment.rows(), used, self.problem.expected()?)
    }

    fn faults(&self) -> DataFaults {
        let GroupedFp8GemmCase { class, assignment, .. } = &self.problem.case.gemm;
        // Other classes are finite, and large ones of theirs have no reference of every element.
        let special = matches!(class, GemmClass::Codes | GemmClass::NanCodes | GemmClass::SpecialScales);
        let nonfinite = special && self.problem.expected().is_ok_and(|rows| rows.nonfinite);
        fault_if(!assignment.in_order(), DataFaults::SEGMENT)
            | fault_if(nonfinite, DataFaults::NONFINITE_INPUT)
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    let both = |instance| [traced_of(instance, 1, 0), traced_of(instance, 0, 1)];
    GATE_UP_INSTANCES.iter().flat_map(both).collect()
}

/// What the exploration of protocols launches: experts with several tiles, one and none, on two clusters, or none with any.
pub fn explored() -> Vec<Launch> {
    let of = |instance: &GemmInstance| {
        let m = instance.block_m * instance.cluster;
        let launch = |k_blocks| explored_of(instance, k_blocks, &[m + 3, 0, 1, 0]);
        fillings(instance.stages())
            .into_iter()
            .map(launch)
            .chain([explored_of(instance, 1, &[0, 0])])
            .collect::<Vec<_>>()
    };
    GATE_UP_INSTANCES.iter().flat_map(of).collect()
}

fn explored_of(instance: &GemmInstance, k_blocks: u32, rows: &[u32]) -> Launch {
    segments(
        traced_with(instance, 1, 0, (128, k_blocks)),
        offset_of!(GateUpSwigluParams, grouped),
        rows,
        instance,
    )
}

/// The segments come from made-up memory, and so do the tiles: few, of any expert.
fn traced_of(instance: &GemmInstance, ragged: u32, up_first: u32) -> Launch {
    // The last block has a tile that is half there, and one that is not.
    let params = traced_with(instance, ragged, up_first, (304, instance.stages() + 1));
    params.launch(instance.name(), 60, instance.smem_bytes())
}

fn traced_with(instance: &GemmInstance, ragged: u32, up_first: u32, (n, k_blocks): (u32, u32)) -> Params {
    let m = 400;
    let params = Params::of::<GateUpSwigluParams>()
        .u64(offset_of!(GateUpSwigluParams, grouped.gemm.sfb), region(0))
        .u64(offset_of!(GateUpSwigluParams, grouped.gemm.sfb_stride), u64::from(3 * k_blocks + 9))
        .u32(offset_of!(GateUpSwigluParams, grouped.gemm.sfb_pitch), k_blocks + 3)
        .u32(offset_of!(GateUpSwigluParams, grouped.gemm.m), m)
        .u32(offset_of!(GateUpSwigluParams, grouped.gemm.n), n)
        .u32(offset_of!(GateUpSwigluParams, grouped.gemm.k_blocks), k_blocks)
        .u32(offset_of!(GateUpSwigluParams, grouped.gemm.a_box_rows), instance.block_m)
        .u64(offset_of!(GateUpSwigluParams, grouped.rows), region(1))
        .u64(offset_of!(GateUpSwigluParams, grouped.error_words), region(2))
        .u32(offset_of!(GateUpSwigluParams, grouped.experts), 37)
        .u32(offset_of!(GateUpSwigluParams, grouped.ragged), ragged)
        .u32(offset_of!(GateUpSwigluParams, grouped.max_rows), 70)
        .u64(offset_of!(GateUpSwigluParams, q), region(3))
        .u64(offset_of!(GateUpSwigluParams, sf), region(4))
        .u64(offset_of!(GateUpSwigluParams, q_pitch), u64::from(n) + 48)
        .u64(offset_of!(GateUpSwigluParams, sf_pitch), u64::from(m) + 7)
        .u32(offset_of!(GateUpSwigluParams, up_first), up_first)
        .u32(offset_of!(GateUpSwigluParams, clamp), 100.0_f32.to_bits());
    let params = Rule::POWER_OF_TWO.trace(params, offset_of!(GateUpSwigluParams, rule));
    fp8_gemm::boxes(params, offset_of!(GateUpSwigluParams, grouped.gemm), instance, instance.block_m)
}
