//! The rotation by position: heads turned by the angles of their token.

use crate::trace::{Launch, Params, WORDS_PER_INDEX, fixed, region};
use deepseek_kernels::bindings::{ROPE_HALVES, ROPE_NEIGHBOURS, RopeParams};
use deepseek_kernels::table::mla::ROPE as ROTATE;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{Heads, HeadsMut, Rope, RopeArgs, RopePairs, RopeSpec, RopeTable, YarnRope};
use deepseek_kernels::{DataFaults, Error, Stream, bf16};
use oracles::mla::{Pairs, rope};

use super::{LATENT, ROPE, Values, spread};
use crate::case::{Case, Prepared, Problem, Work, fault_if};
use crate::data::rows_of;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, IndexOperand, Operand, Output, Scalar};

/// Where the columns of a head that are rotated lie among those that the operand has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    pub first: usize,
    pub of: usize,
}

impl Columns {
    /// All of 64.
    pub const ALL: Self = Self { first: 0, of: ROPE };
    /// The last ones of a query.
    pub const QUERY: Self = Self { first: 128, of: 192 };
    /// The last ones of an absorbed query.
    pub const ABSORBED: Self = Self { first: LATENT, of: LATENT + ROPE };

    /// Heads of `columns` columns between others of `filler`.
    fn among(self, heads: &[bf16], columns: usize, filler: bf16) -> Vec<bf16> {
        let mut all = vec![filler; heads.len() / columns * self.of];
        for (row, head) in all.chunks_exact_mut(self.of).zip(heads.chunks_exact(columns)) {
            row[self.first..][..columns].copy_from_slice(head);
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
    /// That are turned.
    pub columns: usize,
    pub pairs: RopePairs,
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
            columns: ROPE,
            pairs: RopePairs::Neighbours,
            from: Columns::QUERY,
            to: Columns::ABSORBED,
            values: Values::Magnitudes,
            repeated: false,
            seed: 1,
        }
    }

    /// So many columns, and nothing between heads.
    pub const fn with_columns(self, columns: usize, pairs: RopePairs) -> Self {
        let all = Columns { first: 0, of: columns };
        Self { columns, pairs, from: all, to: all, ..self }
    }

    /// With its inputs: positions in no order, all of them in the table.
    pub fn problem(self) -> Result<RopeProblem> {
        let Self { tokens, heads, positions, columns, seed, .. } = self;
        let drawn = if self.repeated { tokens.min(DRAWN) } else { tokens };
        let x = self.values.draw((drawn * heads, columns), seed).into_iter().map(bf16::from_f32).collect();
        let position = |token: usize| {
            ((token * 2_654_435_761).wrapping_add(seed as usize)).checked_rem(positions).unwrap_or(0) as i32
        };
        let table = if columns == ROPE {
            RopeTable::yarn(YarnRope::DEEPSEEK_V3)?
        } else {
            let frequency = |pair: usize| 10_000.0_f32.powf(-2.0 * pair as f32 / columns as f32);
            RopeTable::with_frequencies((0..columns / 2).map(frequency).collect::<Vec<_>>())?
        };
        let table = table.cos_sin(positions)?;
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
        format!("{} x {} x {}", self.tokens, self.heads, self.columns)
    }

    fn label(&self) -> String {
        let Self { tokens, heads, columns, pairs, .. } = self;
        match (*columns, pairs) {
            (ROPE, RopePairs::Neighbours) => format!("{tokens}x{heads}"),
            (_, RopePairs::Neighbours) => format!("{tokens}x{heads}x{columns}"),
            (_, RopePairs::Halves) => format!("{tokens}x{heads}x{columns}_halves"),
        }
    }

    fn data(&self) -> String {
        self.values.to_string()
    }

    fn work(&self) -> Work {
        let Self { tokens, heads, columns, .. } = *self;
        Work { flops: 0, bytes: (4 * tokens * heads * columns + tokens * 4 * (columns + 1)) as u64 }
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()?))
    }
}

/// A rotation with its inputs.
#[derive(Debug, Clone)]
pub struct RopeProblem {
    pub case: RopeCase,
    /// `[tokens, heads, columns]`, or fewer tokens that repeat.
    pub x: Vec<bf16>,
    pub positions: Vec<i32>,
    /// `[positions, columns]`.
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
        let RopeCase { tokens, heads, positions, columns, pairs, from, to, .. } = case;
        let spec = RopeSpec::new(tokens, heads, positions).columns(columns).pairs(pairs);
        let plan = Rope::plan(arena.device(), spec)?;
        let pieces = pairs == RopePairs::Neighbours && columns.is_multiple_of(8);
        let aligned = Align(if pieces { 16 } else { 4 });
        let table_aligned = Align(if columns.is_multiple_of(4) { 16 } else { 8 });
        let operands = RopeOperands {
            case,
            x: arena.repeated(
                &from.among(&problem.x, columns, bf16::POISON),
                (tokens, heads * from.of),
                aligned,
            )?,
            positions: arena.indices(&problem.positions, (1, problem.positions.len()))?,
            table: arena.input(&problem.table, (positions, columns), table_aligned)?,
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
        let RopeCase { tokens, heads, columns, from, to, .. } = self.case;
        let (x_pitch, out_pitch, shape) = (self.x.pitch(), self.out.pitch(), [tokens, heads, columns]);
        Ok(RopeArgs {
            x: Heads::with_columns(self.x.slice_from(from.first), shape, x_pitch, from.of)?,
            positions: self.positions.indices()?,
            table: self.table.matrix()?,
            out: HeadsMut::with_columns(self.out.slice_mut_from(to.first), shape, out_pitch, to.of)?,
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
        let RopeCase { tokens, heads, columns, pairs, to, .. } = self.problem.case;
        let most = if scrutiny == Scrutiny::Brief { JUDGED.1 } else { JUDGED.0 };
        let judged = spread(tokens, most);
        let x = rows_of(&self.problem.x, heads * columns, &judged);
        let positions = rows_of(&self.problem.positions, 1, &judged);
        let pairs = match pairs {
            RopePairs::Neighbours => Pairs::Neighbours,
            RopePairs::Halves => Pairs::Halves,
        };
        let turned = rope(&x, [heads, columns], pairs, &positions, &self.problem.table)?;
        let expected = to.among(&turned, columns, bf16::SENTINEL);
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
    let shapes = [(64, ROPE_NEIGHBOURS), (64, ROPE_HALVES), (36, ROPE_HALVES), (6, ROPE_NEIGHBOURS)];
    let all = shapes.map(|(columns, pairs)| traced_with(columns, pairs, 1));
    WORDS_PER_INDEX.map(|words| traced_with(64, ROPE_NEIGHBOURS, words)).into_iter().chain(all).collect()
}

/// The last CTA is ragged; heads as in a query of 192 columns, to one of 576.
fn traced_with(columns: u32, pairs: u32, words_per_index: u32) -> Launch {
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
        .u32(offset_of!(RopeParams, table_rows), 200)
        .u32(offset_of!(RopeParams, columns), columns)
        .u32(offset_of!(RopeParams, pairs), pairs);
    let thread_columns = match (pairs, columns % 8) {
        (ROPE_HALVES, _) => 4,
        (_, 0) => 8,
        _ => 2,
    };
    fixed(&ROTATE, (15 * 5 * columns / thread_columns).div_ceil(ROTATE.threads), params)
}

mod faults {
    use crate::case::boxed;
    use crate::mla::ROPE;
    use crate::mla::rope::{RopeCase, RopeProblem};
    use crate::planted::{Changed, Trial, faults};
    use deepseek_kernels::bf16;
    use deepseek_kernels::mla::RopePairs;
    use std::sync::Arc;

    const ROTATE: Trial = Trial::Changed(rotate);
    const FAR: Trial = Trial::Far(|| boxed([RopeCase::new(3, 2, 9)]));
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
        let words = drawn(RopeCase::new(7, 3, 40).with_columns(6, RopePairs::Neighbours));
        let halves = drawn(RopeCase::new(7, 3, 40).with_columns(36, RopePairs::Halves));
        let mut strange_halves = halves.clone();
        strange_halves.positions[3] = -1;
        [good, strange, cancelling, other_sum, words, halves, strange_halves].map(changed).into()
    }

    faults! {
        tokens_counted_in_32_bits: FAR,
            "token * params.x_token_stride" => "static_cast<uint32_t>(token * params.x_token_stride)", ["out["];
        turned_backwards: ROTATE,
            "{x * cos - y * sin, x * sin + y * cos}" => "{x * cos + y * sin, y * cos - x * sin}", ["out["];
        results_exchanged: ROTATE,
            "{x * cos - y * sin, x * sin + y * cos}" => "{x * sin + y * cos, x * cos - y * sin}", ["out["];
        cos_and_sin_exchanged: ROTATE,
            "turn(float x, float y, uint32_t cos_bits, uint32_t sin_bits)"
                => "turn(float x, float y, uint32_t sin_bits, uint32_t cos_bits)", ["out["];
        fused: ROTATE, "x * cos - y * sin" => "ptx::fma_rn(x, cos, -(y * sin))", ["out["];
        second_fused_onto_y: ROTATE, "x * sin + y * cos" => "ptx::fma_rn(x, sin, y * cos)", ["out["];
        second_fused_onto_x: ROTATE, "x * sin + y * cos" => "ptx::fma_rn(y, cos, x * sin)", ["out["];
        fused_onto_x: ROTATE, "x * cos - y * sin" => "ptx::fma_rn(-y, sin, x * cos)", ["out["];
        halves_as_pairs: ROTATE,
            "turn_pair(x.y, a.z, a.w), turn_pair(x.z, b.x, b.y)" => "turn_pair(x.z, a.z, a.w), turn_pair(x.y, b.x, b.y)",
            ["out["];
        angles_of_the_next_position: ROTATE,
            "position * params.table_pitch" => "(position + 1) * params.table_pitch", ["out[", "outside"];
        angles_of_the_first_pairs: ROTATE, "params.table_pitch + angle" => "params.table_pitch", ["out["];
        angles_of_half_the_pairs: ROTATE, "params.table_pitch + angle" => "params.table_pitch + column", ["out[", "misaligned"];
        halves_of_a_piece: ROTATE, "gX + half" => "gX + 4", ["out[", "outside"];
        halves_exchanged: ROTATE,
            "ptx::stg_u32(gOut, left); ptx::stg_u32(gOut + half, right);"
                => "ptx::stg_u32(gOut, right); ptx::stg_u32(gOut + half, left);",
            ["out["];
        second_pair_of_halves_by_the_first_angle: ROTATE,
            "ptx::bf16_hi_f32(y), a.z, a.w" => "ptx::bf16_hi_f32(y), a.x, a.y", ["out["];
        word_by_the_next_angle: ROTATE,
            "turn_pair(x, cos_bits, sin_bits)" => "turn_pair(x, sin_bits, cos_bits)", ["out["];
        position_of_the_head: ROTATE, "params.positions, 0, token" => "params.positions, 0, head", ["out[", "got one of nothing"];
        narrow_positions_read_as_wide: ROTATE, "indices.words_per_index - 1" => "1", ["outside"];
        heads_as_far_apart_as_results: ROTATE,
            "head * params.x_head_stride" => "head * params.out_head_stride", ["out[", "outside"];
        tokens_of_results_too_close: ROTATE,
            "token * params.out_token_stride" => "token * params.out_head_stride", ["not ordered"];
        position_not_checked: ROTATE, "position < params.table_rows" => "true", ["out[", "outside"];
        position_unreported: ROTATE, "report_fault(params.error_words, FAULT_POSITION);" => "(void)0;", ["got one of nothing"];
        stranger_left_unwritten: ROTATE, "return ptx::stg_v4_u32(gOut, {});" => "return;", ["out["];
        heads_past_the_end: ROTATE, "if (token >= params.tokens) return;" => "", ["outside"];

        // Positions of 64 bits.
        high_word_ignored: WIDE, "high == low >> 31 ? low : INT32_MIN" => "low", ["out["];
        words_exchanged: WIDE,
            "ptx::ldg_u32(gWords)" => "ptx::ldg_u32(gWords + indices.words_per_index - 1)", ["out[", "got one of"];
        wide_positions_read_as_narrow: WIDE, "column * indices.words_per_index" => "column", ["out[", "got one of"];
    }
}
