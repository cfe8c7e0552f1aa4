//! Where elements differ.

use std::collections::BTreeSet;
use std::fmt;

use crate::anatomy::{Segment, Tiling};

/// The shape of the places that differ: the first that fits, the narrowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    OneElement,
    OneRow(usize),
    OneColumn(usize),
    /// Row and column of the tile, of a segment.
    OneTile {
        segment: String,
        tile: (usize, usize),
    },
    /// Of a matrix that ends within a tile, the last rows alone.
    LastRows {
        first: usize,
    },
    /// Of a matrix that ends within a tile, the last columns alone.
    LastColumns {
        first: usize,
    },
    /// All of it that is whole: an expert, a sequence.
    Segments(Vec<String>),
    /// One warpgroup of every tile.
    Warpgroup(usize),
    /// Rows `residue` of every `period`.
    EveryRow {
        period: usize,
        residue: usize,
    },
    /// Columns `residue` of every `period`.
    EveryColumn {
        period: usize,
        residue: usize,
    },
    Rows {
        first: usize,
        last: usize,
    },
    Columns {
        first: usize,
        last: usize,
    },
    Everything,
    Scattered,
}

/// Rows and columns apart: registers of a thread, fragments, swizzles, slices of a warp and a warpgroup.
const PERIODS: [usize; 6] = [2, 4, 8, 16, 32, 64];

/// What is known of places that differ.
pub struct Places<'a> {
    pub shape: (usize, usize),
    /// Row and column of each, ascending.
    pub wrong: &'a [(usize, usize)],
    pub tiling: Option<&'a Tiling>,
}

impl Places<'_> {
    /// Their shape.
    pub fn pattern(&self) -> Pattern {
        let rows: BTreeSet<usize> = self.wrong.iter().map(|place| place.0).collect();
        let columns: BTreeSet<usize> = self.wrong.iter().map(|place| place.1).collect();
        let (Some(&first), Some(&last)) = (rows.first(), rows.last()) else { return Pattern::Scattered };
        let (left, right) = (*columns.first().unwrap_or(&0), *columns.last().unwrap_or(&0));
        match (rows.len(), columns.len()) {
            (1, 1) => return Pattern::OneElement,
            (1, _) if self.shape.0 > 1 => return Pattern::OneRow(first),
            (_, 1) if self.shape.1 > 1 => return Pattern::OneColumn(left),
            _ => {}
        }
        if let Some(pattern) = self.tiling.and_then(|tiling| self.tiled(tiling, &rows, left)) {
            return pattern;
        }
        if let Some((period, residue)) = periodic(&rows) {
            return Pattern::EveryRow { period, residue };
        }
        if let Some((period, residue)) = periodic(&columns) {
            return Pattern::EveryColumn { period, residue };
        }
        let (all_rows, all_columns) =
            (rows.len() * 10 >= self.shape.0 * 9, columns.len() * 10 >= self.shape.1 * 9);
        let dense =
            |set: &BTreeSet<usize>, first: usize, last: usize| set.len() * 10 >= (last - first + 1) * 9;
        if self.wrong.len() * 4 >= self.shape.0 * self.shape.1 * 3 {
            Pattern::Everything
        } else if all_columns && dense(&rows, first, last) && !all_rows {
            Pattern::Rows { first, last }
        } else if all_rows && dense(&columns, left, right) && !all_columns {
            Pattern::Columns { first: left, last: right }
        } else {
            Pattern::Scattered
        }
    }

    /// Shapes that tiles have.
    fn tiled(&self, tiling: &Tiling, rows: &BTreeSet<usize>, left: usize) -> Option<Pattern> {
        let places: BTreeSet<_> = self.wrong.iter().filter_map(|&place| tiling.tile_of(place)).collect();
        let tiles: BTreeSet<_> =
            places.iter().map(|place| (place.segment, place.row, place.column)).collect();
        let touched: BTreeSet<usize> = places.iter().map(|place| place.segment).collect();
        let first = *rows.first()?;
        let one = touched.len() == 1;
        let segment = &tiling.segments.get(*touched.first()?)?;
        let several = tiling.tiles(self.shape.1) > 1;
        if tiles.len() == 1 && several {
            let &(_, row, column) = tiles.first()?;
            return Some(Pattern::OneTile { segment: segment.name.clone(), tile: (row, column) });
        }
        let tail = |begin: usize, end: usize, size: usize| {
            let over = (end - begin) % size.max(1);
            (over != 0 && end - begin > size).then_some(end - over)
        };
        if one && tail(segment.first, segment.rows.end, tiling.tile.0).is_some_and(|row| first >= row) {
            return Some(Pattern::LastRows { first });
        }
        if tail(0, self.shape.1, tiling.tile.1).is_some_and(|column| left >= column) {
            return Some(Pattern::LastColumns { first: left });
        }
        let whole = |segment: &Segment| {
            let of = rows.range(segment.rows.clone()).count();
            of == 0 || of * 10 >= segment.rows.len() * 9
        };
        let with_rows = tiling.segments.iter().filter(|segment| !segment.rows.is_empty()).count();
        let dense = {
            let area: usize = touched.iter().map(|&s| tiling.segments[s].rows.len() * self.shape.1).sum();
            self.wrong.len() * 2 >= area
        };
        if touched.len() < with_rows && dense && tiling.segments.iter().all(whole) {
            return Some(Pattern::Segments(
                touched.iter().map(|&segment| tiling.segments[segment].name.clone()).collect(),
            ));
        }
        let warpgroups: BTreeSet<usize> = places.iter().map(|place| place.warpgroup).collect();
        let one = warpgroups.len() == 1 && tiling.warpgroups() > 1 && rows.len() > 1;
        one.then(|| Pattern::Warpgroup(*warpgroups.first().unwrap_or(&0)))
    }
}

/// A period and the one residue that all have, the longest period first; rows of a stretch have none.
fn periodic(set: &BTreeSet<usize>) -> Option<(usize, usize)> {
    let residue = |period: usize| {
        let residues: BTreeSet<usize> = set.iter().map(|i| i % period).collect();
        (residues.len() == 1).then(|| (period, *residues.first().unwrap_or(&0)))
    };
    if set.len() < 3 {
        return None;
    }
    PERIODS.iter().rev().find_map(|&period| residue(period))
}

/// A tile, and the warpgroup of an element of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TilePlace {
    pub segment: usize,
    pub row: usize,
    pub column: usize,
    pub warpgroup: usize,
}

impl Tiling {
    /// The tile and the warpgroup that an element is of, if it is anybody's.
    pub fn tile_of(&self, (row, column): (usize, usize)) -> Option<TilePlace> {
        let index = self.segments.iter().position(|segment| segment.rows.contains(&row))?;
        let (height, width) = (self.tile.0.max(1), self.tile.1.max(1));
        let (down, across) = (row - self.segments[index].first, column);
        let per_row = self.tile.1.div_ceil(self.warpgroup.1.max(1)).max(1);
        let within = (down % height / self.warpgroup.0.max(1), across % width / self.warpgroup.1.max(1));
        Some(TilePlace {
            segment: index,
            row: down / height,
            column: across / width,
            warpgroup: within.0 * per_row + within.1,
        })
    }

    fn tiles(&self, columns: usize) -> usize {
        let of = |segment: &Segment| (segment.rows.end - segment.first).div_ceil(self.tile.0.max(1));
        self.segments.iter().map(of).sum::<usize>() * columns.div_ceil(self.tile.1.max(1))
    }

    fn warpgroups(&self) -> usize {
        self.tile.0.div_ceil(self.warpgroup.0.max(1)) * self.tile.1.div_ceil(self.warpgroup.1.max(1))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |segment: &str| if segment.is_empty() { String::new() } else { format!(" of {segment}") };
        match self {
            Self::OneElement => write!(f, "one element"),
            Self::OneRow(row) => write!(f, "one row, {row}"),
            Self::OneColumn(column) => write!(f, "one column, {column}"),
            Self::OneTile { segment, tile } => write!(f, "one tile, ({}, {}){}", tile.0, tile.1, of(segment)),
            Self::LastRows { first } => write!(f, "the tail, from row {first} on"),
            Self::LastColumns { first } => write!(f, "the tail, from column {first} on"),
            Self::Segments(names) => write!(f, "all of {}", names.join(", ")),
            Self::Warpgroup(index) => write!(f, "warpgroup {index} of every tile"),
            Self::EveryRow { period, residue } => write!(f, "row {residue} of every {period}"),
            Self::EveryColumn { period, residue } => write!(f, "column {residue} of every {period}"),
            Self::Rows { first, last } => write!(f, "rows {first} to {last}"),
            Self::Columns { first, last } => write!(f, "columns {first} to {last}"),
            Self::Everything => write!(f, "everything"),
            Self::Scattered => write!(f, "places all over"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiling() -> Tiling {
        let segment = |name: &str, rows: std::ops::Range<usize>| Segment {
            name: name.to_owned(),
            first: rows.start,
            rows,
        };
        let segments = vec![segment("expert 0", 0..150), segment("expert 1", 150..300)];
        Tiling { segments, tile: (128, 64), warpgroup: (64, 64) }
    }

    fn pattern(is: impl Fn(usize, usize) -> bool) -> Pattern {
        let shape = (300, 136);
        let all = (0..shape.0).flat_map(|row| (0..shape.1).map(move |column| (row, column)));
        let wrong: Vec<_> = all.filter(|&(row, column)| is(row, column)).collect();
        Places { shape, wrong: &wrong, tiling: Some(&tiling()) }.pattern()
    }

    #[test]
    fn every_shape_has_its_name() {
        assert_eq!(pattern(|r, c| (r, c) == (3, 4)), Pattern::OneElement);
        assert_eq!(pattern(|r, _| r == 7), Pattern::OneRow(7));
        assert_eq!(pattern(|_, c| c == 9), Pattern::OneColumn(9));
        let tile = Pattern::OneTile { segment: "expert 1".to_owned(), tile: (0, 1) };
        assert_eq!(pattern(|r, c| (150..278).contains(&r) && (64..128).contains(&c)), tile);
        assert_eq!(pattern(|r, _| r >= 295), Pattern::LastRows { first: 295 });
        assert_eq!(pattern(|_, c| c >= 128), Pattern::LastColumns { first: 128 });
        assert_eq!(pattern(|r, _| r >= 150), Pattern::Segments(vec!["expert 1".to_owned()]));
        let slice = |r: usize| if r < 150 { r % 128 < 64 } else { (r - 150) % 128 < 64 };
        assert_eq!(pattern(|r, _| !slice(r)), Pattern::Warpgroup(1));
        assert_eq!(pattern(|r, _| r % 8 == 5), Pattern::EveryRow { period: 8, residue: 5 });
        assert_eq!(pattern(|_, c| c % 16 == 3), Pattern::EveryColumn { period: 16, residue: 3 });
        assert_eq!(pattern(|r, _| (20..60).contains(&r) || (90..100).contains(&r)), Pattern::Scattered);
        assert_eq!(pattern(|r, _| (100..200).contains(&r)), Pattern::Rows { first: 100, last: 199 });
        assert_eq!(pattern(|_, c| (30..100).contains(&c)), Pattern::Columns { first: 30, last: 99 });
        assert_eq!(pattern(|_, _| true), Pattern::Everything);
        assert_eq!(pattern(|r, c| (r * 7 + c * 5) % 11 < 3), Pattern::Scattered);
    }
}
