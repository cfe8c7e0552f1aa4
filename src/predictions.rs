//! Tables of shapes and of what models predict for them, and the test that holds a committed one to today's model.

use std::{env, fs};

/// Writes tables instead of comparing them.
const BLESS: &str = "DEEPSEEK_KERNELS_BLESS";

fn at(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// The cells of a table of the repository, without comments and the header.
pub(crate) fn table<const COLUMNS: usize>(path: &str) -> Vec<[String; COLUMNS]> {
    let text = fs::read_to_string(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    let cells = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    lines.map(|line| cells(line).try_into().unwrap_or_else(|_| panic!("{path}: {line}"))).collect()
}

/// Fails unless the committed table is what the model says today.
pub(crate) fn assert_todays(path: &str, predicted: &str) {
    if env::var_os(BLESS).is_some() {
        fs::write(at(path), predicted).expect("the table is written");
    }
    let committed = fs::read_to_string(at(path)).unwrap_or_default();
    let differs = predicted.lines().zip(committed.lines().chain([""])).find(|(today, then)| today != then);
    assert!(predicted == committed, "{BLESS}=1 writes {path}; it says {differs:#?}");
}

pub(crate) fn geomean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}
