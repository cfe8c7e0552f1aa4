//! Single instructions against what the emulated Hopper and the bit model believe of them. A difference is data, not a
//! failure: it says which belief is wrong. Every question has a process of its own: a launch that the GPU refuses, or that
//! hangs, costs one answer.

use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use check::cli;
use check::escape::escaped;
use check::probes::Effort;
use check::probes::Findings;
use check::probes::catalogue::{ENTRIES, Entry};
use check::probes::tma::{Model, NO_SUCH_PAGES};
use clap::Parser;
use deepseek_kernels::Device;
use deepseek_kernels_hardware::processes::{Ended, run_all};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about = "Asks a GPU about single instructions; a JSON object a line")]
struct Arguments {
    /// Only probes whose name begins with this
    #[arg(long)]
    only: Option<String>,
    /// Prints names and beliefs
    #[arg(long)]
    list: bool,
    /// Fewer values, as a rehearsal takes them
    #[arg(long)]
    reduced: bool,
    /// Instead: single launches that a GPU may refuse, which ends their process
    #[arg(long)]
    alone: bool,
    /// Processes at a time
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// Seconds that a process has
    #[arg(long, default_value_t = 45)]
    limit: u64,
    /// In such a process: the number of its question
    #[arg(long, hide = true)]
    ask: Option<usize>,
}

type Ask = dyn Fn(&Device, Effort) -> Result<Findings, String> + Sync;

/// What one process asks.
struct Question {
    /// The name, under which `--only` finds it.
    probe: String,
    /// What a line says besides its answer.
    about: Vec<(&'static str, Value)>,
    ask: Box<Ask>,
}

impl Question {
    fn line(&self, answer: &Value) -> Value {
        let mut line = json!({"probe": self.probe, "answer": answer});
        self.about.iter().for_each(|(name, value)| line[name] = value.clone());
        line
    }
}

fn main() -> ExitCode {
    let arguments = cli::parse::<Arguments>();
    let questions = if arguments.alone { launches() } else { entries() };
    let outcome = match arguments.ask {
        Some(index) => ask(&questions, index, &arguments),
        None => ask_all(&questions, &arguments),
    };
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{failed} probes could not be asked");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {}", escaped(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// What the catalogue asks.
fn entries() -> Vec<Question> {
    let question = |entry: &'static Entry| Question {
        probe: entry.name.to_owned(),
        about: vec![("belief", entry.belief.into()), ("relied_on", entry.relied_on.into())],
        ask: Box::new(|device, effort| (entry.run)(device, effort).map_err(|error| error.to_string())),
    };
    ENTRIES.iter().map(question).collect()
}

/// Boxes of TMA, what is least known first: stores across every border; pages that there are not, one at a time; stores that
/// start before the tensor and boxes that start off 16 bytes, which an H100 refuses.
fn launches() -> Vec<Question> {
    let paged = Model::paged();
    let mut all = Vec::new();
    for model in Model::all() {
        all.push(launch("tma/border", &model, model.coordinates_of_stores(), false));
    }
    let pages = NO_SUCH_PAGES.iter();
    all.extend(
        pages.flat_map(|&at| [true, false].map(|loads| launch("tma/no_such_page", &paged, vec![at], loads))),
    );
    for model in Model::all() {
        let before = model.negative_coordinates();
        all.extend(before.into_iter().map(|at| launch("tma/negative", &model, vec![at], false)));
    }
    for model in Model::all() {
        let starts = model.misaligned_coordinates();
        let both = |at| [true, false].map(|loads| launch("tma/start", &model, vec![at], loads));
        all.extend(starts.into_iter().flat_map(both));
    }
    all
}

/// A launch for each place, up to the first that is refused.
fn launch(topic: &str, model: &Model, places: Vec<[i32; 3]>, loads: bool) -> Question {
    let model = model.clone();
    let inputs = match places[..] {
        [at] => format!("{} at {at:?}", model.name()),
        _ => format!("{} at {} places", model.name(), places.len()),
    };
    Question {
        probe: format!("{topic}/{}", if loads { "load" } else { "store" }),
        about: vec![("inputs", inputs.into())],
        ask: Box::new(move |device, _| {
            Findings::all(places.iter().map(|&at| {
                let answer =
                    if loads { model.check_loads(device, &[at]) } else { model.check_stores(device, &[at]) };
                answer.map_err(|error| format!("at {at:?}: {error}"))
            }))
        }),
    }
}

/// Asks one, in this process. A launch that may be refused has been answered when it was.
fn ask(questions: &[Question], index: usize, arguments: &Arguments) -> Result<usize> {
    let question = questions.get(index).context("there is no such question")?;
    let effort = if arguments.reduced { Effort::Quick } else { Effort::Full };
    let (answer, failed) = match (question.ask)(&Device::open_gpu(0)?, effort) {
        Ok(findings) => (findings_json(&findings), 0),
        Err(error) => (json!({"error": error}), usize::from(!arguments.alone)),
    };
    println!("{}", question.line(&answer));
    Ok(failed)
}

/// The number of questions whose process did not end well.
fn ask_all(questions: &[Question], arguments: &Arguments) -> Result<usize> {
    let wanted = |question: &Question| {
        arguments.only.as_ref().is_none_or(|only| question.probe.starts_with(only.as_str()))
    };
    let questions: Vec<_> = questions.iter().enumerate().filter(|(_, question)| wanted(question)).collect();
    if arguments.list {
        for (_, Question { probe, about, .. }) in questions {
            println!("{probe}: {}", about[0].1.as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    let program = std::env::current_exe()?;
    let commands = questions.into_iter().map(|(index, question)| {
        let mut command = Command::new(&program);
        command.args(["--ask", &index.to_string()]);
        command.args(arguments.alone.then_some("--alone")).args(arguments.reduced.then_some("--reduced"));
        (question, command)
    });
    let mut failed = 0;
    run_all(commands, arguments.at_once, Duration::from_secs(arguments.limit), |question, outcome| {
        let (line, well) = told(question, outcome);
        failed += usize::from(!well);
        // Nobody reads on: what is printed no longer matters, the exit code does.
        let _ = writeln!(io::stdout().lock(), "{line}");
    });
    Ok(failed)
}

/// The line of a question, and whether its process ended well.
fn told(question: &Question, outcome: io::Result<Ended>) -> (Value, bool) {
    let silence = |why: String| (question.line(&json!({"error": why})), false);
    match outcome {
        Err(error) => silence(format!("no process: {error}")),
        Ok(Ended { printed, status }) => match (serde_json::from_str(&printed), status) {
            (Ok(line), status) => (line, status.is_some_and(|status| status.success())),
            (Err(_), Some(status)) => silence(format!("the process ended without an answer, with {status}")),
            (Err(_), None) => silence("the process took too long".to_owned()),
        },
    }
}

fn findings_json(findings: &Findings) -> Value {
    let first: Vec<Value> = findings
        .first
        .iter()
        .map(|difference| json!({"inputs": difference.inputs, "expected": difference.expected, "got": difference.got}))
        .collect();
    json!({"checked": findings.checked, "different": findings.different, "first": first})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that did not answer leaves a line all the same, and one that answered and then failed both.
    #[test]
    fn every_question_has_a_line() {
        let questions = launches();
        let a_page = |question: &&Question| question.probe == "tma/no_such_page/load";
        let question = questions.iter().find(a_page).expect("the question");
        let ended = |printed: &str, status| Ok(Ended { printed: printed.to_owned(), status });
        let (line, well) = told(question, ended("", None));
        assert_eq!((line["answer"]["error"].as_str(), well), (Some("the process took too long"), false));
        assert_eq!(line["probe"], "tma/no_such_page/load");
        assert!(line["inputs"].as_str().unwrap().ends_with("at [0, 0, -1]"), "{line}");
        let (line, well) = told(question, Err(io::ErrorKind::NotFound.into()));
        assert!(line["answer"]["error"].as_str().unwrap().starts_with("no process: ") && !well, "{line}");
        let (line, well) = told(question, ended("{\"answer\": 7}\n", None));
        assert_eq!((line, well), (json!({"answer": 7}), false));
    }

    #[test]
    fn launches_are_told_apart() {
        let mut told: Vec<String> =
            launches().iter().map(|launch| launch.line(&Value::Null).to_string()).collect();
        let all = told.len();
        // Stores across borders; pages; before ten tensors of rank two and three of rank three; off 16 bytes.
        assert_eq!(all, 13 + 2 * 5 + 2 * (10 * 2 + 3 * 3) + 2 * 5 * 13);
        told.sort();
        told.dedup();
        assert_eq!(told.len(), all);
    }
}
