//! What Hugging Face's latent attention of DeepSeek-V3 computes: tests/goldens/mla.txt, and the
//! inputs that make_mla.py computed it from.

use deepseek_kernels::bf16;
use oracles::mla::MlaStep;

use crate::goldens::states;

const LATENT: usize = 512;

/// In [-8, 8) times a scale.
fn small(count: usize, seed: u32, scale: f32) -> Vec<bf16> {
    states(seed).take(count).map(|state| bf16::from_f32(((state >> 28) as f32 - 8.0) * scale)).collect()
}

pub const HEADS: usize = 4;

/// A sequence of make_mla.py: what the projections gave, and the attention's output.
pub struct Golden {
    pub q: Vec<bf16>,
    pub c_kv: Vec<bf16>,
    pub k_pe: Vec<bf16>,
    pub positions: Vec<i32>,
    pub w_kvb: Vec<bf16>,
    pub frequencies: [f32; 32],
    pub scale: f64,
    /// Of the last tokens, the first of which is `first`.
    pub out: Vec<Vec<f64>>,
    pub first: usize,
}

impl Golden {
    /// Sequence 0 or 1.
    pub fn read(sequence: u32) -> Self {
        let mut lines = include_str!("../../../../tests/goldens/mla.txt").lines();
        let mut header = |name| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)).expect(name);
            line.split(' ').map(|x| x.parse().expect("a number")).collect::<Vec<f64>>()
        };
        let frequencies: Vec<f32> = header("frequencies ").iter().map(|x| *x as f32).collect();
        let scale = header("scale ")[0];
        let (mut out, mut tokens) = (vec![], vec![]);
        for line in lines.filter_map(|line| line.strip_prefix(&format!("{sequence} "))) {
            let (token, values) = line.split_once(' ').expect("a token and its output");
            tokens.push(token.parse::<usize>().expect("a token"));
            out.push(values.split(' ').map(|x| x.parse().expect("a number")).collect());
        }
        let (first, n) = (tokens[0], tokens[tokens.len() - 1] + 1);
        assert!(tokens.len() == 3 && tokens.iter().copied().eq(first..n), "the file is whole");
        let seed = 100 * (sequence + 1);
        let distance = [1, 131][sequence as usize];
        Self {
            q: small(n * HEADS * 192, seed, 0.25),
            c_kv: small(n * LATENT, seed + 1, 0.125),
            k_pe: small(n * 64, seed + 2, 0.25),
            positions: (0..n as i32).map(|token| token * distance).collect(),
            w_kvb: small(HEADS * 256 * LATENT, 21, 1.0 / 64.0),
            frequencies: frequencies.try_into().expect("32 pairs"),
            scale,
            out,
            first,
        }
    }

    /// The step of `tokens` that ends before token `end`.
    pub fn step(&self, end: usize, tokens: usize) -> MlaStep<'_> {
        MlaStep {
            q: &self.q[(end - tokens) * HEADS * 192..end * HEADS * 192],
            c_kv: &self.c_kv[..end * LATENT],
            k_pe: &self.k_pe[..end * 64],
            positions: &self.positions[..end],
            w_kvb: &self.w_kvb,
            heads: HEADS,
            frequencies: &self.frequencies,
            scale: self.scale,
        }
    }
}
