//! Results as lines, each whole on disk before the next begins: a program that is stopped leaves all it has found.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

/// Checks, one JSON object a line on standard output.
#[derive(Default)]
pub struct Checks {
    failed: usize,
}

/// What a check found.
pub enum Finding {
    /// As it should be, with numbers worth keeping.
    Passed(Value),
    /// Not as it should be.
    Failed(Value),
    /// A question that hardware answers: neither right nor wrong.
    Data(Value),
}

impl Checks {
    /// Makes a check and prints what it found; an error is a failure.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<Finding>) {
        let (verdict, detail) = match check() {
            Ok(Finding::Passed(detail)) => ("passed", detail),
            Ok(Finding::Failed(detail)) => ("failed", detail),
            Ok(Finding::Data(detail)) => ("data", detail),
            Err(error) => ("failed", Value::String(format!("{error:#}"))),
        };
        self.failed += usize::from(verdict == "failed");
        let line = serde_json::json!({"check": name, "verdict": verdict, "detail": detail});
        // Nobody reads on: what is printed no longer matters, the exit code does.
        let _ = writeln!(io::stdout().lock(), "{line}");
    }

    /// How many failed.
    pub fn failed(&self) -> usize {
        self.failed
    }
}

/// A measured time, one line of `timings.csv`. `benches/peers` writes the same columns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// "ours", or the library.
    pub who: String,
    /// What is computed.
    pub operation: String,
    /// Its sizes.
    pub shape: String,
    /// The kernel that ran.
    pub instance: String,
    /// "current", or which edit of the kernels.
    pub variant: String,
    /// "cold" or "warm" L2.
    pub l2: String,
    /// Seconds of a run: the middle one of the replays.
    pub median_us: f64,
    /// The fastest.
    pub min_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// Of one run; 0 where memory alone counts.
    pub flops: u64,
    /// Of one run, each operand once.
    pub bytes: u64,
    /// Largest error as a part of its bound, of the run before the timing.
    pub worst: f64,
    /// The GPU.
    pub card: String,
}

/// Names of the columns.
pub const COLUMNS: [&str; 13] = [
    "who",
    "operation",
    "shape",
    "instance",
    "variant",
    "l2",
    "median_us",
    "min_us",
    "max_us",
    "flops",
    "bytes",
    "worst",
    "card",
];

impl Row {
    fn fields(&self) -> [String; 13] {
        let number = |x: f64| format!("{x:.4}");
        [
            self.who.clone(),
            self.operation.clone(),
            self.shape.clone(),
            self.instance.clone(),
            self.variant.clone(),
            self.l2.clone(),
            number(self.median_us),
            number(self.min_us),
            number(self.max_us),
            self.flops.to_string(),
            self.bytes.to_string(),
            number(self.worst),
            // The only field with words of another's choice.
            self.card.replace([',', '"', '\n'], " "),
        ]
    }

    /// What tells a row from every other.
    fn key(&self) -> String {
        self.fields()[..6].join(",")
    }
}

/// `timings.csv`, appended to.
pub struct Csv {
    file: File,
    done: HashSet<String>,
}

impl Csv {
    /// Opens a file, which gets a head if it is new. Rows that are in it, or in one of `earlier`, are done.
    ///
    /// # Errors
    /// When it cannot be read or written, or has other columns.
    pub fn open(path: &Path, earlier: &[impl AsRef<Path>]) -> Result<Self> {
        let mut done = HashSet::new();
        for file in earlier.iter().map(AsRef::as_ref).chain([path]).filter(|file| file.is_file()) {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let mut lines = text.lines();
            let head = lines.next().unwrap_or_default();
            let expected = COLUMNS.join(",");
            anyhow::ensure!(
                text.is_empty() || head == expected,
                "{}: expected the columns {expected}, got {head}",
                file.display()
            );
            done.extend(lines.map(|line| line.split(',').take(6).collect::<Vec<_>>().join(",")));
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| path.display().to_string())?;
        if file.metadata()?.len() == 0 {
            writeln!(file, "{}", COLUMNS.join(","))?;
        }
        Ok(Self { file, done })
    }

    /// Whether such a row is there already, whatever its time.
    pub fn has(&self, row: &Row) -> bool {
        self.done.contains(&row.key())
    }

    /// Appends a row and sees it to the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, row: &Row) -> Result<()> {
        // One write: a line is there whole or not at all.
        self.file.write_all(format!("{}\n", row.fields().join(",")).as_bytes())?;
        match self.file.sync_data() {
            // A pipe or a device: nothing of it is on a disk.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            synced => synced?,
        }
        self.done.insert(row.key());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(shape: &str) -> Row {
        Row {
            who: "ours".to_owned(),
            operation: "fp8_gemm".to_owned(),
            shape: shape.to_owned(),
            instance: "i".to_owned(),
            variant: "current".to_owned(),
            l2: "cold".to_owned(),
            median_us: 2.0,
            min_us: 1.0,
            max_us: 3.0,
            flops: 5,
            bytes: 7,
            worst: 0.25,
            card: "GPU, \"fast\"".to_owned(),
        }
    }

    #[test]
    fn rows_are_appended_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first.csv"), folder.path().join("second.csv"));
        let none: [&Path; 0] = [];
        let mut csv = Csv::open(&first, &none).unwrap();
        assert!(!csv.has(&row("1x2")));
        csv.append(&row("1x2")).unwrap();
        assert!(csv.has(&row("1x2")) && !csv.has(&row("2x2")));
        let text = std::fs::read_to_string(&first).unwrap();
        let expected = "ours,fp8_gemm,1x2,i,current,cold,2.0000,1.0000,3.0000,5,7,0.2500,GPU   fast \n";
        assert_eq!(text, format!("{}\n{expected}", COLUMNS.join(",")));
        assert!(Csv::open(&first, &none).unwrap().has(&row("1x2")));
        assert!(Csv::open(&second, &[&first]).unwrap().has(&row("1x2")));
        std::fs::write(&first, "a,b\n").unwrap();
        let error = Csv::open(&second, &[&first]).err().unwrap().to_string();
        assert!(error.contains("expected the columns who,") && error.ends_with("got a,b"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_appended_to() {
        let none: [&Path; 0] = [];
        let mut csv = Csv::open(Path::new("/dev/null"), &none).unwrap();
        csv.append(&row("1x2")).unwrap();
        let error = Csv::open(Path::new("/dev/full"), &none).err().unwrap().to_string();
        assert!(error.contains("No space left"), "{error}");
    }

    #[test]
    fn failures_are_counted() {
        let mut checks = Checks::default();
        checks.check("a", || Ok(Finding::Passed(Value::Null)));
        checks.check("b", || Ok(Finding::Data(Value::Null)));
        checks.check("c", || Ok(Finding::Failed(Value::Null)));
        checks.check("d", || anyhow::bail!("no"));
        assert_eq!(checks.failed(), 2);
    }
}
