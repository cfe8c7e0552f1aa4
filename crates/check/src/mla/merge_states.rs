//! The merge of two states of attention, each over a part of the keys.

mod faults;

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::{MergePart, MergeStatesParams};
use deepseek_kernels::table::mla::MERGE_STATES;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{
    AttentionState, AttentionStateMut, LseOrder, MergeStates, MergeStatesArgs, MergeStatesSpec,
};
use deepseek_kernels::table::gemm::OutputType;
use deepseek_kernels::{Error, Stream, bf16};
use oracles::gemm::Output as Rounding;
use oracles::mla::{State, merge_states, merge_states_bound};
use oracles::verdict::within;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::lse::{from_order, lse_shape, to_order};
use super::{LATENT, Values, spread};
use crate::case::{Case, Prepared, Problem, Work};
use crate::data::rows_of;
use crate::gemm::fp8_gemm::Element;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};

/// Two states of as many rows.
#[derive(Debug, Clone, Copy)]
pub struct MergeStatesCase {
    /// Rows of lse.
    pub tokens: usize,
    /// Columns of lse.
    pub heads: usize,
    /// Columns of o.
    pub columns: usize,
    pub lse_order: LseOrder,
    /// The type of o.
    pub output: OutputType,
    /// An lse of +Inf means no key too.
    pub infinity_is_empty: bool,
    /// Logarithms lie within so much of 0; if none is given, their distances go from nothing to hopeless, and some parts
    /// are empty.
    pub spread: Option<f32>,
    pub values: Values,
    /// At most `DRAWN` rows of o differ, the others repeat them.
    pub repeated: bool,
    pub seed: u64,
}

/// Rows of o that differ, where the others repeat them.
const DRAWN: usize = 509;
/// Rows that are judged of more, and of any number briefly.
const JUDGED: (usize, usize) = (1 << 16, 64);

impl MergeStatesCase {
    /// Values of many magnitudes in BF16, at all distances.
    pub const fn new(tokens: usize, heads: usize) -> Self {
        Self {
            tokens,
            heads,
            columns: LATENT,
            lse_order: LseOrder::TokensHeads,
            output: OutputType::Bf16,
            infinity_is_empty: false,
            spread: None,
            values: Values::Magnitudes,
            repeated: false,
            seed: 1,
        }
    }

    fn rows(&self) -> usize {
        self.tokens * self.heads
    }

    fn part(&self, part: u8) -> Part {
        let rows = self.rows();
        let seed = 10 * self.seed + u64::from(part);
        let drawn = if self.repeated { rows.min(DRAWN) } else { rows };
        let mut o = self.values.draw((drawn, self.columns), seed);
        if self.output == OutputType::Bf16 {
            o.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(!seed);
        let lse = |row: usize| match (self.spread, row % 11) {
            (Some(spread), _) => rng.random_range(-spread..=spread),
            (None, 10) => f32::NEG_INFINITY,
            (None, kind) => (row as f32 * 0.37).sin() * kind as f32 * f32::from(9 * part + 1),
        };
        let mut part = Part { columns: self.columns, o, lse: (0..rows).map(lse).collect() };
        if !self.repeated {
            let empty: Vec<usize> = (0..rows).filter(|&row| part.lse[row] == f32::NEG_INFINITY).collect();
            empty.into_iter().for_each(|row| part.empty_row(row, f32::NEG_INFINITY));
        }
        part
    }

    /// With its inputs.
    pub fn problem(self) -> Result<MergeStatesProblem> {
        Ok(MergeStatesProblem { parts: [self.part(0), self.part(1)], case: self })
    }
}

impl Case for MergeStatesCase {
    fn operation(&self) -> &'static str {
        "merge_states"
    }

    fn title(&self) -> String {
        let element = match self.output {
            OutputType::Bf16 => "BF16",
            OutputType::F32 => "FP32",
        };
        format!("merge states, {element}")
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.rows(), self.columns)
    }

    fn label(&self) -> String {
        let output = match self.output {
            OutputType::Bf16 => "",
            OutputType::F32 => "_f32",
        };
        let infinity = if self.infinity_is_empty { "_infinity" } else { "" };
        let columns = if self.columns == LATENT { String::new() } else { format!("x{}", self.columns) };
        format!("{}x{}{columns}{output}{infinity}", self.tokens, self.heads)
    }

    fn data(&self) -> String {
        self.values.to_string()
    }

    fn work(&self) -> Work {
        Work { flops: 0, bytes: (3 * self.rows() * (self.output.bytes() as usize * self.columns + 4)) as u64 }
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()?))
    }
}

/// A state of attention.
#[derive(Debug, Clone)]
pub struct Part {
    pub columns: usize,
    /// `[rows, columns]` of values that the element type holds, or fewer rows that repeat.
    pub o: Vec<f32>,
    /// `[rows]`.
    pub lse: Vec<f32>,
}

impl Part {
    /// What attention over a part of the keys gave.
    pub fn of_step(outputs: &[Output]) -> Self {
        Self { columns: LATENT, o: outputs[0].widened(), lse: outputs[1].widened() }
    }

    /// The row has no key, and its o holds NaN.
    pub fn empty_row(&mut self, row: usize, lse: f32) {
        self.lse[row] = lse;
        self.o[row * self.columns..][..self.columns].fill(f32::NAN);
    }

    /// These rows.
    fn pick(&self, rows: &[usize]) -> Self {
        let Self { columns, ref o, ref lse } = *self;
        Self { columns, o: rows_of(o, columns, rows), lse: rows_of(lse, 1, rows) }
    }

    fn finite(&self, row: usize) -> bool {
        self.lse[row].is_finite() && rows_of(&self.o, self.columns, &[row]).iter().all(|x| x.is_finite())
    }

    fn state(&self) -> State<'_> {
        State { o: &self.o, lse: &self.lse }
    }
}

/// Two states to be merged.
#[derive(Debug, Clone)]
pub struct MergeStatesProblem {
    pub case: MergeStatesCase,
    pub parts: [Part; 2],
}

impl MergeStatesProblem {
    /// The second state first.
    #[must_use]
    pub fn swapped(&self) -> Self {
        let [a, b] = self.parts.clone();
        Self { parts: [b, a], ..*self }
    }
}

impl Problem for MergeStatesProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(match self.case.output {
            OutputType::Bf16 => Box::new(MergeStatesRun::<bf16>::new(self, arena)?),
            OutputType::F32 => Box::new(MergeStatesRun::<f32>::new(self, arena)?),
        })
    }
}

/// A merge on a device.
pub struct MergeStatesRun<T> {
    problem: Arc<MergeStatesProblem>,
    pub plan: MergeStates<T>,
    pub operands: MergeStatesOperands<T>,
}

pub struct MergeStatesOperands<T> {
    parts: [(Operand<T>, Operand<f32>); 2],
    o: Operand<T>,
    lse: Operand<f32>,
}

impl<T: Element> MergeStatesRun<T> {
    pub fn new(problem: Arc<MergeStatesProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let MergeStatesCase { tokens, heads, columns, lse_order, infinity_is_empty, .. } = problem.case;
        let (rows, lse) = (tokens * heads, lse_shape(lse_order, tokens, heads));
        let spec = MergeStatesSpec::new(tokens, heads).columns(columns).lse_order(lse_order);
        let spec = spec.infinity_is_empty(infinity_is_empty);
        let plan = MergeStates::plan(arena.device(), spec)?;
        let (aligned, any) = (Align(16), Align(4));
        let mut part = |part: &Part| -> Result<_> {
            let o: Vec<T> = part.o.iter().map(|&x| T::narrow(x)).collect();
            let o = arena.repeated(&o, (rows, columns), aligned)?;
            Ok((o, arena.input(&to_order(lse_order, heads, &part.lse), lse, any)?))
        };
        let operands = MergeStatesOperands {
            parts: [part(&problem.parts[0])?, part(&problem.parts[1])?],
            o: arena.output((rows, columns), aligned)?,
            lse: arena.output(lse, any)?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl<T: Element> MergeStatesOperands<T> {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<MergeStatesArgs<'_, T>, Error> {
        let [(o0, lse0), (o1, lse1)] = &self.parts;
        Ok(MergeStatesArgs {
            parts: [
                AttentionState { o: o0.matrix()?, lse: lse0.matrix()? },
                AttentionState { o: o1.matrix()?, lse: lse1.matrix()? },
            ],
            out: AttentionStateMut { o: self.o.matrix_mut()?, lse: self.lse.matrix_mut()? },
        })
    }
}

impl<T: Element> Prepared for MergeStatesRun<T> {
    fn instance(&self) -> String {
        "merge_states".to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("o", &self.operands.o)?, Output::read("lse", &self.operands.lse)?])
    }

    /// Bit for bit what the reference gives, and where both parts are finite, near f64.
    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let MergeStatesProblem { case, parts } = &*self.problem;
        let most = if scrutiny == Scrutiny::Brief { JUDGED.1 } else { JUDGED.0 };
        let judged = spread(case.rows(), most);
        let columns = case.columns;
        let o = self.operands.o.values()?;
        let lse = from_order(case.lse_order, case.heads, &self.operands.lse.values()?);
        let rows = |judged: &[usize]| (rows_of(&o, columns, judged), rows_of(&lse, 1, judged));

        let (got_o, got_lse) = rows(&judged);
        let picked = parts.each_ref().map(|part| part.pick(&judged));
        let states = picked.each_ref().map(Part::state);
        let (want_o, want_lse) = merge_states(states, columns, case.infinity_is_empty, T::ROUNDING)?;
        let want_o: Vec<T> = want_o.into_iter().map(T::narrow).collect();
        let o_differs = Check::difference("o", columns, &got_o, &want_o);
        let lse_differs = Check::difference("lse", case.heads, &got_lse, &want_lse);
        let mut checks = vec![
            Check::equal("lse", want_lse.len(), lse_differs),
            Check::equal("o", want_o.len(), o_differs),
            self.operands.o.written("o")?.and(self.operands.lse.written("lse")?),
        ];

        let finite: Vec<usize> =
            judged.into_iter().filter(|&row| parts.iter().all(|part| part.finite(row))).collect();
        let (got_o, got_lse) = rows(&finite);
        let picked = parts.each_ref().map(|part| part.pick(&finite));
        let (o, lse) = merge_states_bound(picked.each_ref().map(Part::state), columns, T::ROUNDING)?;
        let near = |rounding, near: Vec<(f64, f64)>, columns, got: &dyn Fn(usize) -> f32| {
            let (want, bound): (Vec<f64>, Vec<f64>) = near.into_iter().unzip();
            Check::of("bound", &within(rounding, &want, &bound, columns, got), None)
        };
        checks.push(
            near(Rounding::F32, lse, 1, &|i| got_lse[i])
                .and(near(T::ROUNDING, o, columns, &|i| got_o[i].widen())),
        );
        Ok(checks)
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    let wide = [(0, 0), (1, 0), (0, 1)].map(|(o_is_f32, infinity)| traced_with(o_is_f32, infinity, 512));
    wide.into_iter().chain([traced_with(0, 0, 192)]).collect()
}

/// The last CTA is ragged.
fn traced_with(o_is_f32: u32, infinity_is_empty: u32, columns: u32) -> Launch {
    let params = Params::of::<MergeStatesParams>()
        .u64(offset_of!(MergeStatesParams, out), region(0))
        .u64(offset_of!(MergeStatesParams, out_lse), region(1))
        .u64(offset_of!(MergeStatesParams, out_pitch), 520)
        .u64(offset_of!(MergeStatesParams, out_lse_strides.group), 16)
        .u64(offset_of!(MergeStatesParams, out_lse_strides.token), 1)
        .u64(offset_of!(MergeStatesParams, out_lse_strides.head), 4)
        .u32(offset_of!(MergeStatesParams, out_lse_strides.group_tokens), 3)
        .u32(offset_of!(MergeStatesParams, rows), 12)
        .u32(offset_of!(MergeStatesParams, heads), 4)
        .u32(offset_of!(MergeStatesParams, columns), columns)
        .u32(offset_of!(MergeStatesParams, o_is_f32), o_is_f32)
        .u32(offset_of!(MergeStatesParams, infinity_is_empty), infinity_is_empty);
    let part = |params: Params, i: usize| {
        let at = offset_of!(MergeStatesParams, part) + i * size_of::<MergePart>();
        params
            .u64(at + offset_of!(MergePart, o), region(2 + 2 * i as u64))
            .u64(at + offset_of!(MergePart, lse), region(3 + 2 * i as u64))
            .u64(at + offset_of!(MergePart, o_pitch), 512 + 8 * i as u64)
            .u64(at + offset_of!(MergePart, lse_strides.group), 5 + i as u64)
            .u64(at + offset_of!(MergePart, lse_strides.head), 1)
            .u32(at + offset_of!(MergePart, lse_strides.group_tokens), 1)
    };
    fixed(&MERGE_STATES, (12 * columns / 8).div_ceil(MERGE_STATES.threads), part(part(params, 0), 1))
}
