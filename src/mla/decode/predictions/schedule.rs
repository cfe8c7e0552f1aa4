//! Cycles per block of 64 keys of MLA decode, by the order of what a CTA does and by the time that keys take to arrive.
//!
//! Three programs run side by side: the left and the right warpgroup, and the producer. They issue products, of which the
//! tensor core takes one at a time, alternating between warpgroups; they meet at barriers; keys arrive some cycles after they
//! were asked for, and no faster than so many bytes a cycle. Issue cycles were counted in SASS, latencies are assumed: good for
//! the order of two schedules, not for their absolute time.

use std::collections::{HashMap, VecDeque};

/// Cycles of a product of 64 x 64, whose operands keep shared memory busy longer, and of one of 64 x 256.
const SCORE: f64 = 38.6;
const WEIGH: f64 = 128.0;
/// The softmax, the sums' rescaling, weights to shared memory and their fence.
const MAXIMUM: f64 = 120.0;
const EXPONENTIALS: f64 = 311.0;
const RESCALE: f64 = 136.0;
const PUBLISH: f64 = 113.0;
/// Until a product begins, until its end is seen, and for a barrier; to issue a product or a load.
const START: f64 = 12.0;
const END: f64 = 20.0;
const MEET: f64 = 25.0;
const ISSUE: f64 = 13.0;
const ASK: f64 = 15.0;
const TILE_BYTES: f64 = 8192.0;
const TILES: usize = 9;
const BLOCKS: usize = 40;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    ScoresFirst,
    ProductsFirst,
    /// Products first, the right ones beside the softmax.
    RightBeside,
    /// The same, and the left products read their weights from registers.
    FromRegisters,
}

/// How soon keys come: cycles after they were asked for, and bytes a cycle.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub latency: f64,
    pub rate: f64,
}

/// What happens once, to a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Event {
    /// A tile of keys is there.
    Keys(usize, usize),
    Weights(usize),
    Scored(usize),
    /// The right warpgroup has read the weights.
    Read(usize),
    /// Position, left or right values may be overwritten.
    Free(Part, usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Position,
    Left,
    Right,
}

/// Products of a block that are awaited together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Group {
    Scores(usize),
    Values(Part, usize),
}

#[derive(Clone, Copy)]
enum Step {
    Run(f64),
    /// A round of the left warpgroup begins.
    Mark,
    Arrive(Event),
    Await(Event),
    /// Four products, of so many cycles each.
    Multiply(Group, f64),
    Wait(Group),
    Load(Event),
}
use Step::{Arrive, Await, Load, Mark, Multiply, Run, Wait};

fn score(j: usize) -> impl Iterator<Item = Step> {
    (0..TILES).flat_map(move |tile| [Await(Event::Keys(j, tile)), Multiply(Group::Scores(j), SCORE)])
}

fn left(order: Order) -> Vec<Step> {
    use Order::{FromRegisters, ProductsFirst, RightBeside, ScoresFirst};
    let weigh = |j| [Run(20.0), Multiply(Group::Values(Part::Left, j), WEIGH)];
    let publish = |j| [Run(PUBLISH), Arrive(Event::Weights(j))];
    let give_back = |j| [Wait(Group::Values(Part::Left, j)), Arrive(Event::Free(Part::Left, j))];
    let from_registers = order == FromRegisters;

    let mut steps: Vec<Step> = score(0).collect();
    steps.extend([
        Wait(Group::Scores(0)),
        Arrive(Event::Free(Part::Position, 0)),
        Run(MAXIMUM + EXPONENTIALS),
    ]);
    steps.extend(publish(0).into_iter().filter(|_| !from_registers));
    for j in 1..BLOCKS {
        steps.push(Mark);
        if order == ScoresFirst {
            steps.extend(score(j));
            steps.push(Arrive(Event::Scored(j)));
            steps.extend(weigh(j - 1));
        } else {
            steps.extend(weigh(j - 1));
            steps.extend((order == ProductsFirst).then_some(Arrive(Event::Scored(j))));
            steps.extend((from_registers && j > 1).then(|| Await(Event::Read(j - 2))));
            steps.extend(publish(j - 1).into_iter().filter(|_| from_registers));
            steps.extend(score(j));
            steps.extend(give_back(j - 1));
        }
        steps.push(Wait(Group::Scores(j)));
        steps.extend(matches!(order, RightBeside | FromRegisters).then_some(Arrive(Event::Scored(j))));
        steps.extend([Arrive(Event::Free(Part::Position, j)), Run(MAXIMUM + EXPONENTIALS)]);
        if order == ScoresFirst {
            steps.push(Await(Event::Read(j - 1)));
            steps.extend(give_back(j - 1));
        }
        steps.push(Run(RESCALE));
        if !from_registers {
            steps.push(Await(Event::Read(j - 1)));
            steps.extend(publish(j));
        }
    }
    if from_registers {
        steps.push(Await(Event::Read(BLOCKS - 2)));
        steps.extend(publish(BLOCKS - 1));
    }
    steps.push(Arrive(Event::Scored(BLOCKS)));
    steps
}

fn right() -> Vec<Step> {
    let block = |j| {
        let products = Group::Values(Part::Right, j);
        [
            Await(Event::Weights(j)),
            Run(76.0 + RESCALE),
            Await(Event::Scored(j + 1)),
            Multiply(products, WEIGH),
            Wait(products),
            Run(22.0),
            Arrive(Event::Free(Part::Right, j)),
            Arrive(Event::Read(j)),
        ]
    };
    (0..BLOCKS).flat_map(block).collect()
}

/// Tiles in the order in which they become free: the position, then the values.
fn producer() -> Vec<Step> {
    let mut steps = vec![];
    for j in 0..BLOCKS {
        for tile in 0..TILES {
            let first_of = [(0, Part::Position), (1, Part::Left), (5, Part::Right)];
            let part = first_of.iter().find(|(first, _)| *first == tile && j >= 2);
            steps.extend(part.map(|&(_, part)| Await(Event::Free(part, j - 2))));
            steps.extend([Run(ASK), Load(Event::Keys(j, tile))]);
        }
    }
    steps
}

/// One of the three, and the products that it has issued: when, how long, for whom.
struct Program {
    steps: VecDeque<Step>,
    now: f64,
    products: VecDeque<(f64, f64, Group)>,
}

#[derive(Default)]
struct Cta {
    events: HashMap<Event, f64>,
    /// Products of a group that are not done, and the end of the last that is.
    pending: HashMap<Group, usize>,
    done: HashMap<Group, f64>,
    keys_arrived: f64,
    marks: Vec<f64>,
}

impl Cta {
    /// Runs a program up to the next step that waits, which stays in front.
    fn advance(&mut self, program: &mut Program, memory: Memory) {
        while let Some(&step) = program.steps.front() {
            match step {
                Run(cycles) => program.now += cycles,
                Mark => self.marks.push(program.now),
                Arrive(event) => {
                    self.events.insert(event, program.now + MEET);
                }
                Load(event) => {
                    let one_by_one = self.keys_arrived + TILE_BYTES / memory.rate;
                    self.keys_arrived = one_by_one.max(program.now + memory.latency);
                    self.events.insert(event, self.keys_arrived + MEET);
                }
                Multiply(group, cycles) => {
                    let issued = (0..4).map(|i| (program.now + START + ISSUE * f64::from(i), cycles, group));
                    program.products.extend(issued);
                    *self.pending.entry(group).or_default() += 4;
                    program.now += 4.0 * ISSUE;
                }
                Await(_) | Wait(_) => return,
            }
            program.steps.pop_front();
        }
    }

    /// When the step that a program waits at may end, if that is known.
    fn ready(&self, program: &Program) -> Option<f64> {
        match program.steps.front()? {
            Await(event) => self.events.get(event).map(|&at| at.max(program.now)),
            Wait(group) if self.pending[group] == 0 => Some((self.done[group] + END).max(program.now)),
            _ => None,
        }
    }
}

/// Of the second half of the blocks.
pub(super) fn cycles_per_block(order: Order, memory: Memory) -> f64 {
    let program = |steps: Vec<Step>| Program { steps: steps.into(), now: 0.0, products: VecDeque::new() };
    let mut programs = [left(order), right(), producer()].map(program);
    let mut cta = Cta::default();
    let (mut tensor_core_free, mut last) = (0.0, 1);
    for program in &mut programs {
        cta.advance(program, memory);
    }
    while programs.iter().any(|program| !program.steps.is_empty()) {
        let next = (0..programs.len()).filter_map(|p| Some((cta.ready(&programs[p])?, p)));
        let next = next.min_by(|a, b| a.0.total_cmp(&b.0));
        let products = (0..programs.len())
            .filter_map(|p| Some((programs[p].products.front()?.0.max(tensor_core_free), p)));
        // Of two that could begin at once, the one whose turn it is.
        let product = products.min_by(|a, b| a.0.total_cmp(&b.0).then((a.1 == last).cmp(&(b.1 == last))));
        match (product, next) {
            (Some((start, p)), next) if next.is_none_or(|(at, _)| start <= at) => {
                let (_, cycles, group) = programs[p].products.pop_front().expect("a product");
                tensor_core_free = start + cycles;
                cta.done.insert(group, tensor_core_free);
                *cta.pending.get_mut(&group).expect("its group") -= 1;
                last = p;
            }
            (_, Some((at, p))) => {
                programs[p].now = at;
                programs[p].steps.pop_front();
                cta.advance(&mut programs[p], memory);
            }
            (_, None) => panic!("a schedule that waits for itself"),
        }
    }
    let (half, end) = (cta.marks.len() / 2, cta.marks.len() - 1);
    (cta.marks[end] - cta.marks[half]) / (end - half) as f64
}
