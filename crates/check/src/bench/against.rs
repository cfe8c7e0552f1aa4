//! Another revision of the repository, built and measured by turns with this program.

use std::env;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::args::BenchArgs;
use super::record::{Record, Row};

/// Ours and the other one's run. Both programs take turns, so that what changes slowly in the machine changes both alike.
///
/// # Errors
/// In one line: no repository, no such revision, one that does not build or has no `bench`.
pub fn by_turns(args: &BenchArgs, revision: &str) -> Result<(Record, Record), String> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let other = build(root, revision)?;
    let this = env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let words = words(args);
    let folder = tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?;
    let mut records: [Option<Record>; 2] = [None, None];
    for turn in 0..args.turns {
        // Whoever comes first finds a cooler machine: they change places.
        let mut order = [0, 1];
        order.rotate_left(turn as usize % 2);
        for who in order {
            let file = folder.path().join("turn.json");
            once([&this, &other][who], &words, &file)?;
            let taken = Record::read(&file)?;
            match &mut records[who] {
                None => records[who] = Some(taken),
                Some(record) => add(record, taken),
            }
        }
    }
    let [Some(mut new), Some(old)] = records else { return Err("no turn was taken".to_owned()) };
    new.command = env::args().skip(1).collect();
    Ok((new, old))
}

/// The program of a revision, built in a work tree of its own below `target`, which stays for the next time.
fn build(root: &Path, revision: &str) -> Result<PathBuf, String> {
    let commit = format!("{revision}^{{commit}}");
    let found =
        git(root, &["rev-parse", "--verify", "--quiet", "--end-of-options", &commit]).map_err(|_| {
            format!("no revision is called {revision} in the repository that this program was built from")
        })?;
    let tree = root.join("target/against").join(&found);
    if !tree.join("Cargo.toml").is_file() {
        let path = tree.to_str().ok_or("the repository's path is no text")?;
        git(root, &["worktree", "prune"])?;
        git(root, &["worktree", "add", "--detach", "--force", path, &found])?;
    }
    let target = root.join("target/against/target");
    eprintln!("building {revision}, {found}");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--bin=deepseek-kernels"]).arg("--target-dir").arg(&target);
    // The pinned compiler of the GPU's kernels lies in the checkout.
    let [from, toolkit] = [root, &tree].map(|folder| folder.join("toolkit"));
    if !toolkit.exists() && from.exists() {
        symlink(&from, &toolkit).map_err(|error| format!("{}: {error}", toolkit.display()))?;
    }
    let built = cargo.current_dir(&tree).stdout(Stdio::null()).status();
    match built {
        Ok(status) if status.success() => Ok(target.join("release/deepseek-kernels")),
        Ok(status) => Err(format!("{revision} does not build: {status}")),
        Err(error) => Err(format!("cargo: {error}")),
    }
}

fn git(root: &Path, words: &[&str]) -> Result<String, String> {
    let output = Command::new("git").arg("-C").arg(root).args(words).output();
    let output = output.map_err(|error| format!("git: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git {}: {}", words[0], said.lines().next().unwrap_or("it failed")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What both programs are told.
fn words(args: &BenchArgs) -> Vec<String> {
    use clap::ValueEnum;

    let device = args.device.to_possible_value().map(|value| value.get_name().to_owned());
    let mut words = vec!["bench".to_owned()];
    let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    device.into_iter().for_each(|device| option("device", device));
    args.list.iter().for_each(|list| option("list", list.clone()));
    args.selection.op.iter().for_each(|op| option("op", op.clone()));
    args.selection.shape.iter().for_each(|shape| option("shape", shape.clone()));
    option("budget", (args.budget / (2 * u64::from(args.turns))).max(1).to_string());
    words
}

fn once(program: &Path, words: &[String], file: &Path) -> Result<(), String> {
    let run = Command::new(program).args(words).arg("--json").arg(file).stdout(Stdio::null()).status();
    let shown = program.display();
    match run {
        // 1: a kernel is wrong, which its row says.
        Ok(status) if matches!(status.code(), Some(0 | 1)) => Ok(()),
        Ok(status) => Err(format!("{shown} bench: {status}")),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

/// The samples of one turn more; a failure stays one.
fn add(record: &mut Record, turn: Record) {
    if let (Some(control), Some(again)) = (&mut record.control, &turn.control) {
        control.noise = control.noise.max(again.noise);
    }
    for row in turn.rows {
        if let Some(known) =
            record.rows.iter_mut().find(|known| known.name == row.name && known.who == row.who)
        {
            merge(known, row);
        }
    }
}

fn merge(known: &mut Row, row: Row) {
    known.failure = known.failure.take().or(row.failure);
    for (what, timing) in row.times {
        if let Some(known) = known.times.get_mut(&what) {
            known.seconds.extend(timing.seconds);
            known.disturbed |= timing.disturbed;
        }
    }
}
