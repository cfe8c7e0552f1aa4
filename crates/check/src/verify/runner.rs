//! Runs jobs on all devices of a machine.

use std::cmp::Reverse;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use deepseek_kernels::Device;
use indicatif::{ProgressBar, ProgressStyle};

use super::report::{Row, Unused};

/// Work that is independent of all other work.
pub trait Job: Sync {
    /// For the progress bar.
    fn label(&self) -> String;
    /// Rough amount of work: long jobs start first.
    fn cost(&self) -> u128;
    fn run(&self, device: &Device) -> Outcome;
}

/// What a job found.
pub enum Outcome {
    Rows(Vec<Row>),
    /// A tensor turned out to be unusable.
    Unused(Unused),
}

/// Runs everything, each device in a thread of its own; the outcomes in the order of the jobs.
pub fn run(jobs: &[Box<dyn Job>], devices: &[Device]) -> Vec<Outcome> {
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|&index| Reverse(jobs[index].cost()));
    let outcomes: Vec<OnceLock<Outcome>> = jobs.iter().map(|_| OnceLock::new()).collect();
    let progress = Progress::new(jobs.len());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for device in devices {
            scope.spawn(|| {
                while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    progress.bar.set_message(jobs[index].label());
                    outcomes[index].get_or_init(|| jobs[index].run(device));
                    progress.tell();
                }
            });
        }
    });
    progress.bar.finish_and_clear();
    outcomes.into_iter().filter_map(OnceLock::into_inner).collect()
}

/// Where no terminal shows a bar: seconds between lines that say how far the work is.
const SILENCE: u64 = 10;

/// How far the work is: a bar on a terminal, elsewhere a line every few seconds.
struct Progress {
    bar: ProgressBar,
    jobs: usize,
    done: AtomicUsize,
    /// When the last line was written, in seconds.
    told: AtomicU64,
}

impl Progress {
    fn new(jobs: usize) -> Self {
        Self { bar: progress_bar(jobs), jobs, done: AtomicUsize::new(0), told: AtomicU64::new(0) }
    }

    /// One more job is done.
    fn tell(&self) {
        self.bar.inc(1);
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let (told, now) = (self.told.load(Ordering::Relaxed), self.bar.elapsed().as_secs());
        let due = self.bar.is_hidden() && now >= told + SILENCE;
        // Of threads that find it due at once, one writes.
        if due && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            eprintln!("{done} of {} jobs done in {now} s", self.jobs);
        }
    }
}

/// On stderr, hidden unless that is a terminal.
fn progress_bar(jobs: usize) -> ProgressBar {
    let bar = ProgressBar::new(jobs as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}
