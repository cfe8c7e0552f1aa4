//! The count of an expert's tokens.

use crate::trace::{Launch, Params, WORDS_PER_INDEX, fixed, region};
use deepseek_kernels::bindings::ExpertLoadParams;
use deepseek_kernels::table::router::EXPERT_LOAD;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::router::{ExpertLoad, ExpertLoadArgs, ExpertLoadSpec};
use deepseek_kernels::{DataFaults, Error, Stream};
use oracles::router::expert_load;

use crate::case::{Case, Prepared, Problem, Work, fault_if};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, IndexOperand, Operand, Output};
use crate::moe::Routing;

/// Counts on top of others.
#[derive(Debug, Clone, Copy)]
pub struct ExpertLoadCase {
    pub tokens: usize,
    pub routes: usize,
    pub experts: usize,
    pub routing: Routing,
    pub seed: u64,
}

impl ExpertLoadCase {
    /// Different experts per token, some routes dropped.
    pub const fn new((tokens, routes): (usize, usize), experts: usize) -> Self {
        Self { tokens, routes, experts, routing: Routing::Gaps, seed: 1 }
    }

    /// With its inputs.
    pub fn problem(self) -> ExpertLoadProblem {
        let Self { tokens, routes, experts, routing, seed } = self;
        let counts = (0..experts as u32).map(|e| 1000 * e).collect();
        ExpertLoadProblem { ids: routing.ids((tokens, routes, experts), seed), counts, case: self }
    }
}

impl Case for ExpertLoadCase {
    fn operation(&self) -> &'static str {
        "expert_load"
    }

    fn title(&self) -> String {
        "count the experts' tokens".to_owned()
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.tokens, self.routes)
    }

    fn label(&self) -> String {
        format!("{}x{}_of{}", self.tokens, self.routes, self.experts)
    }

    fn data(&self) -> String {
        self.routing.name().to_owned()
    }

    fn work(&self) -> Work {
        // Counts of experts that nobody chose stay where they are.
        let routes = self.tokens * self.routes;
        Work { flops: 0, bytes: (4 * routes + 8 * self.experts.min(routes)) as u64 }
    }

    /// The counts are added to those that are there.
    fn repeatable(&self) -> bool {
        false
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()))
    }
}

/// A choice to be counted, and what was counted before.
#[derive(Debug, Clone)]
pub struct ExpertLoadProblem {
    pub case: ExpertLoadCase,
    pub ids: Vec<i32>,
    pub counts: Vec<u32>,
}

impl ExpertLoadProblem {
    /// All counts, and what is to be reported.
    fn expected(&self) -> (Vec<u32>, DataFaults) {
        let mut counts = self.counts.clone();
        let bad_id = expert_load(&self.ids, &mut counts);
        (counts, fault_if(bad_id, DataFaults::EXPERT_ID))
    }
}

impl Problem for ExpertLoadProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(ExpertLoadRun::new(self, arena)?))
    }
}

/// A count on a device.
pub struct ExpertLoadRun {
    problem: Arc<ExpertLoadProblem>,
    pub plan: ExpertLoad,
    pub operands: ExpertLoadOperands,
}

pub struct ExpertLoadOperands {
    ids: IndexOperand,
    counts: Operand<u32>,
}

impl ExpertLoadRun {
    pub fn new(problem: Arc<ExpertLoadProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let ExpertLoadCase { tokens, routes, experts, .. } = problem.case;
        let plan = ExpertLoad::plan(arena.device(), ExpertLoadSpec::new(tokens, routes, experts))?;
        let operands = ExpertLoadOperands {
            ids: arena.indices(&problem.ids, (tokens, routes))?,
            counts: arena.in_out(&problem.counts, (1, experts), Align(4))?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl ExpertLoadOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<ExpertLoadArgs<'_>, Error> {
        Ok(ExpertLoadArgs { ids: self.ids.indices()?, counts: self.counts.vector_mut()? })
    }
}

impl Prepared for ExpertLoadRun {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("counts", &self.operands.counts)?])
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        Ok(vec![self.operands.counts.equals("counts", "counts", &self.problem.expected().0)?])
    }

    fn faults(&self) -> DataFaults {
        self.problem.expected().1
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    WORDS_PER_INDEX.map(traced_with).into()
}

fn traced_with(words_per_index: u32) -> Launch {
    let params = Params::of::<ExpertLoadParams>()
        .indices(offset_of!(ExpertLoadParams, ids), region(0), 7, words_per_index)
        .u64(offset_of!(ExpertLoadParams, counts), region(1))
        .u64(offset_of!(ExpertLoadParams, error_words), region(2))
        .u32(offset_of!(ExpertLoadParams, t), 37)
        .u32(offset_of!(ExpertLoadParams, routes), 7)
        .u32(offset_of!(ExpertLoadParams, experts), 100);
    fixed(&EXPERT_LOAD, 2, params)
}

mod faults {
    use super::ExpertLoadCase;
    use crate::case::{Cases, boxed};
    use crate::moe::Routing;
    use crate::planted::{Trial, drawn, faults};

    const LOAD: Trial = Trial::Cases(load);
    const WIDE_LOAD: Trial = Trial::Wide(|| drawn(load()));

    /// Ids that are dropped, which is no fault; then ids that are none.
    fn load() -> Cases {
        let case = ExpertLoadCase::new((90, 8), 40);
        boxed([case, ExpertLoadCase { routing: Routing::Strangers, ..case }])
    }

    faults! {
        last_routes_uncounted: LOAD, "params.t) * params.routes" => "params.t) * params.routes - 8", ["counts: counts["];
        gaps_counted: LOAD,
            "index / params.routes, index % params.routes" => "0, index", ["counts: counts["];
        narrow_ids_read_as_wide: LOAD, "indices.words_per_index - 1" => "1", ["outside"];
        minus_one_reported: LOAD, "id != UINT32_MAX" => "true", ["got one of ids of experts"];
        bad_id_counted: LOAD, "id < params.experts" => "id <= params.experts", ["outside", "around counts"];
        bad_id_of_a_count_unreported: LOAD, "id != UINT32_MAX" => "false", ["got one of nothing"];
        high_word_of_ids_ignored: WIDE_LOAD, "high == low >> 31 ? low : INT32_MIN" => "low", ["counts["];
        sign_of_64_bits_ignored: WIDE_LOAD, "high == low >> 31" => "high == 0", ["got one of ids of experts"];
        wide_ids_read_as_narrow: WIDE_LOAD, "column * indices.words_per_index" => "column", ["counts["];
        pitch_of_wide_ids_doubled: WIDE_LOAD,
            "row * indices.pitch" => "row * indices.pitch * indices.words_per_index", ["outside", "counts["];
    }
}
