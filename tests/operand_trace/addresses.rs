//! No address rests on a product of 32 bits that may not fit them: of what nvcc made of every kernel, whatever was written.
//!
//! From the address of every access to global memory back over what it was computed from. A product of 32 bits on the way is
//! fine where the most that its factors can be says that it fits, or where [`BOUNDED`] says who sees to that.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use crate::parse::{Instruction, Operand, Program, Register};

/// A product that fits because of what a plan refuses, or a kernel has asked before.
pub struct Bounded {
    /// Below `cuda/`.
    file: &'static str,
    /// Of the line that has it.
    code: &'static str,
    why: &'static str,
}

impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, code, why } = self;
        write!(f, "{file}: `{code}` ({why})")
    }
}

impl Bounded {
    /// Whether it is one of this line, as [`source`] gives it.
    pub fn explains(&self, source: &str) -> bool {
        source.strip_prefix(self.file).is_some_and(|rest| rest.starts_with(':') && rest.contains(self.code))
    }
}

const fn bounded(file: &'static str, code: &'static str, why: &'static str) -> Bounded {
    Bounded { file, code, why }
}

const TILES: &str = "tiles start within D, of at most 2^31 rows and columns";
const CTAS: &str = "the plan has as many CTAs as these need";

pub const BOUNDED: [Bounded; 39] = [
    bounded("gemm/fp8_gemm.cuh", "tile.expert * Config::kPanels", "at most 1024 experts"),
    bounded("gemm/fp8_gemm.cuh", "warpgroup * kRows", "two warpgroups"),
    bounded("gemm/fp8_gemm.cuh", "schedule.has_tile()", TILES),
    bounded("gemm/fp8_gemm.cuh", "m * Config::kCluster + ptx::cluster_rank()", TILES),
    bounded("gemm/fp8_gemm.cuh", "tile * Config::kBlockM", TILES),
    bounded("gemm/fp8_gemm.cuh", "at.n * Config::kBlockN", TILES),
    bounded("gemm/grouped_fp8_gemm.cuh", "at.n * Config::kBlockN", TILES),
    bounded("hopper/cta/exp.cuh", "+ 127) << 23", "of a score, by which an expert's id is chosen"),
    bounded("hopper/tile/order.h", "band * kBand", TILES),
    bounded("hopper/tile/order.h", "n / size + (n % size != 0)", TILES),
    bounded("mla/mla_combine.cuh", "2 * i * parts.rows", "fewer than 2^31 splits"),
    bounded("mla/merge_states.cuh", "% threads_per_row", "a column"),
    bounded("mla/mla_decode_load.cuh", "params.box_keys", "64 boxes of 64 keys at most"),
    bounded("mla/mla_decode_load.cuh", "j < work.blocks; ++j, kv.advance()", "a key of the sequence"),
    bounded("mla/mla_decode_load.cuh", "places = fp8_places(params, work, j + 1", "a key of the sequence"),
    bounded("mla/mla_decode_load.cuh", "next_words = fp8_words", "a key of the sequence"),
    bounded("mla/mla_decode_tile.cuh", "j * MLA_BLOCK_KEYS", "a key of the sequence"),
    bounded("mla/rope.cuh", "% threads_per_head", "a column"),
    bounded("moe/gate_map.cuh", "group * Config::kCluster", "at most 1025 groups"),
    bounded("mla/mla_decode_tile.cuh", "2 * index", "CTAs that run at the same time"),
    bounded(
        "mla/mla_decode_tile.cuh",
        "2 * (ptx::grid_dim() / p.row_tiles)",
        "CTAs that run at the same time",
    ),
    bounded("mla/mla_decode_tile.cuh", "w.first_row = tile * Config::kBlockRows", "a row of q"),
    bounded(
        "mla/mla_decode_tile.cuh",
        "w.split * params.split_blocks * MLA_BLOCK_KEYS",
        "a key of the sequence",
    ),
    bounded("mla/mla_prefill.cuh", "half * kPrefillHalfRows", "two warpgroups"),
    bounded(
        "mla/mla_prefill_tile.cuh",
        "(before + tiles - 1 - wanted) * Config::kBlockRows",
        "a token of the sequence",
    ),
    bounded("mla/mla_schedule.cuh", "ptx::cta_idx() * Config::kThreads", CTAS),
    bounded(
        "moe/expert_map_count.cuh",
        "block * Config::kThreads",
        "one of the blocks of fewer than 2^31 routes",
    ),
    bounded("moe/expert_map_scan.cuh", "ptx::cta_idx() * Config::kGroups", CTAS),
    bounded("moe/expert_map_scatter.cuh", "block * Config::kThreads", CTAS),
    bounded("moe/gate_map.cuh", "share * ptx::cta_idx() < tokens", "eight shares of few tokens"),
    bounded("moe/gate_map.cuh", "first * top_k, count * top_k", "routes of few tokens"),
    bounded(
        "moe/gate_up_swiglu.cuh",
        "second * (Config::kBlockN / Config::kPanels)",
        "the first panel or the second",
    ),
    bounded("moe/used_rows.cuh", "ptx::cta_idx() * kBlocksPerCta", CTAS),
    bounded("quant/quantize_128x128.cuh", "ptx::cta_idx() % blocks", "of a quotient, by its divisor"),
    bounded("quant/quantize_1x128.cuh", "ptx::cta_idx() * (Config::kThreads / kLanesPerRow)", CTAS),
    bounded(
        "router/expert_load.cuh",
        "static_cast<uint64_t>(ptx::cta_idx())",
        "behind a branch on the upper half",
    ),
    bounded("router/gate_logits.cuh", "tile.chunk * GATE_CHUNK", "within fewer than 2^31 columns"),
    bounded("router/gate_logits.cuh", "expert_tiles * Config::kBlockTokens", CTAS),
    bounded("router/gate_logits.cuh", "% expert_tiles * Config::kBlockExperts", "at most 1024 experts"),
];

/// Operations that read memory: what they give is data, and whoever uses it as an index asks whether it is one.
const READS: [&str; 3] = ["ld", "atom", "ldmatrix"];

/// A product, and where it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// In the PTX.
    pub line: usize,
    pub text: String,
}

struct Slice<'p> {
    program: &'p Program,
    /// Who writes a register.
    writers: HashMap<Register, Vec<&'p Instruction>>,
    /// The most that a register of 32 bits can hold.
    most: HashMap<Register, u64>,
}

fn registers(operand: &Operand) -> Vec<Register> {
    match operand {
        Operand::Register(register) => vec![*register],
        Operand::Pair(first, second) => first.iter().chain(second).copied().collect(),
        Operand::Vector(all) => all.iter().flat_map(registers).collect(),
        Operand::Address(base, _) => registers(base),
        Operand::Sink
        | Operand::Immediate(_)
        | Operand::Name(_)
        | Operand::Tensor(..)
        | Operand::Target(_) => vec![],
    }
}

fn parts(instruction: &Instruction) -> Vec<&str> {
    instruction.form.split('.').collect()
}

fn is_read(instruction: &Instruction) -> bool {
    READS.contains(&parts(instruction)[0])
}

/// Of 32 bits, without those above.
fn is_product(instruction: &Instruction) -> bool {
    match parts(instruction)[..] {
        ["mul" | "mad", "lo", width] => matches!(width, "s32" | "u32"),
        ["shl", width] => width == "b32",
        _ => false,
    }
}

impl<'p> Slice<'p> {
    fn new(program: &'p Program) -> Self {
        let mut writers: HashMap<Register, Vec<&Instruction>> = HashMap::new();
        for instruction in &program.instructions {
            let result = instruction.operands.first().filter(|_| !instruction.form.starts_with("st"));
            for register in result.map(registers).unwrap_or_default() {
                writers.entry(register).or_default().push(instruction);
            }
        }
        Self { program, writers, most: HashMap::new() }
    }

    fn writers(&self, register: Register) -> &[&'p Instruction] {
        self.writers.get(&register).map_or(&[], Vec::as_slice)
    }

    /// The most that an operand of 32 bits can be.
    fn most_of(&mut self, operand: &Operand) -> u64 {
        match operand {
            Operand::Immediate(value) => u64::from(*value as u32),
            Operand::Name(name) if name == "%tid.x" => self.program.threads - 1,
            Operand::Name(name) if name == "%ctaid.x" || name == "%nctaid.x" => i32::MAX as u64,
            Operand::Name(name) if name == "%cluster_ctarank" => self.program.cluster - 1,
            Operand::Register(register) => self.most(*register),
            _ => u64::from(u32::MAX),
        }
    }

    fn most(&mut self, register: Register) -> u64 {
        if let Some(&known) = self.most.get(&register) {
            return known;
        }
        // Of what depends on itself, as counters of loops do, nothing is known.
        self.most.insert(register, u32::MAX.into());
        let writers = self.writers(register).to_vec();
        let most = writers.into_iter().map(|writer| self.most_written(writer)).max();
        let most = most.unwrap_or(u32::MAX.into()).min(u32::MAX.into());
        self.most.insert(register, most);
        most
    }

    fn most_written(&mut self, writer: &Instruction) -> u64 {
        let operands = writer.operands[1..].to_vec();
        let mut of = |i: usize| self.most_of(&operands[i]);
        match parts(writer)[..] {
            ["mov", ..] => of(0),
            ["and", ..] => of(0).min(of(1)),
            ["or" | "xor", ..] => (of(0) | of(1)).checked_add(1).map_or(u64::MAX, u64::next_power_of_two) - 1,
            ["add", ..] => of(0) + of(1),
            ["mul", "lo", ..] => of(0) * of(1),
            ["mad", "lo", ..] => (of(0) * of(1)).saturating_add(of(2)),
            ["shl", ..] => of(0) << of(1).min(31),
            ["shr", "u32"] if matches!(operands[1], Operand::Immediate(_)) => of(0) >> of(1).min(31),
            ["div", "u32"] if matches!(operands[1], Operand::Immediate(_)) => of(0) / of(1).max(1),
            ["rem", "u32"] => of(0).min(of(1).saturating_sub(1)),
            ["selp", ..] => of(0).max(of(1)),
            ["min", "u32"] => of(0).min(of(1)),
            ["max", "u32"] => of(0).max(of(1)),
            _ => u32::MAX.into(),
        }
    }

    /// x / y * y, which is no more than x.
    fn is_of_a_quotient(&self, product: &Instruction) -> bool {
        let divides = |quotient: &Operand, divisor: &Operand| {
            let writers = registers(quotient).into_iter().flat_map(|register| self.writers(register));
            let mut writers = writers.copied();
            writers.any(|writer| writer.form.starts_with("div.") && writer.operands[2] == *divisor)
        };
        let [_, a, b, ..] = &product.operands[..] else { return false };
        divides(a, b) || divides(b, a)
    }

    /// The registers that the result rests on. The low bits of a product, which a mask leaves, are right whether it fits or not.
    fn behind(&self, writer: &Instruction) -> Vec<Register> {
        let factors = |register: Register| {
            let products = self.writers(register).iter().filter(|writer| is_product(writer));
            let factors: Vec<Register> =
                products.flat_map(|product| &product.operands[1..]).flat_map(registers).collect();
            if factors.is_empty() { vec![register] } else { factors }
        };
        let operands = writer.operands[1..].iter().flat_map(registers);
        match &writer.operands[..] {
            [_, _, Operand::Immediate(_)] if writer.form == "and.b32" => operands.flat_map(factors).collect(),
            _ => operands.collect(),
        }
    }

    fn fits(&mut self, product: &Instruction) -> bool {
        let most = match &product.operands[..] {
            [_, a, Operand::Immediate(shift)] if product.form == "shl.b32" => {
                self.most_of(a) << shift.min(&31)
            }
            [_, a, b, ..] => self.most_of(a) * self.most_of(b),
            _ => u64::MAX,
        };
        most <= u32::MAX.into() || self.is_of_a_quotient(product)
    }
}

fn is_access(instruction: &Instruction) -> bool {
    let parts = parts(instruction);
    matches!(parts[0], "ld" | "st" | "red" | "atom") && parts.contains(&"global")
}

/// The products that addresses of global memory rest on and that may not fit, in the order of the text.
pub fn products(program: &Program) -> Vec<Product> {
    let mut slice = Slice::new(program);
    let accesses = program.instructions.iter().filter(|instruction| is_access(instruction));
    let addresses =
        accesses.flat_map(|access| &access.operands).filter(|o| matches!(o, Operand::Address(..)));
    let mut open: Vec<Register> = addresses.flat_map(registers).collect();
    let (mut seen, mut found) = (HashSet::new(), HashSet::new());
    while let Some(register) = open.pop() {
        if !seen.insert(register) {
            continue;
        }
        for writer in slice.writers(register).to_vec() {
            if is_read(writer) {
                continue;
            }
            if is_product(writer) && !slice.fits(writer) {
                found.insert(Product { line: writer.line, text: writer.text.clone() });
            }
            open.extend(slice.behind(writer));
        }
    }
    let mut found: Vec<Product> = found.into_iter().collect();
    found.sort_by_key(|product| product.line);
    found
}

/// Where each line of a PTX text was written, file below `cuda/` and line, as far as the compiler says.
pub fn places(ptx: &str) -> Vec<Option<(String, usize)>> {
    let mut files: HashMap<&str, String> = HashMap::new();
    for line in ptx.lines() {
        if let Some((number, path)) =
            line.trim().strip_prefix(".file").and_then(|rest| rest.trim().split_once(char::is_whitespace))
        {
            let path = path.trim().trim_matches('"');
            files.insert(number, path.rsplit_once("/cuda/").map_or(path, |(_, below)| below).to_owned());
        }
    }
    let mut place = None;
    let mut places = Vec::new();
    for line in ptx.lines() {
        if let Some(rest) = line.trim().strip_prefix(".loc") {
            let mut words = rest.split_whitespace();
            let (file, line) =
                (words.next().unwrap_or_default(), words.next().and_then(|line| line.parse().ok()));
            // No line: the compiler's own, beside what came before.
            place = if line == Some(0) { place } else { files.get(file).cloned().zip(line) };
        }
        places.push(place.clone());
    }
    places
}

/// A line of the sources, with its file and number.
pub fn source((file, line): &(String, usize)) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/cuda")).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    format!("{file}:{line}: {}", text.lines().nth(line - 1).unwrap_or_default().trim())
}
