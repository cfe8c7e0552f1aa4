//! The rotation by position: heads turned by the angles of their token.

use crate::trace::{Launch, Params, WORDS_PER_INDEX, fixed, region};
use deepseek_kernels::bindings::RopeParams;
use deepseek_kernels::table::mla::ROPE as ROTATE;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{Heads, HeadsMut, Rope, RopeArgs, RopeSpec, RopeTable, YarnRope};
use deepseek_kernels::{DataFaults, Error, Stream, bf16};
use oracles::mla::rope;

use super::{LATENT, ROPE, Values, spread};
use crate::case::{Case, Prepared, Problem, Work, fault_if};
use crate::data::rows_of;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, IndexOperand, Operand, Output, Scalar};

/// The 64 columns of a head that are rotated, among those that the operand has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    pub first: usize,
    pub of: usize,
}

impl Columns {
    /// All of them.
    pub const ALL: Self = Self { first: 0, of: ROPE };
    /// The last ones of a query.
    pub const QUERY: Self = Self { first: 128, of: 192 };
    /// The last ones of an absorbed query.
    pub const ABSORBED: Self = Self { first: LATENT, of: LATENT + ROPE };

    /// Heads of 64 columns between others of `filler`.
    fn among(self, heads: &[bf16], filler: bf16) -> Vec<bf16> {
        let mut all = vec![filler; heads.len() / ROPE * self.of];
        for (row, head) in all.chunks_exact_mut(self.of).zip(heads.chunks_exact(ROPE)) {
            row[self.first..][..ROPE].copy_from_slice(head);
        }
        all
    }
}

/// Heads of any number of tokens, turned from one operand into another.
#[derive(Debug, Clone, Copy)]
pub struct RopeCase {
    pub tokens: usize,
    pub heads: usize,
    /// Rows of the table of angles.
    pub positions: usize,
    pub from: Columns,
    pub to: Columns,
    pub values: Values,
    /// At most `DRAWN` tokens differ, the others repeat them, but for their positions.
    pub repeated: bool,
    pub seed: u64,
}

/// Tokens that differ, where the others repeat them.
const DRAWN: usize = 67;
/// Tokens that are judged of more, and of any number briefly.
const JUDGED: (usize, usize) = (4096, 64);

impl RopeCase {
    /// Queries that are rotated into their absorbed form, by the angles of DeepSeek-V3.
    pub const fn new(tokens: usize, heads: usize, positions: usize) -> Self {
        Self {
            tokens,
            heads,
            positions,
            from: Columns::QUERY,
            to: Columns::ABSORBED,
            values: Values::Magnitudes,
            repeated: false,
            seed: 1,
        }
    }

    /// With its inputs: positions in no order, all of them in the table.
    pub fn problem(self) -> Result<RopeProblem> {
        let Self { tokens, heads, positions, seed, .. } = self;
        let drawn = if self.repeated { tokens.min(DRAWN) } else { tokens };
        let x = self.values.draw((drawn * heads, ROPE), seed).into_iter().map(bf16::from_f32).collect();
        let position = |token: usize| {
            ((token * 2_654_435_761).wrapping_add(seed as usize)).checked_rem(positions).unwrap_or(0) as i32
        };
        let table = RopeTable::yarn(YarnRope::DEEPSEEK_V3)?.cos_sin(positions)?;
        Ok(RopeProblem { case: self, x, positions: (0..tokens).map(position).collect(), table })
    }
}

impl Case for RopeCase {
    fn operation(&self) -> &'static str {
        "rope"
    }

    fn title(&self) -> String {
        "rotate".to_owned()
    }

    fn shape(&self) -> String {
        format!("{} x {} x {ROPE}", self.tokens, self.heads)
    }

    fn label(&self) -> String {
        format!("{}x{}", self.tokens, self.heads)
    }

    fn data(&self) -> String {
        self.values.to_string()
    }

    fn work(&self) -> Work {
        let Self { tokens, heads, .. } = *self;
        Work { flops: 0, bytes: (4 * tokens * heads * ROPE + tokens * 4 * (ROPE + 1)) as u64 }
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()?))
    }
}

/// A rotation with its inputs.
#[derive(Debug, Clone)]
pub struct RopeProblem {
    pub case: RopeCase,
    /// `[tokens, heads, 64]`, or fewer tokens that repeat.
    pub x: Vec<bf16>,
    pub positions: Vec<i32>,
    /// `[positions, 64]`.
    pub table: Vec<f32>,
}

impl Problem for RopeProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(RopeRun::new(self, arena)?))
    }
}

/// A rotation on a device.
pub struct RopeRun {
    problem: Arc<RopeProblem>,
    pub plan: Rope,
    pub operands: RopeOperands,
}

pub struct RopeOperands {
    case: RopeCase,
    /// `[tokens, heads * from.of]`.
    x: Operand<bf16>,
    positions: IndexOperand,
    table: Operand<f32>,
    /// `[tokens, heads * to.of]`.
    out: Operand<bf16>,
}

impl RopeRun {
    pub fn new(problem: Arc<RopeProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let case = problem.case;
        let RopeCase { tokens, heads, positions, from, to, .. } = case;
        let plan = Rope::plan(arena.device(), RopeSpec::new(tokens, heads, positions))?;
        let aligned = Align(16);
        let operands = RopeOperands {
            case,
            x: arena.repeated(&from.among(&problem.x, bf16::POISON), (tokens, heads * from.of), aligned)?,
            positions: arena.indices(&problem.positions, (1, problem.positions.len()))?,
            table: arena.input(&problem.table, (positions, ROPE), aligned)?,
            out: arena.output((tokens, heads * to.of), aligned)?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl RopeOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<RopeArgs<'_>, Error> {
        let RopeCase { tokens, heads, from, to, .. } = self.case;
        let (x_pitch, out_pitch) = (self.x.pitch(), self.out.pitch());
        Ok(RopeArgs {
            x: Heads::new(self.x.slice_from(from.first), tokens, heads, x_pitch, from.of)?,
            positions: self.positions.indices()?,
            table: self.table.matrix()?,
            out: HeadsMut::new(self.out.slice_mut_from(to.first), tokens, heads, out_pitch, to.of)?,
        })
    }
}

impl Prepared for RopeRun {
    fn instance(&self) -> String {
        "rope".to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.operands.out)?])
    }

    /// What must not be touched included.
    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let RopeCase { tokens, heads, to, .. } = self.problem.case;
        let most = if scrutiny == Scrutiny::Brief { JUDGED.1 } else { JUDGED.0 };
        let judged = spread(tokens, most);
        let x = rows_of(&self.problem.x, heads * ROPE, &judged);
        let positions = rows_of(&self.problem.positions, 1, &judged);
        let turned = rope(&x, heads, &positions, &self.problem.table)?;
        let expected = to.among(&turned, bf16::SENTINEL);
        let columns = heads * to.of;
        let got = rows_of(&self.operands.out.values()?, columns, &judged);
        let bits = Check::equal("bits", got.len(), Check::difference("out", columns, &got, &expected));
        Ok(vec![bits, self.operands.out.guarded("out")?])
    }

    fn faults(&self) -> DataFaults {
        let RopeProblem { case, positions, .. } = &*self.problem;
        let within = |&position: &i32| (0..case.positions as i64).contains(&i64::from(position));
        fault_if(case.heads > 0 && !positions.iter().all(within), DataFaults::POSITION)
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    WORDS_PER_INDEX.map(traced_with).into()
}

/// Three CTAs, the last one ragged; heads as in a query of 192 columns, to one of 576.
fn traced_with(words_per_index: u32) -> Launch {
    let params = Params::of::<RopeParams>()
        .u64(offset_of!(RopeParams, x), region(0))
        .indices(offset_of!(RopeParams, positions), region(1), 15, words_per_index)
        .u64(offset_of!(RopeParams, table), region(2))
        .u64(offset_of!(RopeParams, out), region(3))
        .u64(offset_of!(RopeParams, error_words), region(4))
        .u64(offset_of!(RopeParams, x_token_stride), 5 * 192 + 16)
        .u64(offset_of!(RopeParams, x_head_stride), 192)
        .u64(offset_of!(RopeParams, out_token_stride), 5 * 576)
        .u64(offset_of!(RopeParams, out_head_stride), 576)
        .u64(offset_of!(RopeParams, table_pitch), 68)
        .u32(offset_of!(RopeParams, tokens), 15)
        .u32(offset_of!(RopeParams, heads), 5)
        .u32(offset_of!(RopeParams, table_rows), 200);
    fixed(&ROTATE, 3, params)
}

mod faults {
    use crate::mla::ROPE;
    use crate::mla::rope::{RopeCase, RopeProblem};
    use crate::planted::{Changed, Trial, faults};
    use deepseek_kernels::bf16;
    use std::sync::Arc;

    const ROTATE: Trial = Trial::Changed(rotate);
    const WIDE: Trial = Trial::Wide(|| {
        let mut problem = RopeCase::new(15, 3, 40).problem().expect("inputs");
        problem.positions[7] = i32::MIN;
        vec![(Box::new(problem.case), Arc::new(problem))]
    });

    fn rotate() -> Vec<Changed> {
        let drawn = |case: RopeCase| case.problem().expect("inputs");
        let good = drawn(RopeCase::new(15, 3, 40));
        let mut strange = good.clone();
        strange.positions[7] = 40;
        // Products that cancel, but for what an fma would not round away.
        let cancelling = RopeProblem {
            x: vec![bf16::from_f32(1.007_812_5); 3 * ROPE],
            positions: vec![0],
            table: vec![std::f32::consts::FRAC_1_SQRT_2; ROPE],
            ..drawn(RopeCase::new(1, 3, 1))
        };
        let mut other_sum = cancelling.clone();
        other_sum.x.iter_mut().skip(1).step_by(2).for_each(|x| *x = -*x);
        let changed = |problem: RopeProblem| -> Changed { (Box::new(problem.case), Arc::new(problem)) };
        [good, strange, cancelling, other_sum].map(changed).into()
    }

    faults! {
        turned_backwards: ROTATE,
            "x * sin + y * cos, x * cos - y * sin" => "y * cos - x * sin, x * cos + y * sin", ["out["];
        results_exchanged: ROTATE,
            "x * sin + y * cos, x * cos - y * sin" => "x * cos - y * sin, x * sin + y * cos", ["out["];
        cos_and_sin_exchanged: ROTATE,
            "uint32_t cos_bits, uint32_t sin_bits" => "uint32_t sin_bits, uint32_t cos_bits", ["out["];
        fused: ROTATE, "x * cos - y * sin" => "ptx::fma_rn(x, cos, -(y * sin))", ["out["];
        second_fused_onto_y: ROTATE, "x * sin + y * cos" => "ptx::fma_rn(x, sin, y * cos)", ["out["];
        second_fused_onto_x: ROTATE, "x * sin + y * cos" => "ptx::fma_rn(y, cos, x * sin)", ["out["];
        fused_onto_x: ROTATE, "x * cos - y * sin" => "ptx::fma_rn(-y, sin, x * cos)", ["out["];
        halves_as_pairs: ROTATE,
            "rotate(x.y, a.z, a.w), rotate(x.z, b.x, b.y)" => "rotate(x.z, a.z, a.w), rotate(x.y, b.x, b.y)", ["out["];
        angles_of_the_next_position: ROTATE,
            "position * params.table_pitch" => "(position + 1) * params.table_pitch", ["out[", "outside"];
        angles_of_the_first_pairs: ROTATE, "params.table_pitch + column" => "params.table_pitch", ["out["];
        position_of_the_head: ROTATE, "params.positions, 0, token" => "params.positions, 0, head", ["out[", "got one of nothing"];
        narrow_positions_read_as_wide: ROTATE, "indices.words_per_index - 1" => "1", ["outside"];
        heads_as_far_apart_as_results: ROTATE,
            "head * params.x_head_stride" => "head * params.out_head_stride", ["out[", "outside"];
        tokens_of_results_too_close: ROTATE,
            "token * params.out_token_stride" => "token * params.out_head_stride", ["not ordered"];
        position_not_checked: ROTATE, "position >= params.table_rows" => "false", ["out[", "outside"];
        position_unreported: ROTATE, "report_fault(params.error_words, FAULT_POSITION);" => "", ["got one of nothing"];
        stranger_left_unwritten: ROTATE, "ptx::stg_v4_u32(gOut, {});" => "", ["out["];
        heads_past_the_end: ROTATE, "if (token >= params.tokens) return;" => "", ["outside"];

        // Positions of 64 bits.
        high_word_ignored: WIDE, "high == low >> 31 ? low : INT32_MIN" => "low", ["out["];
        words_exchanged: WIDE,
            "ptx::ldg_u32(gWords)" => "ptx::ldg_u32(gWords + indices.words_per_index - 1)", ["out[", "got one of"];
        wide_positions_read_as_narrow: WIDE, "column * indices.words_per_index" => "column", ["out[", "got one of"];
    }
}
