//! Two runs: what became faster, what slower, and what cannot be told.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::record::{Kind, Record, Row, Timing};
use super::statistics::{median, median_interval};

/// No smaller difference of times is called one, however quiet the control was.
const LEAST_NOISE: f64 = 0.005;

/// How a row compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Same,
    Faster,
    /// The intervals allow more than one of the others.
    Ambiguous,
    Slower,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Same => "SAME",
            Self::Faster => "FASTER",
            Self::Slower => "SLOWER",
            Self::Ambiguous => "AMBIGUOUS",
        })
    }
}

/// A row of both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    pub name: String,
    /// "cold", "warm", "host" or "counts".
    pub what: String,
    pub verdict: Verdict,
    /// New over old: the ratio of the medians, and what it may be.
    pub ratio: Option<[f64; 3]>,
    /// Counts that differ: old and new.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, [u64; 2]>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub rows: Vec<Compared>,
    /// Why some of it, or all, could not be compared.
    pub problems: Vec<String>,
}

impl Comparison {
    /// Compares our rows of two runs. What only the new one has is no problem.
    pub fn of(old: &Record, new: &Record) -> Self {
        let mut comparison = Self { rows: vec![], problems: vec![] };
        if let Some(problem) = other_device(old, new) {
            comparison.problems.push(problem);
            return comparison;
        }
        let noise = [old, new].map(|record| record.control.as_ref().map(|control| control.noise));
        if new.device.kind != Kind::Emulated && noise.contains(&None) {
            comparison.problems.push("a run has no control pair: what is noise cannot be told".to_owned());
            return comparison;
        }
        let noise = noise.into_iter().flatten().fold(LEAST_NOISE, f64::max);
        let ours = |record: &Record| -> BTreeMap<String, Row> {
            let rows = record.rows.iter().filter(|row| row.who == "ours");
            rows.map(|row| (row.name.clone(), row.clone())).collect()
        };
        let (old, new) = (ours(old), ours(new));
        for (name, old) in &old {
            match new.get(name) {
                Some(new) => comparison.row(old, new, noise),
                None => comparison.problems.push(format!("{name} is missing")),
            }
        }
        comparison
    }

    /// How many rows have a verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }

    fn row(&mut self, old: &Row, new: &Row, noise: f64) {
        let name = &old.name;
        if old.failure.is_some() {
            return;
        }
        if let Some(failure) = &new.failure {
            self.problems.push(format!("{name} has no result: {}", failure.why));
            return;
        }
        if let (Some(old), Some(new)) = (&old.counts, &new.counts) {
            self.rows.push(counts(name, &old.all(), &new.all()));
        }
        for (what, old) in &old.times {
            let Some(new) = new.times.get(what) else {
                self.problems.push(format!("{name}, {what}: missing"));
                continue;
            };
            if old.disturbed || new.disturbed {
                self.problems.push(format!("{name}, {what}: disturbed, the GPU held its clocks down"));
                continue;
            }
            self.rows.push(times(name, what, old, new, noise));
        }
    }
}

fn other_device(old: &Record, new: &Record) -> Option<String> {
    let device = |record: &Record| {
        let device = &record.device;
        (device.kind, device.name.clone(), device.multiprocessors)
    };
    let shown = |record: &Record| {
        format!("{} with {} multiprocessors", record.device.name, record.device.multiprocessors)
    };
    (device(old) != device(new)).then(|| format!("another device: {} then, {} now", shown(old), shown(new)))
}

/// Counts have no noise. Fewer of everything is faster.
fn counts(name: &str, old: &BTreeMap<String, u64>, new: &BTreeMap<String, u64>) -> Compared {
    let names = old.keys().chain(new.keys());
    let of = |counts: &BTreeMap<String, u64>, name: &String| counts.get(name).copied().unwrap_or(0);
    let both = names.map(|name| (name.clone(), [of(old, name), of(new, name)]));
    let differing: BTreeMap<_, _> = both.filter(|(_, [old, new])| old != new).collect();
    let (more, fewer) =
        (differing.values().any(|[old, new]| new > old), differing.values().any(|[old, new]| new < old));
    let verdict = match (fewer, more) {
        (false, false) => Verdict::Same,
        (true, false) => Verdict::Faster,
        (false, true) => Verdict::Slower,
        (true, true) => Verdict::Ambiguous,
    };
    Compared { name: name.to_owned(), what: "counts".to_owned(), verdict, ratio: None, counts: differing }
}

/// By the intervals in which the medians lie, and `noise` around 1.
fn times(name: &str, what: &str, old: &Timing, new: &Timing, noise: f64) -> Compared {
    let [(old_low, old_high), (new_low, new_high)] =
        [old, new].map(|timing| median_interval(&timing.seconds));
    let ratio = median(&new.seconds) / median(&old.seconds);
    let (low, high) = (new_low / old_high, new_high / old_low);
    Compared {
        name: name.to_owned(),
        what: what.to_owned(),
        verdict: verdict(low, high, noise),
        ratio: Some([ratio, low, high]),
        counts: BTreeMap::new(),
    }
}

/// Of a ratio between `low` and `high`.
pub fn verdict(low: f64, high: f64, noise: f64) -> Verdict {
    if low >= 1.0 - noise && high <= 1.0 + noise {
        Verdict::Same
    } else if high < 1.0 - noise {
        Verdict::Faster
    } else if low > 1.0 + noise {
        Verdict::Slower
    } else {
        Verdict::Ambiguous
    }
}

/// A line per row that is not the same, the problems, and how many there are of each.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.rows.iter().filter(|row| row.verdict != Verdict::Same) {
            write!(f, "{:<9} {}, {}", row.verdict, row.name, row.what)?;
            if let Some([ratio, low, high]) = row.ratio {
                write!(f, ": {ratio:.4} of the old time, {low:.4} to {high:.4}")?;
            }
            for (count, [old, new]) in &row.counts {
                write!(f, "; {count} {old} -> {new}")?;
            }
            writeln!(f)?;
        }
        for problem in &self.problems {
            writeln!(f, "NOT COMPARABLE: {problem}")?;
        }
        let all = [Verdict::Same, Verdict::Faster, Verdict::Slower, Verdict::Ambiguous];
        let counts = all.map(|verdict| format!("{} {verdict}", self.count(verdict)));
        writeln!(f, "compared: {}; {} problems", counts.join(", "), self.problems.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Control, DeviceRecord, FORMAT, Failure, Stop};
    use super::*;

    fn record(kind: Kind, rows: Vec<Row>) -> Record {
        Record {
            format: FORMAT,
            package: String::new(),
            version: String::new(),
            command: vec![],
            device: DeviceRecord {
                kind,
                name: "a GPU".to_owned(),
                multiprocessors: 132,
                capability: None,
                driver: None,
                l2_bytes: None,
            },
            roofs: None,
            control: Some(Control { name: "a".to_owned(), noise: 0.01 }),
            rows,
        }
    }

    fn row(name: &str, seconds: &[f64]) -> Row {
        let timing = Timing { seconds: seconds.to_vec(), stop: Stop::Time, state: None, disturbed: false };
        Row {
            who: "ours".to_owned(),
            operation: String::new(),
            name: name.to_owned(),
            title: String::new(),
            shape: String::new(),
            data: String::new(),
            instance: String::new(),
            reason: None,
            flops: 0,
            bytes: 0,
            worst: None,
            failure: None,
            counts: None,
            times: [("cold".to_owned(), timing)].into(),
        }
    }

    fn compared(old: Row, new: Row) -> Comparison {
        Comparison::of(&record(Kind::Gpu, vec![old]), &record(Kind::Gpu, vec![new]))
    }

    /// Around a second, within a thousandth.
    fn steady(factor: f64) -> Vec<f64> {
        (0..30).map(|i| factor * (1.0 + 0.0001 * f64::from(i % 10))).collect()
    }

    #[test]
    fn what_is_within_the_noise_is_the_same_and_what_may_be_is_not_told() {
        let wild: Vec<f64> = (0..30).map(|i| 1.0 + 0.02 * f64::from(i % 3)).collect();
        for (new, verdict) in [
            (steady(1.0), Verdict::Same),
            (steady(1.005), Verdict::Same),
            (steady(1.05), Verdict::Slower),
            (steady(0.95), Verdict::Faster),
            (steady(1.01), Verdict::Ambiguous),
            (wild, Verdict::Ambiguous),
            (vec![f64::NAN], Verdict::Ambiguous),
        ] {
            let comparison = compared(row("a", &steady(1.0)), row("a", &new));
            assert_eq!(comparison.rows.len(), 1);
            assert_eq!(comparison.rows[0].verdict, verdict, "{comparison}");
            assert!(comparison.problems.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_compared_is_told_with_the_reason() {
        let problem = |old: &Record, new: &Record| {
            let mut comparison = Comparison::of(old, new);
            assert_eq!((comparison.rows.len(), comparison.problems.len()), (0, 1), "{comparison}");
            comparison.problems.remove(0)
        };
        let gpu = |rows| record(Kind::Gpu, rows);
        let (old, new) = (gpu(vec![row("a", &steady(1.0))]), gpu(vec![row("a", &steady(1.0))]));
        let mut other = new.clone();
        other.device.name = "another".to_owned();
        let expected =
            "another device: a GPU with 132 multiprocessors then, another with 132 multiprocessors now";
        assert_eq!(problem(&old, &other), expected);
        assert!(problem(&old, &record(Kind::Emulated, vec![])).starts_with("another device: "));
        assert_eq!(problem(&old, &gpu(vec![])), "a is missing");
        assert!(problem(&old, &Record { control: None, ..new.clone() }).contains("no control pair"));
        let mut disturbed = new.clone();
        disturbed.rows[0].times.get_mut("cold").unwrap().disturbed = true;
        assert!(problem(&old, &disturbed).starts_with("a, cold: disturbed"));
        let mut absent = new.clone();
        absent.rows[0].failure = Some(Failure { wrong: false, why: "no time".to_owned() });
        assert_eq!(problem(&old, &absent), "a has no result: no time");
        let mut untimed = new;
        untimed.rows[0].times.clear();
        assert_eq!(problem(&old, &untimed), "a, cold: missing");
    }

    #[test]
    fn counts_are_compared_exactly() {
        let counted = |counts: &[(&str, u64)]| {
            let sums = counts.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
            let counts = super::super::record::CountsRecord { sums, ..Default::default() };
            let row = Row { counts: Some(counts), times: BTreeMap::new(), ..row("a", &[]) };
            Record { control: None, ..record(Kind::Emulated, vec![row]) }
        };
        let old = counted(&[("loads", 10), ("stores", 10)]);
        for (new, verdict) in [
            ([10, 10], Verdict::Same),
            ([10, 9], Verdict::Faster),
            ([11, 10], Verdict::Slower),
            ([11, 9], Verdict::Ambiguous),
        ] {
            let comparison = Comparison::of(&old, &counted(&[("loads", new[0]), ("stores", new[1])]));
            assert_eq!(comparison.rows[0].verdict, verdict);
        }
        let text = Comparison::of(&old, &counted(&[("loads", 11), ("stores", 10)])).to_string();
        assert!(text.starts_with("SLOWER    a, counts; loads 10 -> 11\n"), "{text}");
        assert!(text.ends_with("compared: 0 SAME, 0 FASTER, 1 SLOWER, 0 AMBIGUOUS; 0 problems\n"), "{text}");
    }
}
