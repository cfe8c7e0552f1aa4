//! What a difference looks like, and which kind of bug looks like that.

mod change;
mod pattern;

use std::fmt;

use oracles::gemm::Output as Rounding;
use safetensors::Dtype;
use serde::Serialize;

pub use change::{Change, change};
pub use pattern::{Pattern, Places, TilePlace};

use super::baseline::OutputEntry;
use super::digest::{Bits, column_digests, differing, row_digests};
use crate::anatomy::{Anatomy, Hypothesis, Tiling};

/// Kinds of bugs that results tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bug {
    NotStored,
    Uninitialised,
    SpecialLost,
    Zeroed,
    Sign,
    PowerOfTwo,
    Rounding,
    ScaleOfA,
    ScaleOfB,
    ScaleOfBlock,
    BlockLost,
    BlockTwice,
    StepLost,
    WeightsOfOther,
    RowsMoved,
    ColumnsMoved,
    Layout,
    Tail,
    Tile,
    Segment,
    Unknown,
}

impl Bug {
    /// What is wrong in such a kernel.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::NotStored => {
                "a store that is missing or misses: tiles skipped, a bound of rows or columns too narrow"
            }
            Self::Uninitialised => {
                "NaN or Inf came in: memory that nothing has written, padding that is read, 0 * Inf, a maximum of no elements"
            }
            Self::SpecialLost => {
                "a NaN or an Inf was swallowed: a clamp, a maximum, a product that is skipped for a zero"
            }
            Self::Zeroed => {
                "zeros instead of sums: a predicate that is always false, rows cut off, an accumulator cleared late"
            }
            Self::Sign => {
                "a sign is lost or turned: a subtraction, a mask over the sign bit, an absolute value"
            }
            Self::PowerOfTwo => {
                "a scale is off by a power of two: exponents of scales, a scale applied twice or not, ln for log2"
            }
            Self::Rounding => {
                "the order or the rounding of a sum: products and sums fused or apart, promotion at another interval, a rounding more"
            }
            Self::ScaleOfA => "the scale of another row of A",
            Self::ScaleOfB => "the scale of another block of columns of B",
            Self::ScaleOfBlock => "the scale of another K block",
            Self::BlockLost => "a K block is missing from the sum",
            Self::BlockTwice => {
                "a K block is counted twice: a stage read before it was refilled, a partial sum not cleared"
            }
            Self::StepLost => "a step of the tensor core is missing from every K block",
            Self::WeightsOfOther => "the weights of another expert",
            Self::RowsMoved => {
                "rows in another's place: the coordinate of a load or a store, a row of the wrong warp"
            }
            Self::ColumnsMoved => {
                "columns in another's place: the coordinate of a load or a store, registers of a fragment"
            }
            Self::Layout => {
                "every so many rows or columns: a swizzle, a fragment's layout, a lane or a register of the wrong index"
            }
            Self::Tail => {
                "the ragged end: a mask off by one, padding that is counted, a bound rounded to tiles"
            }
            Self::Tile => "one tile: the order of tiles, a hand-over between two tiles, a race",
            Self::Segment => "all of an expert or a sequence: its offset, its length, its table of pages",
            Self::Unknown => "no kind that is known",
        }
    }

    fn of(pattern: &Pattern, change: &Change) -> Self {
        match (change, pattern) {
            (Change::NotWritten, _) => Self::NotStored,
            (Change::Nonfinite, _) => Self::Uninitialised,
            (Change::Finite, _) => Self::SpecialLost,
            (Change::Zero, _) => Self::Zeroed,
            (Change::Sign, _) => Self::Sign,
            (Change::PowerOfTwo(_), _) => Self::PowerOfTwo,
            (Change::LastPlaces(_) | Change::Little, _) => Self::Rounding,
            (Change::Rows(_), _) => Self::RowsMoved,
            (Change::Columns(_) | Change::ColumnPairs, _) => Self::ColumnsMoved,
            (_, Pattern::EveryRow { .. } | Pattern::EveryColumn { .. } | Pattern::Warpgroup(_)) => {
                Self::Layout
            }
            (_, Pattern::LastRows { .. } | Pattern::LastColumns { .. }) => Self::Tail,
            (_, Pattern::OneTile { .. }) => Self::Tile,
            (_, Pattern::Segments(_)) => Self::Segment,
            _ => Self::Unknown,
        }
    }
}

/// An element that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct First {
    pub row: usize,
    pub column: usize,
    /// Bits, in hexadecimal digits; of what was expected none where only hashes of it are left.
    pub expected: Option<String>,
    pub got: String,
    /// `tile (0, 1) of expert 3, warpgroup 1`.
    pub place: Option<String>,
}

/// What there is to say of an output that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    pub output: String,
    /// Elements that differ, and all; of hashes alone, those in rows and columns that differ.
    pub wrong: usize,
    pub elements: usize,
    pub first: First,
    pub pattern: String,
    pub change: String,
    pub bug: Bug,
    /// More of the bug: `K block 3`.
    pub detail: Option<String>,
    /// The largest error as a part of its bound, where a judge found one.
    pub of_bound: Option<f64>,
}

/// Elements that are compared with a hypothesis.
const ASKED: usize = 48;

/// What became of an output, all of whose bits are known.
pub fn diagnose(name: &str, expected: &Bits, got: &Bits, anatomy: Option<&dyn Anatomy>) -> Option<Diagnosis> {
    if (expected.rows, expected.columns) != (got.rows, got.columns) {
        return None;
    }
    let all = (0..got.rows).flat_map(|row| (0..got.columns).map(move |column| (row, column)));
    let wrong: Vec<_> = all.filter(|&(r, c)| expected.element(r, c) != got.element(r, c)).collect();
    let &first = wrong.first()?;
    let tiling = anatomy.map(Anatomy::tiling);
    let pattern = Places { shape: (got.rows, got.columns), wrong: &wrong, tiling: tiling.as_ref() }.pattern();
    let change = change(expected, got, &wrong);
    let mut bug = Bug::of(&pattern, &change);
    let mut detail = None;
    if !matches!(bug, Bug::NotStored | Bug::Uninitialised | Bug::SpecialLost | Bug::Rounding) {
        let hypotheses = anatomy.map(Anatomy::hypotheses).unwrap_or_default();
        if let Some(found) = explained(&hypotheses, expected, got, &wrong) {
            (bug, detail) = (found.bug, Some(found.detail.clone()).filter(|detail| !detail.is_empty()));
        }
    }
    let first = first_of(first, Some(expected), got, tiling.as_ref());
    Some(told(name, got, (wrong.len(), first), (&pattern, &change), (bug, detail)))
}

/// What became of an output of which a baseline has hashes of rows and columns.
pub fn diagnose_hashes(entry: &OutputEntry, got: &Bits, tiling: Option<&Tiling>) -> Option<Diagnosis> {
    if entry.shape != [got.rows, got.columns] || entry.rows.is_empty() {
        return None;
    }
    let digests = row_digests(got);
    let rows = differing(&entry.rows, &digests);
    let columns = differing(&entry.columns, &column_digests(got));
    let wrong: Vec<_> =
        rows.iter().flat_map(|&row| columns.iter().map(move |&column| (row, column))).collect();
    let &first = wrong.first()?;
    let pattern = Places { shape: (got.rows, got.columns), wrong: &wrong, tiling }.pattern();
    let all = |is: &dyn Fn(u32) -> bool| wrong.iter().all(|&(row, column)| is(got.element(row, column)));
    let change = if all(&|bits| bits == got.sentinel()) {
        Change::NotWritten
    } else if all(&|bits| super::digest::value(got.dtype, bits) == 0.0) {
        Change::Zero
    } else {
        moved_rows(&entry.rows, &digests, &rows).map_or(Change::Other, Change::Rows)
    };
    let bug = Bug::of(&pattern, &change);
    Some(told(
        &entry.name,
        got,
        (wrong.len(), first_of(first, None, got, tiling)),
        (&pattern, &change),
        (bug, None),
    ))
}

/// How far on the rows are that these hold.
fn moved_rows(expected: &str, got: &str, rows: &[usize]) -> Option<isize> {
    let digest = |text: &str, row: usize| text.get(row * 4..row * 4 + 4).map(str::to_owned);
    let steps = (1..=256_isize).flat_map(|step| [step, -step]);
    let found = |&step: &isize| {
        let hold = |&row: &usize| {
            let other = row.checked_add_signed(step)?;
            Some(digest(expected, other)? == digest(got, row)?)
        };
        let known: Vec<bool> = rows.iter().filter_map(hold).collect();
        known.len() * 2 >= rows.len() && known.iter().all(|&same| same)
    };
    steps.into_iter().find(found)
}

/// The hypothesis that gives what was got, where it is far from what was expected.
fn explained<'h>(
    hypotheses: &'h [Hypothesis<'_>],
    expected: &Bits,
    got: &Bits,
    wrong: &[(usize, usize)],
) -> Option<&'h Hypothesis<'h>> {
    let step = wrong.len().div_ceil(ASKED).max(1);
    let asked: Vec<_> = wrong.iter().copied().step_by(step).collect();
    let gives = |hypothesis: &&Hypothesis<'_>| {
        let near = |&(row, column): &(usize, usize)| {
            let (want, got) = (expected.value(row, column), got.value(row, column));
            let Some(value) = (hypothesis.value)(row, column) else { return false };
            rounded(expected.dtype, value) == got || (got - value).abs() * 8.0 < (got - want).abs()
        };
        asked.iter().filter(|place| near(place)).count() * 10 >= asked.len() * 9
    };
    hypotheses.iter().find(gives)
}

fn rounded(dtype: Dtype, value: f64) -> f64 {
    let rounding = if dtype == Dtype::BF16 { Rounding::Bf16 } else { Rounding::F32 };
    rounding.round(value as f32).into()
}

fn first_of(
    (row, column): (usize, usize),
    expected: Option<&Bits>,
    got: &Bits,
    tiling: Option<&Tiling>,
) -> First {
    let shown = |bits: &Bits| format!("{:e} ({:#x})", bits.value(row, column), bits.element(row, column));
    let place = tiling.and_then(|tiling| {
        let tile = tiling.tile_of((row, column))?;
        let name = &tiling.segments[tile.segment].name;
        let of = if name.is_empty() { String::new() } else { format!(" of {name}") };
        Some(format!("tile ({}, {}){of}, warpgroup {}", tile.row, tile.column, tile.warpgroup))
    });
    First { row, column, expected: expected.map(shown), got: shown(got), place }
}

fn told(
    name: &str,
    got: &Bits,
    (wrong, first): (usize, First),
    (pattern, change): (&Pattern, &Change),
    (bug, detail): (Bug, Option<String>),
) -> Diagnosis {
    Diagnosis {
        output: name.to_owned(),
        wrong,
        elements: got.elements.len(),
        first,
        pattern: pattern.to_string(),
        change: change.to_string(),
        bug,
        detail,
        of_bound: None,
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, wrong, elements, first, pattern, change, bug, detail, of_bound } = self;
        write!(
            f,
            "{output}: {wrong} of {elements} elements differ, first [{}, {}]",
            first.row, first.column
        )?;
        if let Some(place) = &first.place {
            write!(f, " in {place}")?;
        }
        if let Some(expected) = &first.expected {
            write!(f, ": expected {expected}, got {}", first.got)?;
        } else {
            write!(f, ": got {}", first.got)?;
        }
        write!(f, "\n  where: {pattern}\n  how: {change}")?;
        if let Some(of_bound) = of_bound {
            write!(f, "; the largest error is {of_bound:.2e} of the bound")?;
        }
        write!(f, "\n  likely: {}", bug.explanation())?;
        detail.as_ref().map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}
