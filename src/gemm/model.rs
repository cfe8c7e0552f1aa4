//! How long a GEMM takes, in closed form: what the planner ranks instances by, and prints.
//!
//! ```text
//! T      = start + (SM^p + DRAM^p)^(1/p)                two things that overlap, but not wholly
//! SM     = waves * (K/128 * block + ends) / clock       the busiest multiprocessor
//! block  = max(loop, shared memory, L2) * (1 + drift)   a K block of its tile, in cycles
//! DRAM   = bytes of the operands and of D / rate        each of them once
//! clock  = idle ... busy, by how much of the time the tensor cores multiply
//! ```
//!
//! A number here is *arithmetic* of the hardware, *counted* in compiled loops, or *fitted*: to DeepGEMM's published times and
//! to times of our own (`calibration.rs`, whose test fails unless the fitted ones are what the fit gives). Rows that are few
//! count as the bytes that are loaded, and their measured slowness is not fitted. What is not in it: a clock that falls
//! further in long launches, bytes that L2 loses and DRAM gives again, experts of unequal rows, accumulation, another card's
//! clocks and memory, and rings too short for the latency, of which the table has none.

use std::fmt;

use super::planner::GemmProblem;
use crate::quant::blocks;
use crate::table::gemm::{GemmInstance, OutputType, SLICE_ROWS, Schedule};
use crate::table::quant::BLOCK;

#[cfg(test)]
mod calibration;
#[cfg(test)]
mod predictions;

/// What a `wgmma` takes of a K block, whose elements are bytes.
const WGMMA_K: u32 = 32;
/// Bytes that shared memory gives or takes per cycle. Arithmetic.
const SMEM_BYTES_PER_CYCLE: f64 = 128.0;
/// Bytes per cycle that come into a multiprocessor from L2. Assumed: its port has 64, and no time that is known needs more than
/// this, since all have CTAs on nearly all multiprocessors. The fit is the same with 64, but would have half as many CTAs take
/// as much as all of them, which nobody has seen.
const INGRESS_BYTES_PER_CYCLE: f64 = 56.0;
/// Cycles of a K block that no product fills, where the next block's products run beside promotion: counted in what a warp
/// issues for tiles of 16 to 64 columns, with every operand at hand and latencies assumed.
const IN_FLIGHT_CYCLES: f64 = 150.0;
/// The columns up to which a warpgroup has the registers for that.
const IN_FLIGHT_COLUMNS: u32 = 128;
/// Cycles of a tile's end, and of them those of each sum that a thread converts and stores: counted.
const ENDS_CYCLES: f64 = 380.0;
const ENDS_CYCLES_PER_SUM: f64 = 2.5;
/// What a sum of gate or of up takes besides, for SwiGLU and a code: counted.
const SWIGLU_CYCLES_PER_SUM: f64 = 28.0;
/// What two math warpgroups lose where they use the same things by turns, as a part of a K block. Fitted.
const DRIFT: f64 = 0.07;

/// A kernel, as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Loop {
    /// Rows of D per CTA.
    pub block_m: u32,
    /// Columns of D per CTA.
    pub block_n: u32,
    /// CTAs that start together, neighbours along M.
    pub cluster: u32,
    /// The parts of its A and B that a CTA asks L2 for; the rest comes with what its peer asks for.
    pub fetched: [f64; 2],
    /// Cycles of a K block with its operands at hand.
    pub cycles: f64,
    /// What a K block takes longer than the slowest of what it uses, as a part of that.
    pub drift: f64,
    /// Cycles of a tile that no product fills: from its last product to the next tile's first.
    pub ends: f64,
    /// Tiles that a CTA takes together.
    pub together: u32,
    /// What goes to memory of an element of D.
    pub output_bytes: f64,
}

impl Loop {
    /// Ours.
    pub fn new(block_m: u32, block_n: u32, cluster: u32, output: OutputType) -> Self {
        let alone = block_m == SLICE_ROWS;
        let products = products(block_m, block_n);
        let cycles = match alone {
            true if block_n <= IN_FLIGHT_COLUMNS => products.max(IN_FLIGHT_CYCLES),
            true => products + promotion(block_n),
            false => products,
        };
        let drift = if alone { 0.0 } else { DRIFT };
        let ends = ENDS_CYCLES + ENDS_CYCLES_PER_SUM * f64::from(sums(block_m, block_n));
        let fetched = [1.0, 1.0 / f64::from(cluster)];
        let output_bytes = f64::from(output.bytes());
        Self { block_m, block_n, cluster, fetched, cycles, drift, ends, together: 1, output_bytes }
    }

    /// Of a compiled instance.
    pub fn of(instance: &GemmInstance) -> Self {
        let GemmInstance { block_m, block_n, cluster, output, schedule } = *instance;
        let kernel = Self::new(block_m, block_n, cluster, output);
        match schedule {
            Schedule::Dense | Schedule::Grouped => kernel,
            Schedule::GateUp => Self {
                ends: kernel.ends + SWIGLU_CYCLES_PER_SUM * f64::from(sums(block_m, block_n)),
                together: instance.tiles_together(),
                output_bytes: (1.0 + size_of::<f32>() as f64 / f64::from(BLOCK)) / 2.0,
                ..kernel
            },
        }
    }

    /// Tiles of D for `rows` rows of each expert, those past the edge that complete a cluster included; those that a CTA takes
    /// together are one.
    pub fn tiles(&self, problem: &GemmProblem, rows: usize) -> u64 {
        let clusters = rows.div_ceil((self.block_m * self.cluster) as usize) as u64;
        let columns = problem.n.div_ceil((self.block_n * self.together) as usize) as u64;
        problem.experts as u64 * clusters * u64::from(self.cluster) * columns
    }
}

/// `wgmma`s of a K block. Fewer rows than a slice has multiply as many.
fn wgmmas(block_m: u32) -> f64 {
    f64::from(block_m.div_ceil(SLICE_ROWS) * BLOCK / WGMMA_K)
}

/// Cycles in which a K block multiplies: N/2 of each `wgmma`.
fn multiply(block_m: u32, block_n: u32) -> f64 {
    wgmmas(block_m) * f64::from(block_n) / 2.0
}

/// Cycles of the products of a K block: narrow ones take as long as their operands.
fn products(block_m: u32, block_n: u32) -> f64 {
    multiply(block_m, block_n).max(operand_bytes(block_m, block_n) / SMEM_BYTES_PER_CYCLE)
}

/// Bytes of shared memory that the products of a K block read.
fn operand_bytes(block_m: u32, block_n: u32) -> f64 {
    wgmmas(block_m) * f64::from(WGMMA_K * (SLICE_ROWS + block_n))
}

/// Cycles between the products of two blocks, where a warpgroup is alone and has one block in flight. Counted.
fn promotion(block_n: u32) -> f64 {
    117.0 + 0.47 * f64::from(block_n.saturating_sub(64))
}

/// Sums in registers of a math thread.
fn sums(block_m: u32, block_n: u32) -> u32 {
    block_m * block_n / if block_m > SLICE_ROWS { 256 } else { 128 }
}

/// A card, and the state in which it is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Machine {
    pub multiprocessors: u32,
    /// GHz while no tensor core works.
    pub idle_ghz: f64,
    /// GHz while all of them do, all the time.
    pub busy_ghz: f64,
    /// Bytes per cycle that L2 gives to all multiprocessors together; what two CTAs share is given once.
    pub l2_bytes_per_cycle: f64,
    /// Bytes per microsecond of DRAM.
    pub dram_bytes_per_us: f64,
    /// Microseconds before the first product and after the last store has begun.
    pub start_us: f64,
    /// `p`: 1 where one of two things waits for the other, infinite where they overlap wholly.
    pub overlap: f64,
}

impl Machine {
    /// An H100 SXM, or what has as many of its multiprocessors; L2 cold and clean. The clock of no work is the card's
    /// greatest, DRAM's rate that of kernels which only read; the others are fitted.
    pub const fn h100(multiprocessors: u32) -> Self {
        Self {
            multiprocessors,
            idle_ghz: 1.98,
            busy_ghz: 1.40,
            l2_bytes_per_cycle: 6350.0,
            dram_bytes_per_us: 2.9e6,
            start_us: 3.25,
            overlap: 3.8,
        }
    }

    /// CTAs that run at the same time, in clusters.
    pub fn ctas(&self, cluster: u32) -> u32 {
        (self.multiprocessors / cluster).max(1) * cluster
    }

    /// The time of `tiles` on `ctas`, which hold `rows` rows of each expert.
    pub fn time(&self, kernel: &Loop, problem: &GemmProblem, rows: usize, tiles: u32, ctas: u32) -> Estimate {
        if tiles == 0 {
            return Estimate::default();
        }
        let &Loop { block_m, block_n, fetched, .. } = kernel;
        let (waves, tiles) = (f64::from(tiles.div_ceil(ctas)), f64::from(tiles));
        // Of A's rows only those that exist are loaded, each with its scale.
        let a = f64::from(BLOCK + 4) * rows as f64 / rows.div_ceil(block_m as usize) as f64;
        let b = f64::from(BLOCK * block_n);
        let tensor = multiply(block_m, block_n);
        let smem = (operand_bytes(block_m, block_n) + a + b) / SMEM_BYTES_PER_CYCLE;
        let given = f64::from(ctas) * (fetched[0] * a + fetched[1] * b);
        let l2 = (given / self.l2_bytes_per_cycle).max((a + b) / INGRESS_BYTES_PER_CYCLE);
        let shared = tensor.max(smem).max(l2);
        let waited = (kernel.cycles - shared).max(0.0) + kernel.drift * shared;

        let together = f64::from(kernel.together);
        let (blocks, ends) = (together * blocks(problem.k) as f64, together * kernel.ends);
        let cycles = waves * (blocks * (shared + waited) + ends);
        let busy = tiles * blocks * tensor / (f64::from(self.multiprocessors) * cycles);
        let ghz = self.idle_ghz + busy.min(1.0) * (self.busy_ghz - self.idle_ghz);
        let us = |cycles: f64| cycles / ghz / 1000.0;

        let dram = problem.bytes(rows, kernel.output_bytes) / self.dram_bytes_per_us;
        let overlapped = us(cycles).powf(self.overlap) + dram.powf(self.overlap);
        let [tensor, smem, l2] = [tensor, smem, l2].map(|cycles| us(waves * blocks * cycles));
        let latency = self.start_us + us(waves * (blocks * waited + ends));
        let us = self.start_us + overlapped.powf(self.overlap.recip());
        Estimate { us, parts: [tensor, smem, l2, dram, latency] }
    }
}

/// What takes time.
pub(super) const PARTS: [&str; 5] = ["tensor", "shared memory", "L2", "DRAM", "latency"];

/// What the model says of a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    /// Microseconds.
    pub us: f64,
    /// Microseconds of each of [`PARTS`] by itself; the first three of a K block's go on at the same time, and DRAM's beside
    /// them. Latency: the start, the ends of tiles, and what a K block waits for besides.
    pub parts: [f64; PARTS.len()],
}

impl Estimate {
    /// The part that is longest.
    pub fn bound(&self) -> &'static str {
        let longest = PARTS.iter().zip(self.parts).max_by(|(_, a), (_, b)| a.total_cmp(b));
        longest.map_or("", |(name, _)| name)
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model: {:.1} us, bound by {}", self.us, self.bound())?;
        let mut separator = " (";
        for (name, us) in PARTS.iter().zip(self.parts) {
            write!(f, "{separator}{name} {us:.1}")?;
            separator = ", ";
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::gemm::GEMM_INSTANCES;

    fn dense(rows: usize, n: usize, k: usize) -> GemmProblem {
        GemmProblem { experts: 1, rows, n, k, parts: 1 }
    }

    /// The time of each compiled instance.
    fn times(problem: &GemmProblem, multiprocessors: u32) -> impl Iterator<Item = (String, Estimate)> {
        GEMM_INSTANCES.iter().map(move |instance| {
            let choice = problem.launch(instance, problem.rows, multiprocessors).unwrap();
            (instance.name(), choice.estimate)
        })
    }

    #[test]
    fn rows_that_do_not_exist_are_not_loaded() {
        for rows in 1..64 {
            let [fewer, more] = [rows, rows + 1].map(|rows| dense(rows, 2112, 7168));
            for ((name, fewer), (_, more)) in times(&fewer, 132).zip(times(&more, 132)) {
                assert!(fewer.us < more.us, "{name}: {rows} rows {fewer}, one more {more}");
                assert!(fewer.parts[2] < more.parts[2], "{name}: {rows} rows {fewer}, one more {more}");
            }
        }
    }

    #[test]
    fn fewer_multiprocessors_are_slower() {
        for (rows, n, k) in [(4096, 4096, 7168), (4096, 2112, 7168), (128, 32768, 512)] {
            let problem = dense(rows, n, k);
            for ((name, few), (_, many)) in times(&problem, 66).zip(times(&problem, 132)) {
                assert!(few.us > many.us, "{name}: on half of them {few}, on all {many}");
            }
        }
    }

    /// A pair is of one expert, so that its second tile may be empty; it is walked all the same.
    #[test]
    fn pairs_are_whole() {
        let experts = |rows| GemmProblem { experts: 8, rows, n: 4096, k: 7168, parts: 1 };
        let [alone, pairs] = [1, 2].map(|cluster| Loop::new(128, 128, cluster, OutputType::Bf16));
        for (rows, of_one) in [(1, [1, 2]), (128, [1, 2]), (129, [2, 2]), (300, [3, 4])] {
            let tiles = [alone, pairs].map(|kernel| kernel.tiles(&experts(rows), rows));
            assert_eq!(tiles, of_one.map(|tiles| 8 * 32 * tiles), "{rows} rows");
        }
        let machine = Machine::h100(132);
        let us = |kernel: &Loop| {
            machine.time(kernel, &experts(128), 128, kernel.tiles(&experts(128), 128) as u32, 132).us
        };
        assert!(us(&pairs) > us(&alone));
    }

    /// Any sizes that a plan may have, and no more than a line.
    #[test]
    fn every_choice_says_what_bounds_it() {
        let sizes = [0, 1, 128, i32::MAX as usize / 128 * 128];
        for (rows, n, k) in
            sizes.into_iter().flat_map(|m| sizes.into_iter().flat_map(move |n| sizes.map(|k| (m, n, k))))
        {
            for instance in GEMM_INSTANCES {
                let Ok(choice) = dense(rows, n, k).launch(instance, rows, 132) else { continue };
                let text = choice.to_string();
                assert!(choice.estimate.us.is_finite() && choice.estimate.us >= 0.0, "{text}");
                assert!(PARTS.iter().all(|part| text.contains(part)) && text.lines().count() == 1, "{text}");
            }
        }
        let bound = |m, n, k| {
            let best = dense(m, n, k).fastest(GEMM_INSTANCES.iter(), m, 132).unwrap();
            best.estimate.bound()
        };
        assert_eq!(bound(4096, 7168, 16384), "shared memory");
        assert_eq!(bound(1, 7168, 16384), "DRAM");
        assert_eq!(bound(64, 2112, 7168), "L2");
        assert_eq!(bound(1, 16, 128), "latency");
    }
}
