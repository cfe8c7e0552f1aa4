//! What the experts made of a token, added up.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::CombineParams;
use deepseek_kernels::table::moe::COMBINE;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::moe::{Combine, CombineArgs, CombineSpec, ExpertMapSpec};
use deepseek_kernels::{DataFaults, Error, Stream, bf16};
use oracles::moe::{Combined, Mapped, combine};

use super::expert_map::ExpertMapCase;
use crate::case::{Case, Prepared, Problem, Work, fault_if};
use crate::data::repeated;
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};

/// Tokens put together from rows.
#[derive(Debug, Clone, Copy)]
pub struct CombineCase {
    pub map: ExpertMapCase,
    pub hidden: usize,
    /// Whether rows are multiplied with the weights of their routes.
    pub weighted: bool,
    /// Whether the output of shared experts is added.
    pub shared: bool,
    /// Whether a residual is added.
    pub residual: bool,
    /// Whether routes, or the shared experts and the residual, take back what others add, and rounding errors are left: the
    /// order of all of them and each fma show.
    pub cancelling: bool,
    /// Whether the first route has a row that does not exist.
    pub astray: bool,
    /// Few rows differ: large operands are drawn in no time.
    pub repeated: bool,
}

/// Rows that differ: none is like one that is a power of two away.
const DRAWN: usize = 509;
/// Tokens of a brief look.
const BRIEF: usize = 64;

impl CombineCase {
    /// With all that may be added.
    pub const fn new(map: ExpertMapCase, hidden: usize) -> Self {
        Self {
            map,
            hidden,
            weighted: true,
            shared: true,
            residual: true,
            cancelling: false,
            astray: false,
            repeated: false,
        }
    }

    /// Rows of values of many magnitudes, whose sum depends on its order.
    pub fn values(&self, rows: usize, seed: u64) -> Vec<bf16> {
        let drawn = if self.repeated { rows.min(DRAWN) } else { rows };
        let value = |i: usize| {
            let angle = i as f32 * 1.37 + seed as f32 * 0.61;
            bf16::from_f32(angle.sin() * ((i as f32 * 0.77 + seed as f32).cos() * 6.0).exp2())
        };
        let drawn: Vec<bf16> = (0..drawn * self.hidden).map(value).collect();
        repeated(&drawn, self.hidden, rows)
    }

    /// Rows that add up to next to nothing, by the route of each; or, where shared experts and a residual do so, small ones.
    fn cancelling(&self, row_route: &[i32]) -> Vec<bf16> {
        let of_route = |k: usize| match self.shared {
            true => 3.0,
            false => [1.0, 3e8, -3e8].get(k).copied().unwrap_or(0.5),
        };
        let value = |route: i32| of_route(route.max(0) as usize % self.map.spec.top_k);
        let row = |&route: &i32| vec![bf16::from_f32(value(route)); self.hidden];
        row_route.iter().flat_map(row).collect()
    }

    /// With its inputs.
    pub fn problem(self) -> CombineProblem {
        let ExpertMapSpec { tokens, top_k, .. } = self.map.spec;
        let rows = self.map.spec.rows();
        let Mapped { mut route_row, row_route, .. } = self.map.batch().map;
        if self.astray {
            route_row.iter_mut().take(1).for_each(|row| *row = rows as i32);
        }
        // Small numbers: the arguments of the sines stay exact enough to differ.
        let seed = self.map.seed % 1000;
        let weight = |i: usize| match self.cancelling {
            true => 1.234_567_8,
            false => 0.01 + (i as f32 * 0.917).sin().abs() * 2.5,
        };
        // 2^28: powers of two lie closer together below than above.
        let addend = |which| match self.cancelling {
            true => vec![
                bf16::from_f32(if which == 1 { 268_435_456.0 } else { -268_435_456.0 });
                tokens * self.hidden
            ],
            false => self.values(tokens, seed + which),
        };
        CombineProblem {
            case: self,
            y: if self.cancelling { self.cancelling(&row_route) } else { self.values(rows, seed) },
            route_row,
            weights: self.weighted.then(|| (0..tokens * top_k).map(weight).collect()),
            shared: self.shared.then(|| addend(1)),
            residual: self.residual.then(|| addend(2)),
        }
    }
}

impl Case for CombineCase {
    fn operation(&self) -> &'static str {
        "combine"
    }

    fn title(&self) -> String {
        "combine".to_owned()
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.map.spec.tokens, self.hidden)
    }

    fn label(&self) -> String {
        let addends = [(self.weighted, "_weighted"), (self.shared, "_shared"), (self.residual, "_residual")];
        let addends: String = addends.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
        format!("{}_{}{addends}", self.map.rows_label(), self.hidden)
    }

    fn data(&self) -> String {
        self.map.data()
    }

    fn work(&self) -> Work {
        let ExpertMapSpec { tokens, top_k, .. } = self.map.spec;
        let rows = tokens * (top_k + 1 + usize::from(self.shared) + usize::from(self.residual));
        let routes = tokens * top_k * if self.weighted { 8 } else { 4 };
        Work { flops: 0, bytes: (2 * rows * self.hidden + routes) as u64 }
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

/// What is added up.
#[derive(Debug, Clone)]
pub struct CombineProblem {
    pub case: CombineCase,
    /// Any number of rows.
    pub y: Vec<bf16>,
    pub route_row: Vec<i32>,
    pub weights: Option<Vec<f32>>,
    pub shared: Option<Vec<bf16>>,
    pub residual: Option<Vec<bf16>>,
}

impl CombineProblem {
    fn rows(&self) -> usize {
        self.y.len().checked_div(self.case.hidden).unwrap_or(0)
    }
}

impl Problem for CombineProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(CombineRun::new(self, arena)?))
    }
}

/// A combination on a device.
pub struct CombineRun {
    problem: Arc<CombineProblem>,
    pub plan: Combine,
    pub operands: CombineOperands,
}

pub struct CombineOperands {
    y: Operand<bf16>,
    route_row: Operand<i32>,
    weights: Option<Operand<f32>>,
    shared: Option<Operand<bf16>>,
    residual: Option<Operand<bf16>>,
    out: Operand<bf16>,
}

impl CombineRun {
    pub fn new(problem: Arc<CombineProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let CombineProblem { case, y, route_row, weights, shared, residual } = &*problem;
        let (ExpertMapSpec { tokens, top_k, .. }, hidden) = (case.map.spec, case.hidden);
        let rows = problem.rows();
        let plan = Combine::plan(arena.device(), CombineSpec::new(tokens, top_k, hidden, rows))?;
        let (routes, any, aligned) = ((tokens, top_k), Align(4), Align(16));
        let weights = weights.as_ref().map(|w| arena.input(w, routes, any)).transpose()?;
        let mut addend =
            |x: &Option<Vec<bf16>>| x.as_ref().map(|x| arena.input(x, (tokens, hidden), aligned)).transpose();
        let operands = CombineOperands {
            weights,
            shared: addend(shared)?,
            residual: addend(residual)?,
            y: arena.input(y, (rows, hidden), aligned)?,
            route_row: arena.input(route_row, routes, any)?,
            out: arena.output((tokens, hidden), aligned)?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl CombineOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<CombineArgs<'_>, Error> {
        Ok(CombineArgs {
            y: self.y.matrix()?,
            route_row: self.route_row.matrix()?,
            weights: self.weights.as_ref().map(Operand::matrix).transpose()?,
            shared: self.shared.as_ref().map(Operand::matrix).transpose()?,
            residual: self.residual.as_ref().map(Operand::matrix).transpose()?,
            out: self.out.matrix_mut()?,
        })
    }
}

impl Prepared for CombineRun {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("out", &self.operands.out)?])
    }

    /// Briefly, the last tokens: none depends on another.
    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let CombineProblem { case, y, route_row, weights, shared, residual } = &*self.problem;
        let (ExpertMapSpec { tokens, top_k, .. }, hidden) = (case.map.spec, case.hidden);
        let first = if scrutiny == Scrutiny::Brief { tokens.saturating_sub(BRIEF) } else { 0 };
        let addends = Combined {
            weights: weights.as_ref().map(|weights| &weights[first * top_k..]),
            shared: shared.as_ref().map(|x| &x[first * hidden..]),
            residual: residual.as_ref().map(|x| &x[first * hidden..]),
        };
        let routes = &route_row[first * top_k..];
        let want = combine(y, (tokens - first, top_k, hidden), routes, &addends)?;
        Ok(vec![self.operands.out.rows_equal("bits", "out", first..tokens, &want)?])
    }

    /// Rows that do not exist.
    fn faults(&self) -> DataFaults {
        let rows = self.problem.rows() as i32;
        // Without columns there is nobody to meet them.
        let good = self.problem.case.hidden == 0
            || self.problem.route_row.iter().all(|row| (-1..rows).contains(row));
        fault_if(!good, DataFaults::SEGMENT)
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    [true, false].map(traced_with).into()
}

/// With everything that can be added, or with the routes alone; more routes than a thread has in flight.
fn traced_with(all: bool) -> Launch {
    let optional = |index| if all { region(index) } else { 0 };
    let params = Params::of::<CombineParams>()
        .u64(offset_of!(CombineParams, y), region(0))
        .u64(offset_of!(CombineParams, route_row), region(1))
        .u64(offset_of!(CombineParams, weights), optional(2))
        .u64(offset_of!(CombineParams, shared), optional(3))
        .u64(offset_of!(CombineParams, residual), optional(4))
        .u64(offset_of!(CombineParams, out), region(5))
        .u64(offset_of!(CombineParams, error_words), region(6))
        .u64(offset_of!(CombineParams, y_pitch), 88)
        .u64(offset_of!(CombineParams, route_row_pitch), 7)
        .u64(offset_of!(CombineParams, weights_pitch), 9)
        .u64(offset_of!(CombineParams, shared_pitch), 96)
        .u64(offset_of!(CombineParams, residual_pitch), 104)
        .u64(offset_of!(CombineParams, out_pitch), 112)
        .u32(offset_of!(CombineParams, tokens), 37)
        .u32(offset_of!(CombineParams, top_k), 6)
        .u32(offset_of!(CombineParams, rows), 200)
        .u32(offset_of!(CombineParams, pieces), 10);
    fixed(&COMBINE, 2, params)
}

mod faults {
    use crate::case::{Cases, boxed};
    use crate::moe::Routing;
    use crate::moe::combine::CombineCase;
    use crate::moe::expert_map::ExpertMapCase;
    use crate::planted::{Trial, faults};

    const COMBINE: Trial = Trial::Cases(combine);
    /// More tokens than 16 bits count.
    const MANY: Trial = Trial::Cases(|| {
        boxed([CombineCase { repeated: true, ..CombineCase::new(ExpertMapCase::new((70_000, 1, 3)), 8) }])
    });
    const FAR: Trial = Trial::Far(|| boxed([CombineCase::new(ExpertMapCase::new((5, 3, 4)), 72)]));

    /// All that may be added; then a row that does not exist; then sums that the order of routes and of what else is added, and
    /// each fma, decide.
    fn combine() -> Cases {
        let map = ExpertMapCase { routing: Routing::Strangers, seed: 4, ..ExpertMapCase::new((21, 6, 9)) };
        let case = CombineCase::new(map, 72);
        let routed = ExpertMapCase { routing: Routing::Uniform, ..map };
        let cancelling =
            CombineCase { map: routed, shared: false, residual: false, cancelling: true, ..case };
        let addends = CombineCase { shared: true, residual: true, ..cancelling };
        boxed([case, CombineCase { astray: true, ..case }, cancelling, addends])
    }

    faults! {
        tokens_counted_in_16_bits: MANY,
            "const uint64_t token = piece / params.pieces" => "const uint16_t token = piece / params.pieces",
            ["out[", "race"];
        rows_of_y_counted_in_32_bits: FAR,
            "row[i] * params.y_pitch" => "static_cast<uint32_t>(row[i] * params.y_pitch)", ["out["];
        a_grid_may_end_before_the_one_ahead: COMBINE,
            "void combine_kernel ... enter_grid();" => "",
            "if (token >= params.tokens) return;" => "if (token >= params.tokens) return; enter_grid();",
            ["exits without griddepcontrol.wait"];
        weight_of_the_next_route: COMBINE,
            "weight0 + k0 + i" => "weight0 + k0 + i + 1", ["out[", "outside"];
        dropped_route_used_as_a_row: COMBINE, "if (row[i] >= params.rows) continue;" => "", ["outside"];
        missing_row_unreported: COMBINE, "row[i] != kDropped" => "false", ["got one of nothing"];
        dropped_route_reported: COMBINE, "if (row[i] != kDropped)" => "", ["got one of rows of an expert"];
        routes_in_descending_order: COMBINE,
            "if (row[i] < params.rows) {" => "const uint32_t j = kRoutesInFlight - 1 - i; if (row[j] < params.rows) {",
            "add_piece(sum, weight[i], v[i])" => "add_piece(sum, weight[j], v[j])",
            "row[i] != kDropped" => "row[j] != kDropped",
            ["out["];
        routes_after_the_fourth_lost: COMBINE, "k0 < params.top_k" => "k0 < 1", ["out["];
        routes_beyond_the_last: COMBINE,
            "k0 + i < params.top_k ?" => "", "row0 + k0 + i) : kDropped" => "row0 + k0 + i)", ["out[", "outside"];
        residual_instead_of_the_shared: COMBINE,
            "params.shared + token * params.shared_pitch" => "params.residual + token * params.residual_pitch",
            ["out["];
        shared_before_the_routes: COMBINE,
            "Piece sum = {}; add_routes(params, token, column, sum);" => "Piece sum = {};",
            "if (params.residual != nullptr)"
                => "add_routes(params, token, column, sum); if (params.residual != nullptr)",
            ["out["];
        residual_before_the_shared: COMBINE,
            "if (params.shared != nullptr) {"
                => "if (params.residual != nullptr) add_piece(sum, 1.0f, ptx::ldg_v4_u32(params.residual + token * params.residual_pitch + column)); if (params.shared != nullptr) {",
            "} if (params.residual != nullptr) {" => "} if (false) {",
            ["out["];
        residual_added_to_the_shared: COMBINE,
            "if (params.shared != nullptr) {" => "Piece addends = {}; if (params.shared != nullptr) {",
            "sum, 1.0f, ptx::ldg_v4_u32(params.shared" => "addends, 1.0f, ptx::ldg_v4_u32(params.shared",
            "sum, 1.0f, ptx::ldg_v4_u32(params.residual" => "addends, 1.0f, ptx::ldg_v4_u32(params.residual",
            "store_bf16_piece(params.out"
                => "for (uint32_t i = 0; i < kPieceElements; ++i) sum.x[i] += addends.x[i]; store_bf16_piece(params.out",
            ["out["];
        columns_exchanged_in_a_pair: COMBINE,
            "ptx::cvt_bf16x2(x[1], x[0])" => "ptx::cvt_bf16x2(x[0], x[1])", ["out["];
        two_roundings: COMBINE,
            "if (params.shared != nullptr)"
                => "for (float& x : sum.x) x = ptx::bf16_lo_f32(ptx::cvt_bf16x2(0.0f, x)); if (params.shared != nullptr)",
            ["out["];
        no_fma: COMBINE,
            "ptx::fma_rn(weight, y.x[i], sum.x[i])" => "weight * y.x[i] + sum.x[i]",
            ["out["];
        route_row_without_its_pitch: COMBINE,
            "token * params.route_row_pitch" => "token * params.top_k", ["out[", "got one of"];
        weights_without_their_pitch: COMBINE, "token * params.weights_pitch" => "token * params.top_k", ["out["];
        weights_at_the_pitch_of_rows: COMBINE,
            "token * params.weights_pitch" => "token * params.route_row_pitch", ["out[", "outside"];
        tokens_past_the_end: COMBINE, "if (token >= params.tokens) return;" => "", ["outside"];
    }
}
