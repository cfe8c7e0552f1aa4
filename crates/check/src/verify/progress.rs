//! How far the work is, and how long it will take: on standard error, by rates measured in this run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::runner::Job;
use crate::escape::shortened;

/// Between lines where no terminal shows a bar; what takes less is not foretold.
pub const SILENCE: Duration = Duration::from_secs(10);

/// Work of less time says nothing of other work.
const TELLING: Duration = Duration::from_secs(1);

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
    /// Of jobs that were started, and of those that are done.
    costs: Mutex<Costs>,
}

#[derive(Clone, Copy, Default)]
struct Costs {
    started: u128,
    done: u128,
}

impl Progress {
    pub fn new(cost: u128, jobs: usize) -> Self {
        let bar = ProgressBar::new(jobs as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_secs(1));
        Self { bar, jobs, cost, start: Instant::now(), done: AtomicUsize::new(0), costs: Mutex::default() }
    }

    /// Whether a job takes a small part of all the work.
    pub fn is_short(&self, job: &dyn Job) -> bool {
        job.cost() <= self.cost / SHORT
    }

    pub fn start(&self, job: &dyn Job) {
        self.bar.set_message(shortened(&job.label(), LABEL));
        self.costs().started += job.cost();
    }

    pub fn finish(&self, job: &dyn Job) {
        self.bar.inc(1);
        self.done.fetch_add(1, Ordering::Relaxed);
        self.costs().done += job.cost();
    }

    /// Whether the work so far tells how long other work takes.
    pub fn tells(&self) -> bool {
        self.start.elapsed() >= TELLING
    }

    /// How long the rest will take on so many threads, if it goes as what is done; nothing where that is no long wait.
    pub fn forecast(&self, longest: u128, threads: usize) -> Option<String> {
        let Costs { done, .. } = *self.costs();
        let expected = self.seconds(((self.cost - done) / threads as u128).max(longest), done);
        let long = self.tells() && expected >= SILENCE.as_secs_f64();
        long.then(|| format!("{} jobs, about {} at the rate of the first", self.jobs, rounded(expected)))
    }

    /// Says from time to time how far the work is, where no bar does, until the other end is gone.
    pub fn tell_until(&self, end: Receiver<()>, silence: Duration, say: impl Fn(&str)) {
        while end.recv_timeout(silence) == Err(RecvTimeoutError::Timeout) {
            if self.bar.is_hidden() {
                say(&self.line());
            }
        }
    }

    fn line(&self) -> String {
        let (done, elapsed) = (self.done.load(Ordering::Relaxed), self.start.elapsed().as_secs());
        // What runs now is half done, as far as one can tell.
        let costs = *self.costs();
        let worked = costs.done + (costs.started - costs.done) / 2;
        let left = rounded(self.seconds(self.cost - worked, worked));
        let left = if done == 0 { String::new() } else { format!(", about {left} left") };
        format!("{done} of {} jobs done in {elapsed} s{left}", self.jobs)
    }

    /// Past the bar, where there is one.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// What work of that cost takes where so much was `worked` since the start.
    fn seconds(&self, cost: u128, worked: u128) -> f64 {
        self.start.elapsed().as_secs_f64() * (cost as f64 / worked.max(1) as f64)
    }

    fn costs(&self) -> MutexGuard<'_, Costs> {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::sync::mpsc;
    use std::thread;

    use deepseek_kernels::Device;

    use super::*;
    use crate::verify::runner::Outcome;

    struct Costs(u128);

    impl Job for Costs {
        fn label(&self) -> String {
            "a job".to_owned()
        }

        fn cost(&self) -> u128 {
            self.0
        }

        fn run(&self, _: &Device) -> Outcome {
            Outcome::Rows(Vec::new())
        }
    }

    /// Tests have no terminal.
    #[test]
    fn a_long_job_is_not_silent() {
        let progress = Progress::new(100, 3);
        let said = Mutex::new(Vec::new());
        let say = |line: &str| said.lock().unwrap().push(line.to_owned());
        let (ended, end) = mpsc::channel();
        thread::scope(|scope| {
            let (progress, say) = (&progress, &say);
            let teller = scope.spawn(move || progress.tell_until(end, Duration::from_millis(1), say));
            progress.start(&Costs(90));
            while said.lock().unwrap().is_empty() {
                thread::yield_now();
            }
            drop(ended);
            teller.join().unwrap();
        });
        assert_eq!(said.lock().unwrap()[0], "0 of 3 jobs done in 0 s");
    }

    #[test]
    fn the_first_job_tells_how_long_the_others_take() {
        let mut progress = Progress::new(1 << 20, 9);
        assert!(progress.is_short(&Costs(1 << 14)) && !progress.is_short(&Costs((1 << 14) + 1)));
        progress.start = Instant::now() - Duration::from_secs(2);
        progress.start(&Costs(1 << 14));
        progress.finish(&Costs(1 << 14));
        // 63 times as much is left, for two; but one job is more than half of it.
        let forecast = progress.forecast(0, 2).unwrap();
        assert_eq!(forecast, "9 jobs, about 64 s at the rate of the first");
        assert!(progress.forecast(40 << 14, 2).unwrap().contains("about 81 s"));
        assert!(progress.line().starts_with("1 of 9 jobs done in 2 s, about "), "{}", progress.line());
        progress.start = Instant::now();
        assert_eq!(progress.forecast(0, 2), None);
    }

    #[test]
    fn durations_are_said_in_units_that_fit() {
        let said = [0.2, 99.0, 100.0, 5999.0, 6001.0, 1e6].map(rounded);
        assert_eq!(said, ["1 s", "99 s", "2 min", "100 min", "2 h", "278 h"]);
    }
}
