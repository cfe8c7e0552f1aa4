//! How far the work is, and how long it will take: on standard error, by rates measured in this run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::runner::Job;
use crate::escape::shortened;

/// Between lines where no terminal shows a bar; what takes less is not foretold.
const SILENCE: Duration = Duration::from_secs(10);

/// A part of all work: a job that takes no more is short.
const SHORT: u128 = 64;

/// Characters of a job's name.
const LABEL: usize = 100;

/// A bar on a terminal, lines elsewhere.
pub struct Progress {
    bar: ProgressBar,
    jobs: usize,
    /// Of all jobs.
    cost: u128,
    start: Instant,
    done: AtomicUsize,
    done_cost: Mutex<u128>,
}

impl Progress {
    pub fn new(cost: u128, jobs: usize) -> Self {
        let bar = ProgressBar::new(jobs as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_secs(1));
        let (done, done_cost) = (AtomicUsize::new(0), Mutex::new(0));
        Self { bar, jobs, cost, start: Instant::now(), done, done_cost }
    }

    /// Whether a job takes a small part of all the work.
    pub fn is_short(&self, job: &dyn Job) -> bool {
        job.cost() <= self.cost / SHORT
    }

    pub fn start(&self, job: &dyn Job) {
        self.bar.set_message(shortened(&job.label(), LABEL));
    }

    pub fn finish(&self, job: &dyn Job) {
        self.bar.inc(1);
        self.done.fetch_add(1, Ordering::Relaxed);
        *self.done_cost.lock().unwrap_or_else(PoisonError::into_inner) += job.cost();
    }

    /// Says how long the rest will take on so many threads, if what is done went at the rate of the rest.
    pub fn foretell(&self, longest: u128, threads: usize) {
        let left = ((self.cost - self.done_cost()) / threads as u128).max(longest);
        let expected = self.seconds(left);
        if expected >= SILENCE.as_secs_f64() {
            self.say(&format!(
                "{} jobs, about {} at the rate of the first one",
                self.jobs,
                rounded(expected)
            ));
        }
    }

    /// Says every few seconds how far the work is, where no bar does, until the other end is gone.
    pub fn tell_until(&self, end: Receiver<()>) {
        while end.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
            if !self.bar.is_hidden() {
                continue;
            }
            let (done, elapsed) = (self.done.load(Ordering::Relaxed), self.start.elapsed().as_secs());
            let left = self.seconds(self.cost - self.done_cost());
            let left = if done == 0 { String::new() } else { format!(", about {} left", rounded(left)) };
            self.say(&format!("{done} of {} jobs done in {elapsed} s{left}", self.jobs));
        }
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// What work of that cost takes at the rate so far.
    fn seconds(&self, cost: u128) -> f64 {
        self.start.elapsed().as_secs_f64() * (cost as f64 / self.done_cost().max(1) as f64)
    }

    fn done_cost(&self) -> u128 {
        *self.done_cost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

/// A duration that is known roughly.
fn rounded(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        s @ 0..100 => format!("{s} s"),
        s @ 100..6000 => format!("{} min", s.div_ceil(60)),
        s => format!("{} h", s.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_units_that_fit() {
        let said = [0.2, 99.0, 100.0, 5999.0, 6001.0, 1e6].map(rounded);
        assert_eq!(said, ["1 s", "99 s", "2 min", "100 min", "2 h", "278 h"]);
    }
}
