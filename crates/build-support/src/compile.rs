//! Running compilers: in parallel, and only when something they read has changed.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// One output to make.
pub type Task = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// Runs the tasks on `threads` threads. All run even when one fails; the error joins their messages.
pub fn in_parallel(tasks: Vec<Task>, threads: usize) -> Result<(), String> {
    let queue = Mutex::new(tasks.into_iter());
    let next = || queue.lock().ok().and_then(|mut tasks| tasks.next());
    let work = || -> Vec<String> { std::iter::from_fn(next).filter_map(|task| task().err()).collect() };
    let errors: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|_| vec!["a task panicked".to_owned()]))
            .collect()
    });
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n\n")) }
}

/// The program and its arguments, without the environment that some commands spell out.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command and returns what it wrote to stderr; fails with the command line and all its output.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", line(command)))?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(stderr);
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    Err(format!("{}: {}\n{stdout}{stderr}", line(command), output.status))
}

/// Calls `make` unless `output` was made from the same bytes by the same commands.
///
/// `recipe` is everything besides files that decides the output: command lines and the compiler's version. The files
/// come from `depfile`, a makefile rule that the compiler writes during `make`. The key lies beside the output.
pub(crate) fn unless_made(
    output: &Path,
    depfile: &Path,
    recipe: &str,
    make: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let stamp = output.with_added_extension("key");
    let made = output.is_file()
        && key(recipe, depfile).is_some_and(|key| fs::read_to_string(&stamp).is_ok_and(|old| old == key));
    if made {
        return Ok(());
    }
    make()?;
    let key = key(recipe, depfile).ok_or_else(|| format!("the compiler left no {}", depfile.display()))?;
    fs::write(&stamp, key).map_err(|error| format!("{}: {error}", stamp.display()))
}

/// A fingerprint of the recipe and of every file the depfile names; `None` when one is missing.
fn key(recipe: &str, depfile: &Path) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    for file in prerequisites(&fs::read_to_string(depfile).ok()?) {
        file.hash(&mut hasher);
        fs::read(&file).ok()?.hash(&mut hasher);
    }
    Some(format!("{:016x}", hasher.finish()))
}

/// The files right of the colon in a makefile rule. A backslash escapes a space, or joins two lines.
fn prerequisites(rule: &str) -> Vec<PathBuf> {
    let joined = rule.replace("\\\r\n", " ").replace("\\\n", " ");
    let list = joined.split_once(": ").map_or("", |(_, list)| list);
    let mut files = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.next_if_eq(&' ').is_some() => files.last_mut().unwrap().push(' '),
            c if c.is_whitespace() => files.push(String::new()),
            c => files.last_mut().unwrap().push(c),
        }
    }
    files.into_iter().filter(|file| !file.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prerequisites_survive_line_ends_and_spaces() {
        let rule = "out.ptx : a.cu \\\n  /with\\ space/b.h \\\r\n    c.h\n";
        assert_eq!(prerequisites(rule), ["a.cu", "/with space/b.h", "c.h"].map(PathBuf::from));
    }

    #[test]
    fn a_changed_header_recipe_or_lost_output_makes_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.h"), "1").unwrap();
        let makes = |recipe: &str| {
            let mut made = false;
            unless_made(&path("a.o"), &path("a.d"), recipe, || {
                made = true;
                fs::write(path("a.o"), "").unwrap();
                fs::write(path("a.d"), format!("a.o: {}", path("a.h").display())).unwrap();
                Ok(())
            })
            .unwrap();
            made
        };
        assert!(makes("cc -O1"));
        assert!(!makes("cc -O1"));
        assert!(makes("cc -O2"));
        fs::write(path("a.h"), "2").unwrap();
        assert!(makes("cc -O2"));
        fs::remove_file(path("a.o")).unwrap();
        assert!(makes("cc -O2"));
        assert!(!makes("cc -O2"));
    }

    #[test]
    fn a_failure_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (output, depfile) = (folder.path().join("a.o"), folder.path().join("a.d"));
        for _ in 0..2 {
            let made = unless_made(&output, &depfile, "", || {
                fs::write(&output, "").unwrap();
                fs::write(&depfile, "a.o: ").unwrap();
                Err("spills".to_owned())
            });
            assert_eq!(made, Err("spills".to_owned()));
        }
    }

    #[test]
    fn every_error_is_reported() {
        let fail = |text: &'static str| -> Task { Box::new(move || Err(text.to_owned())) };
        let error = in_parallel(vec![fail("first"), Box::new(|| Ok(())), fail("second")], 2).unwrap_err();
        assert!(error.contains("first") && error.contains("second"), "{error}");
        assert_eq!(in_parallel(Vec::new(), 1), Ok(()));
    }
}
