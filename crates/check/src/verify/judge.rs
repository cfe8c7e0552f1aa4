//! Applies the oracles to what a device returned, on as many elements as are affordable.

use deepseek_kernels::gemm::GemmOutput;
use deepseek_kernels::{F8E4M3, bf16};
use oracles::gemm::{Elements, Epilogue, Operands, Oracle, Output, Sample};

use super::report::Check;

/// An element type of D, as the references see it.
pub trait Cell: GemmOutput {
    const REFERENCE: Output;
    /// Fills D before a launch: a NaN that no arithmetic gives, so what is left was not written.
    const SENTINEL: Self;
    fn widen(self) -> f32;
    /// Of a value that the type holds exactly.
    fn narrow(x: f32) -> Self;
}

impl Cell for bf16 {
    const REFERENCE: Output = Output::Bf16;
    const SENTINEL: Self = bf16::from_bits(0x7fe5);
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

impl Cell for f32 {
    const REFERENCE: Output = Output::F32;
    const SENTINEL: Self = f32::from_bits(0x7fe5_a5e5);
    fn widen(self) -> f32 {
        self
    }
    fn narrow(x: f32) -> Self {
        x
    }
}

/// Products that an oracle may look at, about a second of one core: past that it judges a sample of D.
const fn budget(oracle: Oracle) -> usize {
    match oracle {
        Oracle::Exact => 1 << 31,
        Oracle::BitModel => 1 << 26,
        Oracle::Bound => 1 << 27,
    }
}

const fn name(oracle: Oracle) -> &'static str {
    match oracle {
        Oracle::Exact => "exact",
        Oracle::BitModel => "bit model",
        Oracle::Bound => "bound",
    }
}

/// Rows of a sample: all tiles of 64 rows or more of 4096 are met.
const SAMPLE_ROWS: usize = 64;

/// All of D where `budget` products allow it, else rows and columns spread over all of it.
pub fn sample((m, n, k): (usize, usize, usize), budget: usize, seed: u64) -> Sample {
    if m * n * k.max(1) <= budget {
        return Sample::all(m, n);
    }
    let rows = m.min(SAMPLE_ROWS);
    Sample::spread(m, n, rows, (budget / (rows * k)).max(1), seed)
}

/// One oracle on a result.
pub fn judge(oracle: Oracle, operands: &Operands, epilogue: &Epilogue, got: &Elements, seed: u64) -> Check {
    let (m, n, k) = operands.shape();
    let sample = sample((m, n, k), budget(oracle), seed);
    let size = [sample.rows.len(), sample.columns.len()];
    match oracle.check(operands, epilogue, &sample, got) {
        Ok(verdict) => Check::of(name(oracle), &verdict, (size != [m, n]).then_some(size)),
        Err(not_exact) => Check::failed(name(oracle), not_exact.to_string()),
    }
}

/// No element of D still holds the sentinel.
pub fn written<D: Cell>(d: &[D], columns: usize) -> Check {
    let sentinel = D::SENTINEL.widen().to_bits();
    let left = d.iter().position(|x| x.widen().to_bits() == sentinel);
    let failure = left.map(|i| format!("d[{}, {}] was not written", i / columns, i % columns));
    Check::equal("written", d.len(), failure)
}

/// Codes and scales of a quantiser equal the reference's; any NaN code equals any other.
pub fn same_codes(
    oracle: &'static str,
    got: (&[F8E4M3], &[f32]),
    expected: (&[F8E4M3], &[f32]),
    columns: usize,
) -> Check {
    let same_code = |(a, b): (&F8E4M3, &F8E4M3)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let code = got.0.iter().zip(expected.0).position(|pair| !same_code(pair)).map(|i| {
        let (got, expected) = (got.0[i].to_bits(), expected.0[i].to_bits());
        format!("q[{}, {}]: expected {expected:#04x}, got {got:#04x}", i / columns, i % columns)
    });
    let scale = || first_difference(got.1, expected.1).map(|difference| format!("scale {difference}"));
    Check::equal(oracle, expected.0.len() + expected.1.len(), code.or_else(scale))
}

/// Where two vectors of equal length differ in their bits.
pub fn first_difference(got: &[f32], expected: &[f32]) -> Option<String> {
    let index = got.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits())?;
    Some(format!("[{index}]: expected {:e}, got {:e}", expected[index], got[index]))
}

#[cfg(test)]
mod tests {
    use oracles::gemm::GemmClass;
    use oracles::gemm::reference;

    use super::*;

    #[test]
    fn a_wrong_element_fails_every_oracle_and_is_named() {
        let inputs = GemmClass::Integers.generate((3, 16, 256), 1).unwrap();
        let operands = inputs.operands().unwrap();
        let mut d: Vec<f32> = reference(&operands, &Sample::all(3, 16)).iter().map(|&x| x as f32).collect();
        let check = |d: &[f32], oracle| {
            judge(oracle, &operands, &Epilogue::store(Output::F32), &|row, column| d[row * 16 + column], 1)
        };
        for oracle in [Oracle::Exact, Oracle::BitModel, Oracle::Bound] {
            assert_eq!(check(&d, oracle).failure, None);
        }
        d[2 * 16 + 5] *= 1.5;
        for oracle in [Oracle::Exact, Oracle::BitModel, Oracle::Bound] {
            let failure = check(&d, oracle).failure.unwrap();
            assert!(failure.starts_with("1 of 48 elements are wrong, first d[2, 5]: expected "), "{failure}");
        }
    }

    #[test]
    fn a_sentinel_that_is_left_is_found() {
        fn left<D: Cell>() -> Option<String> {
            written(&[D::narrow(1.0), D::narrow(f32::NAN), D::SENTINEL], 2).failure
        }
        let expected = Some("d[1, 0] was not written".to_owned());
        assert_eq!((left::<f32>(), left::<bf16>()), (expected.clone(), expected));
        assert_eq!(written(&[1.0, f32::NAN], 1).failure, None);
    }

    #[test]
    fn a_wrong_code_and_a_wrong_scale_are_named() {
        let codes = |bits: [u8; 2]| bits.map(F8E4M3::from_bits);
        let check = |q, sf| same_codes("codes", (&codes(q), &[sf]), (&codes([1, 0x7f]), &[2.0]), 2).failure;
        assert_eq!(check([1, 0xff], 2.0), None);
        assert_eq!(check([2, 0x7f], 2.0).unwrap(), "q[0, 0]: expected 0x01, got 0x02");
        assert_eq!(check([1, 0x7f], 3.0).unwrap(), "scale [0]: expected 2e0, got 3e0");
    }

    #[test]
    fn a_sample_covers_what_is_affordable() {
        assert_eq!(sample((2, 8, 128), 2048, 0).columns.len(), 8);
        let sampled = sample((4096, 2048, 128), 1 << 20, 0);
        assert!(sampled.rows.len() <= 66 && sampled.columns.len() <= 130, "{sampled:?}");
        assert_eq!((sampled.rows[0], *sampled.columns.last().unwrap()), (0, 2047));
    }
}
