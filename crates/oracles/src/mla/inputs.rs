//! Queries and keys. Each class is named for what it makes visible.

use std::fmt;

use half::bf16;

use crate::random::{Seed, Shape, Stream};

/// A class of attention inputs, for scales from 1/26 to 1/7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionClass {
    /// Normal data over 10, clamped to +-1: the baseline, and nearly the same probability for every key.
    Normal,
    /// As Normal, all values positive: what is added up only grows.
    Positive,
    /// Logits of some hundreds: few keys count, and the running maximum grows often.
    Peaked,
    /// All logits below -5e4, values positive: no stand-in for -inf may be larger.
    VeryNegative,
    /// Values that are large and nearly cancel, a key of the second half with one of the first: the order of their sum shows.
    Cancelling,
    /// Queries of zeros, values small integers. From a power of two of keys the mean comes out to the bit.
    Uniform,
    /// For each query another key counts alone, and its value comes out to the bit: order, and every border.
    OneKey,
}

/// The queries and keys of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionInputs {
    /// `[queries, 576]`.
    pub q: Vec<bf16>,
    /// `[n, 576]`.
    pub keys: Vec<bf16>,
}

impl AttentionClass {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Normal,
        Self::Positive,
        Self::Peaked,
        Self::VeryNegative,
        Self::Cancelling,
        Self::Uniform,
        Self::OneKey,
    ];

    /// Whether every correct kernel gives the nearest BF16 to every output of a query that sees `keys` keys.
    pub const fn is_exact(self, keys: usize) -> bool {
        match self {
            Self::Uniform => keys.is_power_of_two(),
            Self::OneKey => keys > 0,
            _ => false,
        }
    }

    /// `queries` queries and `keys` keys, of which a query that sees any sees the first one, and every query the first `seen`
    /// at least; only OneKey heeds that.
    pub fn generate(self, queries: usize, keys: usize, seen: usize, seed: u64) -> AttentionInputs {
        const LATENT: usize = 512;
        const WIDTH: usize = 576;
        let seed = Seed(seed);
        let normal = |stream, rows, shape: &Shape| seed.normal(stream, rows, WIDTH, shape);
        let small = |x: f32, _| (x / 10.0).clamp(-1.0, 1.0);
        let positive = |x: f32, _| (x / 10.0).abs().min(1.0);
        let (q, keys) = match self {
            Self::Normal => (normal(Stream::A, queries, &small), normal(Stream::B, keys, &small)),
            Self::Positive => (normal(Stream::A, queries, &positive), normal(Stream::B, keys, &positive)),
            Self::Peaked => {
                let large = |x: f32, _| 12.0 * x;
                (normal(Stream::A, queries, &large), normal(Stream::B, keys, &large))
            }
            Self::VeryNegative => {
                // 15 products of -2^17, and one that tells the keys apart: a single step makes a small error of the
                // large sum.
                let q = |_, column| match column {
                    LATENT => 1.0,
                    513..528 => -512.0,
                    _ => 0.0,
                };
                let key = |x: f32, column| match column {
                    0..LATENT => positive(x, column),
                    LATENT => 16.0 * x,
                    _ => 256.0,
                };
                (normal(Stream::A, queries, &q), normal(Stream::B, keys, &key))
            }
            Self::Cancelling => {
                // The position alone scores, so that the keys of a pair have the same weight. One of three has no partner.
                let rope = |x, column| if column < LATENT { 0.0 } else { x };
                let mut keys = normal(Stream::B, keys, &|x, _| x);
                let count = keys.len() / WIDTH;
                let (first, second) = keys.split_at_mut(count / 2 * WIDTH);
                let pairs = first.chunks_exact_mut(WIDTH).zip(second.chunks_exact_mut(WIDTH)).enumerate();
                for (_, (key, partner)) in pairs.filter(|(index, _)| index % 3 != 0) {
                    for value in &mut key[..LATENT] {
                        *value = bf16::from_f32(value.to_f32() * 1_048_576.0);
                    }
                    partner.copy_from_slice(key);
                    partner[..LATENT].iter_mut().for_each(|value| *value = -*value);
                }
                (normal(Stream::A, queries, &rope), keys)
            }
            Self::Uniform => {
                let key = |x: f32, _| (4.0 * x).round().clamp(-8.0, 8.0);
                (vec![bf16::ZERO; queries * WIDTH], normal(Stream::B, keys, &key))
            }
            Self::OneKey => {
                // Signs tell the keys apart: 64 equal ones make 2^14, 64 random ones rarely half of it. No value is
                // 0, so that a p of less than 2^-150 changes none.
                let key = |x: f32, column| match column {
                    0..LATENT => 1.0 + x.abs(),
                    _ => 16_f32.copysign(x),
                };
                let keys = normal(Stream::B, keys, &key);
                let mut q = vec![bf16::ZERO; queries * WIDTH];
                for (index, row) in q.chunks_exact_mut(WIDTH).enumerate().filter(|_| !keys.is_empty()) {
                    // A stride without a common factor with most counts: few queries reach every part of the keys.
                    let chosen = index * 4099 % seen.max(1) * WIDTH;
                    row[LATENT..].copy_from_slice(&keys[chosen + LATENT..chosen + WIDTH]);
                }
                (q, keys)
            }
        };
        AttentionInputs { q, keys }
    }
}

impl fmt::Display for AttentionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
