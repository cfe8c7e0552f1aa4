//! An engine whose context, streams and memory are not cudarc's: all by address.

use std::sync::Arc;

use check::case::{Case, Problem, attempt, reported};
use check::memory::{Arena, Memory};
use deepseek_kernels::cudarc::driver::CudaStream;
use deepseek_kernels::gemm::Fp8Gemm;
use deepseek_kernels::{Device, RawStream, bf16};

use crate::engine::{Engine, GLOBAL, RELAXED, THREAD_LOCAL, Tracking, capture};
use crate::operation::{accept, cases};
use crate::streams::{Gemm, inputs, spec};

const BOTH: [Tracking; 2] = [Tracking::On, Tracking::Off];

/// A stream as another library gives it.
fn raw(device: &Device, stream: &Arc<CudaStream>) -> RawStream {
    // SAFETY: it is of the device's context, and the tests keep it until the result is gone. Operands are waited for.
    unsafe { device.raw_stream(stream.cu_stream().cast()) }.expect("a GPU has streams")
}

fn drawn(case: &dyn Case) -> Arc<dyn Problem> {
    case.draw().unwrap_or_else(|error| panic!("{}: {error:#}", case.name()))
}

/// Operands by address give what buffers that lie alike give.
#[test]
fn every_operation_by_address() {
    for (tracking, first) in BOTH.into_iter().zip(0..) {
        let Some(engine) = Engine::open(tracking) else { return };
        let (device, stream) = (&engine.device, raw(&engine.device, &engine.stream));
        // Neighbours have indices of different types, and each operation has another one the second time.
        for (case, seed) in cases().into_iter().zip(first..) {
            let (name, problem) = (case.name(), drawn(&*case));
            let expected = attempt(problem.clone(), device, Memory::Poisoned(seed));
            let expected = expected.unwrap_or_else(|error| panic!("{name}: {error:#}")).outputs;
            let prepared = problem.prepare(&mut Arena::new(device, Memory::Raw(seed)));
            let mut prepared = prepared.unwrap_or_else(|error| panic!("{name}: {error:#}"));
            prepared.launch((&stream).into()).unwrap_or_else(|error| panic!("{name}: {error}"));
            engine.settle();
            accept(&*prepared);
            assert_eq!(reported(device, prepared.faults()).expect("poll").failure, None, "{name}");
            assert!(prepared.outputs().expect("outputs") == expected, "{name}, {tracking:?}, seed {seed}");
        }
        drop(stream);
        engine.close();
    }
}

/// A stream that somebody else made may be captured as any other.
#[test]
fn a_raw_stream_is_captured() {
    for tracking in BOTH {
        for mode in [THREAD_LOCAL, GLOBAL, RELAXED] {
            let Some(engine) = Engine::open(tracking) else { return };
            let stream = raw(&engine.device, &engine.stream);
            let layer = cases().into_iter().find(|case| case.operation() == "moe_layer").expect("a layer");
            let prepared = drawn(&*layer).prepare(&mut Arena::new(&engine.device, Memory::Raw(1)));
            let mut prepared = prepared.expect("prepared");
            let before = prepared.outputs().expect("sentinels");
            engine.settle();
            let graph = capture(&engine.stream, mode, || prepared.launch((&stream).into()).expect("run"));
            assert!(prepared.outputs().expect("outputs") == before, "captured, not run");
            graph.launch().expect("launch");
            engine.settle();
            accept(&*prepared);
            drop((graph, prepared, stream));
            engine.close();
        }
    }
}

/// A device of a context that another library made; the context outlives it.
#[test]
fn a_raw_context_outlives_its_device() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let data = inputs(1);
    let mut operands = Gemm::new(&engine.stream, &data);
    for case in cases().into_iter().take(2) {
        // SAFETY: it is the context of that GPU, and the engine keeps it.
        let device = unsafe { Device::gpu_in_context(0, engine.context.cu_ctx().cast()) }.expect("device");
        let stream = raw(&device, &engine.stream);
        let prepared = drawn(&*case).prepare(&mut Arena::new(&device, Memory::Raw(2)));
        let mut prepared = prepared.unwrap_or_else(|error| panic!("{}: {error:#}", case.name()));
        prepared.launch((&stream).into()).expect("run");
        operands.run(&gemm, &engine.stream).expect("the engine's device, in the same context");
        engine.settle();
        accept(&*prepared);
        device.poll_error().expect("no bad data");
        drop((prepared, stream, device));
        operands.run(&gemm, &engine.stream).expect("the context is alive");
        operands.check(&engine.stream, &data);
    }
    drop((gemm, operands));
    engine.close();
}
