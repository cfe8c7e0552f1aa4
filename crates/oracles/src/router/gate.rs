use half::bf16;
use rayon::prelude::*;

use crate::exp::{exp_f32, sigmoid_f32, sqrt_softplus_f32};
use crate::{ShapeError, check_length};

/// Elements of K in one chain of FMAs.
const CHUNK: usize = 1024;
/// Half the distance from 1 to the next `f32`: the relative error of one rounding.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreModel {
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Over the experts of a token.
    Softmax,
    /// `sqrt(log(1 + exp(x)))`.
    SqrtSoftplus,
}

/// A router as the reference sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateModel {
    /// Routed experts.
    pub experts: usize,
    /// Routed experts of a token.
    pub top_k: usize,
    /// Groups of neighbouring experts.
    pub groups: usize,
    /// Groups whose experts may be chosen.
    pub kept_groups: usize,
    /// Experts that every token has.
    pub shared: usize,
    /// Of the logits.
    pub scoring: ScoreModel,
    /// A group's score is the sum of its two best experts' scores; otherwise its best.
    pub top_two_sum: bool,
    /// Weights are divided by the sum of the scores.
    pub normalize: bool,
    /// Factor of the weights.
    pub route_scale: f32,
}

/// The experts of the tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// `[tokens, top_k + shared]`.
    pub ids: Vec<i32>,
    /// `[tokens, top_k + shared]`.
    pub weights: Vec<f32>,
    /// `[tokens, experts]`.
    pub scores: Vec<f32>,
    /// A fixed id was neither -1 nor one of the experts.
    pub bad_id: bool,
}

/// What a choice depends on besides the logits.
#[derive(Clone, Copy, Debug, Default)]
pub struct GateOptions<'a> {
    /// `[experts]`, added for the choice only.
    pub bias: Option<&'a [f32]>,
    /// `[tokens]`, 0 for padding.
    pub mask: Option<&'a [u32]>,
    /// `[tokens, top_k]`, kept.
    pub fixed_ids: Option<&'a [i32]>,
}

/// FP32 logits `[tokens, experts]` of `x` `[tokens, k]` and `w` `[experts, k]`: within 1024 elements of K one chain of
/// FMAs from +0, k ascending; the chains are added in ascending order, to +0.
pub fn gate_logits(
    x: &[bf16],
    w: &[f32],
    tokens: usize,
    experts: usize,
    k: usize,
) -> Result<Vec<f32>, ShapeError> {
    check_length("x", tokens * k, x.len())?;
    check_length("w", experts * k, w.len())?;
    let logit = |index: usize| {
        let (x, w) = (&x[index / experts * k..][..k], &w[index % experts * k..][..k]);
        let chain =
            |(x, w): (&[bf16], &[f32])| x.iter().zip(w).fold(0.0, |sum, (x, w)| x.to_f32().mul_add(*w, sum));
        x.chunks(CHUNK).zip(w.chunks(CHUNK)).map(chain).fold(0.0, |sum: f32, chunk| sum + chunk)
    };
    Ok((0..tokens * experts).into_par_iter().map(logit).collect())
}

/// The exact logits, as nearly as `f64` has them, and how far FP32 sums in any order of FMAs may be from each.
pub fn gate_logits_bound(
    x: &[bf16],
    w: &[f32],
    tokens: usize,
    experts: usize,
    k: usize,
) -> Result<Vec<(f64, f64)>, ShapeError> {
    check_length("x", tokens * k, x.len())?;
    check_length("w", experts * k, w.len())?;
    let logit = |index: usize| {
        let (x, w) = (&x[index / experts * k..][..k], &w[index % experts * k..][..k]);
        let products = || x.iter().zip(w).map(|(x, w)| x.to_f64() * f64::from(*w));
        let roundings = (k + k.div_ceil(CHUNK)) as f64;
        let magnitude: f64 = products().map(f64::abs).sum();
        // One rounding per element and per chunk (Higham's gamma), and at most half the least subnormal each.
        let bound =
            roundings * ROUNDING / (1.0 - roundings * ROUNDING) * magnitude + roundings * 2.0_f64.powi(-150);
        (products().sum(), bound)
    };
    Ok((0..tokens * experts).into_par_iter().map(logit).collect())
}

/// Scores, choice and weights in FP32, from logits `[tokens, experts]`. Sorting decides: by score descending, then by
/// index.
pub fn gate_select(model: &GateModel, logits: &[f32], options: GateOptions) -> Result<Routed, ShapeError> {
    let GateModel { experts, top_k, shared, .. } = *model;
    let tokens = logits.len() / experts.max(1);
    check_length("logits", tokens * experts, logits.len())?;
    check_length("bias", options.bias.map_or(0, |_| experts), options.bias.map_or(0, <[f32]>::len))?;
    check_length("mask", options.mask.map_or(0, |_| tokens), options.mask.map_or(0, <[u32]>::len))?;
    let fixed = options.fixed_ids.map_or(0, <[i32]>::len);
    check_length("fixed ids", options.fixed_ids.map_or(0, |_| tokens * top_k), fixed)?;

    let token = |t: usize| {
        let scores = scores(model, &logits[t * experts..][..experts]);
        let given = options.fixed_ids.map(|ids| &ids[t * top_k..][..top_k]);
        let chosen = match given {
            Some(ids) => ids.iter().map(|&id| usize::try_from(id).ok().filter(|&e| e < experts)).collect(),
            None => choose(model, &scores, options.bias),
        };
        let bad_id = given.is_some_and(|ids| ids.iter().any(|&id| id < -1 || id >= experts as i32));
        let padding = options.mask.is_some_and(|mask| mask[t] == 0);
        let (ids, weights) = routes(model, &scores, &chosen, padding);
        (ids, weights, scores, bad_id)
    };
    let routed: Vec<_> = (0..tokens).into_par_iter().map(token).collect();
    let mut all = Routed { ids: Vec::new(), weights: Vec::new(), scores: Vec::new(), bad_id: false };
    for (ids, weights, scores, bad_id) in routed {
        assert_eq!(ids.len(), top_k + shared);
        all.ids.extend(ids);
        all.weights.extend(weights);
        all.scores.extend(scores);
        all.bad_id |= bad_id;
    }
    Ok(all)
}

/// Of one token, in FP32.
fn scores(model: &GateModel, logits: &[f32]) -> Vec<f32> {
    let logits = logits.iter().map(|&x| 0.0 + x);
    match model.scoring {
        ScoreModel::Sigmoid => return logits.map(sigmoid_f32).collect(),
        ScoreModel::SqrtSoftplus => return logits.map(sqrt_softplus_f32).collect(),
        ScoreModel::Softmax => {}
    }
    let logits: Vec<f32> = logits.collect();
    let largest = logits.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let share = |&x: &f32| if x == largest { 1.0 } else { exp_f32(x - largest) };
    let shares: Vec<f32> = logits.iter().map(share).collect();
    let numbers: Vec<f32> = shares.iter().map(|&share| if share.is_nan() { 0.0 } else { share }).collect();
    let sum = sum_of_warp(&numbers);
    shares.iter().map(|share| share / sum).collect()
}

/// In the order of a warp: lane l adds every 32nd value from l on, then lanes add pairwise, those 16 apart first.
pub(super) fn sum_of_warp(values: &[f32]) -> f32 {
    let lane = |l: usize| values.iter().skip(l).step_by(32).fold(0.0, |sum: f32, x| sum + x);
    let mut lanes: Vec<f32> = (0..32).map(lane).collect();
    while lanes.len() > 1 {
        let upper = lanes.split_off(lanes.len() / 2);
        lanes.iter_mut().zip(upper).for_each(|(low, high)| *low += high);
    }
    lanes[0]
}

/// The best experts of one token, best first.
fn choose(model: &GateModel, scores: &[f32], bias: Option<&[f32]>) -> Vec<Option<usize>> {
    let biased = |e: usize| bias.map_or(scores[e], |bias| scores[e] + bias[e]);
    let candidates: Vec<(f32, usize)> =
        (0..scores.len()).map(|e| (biased(e), e)).filter(|(c, _)| *c > f32::NEG_INFINITY).collect();
    let kept = kept_groups(model, &candidates);
    let group = |e: usize| e / (model.experts / model.groups);
    let left = candidates.into_iter().filter(|&(_, e)| kept.contains(&group(e)));
    let best = sorted(left.collect()).into_iter().map(|(_, e)| Some(e));
    best.chain(std::iter::repeat(None)).take(model.top_k).collect()
}

fn kept_groups(model: &GateModel, candidates: &[(f32, usize)]) -> Vec<usize> {
    if model.kept_groups == model.groups {
        return (0..model.groups).collect();
    }
    let size = model.experts / model.groups;
    let score = |g: usize| {
        let members = candidates.iter().filter(|(_, e)| e / size == g).copied().collect();
        let counted = if model.top_two_sum { 2 } else { 1 };
        let best = sorted(members).into_iter().map(|(c, _)| c).take(counted);
        best.reduce(|first, second| first + second).map(|score| (score, g))
    };
    let scored = sorted((0..model.groups).filter_map(score).collect());
    scored.into_iter().map(|(_, g)| g).take(model.kept_groups).collect()
}

/// Greatest first; of equals, the lowest index first. There is no NaN.
fn sorted(mut values: Vec<(f32, usize)>) -> Vec<(f32, usize)> {
    values.sort_by(|(a, i), (b, j)| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal).then(i.cmp(j)));
    values
}

/// Ids and weights of one token.
fn routes(
    model: &GateModel,
    scores: &[f32],
    chosen: &[Option<usize>],
    padding: bool,
) -> (Vec<i32>, Vec<f32>) {
    if padding {
        let routes = model.top_k + model.shared;
        return (vec![-1; routes], vec![0.0; routes]);
    }
    let counted: Vec<f32> =
        chosen.iter().map(|e| e.map(|e| scores[e]).filter(|s| !s.is_nan()).unwrap_or(0.0)).collect();
    let sum = counted.iter().fold(0.0, |sum: f32, s| sum + s);
    let weight =
        |s: &f32| if model.normalize { s / (sum + 1e-20) * model.route_scale } else { s * model.route_scale };
    let shared = (0..model.shared).map(|j| (model.experts + j) as i32);
    let ids = chosen.iter().map(|e| e.map_or(-1, |e| e as i32)).chain(shared).collect();
    let weights = counted.iter().map(weight).chain(std::iter::repeat_n(1.0, model.shared)).collect();
    (ids, weights)
}

/// Roundings of [`sqrt_softplus_f32`] where the exponential is a normal number: of the exponential, 1 ulp, which log(1 + e) passes
/// on by at most e / ((1 + e) log(1 + e)) <= 1; of the logarithm, 1 ulp; of the sum of two numbers that are not negative. The root
/// halves them all, and is rounded.
pub const SQRT_SOFTPLUS_ROUNDINGS: f64 = (2.0 + 2.0 + 1.0) / 2.0 + 1.0;

/// `sqrt(log(1 + exp(x)))` as nearly as `f64` has it.
pub fn sqrt_softplus(x: f64) -> f64 {
    (x.max(0.0) + (-x.abs()).exp().ln_1p()).sqrt()
}

/// The weights that `ids` `[tokens, top_k]` of finite logits have in exact arithmetic, as nearly as `f64` has it, and how
/// far FP32 may be from each: the exponential within 1 ulp, every other operation rounded once.
pub fn gate_weights_bound(model: &GateModel, logits: &[f32], ids: &[i32]) -> Vec<(f64, f64)> {
    let GateModel { experts, top_k, .. } = *model;
    let rows = logits.chunks(experts).zip(ids.chunks(top_k));
    rows.flat_map(|(logits, ids)| weights_of_token(model, logits, ids)).collect()
}

fn weights_of_token(model: &GateModel, logits: &[f32], ids: &[i32]) -> Vec<(f64, f64)> {
    let logits: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let spread = logits.iter().map(|x| largest - x).fold(0.0, f64::max);
    let total: f64 = logits.iter().map(|x| (x - largest).exp()).sum();
    let chosen = |id: i32| usize::try_from(id).ok().map(|e| logits[e]);
    let score = |x: f64| match model.scoring {
        ScoreModel::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        ScoreModel::Softmax => (x - largest).exp() / total,
        ScoreModel::SqrtSoftplus => sqrt_softplus(x),
    };
    // Roundings of a score: an exponential counts two; of softmax, the shift moves the exponent by one of `spread`, in
    // the share and in the sum, whose chain is as long as a lane's and a warp's.
    let of_score = match model.scoring {
        ScoreModel::Sigmoid => 4.0,
        ScoreModel::Softmax => 2.0 * (2.0 + spread) + 16.0 + 5.0 + 1.0,
        ScoreModel::SqrtSoftplus => SQRT_SOFTPLUS_ROUNDINGS,
    };
    let sum: f64 = ids.iter().filter_map(|&id| chosen(id)).map(score).sum();
    let of_weight = if model.normalize { 2.0 * of_score + ids.len() as f64 + 3.0 } else { of_score + 1.0 };
    let scale = f64::from(model.route_scale);
    let weight = |&id: &i32| {
        let s = chosen(id).map_or(0.0, score);
        let exact = if model.normalize { s / (sum + 1e-20) * scale } else { s * scale };
        (exact, of_weight * ROUNDING / (1.0 - of_weight * ROUNDING) * exact.abs() + 2.0_f64.powi(-140))
    };
    ids.iter().map(weight).collect()
}
