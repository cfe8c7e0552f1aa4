//! The shapes by which decode kernels of latent attention are compared in public, and what each one computes and moves.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::Normal;

/// Elements of a key, and of a value.
const KEY: usize = 576;
const VALUE: usize = 512;

/// Bytes of a key.
pub const BF16_ROW: usize = 1152;
pub const FP8_ROW: usize = 656;

/// Who measures with a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// FlashMLA, `tests/test_flash_mla_dense_decoding.py`.
    FlashMla,
    /// FlashMLA's first release, and vLLM's tests of it.
    FlashMlaFirst,
    /// FlashMLA, `benchmark/bench_flash_mla.py`.
    FlashMlaBench,
    /// FlashAttention-3, `hopper/benchmark_mla_decode.py`.
    FlashAttention3,
    /// FlashInfer, `benchmarks/bench_deepseek_mla.py`.
    FlashInfer,
    /// ThunderKittens' decode kernel, its README.
    ThunderMla,
    /// vLLM's attention benchmark, `{batch}q{q_tokens}s1k`.
    Vllm,
}

/// Keys of every sequence of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lengths {
    Fixed(usize),
    /// Normal around a mean, half of which is the deviation; at least the query tokens.
    Normal(usize),
    /// Each two more than the one before.
    Rising(usize),
    Uniform(usize, usize),
    List(&'static [usize]),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlaShape {
    pub source: Source,
    pub batch: usize,
    pub q_tokens: usize,
    pub heads: usize,
    pub lengths: Lengths,
    pub causal: bool,
}

impl MlaShape {
    /// The same ones every time.
    pub fn lengths(&self) -> Vec<usize> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let least = self.q_tokens as f64;
        (0..self.batch)
            .map(|i| match self.lengths {
                Lengths::Fixed(length) => length,
                Lengths::Normal(mean) => {
                    let mean = mean as f64;
                    let normal = Normal::new(mean, mean / 2.0).expect("a deviation");
                    rng.sample(normal).max(least) as usize
                }
                Lengths::Rising(first) => first + 2 * i,
                Lengths::Uniform(low, high) => rng.random_range(low..=high),
                Lengths::List(list) => list[i],
            })
            .collect()
    }

    fn rows(&self) -> usize {
        self.batch * self.q_tokens * self.heads
    }

    /// As all of them count: two per multiplication with a key or value, hidden keys of a causal mask included.
    pub fn flops(&self, lengths: &[usize]) -> u64 {
        let keys: usize = lengths.iter().sum();
        (2 * self.q_tokens * self.heads * keys * (KEY + VALUE)) as u64
    }

    /// Queries and outputs in BF16 and every key, each moved once.
    pub fn bytes(&self, lengths: &[usize], key_bytes: usize) -> u64 {
        let keys: usize = lengths.iter().sum();
        (2 * self.rows() * (KEY + VALUE) + keys * key_bytes) as u64
    }

    pub fn name(&self) -> String {
        let Self { batch, q_tokens, heads, causal, .. } = self;
        let keys = match self.lengths {
            Lengths::Fixed(length) => format!("s{length}"),
            Lengths::Normal(mean) => format!("s~{mean}"),
            Lengths::Rising(first) => format!("s{first}+"),
            Lengths::Uniform(low, high) => format!("s{low}-{high}"),
            Lengths::List(list) => format!("s[{}]", list.iter().sum::<usize>()),
        };
        format!("b{batch}q{q_tokens}{keys}h{heads}{}", if *causal { "_causal" } else { "" })
    }
}

/// Every shape of every list.
pub fn shapes() -> Vec<MlaShape> {
    let mut shapes = vec![];
    let mut add = |source, heads: &[usize], batch, q_tokens: &[usize], lengths: &[Lengths], causal| {
        for &heads in heads {
            for &q_tokens in q_tokens {
                let shape = |&lengths| MlaShape { source, batch, q_tokens, heads, lengths, causal };
                shapes.extend(lengths.iter().map(shape));
            }
        }
    };
    use Lengths::{Fixed, List, Normal, Rising, Uniform};
    let doubled = |from: usize, times: u32| (0..times).map(move |i| from << i);
    let all = |kind: fn(usize) -> Lengths, from, times| doubled(from, times).map(kind).collect::<Vec<_>>();

    for causal in [false, true] {
        add(Source::FlashMla, &[128], 128, &[1, 2], &all(Normal, 4096, 4), causal);
    }
    for kind in [Fixed, Normal] {
        add(Source::FlashMlaFirst, &[16, 32, 64, 128], 128, &[1, 2], &all(kind, 4096, 3), true);
    }
    add(Source::FlashMlaBench, &[128], 128, &[1], &all(Rising, 1024, 6), false);
    add(Source::FlashAttention3, &[16, 128], 128, &[1], &all(Fixed, 1024, 7), true);
    add(Source::FlashAttention3, &[16, 128], 4, &[1], &[List(&[4500, 45000, 1800, 1800])], true);
    for batch in [64, 128, 768] {
        add(Source::FlashInfer, &[64, 128], batch, &[1], &[1024, 2048, 8192].map(Fixed), false);
    }
    add(Source::ThunderMla, &[16], 1, &[1], &[Fixed(65536)], true);
    add(Source::ThunderMla, &[16], 64, &[4], &[Uniform(256, 1024)], true);
    add(Source::ThunderMla, &[16], 64, &[2], &[Fixed(512)], true);
    add(Source::ThunderMla, &[16], 132, &[4], &[Fixed(4096)], true);
    add(Source::ThunderMla, &[16, 8], 4, &[4], &[List(&[4641, 45118, 1730, 1696])], true);
    for batch in doubled(1, 8) {
        let q_tokens: Vec<usize> = doubled(1, 10).collect();
        add(Source::Vllm, &[16, 32, 64, 128], batch, &q_tokens, &[Fixed(1024)], true);
    }
    shapes
}
