//! The committed table of predictions for the public shapes, `benches/model/predicted-mla.md`: our time and FlashMLA's by
//! one model, in which both deal out their work as they do; ahead of it, what orders of a block's work take.

mod schedule;

use std::fmt::Write as _;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use schedule::{Memory, Order, cycles_per_block};

use super::*;
use crate::predictions::{assert_todays, geomean, table};

const SHAPES: &str = "benches/model/mla-shapes.csv";
const PREDICTED: &str = "benches/model/predicted-mla.md";

const MULTIPROCESSORS: usize = 132;
/// Of reading, in a stream of keys. Fitted to FlashMLA's time of 16 heads.
const DRAM_BYTES_PER_US: f64 = 2.95e6;
/// Of partial results, which fit L2 up to so many bytes.
const L2_BYTES_PER_US: f64 = 4.5e6;
const PARTS_IN_L2: f64 = 40e6;
const PARTS_BYTES_PER_US: f64 = 2.6e6;
/// The clock of an H100 SXM, without products and with nothing but products.
const IDLE_GHZ: f64 = 1.755;
const BUSY_GHZ: f64 = 1.50;
/// Cycles in which the tensor core alone could take a block of 64 keys: 36 products of 64 x 64 and 8 of 64 x 256.
const TENSOR_CYCLES: f64 = 2176.0;
/// Assumed: microseconds from a launch to the first keys, and between a launch and the next that overlaps it.
const LAUNCH_US: f64 = 3.0;
const NEXT_LAUNCH_US: f64 = 2.0;
/// FlashMLA's plan counts so many blocks for every sequence that a CTA touches.
const FLASH_MLA_ITEM_BLOCKS: usize = 5;

const HEAD: &str = "\
# Predicted times of MLA decode: a model, not a measurement

**No time here was measured.** BF16, paged cache, attention and combine; schedules are made before. Ours and FlashMLA's come
from one model, `src/mla/decode/predictions.rs`: each deals its work out as it does (ours in splits of the length that
`MlaDecodeSpec::fastest_split` takes for the mean length, FlashMLA in equal shares); a block of 64 keys takes its
cycles, or its share of DRAM's bandwidth, whichever is longer; the end of an item and the start of the next take time in
which no keys are used; parts are added up at the end. Cycles of a block: see below; FlashMLA's 2585 by a model of the same
kind of its seesaw. What an item costs is assumed: 3.0 us FlashMLA's; ours 3.2 as measured in run 4, where the next Q waited
for the output, and 2.2 since it does not.

* *Floor*: the bytes at 2.95 TB/s, or the products at 1.5 GHz, whichever is longer.
* *Ratio*: ours by FlashMLA's; below 1 we are faster. Within 5 % of 1 it says nothing.
* Above 1.05 are 16 sequences of 1024 keys with 128 rows: four splits of each fill 64 of 66 pairs of CTAs, and four parts are
  written and read; FlashMLA's shares come to three. `fastest_split` takes halves only.
* The shapes are those of [mla-shapes.csv](mla-shapes.csv). Lengths that are drawn are the same for both.

`DEEPSEEK_KERNELS_BLESS=1 cargo test --lib mla::decode` writes this file; without the variable, the same test compares it.

";

/// A kernel of attention, and the one that adds up its parts.
#[derive(Clone, Copy)]
struct Loop {
    block_cycles: f64,
    item_us: f64,
    /// Of the combine, for each part of a row.
    part_us: f64,
}

/// Keys come as the order of run 4 makes them come, by its time.
const MEMORY: Memory = Memory { latency: 1100.0, rate: 64.0 };

impl Loop {
    fn of_run_4() -> Self {
        Self { block_cycles: cycles_per_block(Order::ScoresFirst, MEMORY), item_us: 3.2, part_us: 0.2 }
    }

    fn ours() -> Self {
        Self { block_cycles: cycles_per_block(Order::FromRegisters, MEMORY), item_us: 2.2, part_us: 0.05 }
    }

    fn flash_mla() -> Self {
        Self { block_cycles: 2585.0, item_us: 3.0, part_us: 0.17 }
    }
}

/// Blocks of keys of each item of each worker, in order, and the most parts of a sequence.
struct Work {
    workers: Vec<Vec<usize>>,
    splits: Vec<usize>,
}

struct Time {
    us: f64,
    floor: f64,
}

struct Shape {
    list: String,
    name: String,
    q_tokens: usize,
    heads: usize,
    lengths: Vec<usize>,
}

impl Shape {
    fn new(list: &str, [batch, q_tokens, heads]: [usize; 3], keys: &str) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("{text:?} is no number"));
        let lengths = if let Some(mean) = keys.strip_prefix('~') {
            let mean = number(mean) as f64;
            (0..batch)
                .map(|_| (mean + mean / 2.0 * rng.sample::<f64, _>(StandardNormal)).max(1.0) as usize)
                .collect()
        } else if let Some((least, most)) = keys.split_once('-') {
            (0..batch).map(|_| rng.random_range(number(least)..=number(most))).collect()
        } else if keys.contains('+') {
            keys.split('+').map(number).collect()
        } else {
            vec![number(keys); batch]
        };
        Self {
            list: list.to_owned(),
            name: format!("b{batch} q{q_tokens} h{heads} s{keys}"),
            q_tokens,
            heads,
            lengths,
        }
    }

    fn all() -> Vec<Self> {
        let number = |text: String| text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"));
        let shape = |[list, batch, q_tokens, heads, keys]: [String; 5]| {
            Self::new(&list, [batch, q_tokens, heads].map(number), &keys)
        };
        table(SHAPES).into_iter().map(shape).collect()
    }

    fn rows(&self) -> usize {
        self.q_tokens * self.heads
    }

    fn tiles(&self) -> usize {
        self.rows().div_ceil(BLOCK_ROWS)
    }

    fn fastest_split(&self) -> usize {
        let batch = self.lengths.len();
        let paging = KvPaging::Contiguous { capacity: 1 };
        let spec = MlaDecodeSpec::new(batch, self.heads, KvFormat::Bf16, paging, 1.0).q_tokens(self.q_tokens);
        spec.fastest_split(self.lengths.iter().sum::<usize>() / batch, MULTIPROCESSORS as u32)
    }

    /// Whole splits first, then the rests, longest first, in rounds that turn.
    fn ours(&self, split_keys: usize) -> Work {
        let whole = self.lengths.iter().flat_map(|length| vec![split_keys; length / split_keys]);
        let mut rests: Vec<usize> =
            self.lengths.iter().map(|length| length % split_keys).filter(|&rest| rest != 0).collect();
        rests.sort_unstable_by(|a, b| b.cmp(a));
        let items: Vec<usize> = whole.chain(rests).map(|keys| keys.div_ceil(BLOCK_KEYS)).collect();
        let count = (MULTIPROCESSORS / self.tiles()).max(1).min(items.len());
        let mut workers = vec![vec![]; count];
        for (index, blocks) in items.into_iter().enumerate() {
            let (round, place) = (index / count, index % count);
            workers[if round % 2 == 0 { place } else { count - 1 - place }].push(blocks);
        }
        Work { workers, splits: self.lengths.iter().map(|length| length.div_ceil(split_keys)).collect() }
    }

    /// Every worker gets an equal share of all blocks in their order, of which each sequence that it touches costs some.
    fn flash_mla(&self) -> Work {
        const COST: usize = FLASH_MLA_ITEM_BLOCKS;
        let blocks: Vec<usize> =
            self.lengths.iter().map(|length| length.div_ceil(BLOCK_KEYS).max(1)).collect();
        let count = (MULTIPROCESSORS / self.tiles()).max(1);
        let share = blocks.iter().map(|blocks| blocks + COST).sum::<usize>().div_ceil(count) + COST;
        let (mut splits, mut workers) = (vec![0; blocks.len()], vec![]);
        let (mut sequence, mut done) = (0, 0);
        while sequence < blocks.len() {
            let (mut items, mut left) = (vec![], share);
            while sequence < blocks.len() && left > COST {
                let taken = (blocks[sequence] - done).min(left - COST);
                items.push(taken);
                splits[sequence] += 1;
                left -= taken + COST;
                done += taken;
                if done == blocks[sequence] {
                    (sequence, done) = (sequence + 1, 0);
                }
            }
            workers.push(items);
        }
        Work { workers, splits }
    }

    fn time(&self, kernel: &Loop, work: &Work) -> Time {
        let (batch, rows) = (self.lengths.len(), self.rows());
        let blocks: usize = work.workers.iter().flatten().sum();
        let parts: usize = work.splits.iter().filter(|&&splits| splits > 1).sum();
        let part_bytes = (parts * rows * (LATENT + 2) * size_of::<f32>()) as f64;
        let key = KvFormat::Bf16.columns(KvFormat::ROPE);
        let query_bytes = (2 * batch * rows * (key + LATENT)) as f64;
        let block_bytes = (BLOCK_KEYS * key * 2) as f64 + (query_bytes + part_bytes) / blocks as f64;

        // The clock depends on how busy the tensor core is, and that on the time.
        let (mut ghz, mut attend) = (IDLE_GHZ, 0.0);
        for _ in 0..3 {
            attend = makespan(&work.workers, kernel.block_cycles / ghz / 1e3, block_bytes, kernel.item_us);
            let products = (blocks * self.tiles()) as f64 * TENSOR_CYCLES / ghz / 1e3;
            let busy = (products / (attend * MULTIPROCESSORS as f64)).min(1.0);
            ghz = IDLE_GHZ - (IDLE_GHZ - BUSY_GHZ) * busy;
        }
        let bytes = query_bytes + (self.lengths.iter().sum::<usize>() * key * 2) as f64;
        let products =
            (blocks * self.tiles()) as f64 * TENSOR_CYCLES / (BUSY_GHZ * 1e3 * MULTIPROCESSORS as f64);
        let combine = if parts == 0 { 0.0 } else { self.combine(kernel, &work.splits, part_bytes) };
        Time { us: LAUNCH_US + attend + combine, floor: (bytes / DRAM_BYTES_PER_US).max(products) }
    }

    /// The parts of a row one after the other, as many rows at a time as fit; or their bytes.
    fn combine(&self, kernel: &Loop, splits: &[usize], part_bytes: f64) -> f64 {
        const ROWS_OF_A_CTA: usize = 8;
        let most = splits.iter().max().copied().unwrap_or_default() as f64;
        let ctas = (self.lengths.len() * self.rows()).div_ceil(ROWS_OF_A_CTA) as f64;
        let serial = most * kernel.part_us * (ctas / (MULTIPROCESSORS * ROWS_OF_A_CTA) as f64).max(1.0);
        let speed = if part_bytes < PARTS_IN_L2 { L2_BYTES_PER_US } else { PARTS_BYTES_PER_US };
        NEXT_LAUNCH_US + serial.max(part_bytes / speed)
    }
}

/// What a worker does: nothing with keys for so many microseconds, or so many blocks.
#[derive(Clone, Copy)]
enum State {
    Between(f64),
    Blocks(f64),
}

/// Microseconds until the last worker is done. Workers with keys share the bandwidth evenly.
fn makespan(workers: &[Vec<usize>], block_us: f64, block_bytes: f64, item_us: f64) -> f64 {
    let mut queues: Vec<_> = workers.iter().map(|items| items.iter()).collect();
    let mut states: Vec<Option<State>> = vec![Some(State::Between(item_us / 2.0)); workers.len()];
    let mut now = 0.0;
    while states.iter().any(Option::is_some) {
        let running = states.iter().filter(|state| matches!(state, Some(State::Blocks(_)))).count().max(1);
        let rate = (1.0 / block_us).min(DRAM_BYTES_PER_US / block_bytes / running as f64);
        let left = |state: &State| match *state {
            State::Between(us) => us,
            State::Blocks(blocks) => blocks / rate,
        };
        let step = states.iter().flatten().map(left).fold(f64::INFINITY, f64::min);
        now += step;
        for (state, items) in states.iter_mut().zip(&mut queues) {
            let Some(current) = *state else { continue };
            let ended = left(&current) - step < 1e-9;
            *state = match current {
                _ if !ended => Some(match current {
                    State::Between(us) => State::Between(us - step),
                    State::Blocks(blocks) => State::Blocks(blocks - step * rate),
                }),
                State::Between(_) => items.next().map(|&blocks| State::Blocks(blocks as f64)),
                // Half of it ends the last item.
                State::Blocks(_) if items.len() == 0 => Some(State::Between(item_us / 2.0)),
                State::Blocks(_) => Some(State::Between(item_us)),
            };
        }
    }
    now
}

/// What run 4 measured (`benches/results/NOTES.md`).
struct Measured {
    /// Batch, query tokens, heads.
    numbers: [usize; 3],
    keys: &'static str,
    split_keys: usize,
    /// With the schedule.
    us: f64,
    flash_mla: Option<f64>,
}

const fn measured(
    numbers: [usize; 3],
    keys: &'static str,
    split_keys: usize,
    us: f64,
    flash_mla: Option<f64>,
) -> Measured {
    Measured { numbers, keys, split_keys, us, flash_mla }
}

const MEASURED: &[Measured] = &[
    measured([128, 1, 128], "4096", 4096, 292.4, Some(245.2)),
    measured([64, 1, 128], "8192", 8192, 281.2, Some(242.8)),
    measured([1, 1, 128], "4096", 256, 24.8, None),
    measured([1, 1, 128], "65536", 1024, 75.7, Some(55.6)),
    measured([32, 1, 128], "1024", 1024, 44.1, Some(38.5)),
    measured([128, 1, 16], "4096", 4096, 210.4, Some(207.9)),
    measured([64, 1, 64], "4096", 2048, 124.7, Some(122.8)),
    measured([64, 2, 128], "4096", 4096, 266.7, Some(216.2)),
];

/// Cycles of a block by orders and by memory.
fn orders() -> String {
    const ORDERS: [(Order, &str); 4] = [
        (Order::ScoresFirst, "scores first (run 4)"),
        (Order::ProductsFirst, "products first"),
        (Order::RightBeside, "right products beside the softmax"),
        (Order::FromRegisters, "left weights from registers (now)"),
    ];
    let mut text = "\
## Cycles of a block of 64 keys

By the order of what a CTA does (`src/mla/decode/predictions/schedule.rs`), and by how soon keys come: cycles from asking to
having, and bytes a cycle. The tensor core alone: 2414, with what its operands cost of shared memory.

| latency, rate |"
        .to_owned();
    text.extend(ORDERS.map(|(_, name)| format!(" {name} |")));
    text += "\n|---|---|---|---|---|\n";
    for (latency, rate) in [(500.0, 64.0), (800.0, 64.0), (1100.0, 64.0), (1500.0, 45.0), (2000.0, 45.0)] {
        let _ = write!(text, "| {latency}, {rate} |");
        text.extend(
            ORDERS.map(|(order, _)| format!(" {:.0} |", cycles_per_block(order, Memory { latency, rate }))),
        );
        text.push('\n');
    }
    text
}

fn rms(errors: &[f64]) -> f64 {
    (errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64).sqrt()
}

/// The model beside what was measured.
fn report() -> String {
    let mut text = "\
## How far the model is from what was measured

Run 4 ([notes](../results/NOTES.md)), microseconds. Ours are those of its kernels, with their schedule, which the model
leaves out.

| shape | ours, measured | model | FlashMLA, measured | model |
|---|---|---|---|---|
"
    .to_owned();
    let (run_4, flash_mla_loop) = (Loop::of_run_4(), Loop::flash_mla());
    let [mut of_ours, mut of_theirs] = [vec![], vec![]];
    for &Measured { numbers, keys, split_keys, us, flash_mla } in MEASURED {
        let shape = Shape::new("", numbers, keys);
        let ours = shape.time(&run_4, &shape.ours(split_keys)).us;
        let theirs = shape.time(&flash_mla_loop, &shape.flash_mla()).us;
        of_ours.push((ours / us).ln());
        of_theirs.extend(flash_mla.map(|us| (theirs / us).ln()));
        let flash_mla = flash_mla.map_or("-".to_owned(), |us| format!("{us:.1}"));
        let _ = writeln!(text, "| {} | {us:.1} | {ours:.1} | {flash_mla} | {theirs:.1} |", shape.name);
    }
    let [ours, theirs] = [&of_ours, &of_theirs].map(|errors| 100.0 * rms(errors));
    let _ = writeln!(text, "| **rms of the logarithms** | | {ours:.1} % | | {theirs:.1} % |");
    text
}

fn predicted() -> String {
    let (our_loop, flash_mla_loop) = (Loop::ours(), Loop::flash_mla());
    let shapes = Shape::all();
    let (mut means, mut lists, mut all) = (String::new(), String::new(), Vec::new());
    for of_list in shapes.chunk_by(|a, b| a.list == b.list) {
        let list = &of_list[0].list;
        let _ = write!(
            lists,
            "\n## {list}\n\n| shape | split | us | floor, us | FlashMLA, us | ratio |\n|---|---|---|---|---|---|\n"
        );
        let mut ratios = vec![];
        for shape in of_list {
            let split_keys = shape.fastest_split();
            let ours = shape.time(&our_loop, &shape.ours(split_keys));
            let theirs = shape.time(&flash_mla_loop, &shape.flash_mla());
            let ratio = ours.us / theirs.us;
            let (name, us, floor) = (&shape.name, ours.us, ours.floor);
            let _ = writeln!(
                lists,
                "| {name} | {split_keys} | {us:.1} | {floor:.1} | {:.1} | {ratio:.2} |",
                theirs.us
            );
            ratios.push(ratio);
        }
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let _ = writeln!(means, "| {list} | {} | {:.3} | {most:.2} |", ratios.len(), geomean(&ratios));
        all.extend(ratios);
    }
    let most = all.iter().copied().fold(0.0, f64::max);
    let total = format!("| **all** | {} | **{:.3}** | {most:.2} |\n", all.len(), geomean(&all));
    let (orders, errors) = (orders(), report());
    format!(
        "{HEAD}{orders}\n{errors}\n## Ratios\n\n| list | shapes | geomean, model | most |\n|---|---|---|---|\n{means}{total}{lists}"
    )
}

/// The committed table is what the model says today.
#[test]
fn the_table_of_predictions_is_todays() {
    assert_todays(PREDICTED, &predicted());
}
