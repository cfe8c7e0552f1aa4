//! Values of operands that are no keys.

use std::fmt;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use crate::data::activations;

/// A class of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// In [-8, 8]: a correct sum of products has no error at all.
    Integers,
    /// Normal values of many magnitudes.
    Magnitudes,
    /// What a norm leaves: all but the outliers alike in size.
    Activations,
}

impl Values {
    /// `[rows, columns]`.
    pub fn draw(self, (rows, columns): (usize, usize), seed: u64) -> Vec<f32> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut values = vec![0.0; rows * columns];
        match self {
            Self::Integers => values.fill_with(|| f32::from(rng.random_range(-8_i8..=8))),
            Self::Magnitudes => values.fill_with(|| {
                rng.sample::<f32, _>(StandardNormal) * f32::from(rng.random_range(-8_i8..=8)).exp2()
            }),
            Self::Activations => {
                return activations(rows, columns, columns, seed).iter().map(|x| x.to_f32()).collect();
            }
        }
        values
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Integers => "integers",
            Self::Magnitudes => "magnitudes",
            Self::Activations => "activations",
        })
    }
}
