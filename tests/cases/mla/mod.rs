mod absorb;
mod decode;
mod kv_append;
mod merge_states;
mod rope;
mod splits;

use std::sync::Arc;

use check::case::{attempt, memory_of};
use check::memory::Output;
use check::mla::decode::{MlaDecodeCase, MlaDecodeProblem};
use deepseek_kernels::Device;
use deepseek_kernels::mla::KvFormat;

const FORMATS: [KvFormat; 2] = [KvFormat::Bf16, KvFormat::Fp8];

fn step(format: KvFormat, lengths: &[usize]) -> MlaDecodeCase {
    MlaDecodeCase::new(format, lengths.to_vec())
}

/// out and lse of a step, after every check.
fn passed(problem: &MlaDecodeProblem, device: &Device) -> Vec<Output> {
    let ran = attempt(Arc::new(problem.clone()), device, memory_of("mla_decode"));
    ran.unwrap_or_else(|error| panic!("{}: {error:#}\n{:?}", device.name(), problem.case)).outputs
}
