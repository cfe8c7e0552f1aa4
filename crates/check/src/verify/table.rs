//! The report as text.

use super::report::{Report, Row, Unused, matrix_name};
use crate::escape::shortened;
use crate::judge::Check;
use crate::text_table::{empty, right_align};

/// Tables, notes, failures and the count.
pub fn render(report: &Report) -> String {
    let mut parts = Vec::new();
    if report.rows.iter().any(|row| row.matrix.is_some()) {
        parts.push(matrices(report));
    } else if !report.rows.is_empty() {
        parts.push(operations(report));
    }
    if !report.unused.is_empty() {
        parts.push(unused(report));
    }
    parts
        .extend(report.rows.iter().flat_map(|row| row.checks.iter().filter_map(|check| failure(row, check))));
    parts.push(format!("{} checks passed, {} failed", report.passed, report.failed));
    if report.fp8_matrices > 0 {
        parts.push(format!("{} of {} FP8 matrices checked", report.fp8_checked, report.fp8_matrices));
    }
    parts.join("\n") + "\n"
}

/// Characters of a name that a table shows, and of a reason or a failure, which may hold names.
const NAME: usize = 40;
const SENTENCE: usize = 300;

const LEGEND: &str = "RxC: judged on R rows x C columns spread over D, else on all of it\n\
                      time: of the one launch, on the emulator; `cargo bench` measures a GPU";

fn operations(report: &Report) -> String {
    let mut table = empty(&["operation", "shape", "instance", "data", "oracle", "worst", "time"]);
    for row in &report.rows {
        table.add_row([
            row.operation.as_str(),
            &row.shape,
            &row.instance,
            &row.data,
            &oracles(&row.checks),
            &worst(&row.checks),
            &time(row.seconds),
        ]);
    }
    right_align(&mut table, &[5, 6]);
    format!("{table}\nworst: largest |error| / bound; 0 where bits must be equal\n{LEGEND}")
}

fn matrices(report: &Report) -> String {
    let titles =
        ["tensor", "dtype", "m x n x k", "instance", "oracle", "kernel error", "FP8 error", "time", "note"];
    let mut table = empty(&titles);
    for (row, matrix) in report.rows.iter().filter_map(|row| Some((row, row.matrix.as_ref()?))) {
        table.add_row([
            shortened(&matrix_name(&matrix.tensor, matrix.expert), NAME).as_str(),
            &matrix.dtype,
            &row.shape,
            &row.instance,
            &oracles(&row.checks),
            &worst(&row.checks),
            &matrix.quantisation_error.map_or("-".to_owned(), |error| format!("{:.2} %", 100.0 * error)),
            &time(row.seconds),
            &shortened(matrix.note.as_deref().unwrap_or_default(), SENTENCE),
        ]);
    }
    right_align(&mut table, &[5, 6, 7]);
    let errors = "kernel error: largest |error| / bound against the f64 product of the quantised operands\n\
                  FP8 error: relative RMS of that product against the f64 product of the originals";
    format!("{table}\n{errors}\n{LEGEND}")
}

fn unused(report: &Report) -> String {
    let mut table = empty(&["not used", "dtype", "shape", "reason"]);
    for tensor in &report.unused {
        table.add_row([
            &shortened(&stack_name(tensor), NAME),
            &tensor.dtype,
            &shortened(&format!("{:?}", tensor.shape), NAME),
            &shortened(&tensor.reason, SENTENCE),
        ]);
    }
    table.to_string()
}

/// The tensor, with the matrices of a stack that are meant.
fn stack_name(unused: &Unused) -> String {
    match unused.experts[..] {
        [] => unused.tensor.clone(),
        [expert] => matrix_name(&unused.tensor, Some(expert)),
        [first, ..] => format!("{}[{first}, ...], {} of them", unused.tensor, unused.experts.len()),
    }
}

fn oracles(checks: &[Check]) -> String {
    let name = |check: &Check| match check.sample {
        Some([rows, columns]) => format!("{} {rows}x{columns}", check.oracle),
        None => check.oracle.to_owned(),
    };
    checks.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn worst(checks: &[Check]) -> String {
    if checks.iter().any(|check| check.failure.is_some()) {
        return "FAILED".to_owned();
    }
    let worst = checks.iter().filter_map(|check| check.worst).fold(0.0, f64::max);
    if worst == 0.0 { "0".to_owned() } else { format!("{worst:.3}") }
}

fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(s) if s >= 1.0 => format!("{s:.2} s"),
        Some(s) if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        Some(s) => format!("{:.1} us", s * 1e6),
    }
}

fn failure(row: &Row, check: &Check) -> Option<String> {
    let failure = check.failure.as_ref()?;
    let name = row
        .matrix
        .as_ref()
        .map_or(row.operation.clone(), |matrix| shortened(&matrix_name(&matrix.tensor, matrix.expert), NAME));
    let failure = shortened(failure, SENTENCE);
    Some(format!(
        "FAILED {name}, {} {} on {}, {}: {failure}",
        row.shape, row.instance, row.data, check.oracle
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::verify::report::DeviceReport;

    #[test]
    fn a_failure_shows_in_its_row_and_is_told_and_counted() {
        let mut report = Report {
            package: "",
            version: "",
            device: DeviceReport { name: "a Hopper".to_owned(), kind: "emulated", multiprocessors: 8 },
            seed: 0,
            notes: Vec::new(),
            rows: vec![Row {
                operation: "FP8 GEMM".to_owned(),
                shape: "1 x 8 x 128".to_owned(),
                instance: "fp8_gemm_x".to_owned(),
                data: "Integers".to_owned(),
                checks: vec![
                    Check::equal("written", 8, None),
                    Check::equal("exact", 8, Some("d[0, 3]: expected 1e0, got 2e0".to_owned())),
                ],
                seconds: Some(0.5),
                matrix: None,
            }],
            unused: Vec::new(),
            passed: 0,
            failed: 0,
            fp8_matrices: 0,
            fp8_checked: 0,
        };
        report.count();
        let text = render(&report);
        assert!(text.contains(" written, exact "), "{text}");
        assert!(text.contains(
            "FAILED FP8 GEMM, 1 x 8 x 128 fp8_gemm_x on Integers, exact: d[0, 3]: expected 1e0, got 2e0\n"
        ));
        assert!(text.ends_with("1 checks passed, 1 failed\n"), "{text}");
    }
}
