//! Mutants of the kernels and of the host's half: which test notices each.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::FEATURES;
use crate::process::{cargo, run};

/// What became of each mutant of a kernel.
const TABLE: &str = "tests/faults/mutants.txt";

/// Its head.
const HEAD: &str = "\
# Mutants of the kernels that were tried, and what noticed each: written by `cargo xtask mutants`.
# file:line | line of code | change | trial that noticed | net or oracle
";

/// Tries every mutant of the kernels whose file or change has this text in it, and writes the table.
pub fn kernels(root: &Path, only: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let fresh = folder.path().join("mutants.txt");
    let mut tests = cargo(root);
    tests.args(["test", "--package=deepseek-kernels", FEATURES, "--test=faults", "--", "--include-ignored"]);
    let tried = run(tests.arg(format!("mutant::{only}")).env("DEEPSEEK_KERNELS_MUTANTS", &fresh));
    let rows = fs::read_to_string(&fresh).context("no mutant has that text in its name")?;
    let path = root.join(TABLE);
    let old = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, merged(&old, &rows, only.is_empty()))?;
    tried.context("some mutants survive: a test is missing, or a line of tests/faults/survivors.txt")
}

/// The rows by file and line; those of before stay where only some were tried and the code is the same.
fn merged(old: &str, new: &str, all: bool) -> String {
    let key = |row: &str| {
        let fields: Vec<&str> = row.split(" | ").collect();
        let (file, line) = fields[0].rsplit_once(':').unwrap_or((fields[0], "0"));
        let line: usize = line.parse().unwrap_or(0);
        (file.to_owned(), line, fields.get(1..3).map(<[&str]>::concat))
    };
    let kept = if all { "" } else { old };
    let rows = kept.lines().filter(|row| !row.starts_with('#')).chain(new.lines());
    let rows: BTreeMap<_, _> = rows.map(|row| (key(row), row)).collect();
    HEAD.to_owned() + &rows.into_values().map(|row| format!("{row}\n")).collect::<String>()
}

/// Mutants of what checks operands, plans and schedules, by cargo-mutants, as `.cargo/mutants.toml` says.
pub fn host(root: &Path, arguments: &[String]) -> Result<()> {
    let there = Command::new("cargo").args(["mutants", "--version"]).output();
    let there = there.is_ok_and(|output| output.status.success());
    ensure!(there, "cargo-mutants is not here: cargo install cargo-mutants --locked");
    run(cargo(root).arg("mutants").args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_line_and_the_newer_one_stays() {
        let old = "# head\na.cuh:10 | x; | no x | T | exact\na.cuh:9 | y; | no y | T | exact\n";
        let new = "a.cuh:9 | y; | no y | T | race detector\n";
        let both =
            format!("{HEAD}a.cuh:9 | y; | no y | T | race detector\na.cuh:10 | x; | no x | T | exact\n");
        assert_eq!(merged(old, new, false), both);
        assert_eq!(merged(old, new, true), format!("{HEAD}{new}"));
    }
}
