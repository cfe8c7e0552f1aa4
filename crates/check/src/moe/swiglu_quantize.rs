//! The activation between an expert's two GEMMs, quantised for the second one.

use super::{TRACED_K, TRACED_ROWS, order_suffix, order_title, swiglu_model, traced_rows};
use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::SwigluQuantizeParams;
use deepseek_kernels::table::moe::SWIGLU_QUANTIZE;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::moe::{
    ExpertMapSpec, GateUpOrder, RoutingWeights, SwigluQuantize, SwigluQuantizeArgs, SwigluQuantizeSpec,
};
use deepseek_kernels::{DataFaults, Error, Stream, bf16};
use oracles::moe::swiglu_quantize;
use oracles::quant::Quantized;

use super::batch::{Batch, QuantizedRows};
use super::expert_map::ExpertMapCase;
use crate::case::{Case, Expected, Prepared, Problem, Work};
use crate::data::repeated;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};
use crate::quant::{QuantizerClass, Rule};

/// Rows of routed tokens: of three, one shows what a quantiser does, one has gates on both sides of 0, where silu bends, and
/// one has negative gates alone, of which every bit of the exponential counts. Rows of no route hold NaN.
#[derive(Debug, Clone, Copy)]
pub struct SwigluQuantizeCase {
    pub map: ExpertMapCase,
    pub intermediate: usize,
    pub clamp: Option<f32>,
    /// Whether rows are multiplied with the weights of their routes.
    pub weighted: bool,
    pub rule: Rule,
    pub order: GateUpOrder,
    /// Few rows differ: large operands are drawn in no time.
    pub repeated: bool,
}

/// Rows that differ, a multiple of three.
const DRAWN: usize = 252;

impl SwigluQuantizeCase {
    /// Gate first, without a clamp and weights, powers of two.
    pub const fn new(map: ExpertMapCase, intermediate: usize) -> Self {
        let (rule, order) = (Rule::POWER_OF_TWO, GateUpOrder::GateFirst);
        Self { map, intermediate, clamp: None, weighted: false, rule, order, repeated: false }
    }

    fn spec(&self) -> SwigluQuantizeSpec {
        let Self { map: ExpertMapCase { spec, .. }, intermediate, clamp, rule, order, .. } = *self;
        let spec = SwigluQuantizeSpec::new(intermediate, spec.local(), spec.segments());
        spec.clamp(clamp).rule(rule.rule()).order(order)
    }

    fn x(&self, batch: &Batch) -> Vec<bf16> {
        let (rows, columns) = (batch.rows(), 2 * self.intermediate);
        let drawn = if self.repeated { rows.min(DRAWN) } else { rows };
        let mut x = QuantizerClass::Special.draw((drawn, columns), false, self.map.seed);
        let bend = |row: usize, i: usize| bf16::from_f32((i as f32 * 0.37 + row as f32).sin() * 9.0);
        for (row, x) in x.chunks_exact_mut(columns.max(1)).enumerate().filter(|(row, _)| row % 3 != 0) {
            x.iter_mut().enumerate().for_each(|(i, x)| *x = bend(row, i));
            if row % 3 == 2 {
                let gate = if self.order == GateUpOrder::UpFirst { self.intermediate } else { 0 };
                x[gate..][..self.intermediate]
                    .iter_mut()
                    .for_each(|gate| *gate = bf16::from_f32(-gate.to_f32().abs()));
            }
        }
        let mut x = repeated(&x, columns, rows);
        let lines = x.chunks_exact_mut(columns.max(1)).enumerate();
        lines.filter(|(row, _)| batch.route(*row).is_none()).for_each(|(_, x)| x.fill(bf16::NAN));
        x
    }

    /// With its inputs.
    pub fn problem(self) -> SwigluQuantizeProblem {
        let routes = self.map.spec.tokens * self.map.spec.top_k;
        let weights = || (0..routes).map(|route| (route as f32 * 0.71).cos() + 0.1).collect();
        let batch = self.map.batch();
        SwigluQuantizeProblem {
            x: self.x(&batch),
            weights: self.weighted.then(weights),
            batch,
            case: self,
            expected: Expected::default(),
        }
    }
}

impl Case for SwigluQuantizeCase {
    fn operation(&self) -> &'static str {
        "swiglu_quantize"
    }

    fn title(&self) -> String {
        format!("SwiGLU and quantise{}", order_title(self.order))
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.map.spec.rows(), self.intermediate)
    }

    fn label(&self) -> String {
        let weighted = if self.weighted { "_weighted" } else { "" };
        let clamp = self.clamp.map_or_else(String::new, |clamp| format!("_clamp{clamp}"));
        let (map, rule, order) = (self.map.rows_label(), self.rule.suffix(), order_suffix(self.order));
        format!("{map}_{}{rule}{weighted}{clamp}{order}", self.intermediate)
    }

    fn data(&self) -> String {
        self.map.data()
    }

    fn work(&self) -> Work {
        let (routes, width) = (self.map.spec.tokens * self.map.spec.top_k, self.intermediate);
        let weights = if self.weighted { 8 } else { 0 };
        Work { flops: 0, bytes: (routes * (4 * width + width + width / 32 + weights)) as u64 }
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        let mut case = *self;
        case.map.seed = case.map.seed.wrapping_add(by);
        Box::new(case)
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// Align, and whose they are.
#[derive(Debug, Clone)]
pub struct SwigluQuantizeProblem {
    pub case: SwigluQuantizeCase,
    pub batch: Batch,
    pub x: Vec<bf16>,
    pub weights: Option<Vec<f32>>,
    pub expected: Expected<Quantized>,
}

impl SwigluQuantizeProblem {
    /// Rows of no expert are zero, and with weights those without a route.
    fn reference(&self) -> Result<Quantized> {
        let Self {
            case: SwigluQuantizeCase { intermediate, clamp, rule, order, .. }, ref batch, ref x, ..
        } = *self;
        let weight = |row: usize| match &self.weights {
            _ if !batch.used(row) => None,
            None => Some(1.0),
            Some(weights) => batch.route(row).map(|route| weights[route]),
        };
        Ok(swiglu_quantize(&swiglu_model(clamp, order, rule), x, (batch.rows(), intermediate), &weight)?)
    }

    fn expected(&self) -> Result<&Quantized> {
        self.expected.get(Scrutiny::Thorough, || self.reference())
    }
}

impl Problem for SwigluQuantizeProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(SwigluQuantizeRun::new(self, arena)?))
    }
}

/// A SwiGLU on a device.
pub struct SwigluQuantizeRun {
    problem: Arc<SwigluQuantizeProblem>,
    pub plan: SwigluQuantize,
    pub operands: SwigluQuantizeOperands,
}

pub struct SwigluQuantizeOperands {
    x: Operand<bf16>,
    segments: Operand<i32>,
    /// Weights, and the routes of the rows.
    routing: Option<(Operand<f32>, Operand<i32>)>,
    out: QuantizedRows,
}

impl SwigluQuantizeRun {
    pub fn new(problem: Arc<SwigluQuantizeProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let SwigluQuantizeProblem { case, batch, x, weights, .. } = &*problem;
        let plan = SwigluQuantize::plan(arena.device(), case.spec())?;
        let ExpertMapSpec { tokens, top_k, .. } = batch.spec;
        let mut routing = |weights: &Vec<f32>| -> Result<_> {
            let weights = arena.input(weights, (tokens, top_k), Align(4))?;
            Ok((weights, arena.list(&batch.map.row_route)?))
        };
        let operands = SwigluQuantizeOperands {
            routing: weights.as_ref().map(&mut routing).transpose()?,
            x: arena.input(x, (batch.rows(), 2 * case.intermediate), Align(16))?,
            segments: arena.list(batch.segments())?,
            out: QuantizedRows::new(arena, (batch.rows(), case.intermediate), Align(8))?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl SwigluQuantizeOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<SwigluQuantizeArgs<'_>, Error> {
        let routing = match &self.routing {
            Some((weights, row_route)) => {
                Some(RoutingWeights { weights: weights.matrix()?, row_route: row_route.vector()? })
            }
            None => None,
        };
        Ok(SwigluQuantizeArgs {
            x: self.x.matrix()?,
            segments: self.segments.vector()?,
            routing,
            q: self.out.q.matrix_mut()?,
            sf: self.out.sf.m_major_mut()?,
        })
    }
}

impl Prepared for SwigluQuantizeRun {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        self.operands.out.outputs()
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let batch = &self.problem.batch;
        self.operands.out.judge(batch.rows(), |row| batch.used(row), self.problem.expected()?)
    }

    fn faults(&self) -> DataFaults {
        let nonfinite = self.problem.expected().is_ok_and(|rows| rows.nonfinite);
        self.problem.batch.faults(self.problem.weights.is_some(), nonfinite)
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    [0, 20]
        .into_iter()
        .flat_map(|max_rows| [true, false].map(|weighted| traced_in(max_rows, weighted)))
        .collect()
}

fn traced_in(max_rows: u32, weighted: bool) -> Launch {
    let params = Params::of::<SwigluQuantizeParams>()
        .u64(offset_of!(SwigluQuantizeParams, gate), region(1))
        .u64(offset_of!(SwigluQuantizeParams, up), region(7))
        .u64(offset_of!(SwigluQuantizeParams, weights), if weighted { region(2) } else { 0 })
        .u64(offset_of!(SwigluQuantizeParams, row_route), region(3))
        .u64(offset_of!(SwigluQuantizeParams, q), region(4))
        .u64(offset_of!(SwigluQuantizeParams, sf), region(5))
        .u64(offset_of!(SwigluQuantizeParams, error_words), region(6))
        .u64(offset_of!(SwigluQuantizeParams, x_pitch), 776)
        .u64(offset_of!(SwigluQuantizeParams, weights_pitch), 7)
        .u64(offset_of!(SwigluQuantizeParams, q_pitch), 400)
        .u64(offset_of!(SwigluQuantizeParams, sf_pitch), 163)
        .u32(offset_of!(SwigluQuantizeParams, clamp), 100.0_f32.to_bits())
        .u32(offset_of!(SwigluQuantizeParams, routes), 150)
        .u32(offset_of!(SwigluQuantizeParams, top_k), 6)
        .u32(offset_of!(SwigluQuantizeParams, k), TRACED_K);
    let params = Rule::POWER_OF_TWO.trace(params, offset_of!(SwigluQuantizeParams, rule));
    let params = traced_rows(params, offset_of!(SwigluQuantizeParams, used), max_rows);
    fixed(&SWIGLU_QUANTIZE, TRACED_ROWS * TRACED_K.div_ceil(128) / 16, params)
}

mod faults {
    use crate::case::{Cases, boxed};
    use crate::moe::expert_map::ExpertMapCase;
    use crate::moe::swiglu_quantize::SwigluQuantizeCase;
    use crate::moe::{LAYOUTS, Routing};
    use crate::planted::{Changed, Trial, faults};
    use crate::quant::Rule;
    use deepseek_kernels::bf16;
    use std::sync::Arc;

    const SWIGLU: Trial = Trial::Cases(activate);
    /// An infinite gate, and an infinite up of either sign, which a clamp leaves as it is.
    const GATE: Trial = Trial::Changed(|| infinite(0, bf16::INFINITY));
    const UP: Trial = Trial::Changed(|| infinite(256, bf16::INFINITY));
    const MINUS_UP: Trial = Trial::Changed(|| infinite(256, bf16::NEG_INFINITY));

    fn infinite(column: usize, value: bf16) -> Vec<Changed> {
        let map = ExpertMapCase { routing: Routing::Uniform, ..ExpertMapCase::new((5, 1, 2)) };
        let case = SwigluQuantizeCase { clamp: Some(6.0), ..SwigluQuantizeCase::new(map, 256) };
        let mut problem = case.problem();
        problem.x.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = bf16::ONE);
        problem.x[2 * 512 + column + 77] = value;
        vec![(Box::new(problem.case), Arc::new(problem))]
    }

    fn activate() -> Cases {
        let case = |layout| {
            let map = ExpertMapCase::new((23, 3, 5)).laid_out(layout);
            let map = ExpertMapCase { routing: Routing::Strangers, seed: 2, ..map };
            let case = SwigluQuantizeCase::new(map, 256);
            SwigluQuantizeCase { clamp: Some(6.0), weighted: true, rule: Rule::FP32, ..case }
        };
        // Without a clamp the largest h of a block has all its bits, and so have scales in FP32.
        let plain = |layout| SwigluQuantizeCase { clamp: None, ..case(layout) };
        boxed(LAYOUTS.map(case).into_iter().chain([plain(LAYOUTS[0])]))
    }

    faults! {
        halves_exchanged: SWIGLU,
            "swiglu(gate.x[i], up.x[i], params.clamp)" => "swiglu(up.x[i], gate.x[i], params.clamp)", ["q[", "sf["];
        up_of_the_next_block: SWIGLU, "load_bf16_piece(params.up + element)" => "load_bf16_piece(params.up + element + 8)", ["q[", "sf["];
        weight_of_the_row_not_of_its_route: SWIGLU,
            "pitched(route," => "pitched(static_cast<uint32_t>(row),", ["q[", "sf[", "outside"];
        weights_of_another_pitch: SWIGLU,
            "params.top_k, params.weights_pitch" => "params.top_k, params.weights_pitch + 1", ["q[", "sf[", "outside"];
        weights_without_their_pitch: SWIGLU,
            "params.top_k, params.weights_pitch" => "params.top_k, params.top_k", ["q[", "sf["];
        weight_left_out: SWIGLU, "params.clamp) * weight" => "params.clamp)", ["q[", "sf["];
        padding_row_read: SWIGLU, "route >= params.routes" => "route >= params.routes && route != kPadding", ["outside"];
        gate_not_clamped: SWIGLU, "gate > clamp && gate <= kMax ? clamp : gate" => "gate", ["q[", "sf["];
        up_clamped_from_above_only: SWIGLU, "up < -clamp && up >= -kMax ? -clamp : up" => "up", ["q[", "sf["];
        infinite_gate_clamped: GATE, "gate > clamp && gate <= kMax" => "gate > clamp", ["q[", "sf["];
        infinite_up_clamped: UP, "up > clamp && up <= kMax" => "up > clamp", ["q[", "sf["];
        negative_infinite_up_clamped: MINUS_UP, "up < -clamp && up >= -kMax" => "up < -clamp", ["q[", "sf["];
        sigmoid_of_the_wrong_sign: SWIGLU, "float swiglu ... exp_f32(-x)" => "exp_f32(x)", ["q[", "sf["];
        rows_up_to_the_last_but_one_end: SWIGLU,
            "row / used.max_rows : used.experts" => "row / used.max_rows : used.experts - 1", ["q[", "sf["];
        up_before_the_quotient: SWIGLU, "x / (1.0f + exp_f32(-x)) * y" => "x * y / (1.0f + exp_f32(-x))", ["sf["];
        gate_times_the_sigmoid: SWIGLU,
            "x / (1.0f + exp_f32(-x)) * y" => "x * (1.0f / (1.0f + exp_f32(-x))) * y", ["sf["];
        weight_in_up: SWIGLU,
            "swiglu(gate.x[i], up.x[i], params.clamp) * weight" => "swiglu(gate.x[i], up.x[i] * weight, params.clamp)",
            ["sf["];
        h_rounded_to_bf16: SWIGLU,
            "h.x[i] = swiglu(gate.x[i], up.x[i], params.clamp) * weight"
                => "h.x[i] = ptx::bf16_lo_f32(ptx::cvt_bf16x2(0.0f, swiglu(gate.x[i], up.x[i], params.clamp) * weight))",
            ["sf["];
        exponential_of_the_hardware: SWIGLU,
            "x / (1.0f + exp_f32(-x)) * y" => "x / (1.0f + ptx::ex2_approx(-x * 1.442695041f)) * y", ["sf["];
        masked_rows_ignored: SWIGLU, "used.max_rows != 0" => "false", ["q[", "sf[", "was written", "outside"];
    }
}
