//! Inputs for kernels of others, and their results judged by the oracles: through safetensors files.

mod gemm;
mod mla;
mod tensors;

use std::path::PathBuf;

use clap::Args;

use super::Verdict;
use crate::console::Console;
use crate::escape::escaped;
use crate::judge::Check;
use crate::output::OutputFile;
use tensors::{Tensors, Writer};

#[derive(Args)]
pub struct ExportArgs {
    /// The operation: fp8_gemm, grouped_fp8_gemm, mla_decode_bf16, mla_decode_fp8 or mla_decode_fp8_per_tensor
    #[arg(long, value_name = "NAME")]
    pub op: String,

    /// Its sizes: MxNxK; of a grouped GEMM the rows of each expert, M+M+...xNxK; of a decode step query tokens, heads and the
    /// keys of each sequence, QxHxL+L+...
    #[arg(long, value_name = "SIZES")]
    pub shape: String,

    /// The class of the inputs: Normal, SignedIntegers, Outliers, ... of a GEMM; Normal, OneKey, Uniform, ... of attention
    #[arg(long, default_value = "Normal")]
    pub class: String,

    /// Chooses the inputs
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
}

#[derive(Args)]
pub struct JudgeArgs {
    /// What `export` wrote, or a file like it with inputs of yours
    pub inputs: PathBuf,

    /// What a kernel made of it: d; of attention out, and lse in natural logarithms if there is one
    pub outputs: PathBuf,

    /// Demand the bits of this crate's order too
    #[arg(long)]
    pub bits: bool,
}

/// What tells the judges of a file: the operation, and the class of the inputs unless they are no longer what was exported.
const OPERATION: &str = "operation";
const CLASS: &str = "class";
const HASH: &str = "inputs";

/// Inputs, their class if they have one, and outputs.
type Judge = fn(&Tensors, Option<&str>, &Tensors) -> Result<Vec<Check>, String>;

/// An operation whose kernels can be judged from outside.
struct Exchanged {
    name: &'static str,
    export: fn(&ExportArgs, &mut Writer) -> Result<(), String>,
    judge: Judge,
}

const EXCHANGED: [Exchanged; 5] = [
    Exchanged { name: "fp8_gemm", export: gemm::export_dense, judge: gemm::judge_dense },
    Exchanged { name: "grouped_fp8_gemm", export: gemm::export_grouped, judge: gemm::judge_grouped },
    Exchanged { name: "mla_decode_bf16", export: mla::export, judge: mla::judge },
    Exchanged { name: "mla_decode_fp8", export: mla::export, judge: mla::judge },
    Exchanged { name: "mla_decode_fp8_per_tensor", export: mla::export, judge: mla::judge },
];

/// The operation of a name, with its family's or without.
fn exchanged(name: &str) -> Result<&'static Exchanged, String> {
    let short = name.rsplit("::").next().unwrap_or(name);
    EXCHANGED.iter().find(|operation| operation.name == short).ok_or_else(|| {
        let there: Vec<_> = EXCHANGED.iter().map(|operation| operation.name).collect();
        format!("no operation called {name} can be judged through files; there are {}", there.join(", "))
    })
}

/// Writes inputs.
///
/// # Errors
/// In one line, what is wrong with the options, or why nothing could be written.
pub fn export(args: &ExportArgs) -> Result<Verdict, String> {
    let operation = exchanged(&args.op)?;
    let file = OutputFile::open(&args.to, [])?;
    let mut writer = Writer::default();
    (operation.export)(args, &mut writer)?;
    let hash = writer.hash();
    for (key, value) in [(OPERATION, operation.name), (CLASS, &args.class), (HASH, &hash)] {
        writer.tell(key, value);
    }
    file.write(&writer.bytes()?)?;
    Ok(Verdict::Pass)
}

/// Judges results.
///
/// # Errors
/// In one line, why they cannot be judged.
pub fn judge(args: &JudgeArgs) -> Result<Verdict, String> {
    let (inputs, outputs) = (Tensors::read(&args.inputs)?, Tensors::read(&args.outputs)?);
    let operation = exchanged(inputs.told(OPERATION)?)?;
    let unchanged = inputs.told(HASH).is_ok_and(|hash| hash == inputs.hash());
    let class = if unchanged { inputs.told(CLASS).ok() } else { None };
    let checks = (operation.judge)(&inputs, class, &outputs)?;
    let mut verdict = Verdict::Pass;
    let mut text = String::new();
    for check in &checks {
        let asked = args.bits || !check.oracle.starts_with("bit model");
        let word = match (&check.failure, asked) {
            (None, _) => "PASS",
            (Some(_), false) => "note",
            (Some(_), true) => {
                verdict = Verdict::Fail;
                "FAIL"
            }
        };
        let worst = check.worst.map_or(String::new(), |worst| format!(", worst {worst:.3} of it"));
        let said = check.failure.clone().unwrap_or(format!("{} elements{worst}", check.checked));
        text += &format!("{word:4}  {}: {}\n", check.oracle, escaped(&said));
    }
    Console::Stdout.print(&format!("{text}{verdict}\n"))?;
    Ok(verdict)
}

/// Numbers of a shape, those of the part that is a list apart.
fn sizes(text: &str, list: usize) -> Result<([usize; 2], Vec<usize>), String> {
    /// More elements than a file of inputs should have.
    const MOST: usize = 1 << 28;
    let wrong = || format!("expected sizes such as 64x2112x7168, or 3+0+70x256x512 with a list, got {text}");
    let parts: Vec<&str> = text.split(['x', 'X', '\u{d7}']).map(str::trim).collect();
    let [a, b, c] = parts[..] else { return Err(wrong()) };
    let mut single = Vec::new();
    let mut listed = Vec::new();
    for (index, part) in [a, b, c].into_iter().enumerate() {
        let numbers: Option<Vec<usize>> = part.split('+').map(|number| number.trim().parse().ok()).collect();
        let numbers = numbers.ok_or_else(wrong)?;
        match (index == list, &numbers[..]) {
            (true, _) => listed = numbers,
            (false, [number]) => single.push(*number),
            _ => return Err(wrong()),
        }
    }
    let sum = listed.iter().try_fold(0, |sum: usize, &number| sum.checked_add(number));
    let product = |a: usize, b: usize| a.checked_mul(b).filter(|&elements| elements <= MOST);
    let of_each = product(single[0], single[1]).and_then(|each| product(each, listed.len()));
    let fits = sum.is_some_and(|sum| single.iter().all(|&size| product(sum, size).is_some()));
    if of_each.is_none() || !fits {
        return Err(format!("the sizes {text} are too large for a file of inputs"));
    }
    Ok(([single[0], single[1]], listed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_refused() {
        assert_eq!(sizes("64x2112x7168", 0), Ok(([2112, 7168], vec![64])));
        assert_eq!(sizes("3 + 0 + 70 X 256 x 512", 0), Ok(([256, 512], vec![3, 0, 70])));
        assert_eq!(sizes("1x16x300+0", 2), Ok(([1, 16], vec![300, 0])));
        for text in ["", "64", "64x2112", "ax1x1", "1x2+3x4", "1x2x3x4", "-1x2x3"] {
            assert!(sizes(text, 0).unwrap_err().starts_with("expected sizes "), "{text}");
        }
        for text in ["99999999999x8x128", "18446744073709551615+1x8x128"] {
            assert!(sizes(text, 0).unwrap_err().contains("too large"), "{text}");
        }
    }

    #[test]
    fn an_operation_is_found_with_its_family_and_without() {
        assert_eq!(exchanged("gemm::fp8_gemm").unwrap().name, "fp8_gemm");
        assert_eq!(exchanged("mla_decode_fp8").unwrap().name, "mla_decode_fp8");
        let message = exchanged("silu").err().unwrap();
        assert!(
            message.starts_with("no operation called silu can be judged through files; there are fp8_gemm, ")
        );
    }
}
