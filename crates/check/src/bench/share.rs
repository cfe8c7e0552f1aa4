//! What part of a whole step of a model a case is.

use std::collections::BTreeMap;

use super::record::Record;
use super::statistics::median;
use super::steps::STEPS;

/// The step and the share of our rows, by the case's name, of those steps all of whose cases were timed.
pub fn shares(record: &Record) -> BTreeMap<String, (&'static str, f64)> {
    let ours = record.rows.iter().filter(|row| row.who == "ours");
    let cold = ours.filter_map(|row| Some((row.name.as_str(), median(&row.times.get("cold")?.seconds))));
    let cold: BTreeMap<&str, f64> = cold.collect();
    let mut shares = BTreeMap::new();
    for step in &STEPS {
        let parts = (step.parts)().into_iter().map(|(case, times)| {
            let name = case.name();
            let seconds = cold.get(name.as_str())? * times as f64;
            Some((name, seconds))
        });
        let Some(parts) = parts.collect::<Option<Vec<_>>>() else { continue };
        let whole: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        shares.extend(parts.into_iter().map(|(name, seconds)| (name, (step.name, seconds / whole))));
    }
    shares
}
