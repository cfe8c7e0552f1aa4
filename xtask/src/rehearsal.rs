//! The run on a GPU host, rehearsed: the archive, unpacked where the repository is not, under the fake driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{bundle, process};

/// Seconds that the run is given.
const DEADLINE: &str = "60";
/// What comes back from a GPU host at most.
const MAX_FILES: usize = 7;
/// Steps that a rehearsal must pass; the others may want a tool or time.
const MUST_PASS: [&str; 4] = ["machine", "smoke", "ptx_mbarrier", "timings"];

/// Fails unless the run passes and leaves whole files that parse, and a second run continues the first.
pub fn run(root: &Path) -> Result<()> {
    let place = tempfile::tempdir()?;
    let [first, second] = ["first", "second"].map(|out| place.path().join(out));
    for out in [&first, &second] {
        fs::create_dir(out)?;
    }
    process::run(
        Command::new("tar").arg("-xJf").arg(root.join(bundle::ARCHIVE)).arg("-C").arg(place.path()),
    )?;
    let host = place.path().join("hardware");
    let driver = write_driver(&host)?;
    let begin = Instant::now();
    start(&host, &driver, &first, None)?;
    let passed = check_results(&first, &MUST_PASS)?;
    println!("rehearsed in {:.1} s: {} steps passed", begin.elapsed().as_secs_f64(), passed.len());

    start(&host, &driver, &second, Some(&first))?;
    let again = check_results(&second, &[])?;
    let twice: Vec<_> = again.iter().filter(|name| passed.contains(name)).collect();
    ensure!(twice.is_empty(), "the second run repeated {twice:?}");
    Ok(())
}

/// The library that the program in the archive carries.
fn write_driver(host: &Path) -> Result<PathBuf> {
    let folder = host.join("driver");
    fs::create_dir(&folder)?;
    process::run(Command::new(host.join("bin/deepseek-kernels")).args(["driver", "--into"]).arg(&folder))?;
    Ok(folder)
}

/// One call of the script; what its steps printed is shown when one failed.
fn start(host: &Path, driver: &Path, out: &Path, earlier: Option<&Path>) -> Result<()> {
    let mut script = Command::new(host.join("run.sh"));
    script.arg(DEADLINE).arg(out).args(earlier).current_dir("/");
    // Nothing of this machine but its tools: no toolkit, no cargo.
    script.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("REHEARSAL", "1");
    // An error of the driver that nobody expected, and what is still alive at the end, fail a program.
    let outcome = process::run(script.env("LD_LIBRARY_PATH", driver).env("FAKE_CUDA_STRICT", "1"));
    if outcome.is_err() {
        print!("{}", fs::read_to_string(out.join("log.txt")).unwrap_or_default());
    }
    outcome
}

/// The names of the steps that passed.
fn check_results(out: &Path, must_pass: &[&str]) -> Result<Vec<String>> {
    let entries = fs::read_dir(out)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    ensure!(entries.len() <= MAX_FILES, "expected at most {MAX_FILES} files, got {entries:?}");
    ensure!(entries.iter().all(|path| path.is_file()), "expected files only, got {entries:?}");
    let mut passed = Vec::new();
    let mut text = String::new();
    for path in entries.iter().filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
    {
        let lines = fs::read_to_string(path)?;
        for line in lines.lines() {
            let value: Value =
                serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))?;
            if value["exit"] == 0 {
                passed.extend(value["name"].as_str().map(str::to_owned));
            }
        }
        text += &lines;
    }
    for name in must_pass {
        ensure!(passed.iter().any(|passed| passed == name), "{name} did not pass:\n{text}");
    }
    let csv = out.join("timings.csv");
    if csv.exists() {
        check_csv(&fs::read_to_string(csv)?)?;
    }
    process::run(
        Command::new("tar").arg("-tzf").arg(out.join("results.tar.gz")).stdout(std::process::Stdio::null()),
    )?;
    Ok(passed)
}

/// Every line has as many fields as the head.
fn check_csv(text: &str) -> Result<()> {
    let fields = |line: &str| line.split(',').count();
    let head = text.lines().next().context("timings.csv is empty")?;
    let odd = text.lines().find(|line| fields(line) != fields(head));
    ensure!(
        odd.is_none() && text.ends_with('\n'),
        "timings.csv: expected {} fields, got {odd:?}",
        fields(head)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_results_are_found() {
        assert!(check_csv("a,b\n1,2\n").is_ok());
        assert!(check_csv("a,b\n1,2\n3").is_err());
        assert!(check_csv("").is_err());
        let out = tempfile::tempdir().unwrap();
        fs::write(out.path().join("summary.ndjson"), "{\"name\": \"smoke\", \"exit\": 1}\n").unwrap();
        let error = check_results(out.path(), &["smoke"]).unwrap_err().to_string();
        assert!(error.starts_with("smoke did not pass"), "{error}");
        fs::write(out.path().join("summary.ndjson"), "{\"name\": \"smo").unwrap();
        assert!(check_results(out.path(), &[]).is_err());
    }
}
