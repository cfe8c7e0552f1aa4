//! A step of latent attention between its projections, in f64: as the model defines it, and as decode kernels compute it.

use half::bf16;

use crate::{ShapeError, check_length};

/// Elements of a latent vector.
const LATENT: usize = 512;
/// Elements of a query or key that are rotated.
const ROPE: usize = 64;
/// Elements of a head's query or key that are not rotated.
const NOPE: usize = 128;
/// Elements of a head's value.
const VALUE: usize = 128;

/// What a step reads: the tokens of one sequence, the last of which are the queries'. Each sees itself and those before.
#[derive(Clone, Copy, Debug)]
pub struct MlaStep<'a> {
    /// `[q_tokens, heads, 192]`: 128 elements, then 64 that are not rotated yet.
    pub q: &'a [bf16],
    /// Latent vectors `[n, 512]`, normalised.
    pub c_kv: &'a [bf16],
    /// The part of the keys that all heads share, `[n, 64]`, not rotated yet.
    pub k_pe: &'a [bf16],
    /// Of every token, `[n]`.
    pub positions: &'a [i32],
    /// The up-projection `[heads, 256, 512]`: 128 rows for a head's keys, then 128 for its values.
    pub w_kvb: &'a [bf16],
    /// Heads of a query token.
    pub heads: usize,
    /// Radians per position, of every pair.
    pub frequencies: &'a [f32; 32],
    /// Scale of the logits.
    pub scale: f64,
}

/// The keys and values of one head.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpandedKv {
    /// `[n, 192]`, rotated.
    pub keys: Vec<f64>,
    /// `[n, 128]`.
    pub values: Vec<f64>,
}

impl MlaStep<'_> {
    fn tokens(&self) -> usize {
        self.positions.len()
    }

    fn q_tokens(&self) -> usize {
        self.q.len() / (self.heads * (NOPE + ROPE)).max(1)
    }

    fn check(&self) -> Result<(), ShapeError> {
        let (n, q_tokens) = (self.tokens(), self.q_tokens());
        check_length("q", q_tokens * self.heads * (NOPE + ROPE), self.q.len())?;
        check_length("c_kv", n * LATENT, self.c_kv.len())?;
        check_length("k_pe", n * ROPE, self.k_pe.len())?;
        check_length("w_kvb", self.heads * (NOPE + VALUE) * LATENT, self.w_kvb.len())?;
        check_length("positions", n.max(q_tokens), n)
    }

    /// Pairs of neighbours, each turned by its frequency times the position of `token`, a product in FP32.
    fn rotated(&self, x: &[bf16], token: usize) -> impl Iterator<Item = f64> {
        let position = self.positions[token] as f32;
        x.as_chunks::<2>().0.iter().zip(self.frequencies).flat_map(move |(pair, frequency)| {
            let [x, y] = pair.map(bf16::to_f64);
            let (sin, cos) = f64::from(position * frequency).sin_cos();
            [x * cos - y * sin, x * sin + y * cos]
        })
    }

    /// `[256, 512]`.
    fn up(&self, head: usize) -> impl Iterator<Item = &[bf16]> {
        self.w_kvb.chunks_exact(LATENT).skip(head * (NOPE + VALUE)).take(NOPE + VALUE)
    }

    /// The keys and values of `head`, which the up-projection makes of the latent vectors.
    pub fn expand(&self, head: usize) -> Result<ExpandedKv, ShapeError> {
        self.check()?;
        let (mut keys, mut values) = (vec![], vec![]);
        for (token, (latent, k_pe)) in
            self.c_kv.chunks_exact(LATENT).zip(self.k_pe.chunks_exact(ROPE)).enumerate()
        {
            let latent: Vec<f64> = latent.iter().map(|x| x.to_f64()).collect();
            let up: Vec<f64> =
                self.up(head).map(|row| dot(row.iter().map(|w| w.to_f64()), &latent)).collect();
            let (k, v) = up.split_at(NOPE);
            keys.extend(k.iter().copied().chain(self.rotated(k_pe, token)));
            values.extend(v);
        }
        Ok(ExpandedKv { keys, values })
    }

    /// Every query of `head` with the number of keys that it sees, and the token whose it is.
    fn queries(&self, head: usize) -> impl Iterator<Item = (usize, &[bf16])> {
        let first = self.tokens() - self.q_tokens();
        let rows = self.q.chunks_exact(NOPE + ROPE).skip(head).step_by(self.heads.max(1));
        rows.enumerate().map(move |(index, q)| (first + index, q))
    }

    /// Every head has keys and values of its own: `[q_tokens, heads, 128]`, what the output projection reads.
    pub fn naive(&self) -> Result<Vec<f64>, ShapeError> {
        self.check()?;
        let mut out = vec![0.0; self.q_tokens() * self.heads * VALUE];
        for head in 0..self.heads {
            let ExpandedKv { keys, values } = self.expand(head)?;
            for (index, (token, q)) in self.queries(head).enumerate() {
                let (nope, rope) = q.split_at(NOPE);
                let q: Vec<f64> = nope.iter().map(|x| x.to_f64()).chain(self.rotated(rope, token)).collect();
                let keys = keys.chunks_exact(NOPE + ROPE).take(token + 1);
                let p = softmax(keys.map(|key| self.scale * dot(key.iter().copied(), &q)));
                let row = &mut out[(index * self.heads + head) * VALUE..][..VALUE];
                for (p, value) in p.iter().zip(values.chunks_exact(VALUE)) {
                    row.iter_mut().zip(value).for_each(|(out, v)| *out += p * v);
                }
            }
        }
        Ok(out)
    }

    /// All heads share the latent vectors as keys and values; the up-projection is moved to the queries and outputs.
    pub fn absorbed(&self) -> Result<Vec<f64>, ShapeError> {
        self.check()?;
        let latents: Vec<f64> = self.c_kv.iter().map(|x| x.to_f64()).collect();
        let k_pe = self.k_pe.chunks_exact(ROPE).enumerate();
        let k_pe: Vec<f64> = k_pe.flat_map(|(token, x)| self.rotated(x, token)).collect();
        let mut out = vec![0.0; self.q_tokens() * self.heads * VALUE];
        for head in 0..self.heads {
            let up: Vec<Vec<f64>> =
                self.up(head).map(|row| row.iter().map(|w| w.to_f64()).collect()).collect();
            let (up_k, up_v) = up.split_at(NOPE);
            for (index, (token, q)) in self.queries(head).enumerate() {
                let (nope, rope) = q.split_at(NOPE);
                let rope: Vec<f64> = self.rotated(rope, token).collect();
                let mut latent_q = vec![0.0; LATENT];
                for (q, row) in nope.iter().zip(up_k) {
                    latent_q.iter_mut().zip(row).for_each(|(sum, w)| *sum += q.to_f64() * w);
                }
                let keys = latents.chunks_exact(LATENT).zip(k_pe.chunks_exact(ROPE)).take(token + 1);
                let logit = |(latent, k_pe): (&[f64], &[f64])| {
                    dot(latent.iter().copied(), &latent_q) + dot(k_pe.iter().copied(), &rope)
                };
                let p = softmax(keys.map(|key| self.scale * logit(key)));
                let mut latent_out = vec![0.0; LATENT];
                for (p, latent) in p.iter().zip(latents.chunks_exact(LATENT)) {
                    latent_out.iter_mut().zip(latent).for_each(|(out, x)| *out += p * x);
                }
                let row = &mut out[(index * self.heads + head) * VALUE..][..VALUE];
                row.iter_mut().zip(up_v).for_each(|(out, row)| *out = dot(row.iter().copied(), &latent_out));
            }
        }
        Ok(out)
    }
}

fn dot(x: impl Iterator<Item = f64>, y: &[f64]) -> f64 {
    x.zip(y).map(|(x, y)| x * y).sum()
}

fn softmax(logits: impl Iterator<Item = f64>) -> Vec<f64> {
    let logits: Vec<f64> = logits.collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = logits.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}
