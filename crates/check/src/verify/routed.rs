//! Checks of what surrounds the experts' GEMMs: map, gather, SwiGLU, combine.

use deepseek_kernels::moe::{
    Combine, CombineArgs, CombineSpec, ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec, GatherQuantize,
    GatherQuantizeArgs, GatherQuantizeSpec, RoutingWeights, SwigluQuantize, SwigluQuantizeArgs,
    SwigluQuantizeSpec,
};
use deepseek_kernels::quant::{MMajor, ScaleFormat, Scales1x128Mut};
use deepseek_kernels::{Buffer, Device, Error, F8E4M3, Matrix, MatrixMut, bf16};
use oracles::moe::{Combined, MapLayout, Mapped, combine, expert_map, swiglu_quantize};
use oracles::quant::quantizer_rows;
use oracles::quant::{QuantizeScale, Quantized, quantize_1x128};

use super::judge::{Cell, same_codes};
use super::machine::{text, timed};
use super::report::{Checked, Row};
use super::runner::{Job, Outcome};
use crate::data::activations;
use crate::judge::Check;
use crate::moe::rows::UNWRITTEN_CODE;

/// DeepSeek-V3's experts, on this many tokens.
pub struct RoutedJob {
    pub tokens: usize,
    pub seed: u64,
}

const EXPERTS: usize = 256;
const TOP_K: usize = 8;
const HIDDEN: usize = 7168;
const INTERMEDIATE: usize = 2048;
const FORMAT: ScaleFormat = ScaleFormat::Fp32;
const MODEL: QuantizeScale = QuantizeScale::Fp32;

impl Job for RoutedJob {
    fn label(&self) -> String {
        format!("expert map, gather, SwiGLU, combine of {} tokens", self.tokens)
    }

    fn cost(&self) -> u128 {
        // As the quantisers; a SwiGLU's element costs more.
        16 * (self.tokens * TOP_K) as u128 * (HIDDEN + 4 * INTERMEDIATE + HIDDEN) as u128
    }

    fn run(&self, device: &Device) -> Outcome {
        let ids = self.ids();
        let map = expert_map(&ids, EXPERTS, MapLayout::Contiguous(1));
        let rows = self.tokens * TOP_K;
        Outcome::Rows(vec![
            Row::of(
                "routed",
                "expert map",
                format!("{} x {TOP_K}", self.tokens),
                "expert_map_*",
                self.check_map(device, &ids, &map),
            ),
            Row::of(
                "routed",
                "gather and quantise",
                format!("{rows} x {HIDDEN}"),
                "gather_quantize",
                self.check_gather(device, &map),
            ),
            Row::of(
                "routed",
                "SwiGLU and quantise",
                format!("{rows} x {INTERMEDIATE}"),
                "swiglu_quantize",
                self.check_swiglu(device, &map),
            ),
            Row::of(
                "routed",
                "combine",
                format!("{} x {HIDDEN}", self.tokens),
                "combine",
                self.check_combine(device, &map),
            ),
        ])
    }
}

impl RoutedJob {
    fn spec(&self) -> ExpertMapSpec {
        ExpertMapSpec { tokens: self.tokens, top_k: TOP_K, experts: EXPERTS, layout: ExpertLayout::Ragged }
    }

    fn rows(&self) -> usize {
        self.tokens * TOP_K
    }

    /// Eight different experts per token, every seventh token with one less.
    fn ids(&self) -> Vec<i32> {
        let id = |route: usize| {
            let (token, k) = (route / TOP_K, route % TOP_K);
            let mixed = (token as u64 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let (first, step) = (mixed as usize % EXPERTS, mixed as usize / EXPERTS * 2 + 1);
            if token % 7 == 6 && k == 3 { -1 } else { ((first + k * step) % EXPERTS) as i32 }
        };
        (0..self.rows()).map(id).collect()
    }

    fn weights(&self) -> Vec<f32> {
        (0..self.rows()).map(|route| 0.05 + (route as f32 * 0.37).sin().abs() * 0.6).collect()
    }

    fn check_map(&self, device: &Device, ids: &[i32], want: &Mapped) -> Checked {
        const UNWRITTEN: i32 = i32::MIN;
        let plan = ExpertMap::plan(device, self.spec()).map_err(text)?;
        let rows = self.rows();
        let ids = device.upload(ids).map_err(text)?;
        let output = |len: usize| device.upload(&vec![UNWRITTEN; len]).map_err(text);
        let (mut row_route, mut route_row) = (output(rows)?, output(rows)?);
        let (mut offsets, mut counts, mut demand) =
            (output(EXPERTS + 1)?, output(EXPERTS)?, output(EXPERTS + 1)?);
        let mut workspace = device.upload(&vec![0_u32; plan.workspace()]).map_err(text)?;
        let seconds = timed(device, |stream| {
            plan.run(
                stream,
                ExpertMapArgs {
                    ids: Matrix::new(&ids, self.tokens, TOP_K)?,
                    row_route: MatrixMut::new(&mut row_route, 1, rows)?,
                    route_row: MatrixMut::new(&mut route_row, self.tokens, TOP_K)?,
                    offsets: MatrixMut::new(&mut offsets, 1, EXPERTS + 1)?,
                    counts: MatrixMut::new(&mut counts, 1, EXPERTS)?,
                    demand: MatrixMut::new(&mut demand, 1, EXPERTS + 1)?,
                    workspace: MatrixMut::new(&mut workspace, 1, plan.workspace())?,
                },
            )
        })?;
        let mut all_rows = want.row_route.clone();
        all_rows.resize(rows, -1);
        let checks = vec![
            same_integers("rows", &row_route, &all_rows)?,
            same_integers("routes", &route_row, &want.route_row)?,
            same_integers("offsets", &offsets, &want.offsets)?,
            same_integers("counts", &counts, &want.counts)?,
            same_integers("demand", &demand, &want.demand)?,
            no_fault(device),
        ];
        Ok((seconds, checks))
    }

    fn check_gather(&self, device: &Device, map: &Mapped) -> Checked {
        let x = activations(self.tokens, HIDDEN, HIDDEN, self.seed);
        let spec = GatherQuantizeSpec {
            tokens: self.tokens,
            top_k: TOP_K,
            hidden: HIDDEN,
            experts: EXPERTS,
            segments: self.spec().segments(),
            format: FORMAT,
        };
        let plan = GatherQuantize::plan(device, spec).map_err(text)?;
        let routing = self.routing(device, map)?;
        let gx = device.upload(&x).map_err(text)?;
        let mut out = Quantization::new(device, self.rows(), HIDDEN)?;
        let seconds = timed(device, |stream| {
            plan.run(
                stream,
                GatherQuantizeArgs {
                    x: Matrix::new(&gx, self.tokens, HIDDEN)?,
                    row_route: Matrix::new(&routing.row_route, 1, self.rows())?,
                    segments: Matrix::new(&routing.offsets, 1, EXPERTS + 1)?,
                    q: MatrixMut::new(&mut out.q, self.rows(), HIDDEN)?,
                    sf: Scales1x128Mut::<MMajor>::new(&mut out.sf, self.rows(), HIDDEN)?,
                },
            )
        })?;
        let token = |&route: &i32| &x[route as usize / TOP_K * HIDDEN..][..HIDDEN];
        let gathered: Vec<bf16> = map.row_route.iter().flat_map(token).copied().collect();
        let want = quantize_1x128(&gathered, map.row_route.len(), HIDDEN, HIDDEN, MODEL).map_err(text)?;
        Ok((seconds, vec![out.same(&want)?, out.untouched(map.row_route.len())?, no_fault(device)]))
    }

    fn check_swiglu(&self, device: &Device, map: &Mapped) -> Checked {
        let rows = self.rows();
        let x = quantizer_rows(rows, 2 * INTERMEDIATE, self.seed);
        let spec = SwigluQuantizeSpec {
            intermediate: INTERMEDIATE,
            experts: EXPERTS,
            segments: self.spec().segments(),
            clamp: None,
            format: FORMAT,
        };
        let plan = SwigluQuantize::plan(device, spec).map_err(text)?;
        let routing = self.routing(device, map)?;
        let gx = device.upload(&x).map_err(text)?;
        let mut out = Quantization::new(device, rows, INTERMEDIATE)?;
        let seconds = timed(device, |stream| {
            plan.run(
                stream,
                SwigluQuantizeArgs {
                    x: Matrix::new(&gx, rows, 2 * INTERMEDIATE)?,
                    segments: Matrix::new(&routing.offsets, 1, EXPERTS + 1)?,
                    routing: Some(RoutingWeights {
                        weights: Matrix::new(&routing.weights, self.tokens, TOP_K)?,
                        row_route: Matrix::new(&routing.row_route, 1, rows)?,
                    }),
                    q: MatrixMut::new(&mut out.q, rows, INTERMEDIATE)?,
                    sf: Scales1x128Mut::<MMajor>::new(&mut out.sf, rows, INTERMEDIATE)?,
                },
            )
        })?;
        let (used, weights) = (map.row_route.len(), self.weights());
        let weight = |row: usize| Some(weights[map.row_route[row] as usize]);
        let x = &x[..used * 2 * INTERMEDIATE];
        let want = swiglu_quantize(x, used, INTERMEDIATE, None, &weight, MODEL).map_err(text)?;
        let reported = matches!(device.poll_error(), Err(Error::Data(faults)) if faults.nonfinite_input());
        let differs = reported != want.nonfinite;
        let report = differs.then(|| format!("Inf or NaN: {}, but reported {reported}", want.nonfinite));
        Ok((seconds, vec![out.same(&want)?, out.untouched(used)?, Check::equal("report", 1, report)]))
    }

    fn check_combine(&self, device: &Device, map: &Mapped) -> Checked {
        let (tokens, rows) = (self.tokens, self.rows());
        let y = activations(rows, HIDDEN, HIDDEN, self.seed + 1);
        let (shared, residual) = (
            activations(tokens, HIDDEN, HIDDEN, self.seed + 2),
            activations(tokens, HIDDEN, HIDDEN, self.seed + 3),
        );
        let plan = Combine::plan(device, CombineSpec { tokens, top_k: TOP_K, hidden: HIDDEN, rows })
            .map_err(text)?;
        let upload = |data: &[bf16]| device.upload(data).map_err(text);
        let (gy, gshared, gresidual) = (upload(&y)?, upload(&shared)?, upload(&residual)?);
        let (routing, route_row) = (self.routing(device, map)?, device.upload(&map.route_row).map_err(text)?);
        let mut out = upload(&vec![bf16::SENTINEL; tokens * HIDDEN])?;
        let seconds = timed(device, |stream| {
            plan.run(
                stream,
                CombineArgs {
                    y: Matrix::new(&gy, rows, HIDDEN)?,
                    route_row: Matrix::new(&route_row, tokens, TOP_K)?,
                    weights: Some(Matrix::new(&routing.weights, tokens, TOP_K)?),
                    shared: Some(Matrix::new(&gshared, tokens, HIDDEN)?),
                    residual: Some(Matrix::new(&gresidual, tokens, HIDDEN)?),
                    out: MatrixMut::new(&mut out, tokens, HIDDEN)?,
                },
            )
        })?;
        let weights = self.weights();
        let addends = Combined { weights: Some(&weights), shared: Some(&shared), residual: Some(&residual) };
        let want = combine(&y, (tokens, TOP_K, HIDDEN), &map.route_row, &addends).map_err(text)?;
        let got = out.to_vec().map_err(text)?;
        let wrong = want.iter().zip(&got).position(|(want, got)| want.to_bits() != got.to_bits());
        let failure = wrong
            .map(|i| format!("out[{}, {}]: expected {}, got {}", i / HIDDEN, i % HIDDEN, want[i], got[i]));
        Ok((seconds, vec![Check::equal("bytes", want.len(), failure), no_fault(device)]))
    }

    fn routing(&self, device: &Device, map: &Mapped) -> Result<OnDevice, String> {
        let mut row_route = map.row_route.clone();
        row_route.resize(self.rows(), -1);
        Ok(OnDevice {
            row_route: device.upload(&row_route).map_err(text)?,
            offsets: device.upload(&map.offsets).map_err(text)?,
            weights: device.upload(&self.weights()).map_err(text)?,
        })
    }
}

/// What the operations after the map read.
struct OnDevice {
    row_route: Buffer<i32>,
    offsets: Buffer<i32>,
    weights: Buffer<f32>,
}

/// Codes `[rows, k]` and scales `[k/128, rows]`.
struct Quantization {
    q: Buffer<F8E4M3>,
    sf: Buffer<f32>,
    rows: usize,
    k: usize,
}

impl Quantization {
    fn new(device: &Device, rows: usize, k: usize) -> Result<Self, String> {
        let q = device.upload(&vec![UNWRITTEN_CODE; rows * k]).map_err(text)?;
        let sf = device.upload(&vec![f32::NAN; rows * k / 128]).map_err(text)?;
        Ok(Self { q, sf, rows, k })
    }

    /// The first rows are those of `want`.
    fn same(&self, want: &Quantized) -> Result<Check, String> {
        let used = want.q.len() / self.k;
        let (q, sf) = (self.q.to_vec().map_err(text)?, self.sf.to_vec().map_err(text)?);
        let sf: Vec<f32> = sf.chunks_exact(self.rows).flat_map(|line| &line[..used]).copied().collect();
        Ok(same_codes("codes", (&q[..used * self.k], &sf), (&want.q, &want.sf), self.k))
    }

    /// Rows from `used` on hold what they held.
    fn untouched(&self, used: usize) -> Result<Check, String> {
        let (q, sf) = (self.q.to_vec().map_err(text)?, self.sf.to_vec().map_err(text)?);
        let code = q[used * self.k..].iter().position(|c| c.to_bits() != UNWRITTEN_CODE.to_bits());
        let mut unused = sf.chunks_exact(self.rows).flat_map(|line| &line[used..]);
        let scale = unused.any(|s| s.to_bits() != f32::NAN.to_bits());
        let failure = code.map(|i| format!("row {} of no expert was written", used + i / self.k));
        let failure =
            failure.or_else(|| scale.then(|| "the scale of a row of no expert was written".to_owned()));
        Ok(Check::equal("untouched", (self.rows - used) * self.k, failure))
    }
}

fn same_integers(oracle: &'static str, got: &Buffer<i32>, want: &[i32]) -> Result<Check, String> {
    let got = got.to_vec().map_err(text)?;
    let wrong = got.iter().zip(want).position(|(got, want)| got != want);
    let failure = wrong.map(|i| format!("[{i}]: expected {}, got {}", want[i], got[i]));
    Ok(Check::equal(oracle, want.len(), failure))
}

fn no_fault(device: &Device) -> Check {
    Check::equal("report", 1, device.poll_error().err().map(text))
}
