//! An mbarrier, phase by phase.

use std::mem;

use super::clock::{Clock, Dims};

/// A step of a role, as a clock knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub role: usize,
    pub step: usize,
}

impl Event {
    pub fn known_to(self, clock: &Clock, dims: &Dims) -> bool {
        clock.before(dims.steps(self.role)) > self.step as u32
    }
}

/// What a phase was made of.
#[derive(Clone, Debug, Default)]
struct Phase {
    arrivals: Vec<Event>,
    /// Of who issued loads or copies that land in it.
    loads: Vec<Event>,
}

/// One in one CTA.
#[derive(Clone, Debug)]
pub struct Mbarrier {
    /// Its place in clocks: 1 for its init, and 1 for each complete phase.
    pub dim: usize,
    pub fenced: bool,
    pub init: Event,
    count: u32,
    pending: u32,
    /// Expected and not landed.
    bytes: i64,
    complete: u32,
    present: Phase,
    last: Phase,
    previous: Phase,
    arriving: Clock,
    /// What who waits for the last complete phase learns.
    pub done: Clock,
    /// Those who have waited for the last complete phase.
    waits: Vec<Event>,
}

/// Why a step may come at a wrong moment.
#[derive(Debug)]
pub enum Untimely {
    /// Nothing says that its init is done.
    Uninitialised,
    /// That so many phases are complete is not known: this step may be missing.
    Early { complete: u32, missing: Event },
    /// More arrivals than the phase still takes.
    Superfluous { arrivals: u32, pending: u32 },
    /// This wait has seen a phase, and the next one may be complete before it looks.
    Overtaken { wait: Event },
}

impl Mbarrier {
    pub fn new(dims: &Dims, (cta, bar): (usize, usize), count: u32, init: Event) -> Self {
        let clock = Clock::new(dims);
        let mut done = clock.clone();
        done.raise(dims.bar(cta, bar), 1);
        Self {
            dim: dims.bar(cta, bar),
            fenced: false,
            init,
            count,
            pending: count,
            bytes: 0,
            complete: 0,
            present: Phase::default(),
            last: Phase::default(),
            previous: Phase::default(),
            arriving: clock,
            done,
            waits: Vec::new(),
        }
    }

    /// As a transfer for the present phase is known when the phase is complete.
    pub fn landing(&self) -> u32 {
        self.complete + 2
    }

    /// Whoever has this clock knows that `complete` phases are, the last of which is this.
    fn check_known(&self, clock: &Clock, dims: &Dims, phase: &Phase, complete: u32) -> Result<(), Untimely> {
        match clock.before(self.dim) {
            0 => return Err(Untimely::Uninitialised),
            known if known > complete => return Ok(()),
            _ => {}
        }
        // Without bytes it is enough to know of all arrivals.
        let missing = phase.arrivals.iter().find(|arrival| !arrival.known_to(clock, dims));
        match missing.or(phase.loads.first()) {
            None => Ok(()),
            Some(&missing) => Err(Untimely::Early { complete, missing }),
        }
    }

    /// So many threads arrive, and expect so many bytes each.
    pub fn arrive(
        &mut self,
        who: Event,
        clock: &Clock,
        dims: &Dims,
        threads: u32,
        bytes: u32,
    ) -> Result<(), Untimely> {
        self.check_known(clock, dims, &self.last, self.complete)?;
        if self.pending < threads {
            return Err(Untimely::Superfluous { arrivals: threads, pending: self.pending });
        }
        self.pending -= threads;
        self.bytes += i64::from(bytes) * i64::from(threads);
        self.arriving.join(clock);
        self.present.arrivals.push(who);
        self.settle(dims)
    }

    /// Bytes are on their way, which land whenever they like: so at once.
    pub fn transfer(&mut self, who: Event, clock: &Clock, dims: &Dims, bytes: i64) -> Result<(), Untimely> {
        self.check_known(clock, dims, &self.last, self.complete)?;
        self.bytes -= bytes;
        self.arriving.come_after(clock);
        self.present.loads.push(who);
        self.settle(dims)
    }

    fn settle(&mut self, dims: &Dims) -> Result<(), Untimely> {
        if self.pending != 0 || self.bytes != 0 {
            return Ok(());
        }
        // Each must have looked before one of the arrivals of this phase.
        let unseen = self.waits.iter().find(|wait| !wait.known_to(&self.arriving, dims));
        if let Some(&wait) = unseen {
            return Err(Untimely::Overtaken { wait });
        }
        self.waits.clear();
        self.complete += 1;
        self.pending = self.count;
        self.previous = mem::replace(&mut self.last, mem::take(&mut self.present));
        self.done.clear();
        self.done.join(&self.arriving);
        self.done.raise(self.dim, self.complete + 1);
        self.arriving.clear();
        Ok(())
    }

    /// Whether a wait for this parity comes through now. If so, it is the last complete phase that it has waited for.
    pub fn wait(
        &mut self,
        who: Event,
        clock: &mut Clock,
        dims: &Dims,
        parity: u32,
    ) -> Result<bool, Untimely> {
        if clock.before(self.dim) == 0 {
            return Err(Untimely::Uninitialised);
        }
        if self.complete % 2 == parity {
            return Ok(false);
        }
        // Two phases ago it would have come through as well.
        if self.complete >= 2 {
            self.check_known(clock, dims, &self.previous, self.complete - 1)?;
        }
        clock.join(&self.done);
        self.waits.push(who);
        Ok(true)
    }

    /// What the present phase has already, if it has begun.
    pub fn begun(&self) -> Option<String> {
        (self.pending != self.count || self.bytes != 0).then(|| self.state())
    }

    /// How many phases are.
    pub fn complete(&self) -> u32 {
        self.complete
    }

    pub fn state(&self) -> String {
        let Self { complete, pending, count, bytes, .. } = self;
        let arrived = count - pending;
        let bytes = match *bytes {
            0 => String::new(),
            1.. => format!(", {bytes} bytes missing"),
            _ => format!(", {} bytes more than were expected", -bytes),
        };
        format!("{complete} phases complete, then {arrived} of {count} arrivals{bytes}")
    }
}
