//! What runs on the host: the planner of the GEMM, and its references.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use deepseek_kernels::bf16;
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmSpec};
use oracles::gemm::{Epilogue, GemmClass, Oracle, Output, Sample};

fn host(c: &mut Criterion) {
    c.bench_function("planner/4096x7168x2048", |b| {
        let spec = Fp8GemmSpec::new(4096, 7168, 2048);
        b.iter(|| Fp8Gemm::<bf16>::tuning_for(black_box(&spec), 132));
    });
    let inputs = GemmClass::Normal.generate((64, 64, 1024), 1).expect("inputs");
    let epilogue = Epilogue::store(Output::Bf16);
    let sample = Sample::all(64, 64);
    for oracle in [Oracle::BitModel, Oracle::Bound] {
        c.bench_function(&format!("reference/{oracle:?}/64x64x1024"), |b| {
            let operands = inputs.operands().expect("operands");
            b.iter(|| oracle.check(&operands, &epilogue, &sample, &|_, _| 0.0));
        });
    }
}

criterion_group!(benches, host);
criterion_main!(benches);
