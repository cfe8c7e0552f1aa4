//! Applies the oracles to what a device returned, on as many elements as are affordable.

use deepseek_kernels::bf16;
use deepseek_kernels::gemm::GemmOutput;

use crate::judge::Check;

/// An element type of D, as the references see it.
pub trait Cell: GemmOutput {
    const REFERENCE: oracles::gemm::Output;
    fn narrow(x: f32) -> Self;
    /// Fills D before a launch: a NaN that no arithmetic gives, so what is left was not written.
    const SENTINEL: Self;
    fn widen(self) -> f32;
}

impl Cell for bf16 {
    const REFERENCE: oracles::gemm::Output = oracles::gemm::Output::Bf16;
    const SENTINEL: Self = bf16::from_bits(0x7fe5);
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

impl Cell for f32 {
    const REFERENCE: oracles::gemm::Output = oracles::gemm::Output::F32;
    const SENTINEL: Self = f32::from_bits(0x7fe5_a5e5);
    fn widen(self) -> f32 {
        self
    }
    fn narrow(x: f32) -> Self {
        x
    }
}

/// No element of D still holds the sentinel.
pub fn written<D: Cell>(d: &[D], columns: usize) -> Check {
    let sentinel = D::SENTINEL.widen().to_bits();
    let left = d.iter().position(|x| x.widen().to_bits() == sentinel);
    let failure = left.map(|i| format!("d[{}, {}] was not written", i / columns, i % columns));
    Check::equal("written", d.len(), failure)
}

/// Where two vectors of equal length differ in their bits.
pub fn first_difference(got: &[f32], expected: &[f32]) -> Option<String> {
    let index = got.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits())?;
    Some(format!("[{index}]: expected {:e}, got {:e}", expected[index], got[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinel_that_is_left_is_found() {
        fn left<D: Cell>() -> Option<String> {
            written(&[D::narrow(1.0), D::narrow(f32::NAN), D::SENTINEL], 2).failure
        }
        let expected = Some("d[1, 0] was not written".to_owned());
        assert_eq!((left::<f32>(), left::<bf16>()), (expected.clone(), expected));
        assert_eq!(written(&[1.0, f32::NAN], 1).failure, None);
    }
}
