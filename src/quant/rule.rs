//! How a block of values becomes a scale and codes.

use crate::device::bindings::{
    CODES_BY_INVERSE, CODES_BY_QUOTIENT, CODES_BY_RATIO, CODES_BY_RECIPROCAL, QuantizeRule as Parameter,
    SCALE_FP32, SCALE_POWER_OF_TWO,
};
use crate::error::{Error, Result};

/// How a scale is chosen. Either way it is stored as FP32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleFormat {
    /// `amax / 448`.
    Fp32,
    /// The next power of two above it, what UE8M0 can hold: requantising along the other axis then changes almost nothing.
    PowerOfTwo,
}

impl ScaleFormat {
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Fp32 => SCALE_FP32,
            Self::PowerOfTwo => SCALE_POWER_OF_TWO,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CodeFormula {
    Ratio,
    Reciprocal,
    Quotient,
    Inverse,
}

/// How a block of values becomes a scale and codes, by the name of the code that a model was trained or is served with: with
/// FP32 scales their formulas differ in 0.02 to 0.15 % of the codes, with powers of two in next to none.
///
/// | rule | scale | code | amax at least | power of two |
/// |---|---|---|---|---|
/// | [`TILE_KERNELS`](Self::TILE_KERNELS), DeepEP | `amax / 448` | `x * (448 / amax)` | 1e-4 | scale rounded up |
/// | [`DEEP_GEMM`](Self::DEEP_GEMM) | `amax / 448` | `x * (1 / scale)` | 1e-4 | scale rounded up |
/// | [`DEEPSEEK`](Self::DEEPSEEK): its `inference/kernel.py` | `amax / 448` | `x / scale` | 1e-4 | scale rounded up |
/// | [`TRANSFORMER_ENGINE`](Self::TRANSFORMER_ENGINE) | `1 / (448 / amax)` | `x * (448 / amax)` | 0 | factor rounded down |
///
/// Each operation is rounded to FP32 once. By all of them amax is taken over the finite elements, and a NaN, or an Inf, spoils
/// its own code alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizeRule {
    formula: CodeFormula,
    scales: ScaleFormat,
    amax_floor: f32,
}

impl QuantizeRule {
    /// TileKernels' and DeepEP's: what this crate does unless told otherwise.
    pub const TILE_KERNELS: Self = Self::of(CodeFormula::Ratio, 1e-4);
    /// DeepGEMM's.
    pub const DEEP_GEMM: Self = Self::of(CodeFormula::Reciprocal, 1e-4);
    /// That of the code released with DeepSeek-V3.
    pub const DEEPSEEK: Self = Self::of(CodeFormula::Quotient, 1e-4);
    /// Transformer Engine's of BF16 blocks, its default epsilon of 0 included: a block of zeros has scale 1, and a factor
    /// beyond FP32 is the largest BF16. Its own default is [`power_of_two`](Self::power_of_two).
    pub const TRANSFORMER_ENGINE: Self = Self::of(CodeFormula::Inverse, 0.0);

    /// The least amax that a rule but Transformer Engine's can do with, 3.7e-22: what is left of a quotient has to be a normal
    /// number.
    pub const LEAST_AMAX: f32 = 448.0 * f32::from_bits((127 - 80) << 23);

    const fn of(formula: CodeFormula, amax_floor: f32) -> Self {
        Self { formula, scales: ScaleFormat::Fp32, amax_floor }
    }

    /// Scales that are powers of two.
    #[must_use]
    pub const fn power_of_two(self) -> Self {
        self.scales(ScaleFormat::PowerOfTwo)
    }

    /// Scales of either kind.
    #[must_use]
    pub const fn scales(self, scales: ScaleFormat) -> Self {
        Self { scales, ..self }
    }

    /// Blocks with an amax below this are quantised as if they had it. Values below a millionth of it become zeros, such as
    /// gradients of 1e-10 under 1e-4. From [`LEAST_AMAX`](Self::LEAST_AMAX) on, for Transformer Engine's rule from 0 on.
    #[must_use]
    pub const fn amax_floor(self, amax_floor: f32) -> Self {
        Self { amax_floor, ..self }
    }

    /// The kind of its scales.
    pub const fn scale_format(&self) -> ScaleFormat {
        self.scales
    }

    pub(crate) fn check(&self) -> Result<()> {
        let (least, expected) = match self.formula {
            CodeFormula::Inverse => (0.0, "finite and at least 0"),
            _ => (Self::LEAST_AMAX, "finite and at least 448 * 2^-80 (QuantizeRule::LEAST_AMAX)"),
        };
        let fits = self.amax_floor.is_finite() && self.amax_floor >= least;
        if fits { Ok(()) } else { Err(Error::out_of_range("amax_floor", expected, self.amax_floor)) }
    }

    /// Whether codes are quotients, and no product gives the same: a power of two divides exactly.
    pub(crate) fn divides(&self) -> bool {
        self.formula == CodeFormula::Quotient && self.scales == ScaleFormat::Fp32
    }

    pub(crate) fn parameter(&self) -> Parameter {
        let formula = match self.formula {
            CodeFormula::Ratio => CODES_BY_RATIO,
            CodeFormula::Reciprocal => CODES_BY_RECIPROCAL,
            CodeFormula::Quotient => CODES_BY_QUOTIENT,
            CodeFormula::Inverse => CODES_BY_INVERSE,
        };
        Parameter { formula, scale_format: self.scales.code(), amax_floor: self.amax_floor }
    }
}
