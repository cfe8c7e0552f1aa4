//! The matrices of DeepSeek-V3, and how many rows they meet.

use std::fmt;
use std::str::FromStr;

use crate::deepseek_v3::LAYERS;

/// A weight `[n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    pub n: usize,
    pub k: usize,
}

/// Those of DeepSeek-V3.
pub const DEEPSEEK_V3: [Layer; 7] = {
    let mut layers = [Layer { n: 0, k: 0 }; 7];
    let mut i = 0;
    while i < layers.len() {
        (layers[i].n, layers[i].k) = LAYERS[i];
        i += 1;
    }
    layers
};

/// Training and prefill, a small batch, a tile, one token.
pub const GPU_ROWS: [usize; 4] = [4096, 128, 64, 1];
/// More than a tile and no multiple of one; one token.
pub const EMULATED_ROWS: [usize; 2] = [72, 1];

/// Elements of a matrix that this program agrees to handle: a vocabulary of 129280 by 7168 fits.
pub const MAX_ELEMENTS: usize = 1 << 30;

impl FromStr for Layer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(['x', 'X', '\u{d7}'])
            .and_then(|(n, k)| Some((n.trim().parse().ok()?, k.trim().parse().ok()?)));
        let (n, k): (usize, usize) = parsed.ok_or("expected NxK, as in 2112x7168")?;
        if n == 0 || !n.is_multiple_of(8) {
            return Err(format!("n must be a multiple of 8 above 0, got {n}"));
        }
        if k == 0 || !k.is_multiple_of(128) {
            return Err(format!("k must be a multiple of 128 above 0, got {k}"));
        }
        match n.checked_mul(k) {
            Some(elements) if elements <= MAX_ELEMENTS => Ok(Self { n, k }),
            _ => Err(format!("n * k must be at most {MAX_ELEMENTS}")),
        }
    }
}

/// Shape of a GEMM, or of an `[m, k]` operand where n is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub m: usize,
    pub n: Option<usize>,
    pub k: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.n {
            Some(n) => write!(f, "{} x {} x {}", self.m, n, self.k),
            None => write!(f, "{} x {}", self.m, self.k),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_parsed_and_checked() {
        for text in ["576x7168", "576X7168", "576 x 7168", "576×7168"] {
            assert_eq!(text.parse(), Ok(Layer { n: 576, k: 7168 }), "{text}");
        }
        for (text, message) in [
            ("576", "expected NxK, as in 2112x7168"),
            ("4x128", "n must be a multiple of 8 above 0, got 4"),
            ("8x0", "k must be a multiple of 128 above 0, got 0"),
            ("8x18446744073709551488", "n * k must be at most 1073741824"),
        ] {
            assert_eq!(text.parse::<Layer>(), Err(message.to_owned()), "{text}");
        }
    }
}
