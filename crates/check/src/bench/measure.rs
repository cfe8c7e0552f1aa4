//! Times of a case on a GPU. What is timed was judged right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use deepseek_kernels::cudarc::driver::sys::CUdevice_attribute as Attribute;
use deepseek_kernels::cudarc::driver::{CudaContext, CudaStream};
use deepseek_kernels::{Device, Stream};

use super::card::Card;
use super::record::{Control, Failure, Stop, Timing};
use super::statistics::{Stopping, median};
use super::timing::{Replay, cold_sets, untracked};
use crate::case::{Case, Prepared, Problem, reported};
use crate::devices::runs_emulated;
use crate::judge::Scrutiny;
use crate::memory::{Arena, Memory};

/// How often a measurement is made again that the GPU held its clocks down in, after a rest.
const TRIES: usize = 3;
const REST: Duration = Duration::from_secs(2);

/// How much is done for a number.
struct Effort {
    /// Runs in a graph, unless one takes long.
    runs: usize,
    /// Time that the samples of one number may take.
    seconds: f64,
    /// What cold operands must exceed.
    l2_bytes: u64,
    /// What is copied for the roof of memory.
    copy_bytes: usize,
    /// Launches whose host time is one sample.
    launches: usize,
    /// Pairs of samples for the control.
    pairs: usize,
    /// Sizes of a product that reaches the tensor core's best rate.
    product: (usize, usize, usize),
}

/// A GPU to measure on.
pub struct Bench<'d> {
    device: &'d Device,
    stream: &'d Arc<CudaStream>,
    card: Card,
    effort: Effort,
}

/// What was measured of a case.
pub struct Measured {
    pub instance: String,
    pub reason: Option<String>,
    pub worst: Option<f64>,
    pub times: BTreeMap<String, Timing>,
}

/// Bytes of a GPU's L2.
///
/// # Errors
/// Of the driver.
pub fn l2_bytes(context: &CudaContext) -> Result<u64> {
    let bytes = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
    Ok(bytes.context("the size of L2")? as u64)
}

impl<'d> Bench<'d> {
    /// On a device's own stream. From here on cudarc orders none of the context's memory by events.
    ///
    /// # Errors
    /// Of the driver.
    pub fn new(device: &'d Device, stream: &'d Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        untracked(context);
        let effort = match runs_emulated(device) {
            false => Effort {
                runs: 20,
                seconds: 1.0,
                l2_bytes: l2_bytes(context)?,
                copy_bytes: 1 << 30,
                launches: 100,
                pairs: 30,
                product: (8192, 8192, 8192),
            },
            // Every step, on a machine that takes milliseconds for a launch.
            true => Effort {
                runs: 2,
                seconds: 0.0,
                l2_bytes: 1 << 16,
                copy_bytes: 1 << 20,
                launches: 2,
                pairs: 2,
                product: (128, 128, 256),
            },
        };
        Ok(Self { device, stream, card: Card::of(context)?, effort })
    }

    /// Bytes per second, read and written, of a copy on the device.
    ///
    /// # Errors
    /// Of the driver.
    pub fn copy_rate(&self) -> Result<f64> {
        let bytes = self.effort.copy_bytes;
        let from = self.stream.alloc_zeros::<u8>(bytes)?;
        let mut to = self.stream.alloc_zeros::<u8>(bytes)?;
        let replay = Replay::capture(self.stream, 3, |_| Ok(self.stream.memcpy_dtod(&from, &mut to)?))?;
        let samples = (0..9).map(|_| replay.sample()).collect::<Result<Vec<f64>>>()?;
        Ok(2.0 * bytes as f64 / median(&samples))
    }

    /// A case: right first, then with cold and with warm L2, then what a launch takes of the host.
    ///
    /// # Errors
    /// Why there is no time.
    pub fn case(&self, case: &dyn Case) -> Result<Measured, Failure> {
        let absent = |error: anyhow::Error| Failure { wrong: false, why: format!("{error:#}") };
        let problem = case.draw().map_err(absent)?;
        let first = self.prepare(&problem).map_err(absent)?;
        let (instance, reason) = (first.instance(), first.reason());
        let mut sets = vec![first];
        let (worst, one) = self.accept(&mut *sets[0])?;
        let times = self.times(case, &problem, &mut sets, one).map_err(absent)?;
        Ok(Measured { instance, reason, worst, times })
    }

    /// One case against itself: how far the ratio of its times is from 1 when nothing but the place of its operands differs.
    ///
    /// # Errors
    /// Of the case.
    pub fn control(&self, case: &dyn Case) -> Result<Control> {
        let problem = case.draw()?;
        let mut sets = [self.prepare(&problem)?, self.prepare(&problem)?];
        let [a, b] = &mut sets;
        let replay =
            |prepared: &mut Box<dyn Prepared>| {
                Replay::capture(self.stream, self.effort.runs, |_| {
                    Ok(prepared.launch(Stream::Cuda(self.stream))?)
                })
            };
        let (a, b) = (replay(a)?, replay(b)?);
        let pairs = (0..self.effort.pairs).map(|_| Ok((a.sample()?, b.sample()?)));
        let (a, b): (Vec<f64>, Vec<f64>) = pairs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Control { name: case.name(), noise: (median(&a) / median(&b) - 1.0).abs() })
    }

    /// A product that is large enough for the tensor core's best rate.
    pub fn largest_product(&self) -> (usize, usize, usize) {
        self.effort.product
    }

    fn prepare(&self, problem: &Arc<dyn Problem>) -> Result<Box<dyn Prepared>> {
        problem.clone().prepare(&mut Arena::new(self.device, Memory::Plain))
    }

    /// Runs it once; its largest error in units of the bound, and about how long it takes.
    fn accept(&self, prepared: &mut dyn Prepared) -> Result<(Option<f64>, Duration), Failure> {
        let absent = |error: anyhow::Error| Failure { wrong: false, why: format!("{error:#}") };
        let run = |prepared: &mut dyn Prepared| -> Result<_> {
            // The case before reported again, each time it was timed.
            let _ = self.device.poll_error();
            self.stream.synchronize()?;
            let begin = Instant::now();
            prepared.launch(Stream::Cuda(self.stream))?;
            self.stream.synchronize()?;
            let one = begin.elapsed();
            let mut checks = prepared.judge(Scrutiny::Brief)?;
            checks.push(reported(self.device, prepared.faults())?);
            Ok((checks, one))
        };
        let (checks, one) = run(prepared).map_err(absent)?;
        let wrong = checks.iter().find_map(|check| Some((check.oracle, check.failure.as_ref()?)));
        if let Some((oracle, failure)) = wrong {
            return Err(Failure { wrong: true, why: format!("{oracle}: {failure}") });
        }
        Ok((checks.iter().filter_map(|check| check.worst).reduce(f64::max), one))
    }

    fn times(
        &self,
        case: &dyn Case,
        problem: &Arc<dyn Problem>,
        sets: &mut Vec<Box<dyn Prepared>>,
        one: Duration,
    ) -> Result<BTreeMap<String, Timing>> {
        let cold = cold_sets(case.work().bytes, self.effort.l2_bytes);
        while sets.len() < cold {
            sets.push(self.prepare(problem)?);
        }
        self.stream.synchronize()?;
        // A run that takes long is as well known from a few.
        let affordable = self.effort.seconds / 20.0 / one.as_secs_f64();
        let runs = self.effort.runs.min(affordable.max(1.0) as usize);
        let mut times = BTreeMap::new();
        for (l2, sets_used) in [("cold", cold), ("warm", 1)] {
            // Fewer runs than sets would leave the first ones in L2 for the next replay.
            let replay = Replay::capture(self.stream, runs.max(sets_used), |i| {
                Ok(sets[i % sets_used].launch(Stream::Cuda(self.stream))?)
            })?;
            times.insert(l2.to_owned(), self.timing(|| replay.sample())?);
        }
        times.insert("host".to_owned(), self.timing(|| self.host(&mut *sets[0]))?);
        Ok(times)
    }

    /// The host's seconds for a launch on a stream that has nothing to do.
    fn host(&self, prepared: &mut dyn Prepared) -> Result<f64> {
        self.stream.synchronize()?;
        let begin = Instant::now();
        for _ in 0..self.effort.launches {
            prepared.launch(Stream::Cuda(self.stream))?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        self.stream.synchronize()?;
        Ok(seconds / self.effort.launches as f64)
    }

    /// Samples until there are enough; all of them again where the GPU held its clocks down.
    fn timing(&self, mut sample: impl FnMut() -> Result<f64>) -> Result<Timing> {
        let mut left = TRIES;
        loop {
            let before = self.card.state();
            let (seconds, stop) = self.samples(&mut sample)?;
            let state = before.zip(self.card.state()).map(|(before, after)| [before, after]);
            let disturbed = state.is_some_and(|state| state.iter().any(|state| state.throttled));
            left -= 1;
            if !disturbed || left == 0 {
                return Ok(Timing { seconds, stop, state, disturbed });
            }
            thread::sleep(REST);
        }
    }

    fn samples(&self, sample: &mut impl FnMut() -> Result<f64>) -> Result<(Vec<f64>, Stop)> {
        let begin = Instant::now();
        let mut stopping = Stopping::new();
        loop {
            let late = |stop: Option<Stop>| {
                stop.or_else(|| (begin.elapsed().as_secs_f64() >= self.effort.seconds).then_some(Stop::Time))
            };
            if let Some(stop) = late(stopping.add(sample()?)) {
                return Ok((stopping.into_samples(), stop));
            }
        }
    }
}
