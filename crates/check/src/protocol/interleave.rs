//! All states of a small program, one by one: what `explore` says of all orders, without its argument.
//!
//! Roles take turns in every way, and bytes land whenever they like. The tensor core, and TMA for stores, may read until they
//! are waited for. What is wrong is what goes wrong: two that touch the same bytes at once, an arrival too many, bytes that land
//! in another phase than they were sent for, nobody who can go on, a CTA that is gone too early. It knows no fences, and no
//! orders of memory that are not orders in time.

use std::collections::{BTreeSet, HashSet};
use std::mem;

use super::clock::CTA_BARRIERS;
use super::step::{Program, Step};

/// Why a program may fail, or how many states it has; `None` if these are more than so many.
pub fn interleave(program: &Program, most: usize) -> Option<Result<usize, String>> {
    let start = State::new(program);
    let mut seen: HashSet<State> = HashSet::from([start.clone()]);
    let mut ahead = vec![start];
    while let Some(state) = ahead.pop() {
        let next = match state.successors(program) {
            Ok(next) => next,
            Err(why) => return Some(Err(why)),
        };
        for state in next {
            if seen.insert(state.clone()) {
                ahead.push(state);
            }
        }
        if seen.len() > most {
            return None;
        }
    }
    Some(Ok(seen.len()))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Bar {
    count: u32,
    pending: u32,
    bytes: i64,
    complete: u32,
}

/// Bytes on their way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Flight {
    role: usize,
    step: usize,
    cta: usize,
    /// Complete phases of its barrier when it left.
    complete: u32,
}

/// Steps that may still read, in the groups that a role has not waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Groups {
    closed: Vec<Vec<usize>>,
    open: Vec<usize>,
}

impl Groups {
    fn steps(&self) -> impl Iterator<Item = &usize> {
        self.closed.iter().flatten().chain(&self.open)
    }

    fn commit(&mut self) {
        self.closed.push(mem::take(&mut self.open));
    }

    fn wait(&mut self, pending: usize) {
        self.closed.drain(..self.closed.len().saturating_sub(pending));
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    steps: Vec<usize>,
    /// The meeting that a role waits at, by its generation.
    met: Vec<Option<u32>>,
    /// The generation of the cluster's barrier at which it has arrived.
    left: Vec<Option<u32>>,
    /// Groups of products and of stores that a role has not waited for.
    products: Vec<Groups>,
    stores: Vec<Groups>,
    bars: Vec<Bar>,
    flights: BTreeSet<Flight>,
    written: BTreeSet<(usize, usize)>,
    /// Arrived, and generation: of barriers of a CTA, of warps, of the cluster.
    meetings: Vec<(u32, u32)>,
}

impl State {
    fn new(program: &Program) -> Self {
        let roles = program.roles.len();
        let warps = program.roles.iter().map(|role| role.warp + 1).max().unwrap_or_default();
        Self {
            steps: vec![0; roles],
            met: vec![None; roles],
            left: vec![None; roles],
            products: vec![Groups::default(); roles],
            stores: vec![Groups::default(); roles],
            bars: vec![Bar::default(); program.ctas * program.bars.len()],
            flights: BTreeSet::new(),
            written: BTreeSet::new(),
            meetings: vec![(0, 0); program.ctas * (CTA_BARRIERS + warps) + 1],
        }
    }

    fn successors(&self, program: &Program) -> Result<Vec<Self>, String> {
        let mut next = Vec::new();
        for role in 0..program.roles.len() {
            let mut state = self.clone();
            // Who has come to a meeting is there, though he goes no further.
            if !self.gone(program, role) && (state.advance(program, role)? || state != *self) {
                next.push(state);
            }
        }
        for flight in &self.flights {
            let mut state = self.clone();
            state.land(program, flight)?;
            next.push(state);
        }
        if next.is_empty() {
            self.check_end(program)?;
        }
        Ok(next)
    }

    fn gone(&self, program: &Program, role: usize) -> bool {
        self.steps[role] > program.roles[role].steps.len()
    }

    fn bar(&mut self, program: &Program, cta: usize, bar: usize) -> Result<&mut Bar, String> {
        let state = &mut self.bars[cta * program.bars.len() + bar];
        if state.count == 0 {
            return Err(format!("{} of CTA {cta} is not initialised", program.bars[bar]));
        }
        Ok(state)
    }

    fn check_alive(&self, program: &Program, cta: usize) -> Result<(), String> {
        let alive =
            (0..program.roles.len()).any(|role| program.roles[role].cta == cta && !self.gone(program, role));
        if alive { Ok(()) } else { Err(format!("CTA {cta} is gone")) }
    }

    /// Who reads or writes a piece at this moment, by TMA or the tensor core.
    fn check_idle(
        &self,
        program: &Program,
        cta: usize,
        pieces: &[usize],
        writes: bool,
    ) -> Result<(), String> {
        let meets = |others: &[usize]| others.iter().any(|piece| pieces.contains(piece));
        for flight in &self.flights {
            let (to, from): (&[usize], &[usize]) = match &program.roles[flight.role].steps[flight.step] {
                Step::Load { to, .. } => (to, &[]),
                Step::Copy { to, from, .. } => (to, from),
                _ => (&[], &[]),
            };
            let home = program.roles[flight.role].cta;
            if (flight.cta == cta && meets(to)) || (writes && home == cta && meets(from)) {
                return Err(format!("{} is not done", program.describe(flight.role, flight.step)));
            }
        }
        for (role, of) in program.roles.iter().enumerate().filter(|(_, of)| writes && of.cta == cta) {
            for &step in self.products[role].steps().chain(self.stores[role].steps()) {
                if let Step::Multiply { reads: pieces } | Step::Store { from: pieces } = &of.steps[step]
                    && meets(pieces)
                {
                    return Err(format!("{} is not done", program.describe(role, step)));
                }
            }
        }
        Ok(())
    }

    fn check_read(&self, program: &Program, cta: usize, pieces: &[usize]) -> Result<(), String> {
        self.check_idle(program, cta, pieces, false)?;
        match pieces.iter().find(|&&piece| !self.written.contains(&(cta, piece))) {
            Some(piece) => Err(format!("nobody has written {:?}", program.pieces[*piece])),
            None => Ok(()),
        }
    }

    fn settle(bar: &mut Bar) {
        if bar.pending == 0 && bar.bytes == 0 {
            bar.pending = bar.count;
            bar.complete += 1;
        }
    }

    fn land(&mut self, program: &Program, flight: &Flight) -> Result<(), String> {
        self.check_alive(program, flight.cta)?;
        self.flights.remove(flight);
        let (bar, bytes, to) = match &program.roles[flight.role].steps[flight.step] {
            Step::Load { bar, bytes, to, .. } | Step::Copy { bar, bytes, to, .. } => (*bar, *bytes, to),
            _ => return Ok(()),
        };
        self.written.extend(to.iter().map(|&piece| (flight.cta, piece)));
        let state = self.bar(program, flight.cta, bar)?;
        if state.complete != flight.complete {
            return Err(format!("{} lands in another phase", program.describe(flight.role, flight.step)));
        }
        state.bytes -= i64::from(bytes);
        Self::settle(state);
        Ok(())
    }

    fn send(
        &mut self,
        program: &Program,
        (role, step): (usize, usize),
        cta: usize,
        bar: usize,
        to: &[usize],
    ) -> Result<(), String> {
        self.check_alive(program, cta)?;
        self.check_idle(program, cta, to, true)?;
        let complete = self.bar(program, cta, bar)?.complete;
        self.flights.insert(Flight { role, step, cta, complete });
        Ok(())
    }

    /// The role's next step; whether it can take it.
    fn advance(&mut self, program: &Program, role: usize) -> Result<bool, String> {
        let (of, number) = (&program.roles[role], self.steps[role]);
        let why = |why: String| format!("{}: {why}", program.describe(role, number));
        let touch = &of.touches[number];
        self.check_read(program, of.cta, &touch.reads).map_err(why)?;
        self.check_idle(program, of.cta, &touch.writes, true).map_err(why)?;
        self.written.extend(touch.writes.iter().map(|&piece| (of.cta, piece)));
        if let Some(step) = of.steps.get(number)
            && !self.take(program, role, step).map_err(why)?
        {
            return Ok(false);
        }
        self.steps[role] += 1;
        self.met[role] = None;
        if self.gone(program, role) {
            self.leave(program, role)?;
        }
        Ok(true)
    }

    fn take(&mut self, program: &Program, role: usize, step: &Step) -> Result<bool, String> {
        let (of, number) = (&program.roles[role], self.steps[role]);
        match step {
            &Step::Init { bar, count } => {
                let state = &mut self.bars[of.cta * program.bars.len() + bar];
                if state.count != 0 {
                    return Err("it is initialised twice".into());
                }
                *state = Bar { count, pending: count, bytes: 0, complete: 0 };
            }
            &Step::Arrive { cta, bar, bytes } => {
                self.check_alive(program, cta)?;
                let state = self.bar(program, cta, bar)?;
                let pending = state.pending.checked_sub(of.threads());
                state.pending = pending.ok_or_else(|| "an arrival too many".to_owned())?;
                state.bytes += i64::from(bytes) * i64::from(of.threads());
                Self::settle(state);
            }
            &Step::Await { bar, parity } => return Ok(self.bar(program, of.cta, bar)?.complete % 2 != parity),
            Step::SyncWarp | Step::Sync { .. } => return Ok(self.meet(program, role, step)),
            Step::ArriveAtCluster { .. } => {
                let cluster = self.meetings.len() - 1;
                self.left[role] = Some(self.meetings[cluster].1);
                self.meetings[cluster].0 += of.threads();
                self.open(cluster, self.alive(program, |_| true));
            }
            Step::AwaitCluster => {
                let Some(generation) = self.left[role] else { return Err("it has not arrived".into()) };
                if self.meetings[self.meetings.len() - 1].1 == generation {
                    return Ok(false);
                }
                self.left[role] = None;
            }
            Step::FenceInits | Step::Fence => {}
            Step::CommitProducts => self.products[role].commit(),
            Step::CommitStores => self.stores[role].commit(),
            Step::Load { ctas, bar, to, .. } => {
                for &cta in ctas {
                    self.send(program, (role, number), cta, *bar, to)?;
                }
            }
            Step::Copy { cta, bar, from, to, .. } => {
                self.check_read(program, of.cta, from)?;
                self.send(program, (role, number), *cta, *bar, to)?;
            }
            Step::Multiply { reads } => {
                self.check_read(program, of.cta, reads)?;
                self.products[role].open.push(number);
            }
            Step::Store { from } => {
                self.check_read(program, of.cta, from)?;
                self.stores[role].open.push(number);
            }
            Step::AwaitProducts { pending } => self.products[role].wait(*pending),
            Step::AwaitStores { pending } => self.stores[role].wait(*pending),
        }
        Ok(true)
    }

    fn alive(&self, program: &Program, counts: impl Fn(usize) -> bool) -> u32 {
        let roles = (0..program.roles.len()).filter(|&role| !self.gone(program, role) && counts(role));
        roles.map(|role| program.roles[role].threads()).sum()
    }

    fn open(&mut self, meeting: usize, wanted: u32) {
        let (arrived, generation) = &mut self.meetings[meeting];
        if *arrived != 0 && *arrived >= wanted {
            (*arrived, *generation) = (0, *generation + 1);
        }
    }

    fn meet(&mut self, program: &Program, role: usize, step: &Step) -> bool {
        let of = &program.roles[role];
        let in_cta = |other: usize| program.roles[other].cta == of.cta;
        let in_warp = |other: usize| in_cta(other) && program.roles[other].warp == of.warp;
        let warps = (self.meetings.len() - 1) / program.ctas - CTA_BARRIERS;
        let first = of.cta * (CTA_BARRIERS + warps);
        let (meeting, wanted, waits) = match *step {
            Step::Sync { id, threads, waits } => {
                (first + id, threads.unwrap_or_else(|| self.alive(program, in_cta)), waits)
            }
            _ => (first + CTA_BARRIERS + of.warp, self.alive(program, in_warp), true),
        };
        if self.met[role].is_none() {
            self.met[role] = Some(self.meetings[meeting].1);
            self.meetings[meeting].0 += of.threads();
            self.open(meeting, wanted);
        }
        !waits || self.met[role] != Some(self.meetings[meeting].1)
    }

    fn leave(&mut self, program: &Program, role: usize) -> Result<(), String> {
        let of = &program.roles[role];
        let cluster = self.meetings.len() - 1;
        if self.left[role] == Some(self.meetings[cluster].1) {
            self.meetings[cluster].0 -= of.threads();
        }
        self.open(cluster, self.alive(program, |_| true));
        if self.check_alive(program, of.cta).is_ok() {
            return Ok(());
        }
        let everything: Vec<usize> = (0..program.pieces.len()).collect();
        self.check_idle(program, of.cta, &everything, true)
    }

    fn check_end(&self, program: &Program) -> Result<(), String> {
        if let Some(stuck) = (0..program.roles.len()).find(|&role| !self.gone(program, role)) {
            return Err(format!("nobody goes on: {}", program.describe(stuck, self.steps[stuck])));
        }
        match self.bars.iter().position(|bar| bar.pending != bar.count || bar.bytes != 0) {
            Some(bar) => Err(format!("{} is left within a phase", program.bars[bar % program.bars.len()])),
            None => Ok(()),
        }
    }
}
