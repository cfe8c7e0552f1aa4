//! How tokens choose their experts.

use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};

/// Ids that are no expert of `experts`, and not -1.
pub fn strangers(experts: usize) -> [i32; 5] {
    [i32::MIN, -2, experts as i32, experts as i32 + 1, i32::MAX]
}

/// A way in which tokens choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// Different experts per token, each as likely as the other.
    Uniform,
    /// The same, and one of seven tokens has one less.
    Gaps,
    AllToOne,
    /// Experts of odd index have nothing.
    AlternateEmpty,
    AllEmpty,
    FirstAndLast,
    /// Good ids, -1 and ids that are none.
    Strangers,
}

/// The ways that differ most.
pub const ROUTINGS: [Routing; 6] = [
    Routing::Uniform,
    Routing::AllToOne,
    Routing::AlternateEmpty,
    Routing::AllEmpty,
    Routing::FirstAndLast,
    Routing::Strangers,
];

impl Routing {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Gaps => "routed",
            Self::AllToOne => "all to one",
            Self::AlternateEmpty => "every second",
            Self::AllEmpty => "none",
            Self::FirstAndLast => "first and last",
            Self::Strangers => "strangers",
        }
    }

    /// `[tokens, top_k]`.
    pub fn ids(self, (tokens, top_k, experts): (usize, usize, usize), seed: u64) -> Vec<i32> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut one = |token: usize, k: usize, distinct: &[usize]| match self {
            Self::Gaps if token % 7 == 6 && k == 3 => -1,
            Self::Uniform | Self::Gaps => distinct.get(k).map_or(-1, |&expert| expert as i32),
            Self::AllToOne => experts as i32 / 2,
            Self::AlternateEmpty => 2 * rng.random_range(0..experts.div_ceil(2)) as i32,
            Self::AllEmpty => -1,
            Self::FirstAndLast => [0, experts as i32 - 1][rng.random_range(0..2)],
            Self::Strangers => match rng.random_range(0..3) {
                0 => rng.random_range(0..experts) as i32,
                1 => -1,
                _ => strangers(experts)[rng.random_range(0..5)],
            },
        };
        let mut shuffle = StdRng::seed_from_u64(seed ^ 1);
        let token = |token: usize| {
            let distinct = sample(&mut shuffle, experts, top_k.min(experts)).into_vec();
            (0..top_k).map(|k| one(token, k, &distinct)).collect::<Vec<_>>()
        };
        (0..tokens).flat_map(token).collect()
    }
}
