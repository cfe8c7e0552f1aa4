//! The move of the router's bias.

use crate::trace::{Launch, Params, fixed, region};
use deepseek_kernels::bindings::BiasUpdateParams;
use deepseek_kernels::table::router::BIAS_UPDATE;
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::router::{BiasUpdate, BiasUpdateArgs, BiasUpdateSpec};
use deepseek_kernels::{Error, Stream};
use oracles::router::{bias_update, max_vio};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::case::{Case, Prepared, Problem, Work};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output};

/// Of every three experts one has the mean load, one more, and one as much less.
#[derive(Debug, Clone, Copy)]
pub struct BiasUpdateCase {
    pub experts: usize,
    pub speed: f32,
    /// The least load that an expert may have.
    pub least: u32,
    pub seed: u64,
}

impl BiasUpdateCase {
    /// Small loads, and the speed of most of DeepSeek-V3's training.
    pub const fn new(experts: usize) -> Self {
        Self { experts, speed: 1e-3, least: 0, seed: 1 }
    }

    /// With its inputs.
    pub fn problem(self) -> BiasUpdateProblem {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let mut counts = vec![self.least + 48; self.experts];
        for three in counts.chunks_exact_mut(3) {
            let more = rng.random_range(0..=48);
            three[1] += more;
            three[2] -= more;
        }
        let bias = (0..self.experts).map(|_| rng.random_range(-1.0..1.0)).collect();
        BiasUpdateProblem { case: self, counts, bias }
    }
}

impl Case for BiasUpdateCase {
    fn operation(&self) -> &'static str {
        "bias_update"
    }

    fn title(&self) -> String {
        "move the bias".to_owned()
    }

    fn shape(&self) -> String {
        self.experts.to_string()
    }

    fn label(&self) -> String {
        let least = if self.least == 0 { String::new() } else { format!("_from{}", self.least) };
        format!("{}{least}", self.experts)
    }

    fn data(&self) -> String {
        "loads".to_owned()
    }

    fn work(&self) -> Work {
        Work { flops: 0, bytes: (12 * self.experts) as u64 }
    }

    /// The bias moves with each run.
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

/// Loads, and a bias to be moved.
#[derive(Debug, Clone)]
pub struct BiasUpdateProblem {
    pub case: BiasUpdateCase,
    pub counts: Vec<u32>,
    pub bias: Vec<f32>,
}

impl Problem for BiasUpdateProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(BiasUpdateRun::new(self, arena)?))
    }
}

/// An update on a device.
pub struct BiasUpdateRun {
    problem: Arc<BiasUpdateProblem>,
    pub plan: BiasUpdate,
    pub operands: BiasUpdateOperands,
}

pub struct BiasUpdateOperands {
    counts: Operand<u32>,
    bias: Operand<f32>,
    max_vio: Operand<f32>,
}

impl BiasUpdateRun {
    pub fn new(problem: Arc<BiasUpdateProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let BiasUpdateCase { experts, speed, .. } = problem.case;
        let plan = BiasUpdate::plan(arena.device(), BiasUpdateSpec::new(experts, speed))?;
        let operands = BiasUpdateOperands {
            counts: arena.list(&problem.counts)?,
            bias: arena.in_out(&problem.bias, (1, experts), Align(4))?,
            max_vio: arena.output((1, 1), Align(4))?,
        };
        Ok(Self { problem, plan, operands })
    }
}

impl BiasUpdateOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<BiasUpdateArgs<'_>, Error> {
        let Self { counts, bias, max_vio } = self;
        Ok(BiasUpdateArgs {
            counts: counts.vector()?,
            bias: bias.vector_mut()?,
            max_vio: max_vio.vector_mut()?,
        })
    }
}

impl Prepared for BiasUpdateRun {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("bias", &self.operands.bias)?, Output::read("max_vio", &self.operands.max_vio)?])
    }

    fn judge(&self, _: Scrutiny) -> Result<Vec<Check>> {
        let BiasUpdateProblem { case, counts, bias } = &*self.problem;
        let mut moved = bias.clone();
        bias_update(counts, &mut moved, case.speed)?;
        let exact = max_vio(counts);
        // Two conversions and a quotient, each rounded once.
        let bound = 3.01 * exact / f64::from(1 << 24);
        let got = self.operands.max_vio.values()?;
        Ok(vec![
            self.operands.bias.equals("bias", "bias", &moved)?,
            Check::within("MaxVio", "max_vio", 1, &got, &[(exact, bound)]),
            self.operands.max_vio.guarded("max_vio")?,
        ])
    }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    let params = Params::of::<BiasUpdateParams>()
        .u64(offset_of!(BiasUpdateParams, counts), region(0))
        .u64(offset_of!(BiasUpdateParams, bias), region(1))
        .u64(offset_of!(BiasUpdateParams, max_vio), region(2))
        .u32(offset_of!(BiasUpdateParams, experts), 601)
        .u32(offset_of!(BiasUpdateParams, speed), 1e-3_f32.to_bits());
    vec![fixed(&BIAS_UPDATE, 1, params)]
}

mod faults {
    use super::BiasUpdateCase;
    use crate::case::boxed;
    use crate::planted::{Trial, faults};

    const BIAS: Trial = Trial::Cases(|| {
        boxed([0, u32::MAX - 100].map(|least| BiasUpdateCase { least, ..BiasUpdateCase::new(600) }))
    });

    faults! {
        sign_reversed: BIAS, "load < loads.total ? bias" => "load > loads.total ? bias", ["bias: bias["];
        mean_is_not_neutral: BIAS, "if (load == loads.total) continue;" => "", ["bias: bias["];
        loads_compared_in_32_bits: BIAS, "const uint64_t load =" => "const uint64_t load = (uint32_t)", ["bias: bias["];
        total_in_32_bits: BIAS, "shift < 64" => "shift < 32", ["bias: bias["];
        experts_of_a_round_alone: BIAS, "e < params.experts; e += Config::kThreads" => "e < Config::kThreads; e += Config::kThreads",
            ["bias: bias["];
        first_experts_only: BIAS, "e < params.experts; e += 32" => "e < 32; e += 32", ["bias: bias["];
    }
}
