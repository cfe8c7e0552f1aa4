//! Kernels of others, judged through files. Ours stand for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deepseek_kernels::mla::KvFormat;
use deepseek_kernels_check::case::{Problem, memory_of};
use deepseek_kernels_check::devices::emulated;
use deepseek_kernels_check::gemm::fp8_gemm::Fp8GemmCase;
use deepseek_kernels_check::gemm::grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase};
use deepseek_kernels_check::memory::{Arena, Output};
use deepseek_kernels_check::mla::decode::MlaDecodeCase;
use oracles::gemm::GemmClass;
use safetensors::Dtype;
use tempfile::TempDir;

use super::{refused, regress};
use crate::program::Run;
use crate::weights::write;

struct Exchange {
    folder: TempDir,
}

impl Exchange {
    fn of(op: &str, shape: &str, class: &str) -> Self {
        let exchange = Self { folder: TempDir::new().unwrap() };
        let inputs = exchange.at("inputs");
        let to = inputs.to_str().unwrap();
        let run = regress(&["export", "--op", op, "--shape", shape, "--class", class, "--to", to]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        exchange
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn give(&self, outputs: &[(&str, Vec<usize>, &Output)]) {
        let tensors = outputs
            .iter()
            .map(|(name, shape, output)| (*name, output.dtype, shape.clone(), output.bytes.clone()));
        write(&self.at("outputs"), tensors.collect());
    }

    fn judge(&self, more: &[&str]) -> Run {
        let [inputs, outputs] = ["inputs", "outputs"].map(|name| self.at(name).to_str().unwrap().to_owned());
        regress(&[&["judge", inputs.as_str(), outputs.as_str()], more].concat())
    }

    fn passes(&self) {
        let run = self.judge(&["--bits"]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
        assert!(run.stdout.ends_with("PASS\n") && run.stdout.contains("PASS  bound: "), "{}", run.stdout);
    }
}

fn ran(problem: Arc<dyn Problem>) -> Vec<Output> {
    let device = emulated(0);
    let mut prepared = problem.prepare(&mut Arena::new(&device, memory_of("exchange"))).unwrap();
    prepared.launch(device.stream().unwrap()).unwrap();
    prepared.outputs().unwrap()
}

#[test]
fn a_gemm_is_judged() {
    for class in [GemmClass::Normal, GemmClass::SignedIntegers] {
        let exchange = Exchange::of("gemm::fp8_gemm", "33x136x256", &class.to_string());
        let case = Fp8GemmCase { class, seed: 0, ..Fp8GemmCase::new((33, 136, 256)) };
        let mut d = ran(Arc::new(case.problem().unwrap())).remove(0);
        exchange.give(&[("d", vec![33, 136], &d)]);
        exchange.passes();
        // The last bit is within the bound, and not the order's: told, and a failure where bits are demanded.
        d.bytes[2 * (5 * 136 + 7)] ^= 1;
        exchange.give(&[("d", vec![33, 136], &d)]);
        let run = exchange.judge(&[]);
        let exact = class == GemmClass::SignedIntegers;
        assert_eq!(run.code, Some(if exact { 1 } else { 0 }), "{}", run.stdout);
        assert!(
            run.stdout.contains("note  bit model: 1 of 4488 elements are wrong, first d[5, 7]"),
            "{}",
            run.stdout
        );
        assert_eq!(exchange.judge(&["--bits"]).code, Some(1));
        d.bytes[2 * (5 * 136 + 7) + 1] ^= 0x40;
        exchange.give(&[("d", vec![33, 136], &d)]);
        let run = exchange.judge(&[]);
        assert_eq!(run.code, Some(1), "{}", run.stdout);
        assert!(
            run.stdout.contains("FAIL  bound: 1 of 4488 elements are wrong, first d[5, 7]"),
            "{}",
            run.stdout
        );
    }
}

#[test]
fn a_grouped_gemm_is_judged() {
    let exchange = Exchange::of("grouped_fp8_gemm", "5+0+70x136x256", "Normal");
    let case = GroupedFp8GemmCase::new(Assignment::ragged(&[5, 0, 70], 0), (136, 256));
    let case = GroupedFp8GemmCase { class: GemmClass::Normal, seed: 0, ..case };
    let mut d = ran(Arc::new(case.problem().unwrap())).remove(0);
    exchange.give(&[("d", vec![75, 136], &d)]);
    exchange.passes();
    let row = 2 * 136;
    d.bytes.copy_within(..row, 60 * row);
    exchange.give(&[("d", vec![75, 136], &d)]);
    let run = exchange.judge(&[]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.stdout.contains("FAIL  bound: expert 2: ") && run.stdout.ends_with("FAIL\n"),
        "{}",
        run.stdout
    );
}

#[test]
fn attention_is_judged() {
    for (op, format) in [
        ("mla::mla_decode_bf16", KvFormat::Bf16),
        ("mla_decode_fp8", KvFormat::Fp8),
        ("mla_decode_fp8_per_tensor", KvFormat::Fp8PerTensor),
    ] {
        let exchange = Exchange::of(op, "2x16x100+0+65", "Normal");
        let case =
            MlaDecodeCase { q_tokens: 2, causal: true, ..MlaDecodeCase::new(format, vec![100, 0, 65]) };
        let [mut out, lse] = <[Output; 2]>::try_from(ran(Arc::new(case.problem().unwrap()))).unwrap();
        let both =
            |out: &Output| exchange.give(&[("out", vec![3, 2, 16, 512], out), ("lse", vec![3, 2, 16], &lse)]);
        both(&out);
        exchange.passes();
        exchange.give(&[("out", vec![3, 2, 16, 512], &out)]);
        exchange.passes();
        out.bytes[2 * 512 * 5 + 1] ^= 0x80;
        both(&out);
        let run = exchange.judge(&[]);
        assert_eq!(run.code, Some(1), "{}", run.stdout);
        assert!(run.stdout.contains("FAIL  bound: sequence 0: "), "{}", run.stdout);
    }
}

/// Inputs of an engine's own are judged by the bound, whatever class they were exported as.
#[test]
fn changed_inputs_are_of_no_class() {
    let exchange = Exchange::of("fp8_gemm", "8x8x128", "Ones");
    let zeros = |rows: usize, columns: usize| vec![0; rows * columns];
    let ones = |count: usize| 1.0_f32.to_le_bytes().repeat(count);
    let tensors = [
        ("a", Dtype::F8_E4M3, vec![8, 128], zeros(8, 128)),
        ("sfa", Dtype::F32, vec![1, 8], ones(8)),
        ("b", Dtype::F8_E4M3, vec![8, 128], zeros(8, 128)),
        ("sfb", Dtype::F32, vec![1, 1], ones(1)),
    ];
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let told = [("operation", "fp8_gemm"), ("class", "Ones"), ("inputs", "other")];
    let told = told.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    safetensors::serialize_to_file(views, Some(told), &exchange.at("inputs")).unwrap();
    write(&exchange.at("outputs"), vec![("d", Dtype::F32, vec![8, 8], vec![0; 256])]);
    let run = exchange.judge(&[]);
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    assert!(!run.stdout.contains("exact"), "{}", run.stdout);
}

#[test]
fn files_that_cannot_be_judged_are_refused() {
    let exchange = Exchange::of("fp8_gemm", "8x8x128", "Normal");
    refused(&exchange.judge(&[]), "No such file or directory");
    write(&exchange.at("outputs"), vec![("c", Dtype::F32, vec![8, 8], vec![0; 256])]);
    refused(&exchange.judge(&[]), "it has no tensor d; there are c");
    write(&exchange.at("outputs"), vec![("d", Dtype::F32, vec![8, 7], vec![0; 224])]);
    refused(&exchange.judge(&[]), "d is F32 [8, 7], expected F32 [8, 8]");
    write(&exchange.at("outputs"), vec![("d", Dtype::I32, vec![8, 8], vec![0; 256])]);
    refused(&exchange.judge(&[]), "d is I32 [8, 8], expected BF16 [8, 8]");
    fs::write(exchange.at("outputs"), "no tensors").unwrap();
    refused(&exchange.judge(&[]), "cannot use ");
    fs::copy(exchange.at("inputs"), exchange.at("outputs")).unwrap();
    write(&exchange.at("inputs"), vec![("a", Dtype::F32, vec![1], vec![0; 4])]);
    refused(&exchange.judge(&[]), "its metadata have no `operation`");
}

#[test]
fn exports_that_make_no_sense_are_refused() {
    let folder = TempDir::new().unwrap();
    let to = folder.path().join("inputs");
    let export = |op: &str, shape: &str, class: &str, to: &Path| {
        regress(&["export", "--op", op, "--shape", shape, "--class", class, "--to", to.to_str().unwrap()])
    };
    for (op, shape, class, message) in [
        (
            "silu",
            "8x8x128",
            "Normal",
            "no operation called silu can be judged through files; there are fp8_gemm, ",
        ),
        ("fp8_gemm", "8x8", "Normal", "expected sizes such as 64x2112x7168"),
        ("fp8_gemm", "8+8x8x128", "Normal", "expected one number of rows"),
        ("fp8_gemm", "8x7x128", "Normal", "n must be a multiple of 8"),
        ("fp8_gemm", "99999999x8x99999999", "Normal", "too large for a file of inputs"),
        ("fp8_gemm", "8x8x128", "Nice", "no class of GEMM inputs is called Nice; there are "),
        ("mla_decode_bf16", "1x16x64", "Nice", "no class of attention inputs is called Nice; there are "),
        ("mla_decode_bf16", "0x16x64", "Normal", "expected 1 to 64 query tokens"),
    ] {
        refused(&export(op, shape, class, &to), message);
    }
    assert!(!to.exists());
    refused(&export("fp8_gemm", "8x8x128", "Normal", folder.path()), "it is a directory");
}
