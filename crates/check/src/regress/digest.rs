//! Bits of an output in few: a hash of all, and short ones of every row and column.

use std::fmt::Write as _;

use deepseek_kernels::{F8E4M3, bf16};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::memory::{Output, Scalar};

/// A hash of a matrix's bits.
pub fn hash(bits: &Bits) -> String {
    let mut hasher = blake3::Hasher::new();
    for row in 0..bits.rows {
        hasher.update(&bits.row_bytes(row));
    }
    hasher.finalize().to_hex().to_string()
}

/// Of each row 16 bits, in hexadecimal digits.
pub fn row_digests(bits: &Bits) -> String {
    (0..bits.rows).map(|row| digest(&bits.row_bytes(row))).collect()
}

/// Of each column 16 bits, in hexadecimal digits.
pub fn column_digests(bits: &Bits) -> String {
    let column = |column| (0..bits.rows).flat_map(move |row| bits.element(row, column).to_le_bytes());
    (0..bits.columns).map(|at| digest(&column(at).collect::<Vec<u8>>())).collect()
}

fn digest(bytes: &[u8]) -> String {
    let hash = blake3::hash(bytes);
    format!("{:02x}{:02x}", hash.as_bytes()[0], hash.as_bytes()[1])
}

/// Where two lists of short hashes differ; all, if they are not of the same length.
pub fn differing(expected: &str, got: &str) -> Vec<usize> {
    let [expected, got] = [expected, got].map(|text| text.as_bytes().chunks(4).collect::<Vec<_>>());
    let same = |i: &usize| expected.get(*i).is_some_and(|digest| got.get(*i) == Some(digest));
    (0..expected.len().max(got.len())).filter(|i| !same(i)).collect()
}

/// A matrix of bit patterns. All NaN are one, but for the one that says that nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bits {
    pub dtype: Dtype,
    pub rows: usize,
    pub columns: usize,
    /// Row-major.
    pub elements: Vec<u32>,
}

impl Bits {
    /// Of an output.
    pub fn of(output: &Output) -> Self {
        let size = output.element_bytes();
        let word = |bytes: &[u8]| bytes.iter().rfold(0, |bits, &byte| bits << 8 | u32::from(byte));
        let elements: Vec<u32> =
            output.bytes.chunks_exact(size).map(|bytes| canonical(output.dtype, word(bytes))).collect();
        let columns = output.columns.max(1);
        Self { dtype: output.dtype, rows: elements.len() / columns, columns, elements }
    }

    /// From hexadecimal digits, as [`Self::hex`] writes them.
    pub fn from_hex(dtype: Dtype, [rows, columns]: [usize; 2], text: &str) -> Option<Self> {
        let digits = 2 * (dtype.bitsize() / 8).max(1);
        let parse = |chunk: &[u8]| u32::from_str_radix(std::str::from_utf8(chunk).ok()?, 16).ok();
        let elements: Vec<u32> = text.as_bytes().chunks(digits).map(parse).collect::<Option<_>>()?;
        (elements.len() == rows.checked_mul(columns)?).then_some(Self { dtype, rows, columns, elements })
    }

    /// Every element, in hexadecimal digits.
    pub fn hex(&self) -> String {
        let digits = 2 * (self.dtype.bitsize() / 8).max(1);
        self.elements.iter().fold(String::new(), |mut text, bits| {
            let _ = write!(text, "{bits:0digits$x}");
            text
        })
    }

    pub fn element(&self, row: usize, column: usize) -> u32 {
        self.elements[row * self.columns + column]
    }

    /// The value of floating point, or of an integer.
    pub fn value(&self, row: usize, column: usize) -> f64 {
        value(self.dtype, self.element(row, column))
    }

    /// What is held where nothing was written.
    pub fn sentinel(&self) -> u32 {
        match self.dtype {
            Dtype::F32 => f32::SENTINEL.bits(),
            Dtype::BF16 => bf16::SENTINEL.bits(),
            Dtype::F8_E4M3 => F8E4M3::SENTINEL.bits(),
            Dtype::U8 => u8::SENTINEL.bits(),
            _ => i32::SENTINEL.bits(),
        }
    }

    fn row_bytes(&self, row: usize) -> Vec<u8> {
        let elements = &self.elements[row * self.columns..][..self.columns];
        elements.iter().flat_map(|bits| bits.to_le_bytes()).collect()
    }
}

fn canonical(dtype: Dtype, bits: u32) -> u32 {
    match dtype {
        Dtype::F32 if bits != f32::SENTINEL.bits() => f32::from_bits(bits).canonical_bits(),
        Dtype::BF16 if bits != bf16::SENTINEL.bits() => bf16::from_bits(bits as u16).canonical_bits(),
        Dtype::F8_E4M3 => F8E4M3::from_bits(bits as u8).canonical_bits(),
        _ => bits,
    }
}

/// The value of an element.
pub fn value(dtype: Dtype, bits: u32) -> f64 {
    match dtype {
        Dtype::F32 => f32::from_bits(bits).into(),
        Dtype::BF16 => bf16::from_bits(bits as u16).to_f64(),
        Dtype::F8_E4M3 => f64::from(F8E4M3::from_bits(bits as u8).to_f32()),
        Dtype::I32 => bits.cast_signed().into(),
        _ => bits.into(),
    }
}

/// Elements of a kind: how many, and where the first runs of them are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    pub count: u64,
    /// First element and length of a run, row-major; of many the first ones.
    pub runs: Vec<[u64; 2]>,
}

/// Runs that are kept.
const RUNS: usize = 8;

impl Places {
    /// Of the elements that are of this kind.
    pub fn of(bits: &Bits, is: impl Fn(u32) -> bool) -> Self {
        let mut places = Self::default();
        let mut end = None;
        for (i, _) in bits.elements.iter().enumerate().filter(|&(_, &element)| is(element)) {
            let i = i as u64;
            places.count += 1;
            if end == Some(i) {
                if let Some(last) = places.runs.last_mut().filter(|last| last[0] + last[1] == i) {
                    last[1] += 1;
                }
            } else if places.runs.len() < RUNS {
                places.runs.push([i, 1]);
            }
            end = Some(i + 1);
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(values: &[f32], columns: usize) -> Output {
        let bytes = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        Output { name: "d", dtype: Dtype::BF16, columns, bytes }
    }

    #[test]
    fn a_change_is_in_its_row_and_its_column() {
        let before = Bits::of(&output(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3));
        let mut after = before.clone();
        after.elements[4] ^= 1;
        assert_ne!(hash(&before), hash(&after));
        assert_eq!(differing(&row_digests(&before), &row_digests(&after)), [1]);
        assert_eq!(differing(&column_digests(&before), &column_digests(&after)), [1]);
        assert_eq!(differing("aaaabbbb", "aaaa"), [1]);
    }

    #[test]
    fn every_nan_is_one_but_what_was_not_written() {
        let [one, other] = [0x7fc0_u16, 0xffc1].map(|bits| canonical(Dtype::BF16, bits.into()));
        assert_eq!(one, other);
        let left = bf16::SENTINEL.bits();
        assert_eq!(canonical(Dtype::BF16, left), left);
    }

    #[test]
    fn digits_give_the_bits_back() {
        let bits = Bits::of(&output(&[1.0, -2.5, 0.0, 7.0], 2));
        assert_eq!(Bits::from_hex(Dtype::BF16, [2, 2], &bits.hex()), Some(bits.clone()));
        assert_eq!(Bits::from_hex(Dtype::BF16, [2, 3], &bits.hex()), None);
        assert_eq!(Bits::from_hex(Dtype::BF16, [2, 2], "zz"), None);
    }

    #[test]
    fn runs_are_counted_and_the_first_ones_kept() {
        let bits = Bits::of(&output(&[1.0, 1.0, 0.0, 1.0, 0.0, 0.0], 6));
        let ones = Places::of(&bits, |element| element != 0);
        assert_eq!(ones, Places { count: 3, runs: vec![[0, 2], [3, 1]] });
        let mut many = output(&[0.0; 40], 40);
        many.bytes.chunks_mut(4).for_each(|pair| pair[0] = 1);
        let places = Places::of(&Bits::of(&many), |element| element != 0);
        assert_eq!((places.count, places.runs.len()), (20, RUNS));
    }
}
