//! The rules of the quantisers, as the crate and as the references have them.

use std::mem::offset_of;

use deepseek_kernels::bindings::{
    self, CODES_BY_INVERSE, CODES_BY_QUOTIENT, CODES_BY_RATIO, CODES_BY_RECIPROCAL, SCALE_FP32,
    SCALE_POWER_OF_TWO,
};
use deepseek_kernels::quant::{QuantizeRule, ScaleFormat};
use oracles::quant::{CodeFormula, QuantizeModel, QuantizeScale};

use crate::trace::Params;

/// A rule of the crate, and the same one for the references.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    pub formula: CodeFormula,
    pub scales: ScaleFormat,
    /// Instead of the rule's own.
    pub amax_floor: Option<f32>,
}

impl Rule {
    /// The crate's own, as it is unless told otherwise.
    pub const FP32: Self = Self::new(CodeFormula::Ratio, ScaleFormat::Fp32);
    /// With powers of two.
    pub const POWER_OF_TWO: Self = Self::new(CodeFormula::Ratio, ScaleFormat::PowerOfTwo);

    /// Both of them.
    pub const OWN: [Self; 2] = [Self::FP32, Self::POWER_OF_TWO];

    /// By every name, with either kind of scales; and with floors of their own, down to the least.
    pub const ALL: [Self; 11] = [
        Self::FP32,
        Self::POWER_OF_TWO,
        Self::new(CodeFormula::Reciprocal, ScaleFormat::Fp32),
        Self::new(CodeFormula::Reciprocal, ScaleFormat::PowerOfTwo),
        Self::new(CodeFormula::Quotient, ScaleFormat::Fp32),
        Self::new(CodeFormula::Quotient, ScaleFormat::PowerOfTwo),
        Self::new(CodeFormula::Inverse, ScaleFormat::Fp32),
        Self::new(CodeFormula::Inverse, ScaleFormat::PowerOfTwo),
        Self { amax_floor: Some(QuantizeRule::LEAST_AMAX), ..Self::FP32 },
        Self {
            amax_floor: Some(QuantizeRule::LEAST_AMAX),
            ..Self::new(CodeFormula::Quotient, ScaleFormat::Fp32)
        },
        Self { amax_floor: Some(3.0), ..Self::new(CodeFormula::Quotient, ScaleFormat::Fp32) },
    ];

    /// All but quotients with FP32 scales.
    pub fn multiplying() -> impl Iterator<Item = Self> {
        let divides = |rule: &Self| rule.formula == CodeFormula::Quotient && rule.scales == ScaleFormat::Fp32;
        Self::ALL.into_iter().filter(move |rule| !divides(rule))
    }

    const fn new(formula: CodeFormula, scales: ScaleFormat) -> Self {
        Self { formula, scales, amax_floor: None }
    }

    pub const fn rule(&self) -> QuantizeRule {
        let named = match self.formula {
            CodeFormula::Ratio => QuantizeRule::TILE_KERNELS,
            CodeFormula::Reciprocal => QuantizeRule::DEEP_GEMM,
            CodeFormula::Quotient => QuantizeRule::DEEPSEEK,
            CodeFormula::Inverse => QuantizeRule::TRANSFORMER_ENGINE,
        };
        let rule = named.scales(self.scales);
        match self.amax_floor {
            Some(floor) => rule.amax_floor(floor),
            None => rule,
        }
    }

    pub fn model(&self) -> QuantizeModel {
        let own = if self.formula == CodeFormula::Inverse { 0.0 } else { 1e-4 };
        let amax_floor = self.amax_floor.unwrap_or(own);
        QuantizeModel { formula: self.formula, scale: scale_model(self.scales), amax_floor }
    }

    /// As people call it.
    pub(crate) fn title(&self) -> String {
        let scales = match self.scales {
            ScaleFormat::Fp32 => "FP32",
            ScaleFormat::PowerOfTwo => "2^i",
        };
        let of = match self.formula {
            CodeFormula::Ratio => "",
            CodeFormula::Reciprocal => ", DeepGEMM's codes",
            CodeFormula::Quotient => ", DeepSeek's codes",
            CodeFormula::Inverse => ", Transformer Engine's codes",
        };
        format!("{scales}{of}")
    }

    /// What tells the rule in a label, where it is not the usual one.
    pub(crate) fn suffix(&self) -> String {
        let scales = match self.scales {
            ScaleFormat::Fp32 => "_fp32",
            ScaleFormat::PowerOfTwo => "",
        };
        let formula = match self.formula {
            CodeFormula::Ratio => "",
            CodeFormula::Reciprocal => "_deep_gemm",
            CodeFormula::Quotient => "_deepseek",
            CodeFormula::Inverse => "_transformer_engine",
        };
        let floor = self.amax_floor.map_or_else(String::new, |floor| format!("_from_{floor:e}"));
        format!("{scales}{formula}{floor}")
    }

    /// The struct of a launch.
    pub(crate) fn trace(&self, params: Params, at: usize) -> Params {
        let formula = match self.formula {
            CodeFormula::Ratio => CODES_BY_RATIO,
            CodeFormula::Reciprocal => CODES_BY_RECIPROCAL,
            CodeFormula::Quotient => CODES_BY_QUOTIENT,
            CodeFormula::Inverse => CODES_BY_INVERSE,
        };
        let scale_format = match self.scales {
            ScaleFormat::Fp32 => SCALE_FP32,
            ScaleFormat::PowerOfTwo => SCALE_POWER_OF_TWO,
        };
        let floor = self.model().amax_floor;
        params
            .u32(at + offset_of!(bindings::QuantizeRule, formula), formula)
            .u32(at + offset_of!(bindings::QuantizeRule, scale_format), scale_format)
            .u32(at + offset_of!(bindings::QuantizeRule, amax_floor), floor.to_bits())
    }
}

/// The same scale for the references.
pub(crate) fn scale_model(scales: ScaleFormat) -> QuantizeScale {
    match scales {
        ScaleFormat::Fp32 => QuantizeScale::Fp32,
        ScaleFormat::PowerOfTwo => QuantizeScale::PowerOfTwo,
    }
}
