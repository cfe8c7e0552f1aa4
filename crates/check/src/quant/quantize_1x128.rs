//! The quantiser of activations, with scales in either layout.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::Quantize1x128Params;
use deepseek_kernels::table::quant::QUANTIZE_1X128;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize1x128Args, QuantizeSpec, RowMajor, Scales1x128Mut,
};
use deepseek_kernels::{DataFaults, Error, F8E4M3, Matrix, MatrixMut, Stream, bf16};
use oracles::quant::quantize_1x128;

use super::{QuantizerClass, Rule};
use crate::case::{Case, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};

/// How scales are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[k/128, rows]`.
    MMajor,
    /// `[rows, k/128]`.
    RowMajor,
}

/// A matrix `[rows, k]`, one scale per 1x128.
#[derive(Debug, Clone, Copy)]
pub struct Quantize1x128Case {
    pub rows: usize,
    pub k: usize,
    pub rule: Rule,
    pub layout: Layout,
    pub class: QuantizerClass,
    /// Few rows differ: large operands are drawn in no time.
    pub repeated: bool,
    pub seed: u64,
}

impl Quantize1x128Case {
    /// Special rows, powers of two as the GEMM reads them.
    pub const fn new((rows, k): (usize, usize)) -> Self {
        Self {
            rows,
            k,
            rule: Rule::POWER_OF_TWO,
            layout: Layout::MMajor,
            class: QuantizerClass::Special,
            repeated: false,
            seed: 1,
        }
    }

    /// With its inputs.
    pub fn problem(self) -> Quantize1x128Problem {
        Quantize1x128Problem { x: self.class.draw((self.rows, self.k), self.repeated, self.seed), case: self }
    }
}

impl Case for Quantize1x128Case {
    fn operation(&self) -> &'static str {
        "quantize_1x128"
    }

    fn title(&self) -> String {
        let axes = match self.layout {
            Layout::MMajor => "[k/128, m]",
            Layout::RowMajor => "[m, k/128]",
        };
        format!("quantise 1x128, {} {axes}", self.rule.title())
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.k)
    }

    fn label(&self) -> String {
        let layout = if self.layout == Layout::RowMajor { "_row_major" } else { "" };
        format!("{}x{}{}{layout}", self.rows, self.k, self.rule.suffix())
    }

    fn data(&self) -> String {
        self.class.name().to_owned()
    }

    fn work(&self) -> Work {
        let elements = self.rows * self.k;
        Work { flops: 0, bytes: (3 * elements + elements / 32) as u64 }
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// A quantiser with its input.
#[derive(Debug, Clone)]
pub struct Quantize1x128Problem {
    pub case: Quantize1x128Case,
    pub x: Vec<bf16>,
}

impl Problem for Quantize1x128Problem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(Quantize1x128Run::new(self, arena)?))
    }
}

/// A quantiser on a device.
pub struct Quantize1x128Run {
    problem: Arc<Quantize1x128Problem>,
    pub plan: Quantize1x128,
    pub operands: Quantize1x128Operands,
}

pub struct Quantize1x128Operands {
    layout: Layout,
    x: Operand<bf16>,
    q: Operand<F8E4M3>,
    sf: Operand<f32>,
}

/// What a plan is given, in either layout.
pub struct Quantize1x128Call<'a> {
    pub x: Matrix<'a, bf16>,
    pub q: MatrixMut<'a, F8E4M3>,
    pub sf: ScalesOut<'a>,
}

/// Scales to be written, in either layout.
pub enum ScalesOut<'a> {
    MMajor(Scales1x128Mut<'a, MMajor>),
    RowMajor(Scales1x128Mut<'a, RowMajor>),
}

impl Quantize1x128Call<'_> {
    /// Enqueues the plan.
    ///
    /// # Errors
    /// Of the plan.
    pub fn run(self, plan: &Quantize1x128, stream: Stream<'_>) -> Result<(), Error> {
        let Self { x, q, sf } = self;
        match sf {
            ScalesOut::MMajor(sf) => plan.run(stream, Quantize1x128Args { x, q, sf }),
            ScalesOut::RowMajor(sf) => plan.run(stream, Quantize1x128Args { x, q, sf }),
        }
    }
}

impl Quantize1x128Run {
    pub fn new(problem: Arc<Quantize1x128Problem>, arena: &mut Arena<'_>) -> Result<Self> {
        let Quantize1x128Case { rows, k, rule, layout, .. } = problem.case;
        let plan = Quantize1x128::plan(arena.device(), QuantizeSpec::new(rows, k).rule(rule.rule()))?;
        let scales = match layout {
            Layout::MMajor => (k.div_ceil(128), rows),
            Layout::RowMajor => (rows, k.div_ceil(128)),
        };
        let operands = Quantize1x128Operands {
            layout,
            x: arena.input(&problem.x, (rows, k), Align(16))?,
            q: arena.output((rows, k), Align(8))?,
            sf: arena.output(scales, Align(4))?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl Quantize1x128Operands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<Quantize1x128Call<'_>, Error> {
        let sf = match self.layout {
            Layout::MMajor => ScalesOut::MMajor(self.sf.m_major_mut()?),
            Layout::RowMajor => ScalesOut::RowMajor(self.sf.row_major_mut()?),
        };
        Ok(Quantize1x128Call { x: self.x.matrix()?, q: self.q.matrix_mut()?, sf })
    }
}

impl Prepared for Quantize1x128Run {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.operands.args()?.run(&self.plan, stream)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("q", &self.operands.q)?, Output::read("sf", &self.operands.sf)?])
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let Quantize1x128Problem { case: Quantize1x128Case { rows, k, rule, layout, .. }, x } =
            &*self.problem;
        let mut expected = quantize_1x128(x, *rows, *k, *k, rule.model())?;
        if *layout == Layout::RowMajor {
            let lines = expected.sf;
            expected.sf = (0..*rows).flat_map(|row| lines.iter().skip(row).step_by(*rows)).copied().collect();
        }
        Ok(vec![
            self.operands.sf.equals("scales", "sf", &expected.sf)?,
            self.operands.q.equals("codes", "q", &expected.q)?,
        ])
    }

    fn faults(&self) -> DataFaults {
        super::nonfinite(&self.problem.x)
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    Rule::ALL.map(traced_in).into()
}

fn traced_in(rule: Rule) -> Launch {
    let (m, k) = (5, 872_u32);
    let params = Params::of::<Quantize1x128Params>()
        .u64(offset_of!(Quantize1x128Params, x), region(0))
        .u64(offset_of!(Quantize1x128Params, q), region(1))
        .u64(offset_of!(Quantize1x128Params, sf), region(2))
        .u64(offset_of!(Quantize1x128Params, error_words), region(3))
        .u64(offset_of!(Quantize1x128Params, x_pitch), 1000)
        .u64(offset_of!(Quantize1x128Params, q_pitch), 912)
        .u64(offset_of!(Quantize1x128Params, sf_row_stride), 1)
        .u64(offset_of!(Quantize1x128Params, sf_group_stride), 8)
        .u32(offset_of!(Quantize1x128Params, m), m)
        .u32(offset_of!(Quantize1x128Params, k), k);
    let params = rule.trace(params, offset_of!(Quantize1x128Params, rule));
    let grid = (m * k.div_ceil(128)).div_ceil(QUANTIZE_1X128.threads / 16);
    fixed(&QUANTIZE_1X128, grid, params)
}

mod faults {
    use super::{Layout, Quantize1x128Case};
    use crate::case::boxed;
    use crate::planted::{Trial, faults};
    use crate::quant::{QuantizerClass, Rule};

    const ROWS: Trial = Trial::Cases(|| boxed(CLASSES.into_iter().flat_map(rows)));
    /// More rows than 16 bits count.
    const MANY: Trial = Trial::Cases(|| boxed([Quantize1x128Case::new((70_000, 8))]));
    const FAR: Trial = Trial::Far(|| boxed([Quantize1x128Case::new((3, 256))]));

    /// The formulas of a scale differ in few codes only.
    const CLASSES: [QuantizerClass; 2] = [QuantizerClass::Special, QuantizerClass::Borders];

    fn rows(class: QuantizerClass) -> impl Iterator<Item = Quantize1x128Case> {
        let case = Quantize1x128Case {
            class,
            layout: Layout::RowMajor,
            seed: 5,
            ..Quantize1x128Case::new((75, 344))
        };
        let cases = Rule::ALL.map(|rule| Quantize1x128Case { rule, ..case });
        cases.into_iter().chain([Quantize1x128Case { layout: Layout::MMajor, ..case }])
    }

    faults! {
        rows_counted_in_16_bits: MANY,
            "first = static_cast<uint64_t>(block / blocks) * kRows" => "first = static_cast<uint16_t>(block / blocks * kRows)",
            ["codes: ", "scales: ", "race"];
        rows_counted_in_32_bits: FAR,
            "(first + i) * params.x_pitch" => "static_cast<uint32_t>((first + i) * params.x_pitch)", ["codes: "];
        loaded_before_the_grids_ahead_have_ended: ROWS,
            "void quantize_1x128_kernel ... enter_grid();" => "",
            "const BlockScale scale = scale_of_block" => "enter_grid(); const BlockScale scale = scale_of_block",
            ["global load before griddepcontrol.wait: a grid ahead"];
        amax_over_half_the_lanes: ROWS, "warp_reduce<kLanesPerRow>" => "warp_reduce<kLanesPerRow / 2>", ["scales: "];
        amax_over_two_rows: ROWS, "warp_reduce<kLanesPerRow>" => "warp_reduce<2 * kLanesPerRow>", ["scales: "];
        blocks_past_the_end: ROWS, "if (row >= rows) continue;" => "", ["not ordered", "outside", "scales: ", "codes: "];
        no_floor_under_amax: ROWS, "amax < rule.amax_floor ? rule.amax_floor : amax" => "amax", ["scales: "];
        amax_over_infinities: ROWS, "magnitude < kInfinityBits ?" => "magnitude <= kInfinityBits ?", ["scales: "];
        an_infinity_is_the_amax: ROWS, "greatest < kInfinityBits" => "greatest <= kInfinityBits", ["scales: "];
        rows_past_the_end_read: ROWS, "ldg_v4_u32_if(first + i < rows" => "ldg_v4_u32_if(true", ["outside"];
        rows_of_the_next_lane: ROWS, "block / blocks) * kRows" => "block / blocks)", ["not ordered", "scales: ", "codes: "];
        columns_past_the_end: ROWS, "column < params.k ? params.m : 0" => "params.m", ["outside", "scales: ", "not ordered"];
        quotients_as_products: ROWS, "scale.divides && magnitude_bits" => "false && magnitude_bits", ["codes: "];
        zeros_without_their_sign: ROWS, "magnitude_bits(product) - 1 < kInfinityBits - 1" => "magnitude_bits(product) < kInfinityBits", ["codes: "];
        an_infinity_corrected: ROWS, "magnitude_bits(product) - 1 < kInfinityBits - 1" => "product != 0.0f", ["codes: "];
        a_scale_that_is_no_reciprocal: ROWS, "return {1.0f / factor, factor, false};" => "return {amax / kE4m3Max, factor, false};", ["scales: "];
        a_factor_of_zeros: ROWS, "if (amax == 0.0f) return {1.0f, 1.0f, false};" => "", ["scales: "];
        scale_by_the_inverse_of_448: ROWS,
            "const float scale = floored / kE4m3Max;" => "const float scale = floored * (1.0f / kE4m3Max);",
            ["scales: "];
        multiplier_of_fp32_for_a_power_of_two: ROWS,
            "return {power, 1.0f / power, false};" => "return {power, kE4m3Max / floored, false};", ["codes: "];
        power_of_two_rounded_down: ROWS, "+ 0x007fffffu" => "", ["scales: "];
        multiplier_of_the_wrong_formula: ROWS, "? kE4m3Max / floored : 1.0f / scale" => "? 1.0f / scale : kE4m3Max / floored", ["codes: "];
        codes_exchanged_in_a_pair: ROWS,
            "cvt_e4m3x2(x[1], x[0])" => "cvt_e4m3x2(x[0], x[1])", ["codes: "];
        infinities_unreported: ROWS, "if (greatest_magnitude(x) >= kInfinityBits) report_fault" => "if (false) report_fault", ["got one of nothing"];
        report_by_an_ordinary_store: ROWS,
            "ptx::st_relaxed_sys_u32" => "ptx::stg_u32", ["host memory that the host uses meanwhile"];
    }
}
