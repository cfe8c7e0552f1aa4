//! MLA's absorbed projections: queries into the latent space, and attention's results out of it.

mod faults;

use crate::trace::{Launch, Params, fillings, fixed};
use deepseek_kernels::bindings::HeadGemmParams;
use deepseek_kernels::table::FixedKernel;
use deepseek_kernels::table::mla::{
    ABSORB_OUTPUT_STAGES, ABSORB_QUERY_STAGES, HEAD_GEMM_BOX, MLA_ABSORB_OUTPUT, MLA_ABSORB_QUERY,
};
pub use faults::FAULTS;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::{MlaAbsorb, MlaAbsorbOutputArgs, MlaAbsorbQueryArgs, MlaAbsorbSpec};
use deepseek_kernels::{Device, Error, Matrix, MatrixMut, Stream, bf16};
use oracles::gemm::Output as Rounding;
use oracles::mla::{HeadColumns, HeadProduct, Side};
use oracles::verdict::within;

use super::{LATENT, Values, spread};
use crate::case::{Case, Expected, Prepared, Problem, Work};
use crate::data::{rows_of, weights};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Align, Arena, Operand, Output, Scalar};

/// One of the projections of all heads.
#[derive(Debug, Clone, Copy)]
pub struct AbsorbCase {
    pub side: Side,
    pub tokens: usize,
    pub heads: usize,
    pub columns: HeadColumns,
    /// Of what is multiplied; of the weights too, but for activations, which have weights of a model.
    pub values: Values,
    /// At most `DRAWN` tokens differ, the others repeat them.
    pub repeated: bool,
    pub seed: u64,
}

/// Tokens that differ, where the others repeat them: no tile is like its neighbour.
const DRAWN: usize = 67;
/// Products that are judged at most, and tokens of more, or briefly.
const JUDGED: (usize, usize) = (1 << 30, 4);

impl AbsorbCase {
    /// Integers.
    pub const fn new(side: Side, tokens: usize, heads: usize) -> Self {
        let columns = HeadColumns::DEEPSEEK_V3;
        Self { side, tokens, heads, columns, values: Values::Integers, repeated: false, seed: 1 }
    }

    /// Columns of a head of the operand: of the query those count that are not rotated.
    pub const fn a_columns(&self) -> usize {
        match self.side {
            Side::Query => self.columns.key(),
            Side::Output => LATENT,
        }
    }

    /// Columns of a head of the result.
    pub const fn n(&self) -> usize {
        match self.side {
            Side::Query => LATENT,
            Side::Output => self.columns.value,
        }
    }

    /// Products that make a row of a head's.
    const fn products(&self) -> usize {
        let HeadColumns { nope, value, .. } = self.columns;
        LATENT
            * match self.side {
                Side::Query => nope,
                Side::Output => value,
            }
    }

    /// With its inputs. What the projection must not look at is NaN: rotated columns of queries, the other half of W.
    pub fn problem(self) -> Result<AbsorbProblem> {
        let Self { tokens, heads, columns, values, seed, .. } = self;
        let (nope, head_rows) = (columns.nope, columns.rows());
        let drawn = if self.repeated { tokens.min(DRAWN) } else { tokens };
        let narrow = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let mut a = narrow(values.draw((drawn * heads, self.a_columns()), seed));
        let mut w = match values {
            Values::Activations => weights(heads * head_rows, LATENT, seed),
            values => narrow(values.draw((heads * head_rows, LATENT), !seed)),
        };
        let unused = match self.side {
            Side::Query => {
                a.chunks_exact_mut(self.a_columns()).for_each(|row| row[nope..].fill(bf16::POISON));
                nope..head_rows
            }
            Side::Output => 0..nope,
        };
        for head in w.chunks_exact_mut(head_rows * LATENT) {
            head[unused.start * LATENT..unused.end * LATENT].fill(bf16::POISON);
        }
        Ok(AbsorbProblem { case: self, a, w, expected: Expected::default() })
    }
}

impl Case for AbsorbCase {
    fn operation(&self) -> &'static str {
        match self.side {
            Side::Query => "mla_absorb_query",
            Side::Output => "mla_absorb_output",
        }
    }

    fn title(&self) -> String {
        match self.side {
            Side::Query => "MLA query, absorbed".to_owned(),
            Side::Output => "MLA output, absorbed".to_owned(),
        }
    }

    fn shape(&self) -> String {
        format!("{} x {} x {}", self.tokens * self.heads, self.n(), self.products() / self.n())
    }

    fn label(&self) -> String {
        format!("{}x{}", self.tokens, self.heads)
    }

    fn data(&self) -> String {
        self.values.to_string()
    }

    fn work(&self) -> Work {
        let rows = self.tokens * self.heads;
        Work {
            flops: (2 * rows * self.products()) as u64,
            bytes: (2 * (rows * (self.products() / LATENT + LATENT) + self.heads * self.products())) as u64,
        }
    }

    /// A plan looks for both.
    fn kernels(&self, _: &Device) -> Result<Vec<String>> {
        Ok(["mla_absorb_query", "mla_absorb_output"].map(str::to_owned).into())
    }

    fn launched(&self, _: &Device) -> Result<Vec<String>> {
        Ok(vec![self.operation().to_owned()])
    }

    fn reseeded(&self, by: u64) -> Box<dyn Case> {
        Box::new(Self { seed: self.seed.wrapping_add(by), ..*self })
    }

    fn draw(&self) -> Result<Arc<dyn Problem>> {
        Ok(Arc::new(self.problem()?))
    }
}

/// A projection with its inputs.
#[derive(Debug, Clone)]
pub struct AbsorbProblem {
    pub case: AbsorbCase,
    /// `[tokens, heads, nope + rope]` or `[tokens, heads, 512]`, or fewer tokens that repeat.
    pub a: Vec<bf16>,
    /// `[heads, nope + value, 512]`.
    pub w: Vec<bf16>,
    pub expected: Expected<AbsorbExpected>,
}

/// What the references say of the tokens that are judged.
pub struct AbsorbExpected {
    tokens: Vec<usize>,
    want: Vec<f64>,
    bound: Vec<f64>,
    /// The bits, unless it is a brief look.
    model: Option<Vec<f64>>,
}

impl AbsorbProblem {
    fn expected(&self, scrutiny: Scrutiny) -> Result<&AbsorbExpected> {
        self.expected.get(scrutiny, || self.ask(scrutiny))
    }

    fn ask(&self, scrutiny: Scrutiny) -> Result<AbsorbExpected> {
        let Self { case, a, w, .. } = self;
        let (count, heads) = (case.tokens, case.heads);
        let all = scrutiny == Scrutiny::Thorough && count * heads * case.products() <= JUDGED.0;
        let tokens = spread(count, if all { count } else { JUDGED.1 });
        let a = rows_of(a, heads * case.a_columns(), &tokens);
        let product = HeadProduct::new((case.side, case.columns), &a, w, tokens.len(), heads)?;
        let (want, bound): (Vec<f64>, Vec<f64>) = product.bound().into_iter().unzip();
        let want = want.into_iter().map(|x| if x.is_nan() { f64::NAN } else { x }).collect();
        let model = || product.bit_model().iter().map(|x| canonical(x.to_f32()).into()).collect();
        let model = (scrutiny == Scrutiny::Thorough).then(model);
        Ok(AbsorbExpected { tokens, want, bound, model })
    }
}

impl Problem for AbsorbProblem {
    fn prepare(self: Arc<Self>, arena: &mut Arena<'_>) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(AbsorbRun::new(self, arena)?))
    }
}

/// A projection on a device.
pub struct AbsorbRun {
    problem: Arc<AbsorbProblem>,
    pub plan: AbsorbPlan,
    pub operands: AbsorbOperands,
}

/// The plan of both projections, for one of them.
pub struct AbsorbPlan {
    pub both: MlaAbsorb,
    side: Side,
}

/// The operands of either.
pub struct AbsorbArgs<'a> {
    pub a: Matrix<'a, bf16>,
    pub w: Matrix<'a, bf16>,
    pub d: MatrixMut<'a, bf16>,
}

pub struct AbsorbOperands {
    a: Operand<bf16>,
    w: Operand<bf16>,
    d: Operand<bf16>,
}

impl AbsorbPlan {
    /// Enqueues the projection.
    ///
    /// # Errors
    /// Of the launch.
    pub fn run(&self, stream: Stream<'_>, AbsorbArgs { a, w, d }: AbsorbArgs<'_>) -> Result<(), Error> {
        match self.side {
            Side::Query => self.both.run_query(stream, MlaAbsorbQueryArgs { q: a, w, q_latent: d }),
            Side::Output => self.both.run_output(stream, MlaAbsorbOutputArgs { latent: a, w, out: d }),
        }
    }
}

impl AbsorbRun {
    pub fn new(problem: Arc<AbsorbProblem>, arena: &mut Arena<'_>) -> Result<Self> {
        let AbsorbCase { side, tokens, heads, columns, .. } = problem.case;
        let HeadColumns { nope, rope, value } = columns;
        let spec = MlaAbsorbSpec::new(tokens, heads).nope(nope).rope(rope).value(value);
        let both = MlaAbsorb::plan(arena.device(), spec)?;
        let (a, d) = match side {
            Side::Query => ((tokens, heads * (nope + rope)), (tokens * heads, LATENT + rope)),
            Side::Output => ((tokens * heads, LATENT), (tokens, heads * value)),
        };
        let aligned = Align(16);
        let operands = AbsorbOperands {
            a: arena.repeated(&problem.a, a, aligned)?,
            w: arena.input(&problem.w, (heads * columns.rows(), LATENT), aligned)?,
            d: arena.output(d, aligned)?,
        };
        Ok(Self { problem, plan: AbsorbPlan { both, side }, operands })
    }

    /// `[tokens, heads, n]`, and what else lies in its rows.
    fn result(&self) -> Result<(Vec<bf16>, Vec<bf16>)> {
        let d = self.operands.d.values()?;
        let rope = self.problem.case.columns.rope;
        Ok(match self.problem.case.side {
            Side::Query => {
                let (result, beside): (Vec<_>, Vec<_>) =
                    d.chunks_exact(LATENT + rope).map(|row| row.split_at(LATENT)).unzip();
                (result.concat(), beside.concat())
            }
            Side::Output => (d, vec![]),
        })
    }
}

impl AbsorbOperands {
    /// The operands, all in order.
    ///
    /// # Errors
    /// None.
    pub fn args(&mut self) -> Result<AbsorbArgs<'_>, Error> {
        Ok(AbsorbArgs { a: self.a.matrix()?, w: self.w.matrix()?, d: self.d.matrix_mut()? })
    }
}

impl Prepared for AbsorbRun {
    fn instance(&self) -> String {
        self.problem.case.operation().to_owned()
    }

    fn launch(&mut self, stream: Stream<'_>) -> Result<(), Error> {
        self.plan.run(stream, self.operands.args()?)
    }

    fn outputs(&self) -> Result<Vec<Output>> {
        Ok(vec![Output::read("d", &self.operands.d)?])
    }

    /// All tokens, or some; by the bits of the tensor core's model and the bound of any kernel, or briefly by the bound.
    fn judge(&self, scrutiny: Scrutiny) -> Result<Vec<Check>> {
        let case = &self.problem.case;
        let (tokens, heads, n) = (case.tokens, case.heads, case.n());
        let (d, beside) = self.result()?;
        let sentinel = |x: &bf16| x.bits() == bf16::SENTINEL.bits();
        let left = d.iter().position(sentinel);
        let place = |i: usize| format!("d[{}, {}] was not written", i / n, i % n);
        let touched =
            beside.iter().position(|x| !sentinel(x)).map(|i| format!("rotated column {i} was written"));
        let mut checks = vec![
            Check::equal("written", d.len(), left.map(place)),
            Check::equal("untouched", beside.len(), touched),
            self.operands.d.guarded("d")?,
        ];

        let AbsorbExpected { tokens: judged, want, bound, model } = self.problem.expected(scrutiny)?;
        let got = rows_of(&d, heads * n, judged);
        let got: Vec<f32> = got.iter().map(|x| canonical(x.to_f32())).collect();
        let sample = (judged.len() < tokens).then_some([judged.len() * heads, n]);
        let check = |oracle, want: &[f64], bound: &[f64]| {
            Check::of(oracle, &within(Rounding::Bf16, want, bound, n, &|i| got[i]), sample)
        };
        checks.push(check("bound", want, bound));
        if let Some(model) = model {
            let bits = vec![0.0; want.len()];
            checks.push(check("bit model", model, &bits));
            if case.values == Values::Integers {
                // A sum of nothing but -0 is +0 to the tensor core.
                let exact: Vec<f64> = want.iter().map(|&x| bf16::from_f64(x).to_f64() + 0.0).collect();
                checks.push(check("exact", &exact, &bits));
            }
        }
        Ok(checks)
    }
}

/// All NaN are one.
fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::NAN } else { x }
}

/// What the operand trace launches.
pub fn traced() -> Vec<Launch> {
    // Two tiles of tokens, two of columns, or one; two heads.
    vec![
        traced_side(&MLA_ABSORB_QUERY, 8, (128, 512, 0)),
        traced_side(&MLA_ABSORB_OUTPUT, 4, (512, 128, 128)),
        traced_side(&MLA_ABSORB_OUTPUT, 8, (512, 136, 192)),
    ]
}

/// What the exploration of protocols launches. A head without numbers is no head, so that every ring is filled at least once.
pub fn explored() -> Vec<Launch> {
    let sides = [(MLA_ABSORB_QUERY, ABSORB_QUERY_STAGES), (MLA_ABSORB_OUTPUT, ABSORB_OUTPUT_STAGES)];
    let of = |(kernel, stages): (FixedKernel, u32)| {
        let steps = fillings(stages).into_iter().filter(|&steps| steps != 0);
        steps.map(move |steps| traced_side(&kernel, 1, (steps * HEAD_GEMM_BOX, 128, 0)))
    };
    sides.into_iter().flat_map(of).collect()
}

fn traced_side(kernel: &FixedKernel, grid: u32, (k, n, first_row): (u32, u32, u32)) -> Launch {
    let box_bytes = HEAD_GEMM_BOX * HEAD_GEMM_BOX * 2;
    let params = Params::of::<HeadGemmParams>()
        .boxes(offset_of!(HeadGemmParams, map_a), box_bytes)
        .boxes(offset_of!(HeadGemmParams, map_w), box_bytes)
        .boxes(offset_of!(HeadGemmParams, map_d), box_bytes)
        .u32(offset_of!(HeadGemmParams, tokens), 70)
        .u32(offset_of!(HeadGemmParams, k), k)
        .u32(offset_of!(HeadGemmParams, n), n)
        .u32(offset_of!(HeadGemmParams, first_row), first_row);
    fixed(kernel, grid, params)
}
