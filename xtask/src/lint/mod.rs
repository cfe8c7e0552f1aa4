//! The rules of the house (docs/architecture.md) that a program can check.

mod families;
mod hygiene;
mod kernels;
mod operations;
mod seam;
mod size;
mod source;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process;
#[cfg(feature = "bindings")]
pub use families::FAMILIES;
use source::Source;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl Finding {
    fn new(source: &Source, line: usize, message: impl Into<String>) -> Self {
        Self { path: source.path.clone(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { path, line, message } = self;
        if *line == 0 { write!(f, "{path}: {message}") } else { write!(f, "{path}:{line}: {message}") }
    }
}

/// Checks every file that git tracks or would track; prints what is wrong.
pub fn run(root: &Path) -> Result<()> {
    let sources = read_sources(root)?;
    let mut findings = check(&sources);
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} rules of the house are broken", findings.len());
    }
    println!("{} files keep the rules of the house", sources.len());
    Ok(())
}

fn check(sources: &[Source]) -> Vec<Finding> {
    [families::check, kernels::check, operations::check, seam::check, size::check, hygiene::check]
        .iter()
        .flat_map(|rule| rule(sources))
        .collect()
}

fn read_sources(root: &Path) -> Result<Vec<Source>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = process::read(&mut git)?;
    let mut sources = Vec::new();
    for path in list.split_terminator('\0') {
        let file = root.join(path);
        // A file that was deleted but not yet committed is still listed.
        if file.is_file() {
            let bytes = fs::read(&file).with_context(|| path.to_owned())?;
            sources.extend(String::from_utf8(bytes).ok().map(|text| Source::new(path, &text)));
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of one rule about one file.
    pub fn messages(rule: fn(&[Source]) -> Vec<Finding>, path: &str, text: &str) -> Vec<String> {
        rule(&[Source::new(path, text)]).into_iter().map(|finding| finding.to_string()).collect()
    }
}
