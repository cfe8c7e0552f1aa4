//! Runs one CTA of a kernel lane by lane. Hardware operations are only logged: nobody is parked, waits succeed,
//! and loads and accumulators deliver made-up values, so warps need not know of each other.

use deepseek_kernels::probe::Operation;

use crate::decode::{
    Action, Collective, Effect, Element, Extent, Layout, Shuffle, Source, Special, Step, Word, decode,
};
use crate::parse::{Program, Register};
use crate::trace::{count_at, made_up};

/// Generic address of the parameter struct; only differences matter.
pub const PARAMETER_ADDRESS: u64 = 0x0070_0000_0000;

/// What a cluster address looks like: a flag, the rank, the offset.
const CLUSTER_FLAG: u64 = 1 << 31;
const CLUSTER_RANK_SHIFT: u32 = 24;

/// Offset and rank of an address that `mapa` returned.
fn unmapped(address: u64) -> Result<[u64; 2], String> {
    if address & CLUSTER_FLAG == 0 {
        return Err("not an address that mapa returned".to_owned());
    }
    let rank = (address & !CLUSTER_FLAG) >> CLUSTER_RANK_SHIFT;
    Ok([address & ((1 << CLUSTER_RANK_SHIFT) - 1), rank])
}

/// What an accumulator holds while the tensor core owns it: a NaN nobody else makes.
const IN_FLIGHT: u64 = 0x7fab_cdef;

/// A kernel loops for ever when one warp executes more than this.
const STEP_LIMIT: u64 = 100_000;

const LANES: usize = 32;

/// One CTA of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Cta<'a> {
    pub index: u32,
    pub grid: u32,
    pub params: &'a [u8],
    /// First byte of dynamic shared memory.
    pub shared: u64,
}

/// One logged operation and the PTX line that made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    pub operation: Operation,
    pub line: usize,
}

/// The operations of every thread of the CTA, in program order.
pub fn run(program: &Program, cta: Cta) -> Result<Vec<Vec<Logged>>, String> {
    if program.parameter_bytes != cta.params.len() as u64 {
        return Err(format!(
            "{}: {} bytes of parameters, got {}",
            program.name,
            program.parameter_bytes,
            cta.params.len()
        ));
    }
    let steps = decode(program, Layout { shared: cta.shared, parameter: PARAMETER_ADDRESS })?;
    let mut logs = Vec::new();
    for first_thread in (0..program.threads).step_by(LANES) {
        logs.extend(Warp::new(program, &steps, cta, first_thread).run()?);
    }
    Ok(logs)
}

/// What one thread has logged and has in flight.
#[derive(Default)]
struct Thread {
    log: Vec<Logged>,
    /// Value-delivering operations so far.
    sequence: u64,
    /// Steps of the wgmmas since the last commit, and of each committed group.
    open_group: Vec<usize>,
    groups: Vec<Vec<usize>>,
}

struct Warp<'a> {
    program: &'a Program,
    steps: &'a [Step],
    cta: Cta<'a>,
    first_thread: u64,
    registers: Vec<[u64; LANES]>,
    pc: [usize; LANES],
    /// Lanes that have not exited, and those of them that wait at a collective for the others.
    live: u32,
    waiting: u32,
    threads: [Thread; LANES],
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |&lane| mask >> lane & 1 == 1)
}

impl<'a> Warp<'a> {
    fn new(program: &'a Program, steps: &'a [Step], cta: Cta<'a>, first_thread: u64) -> Self {
        Self {
            program,
            steps,
            cta,
            first_thread,
            registers: vec![[0xbad0_bad0_bad0_bad0; LANES]; program.register_count],
            pc: [0; LANES],
            live: u32::MAX,
            waiting: 0,
            threads: std::array::from_fn(|_| Thread::default()),
        }
    }

    /// Diverged lanes run in groups of equal pc, the smallest pc first: the lanes behind catch up.
    fn run(mut self) -> Result<[Vec<Logged>; LANES], String> {
        let mut budget = STEP_LIMIT;
        while self.live != 0 {
            let runnable = self.live & !self.waiting;
            let candidates = if runnable == 0 { self.waiting } else { runnable };
            let pc = lanes(candidates).map(|lane| self.pc[lane]).min().unwrap_or_default();
            let group =
                lanes(candidates).filter(|&lane| self.pc[lane] == pc).fold(0, |mask, lane| mask | 1 << lane);
            let step = self.steps.get(pc).ok_or("the kernel ends without ret")?;
            self.execute(step, pc, group, runnable == 0).map_err(|message| {
                let instruction = &self.program.instructions[pc];
                let warp = self.first_thread / LANES as u64;
                format!(
                    "{} CTA {} warp {warp}, PTX line {}: {}: {message}",
                    self.program.name, self.cta.index, instruction.line, instruction.text
                )
            })?;
            budget = budget.checked_sub(1).ok_or("the kernel does not end")?;
        }
        Ok(self.threads.map(|thread| thread.log))
    }

    /// Executes one step for the lanes of `group`, all at `pc`. `stuck` says that no lane outside of
    /// collectives is left.
    fn execute(&mut self, step: &'a Step, pc: usize, group: u32, stuck: bool) -> Result<(), String> {
        let active = match step.guard {
            None => group,
            Some(guard) => {
                let predicate = &self.registers[guard.predicate];
                lanes(group)
                    .filter(|&lane| (predicate[lane] != 0) != guard.negated)
                    .fold(0, |mask, lane| mask | 1 << lane)
            }
        };
        if let Action::Collective { members, operation } = &step.action {
            if active != group {
                return Err("a predicated collective".to_owned());
            }
            return self.collective(*members, operation, pc, group, stuck);
        }
        for lane in lanes(group) {
            self.pc[lane] = pc + 1;
        }
        for lane in lanes(active) {
            self.step_lane(&step.action, pc, lane)?;
        }
        Ok(())
    }

    fn step_lane(&mut self, action: &'a Action, pc: usize, lane: usize) -> Result<(), String> {
        match action {
            Action::Scalar { evaluate, result, sources } => {
                let operands = sources.map(|source| self.read(source, lane));
                self.registers[*result][lane] = evaluate(operands);
            }
            Action::ReadSpecial { result, special } => {
                self.registers[*result][lane] = match special {
                    Special::ThreadIndex => self.first_thread + lane as u64,
                    Special::CtaIndex => self.cta.index.into(),
                    Special::GridSize => self.cta.grid.into(),
                    Special::ClusterRank => u64::from(self.cta.index) % self.program.cluster,
                };
            }
            Action::Pack { result, parts, part_bits } => {
                let mask = (1 << part_bits) - 1;
                let value =
                    parts.iter().rev().fold(0, |all, &part| all << part_bits | self.read(part, lane) & mask);
                self.registers[*result][lane] = value;
            }
            Action::Unpack { results, value, part_bits } => {
                let mut value = self.read(*value, lane);
                for result in results {
                    if let Some(result) = result {
                        self.registers[*result][lane] = value & ((1 << part_bits) - 1);
                    }
                    value >>= part_bits;
                }
            }
            Action::LoadParameter { results, element_bytes, address } => {
                let start = self.word(*address, lane).wrapping_sub(PARAMETER_ADDRESS);
                for (i, result) in (0..).zip(results) {
                    self.registers[*result][lane] =
                        self.parameter(start + i * element_bytes, *element_bytes)?;
                }
            }
            Action::MapToCluster { result, address, rank } => {
                let (address, rank) = (self.read(*address, lane), self.read(*rank, lane));
                if rank >= self.program.cluster || address >> CLUSTER_RANK_SHIFT != 0 {
                    return Err(format!("address {address:#x} in rank {rank} of {}", self.program.cluster));
                }
                self.registers[*result][lane] = CLUSTER_FLAG | rank << CLUSTER_RANK_SHIFT | address;
            }
            Action::Hardware { name, operands, effect } => self.hardware(name, operands, effect, pc, lane)?,
            Action::Branch(target) => self.pc[lane] = *target,
            Action::Exit => self.live &= !(1 << lane),
            Action::Collective { .. } => unreachable!("executed by the whole group"),
        }
        Ok(())
    }

    fn read(&self, source: Source, lane: usize) -> u64 {
        match source {
            Source::Register(register) => self.registers[register][lane],
            Source::Constant(value) => value,
        }
    }

    fn word(&self, word: Word, lane: usize) -> u64 {
        let value = self.read(word.source, lane).wrapping_add(word.offset);
        match word.extent {
            Extent::Unsigned32 => value & 0xffff_ffff,
            Extent::Signed32 => i64::from(value as i32).cast_unsigned(),
            Extent::Bits64 => value,
        }
    }

    fn parameter(&self, start: u64, bytes: u64) -> Result<u64, String> {
        let range = start as usize..(start + bytes) as usize;
        let bytes = self.cta.params.get(range).ok_or_else(|| format!("byte {start} of the parameters"))?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn hardware(
        &mut self,
        name: &'static str,
        operands: &[Word],
        effect: &Effect,
        pc: usize,
        lane: usize,
    ) -> Result<(), String> {
        let mut operands: Vec<u64> = operands.iter().map(|&operand| self.word(operand, lane)).collect();
        match (name, &operands[..]) {
            ("mbarrier_arrive_cluster", &[bar]) => operands = unmapped(bar)?.into(),
            ("bulk_copy_to_cta", &[dst, bar, src, bytes]) => {
                let ([dst, rank], [bar, rank_of_bar]) = (unmapped(dst)?, unmapped(bar)?);
                if rank != rank_of_bar {
                    return Err("destination and barrier lie in different CTAs".to_owned());
                }
                operands = vec![dst, bar, src, bytes, rank];
            }
            _ => {}
        }
        let line = self.program.instructions[pc].line;
        let first = operands.first().copied().unwrap_or_default();
        self.threads[lane].log.push(Logged { operation: Operation { name, operands }, line });
        match effect {
            Effect::None => {}
            Effect::Deliver(registers, element) => self.deliver(registers, *element, lane),
            Effect::DeliverCount(register) => {
                self.threads[lane].sequence += 1;
                self.registers[*register][lane] = count_at(first);
            }
            Effect::Succeed(register) => self.registers[*register][lane] = 1,
            // No kernel reads A again before it has written it.
            Effect::Multiply { d, a } => {
                for &register in d.iter().chain(a) {
                    self.registers[register][lane] = IN_FLIGHT;
                }
                self.threads[lane].open_group.push(pc);
            }
            Effect::CommitMultiplies => {
                let group = std::mem::take(&mut self.threads[lane].open_group);
                self.threads[lane].groups.push(group);
            }
            Effect::AwaitMultiplies(pending) => self.await_multiplies(*pending as usize, lane)?,
        }
        Ok(())
    }

    fn deliver(&mut self, registers: &[Register], element: Element, lane: usize) {
        let thread = self.first_thread + lane as u64;
        let sequence = self.threads[lane].sequence;
        self.threads[lane].sequence += 1;
        for (index, &register) in (0..).zip(registers) {
            self.registers[register][lane] = made_up(thread, sequence, index, element);
        }
    }

    /// The finished groups' accumulator becomes the thread's again.
    fn await_multiplies(&mut self, pending: usize, lane: usize) -> Result<(), String> {
        let groups = &mut self.threads[lane].groups;
        let finished = groups.drain(..groups.len().saturating_sub(pending)).flatten();
        let mut accumulators: Vec<&Vec<Register>> = finished
            .filter_map(|pc| match &self.steps[pc].action {
                Action::Hardware { effect: Effect::Multiply { d, .. }, .. } => Some(d),
                _ => None,
            })
            .collect();
        accumulators.dedup();
        match accumulators[..] {
            [registers] => {
                self.deliver(registers, Element::F32, lane);
                Ok(())
            }
            _ => Err(format!("{} accumulators finish here, expected 1", accumulators.len())),
        }
    }

    /// Lanes wait until all live members are here; then the operation happens for all of them at once.
    fn collective(
        &mut self,
        members: Source,
        operation: &Collective,
        pc: usize,
        group: u32,
        stuck: bool,
    ) -> Result<(), String> {
        let here = group
            | lanes(self.waiting).filter(|&lane| self.pc[lane] == pc).fold(0, |mask, lane| mask | 1 << lane);
        let members = lanes(here).map(|lane| self.read(members, lane) as u32).fold(0, |all, mask| all | mask);
        let missing = members & self.live & !here;
        if missing != 0 {
            self.waiting |= group;
            return if stuck { Err(format!("lanes {missing:#010x} never arrive")) } else { Ok(()) };
        }
        match operation {
            Collective::Shuffle { kind, result, inside, value, lane, clamp } => {
                let values: [u64; LANES] = std::array::from_fn(|lane| self.read(*value, lane));
                for this in lanes(here) {
                    let (by, clamp) = (self.read(*lane, this), self.read(*clamp, this));
                    let (from, valid) = shuffle_source(*kind, this as u64, by, clamp);
                    if here >> from & 1 == 0 {
                        return Err(format!("lane {this} reads lane {from}, which is not here"));
                    }
                    self.registers[*result][this] = values[from as usize] & 0xffff_ffff;
                    if let Some(inside) = inside {
                        self.registers[*inside][this] = valid.into();
                    }
                }
            }
            Collective::Elect { leader, elected } => {
                let first = lanes(here).next().unwrap_or_default();
                for lane in lanes(here) {
                    if let Some(leader) = leader {
                        self.registers[*leader][lane] = first as u64;
                    }
                    if let Some(elected) = elected {
                        self.registers[*elected][lane] = u64::from(lane == first);
                    }
                }
            }
            Collective::Reduce { result, value, combine } => {
                let values = lanes(here).map(|lane| self.read(*value, lane) as u32);
                let reduced = values.reduce(combine).unwrap_or_default();
                for lane in lanes(here) {
                    self.registers[*result][lane] = reduced.into();
                }
            }
            Collective::WarpSync => {
                for lane in lanes(here) {
                    let line = self.program.instructions[pc].line;
                    let operation = Operation { name: "syncwarp", operands: Vec::new() };
                    self.threads[lane].log.push(Logged { operation, line });
                }
            }
        }
        self.waiting &= !here;
        for lane in lanes(here) {
            self.pc[lane] = pc + 1;
        }
        Ok(())
    }
}

/// The lane that lane `this` reads from, and whether it lies inside the segment. PTX ISA, "shfl.sync".
fn shuffle_source(kind: Shuffle, this: u64, by: u64, control: u64) -> (u64, bool) {
    let (by, clamp, segment) = (by & 0x1f, control & 0x1f, control >> 8 & 0x1f);
    let bound = this & segment | clamp & !segment;
    let (from, valid) = match kind {
        Shuffle::Up => (this.wrapping_sub(by), this.cast_signed() - by.cast_signed() >= bound.cast_signed()),
        Shuffle::Down => (this + by, this + by <= bound),
        Shuffle::Butterfly => (this ^ by, this ^ by <= bound),
        Shuffle::Index => {
            let from = this & segment | by & !segment;
            (from, from <= bound)
        }
    };
    if valid { (from, true) } else { (this, false) }
}
