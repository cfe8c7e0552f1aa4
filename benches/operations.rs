//! Every operation over the shapes of its family: `cargo bench`. On a GPU every result is judged before it is timed, with
//! warm and with cold L2; elements are FLOPs. Without a GPU all is SKIPPED: what the emulator takes says nothing of one.

use std::time::Duration;

use check::bench::gpu::{Gpu, L2, testing};
use check::case::{Case, Prepared, reported};
use check::families::{self, Extent};
use check::judge::Scrutiny;
use check::memory::{Arena, Memory};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn operations(c: &mut Criterion) {
    let Some(mut gpu) = Gpu::open("operations") else { return };
    let extent = if testing() { Extent::Reduced } else { Extent::Full };
    for case in families::all(|family| (family.timed)(extent)) {
        let mut group = c.benchmark_group(case.operation());
        // There are about a thousand of some.
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        group.throughput(throughput(&*case));
        // Made when the first of its benchmarks runs: a filter of the command line may name none.
        let mut prepared = None;
        for (temperature, l2) in [("warm", L2::Warm), ("cold", L2::Cold)] {
            group.bench_function(BenchmarkId::new(temperature, case.label()), |b| {
                let prepared = prepared.get_or_insert_with(|| accepted(&gpu, &*case));
                gpu.measure(b, l2, |stream| prepared.launch(stream).expect("run"));
            });
        }
    }
}

fn throughput(case: &dyn Case) -> Throughput {
    let work = case.work();
    match work.flops {
        0 => Throughput::Bytes(work.bytes),
        flops => Throughput::ElementsAndBytes { elements: flops, bytes: work.bytes },
    }
}

/// The case on the device, whose result is right.
fn accepted(gpu: &Gpu, case: &dyn Case) -> Box<dyn Prepared> {
    let problem = case.draw().expect("inputs");
    let mut prepared = problem.prepare(&mut Arena::new(&gpu.device, Memory::Plain)).expect("operands");
    // The case before had reported again, each time it was timed.
    let _ = gpu.device.poll_error();
    prepared.launch(gpu.stream()).expect("run");
    let mut checks = prepared.judge(Scrutiny::Brief).expect("judgement");
    checks.push(reported(&gpu.device, prepared.faults()).expect("report"));
    for check in checks {
        let failure = check.failure;
        assert_eq!(failure, None, "{} is wrong before it is timed, {}", case.name(), check.oracle);
    }
    println!("{}: {}", case.name(), prepared.instance());
    prepared
}

criterion_group!(benches, operations);
criterion_main!(benches);
