//! Whose context, whose stream, whose thread.

use std::sync::Arc;

use deepseek_kernels::cudarc::driver::{CudaContext, result};
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales128x128};
use deepseek_kernels::{Device, Error, Matrix, MatrixMut, bf16};

use crate::engine::{Engine, Tracking};
use crate::operation::{Operation, cases};
use crate::streams::{Gemm, SHAPE, check, inputs, spec};

const BOTH: [Tracking; 2] = [Tracking::On, Tracking::Off];

/// The engine's own stream, the legacy one, the thread's, and one that another library made.
#[test]
fn streams_of_every_kind() {
    for tracking in BOTH {
        let Some(engine) = Engine::open(tracking) else { return };
        let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
        let context = &engine.context;
        let owner = context.new_stream().expect("stream");
        // SAFETY: the owner outlives the wrapper, and nothing else is enqueued on it.
        let borrowed = unsafe { context.wrap_borrowed_stream(owner.cu_stream()) };
        let own = engine.stream.clone();
        for stream in [own, context.default_stream(), context.per_thread_stream(), borrowed] {
            let data = inputs(1);
            let mut operands = Gemm::new(&stream, &data);
            operands.run(&gemm, &stream).expect("run");
            operands.check(&stream, &data);
            engine.settle();
        }
        drop((gemm, owner));
        engine.close();
    }
}

/// Two of cudarc's objects for one context: their events do not know of each other. One that has made no stream records
/// none at all.
#[test]
fn two_objects_of_one_context() {
    let Some(ours) = Engine::open(Tracking::On) else { return };
    let gemm = Fp8Gemm::<bf16>::plan(&ours.device, spec()).expect("plan");
    for has_streams in [false, true] {
        let theirs = CudaContext::new(0).expect("the same context again");
        let default = theirs.default_stream();
        let stream = if has_streams { default.fork().expect("stream") } else { default };
        for launched_on in [&stream, &ours.stream] {
            for seed in 0..3 {
                let data = inputs(seed);
                let mut operands = Gemm::new(&stream, &data);
                operands.run(&gemm, launched_on).expect("run");
                let Gemm { a, sfa, b, sfb, d } = operands;
                drop((a, sfa, b, sfb));
                check("two objects", &data, &stream.clone_dtoh(&d).expect("d"));
            }
        }
        drop(stream);
        theirs.check_err().expect("cudarc has kept no error");
    }
    drop(gemm);
    ours.close();
}

/// Two contexts at once, each with its device; what belongs to the other is refused by name and nothing is launched.
#[test]
fn two_contexts() {
    let Some(one) = Engine::open(Tracking::On) else { return };
    let second = CudaContext::new_non_primary(0, 0).expect("a second context");
    let two = Engine::on(second, Tracking::On);
    let plans = [&one, &two].map(|e| Fp8Gemm::<bf16>::plan(&e.device, spec()).expect("plan"));
    let data = inputs(5);
    let mut operands = [&one, &two].map(|engine| Gemm::new(&engine.stream, &data));
    for _ in 0..2 {
        // Each run finds the other's context current.
        for (engine, (plan, operands)) in [&one, &two].into_iter().zip(plans.iter().zip(&mut operands)) {
            operands.run(plan, &engine.stream).expect("run");
        }
    }
    operands[1].check(&two.stream, &data);
    operands[0].check(&one.stream, &data);

    let foreign = "belongs to another device: expected the plan's GPU context, got another GPU context";
    let error = operands[0].run(&plans[1], &two.stream).expect_err("a foreign operand");
    assert_eq!(error.to_string(), format!("a {foreign}"));
    let error = operands[0].run(&plans[1], &one.stream).expect_err("a foreign stream");
    assert_eq!(error.to_string(), format!("stream {foreign}"));
    operands[0].check(&one.stream, &data);
    drop((plans, operands));
    two.close();
    one.close();
}

/// Whatever context the calling thread has, another's or none, every operation runs in its own.
#[test]
fn every_operation_in_whatever_context() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let foreign = CudaContext::new_non_primary(0, 0).expect("a second context");
    for case in cases() {
        let mut operation = Operation::new(&engine.device, &*case);
        let expected = operation.calm(&engine.stream, 1);
        // SAFETY: null is no context, which a thread may have.
        let none = || unsafe { result::ctx::set_current(std::ptr::null_mut()) }.expect("no context");
        let another = || foreign.bind_to_thread().expect("bind");
        for (what, change) in [("another's", &another as &dyn Fn()), ("none", &none)] {
            operation.refill(&engine.stream, 1);
            engine.settle();
            change();
            operation
                .run(&engine.stream)
                .unwrap_or_else(|error| panic!("{}, {what}: {error}", operation.name));
            assert!(operation.bits(&engine.stream) == expected, "{}, {what}", operation.name);
        }
    }
    drop(foreign);
    engine.close();
}

/// Host memory is refused by name, and the rest left as it was.
#[test]
fn host_memory_is_refused() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let (m, n, k) = SHAPE;
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let data = inputs(4);
    let mut operands = Gemm::new(&engine.stream, &data);
    let args = Fp8GemmArgs {
        a: Matrix::new(&data.a, m, k).expect("a"),
        sfa: Scales1x128::<MMajor>::new(&operands.sfa, m, k).expect("sfa"),
        b: Matrix::new(&operands.b, n, k).expect("b"),
        sfb: Scales128x128::new(&operands.sfb, n, k).expect("sfb"),
        d: MatrixMut::new(&mut operands.d, m, n).expect("d"),
    };
    let error = gemm.run(&engine.stream, args).expect_err("host memory");
    assert_eq!(error.to_string(), "a belongs to another device: expected a GPU, got host memory");
    operands.run(&gemm, &engine.stream).expect("run");
    operands.check(&engine.stream, &data);
    drop((gemm, operands));
    engine.close();
}

/// Threads that never bound the context, all at once, and one whose first call is `run`.
#[test]
fn threads() {
    for tracking in BOTH {
        let Some(engine) = Engine::open(tracking) else { return };
        let gemm = Arc::new(Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan"));
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (context, gemm) = (&engine.context, &gemm);
                scope.spawn(move || {
                    let data = inputs(seed);
                    let stream = context.new_stream().expect("stream");
                    let mut operands = Gemm::new(&stream, &data);
                    for _ in 0..3 {
                        operands.run(gemm, &stream).expect("run");
                        operands.check(&stream, &data);
                    }
                });
            }
        });
        let data = inputs(9);
        let mut operands = Gemm::new(&engine.stream, &data);
        engine.settle();
        std::thread::scope(|scope| {
            scope.spawn(|| operands.run(&gemm, &engine.stream).expect("run on a thread without a context"));
        });
        operands.check(&engine.stream, &data);
        // The last owner of the plan is such a thread too.
        std::thread::spawn(move || drop(gemm)).join().expect("drop");
        drop(operands);
        engine.close();
    }
}

/// The same context, loaded twice; one device goes, the other stays.
#[test]
fn a_device_twice() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let second = Device::gpu(&engine.context).expect("device");
    let plans = [&engine.device, &second].map(|d| Fp8Gemm::<bf16>::plan(d, spec()).expect("plan"));
    let data = inputs(6);
    let mut operands = Gemm::new(&engine.stream, &data);
    for plan in &plans {
        operands.run(plan, &engine.stream).expect("run");
    }
    let [one, two] = plans;
    drop((two, second));
    operands.run(&one, &engine.stream).expect("run");
    operands.check(&engine.stream, &data);
    drop((one, operands));
    engine.close();
}

/// There is no GPU of that number.
#[test]
fn an_ordinal_too_many() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let error = Device::open_gpu(4096).expect_err("no host has that many");
    assert!(matches!(&error, Error::Driver { call, .. } if call == "opening the GPU's context"), "{error}");
    crate::captures::expected_problems();
    engine.close();
}
