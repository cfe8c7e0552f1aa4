//! The grouped FP8 GEMM, with poison in every row of A that is nobody's.

mod anatomy;
mod assignment;
mod faults;

use crate::trace::{Launch, Params, fillings, region};
pub use assignment::Assignment;
use deepseek_kernels::bindings::GroupedFp8GemmParams;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::gemm::{GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec, Segments};
use deepseek_kernels::table::gemm::{GROUPED_GEMM_INSTANCES, GemmInstance};
use deepseek_kernels::{DataFaults, Device, Error, F8E4M3, Stream, Tuning, bf16};
use oracles::gemm::{Epilogue, GemmClass, GemmInputs, Output as Rounding};

use super::fp8_gemm::{self, Fp8GemmCase};
use crate::anatomy::Anatomy;
use crate::case::{Case, Expected, Prepared, Problem, Work, fault_if};
use crate::judge::{Check, GemmJudge, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output, Scalar};

/// Experts that multiply their own rows with their own weights.
#[derive(Debug, Clone)]
pub struct GroupedFp8GemmCase {
    pub assignment: Assignment,
    /// Rows of an expert's B.
    pub n: usize,
    /// Columns of A and B.
    pub k: usize,
    /// Instead of the planner's choice.
    pub instance: Option<GemmInstance>,
    /// Instead of the rows of the busiest expert.
    pub expected_rows: Option<usize>,
    pub class: GemmClass,
    /// As in [`Fp8GemmCase`], and the experts have the same weights, each its own memory.
    pub repeated: bool,
    /// Matrices that B of an expert is, below each other, each with rows of scales of its own.
    pub parts: usize,
    pub seed: u64,
}

impl GroupedFp8GemmCase {
    /// Signed integers, by the planner's choice.
    pub const fn new(assignment: Assignment, (n, k): (usize, usize)) -> Self {
        Self {
            assignment,
            n,
            k,
            instance: None,
            expected_rows: None,
            class: GemmClass::SignedIntegers,
            repeated: false,
            parts: 1,
            seed: 3,
        }
    }

    pub(crate) fn spec(&self) -> GroupedFp8GemmSpec {
        let experts = self.assignment.experts();
        let busiest = || experts.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let expected_rows = self.expected_rows.unwrap_or_else(busiest);
        GroupedFp8GemmSpec::new(experts.len(), self.n, self.k, self.assignment.segments)
            .expected_rows(expected_rows)
    }

    fn plan(&self, device: &Device) -> deepseek_kernels::Result<GroupedFp8Gemm> {
        match self.instance {
            Some(instance) => GroupedFp8Gemm::plan_with(device, self.spec(), &Tuning::named(instance.name())),
            None => GroupedFp8Gemm::plan(device, self.spec()),
        }
    }

    /// The inputs of every expert, as if each were a GEMM of its own.
    fn inputs(&self) -> Result<Vec<GemmInputs>> {
        let Self { n, k, class, repeated, parts, seed, .. } = *self;
        let gemm = |m, seed| -> Result<GemmInputs> {
            if repeated {
                let drawn = Fp8GemmCase { class, repeated, seed, ..Fp8GemmCase::new((m, n, k)) }.inputs()?;
                return Ok(GemmInputs { parts, ..drawn });
            }
            Ok(class.generate_in_parts((m, n, k), parts, seed)?)
        };
        let experts = self.assignment.experts();
        if repeated {
            let all = gemm(experts.iter().map(ExactSizeIterator::len).max().unwrap_or(0), seed)?;
            return Ok(experts.iter().map(|rows| all.rows(0..rows.len())).collect());
        }
        experts.iter().enumerate().map(|(e, rows)| gemm(rows.len(), seed + e as u64)).collect()
    }

    /// With its inputs.
    pub fn problem(self) -> Result<GroupedFp8GemmProblem> {
        let experts = self.inputs()?;
        Ok(GroupedFp8GemmProblem::new(self, experts))
    }
}

impl Case for GroupedFp8GemmCase {
    fn operation(&self) -> &'static str {
        "grouped_fp8_gemm"
    }

    fn title(&self) -> String {
        format!("grouped FP8 GEMM, {} experts", self.assignment.experts().len())
    }

    /// The rows of each expert; where the planner is told what to expect, how many experts and that.
    fn shape(&self) -> String {
        let experts = self.assignment.experts();
        let rows = match self.expected_rows {
            Some(rows) => format!("{} x {rows}", experts.len()),
            None => experts.iter().map(|rows| rows.len().to_string()).collect::<Vec<_>>().join("+"),
        };
        format!("{rows} x {} x {}", self.n, self.k)
    }

    fn label(&self) -> String {
        let masked = matches!(self.assignment.segments, Segments::Masked { .. });
        let segments = if masked { "_masked" } else { "" };
        let instance = self.instance.map_or_else(String::new, |instance| format!("_{}", instance.name()));
        format!("{}{segments}{instance}", self.shape().replace(' ', ""))
    }

    fn data(&self) -> String {
        self.class.to_string()
    }

    fn work(&self) -> Work {
        let Self { n, k, parts, .. } = *self;
        let experts = self.assignment.experts();
        let rows: usize = experts.iter().map(ExactSizeIterator::len).sum();
        let used = experts.iter().filter(|rows| !rows.is_empty()).count();
        let scales = 4 * k.div_ceil(128) * (rows + used * parts * (n / parts).div_ceil(128));
        let bytes = rows * k + used * n * k + scales + 2 * rows * n;
        Work { flops: 2 * (rows * n * k) as u64, bytes: bytes as u64 }
    }

    fn kernels(&self, device: &Device) -> Result<Vec<String>> {
        Ok(vec![self.plan(device)?.tuning().to_string()])
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..self.clone() })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.clone().problem()?))
    }
}

/// A grouped GEMM with the inputs of every expert.
#[derive(Debug, Clone)]
pub struct GroupedFp8GemmProblem {
    pub case: GroupedFp8GemmCase,
    pub experts: Vec<GemmInputs>,
    /// Of each expert.
    pub expected: Vec<Expected<GemmJudge>>,
}

impl GroupedFp8GemmProblem {
    /// Of inputs of the case's shapes.
    pub fn new(case: GroupedFp8GemmCase, experts: Vec<GemmInputs>) -> Self {
        Self { case, expected: vec![Expected::default(); experts.len()], experts }
    }
}

impl Problem for GroupedFp8GemmProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(GroupedFp8GemmRun::new(self, arena)?))
    }
}

/// A grouped GEMM on a device.
pub struct GroupedFp8GemmRun {
    problem: Arc<GroupedFp8GemmProblem>,
    pub plan: GroupedFp8Gemm,
    pub operands: GroupedFp8GemmOperands,
}

/// What experts multiply, and whose rows are whose.
pub struct GroupedInputs {
    pub a: Operand<F8E4M3>,
    pub sfa: Operand<f32>,
    pub b: Operand<F8E4M3>,
    pub sfb: Operand<f32>,
    pub segments: Operand<i32>,
}

pub struct GroupedFp8GemmOperands {
    inputs: GroupedInputs,
    d: Operand<bf16>,
}

impl GroupedInputs {
    /// Of a problem, with poison in every row of A that is nobody's.
    ///
    /// # Errors
    /// Of the device.
    pub fn new(problem: &GroupedFp8GemmProblem, arena: &mut Arena<'_>) -> Result<Self> {
        let GroupedFp8GemmCase { n, k, parts, ref assignment, .. } = problem.case;
        let (rows, k_blocks, experts) = (assignment.rows(), k.div_ceil(128), problem.experts.len());
        let mut a = vec![F8E4M3::POISON; rows * k];
        let mut sfa = vec![f32::POISON; k_blocks * rows];
        for (range, own) in assignment.experts().iter().zip(&problem.experts) {
            a[range.start * k..range.end * k].copy_from_slice(&own.a);
            for (g, scales) in own.sfa.chunks_exact(range.len().max(1)).enumerate() {
                sfa[g * rows + range.start..g * rows + range.end].copy_from_slice(scales);
            }
        }
        let b: Vec<F8E4M3> = problem.experts.iter().flat_map(|own| own.b.iter().copied()).collect();
        let sfb: Vec<f32> = problem.experts.iter().flat_map(|own| own.sfb.iter().copied()).collect();
        let aligned = Align(16);
        Ok(Self {
            a: arena.input(&a, (rows, k), aligned)?,
            sfa: arena.input(&sfa, (k_blocks, rows), aligned)?,
            b: arena.input(&b, (experts * n, k), aligned)?,
            sfb: arena.input(&sfb, (experts * parts * (n / parts).div_ceil(128), k_blocks), Align(4))?,
            segments: arena.list(&assignment.values)?,
        })
    }
}

impl GroupedFp8GemmRun {
    pub fn new(problem: Arc<GroupedFp8GemmProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let plan = problem.case.plan(arena.device())?;
        let d = (problem.case.assignment.rows(), problem.case.n);
        let inputs = GroupedInputs::new(&problem, arena)?;
        let operands = GroupedFp8GemmOperands { inputs, d: arena.output(d, Align(16))? };
        Ok(Self { problem, plan, operands })
    }

    /// Every row that is nobody's still holds what it held.
    fn untouched(&self, d: &[bf16], experts: &[Range<usize>]) -> Check {
        let n = self.problem.case.n;
        let mut owned = vec![false; self.problem.case.assignment.rows()];
        experts.iter().for_each(|rows| owned[rows.clone()].fill(true));
        let nobodys = || (0..owned.len()).filter(|&row| !owned[row]);
        let touched = |&row: &usize| d[row * n..][..n].iter().any(|x| x.bits() != bf16::SENTINEL.bits());
        let failure = nobodys().find(touched).map(|row| format!("row {row} is nobody's and was written"));
        Check::equal("untouched", nobodys().count() * n, failure)
    }

    /// One expert's rows.
    fn judge_expert(&self, d: &[bf16], e: usize, first: usize, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let GroupedFp8GemmProblem { case, experts, expected } = &*self.problem;
        let rows = &d[first * case.n..][..experts[e].m * case.n];
        let left = rows.iter().position(|x| x.bits() == bf16::SENTINEL.bits());
        let place = |i: usize| format!("d[{}, {}] was not written", first + i / case.n, i % case.n);
        let mut checks = vec![Check::equal("written", rows.len(), left.map(place))];
        let got = |row: usize, column: usize| rows[row * case.n + column].to_f32();
        let (oracles, operands) = (case.class.oracles(), experts[e].operands()?);
        let epilogue = Epilogue::store(Rounding::Bf16);
        let ask = || Ok(GemmJudge::new(scrutiny, oracles, &operands, &epilogue, case.seed));
        checks.extend(expected[e].get(scrutiny, ask)?.judge(&got));
        for check in &mut checks {
            check.failure = check.failure.take().map(|failure| format!("expert {e}: {failure}"));
        }
        Ok(checks)
    }
}

impl GroupedFp8GemmOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<GroupedFp8GemmArgs<'_>, Error> {
        let GroupedInputs { a, sfa, b, sfb, segments } = &self.inputs;
        Ok(GroupedFp8GemmArgs {
            a: a.matrix()?,
            sfa: sfa.m_major()?,
            b: b.matrix()?,
            sfb: sfb.matrix()?,
            segments: segments.vector()?,
            d: self.d.matrix_mut()?,
        })
    }
}

impl Prepared for GroupedFp8GemmRun {
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

    /// Briefly, the last expert with rows: a wrong segment shows there.
    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let d = self.operands.d.values()?;
        let experts = self.problem.case.assignment.experts();
        let mut with_rows = experts.iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        let looked_at = match scrutiny {
            Scrutiny::Thorough => with_rows.collect::<Vec<_>>(),
            Scrutiny::Brief => with_rows.next_back().into_iter().collect(),
        };
        let mut checks: Vec<Check> = Vec::new();
        for (e, rows) in looked_at {
            checks = Check::join(checks, self.judge_expert(&d, e, rows.start, scrutiny)?);
        }
        checks.push(self.untouched(&d, &experts));
        checks.push(self.operands.d.guarded("d")?);
        Ok(checks)
    }

    fn faults(&self) -> DataFaults {
        fault_if(!self.problem.case.assignment.in_order(), DataFaults::SEGMENT)
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    let each = GROUPED_GEMM_INSTANCES
        .iter()
        .flat_map(|instance| [grouped(instance, 1, 37), grouped(instance, 0, 37)]);
    // Two rounds of a warp's experts.
    each.chain([grouped(&GROUPED_GEMM_INSTANCES[0], 1, 601)]).collect()
}

/// What the exploration of protocols launches: experts with several tiles, one and none, on two clusters, or none with any.
pub fn explored() -> Vec<Launch> {
    let of = |instance: &GemmInstance| {
        let (m, n) = (instance.block_m * instance.cluster, instance.block_n);
        let launch =
            |k_blocks| segments(grouped_with(instance, 1, (n, k_blocks)), 0, &[m + 3, 0, 1, 0], instance);
        let empty = segments(grouped_with(instance, 1, (n, 1)), 0, &[0, 0], instance);
        fillings(instance.stages()).into_iter().map(launch).chain([empty]).collect::<Vec<_>>()
    };
    GROUPED_GEMM_INSTANCES.iter().flat_map(of).collect()
}

/// The launch of two clusters whose experts have so many rows each; the parameters of the grouped GEMM are the field at `at`.
pub fn segments(params: Params, at: usize, rows: &[u32], instance: &GemmInstance) -> Launch {
    let ends = rows.iter().scan(0, |end, rows| {
        *end += rows;
        Some(*end)
    });
    let offsets: Vec<u32> = [0].into_iter().chain(ends).collect();
    let params = params
        .u64(at + offset_of!(GroupedFp8GemmParams, rows), region(14))
        .u32(at + offset_of!(GroupedFp8GemmParams, experts), rows.len() as u32)
        .u32(at + offset_of!(GroupedFp8GemmParams, gemm.m), rows.iter().sum())
        .words(region(14), &offsets);
    params.launch(instance.name(), 2 * instance.cluster, instance.smem_bytes())
}

/// The segments come from made-up memory, and so do the tiles: few, of any expert.
fn grouped(instance: &GemmInstance, ragged: u32, experts: u32) -> Launch {
    let params = grouped_with(instance, ragged, (instance.block_n + 8, instance.stages() + 1));
    let params = params.u32(offset_of!(GroupedFp8GemmParams, experts), experts);
    params.launch(instance.name(), 60, instance.smem_bytes())
}

fn grouped_with(instance: &GemmInstance, ragged: u32, (n, k_blocks): (u32, u32)) -> Params {
    let m = 400;
    let params = Params::of::<GroupedFp8GemmParams>()
        .u64(offset_of!(GroupedFp8GemmParams, gemm.sfb), region(0))
        .u64(offset_of!(GroupedFp8GemmParams, gemm.d), region(1))
        .u64(offset_of!(GroupedFp8GemmParams, gemm.d_pitch), u64::from(n) + 24)
        .u64(offset_of!(GroupedFp8GemmParams, gemm.sfb_stride), u64::from(2 * k_blocks + 9))
        .u32(offset_of!(GroupedFp8GemmParams, gemm.sfb_pitch), k_blocks + 3)
        .u32(offset_of!(GroupedFp8GemmParams, gemm.m), m)
        .u32(offset_of!(GroupedFp8GemmParams, gemm.n), n)
        .u32(offset_of!(GroupedFp8GemmParams, gemm.k_blocks), k_blocks)
        .u32(offset_of!(GroupedFp8GemmParams, gemm.a_box_rows), instance.block_m)
        .u64(offset_of!(GroupedFp8GemmParams, rows), region(2))
        .u64(offset_of!(GroupedFp8GemmParams, error_words), region(3))
        .u32(offset_of!(GroupedFp8GemmParams, ragged), ragged)
        .u32(offset_of!(GroupedFp8GemmParams, max_rows), 70);
    fp8_gemm::boxes(params, offset_of!(GroupedFp8GemmParams, gemm), instance, instance.block_m)
}
