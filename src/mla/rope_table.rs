//! The angles of a rotary position embedding, made on the host: YaRN's frequencies, and what YaRN does to the softmax.

use super::cache::ROPE;
use crate::error::{Error, Result};
use crate::launch::check_limit;
use crate::setters::setters;

/// Pairs of a head.
const PAIRS: usize = ROPE / 2;
/// Integers up to here are exact in FP32.
const MAX_POSITIONS: u64 = 1 << 24;

/// How YaRN stretches the context: `theta` as in [`RopeTable::plain`], slow pairs are slowed down `factor` times, fast ones
/// are left as they are, with a ramp between.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct YarnRope {
    /// Base of the frequencies: more than 1, and an FP32 number.
    pub theta: f64,
    /// Context length over the original one: finite and at least 1.
    pub factor: f64,
    /// Pairs that turn more often than this within the original context are fast. Finite, and at least `beta_slow`.
    pub beta_fast: f64,
    /// Pairs that turn less often are slow. Finite and more than 0.
    pub beta_slow: f64,
    /// Positions of the original context: 1 at least.
    pub original_positions: usize,
    /// Of cos and sin, which are scaled by `m(mscale) / m(mscale_all_dim)`, m as [`RopeTable::softmax_scale`] has it; 0: m is 1.
    /// Not negative, and such that their scale is within FP32.
    pub mscale: f64,
    /// Of the softmax scale: 1 for DeepSeek-V3, 0.707 for V2; 0, where a configuration has none: it is not
    /// scaled. Not negative, and such that the scale is within FP32.
    pub mscale_all_dim: f64,
}

impl YarnRope {
    /// A context of `original_positions` stretched `factor` times, with the ramp and the base of DeepSeek's models.
    pub const fn new(factor: f64, original_positions: usize) -> Self {
        Self {
            theta: 10_000.0,
            factor,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_positions,
            mscale: 1.0,
            mscale_all_dim: 1.0,
        }
    }

    /// DeepSeek-V3, V3.1, R1: 4096 positions stretched to 163840.
    pub const DEEPSEEK_V3: Self = Self::new(40.0, 4096);
    /// DeepSeek-V2 as its paper has it. Its released code leaves mscale at 1 for the model of 236B.
    pub const DEEPSEEK_V2: Self = Self::DEEPSEEK_V3.mscale(0.707).mscale_all_dim(0.707);

    /// The pair that turns `rotations` times within the original context, as a real number.
    fn pair_of(&self, rotations: f64) -> f64 {
        let length = self.original_positions as f64;
        ROPE as f64 * (length / (rotations * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
    }

    /// First pair that is slowed down at all, first pair that is slowed down fully.
    fn ramp(&self) -> (f32, f32) {
        let within = |pair: f64| pair.clamp(0.0, (ROPE - 1) as f64) as f32;
        let low = within(self.pair_of(self.beta_fast).floor());
        let high = within(self.pair_of(self.beta_slow).ceil());
        // A step has no width to divide by.
        (low, if low == high { high + 0.001 } else { high })
    }

    /// `frequency / factor` where the ramp is 1, `frequency` where it is 0; every operation rounded to FP32.
    fn stretch(&self, frequencies: &mut [f32]) {
        let (low, high) = self.ramp();
        for (pair, frequency) in frequencies.iter_mut().enumerate() {
            let kept = 1.0 - ((pair as f32 - low) / (high - low)).clamp(0.0, 1.0);
            *frequency = *frequency / self.factor as f32 * (1.0 - kept) + *frequency * kept;
        }
    }

    fn check(&self) -> Result<()> {
        let require = |ok: bool, what, expected, got: f64| {
            if ok { Ok(()) } else { Err(Error::out_of_range(what, expected, got)) }
        };
        let finite_from = |x: f64, least: f64| x.is_finite() && x >= least;
        require(finite_from(self.factor, 1.0), "factor", "finite and at least 1", self.factor)?;
        let slow = self.beta_slow.is_finite() && self.beta_slow > 0.0;
        require(slow, "beta_slow", "finite and more than 0", self.beta_slow)?;
        let fast = finite_from(self.beta_fast, self.beta_slow);
        require(fast, "beta_fast", "finite and at least beta_slow", self.beta_fast)?;
        let length = self.original_positions as f64;
        require(self.original_positions > 0, "original_positions", "more than 0", length)?;
        require(finite_from(self.mscale, 0.0), "mscale", "finite and at least 0", self.mscale)?;
        let all = self.mscale_all_dim;
        require(finite_from(all, 0.0), "mscale_all_dim", "finite and at least 0", all)
    }

    /// How much attention is sharpened.
    fn sharpened(&self, mscale: f64) -> f64 {
        0.1 * mscale * self.factor.ln() + 1.0
    }
}

setters!(YarnRope { theta: f64, beta_fast: f64, beta_slow: f64, mscale: f64, mscale_all_dim: f64 });

/// Where torch's FP32 power is the next one to the nearest, it may be off by an ulp: the base, the pair, and whether it is above. Of
/// the bases in `tests/goldens/rope.txt`.
const TORCH_POWERS: [(f64, usize, bool); 3] = [(50_000.0, 5, true), (2.5e7, 24, true), (1e8, 22, false)];

/// Frequencies of the pairs of a head, 32 of DeepSeek's, and what goes with them of the softmax scale.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    frequencies: Vec<f32>,
    /// Of cos and sin.
    attention_scale: f32,
    /// By which scores grow where the context was stretched.
    sharpening: f64,
}

impl RopeTable {
    /// `theta^(-i/32)` for pair i, as torch on a CPU computes it in FP32 for the bases that models have: a context that was not
    /// stretched.
    ///
    /// # Errors
    /// [`Error::Spec`] unless theta is more than 1 and an FP32 number.
    pub fn plain(theta: f64) -> Result<Self> {
        if !(theta > 1.0 && theta <= f64::from(f32::MAX)) {
            return Err(Error::out_of_range("theta", "more than 1 and within FP32", theta));
        }
        // Rounded where DeepSeek's code rounds: the power, then its reciprocal.
        let power = |pair: usize| match theta.powf(pair as f64 / PAIRS as f64) as f32 {
            power if TORCH_POWERS.contains(&(theta, pair, true)) => power.next_up(),
            power if TORCH_POWERS.contains(&(theta, pair, false)) => power.next_down(),
            power => power,
        };
        Ok(Self::of((0..PAIRS).map(|pair| 1.0 / power(pair)).collect()))
    }

    /// Frequencies that a model was run with, wherever they were computed: a power in FP32 is not the same on every machine, and
    /// an ulp of a frequency is up to a third of a degree after 100,000 positions. Any number of pairs, in the order of
    /// [`RopePairs`](crate::mla::RopePairs).
    ///
    /// # Errors
    /// [`Error::Spec`] for one that is negative or not finite.
    pub fn with_frequencies(frequencies: impl Into<Vec<f32>>) -> Result<Self> {
        let frequencies = frequencies.into();
        for &frequency in &frequencies {
            if !(frequency.is_finite() && frequency >= 0.0) {
                return Err(Error::out_of_range("frequency", "finite and not negative", frequency));
            }
        }
        Ok(Self::of(frequencies))
    }

    /// Not stretched.
    fn of(frequencies: Vec<f32>) -> Self {
        Self { frequencies, attention_scale: 1.0, sharpening: 1.0 }
    }

    /// The frequencies of a stretched context, in FP32 as DeepSeek's code computes them. Of DeepSeek's models cosines and sines
    /// are not scaled: [`RopeTable::softmax_scale`] has all of it.
    ///
    /// # Errors
    /// [`Error::Spec`] for a parameter that makes no sense.
    pub fn yarn(yarn: YarnRope) -> Result<Self> {
        yarn.check()?;
        let mut table = Self::plain(yarn.theta)?;
        yarn.stretch(&mut table.frequencies);
        let m = yarn.sharpened(yarn.mscale_all_dim);
        table.attention_scale = (yarn.sharpened(yarn.mscale) / m) as f32;
        table.sharpening = m * m;
        let within = |what, scale: f64, expected, got| {
            if (scale as f32).is_finite() { Ok(()) } else { Err(Error::out_of_range(what, expected, got)) }
        };
        let (mscale, all) = (yarn.mscale, yarn.mscale_all_dim);
        within("mscale_all_dim", table.sharpening, "such that the softmax scale is within FP32", all)?;
        within("mscale", f64::from(table.attention_scale), "such that cos and sin stay within FP32", mscale)?;
        Ok(table)
    }

    /// Radians per position, of every pair.
    pub fn frequencies(&self) -> &[f32] {
        &self.frequencies
    }

    /// What scores are multiplied with before the softmax: `columns^-0.5`, times `m(mscale_all_dim)^2` when the context was
    /// stretched, `m(s) = 0.1 * s * ln(factor) + 1`. `columns` are those of a head's key before anything is absorbed, rotated ones
    /// included: 192 in DeepSeek-V3, 256 in GLM-5.
    pub fn softmax_scale(&self, columns: usize) -> f64 {
        (columns as f64).powf(-0.5) * self.sharpening
    }

    /// The table that [`Rope`](crate::mla::Rope) reads, `[positions, columns]` without gaps: cos and sin of
    /// `position * frequency`, the product rounded to FP32, for each pair in turn; rounded to FP32 before and after they are
    /// scaled.
    ///
    /// # Errors
    /// [`Error::Spec`] beyond 2^24 positions, which FP32 could not tell apart.
    pub fn cos_sin(&self, positions: usize) -> Result<Vec<f32>> {
        check_limit("positions", positions as u64, MAX_POSITIONS)?;
        let pair = |position: usize, frequency: f32| {
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            [cos as f32 * self.attention_scale, sin as f32 * self.attention_scale]
        };
        let row = |position| self.frequencies.iter().flat_map(move |&frequency| pair(position, frequency));
        Ok((0..positions).flat_map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PyTorch makes of DeepSeek's code, in FP32.
    #[test]
    fn frequencies_of_deepseek_v3() {
        let table = RopeTable::yarn(YarnRope::DEEPSEEK_V3).expect("sensible");
        for (pair, golden) in [
            (0, 1.0_f64),
            (10, 5.623_412_877e-2),
            (11, 3.900_692_612e-2),
            (16, 5.500_000_436e-3),
            (22, 1.778_279_402e-4),
            (23, 3.333_803_761e-5),
            (31, 3.333_803_761e-6),
        ] {
            assert_eq!(table.frequencies()[pair], golden as f32, "pair {pair}");
        }
        assert_eq!(YarnRope::DEEPSEEK_V3.ramp(), (10.0, 23.0));
    }

    /// The formula without any rounding to FP32.
    #[test]
    fn frequencies_are_near_the_exact_ones() {
        let (plain, yarn) = (RopeTable::plain(10_000.0), RopeTable::yarn(YarnRope::DEEPSEEK_V3));
        let (plain, yarn) = (plain.expect("sensible"), yarn.expect("sensible"));
        for pair in 0..PAIRS {
            let exact = 10_000_f64.powf(-(pair as f64) / 32.0);
            let slowed = ((pair as f64 - 10.0) / 13.0).clamp(0.0, 1.0);
            let stretched = exact * (slowed / 40.0 + 1.0 - slowed);
            for (got, exact) in [(plain.frequencies()[pair], exact), (yarn.frequencies()[pair], stretched)] {
                assert!((f64::from(got) / exact - 1.0).abs() < 4e-7, "pair {pair}: {got}, not {exact}");
            }
        }
    }

    #[test]
    fn given_frequencies_are_kept() {
        let plain = RopeTable::plain(10_000.0).expect("sensible");
        assert_eq!(RopeTable::with_frequencies(plain.frequencies()).as_ref(), Ok(&plain));
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            let mut frequencies = plain.frequencies().to_vec();
            frequencies[31] = bad;
            let message = format!("frequency must be finite and not negative, got {bad}");
            let refused = RopeTable::with_frequencies(frequencies);
            assert_eq!(refused.map_err(|error| error.to_string()), Err(message));
        }
    }

    /// Hugging Face's `attention_factor`, and its scaling of the softmax.
    #[test]
    fn cos_and_sin_have_what_the_softmax_has_not() {
        let table = |mscale, all| {
            let yarn = YarnRope::DEEPSEEK_V3.mscale(mscale).mscale_all_dim(all);
            RopeTable::yarn(yarn).expect("sensible")
        };
        let m = 0.1 * 40f64.ln() + 1.0;
        assert_eq!(table(1.0, 1.0).cos_sin(1).expect("one")[0], 1.0);
        let unset = table(1.0, 0.0);
        assert_eq!(unset.cos_sin(1).expect("one")[..2], [m as f32, 0.0]);
        assert_eq!(
            unset.softmax_scale(192),
            RopeTable::plain(10_000.0).expect("sensible").softmax_scale(192)
        );
        let half = table(0.707, 1.0).cos_sin(1).expect("one")[0];
        assert_eq!(half, ((0.0707 * 40f64.ln() + 1.0) / m) as f32);
    }

    #[test]
    fn softmax_scales() {
        let scale = |yarn| RopeTable::yarn(yarn).expect("sensible").softmax_scale(192);
        let near = |got: f64, golden: f64| assert!((got / golden - 1.0).abs() < 1e-15, "{got}, not {golden}");
        near(scale(YarnRope::DEEPSEEK_V3), 0.135_233_778_860_880_1);
        near(scale(YarnRope::DEEPSEEK_V2), 0.114_721_386_792_926_1);
        let plain = RopeTable::plain(10_000.0).expect("sensible");
        near(plain.softmax_scale(192), 0.072_168_783_648_703_22);
        assert_eq!(plain.softmax_scale(256), 0.0625);
        // Not stretched is not scaled.
        near(scale(YarnRope { factor: 1.0, ..YarnRope::DEEPSEEK_V3 }), 0.072_168_783_648_703_22);
    }

    #[test]
    fn a_context_that_is_not_stretched_keeps_its_frequencies() {
        let yarn = RopeTable::yarn(YarnRope { factor: 1.0, ..YarnRope::DEEPSEEK_V3 }).expect("sensible");
        let plain = RopeTable::plain(10_000.0).expect("sensible");
        for (got, want) in yarn.frequencies().iter().zip(plain.frequencies()) {
            assert!((got / want - 1.0).abs() <= 2.0 * f32::EPSILON);
        }
    }

    /// A context so short that no pair turns at all is slowed down in every pair, one so long is in none.
    #[test]
    fn ramps_beyond_the_pairs() {
        let frequency = |original_positions, pair: usize| {
            let yarn = YarnRope { original_positions, ..YarnRope::DEEPSEEK_V3 };
            let plain = RopeTable::plain(10_000.0).expect("sensible");
            RopeTable::yarn(yarn).expect("sensible").frequencies()[pair] / plain.frequencies()[pair]
        };
        for pair in [1, 31] {
            assert!((frequency(1, pair) * 40.0 - 1.0).abs() < 1e-6);
            assert!((frequency(1 << 40, pair) - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_table_has_cos_and_sin_of_the_rounded_angle() {
        let table = RopeTable::yarn(YarnRope::DEEPSEEK_V3).expect("sensible");
        let rows = table.cos_sin(4097).expect("few");
        assert_eq!(rows.len(), 4097 * ROPE);
        assert_eq!(rows[..ROPE], [1.0, 0.0].repeat(PAIRS));
        // The fastest pair turns by one radian a position.
        assert_eq!(rows[ROPE..][..2], [0.540_302_3, 0.841_470_96]);
        for position in [1, 1000, 4096] {
            for pair in [0, 10, 16, 31] {
                let angle = f64::from(position as f32 * table.frequencies()[pair]);
                let got = &rows[position * ROPE + 2 * pair..][..2];
                assert_eq!(got, [angle.cos() as f32, angle.sin() as f32], "position {position}, pair {pair}");
            }
        }
    }
}
