//! Whose rows are whose.

use std::ops::Range;

use deepseek_kernels::gemm::Segments;

/// Whose rows are whose, and what says so on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub segments: Segments,
    /// On the device.
    pub values: Vec<i32>,
}

impl Assignment {
    /// Segments after each other, and `spare` rows of nobody.
    pub fn ragged(counts: &[usize], spare: usize) -> Self {
        let ends = counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end as i32)
        });
        let values = std::iter::once(0).chain(ends).collect();
        Self { segments: Segments::Ragged { rows: counts.iter().sum::<usize>() + spare }, values }
    }

    /// Segments of which `expert`'s ends at row 9, and the next `fallen` end before it, or before row 0; then one expert has
    /// the rest of 12 rows. No row is anybody's twice.
    pub fn fallen_back(experts: usize, expert: usize, fallen: usize) -> Self {
        let end = |e: usize| match e.checked_sub(expert) {
            None => 2,
            Some(0) => 9,
            Some(behind) if behind <= fallen => 8 - (behind % 10) as i32,
            Some(_) => 12,
        };
        let values = std::iter::once(0).chain((0..experts).map(end)).collect();
        Self { segments: Segments::Ragged { rows: 13 }, values }
    }

    /// Room for as many rows for each expert.
    pub fn masked(counts: &[usize], max_rows: usize) -> Self {
        let values = counts.iter().map(|&count| count as i32).collect();
        Self { segments: Segments::Masked { max_rows }, values }
    }

    /// Rows there are.
    pub fn rows(&self) -> usize {
        match self.segments {
            Segments::Ragged { rows } => rows,
            Segments::Masked { max_rows } => self.values.len() * max_rows,
        }
    }

    /// Whose rows are whose, whatever the values: no segment starts before an earlier one ends, and none leaves the rows
    /// there are.
    pub fn experts(&self) -> Vec<Range<usize>> {
        match self.segments {
            Segments::Ragged { rows } => {
                let clamp = |value: i32, least: usize| (value.max(0) as usize).clamp(least, rows);
                let mut end = clamp(self.values[0], 0);
                let mut segment = |&value: &i32| {
                    let begin = end;
                    end = clamp(value, begin);
                    begin..end
                };
                self.values[1..].iter().map(&mut segment).collect()
            }
            Segments::Masked { max_rows } => {
                let count = |value: i32| (value.max(0) as usize).min(max_rows);
                let segment = |(e, &value): (usize, &i32)| e * max_rows..e * max_rows + count(value);
                self.values.iter().enumerate().map(segment).collect()
            }
        }
    }

    /// Whether the values say what [`Self::experts`] does, and need not be reported.
    pub fn in_order(&self) -> bool {
        match self.segments {
            Segments::Ragged { rows } => {
                let within = |&value: &i32| (0..=rows as i64).contains(&i64::from(value));
                self.values.is_sorted() && self.values.iter().all(within)
            }
            Segments::Masked { max_rows } => {
                self.values.iter().all(|&count| (0..=max_rows as i64).contains(&i64::from(count)))
            }
        }
    }
}
