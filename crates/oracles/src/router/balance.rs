use super::gate::sum_of_warp;
use crate::{ShapeError, check_length};

/// Adds to `counts` `[experts]` how often `ids` name each expert; returns whether an id was neither -1 nor an expert.
pub fn expert_load(ids: &[i32], counts: &mut [u32]) -> bool {
    let mut bad_id = false;
    for &id in ids {
        match usize::try_from(id).ok().and_then(|e| counts.get_mut(e)) {
            Some(count) => *count += 1,
            None => bad_id |= id != -1,
        }
    }
    bad_id
}

/// `bias += speed * sign(mean - counts)`, one FP32 rounding; the sign is exact, and 0 at the mean.
pub fn bias_update(counts: &[u32], bias: &mut [f32], speed: f32) -> Result<(), ShapeError> {
    check_length("bias", counts.len(), bias.len())?;
    let total: u128 = counts.iter().map(|&c| u128::from(c)).sum();
    for (bias, &count) in bias.iter_mut().zip(counts) {
        match total.cmp(&(u128::from(count) * counts.len() as u128)) {
            std::cmp::Ordering::Greater => *bias += speed,
            std::cmp::Ordering::Less => *bias -= speed,
            std::cmp::Ordering::Equal => {}
        }
    }
    Ok(())
}

/// `(largest count - mean) / mean`; 0 when nothing was counted.
pub fn max_vio(counts: &[u32]) -> f64 {
    let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
    let largest = counts.iter().copied().max().unwrap_or(0);
    if total == 0 { 0.0 } else { f64::from(largest) * counts.len() as f64 / total as f64 - 1.0 }
}

/// `sum over i of f_i P_i` of one sequence of finite, positive scores `[tokens, experts]`, and how far FP32 may be from
/// it when it adds the tokens in `chains` chains.
///
/// f_i: tokens whose K best scores contain i (of equals, the lowest index), times `experts / (K tokens)`; P_i: the mean
/// over the tokens of `s_i / sum of s`.
pub fn sequence_balance_loss(
    scores: &[f32],
    experts: usize,
    top_k: usize,
    chains: usize,
) -> Result<(f64, f64), ShapeError> {
    let tokens = scores.len() / experts.max(1);
    check_length("scores", tokens * experts, scores.len())?;
    let counts = choices(scores, experts, top_k);
    let mut shares = vec![0.0; experts];
    for row in scores.chunks(experts.max(1)) {
        let sum: f64 = row.iter().map(|&s| f64::from(s)).sum();
        shares.iter_mut().zip(row).for_each(|(share, &s)| *share += f64::from(s) / sum);
    }
    let scale = experts as f64 / (top_k * tokens * tokens).max(1) as f64;
    let loss: f64 = counts.iter().zip(&shares).map(|(&count, share)| count as f64 * share * scale).sum();
    // Nothing is negative, so relative errors add up: the sum of a token's scores, its shares, a chain of tokens and the
    // chains, f, the product with P, the sum over the experts, alpha.
    let sum_over_experts = experts.div_ceil(32) + 5;
    let roundings = sum_over_experts + 1 + tokens.div_ceil(chains) + chains + 3 + 2 + sum_over_experts + 1;
    Ok((loss, roundings as f64 / (1 << 24) as f64 * 1.01 * loss))
}

/// `alpha` times the same in FP32, operation by operation as the kernel computes it, which adds the tokens in `chains`
/// chains.
pub fn sequence_balance_loss_bits(
    scores: &[f32],
    (experts, top_k): (usize, usize),
    chains: usize,
    alpha: f32,
) -> Result<f32, ShapeError> {
    let tokens = scores.len() / experts.max(1);
    check_length("scores", tokens * experts, scores.len())?;
    if tokens * top_k == 0 {
        return Ok(0.0);
    }
    let rows: Vec<&[f32]> = scores.chunks_exact(experts).collect();
    let sums: Vec<f32> = rows.iter().map(|row| sum_of_warp(row)).collect();
    let share = |expert: usize| {
        let chain = |first: usize| {
            let tokens = (first..tokens).step_by(chains);
            tokens.fold(0.0_f32, |share, t| share + rows[t][expert] / sums[t])
        };
        (0..chains).map(chain).fold(0.0, |share: f32, chain| share + chain)
    };
    let term = |(expert, count): (usize, u64)| {
        let f = (count * experts as u64) as f32 / (top_k * tokens) as f32;
        f * (share(expert) / tokens as f32)
    };
    let terms: Vec<f32> = choices(scores, experts, top_k).into_iter().enumerate().map(term).collect();
    Ok(alpha * sum_of_warp(&terms))
}

/// How many tokens would choose each expert: those of the K best scores; of equals, the lowest index.
fn choices(scores: &[f32], experts: usize, top_k: usize) -> Vec<u64> {
    let mut counts = vec![0; experts];
    for row in scores.chunks(experts.max(1)) {
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
        order.iter().take(top_k).for_each(|&i| counts[i] += 1);
    }
    counts
}
