//! A program out of an operand trace: what each thread of a cluster did, in program order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::{iter, mem};

use deepseek_kernels::probe::Operation;

use super::step::{Pieces, Program, Role, Step, Touch};

const LANES: usize = 32;
/// A row of a tile that is swizzled, and eight of them: within these bytes a swizzle permutes.
const ROW_BYTES: u64 = 128;
const ATOM_BYTES: u64 = 8 * ROW_BYTES;
/// Rows of A of one product, and rows of K of a B that is N-major.
const PRODUCT_ROWS: u64 = 64;
const PRODUCT_K: u64 = 16;

/// Operations that have nothing to do with barriers or shared memory: of registers, of global memory, and of other grids. The fence
/// ahead of products orders registers.
const IGNORED: [&str; 18] = [
    "grid_dependency_wait",
    "grid_launch_dependents",
    "ld_global_f32",
    "ld_global_u32",
    "ld_global_v4_u32",
    "ldg_f32",
    "ldg_u32",
    "ldg_v4_u32",
    "prefetch_tensormap",
    "red_add_u32",
    "setmaxnreg_dec",
    "setmaxnreg_inc",
    "st_relaxed_sys_u32",
    "stg_f32",
    "stg_u32",
    "stg_v2_u32",
    "stg_v4_u32",
    "wgmma_fence",
];

/// What a launch says besides its operations.
pub struct Names<'a> {
    /// Of mbarriers, by their addresses.
    pub bars: &'a BTreeMap<u64, String>,
    /// Bytes of a box, by where its tensor map lies in the parameters.
    pub boxes: &'a [(usize, u32)],
}

/// The operations of a launch that matter here, each once, and which of them every thread does.
#[derive(Default)]
pub struct Recording {
    operations: Vec<Operation>,
    numbers: HashMap<Operation, usize>,
    /// By CTA and thread.
    threads: Vec<Vec<Vec<usize>>>,
}

impl Recording {
    /// The next operation of a thread.
    pub fn record(&mut self, cta: usize, thread: usize, name: &'static str, operands: &[u64]) {
        let operands = match name {
            // What it writes does not matter, only where.
            _ if accessed(name).is_some() => &operands[..1],
            // Nor what it reads from registers.
            "wgmma_rs_k16_bf16_mn" => &[operands[0], operands[5]],
            // Nor whether it adds to what is there.
            _ if name.starts_with("wgmma_k") => &operands[..3],
            _ if IGNORED.contains(&name) => return,
            _ => operands,
        };
        let operation = Operation { name, operands: operands.to_vec() };
        let next = self.operations.len();
        let number = *self.numbers.entry(operation).or_insert_with_key(|operation| {
            self.operations.push(operation.clone());
            next
        });
        if self.threads.len() <= cta {
            self.threads.resize_with(cta + 1, Vec::new);
        }
        let threads = &mut self.threads[cta];
        if threads.len() <= thread {
            threads.resize_with(thread + 1, Vec::new);
        }
        threads[thread].push(number);
    }

    /// What each cluster of so many CTAs does, if the kernel has mbarriers.
    ///
    /// # Errors
    /// What is not known of an operation.
    pub fn programs(&self, cluster: usize, names: &Names) -> Result<Vec<Program>, String> {
        let inits = self.operations.iter().filter(|operation| operation.name == "mbarrier_init");
        let bars: BTreeSet<u64> = inits.map(|init| init.operands[0]).collect();
        let bars: Vec<u64> = bars.into_iter().collect();
        if bars.is_empty() {
            return Ok(Vec::new());
        }
        let pieces = pieces(&self.operations, names)?;
        let reader = Reader { cluster, bars: &bars, names, pieces: &pieces };
        let actions: Result<Vec<Action>, String> =
            self.operations.iter().map(|operation| reader.action(operation)).collect();
        let actions = actions?;
        let name =
            |bar: &u64| names.bars.get(bar).cloned().unwrap_or_else(|| format!("the mbarrier at {bar:#x}"));
        let program = |ctas: &[Vec<Vec<usize>>]| Program {
            ctas: ctas.len(),
            bars: bars.iter().map(name).collect(),
            pieces: pieces.clone(),
            roles: roles(ctas, &actions),
        };
        Ok(self.threads.chunks(cluster).map(program).collect())
    }
}

/// The roles of a cluster.
fn roles(ctas: &[Vec<Vec<usize>>], actions: &[Action]) -> Vec<Role> {
    let mut roles: Vec<Role> = Vec::new();
    for (cta, threads) in ctas.iter().enumerate() {
        for (warp, lanes) in threads.chunks(LANES).enumerate() {
            let first = roles.len();
            for (lane, numbers) in lanes.iter().enumerate() {
                let (steps, touches) = steps(cta, numbers.iter().map(|&number| &actions[number]));
                match roles[first..].iter_mut().find(|role| role.steps == steps) {
                    Some(role) => role.join(lane, touches),
                    None => roles.push(Role { cta, warp, lanes: vec![lane], steps, touches }),
                }
            }
        }
    }
    for touch in roles.iter_mut().flat_map(|role| &mut role.touches) {
        for pieces in [&mut touch.reads, &mut touch.writes] {
            pieces.sort_unstable();
            pieces.dedup();
        }
    }
    roles
}

/// The steps of a thread, and what it touches between them.
fn steps<'a>(cta: usize, actions: impl Iterator<Item = &'a Action>) -> (Vec<Step>, Vec<Touch>) {
    let (mut steps, mut touches, mut touch) = (Vec::new(), Vec::new(), Touch::default());
    // Products with nothing between them that waits or tells are one step.
    let mut products: Vec<usize> = Vec::new();
    let mut push = |step: Option<Step>, products: &mut Vec<usize>, touch: &mut Touch| {
        let multiply = (!products.is_empty()).then(|| {
            products.sort_unstable();
            products.dedup();
            Step::Multiply { reads: mem::take(products).into() }
        });
        for step in multiply.into_iter().chain(step) {
            steps.push(step);
            touches.push(mem::take(touch));
        }
    };
    for action in actions {
        match action {
            Action::Reads(pieces) => touch.reads.extend(pieces.clone()),
            Action::Writes(pieces) => touch.writes.extend(pieces.clone()),
            Action::Product(pieces) => products.extend(pieces),
            Action::Step(step) => push(Some(step.at_home(cta)), &mut products, &mut touch),
        }
    }
    push(None, &mut products, &mut touch);
    touches.push(touch);
    (steps, touches)
}

impl Step {
    /// As CTA `home` of a cluster takes a step that speaks of its own.
    fn at_home(&self, home: usize) -> Self {
        let mut step = self.clone();
        match &mut step {
            Self::Arrive { cta, .. } if *cta == OWN => *cta = home,
            Self::Load { ctas, .. } if ctas[..] == [OWN] => ctas[0] = home,
            _ => {}
        }
        step
    }
}

impl Role {
    fn join(&mut self, lane: usize, touches: Vec<Touch>) {
        self.lanes.push(lane);
        for (all, own) in self.touches.iter_mut().zip(touches) {
            all.reads.extend(own.reads);
            all.writes.extend(own.writes);
        }
    }
}

fn box_bytes(map: u64, names: &Names) -> Result<u64, String> {
    let found = names.boxes.iter().find(|&&(offset, _)| offset as u64 == map);
    let (_, bytes) = found.ok_or_else(|| format!("nobody says how large a box of the map at {map} is"))?;
    Ok(u64::from(*bytes))
}

/// What the descriptor of a tile of `lines` describes, as `descriptor.h` makes them.
fn tile(descriptor: u64, lines: u64, n_major: bool) -> Vec<Range<u64>> {
    let start = (descriptor & 0x3fff) << 4;
    let (leading, stride) = ((descriptor >> 16 & 0x3fff) << 4, (descriptor >> 32 & 0x3fff) << 4);
    let begins: Vec<u64> = if n_major {
        let spans = 0..(2 * lines).div_ceil(ROW_BYTES);
        spans.flat_map(|span| (0..PRODUCT_K / 8).map(move |group| span * leading + group * stride)).collect()
    } else {
        (0..lines / 8).map(|group| group * stride).collect()
    };
    let first = start / ROW_BYTES * ROW_BYTES;
    begins.into_iter().map(|begin| first + begin..first + begin + ATOM_BYTES).collect()
}

/// What an operation reads or writes of shared memory by TMA or the tensor core.
fn operands(operation: &Operation, names: &Names) -> Result<Vec<Range<u64>>, String> {
    Ok(match (operation.name, &operation.operands[..]) {
        (
            "tma_load_2d" | "tma_load_3d" | "tma_load_2d_multicast" | "tma_load_3d_multicast",
            &[map, at, ..],
        )
        | ("tma_store_2d" | "tma_store_3d", &[map, at, ..]) => {
            iter::once(at..at + box_bytes(map, names)?).collect()
        }
        ("bulk_copy_to_cta", &[to, _, from, bytes, _]) => vec![to..to + bytes, from..from + bytes],
        ("wgmma_k32_e4m3" | "wgmma_k16_bf16", &[registers, a, b]) => {
            [tile(a, PRODUCT_ROWS, false), tile(b, 2 * registers, false)].concat()
        }
        ("wgmma_k16_bf16_mn", &[registers, a, b]) => {
            [tile(a, PRODUCT_ROWS, false), tile(b, 2 * registers, true)].concat()
        }
        ("wgmma_rs_k16_bf16_mn", &[registers, b]) => tile(b, 2 * registers, true),
        _ => Vec::new(),
    })
}

/// The bytes that TMA or the tensor core touches, cut where an operand begins or ends.
fn pieces(operations: &[Operation], names: &Names) -> Result<Vec<Range<u64>>, String> {
    let mut touched = BTreeSet::new();
    for operation in operations {
        touched.extend(operands(operation, names)?.into_iter().map(|range| (range.start, range.end)));
    }
    let mut cuts: BTreeMap<u64, i64> = BTreeMap::new();
    for (start, end) in touched {
        *cuts.entry(start).or_default() += 1;
        *cuts.entry(end).or_default() -= 1;
    }
    let mut pieces = Vec::new();
    let (mut depth, mut begin) = (0, 0);
    for (at, change) in cuts {
        if depth > 0 {
            pieces.push(begin..at);
        }
        depth += change;
        begin = at;
    }
    Ok(pieces)
}

/// What an operation is here.
enum Action {
    Step(Step),
    Product(Vec<usize>),
    Reads(Range<usize>),
    Writes(Range<usize>),
}

/// In place of a CTA: that of the thread.
const OWN: usize = usize::MAX;

struct Reader<'a> {
    cluster: usize,
    bars: &'a [u64],
    names: &'a Names<'a>,
    pieces: &'a [Range<u64>],
}

impl Reader<'_> {
    /// Those that the range has bytes of.
    fn pieces_of(&self, range: Range<u64>) -> Range<usize> {
        let first = self.pieces.partition_point(|piece| piece.end <= range.start);
        first..self.pieces.partition_point(|piece| piece.start < range.end)
    }

    fn bar(&self, address: u64) -> Result<usize, String> {
        self.bars.binary_search(&address).map_err(|_| format!("no mbarrier is initialised at {address:#x}"))
    }

    fn action(&self, operation: &Operation) -> Result<Action, String> {
        let at = operation.operands.first().copied().unwrap_or_default();
        if let Some((bytes, writes)) = accessed(operation.name) {
            let pieces = self.pieces_of(at..at + bytes);
            return Ok(if writes { Action::Writes(pieces) } else { Action::Reads(pieces) });
        }
        if operation.name.starts_with("wgmma_k") || operation.name.starts_with("wgmma_rs") {
            let ranges = operands(operation, self.names)?;
            let mut pieces: Vec<usize> = ranges.into_iter().flat_map(|range| self.pieces_of(range)).collect();
            pieces.sort_unstable();
            pieces.dedup();
            return Ok(Action::Product(pieces));
        }
        self.step(operation).map(Action::Step)
    }

    fn step(&self, operation: &Operation) -> Result<Step, String> {
        let pieces = |from: u64, bytes: u64| -> Pieces { self.pieces_of(from..from + bytes).collect() };
        let rank = |rank: u64| match (rank as usize) < self.cluster {
            true => Ok(rank as usize),
            false => Err(format!("{operation} in a cluster of {}", self.cluster)),
        };
        let step = match (operation.name, &operation.operands[..]) {
            ("mbarrier_init", &[bar, count]) => Step::Init { bar: self.bar(bar)?, count: count as u32 },
            ("fence_mbarrier_init", _) => Step::FenceInits,
            ("mbarrier_arrive", &[bar]) => Step::Arrive { cta: OWN, bar: self.bar(bar)?, bytes: 0 },
            ("mbarrier_arrive_expect_tx", &[bar, bytes]) => {
                Step::Arrive { cta: OWN, bar: self.bar(bar)?, bytes: bytes as u32 }
            }
            ("mbarrier_arrive_cluster", &[bar, to]) => {
                Step::Arrive { cta: rank(to)?, bar: self.bar(bar)?, bytes: 0 }
            }
            ("mbarrier_wait", &[bar, parity]) => Step::Await { bar: self.bar(bar)?, parity: parity as u32 },
            ("syncwarp", _) => Step::SyncWarp,
            ("syncthreads", _) => Step::Sync { id: 0, threads: None, waits: true },
            ("named_barrier_sync" | "named_barrier_arrive", &[id, threads]) => {
                let waits = operation.name == "named_barrier_sync";
                Step::Sync { id: id as usize, threads: Some(threads as u32), waits }
            }
            ("cluster_arrive", _) => Step::ArriveAtCluster { relaxed: false },
            ("cluster_arrive_relaxed", _) => Step::ArriveAtCluster { relaxed: true },
            ("cluster_wait", _) => Step::AwaitCluster,
            ("fence_proxy_async_shared", _) => Step::Fence,
            ("tma_load_2d" | "tma_load_3d", &[map, to, bar, ..]) => self.load(vec![OWN], [map, to, bar])?,
            ("tma_load_2d_multicast" | "tma_load_3d_multicast", &[map, to, bar, .., mask]) => {
                let ctas: Result<Vec<usize>, String> =
                    (0..16).filter(|cta| mask >> cta & 1 != 0).map(rank).collect();
                self.load(ctas?, [map, to, bar])?
            }
            ("bulk_copy_to_cta", &[to, bar, from, bytes, cta]) => Step::Copy {
                cta: rank(cta)?,
                bar: self.bar(bar)?,
                bytes: bytes as u32,
                from: pieces(from, bytes),
                to: pieces(to, bytes),
            },
            ("tma_store_2d" | "tma_store_3d", &[map, from, ..]) => {
                Step::Store { from: pieces(from, box_bytes(map, self.names)?) }
            }
            ("bulk_commit_group", _) => Step::CommitStores,
            ("bulk_wait_group_read" | "bulk_wait_group", &[pending]) => {
                Step::AwaitStores { pending: pending as usize }
            }
            ("wgmma_commit_group", _) => Step::CommitProducts,
            ("wgmma_wait_group", &[pending]) => Step::AwaitProducts { pending: pending as usize },
            _ => return Err(format!("nobody knows what {operation} does to barriers and shared memory")),
        };
        Ok(step)
    }

    fn load(&self, ctas: Vec<usize>, [map, to, bar]: [u64; 3]) -> Result<Step, String> {
        let bytes = box_bytes(map, self.names)?;
        let pieces = self.pieces_of(to..to + bytes).collect();
        Ok(Step::Load { ctas, bar: self.bar(bar)?, bytes: bytes as u32, to: pieces })
    }
}

/// Bytes of shared memory that an ordinary load or store touches, and whether it writes them.
fn accessed(name: &str) -> Option<(u64, bool)> {
    Some(match name {
        "lds_f32" | "lds_u32" => (4, false),
        "lds_v4_u32" | "ldmatrix_x4" => (16, false),
        "sts_u32" | "sts_f32" => (4, true),
        "sts_v2_f32" => (8, true),
        "sts_v4_u32" | "stmatrix_x4" | "stmatrix_x2" => (16, true),
        _ => return None,
    })
}
