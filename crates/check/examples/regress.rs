//! An engine's own operation under `regress`: a baseline of it, and verdicts on the next version.
//!
//! ```text
//! cargo run -p deepseek-kernels-check --example regress -- record --to silu.json
//! cargo run -p deepseek-kernels-check --example regress -- check silu.json
//! ```

use std::process::ExitCode;

use anyhow::Result;
use deepseek_kernels::bf16;
use deepseek_kernels_check::memory::Output;
use deepseek_kernels_check::regress::{DeviceClass, Operation, run};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

/// SiLU of a matrix in BF16.
struct Silu {
    rows: usize,
    columns: usize,
}

impl Silu {
    fn inputs(&self, seed: u64) -> Vec<bf16> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        (0..self.rows * self.columns).map(|_| bf16::from_f32(rng.random_range(-8.0..8.0))).collect()
    }
}

impl Operation for Silu {
    fn name(&self) -> String {
        format!("silu/{}x{}", self.rows, self.columns)
    }

    /// Here an engine uploads the inputs, launches its kernel, waits, and copies the result back.
    fn run(&self, seed: u64) -> Result<Vec<Output>> {
        let silu = |x: bf16| bf16::from_f32(x.to_f32() / (1.0 + (-x.to_f32()).exp()));
        let y: Vec<bf16> = self.inputs(seed).into_iter().map(silu).collect();
        Ok(vec![Output::of("y", self.columns, &y)])
    }

    /// The value in f64, and half a unit of the last place of BF16 beside the error of the exponential.
    fn reference(&self, seed: u64) -> Vec<Vec<(f64, f64)>> {
        let near = |x: bf16| {
            let y = x.to_f64() / (1.0 + (-x.to_f64()).exp());
            (y, y.abs() * (1.0 / 256.0 + 1e-6))
        };
        vec![self.inputs(seed).into_iter().map(near).collect()]
    }
}

/// Bits are compared with those of the same device class alone.
fn device() -> DeviceClass {
    DeviceClass { kind: "cpu".to_owned(), name: "host".to_owned(), version: "1".to_owned() }
}

fn operations() -> Vec<Box<dyn Operation>> {
    [(4, 256), (37, 129)].map(|(rows, columns)| Box::new(Silu { rows, columns }) as _).into()
}

fn main() -> ExitCode {
    run(&operations(), device(), std::env::args_os())
}

#[test]
fn a_recorded_baseline_is_met_and_a_changed_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("silu.json").to_str().unwrap().to_owned();
    let code = |arguments: [&str; 3]| {
        let arguments = ["regress"].into_iter().chain(arguments);
        format!("{:?}", run(&operations(), device(), arguments))
    };
    let [passed, failed] = [0, 1].map(|code| format!("{:?}", ExitCode::from(code)));
    assert_eq!(code(["record", "--to", &file]), passed);
    assert_eq!(code(["check", &file, "--bits"]), passed);
    assert_eq!(code(["check", &file, "--bounds"]), passed);
    let text = std::fs::read_to_string(&file).unwrap();
    let hash = text.split("\"hash\":\"").nth(1).unwrap()[..64].to_owned();
    std::fs::write(&file, text.replace(&hash, &"0".repeat(64))).unwrap();
    assert_eq!(code(["check", &file, "--bits"]), failed);
}
