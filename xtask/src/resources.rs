//! What the compiled kernels use, against a committed table: a change is seen in review.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use build_support::sass::{self, Instruction, multiply, rules};
use build_support::{nvcc, ptxas};

use crate::build_output::{self, Kernel};
use crate::process;

const TABLE: &str = "benches/results/resources.txt";

/// Instructions worth counting: tensor core, TMA, register reallocation, stmatrix, promotion, local memory.
const COUNTED: [&str; 8] = ["QGMMA", "UTMALDG", "UTMASTG", "USETMAXREG", "STSM", "FFMA", "LDL", "STL"];

/// What `sass::rules` finds: fences of the whole GPU; those of them in loops, and instructions that wait between the
/// wgmmas of a group, of which there may be none; exponentials that run beside products. Last, the instructions of a
/// round of the loop that multiplies: cycles in which a warp issues them, and wgmmas among them.
const FOUND: [&str; 5] = ["fences", "looped", "waits", "overlapped", "cycles/wgmmas"];

/// Compares the kernels of a dev build with the table, or writes the table with `bless`.
pub fn check(root: &Path, bless: bool) -> Result<()> {
    let nvcc = nvcc::find(root).map_err(|reason| anyhow!(reason))?;
    let built = build_output::cargo(root, &["check", "--package=deepseek-kernels-check", "--lib"], &[])?;
    let nvdisasm = nvdisasm(root, &nvcc)?;

    let mut rows = vec![header()];
    let mut violations = String::new();
    for kernel in built.kernels()? {
        let file = built.kernel_folder.join(&kernel.name);
        let report = fs::read_to_string(file.with_extension("ptxas")).with_context(|| kernel.name.clone())?;
        let resources = ptxas::parse(&report).map_err(|reason| anyhow!(reason))?;
        let mut disassemble = Command::new(&nvdisasm);
        let text = process::read(disassemble.args(["-c", "-hex"]).arg(file.with_extension("cubin")))?;
        let compiled = sass::parse(&text).with_context(|| kernel.name.clone())?;
        let findings = rules::examine(&kernel.name, &compiled).with_context(|| kernel.name.clone())?;
        for violation in &findings.violations {
            let _ = writeln!(violations, "{}: {violation}", kernel.name);
        }
        let round = multiply::round(&compiled).with_context(|| kernel.name.clone())?;
        rows.push(row(&kernel, &resources, &compiled.instructions, &findings, round));
    }
    if !violations.is_empty() {
        bail!("ptxas has undone what the kernels are built on:\n{violations}");
    }
    let table = format!("{}\n{}", release_line(&nvcc), aligned(&rows));
    let path = root.join(TABLE);
    if bless {
        fs::create_dir_all(path.parent().context("the table has a folder")?)?;
        fs::write(&path, &table)?;
    }
    compare(&fs::read_to_string(&path).unwrap_or_default(), &table)?;
    print!("{table}");
    Ok(())
}

/// The one beside nvcc, or the fetched one.
fn nvdisasm(root: &Path, nvcc: &nvcc::Nvcc) -> Result<PathBuf> {
    let beside = nvcc.path.with_file_name("nvdisasm");
    let fetched = root.join(nvcc::FETCHED).join("bin/nvdisasm");
    let found = [beside, fetched].into_iter().find(|path| path.is_file());
    found.context("no nvdisasm beside nvcc: `cargo xtask toolkit` fetches one")
}

fn header() -> Vec<String> {
    let columns = ["kernel", "registers", "stack", "spills", "barriers", "smem"];
    columns.into_iter().chain(COUNTED).chain(FOUND).map(str::to_owned).collect()
}

fn row(
    kernel: &Kernel,
    resources: &ptxas::Resources,
    instructions: &[Instruction],
    findings: &rules::Findings,
    round: Option<multiply::Round>,
) -> Vec<String> {
    let spills = resources.spill_stores + resources.spill_loads;
    let smem = kernel.smem_bytes + resources.static_smem;
    let numbers = [resources.registers, resources.stack, spills, resources.barriers, smem];
    let counts = COUNTED.map(|opcode| instructions.iter().filter(|i| i.base() == opcode).count().to_string());
    let overlapped = findings.overlapped.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let mut row = vec![kernel.name.clone()];
    row.extend(numbers.map(|number| number.to_string()));
    row.extend(counts);
    row.extend([findings.fences, findings.looped_fences, findings.waits].map(|count| count.to_string()));
    row.push(overlapped);
    row.push(round.map_or_else(|| "-".to_owned(), |round| format!("{}/{}", round.cycles, round.wgmmas)));
    row
}

/// Columns padded to their widest entry, numbers to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let _ = write!(text, "{:<1$}", row[0], width(0));
        for (column, cell) in row.iter().enumerate().skip(1) {
            let _ = write!(text, "  {cell:>0$}", width(column));
        }
        text.push('\n');
    }
    text
}

/// "release 13.0, V13.0.88".
fn release_line(nvcc: &nvcc::Nvcc) -> String {
    let line = nvcc.version.lines().find_map(|line| line.split_once("release "));
    line.map_or_else(|| "nvcc".to_owned(), |(_, release)| format!("nvcc release {release}"))
}

/// Fails with the lines that differ; another compiler's numbers are not comparable.
fn compare(committed: &str, current: &str) -> Result<()> {
    if committed.is_empty() {
        bail!("there is no {TABLE}: `cargo xtask resources --bless` writes it");
    }
    let compiler = |table: &str| table.lines().next().unwrap_or_default().to_owned();
    if compiler(committed) != compiler(current) {
        println!("not compared: {TABLE} is of {}, this is {}", compiler(committed), compiler(current));
        return Ok(());
    }
    let missing = |from: &str, sign: char, other: &str| -> String {
        let lines = from.lines().filter(|line| !other.lines().any(|o| o == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    let diff = missing(committed, '-', current) + &missing(current, '+', committed);
    if !diff.is_empty() {
        bail!("the kernels differ from {TABLE} (`cargo xtask resources --bless` accepts them):\n{diff}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown() {
        let table = |registers: u32| {
            format!("nvcc release 13.0\n{}", aligned(&[vec!["k".to_owned(), registers.to_string()]]))
        };
        assert!(compare(&table(90), &table(90)).is_ok());
        let error = compare(&table(90), &table(168)).unwrap_err().to_string();
        assert!(error.contains("- k  90\n"), "{error}");
        assert!(error.contains("+ k  168"), "{error}");
        assert!(compare("", &table(90)).is_err());
    }
}
