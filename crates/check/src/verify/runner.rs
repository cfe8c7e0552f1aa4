//! Runs jobs on all devices of a machine.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;

use deepseek_kernels::Device;

use super::progress::{Progress, SILENCE};
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
    let progress = Progress::new(jobs.iter().map(|job| job.cost()).sum(), jobs.len());
    let work = |index: usize, device: &Device| {
        progress.start(&*jobs[index]);
        outcomes[index].get_or_init(|| jobs[index].run(device));
        progress.finish(&*jobs[index]);
    };
    // Jobs one by one, short ones or the shortest of many, until they tell how long the others will take.
    let short = order.iter().position(|&index| progress.is_short(&*jobs[index]));
    let first = short.or_else(|| order.len().checked_sub(1).filter(|&last| last > 2 * devices.len()));
    if let (Some(first), Some(device)) = (first, devices.first()) {
        while first < order.len() && !progress.tells() {
            work(order.remove(first), device);
        }
        let longest = order.first().map_or(0, |&index| jobs[index].cost());
        progress.forecast(longest, devices.len()).iter().for_each(|line| progress.say(line));
    }
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (ended, end) = mpsc::channel::<()>();
        scope.spawn(|| progress.tell_until(end, SILENCE, |line| progress.say(line)));
        let workers = devices.iter().map(|device| {
            let (order, next, work, ended) = (&order, &next, &work, ended.clone());
            scope.spawn(move || {
                let _ended = ended;
                while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(index, device);
                }
            })
        });
        workers.for_each(drop);
        drop(ended);
    });
    progress.end();
    outcomes.into_iter().filter_map(OnceLock::into_inner).collect()
}
