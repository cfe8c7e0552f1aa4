//! Rows of sequences that follow each other, as offsets on the device say.

use std::ops::Range;

use deepseek_kernels::bf16;

use crate::judge::Check;
use crate::memory::Scalar;

/// Of sequences of so many rows each, behind some that are nobody's.
pub fn offsets(spare: usize, counts: &[usize]) -> Vec<i32> {
    let ends = counts.iter().scan(spare, |end, count| {
        *end += count;
        Some(*end)
    });
    [spare].into_iter().chain(ends).map(|offset| offset as i32).collect()
}

/// What is nobody's, and therefore NaN, becomes a number, so that any offsets can be computed with.
pub fn fill_spare(rows: &mut [bf16]) {
    rows.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = bf16::from_f32(0.25));
}

/// Rows of a sequence: from the furthest end before it on, as far as there are rows.
pub fn range(offsets: &[i32], rows: usize, sequence: usize) -> Range<usize> {
    let within = |&offset: &i32| (offset.max(0) as usize).min(rows);
    let furthest = |offsets: &[i32]| offsets.iter().map(within).max().unwrap_or(0);
    furthest(&offsets[..=sequence])..furthest(&offsets[..sequence + 2])
}

/// Whether offsets are ranges within so many rows, one after the other.
pub fn in_order(offsets: &[i32], rows: usize) -> bool {
    offsets.is_sorted() && offsets.iter().all(|&offset| offset >= 0 && offset as usize <= rows)
}

/// Of so many rows, what belongs to a sequence was written, and nothing else.
pub fn written<T: Scalar>(name: &str, values: &[T], rows: usize, sequences: &[Range<usize>]) -> Check {
    let columns = values.len() / rows.max(1);
    let wrong = values.iter().enumerate().position(|(i, value)| {
        let expected = sequences.iter().any(|range| range.contains(&(i / columns)));
        (value.bits() != T::SENTINEL.bits()) != expected
    });
    let failure = wrong.map(|i| {
        let (row, column) = (i / columns, i % columns);
        let was = if values[i].bits() == T::SENTINEL.bits() { "was not" } else { "is nobody's, and was" };
        format!("{name}[{row}, {column}] {was} written")
    });
    Check::equal("written", values.len(), failure)
}
