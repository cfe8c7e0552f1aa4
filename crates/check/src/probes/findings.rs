//! Where a device differs from the model, as data.

use std::fmt;

use rayon::prelude::*;

/// One result that is not the expected one. Bits are hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the instruction was given.
    pub inputs: String,
    /// What the model gives.
    pub expected: String,
    /// What the device gave.
    pub got: String,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Results compared.
    pub checked: u64,
    /// Those that differ.
    pub different: u64,
    /// The first of them, [`Findings::KEPT`] at most.
    pub first: Vec<Difference>,
}

impl Findings {
    /// Differences that are described.
    pub const KEPT: usize = 16;

    /// Compares results `0..count`.
    pub fn of(
        count: usize,
        same: impl Fn(usize) -> bool + Sync,
        describe: impl Fn(usize) -> Difference,
    ) -> Self {
        let (different, first) = (0..count)
            .into_par_iter()
            .filter(|&index| !same(index))
            .fold(<(u64, Vec<usize>)>::default, |(found, mut first), index| {
                if first.len() < Self::KEPT {
                    first.push(index);
                }
                (found + 1, first)
            })
            .reduce(Default::default, |(a, mut first), (b, more)| {
                first.extend(more);
                first.truncate(Self::KEPT);
                (a + b, first)
            });
        Self { checked: count as u64, different, first: first.into_iter().map(describe).collect() }
    }

    /// Compares words; `place` names one by its index.
    pub fn of_words(expected: &[u32], got: &[u32], place: impl Fn(usize) -> String) -> Self {
        let hex = |word: Option<&u32>| word.map_or("nothing".to_owned(), |word| format!("{word:#010x}"));
        Self::of(
            expected.len().max(got.len()),
            |index| expected.get(index) == got.get(index),
            |index| Difference {
                inputs: place(index),
                expected: hex(expected.get(index)),
                got: hex(got.get(index)),
            },
        )
    }

    /// Both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.checked += other.checked;
        self.different += other.different;
        self.first.extend(other.first);
        self.first.truncate(Self::KEPT);
        self
    }

    /// [`Findings::and`] over all parts, up to one that fails to run.
    ///
    /// # Errors
    /// The first error of a part.
    pub fn all<E>(parts: impl IntoIterator<Item = Result<Self, E>>) -> Result<Self, E> {
        parts.into_iter().try_fold(Self::default(), |sum, part| Ok(sum.and(part?)))
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} differ", self.different, self.checked)?;
        for Difference { inputs, expected, got } in &self.first {
            write!(f, "\n{inputs}: expected {expected}, got {got}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_counted_and_the_first_are_told() {
        let expected: Vec<u32> = (0..100_000).collect();
        let mut got = expected.clone();
        got.iter_mut().skip(5).step_by(1000).for_each(|word| *word += 1);
        got.pop();
        let findings = Findings::of_words(&expected, &got, |i| format!("word {i}"));
        assert_eq!((findings.checked, findings.different), (100_000, 101));
        assert_eq!(findings.first.len(), Findings::KEPT);
        for (i, Difference { inputs, expected, got }) in findings.first.iter().enumerate() {
            let word = 5 + 1000 * i;
            assert_eq!(*inputs, format!("word {word}"));
            assert_eq!([expected, got], [&format!("{word:#010x}"), &format!("{:#010x}", word + 1)]);
        }
        let last = Findings::of_words(&expected[99_999..], &[], |_| String::new());
        assert_eq!((last.different, last.first[0].got.as_str()), (1, "nothing"));
        let both = findings.clone().and(last);
        assert_eq!((both.checked, both.different, &both.first), (100_001, 102, &findings.first));
    }
}
