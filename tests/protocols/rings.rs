//! The argument by which one order answers for all, against all orders: rings of stages that are small enough to go through every
//! state, right and with every step wrong in turn.

use check::protocol::step::{Program, Role, Step, Touch};
use check::protocol::{explore, interleave};

/// A producer and so many warps that read, in each CTA; every stage is filled by all CTAs together, as the GEMMs fill B.
struct Ring {
    ctas: usize,
    stages: usize,
    readers: usize,
    fillings: usize,
}

const BYTES: u32 = 64;

impl Ring {
    fn full(&self, filling: usize) -> usize {
        filling % self.stages
    }

    fn empty(&self, filling: usize) -> usize {
        self.stages + filling % self.stages
    }

    fn parity(&self, filling: usize) -> u32 {
        (filling / self.stages % 2) as u32
    }

    /// The piece of a stage that a CTA fills, in both.
    fn piece(&self, filling: usize, cta: usize) -> usize {
        filling % self.stages * self.ctas + cta
    }

    fn enter(&self) -> Vec<Step> {
        match self.ctas {
            1 => vec![Step::Sync { id: 0, threads: None, waits: true }],
            _ => vec![Step::ArriveAtCluster { relaxed: true }, Step::AwaitCluster],
        }
    }

    fn leave(&self) -> Vec<Step> {
        match self.ctas {
            1 => vec![],
            _ => vec![Step::ArriveAtCluster { relaxed: false }, Step::AwaitCluster],
        }
    }

    fn producer(&self, cta: usize) -> Vec<Step> {
        let count = (self.ctas * self.readers) as u32;
        let inits = (0..self.stages).flat_map(|stage| {
            [Step::Init { bar: stage, count: 1 }, Step::Init { bar: self.stages + stage, count }]
        });
        let mut steps: Vec<Step> = inits.chain([Step::FenceInits]).chain(self.enter()).collect();
        for filling in 0..self.fillings {
            steps.extend([
                Step::Await { bar: self.empty(filling), parity: self.parity(filling) ^ 1 },
                Step::Arrive { cta, bar: self.full(filling), bytes: BYTES * self.ctas as u32 },
                Step::Load {
                    ctas: (0..self.ctas).collect(),
                    bar: self.full(filling),
                    bytes: BYTES,
                    to: [self.piece(filling, cta)].into(),
                },
            ]);
        }
        steps.extend(self.leave());
        steps
    }

    fn reader(&self) -> Vec<Step> {
        let mut steps = self.enter();
        for filling in 0..self.fillings {
            let reads = (0..self.ctas).map(|cta| self.piece(filling, cta)).collect();
            steps.extend([
                Step::Await { bar: self.full(filling), parity: self.parity(filling) },
                Step::Multiply { reads },
                Step::CommitProducts,
                Step::AwaitProducts { pending: 0 },
            ]);
            steps.extend((0..self.ctas).map(|cta| Step::Arrive { cta, bar: self.empty(filling), bytes: 0 }));
        }
        steps.extend(self.leave());
        steps
    }

    fn program(&self) -> Program {
        let role = |cta, warp, steps: Vec<Step>| {
            let touches = vec![Touch::default(); steps.len() + 1];
            Role { cta, warp, lanes: vec![0], steps, touches }
        };
        let mut roles = Vec::new();
        for cta in 0..self.ctas {
            roles.push(role(cta, 0, self.producer(cta)));
            roles.extend((1..=self.readers).map(|warp| role(cta, warp, self.reader())));
        }
        let name = |name: &'static str| (0..self.stages).map(move |stage| format!("{name}[{stage}]"));
        let pieces = (0..(self.stages * self.ctas) as u64).map(|piece| {
            let bytes = u64::from(BYTES);
            piece * bytes..(piece + 1) * bytes
        });
        Program {
            ctas: self.ctas,
            bars: name("full").chain(name("empty")).collect(),
            pieces: pieces.collect(),
            roles,
        }
    }
}

const MOST_STATES: usize = 1_000_000;

#[test]
fn small_rings_hold_in_all_their_states() {
    let mut states = 0;
    for (ctas, readers, stages) in [(1, 1, 1), (1, 1, 2), (1, 2, 2), (1, 2, 3), (2, 1, 1)] {
        for fillings in [0, 1, stages - 1, stages, stages + 1, 2 * stages + 1] {
            let ring = Ring { ctas, stages, readers, fillings };
            let program = ring.program();
            explore(&program).unwrap();
            states += interleave(&program, MOST_STATES).expect("a small ring").unwrap();
        }
    }
    println!("{states} states of rings");
}

/// A step with another operand.
fn others(step: &Step, program: &Program) -> Vec<Step> {
    let (mut others, next) = (Vec::new(), |bar: usize| (bar + 1) % program.bars.len());
    match step {
        &Step::Init { bar, count } => {
            others.extend([count + 1, count - 1].map(|count| Step::Init { bar, count: count.max(1) }));
        }
        &Step::Arrive { cta, bar, bytes } => {
            others.push(Step::Arrive { cta, bar: next(bar), bytes });
            others.push(Step::Arrive { cta: (cta + 1) % program.ctas, bar, bytes });
            others.extend([bytes + BYTES, bytes.saturating_sub(BYTES)].map(|bytes| Step::Arrive {
                cta,
                bar,
                bytes,
            }));
        }
        &Step::Await { bar, parity } => {
            others.push(Step::Await { bar: next(bar), parity });
            others.push(Step::Await { bar, parity: parity ^ 1 });
        }
        Step::Load { ctas, bar, bytes, to } => {
            let (ctas, bytes, to) = (ctas.clone(), *bytes, to.clone());
            others.push(Step::Load { ctas: ctas[..1].to_vec(), bar: *bar, bytes, to: to.clone() });
            others.push(Step::Load { ctas: ctas.clone(), bar: next(*bar), bytes, to: to.clone() });
            let piece = (to[0] + 1) % program.pieces.len();
            others.push(Step::Load { ctas, bar: *bar, bytes, to: [piece].into() });
        }
        Step::AwaitProducts { .. } => others.push(Step::AwaitProducts { pending: 1 }),
        _ => {}
    }
    others.retain(|other| other != step);
    others
}

/// Every program that has one step wrong: left out, taken twice, before its predecessor, or with another operand. But not the
/// fence of the inits, which only the one order asks for.
fn mutants(program: &Program) -> Vec<(String, Program)> {
    let mut mutants = Vec::new();
    for (role, of) in program.roles.iter().enumerate() {
        for (at, step) in of.steps.iter().enumerate() {
            if at > 0 && [&of.steps[at - 1], step].contains(&&Step::FenceInits) {
                continue;
            }
            let mut plant = |what: &str, edit: &dyn Fn(&mut Vec<Step>)| {
                let mut mutant = program.clone();
                let of = &mut mutant.roles[role];
                edit(&mut of.steps);
                of.touches.resize(of.steps.len() + 1, Touch::default());
                mutants.push((format!("{}, {what}", program.describe(role, at)), mutant));
            };
            plant("left out", &|steps| drop(steps.remove(at)));
            plant("twice", &|steps| steps.insert(at, step.clone()));
            if at > 0 {
                plant("before its predecessor", &|steps| steps.swap(at - 1, at));
            }
            for other in others(step, program) {
                plant(&format!("now {other:?}"), &|steps| steps[at] = other.clone());
            }
        }
    }
    mutants
}

#[test]
fn one_order_knows_what_all_orders_do() {
    let (mut right, mut wrong) = (0, 0);
    for (ctas, readers, stages, fillings) in [(1, 1, 1, 3), (1, 2, 2, 5), (2, 1, 1, 3)] {
        for (what, mutant) in mutants(&Ring { ctas, stages, readers, fillings }.program()) {
            let one = explore(&mutant);
            let all = interleave(&mutant, MOST_STATES).unwrap_or_else(|| panic!("{what}: too many states"));
            match (&one, &all) {
                (Ok(_), Ok(_)) => right += 1,
                (Err(_), Err(_)) => wrong += 1,
                _ => panic!("{what}:\none order: {one:?}\nall orders: {all:?}"),
            }
        }
    }
    println!("{right} of {} programs are right", right + wrong);
    assert!(right != 0 && wrong != 0);
}
