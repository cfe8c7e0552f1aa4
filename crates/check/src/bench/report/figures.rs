//! What a record's rows say together: cases, with all who ran them, and figures of a row.

use std::collections::{BTreeMap, HashMap};

use crate::bench::floor;
use crate::bench::record::{CountsRecord, Kind, Record, Roofs, Row};
use crate::bench::share::shares;
use crate::bench::statistics::{median, median_interval};
use crate::escape::escaped;

/// Whose rows are the crate's.
pub const OURS: &str = "ours";

/// What a record says, in the order of its rows.
pub struct Figures<'r> {
    pub record: &'r Record,
    pub groups: Vec<Group<'r>>,
    /// All who ran a case, ours first.
    pub names: Vec<&'r str>,
    /// Of whole steps of a model, by the case's name.
    shares: BTreeMap<String, (&'static str, f64)>,
}

/// Cases of an operation.
pub struct Group<'r> {
    operation: &'r str,
    pub cases: Vec<Case<'r>>,
}

/// A case, and a row of everyone who ran it: ours first.
pub struct Case<'r> {
    pub rows: Vec<&'r Row>,
}

impl<'r> Figures<'r> {
    pub fn of(record: &'r Record) -> Self {
        let mut groups: Vec<Group<'r>> = Vec::new();
        let mut group_of: HashMap<&str, usize> = HashMap::new();
        let mut case_of: HashMap<&str, (usize, usize)> = HashMap::new();
        for row in &record.rows {
            if let Some(&(group, case)) = case_of.get(row.name.as_str()) {
                groups[group].cases[case].rows.push(row);
                continue;
            }
            let group = *group_of.entry(&row.operation).or_insert_with(|| {
                groups.push(Group { operation: &row.operation, cases: Vec::new() });
                groups.len() - 1
            });
            case_of.insert(&row.name, (group, groups[group].cases.len()));
            groups[group].cases.push(Case { rows: vec![row] });
        }
        let mut names = distinct(record.rows.iter().map(|row| row.who.as_str()));
        names.sort_by_key(|name| *name != OURS);
        groups.iter_mut().flat_map(|group| &mut group.cases).for_each(|case| {
            case.rows.sort_by_key(|row| row.who != OURS);
        });
        Self { record, groups, names, shares: shares(record) }
    }

    pub fn cases(&self) -> impl Iterator<Item = &Case<'r>> {
        self.groups.iter().flat_map(|group| &group.cases)
    }

    /// Every row once, those of a case together.
    pub fn rows(&self) -> impl Iterator<Item = (&Case<'r>, &'r Row)> {
        self.cases().flat_map(|case| case.rows.iter().map(move |row| (case, *row)))
    }

    /// The place among all names.
    pub fn series(&self, row: &Row) -> usize {
        self.names.iter().position(|name| *name == row.who).unwrap_or(0)
    }

    /// Whether there is a clock whose times can be shown. The emulator has none.
    pub fn is_timed(&self) -> bool {
        self.record.device.kind != Kind::Emulated
    }

    /// Where the numbers are from.
    pub fn origin(&self) -> String {
        let Record { package, version, device, .. } = self.record;
        escaped(&format!("{package} {version} on {}", device.name))
    }

    /// What must be said wherever a time is shown; empty of a GPU's.
    pub fn warning(&self) -> &'static str {
        match self.record.device.kind {
            Kind::Gpu => "",
            Kind::FakeGpu => " The clock is the fake driver's: its times tell nothing about a GPU.",
            Kind::Emulated => " Counts of the emulated Hopper: no time was measured.",
        }
    }

    pub fn is_counted(&self) -> bool {
        self.record.rows.iter().any(|row| row.counts.is_some())
    }

    /// What was measured of the machine; of the emulator nothing, whatever a file says.
    pub fn roofs(&self) -> Option<&'r Roofs> {
        let roofs = self.record.roofs.as_ref()?;
        (self.is_timed() && positive(roofs.copy).is_some() && positive(roofs.tensor).is_some())
            .then_some(roofs)
    }

    /// Seconds of the middle sample: "cold", "warm" or "host".
    pub fn median(&self, row: &Row, when: &str) -> Option<f64> {
        let timing = row.times.get(when).filter(|_| self.is_timed() && row.failure.is_none())?;
        Some(median(&timing.seconds)).and_then(positive)
    }

    /// Between these the median lies.
    pub fn interval(&self, row: &Row, when: &str) -> Option<(f64, f64)> {
        self.median(row, when).map(|_| median_interval(&row.times[when].seconds))
    }

    /// Seconds that a row stands for: with a cold L2 where that was measured.
    pub fn seconds(&self, row: &Row) -> Option<f64> {
        self.median(row, "cold").or_else(|| self.median(row, "warm"))
    }

    pub fn operations_per_second(&self, row: &Row) -> Option<f64> {
        positive(row.flops as f64 / self.seconds(row)?)
    }

    pub fn bytes_per_second(&self, row: &Row) -> Option<f64> {
        positive(row.bytes as f64 / self.seconds(row)?)
    }

    pub fn floor(&self, row: &Row) -> Option<f64> {
        positive(floor::seconds(row, self.roofs()?))
    }

    pub fn of_floor(&self, row: &Row) -> Option<f64> {
        positive(self.seconds(row)? / self.floor(row)?)
    }

    /// The step of a model that our time is a part of, and which part.
    pub fn share(&self, row: &Row) -> Option<(&'static str, f64)> {
        let (step, share) = self.shares.get(&row.name).filter(|_| self.is_timed() && row.who == OURS)?;
        positive(*share).map(|share| (*step, share))
    }

    /// Our time by that of the fastest of the others.
    pub fn of_best_peer(&self, case: &Case<'_>, row: &Row) -> Option<f64> {
        let others = case.rows.iter().filter(|other| other.who != OURS);
        let best = others.filter_map(|other| self.seconds(other)).min_by(f64::total_cmp)?;
        (row.who == OURS).then(|| self.seconds(row)).flatten().and_then(|ours| positive(ours / best))
    }
}

impl<'r> Group<'r> {
    /// As people call all of its cases; where they call them differently, the operation.
    pub fn title(&self) -> &'r str {
        self.common_title().unwrap_or(self.operation)
    }

    /// A case in words, among the others.
    pub fn label(&self, case: &Case<'_>) -> String {
        match self.common_title() {
            Some(_) => case.label(),
            None => format!("{}, {}", case.first().title, case.label()),
        }
    }

    fn common_title(&self) -> Option<&'r str> {
        let title = self.cases.first()?.first().title.as_str();
        self.cases.iter().all(|case| case.first().title == title).then_some(title)
    }
}

impl<'r> Case<'r> {
    /// The row that says what the case is.
    pub fn first(&self) -> &'r Row {
        self.rows[0]
    }

    pub fn ours(&self) -> Option<&'r Row> {
        self.rows.iter().find(|row| row.who == OURS).copied()
    }

    pub fn label(&self) -> String {
        label(self.first())
    }
}

/// Sizes, and the class of the inputs. Sizes that are a long list, of sequences for example, are told by the case's name.
pub fn label(row: &Row) -> String {
    const LETTERS: usize = 48;
    let short = (1..=LETTERS).contains(&row.shape.chars().count());
    let sizes = if short {
        &row.shape
    } else {
        row.name.split_once('/').map_or(row.name.as_str(), |(_, label)| label)
    };
    if row.data.is_empty() { sizes.to_owned() } else { format!("{sizes}, {}", row.data) }
}

/// Operations for each of the fewest bytes.
pub fn operations_per_byte(row: &Row) -> Option<f64> {
    positive(row.flops as f64 / row.bytes as f64)
}

/// Bytes that were asked of global memory, or written there: each time, and once for all CTAs that share a load.
pub fn traffic(counts: &CountsRecord) -> u64 {
    let all = ["tma_load_bytes", "tma_store_bytes", "global_load_bytes", "global_store_bytes"];
    all.into_iter().map(|name| counts.get(name)).fold(0, u64::saturating_add)
}

/// Those by the fewest.
pub fn of_least_bytes(row: &Row) -> Option<f64> {
    positive(traffic(row.counts.as_ref()?) as f64 / row.bytes as f64)
}

/// Operations that results need, of all that the tensor core made.
pub fn useful(row: &Row) -> Option<f64> {
    positive(row.flops as f64 / row.counts.as_ref()?.tensor_flops as f64)
}

/// The mean of ratios.
pub fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    let logarithms: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    positive((logarithms / ratios.len() as f64).exp())
}

/// Each once, in their order.
pub fn distinct<T: PartialEq>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut known = Vec::new();
    for one in all {
        if !known.contains(&one) {
            known.push(one);
        }
    }
    known
}

/// What is no number that a picture has a place for is none.
pub fn positive(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{emulated, gpu};
    use super::*;

    #[test]
    fn ours_stands_first_and_a_case_has_all_its_rows() {
        let mut record = gpu();
        record.rows.reverse();
        let figures = Figures::of(&record);
        assert_eq!(figures.names[0], OURS);
        assert_eq!(figures.rows().count(), record.rows.len());
        for case in figures.cases().filter(|case| case.rows.len() > 1) {
            assert_eq!(case.first().who, OURS, "{}", case.label());
            assert!(case.rows.iter().all(|row| row.name == case.first().name));
        }
    }

    #[test]
    fn a_ratio_is_ours_by_the_best_of_the_others() {
        let record = gpu();
        let figures = Figures::of(&record);
        let case = figures.cases().find(|case| case.rows.len() == 3).expect("a case with two peers");
        let seconds: Vec<f64> = case.rows.iter().map(|row| figures.seconds(row).unwrap()).collect();
        let expected = seconds[0] / seconds[1].min(seconds[2]);
        assert_eq!(figures.of_best_peer(case, case.rows[0]), Some(expected));
        assert_eq!(figures.of_best_peer(case, case.rows[1]), None);
    }

    #[test]
    fn the_emulator_has_no_times_even_if_a_file_says_so() {
        let mut record = emulated();
        record.rows[0].times = gpu().rows[0].times.clone();
        let figures = Figures::of(&record);
        assert!(figures.rows().all(|(_, row)| figures.seconds(row).is_none()));
    }

    #[test]
    fn a_mean_of_ratios_is_geometric() {
        assert!((geometric_mean(&[0.5, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }
}
