//! Compiled kernels as instructions: what `nvdisasm -c -hex` prints of a cubin with one kernel.

mod flow;
pub mod multiply;
pub mod rules;
mod softmax;

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes from the start of the kernel.
    pub address: u32,
    /// Whether a predicate decides if it is executed.
    pub guarded: bool,
    /// "QGMMA.64x16x32.F32.E4M3.E4M3".
    pub opcode: String,
    pub operands: String,
    /// The scoreboards it waits for, a bit each: an earlier load, or another operation of unknown length, must be done.
    pub scoreboards: u8,
    /// Cycles before the next instruction of the warp may be issued.
    pub stall: u8,
}

impl Instruction {
    /// "QGMMA".
    pub fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or(&self.opcode)
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { address, opcode, operands, .. } = self;
        write!(f, "/*{address:04x}*/ {}", format!("{opcode} {operands}").trim_end())
    }
}

/// The instructions of a kernel, in the order of their addresses.
#[derive(Debug)]
pub struct Kernel {
    pub instructions: Vec<Instruction>,
    /// Where a label points: an index into `instructions`.
    labels: HashMap<String, usize>,
}

/// Reads a disassembly.
pub fn parse(text: &str) -> Result<Kernel> {
    let mut kernel = Kernel { instructions: Vec::new(), labels: HashMap::new() };
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(label) = line.strip_suffix(':').filter(|label| !label.contains(char::is_whitespace)) {
            kernel.labels.insert(label.to_owned(), kernel.instructions.len());
        } else if let Some((address, rest)) = numbered(line) {
            let expected = 16 * kernel.instructions.len();
            ensure!(
                address as usize == expected,
                "an instruction at {address:#x}, expected at {expected:#x}"
            );
            let high =
                lines.next().with_context(|| format!("no second half of the encoding after {line}"))?;
            kernel.instructions.push(instruction(address, rest, high).with_context(|| line.to_owned())?);
        }
    }
    if kernel.instructions.is_empty() {
        bail!("a disassembly without instructions");
    }
    Ok(kernel)
}

/// `/*0040*/ text`.
fn numbered(line: &str) -> Option<(u32, &str)> {
    let (address, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    Some((u32::from_str_radix(address, 16).ok()?, rest))
}

/// `@P0 BRA `(.L_x_1) ; /* 0x0000000000007947 */`, and the line below with the upper 64 bits of the encoding.
fn instruction(address: u32, text: &str, high: &str) -> Result<Instruction> {
    let text = text.split_once(';').context("no semicolon")?.0.trim();
    let (guarded, text) = match text.strip_prefix('@') {
        Some(guarded) => (true, guarded.split_once(' ').context("a guard alone")?.1.trim_start()),
        None => (false, text),
    };
    let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
    let high = high.strip_prefix("/*").and_then(|high| high.strip_suffix("*/")).map(str::trim);
    let high = high.and_then(|high| u64::from_str_radix(high.strip_prefix("0x")?, 16).ok());
    let high = high.context("no encoding: nvdisasm -hex prints it")?;
    Ok(Instruction {
        address,
        guarded,
        opcode: opcode.to_owned(),
        operands: operands.trim().to_owned(),
        scoreboards: scoreboards(high),
        stall: stall(high),
    })
}

/// Bits 116 to 121 of the encoding. NVIDIA does not document them; papers that took Volta apart do, and Hopper encodes
/// its control bits alike.
fn scoreboards(high: u64) -> u8 {
    (high >> 52 & 0x3f) as u8
}

/// Bits 105 to 108, from the same source.
fn stall(high: u64) -> u8 {
    (high >> 41 & 0xf) as u8
}

/// A disassembly of `@P0 FMUL R1, R2`, `LABEL:` and so on, in which `wait N` before an instruction is its scoreboards.
#[cfg(test)]
pub fn assembled(source: &str) -> String {
    let mut text = String::from("\t.section\t.text.k,\"ax\",@progbits\n.text.k:\n");
    let mut address = 0;
    for line in source.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.ends_with(':') {
            text.extend([line, "\n"]);
            continue;
        }
        let (mask, line) = line.strip_prefix("wait ").map_or((0, line), |rest| {
            let (mask, line) = rest.split_once(' ').unwrap();
            (mask.parse::<u64>().unwrap(), line)
        });
        let high = mask << 52 | 0x000f_c200_0000_0000; // a stall of one cycle
        let low = format!("        /*{address:04x}*/    {line} ;    /* 0x00000000000079c3 */\n");
        let high = format!("                                      /* {high:#018x} */\n");
        text.extend([low, high]);
        address += 16;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read() {
        // As nvdisasm prints them, addresses aside.
        let text = "\t.headerflags\t@\"EF_CUDA_SM90\"\n.text.k:\n.L_x_7:\n\
            \x20       /*0000*/                   FMUL R12, R13.reuse, R12 ;            /* 0x0000000c0d0c7220 */\n\
            \x20                                                                        /* 0x024fe20000400000 */\n\
            \x20       /*0010*/              @!P0 BRA `(.L_x_7) ;                        /* 0x0000000000088947 */\n\
            \x20                                                                        /* 0x000fea0003800000 */\n\
            \x20       /*0020*/                   EXIT ;                                 /* 0x000000000000794d */\n\
            \x20                                                                        /* 0x000fea0003800000 */\n";
        let kernel = parse(text).unwrap();
        let fields = |i: usize| {
            let Instruction { guarded, opcode, operands, scoreboards, stall, .. } = &kernel.instructions[i];
            (*guarded, opcode.as_str(), operands.as_str(), *scoreboards, *stall)
        };
        assert_eq!(fields(0), (false, "FMUL", "R12, R13.reuse, R12", 0x24, 1));
        assert_eq!(fields(1), (true, "BRA", "`(.L_x_7)", 0, 5));
        assert_eq!(fields(2), (false, "EXIT", "", 0, 5));
        assert_eq!(kernel.instructions[1].to_string(), "/*0010*/ BRA `(.L_x_7)");
        assert_eq!((kernel.labels[".text.k"], kernel.labels[".L_x_7"]), (0, 0));
    }

    #[test]
    fn what_is_no_disassembly_is_refused() {
        let whole = assembled("NOP\nEXIT");
        assert!(parse(&whole).is_ok());
        assert!(parse("").unwrap_err().to_string().contains("without instructions"));
        let without_hex: Vec<&str> = whole.lines().filter(|line| !line.contains("0x000fc2")).collect();
        assert!(parse(&without_hex.join("\n")).is_err());
        let error = parse(&whole.replace("/*0010*/", "/*0030*/")).unwrap_err().to_string();
        assert!(error.contains("at 0x30, expected at 0x10"), "{error}");
    }
}
