//! Runs a program once, and asks of every step whether all orders give it the effect that it has here.

mod meetings;
mod messages;

use std::mem;

use crate::protocol::clock::{CTA_BARRIERS, Clock, Dims};
use crate::protocol::meeting::Meeting;
use crate::protocol::memory::{Access, Agent, Piece, Use};
use crate::protocol::phases::{Event, Mbarrier};
use crate::protocol::step::{Pieces, Program, Role, Step};

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explored {
    /// Of all roles.
    pub steps: usize,
    /// Phases that each mbarrier has completed, by name; of several CTAs the most.
    pub phases: Vec<(String, u32)>,
}

/// Runs the program to its end.
///
/// # Errors
/// What may go wrong in some order: the barrier or the bytes, the roles, and their steps.
pub fn explore(program: &Program) -> Result<Explored, String> {
    let mut run = Run::new(program);
    while run.round()? {}
    run.finish()?;
    let most =
        |bar: usize| run.bars.iter().filter_map(|bars| bars[bar].as_ref()).map(Mbarrier::complete).max();
    let phases =
        program.bars.iter().enumerate().map(|(bar, name)| (name.clone(), most(bar).unwrap_or_default()));
    Ok(Explored { steps: program.roles.iter().map(|role| role.steps.len()).sum(), phases: phases.collect() })
}

/// Where a role stands.
#[derive(Clone, Debug)]
struct At {
    step: usize,
    clock: Clock,
    /// Has done what it does to memory ahead of its step.
    touched: bool,
    /// Has come to a meeting, and waits for its end: the generation.
    met: Option<u32>,
    /// Has arrived at the cluster's barrier in this generation.
    left: Option<u32>,
    products: u32,
    stores: u32,
    unfenced: Vec<usize>,
    inits: Vec<usize>,
    gone: bool,
}

/// Something in a CTA that another one causes, or TMA does: until `done` of `dim`.
struct Claim {
    cta: usize,
    dim: usize,
    done: u32,
    event: Event,
}

struct Run<'a> {
    program: &'a Program,
    dims: Dims,
    at: Vec<At>,
    /// By CTA, as the rest.
    bars: Vec<Vec<Option<Mbarrier>>>,
    pieces: Vec<Vec<Piece>>,
    meetings: Vec<Vec<Meeting>>,
    warps: Vec<Vec<Meeting>>,
    cluster: Meeting,
    claims: Vec<Claim>,
}

impl<'a> Run<'a> {
    fn new(program: &'a Program) -> Self {
        let Program { ctas, bars, pieces, roles } = program;
        let dims = Dims { roles: roles.len(), ctas: *ctas, bars: bars.len() };
        let clock = Clock::new(&dims);
        let start = At {
            step: 0,
            clock: clock.clone(),
            touched: false,
            met: None,
            left: None,
            products: 0,
            stores: 0,
            unfenced: Vec::new(),
            inits: Vec::new(),
            gone: false,
        };
        let meeting = Meeting::new(clock);
        let warps = roles.iter().map(|role| role.warp + 1).max().unwrap_or_default();
        Self {
            program,
            dims,
            at: vec![start; roles.len()],
            bars: vec![vec![None; bars.len()]; *ctas],
            pieces: vec![vec![Piece::default(); pieces.len()]; *ctas],
            meetings: vec![vec![meeting.clone(); CTA_BARRIERS]; *ctas],
            warps: vec![vec![meeting.clone(); warps]; *ctas],
            cluster: meeting,
            claims: Vec::new(),
        }
    }

    fn role(&self, role: usize) -> &'a Role {
        &self.program.roles[role]
    }

    /// Lets every role go as far as it can; whether one has moved.
    fn round(&mut self) -> Result<bool, String> {
        let mut moved = false;
        for role in 0..self.at.len() {
            while !self.at[role].gone && self.advance(role)? {
                moved = true;
            }
        }
        Ok(moved)
    }

    /// The next step of a role, if it can take it.
    fn advance(&mut self, role: usize) -> Result<bool, String> {
        let event = Event { role, step: self.at[role].step };
        if !mem::replace(&mut self.at[role].touched, true) {
            self.at[role].clock.raise(self.dims.steps(role), event.step as u32 + 1);
            self.touch(event)?;
        }
        match self.role(role).steps.get(event.step) {
            None => self.leave(role),
            Some(step) => {
                if !self.take(event, step)? {
                    return Ok(false);
                }
                self.pass(role);
            }
        }
        Ok(true)
    }

    fn pass(&mut self, role: usize) {
        let at = &mut self.at[role];
        at.step += 1;
        at.touched = false;
        at.met = None;
    }

    // ------------------------------------------------------------------------------------------------------ memory

    /// What a thread does itself.
    fn touch(&mut self, event: Event) -> Result<(), String> {
        let role = self.role(event.role);
        let touch = &role.touches[event.step];
        for (pieces, access) in [(&touch.reads, Access::Read), (&touch.writes, Access::Write)] {
            let agent = Agent::Thread { fenced: None };
            let (dim, done) = (self.dims.steps(event.role), event.step as u32 + 1);
            self.access(role.cta, pieces, Use { agent, access, dim, done, event })?;
        }
        self.at[event.role].unfenced.extend(&touch.writes);
        Ok(())
    }

    fn access(&mut self, cta: usize, pieces: &[usize], new: Use) -> Result<(), String> {
        for &piece in pieces {
            let clock = &self.at[new.event.role].clock;
            if let Err(conflict) = self.pieces[cta][piece].touch(new, clock) {
                return Err(self.conflict(cta, piece, new, &conflict));
            }
        }
        Ok(())
    }

    // -------------------------------------------------------------------------------------------------- mbarriers

    fn bar(&mut self, event: Event, cta: usize, bar: usize) -> Result<&mut Mbarrier, String> {
        let name = &self.program.bars[bar];
        let unused = || {
            format!(
                "{}: {name} of CTA {cta} is not initialised",
                self.program.describe(event.role, event.step)
            )
        };
        self.bars[cta][bar].as_mut().ok_or_else(unused)
    }

    fn arrive(&mut self, event: Event, cta: usize, bar: usize, bytes: u32) -> Result<(), String> {
        let (dims, role) = (self.dims, self.role(event.role));
        let clock = self.at[event.role].clock.clone();
        let threads = role.threads();
        let outcome = self.bar(event, cta, bar)?.arrive(event, &clock, &dims, threads, bytes);
        outcome.map_err(|why| self.untimely(event, cta, bar, &why))?;
        if cta != role.cta {
            self.check_fenced(event, cta, bar)?;
            self.claims.push(Claim { cta, dim: dims.steps(event.role), done: event.step as u32 + 1, event });
        }
        Ok(())
    }

    fn check_fenced(&mut self, event: Event, cta: usize, bar: usize) -> Result<(), String> {
        let state = self.bar(event, cta, bar)?;
        if state.fenced {
            return Ok(());
        }
        let init = state.init;
        Err(format!("{}: nobody has fenced {}", self.describe(event), self.describe(init)))
    }

    /// Bytes for an mbarrier, written to these pieces and read from those of the role's CTA.
    fn transfer(
        &mut self,
        event: Event,
        cta: usize,
        bar: usize,
        bytes: u32,
        (from, to): (&[usize], &[usize]),
    ) -> Result<(), String> {
        self.check_fenced(event, cta, bar)?;
        let (dims, role) = (self.dims, self.role(event.role));
        let state = self.bar(event, cta, bar)?;
        let (dim, done) = (state.dim, state.landing());
        let of = |access| Use { agent: Agent::Engine, access, dim, done, event };
        self.access(role.cta, from, of(Access::Read))?;
        self.access(cta, to, of(Access::Write))?;
        self.claims.push(Claim { cta, dim, done, event });
        if !from.is_empty() {
            self.claims.push(Claim { cta: role.cta, dim, done, event });
        }
        let clock = self.at[event.role].clock.clone();
        let bytes = i64::from(bytes) * i64::from(role.threads());
        let outcome = self.bar(event, cta, bar)?.transfer(event, &clock, &dims, bytes);
        outcome.map_err(|why| self.untimely(event, cta, bar, &why))
    }

    // ------------------------------------------------------------------------------------------------------- steps

    /// Takes a step, unless it has to wait.
    fn take(&mut self, event: Event, step: &'a Step) -> Result<bool, String> {
        let Event { role, step: number } = event;
        let (dims, now, cta) = (self.dims, number as u32 + 1, self.role(role).cta);
        match step {
            &Step::Init { bar, count } => self.init(event, cta, bar, count)?,
            Step::FenceInits => {
                for bar in mem::take(&mut self.at[role].inits) {
                    self.bar(event, cta, bar)?.fenced = true;
                }
            }
            &Step::Arrive { cta, bar, bytes } => self.arrive(event, cta, bar, bytes)?,
            &Step::Await { bar, parity } => {
                let mut clock = self.at[role].clock.clone();
                let outcome = self.bar(event, cta, bar)?.wait(event, &mut clock, &dims, parity);
                if !outcome.map_err(|why| self.untimely(event, cta, bar, &why))? {
                    return Ok(false);
                }
                self.at[role].clock = clock;
            }
            Step::SyncWarp | Step::Sync { .. } => return self.meet(event, step),
            &Step::ArriveAtCluster { relaxed } => self.arrive_at_cluster(event, relaxed)?,
            Step::AwaitCluster => return self.await_cluster(event),
            Step::Fence => {
                for piece in mem::take(&mut self.at[role].unfenced) {
                    self.pieces[cta][piece].fence(dims.steps(role), now);
                }
            }
            Step::Load { ctas, bar, bytes, to } => {
                for &cta in ctas {
                    self.transfer(event, cta, *bar, *bytes, (&[], to))?;
                }
            }
            Step::Copy { cta, bar, bytes, from, to } => {
                self.transfer(event, *cta, *bar, *bytes, (from, to))?
            }
            Step::Store { from } => self.read(event, from, dims.stores(role), self.at[role].stores + 1)?,
            Step::CommitStores => self.at[role].stores += 1,
            Step::AwaitStores { pending } => {
                let done = self.at[role].stores.saturating_sub(*pending as u32);
                self.at[role].clock.raise(dims.stores(role), done);
            }
            Step::Multiply { reads } => {
                self.read(event, reads, dims.products(role), self.at[role].products + 1)?
            }
            Step::CommitProducts => self.at[role].products += 1,
            Step::AwaitProducts { pending } => {
                let done = self.at[role].products.saturating_sub(*pending as u32);
                self.at[role].clock.raise(dims.products(role), done);
            }
        }
        Ok(true)
    }

    fn init(&mut self, event: Event, cta: usize, bar: usize, count: u32) -> Result<(), String> {
        if self.bars[cta][bar].is_some() || self.role(event.role).threads() != 1 {
            return Err(format!("{}: it is initialised twice", self.describe(event)));
        }
        let state = Mbarrier::new(&self.dims, (cta, bar), count, event);
        let at = &mut self.at[event.role];
        at.clock.raise(state.dim, 1);
        at.inits.push(bar);
        self.bars[cta][bar] = Some(state);
        Ok(())
    }

    /// The tensor core, or TMA for a store.
    fn read(&mut self, event: Event, pieces: &Pieces, dim: usize, done: u32) -> Result<(), String> {
        let cta = self.role(event.role).cta;
        self.access(cta, pieces, Use { agent: Agent::Engine, access: Access::Read, dim, done, event })?;
        self.claims.push(Claim { cta, dim, done, event });
        Ok(())
    }

    // ----------------------------------------------------------------------------------------------------- the end

    fn finish(&self) -> Result<(), String> {
        let stuck: Vec<usize> = (0..self.at.len()).filter(|&role| !self.at[role].gone).collect();
        if !stuck.is_empty() {
            return Err(self.deadlock(&stuck));
        }
        for (cta, bars) in self.bars.iter().enumerate() {
            for (bar, state) in bars.iter().enumerate() {
                if let Some(state) = state.as_ref().and_then(Mbarrier::begun) {
                    return Err(format!(
                        "{} of CTA {cta} is left within a phase: {state}",
                        self.program.bars[bar]
                    ));
                }
            }
        }
        self.check_exits()
    }

    /// A CTA stays until nobody needs its shared memory.
    fn check_exits(&self) -> Result<(), String> {
        let mut last = vec![Clock::new(&self.dims); self.dims.ctas];
        for (role, at) in self.program.roles.iter().zip(&self.at) {
            last[role.cta].join(&at.clock);
        }
        match self.claims.iter().find(|claim| last[claim.cta].ordered(claim.dim) < claim.done) {
            None => Ok(()),
            Some(claim) => Err(format!(
                "CTA {} may be gone before this is done: {}",
                claim.cta,
                self.describe(claim.event)
            )),
        }
    }
}
