//! Samples of a time: when there are enough, and what they tell.

use super::record::Stop;

/// The middle one; NaN of none.
pub fn median(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
        n => sorted[n / 2],
    }
}

/// Between these the median of all samples that might be taken lies, with 99 % confidence where there are eight or more: by
/// their order alone, whatever their distribution (the binomial one of how many lie below it, as a normal one). Of fewer:
/// between the least and the greatest.
pub fn median_interval(samples: &[f64]) -> (f64, f64) {
    const QUANTILE: f64 = 2.576;
    const FEW: usize = 8;
    let sorted = sorted(samples);
    let Some(last) = sorted.len().checked_sub(1) else { return (f64::NAN, f64::NAN) };
    if sorted.len() < FEW {
        return (sorted[0], sorted[last]);
    }
    let n = sorted.len() as f64;
    let below = (n / 2.0 - QUANTILE * n.sqrt() / 2.0).floor().max(0.0) as usize;
    (sorted[below], sorted[last - below])
}

/// The standard deviation as a part of the mean.
pub fn relative_deviation(samples: &[f64]) -> f64 {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let squares = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    (squares / (n - 1.0).max(1.0)).sqrt() / mean
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// When to stop: the two criteria of NVBench, with its limits.
#[derive(Debug, Clone)]
pub struct Stopping {
    samples: Vec<f64>,
    /// Entropy of the samples' distribution after each of the latest, in bits.
    entropies: Vec<f64>,
}

/// Fewer samples tell of no distribution.
const LEAST: usize = 10;
/// A relative standard deviation that is low enough.
const DEVIATION: f64 = 0.005;
/// Samples over which the entropy is looked at, the greatest angle of its slope, in degrees, and the least part of its variance that a
/// line explains.
const WINDOW: usize = 299;
const ANGLE: f64 = 0.048;
const EXPLAINED: f64 = 0.36;

impl Stopping {
    pub fn new() -> Self {
        Self { samples: Vec::new(), entropies: Vec::new() }
    }

    /// Takes a sample; why it is the last one, if it should be.
    pub fn add(&mut self, seconds: f64) -> Option<Stop> {
        self.samples.push(seconds);
        self.entropies.push(entropy(&self.samples));
        if self.samples.len() < LEAST {
            return None;
        }
        if relative_deviation(&self.samples) < DEVIATION {
            return Some(Stop::Deviation);
        }
        let window = &self.entropies[self.entropies.len().saturating_sub(WINDOW)..];
        let (slope, explained) = line(window);
        let flat = slope.atan().to_degrees() < ANGLE && explained >= EXPLAINED;
        (window.len() == WINDOW && flat).then_some(Stop::Entropy)
    }

    /// All of them, in their order.
    pub fn into_samples(self) -> Vec<f64> {
        self.samples
    }
}

impl Default for Stopping {
    fn default() -> Self {
        Self::new()
    }
}

/// Of the samples' distribution, in bits, samples told apart to a thousandth of their median.
fn entropy(samples: &[f64]) -> f64 {
    let step = median(samples) / 1000.0;
    let mut bins: Vec<i64> = samples.iter().map(|x| (x / step).round() as i64).collect();
    bins.sort_unstable();
    let n = samples.len() as f64;
    let of_bin = |bin: &[i64]| {
        let p = bin.len() as f64 / n;
        -p * p.log2()
    };
    bins.chunk_by(i64::eq).map(of_bin).sum()
}

/// The slope of the line of least squares through values at 0, 1, .., and the part of their variance that it explains.
fn line(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let (x_mean, y_mean) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let of = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        values.iter().enumerate().map(|(x, y)| f(x as f64 - x_mean, y - y_mean)).sum()
    };
    let (xx, xy, yy) = (of(&|x, _| x * x), of(&|x, y| x * y), of(&|_, y| y * y));
    if yy == 0.0 {
        return (0.0, 1.0);
    }
    (xy / xx, xy * xy / (xx * yy))
}

#[cfg(test)]
mod tests {
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn the_interval_holds_the_median_as_often_as_it_says() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        // Skewed: the median of x^3 of uniform x is 1/8.
        let mut draw = || rng.random_range(0.0..1.0f64).powi(3);
        let held = (0..2000).filter(|_| {
            let samples: Vec<f64> = (0..60).map(|_| draw()).collect();
            let (low, high) = median_interval(&samples);
            (low..=high).contains(&0.125)
        });
        let held = held.count();
        assert!((1960..=2000).contains(&held), "{held}");
        assert_eq!(median_interval(&[3.0, 1.0, 2.0]), (1.0, 3.0));
        assert!(median_interval(&[]).0.is_nan() && median(&[]).is_nan());
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn steady_samples_end_by_their_deviation_and_wild_ones_by_their_entropy() {
        let ended = |mut sample: Box<dyn FnMut(usize) -> f64>| {
            let mut stopping = Stopping::new();
            let stop = (0..20_000).find_map(|i| Some((i, stopping.add(sample(i))?)));
            stop.map(|(i, stop)| (i + 1, stop))
        };
        assert_eq!(ended(Box::new(|_| 1.0)), Some((LEAST, Stop::Deviation)));
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
        let (samples, stop) = ended(Box::new(move |_| 1.0 + 0.1 * rng.random_range(0.0..1.0))).unwrap();
        assert!(stop == Stop::Entropy && (WINDOW..5000).contains(&samples), "{samples}");
        // Each sample is one that was never seen: the entropy rises longer.
        let (drifting, _) = ended(Box::new(|i| 1.0 + 0.01 * i as f64)).unwrap();
        assert!(drifting > 2 * samples, "{drifting}");
    }
}
