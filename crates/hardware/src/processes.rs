//! Many processes, some at a time: one that dies or hangs takes nothing along but itself.

use std::io::{self, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// What it had printed until then.
    pub printed: String,
    /// None: it was ended, having taken too long.
    pub status: Option<ExitStatus>,
}

/// Runs every command, `at_once` at a time, none longer than `limit`, and tells how each ended, in the order in which they
/// end. What they print waits in a pipe meanwhile: a line or two fit.
pub fn run_all<T: Send>(
    commands: impl Iterator<Item = (T, Command)> + Send,
    at_once: usize,
    limit: Duration,
    ended: impl FnMut(T, io::Result<Ended>) + Send,
) {
    let commands = Mutex::new(commands);
    let ended = Mutex::new(ended);
    let next = || commands.lock().expect("no thread panics").next();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some((what, command)) = next() {
                    let outcome = run(command, limit);
                    ended.lock().expect("no thread panics")(what, outcome);
                }
            });
        }
    });
}

fn run(mut command: Command, limit: Duration) -> io::Result<Ended> {
    const POLL: Duration = Duration::from_millis(2);
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if begin.elapsed() < limit => thread::sleep(POLL),
            None => {
                child.kill()?;
                child.wait()?;
                break None;
            }
        }
    };
    let mut printed = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut printed)?;
    }
    Ok(Ended { printed: String::from_utf8_lossy(&printed).into_owned(), status })
}

#[cfg(all(test, unix))]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn one_that_dies_or_hangs_takes_nothing_along() {
        let scripts = [
            ("good", "echo 1"),
            ("dies", "kill -9 $$"),
            ("dies late", "echo 2; kill -9 $$"),
            ("fails", "exit 3"),
            ("hangs", "echo 3; exec sleep 60"),
            ("last", "echo 4"),
        ];
        let commands = scripts.iter().map(|&(what, script)| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            (what, command)
        });
        let missing = ("missing", Command::new("/no/such/program"));
        let begin = Instant::now();
        let mut ends = HashMap::new();
        run_all(commands.chain([missing]), 2, Duration::from_secs(2), |what, outcome| {
            let end = outcome.map(|Ended { printed, status }| (printed, status.map(|status| status.code())));
            assert!(ends.insert(what, end.ok()).is_none(), "{what} is told once");
        });
        assert!(begin.elapsed() < Duration::from_secs(30));
        let end = |printed: &str, status| Some((printed.to_owned(), status));
        assert_eq!(ends["good"], end("1\n", Some(Some(0))));
        assert_eq!(ends["dies"], end("", Some(None)));
        assert_eq!(ends["dies late"], end("2\n", Some(None)));
        assert_eq!(ends["fails"], end("", Some(Some(3))));
        assert_eq!(ends["hangs"], end("3\n", None));
        assert_eq!(ends["last"], end("4\n", Some(Some(0))));
        assert_eq!(ends["missing"], None);
    }
}
