//! What may go before what uses it.

use deepseek_kernels::cudarc::driver::CudaContext;
use deepseek_kernels::gemm::Fp8Gemm;
use deepseek_kernels::quant::{MMajor, Quantize1x128, Quantize1x128Args, QuantizeSpec, Scales1x128Mut};
use deepseek_kernels::{F8E4M3, Matrix, MatrixMut, bf16};

use crate::engine::{Engine, THREAD_LOCAL, Tracking, capture};
use crate::operation::Operation;
use crate::process::elsewhere;
use crate::streams::{Gemm, inputs, spec};

const BOTH: [Tracking; 2] = [Tracking::On, Tracking::Off];

/// The plan and the last clone of the device go while kernels are queued on the engine's stream: they finish.
#[test]
fn the_last_device_goes_while_kernels_are_queued() {
    for tracking in BOTH {
        let Some(Engine { context, stream, device }) = Engine::open(tracking) else { return };
        let gemm = Fp8Gemm::<bf16>::plan(&device, spec()).expect("plan");
        let data = inputs(1);
        let mut operands = Gemm::new(&stream, &data);
        for _ in 0..4 {
            operands.run(&gemm, &stream).expect("run");
        }
        drop((device, gemm));
        operands.check(&stream, &data);
        context.check_err().expect("cudarc has kept no error");
    }
}

/// The same while queued kernels store to the device's error words.
#[test]
fn the_error_words_outlive_the_kernels() {
    for tracking in BOTH {
        let Some(Engine { context, stream, device }) = Engine::open(tracking) else { return };
        let plan = Quantize1x128::plan(&device, QuantizeSpec::new(64, 128)).expect("plan");
        let x = stream.clone_htod(&vec![bf16::NAN; 64 * 128]).expect("x");
        let mut q = stream.clone_htod(&vec![F8E4M3::ZERO; 64 * 128]).expect("q");
        let mut sf = stream.clone_htod(&vec![0.0_f32; 64]).expect("sf");
        for _ in 0..4 {
            let args = Quantize1x128Args {
                x: Matrix::new(&x, 64, 128).expect("x"),
                q: MatrixMut::new(&mut q, 64, 128).expect("q"),
                sf: Scales1x128Mut::<MMajor>::new(&mut sf, 64, 128).expect("sf"),
            };
            plan.run(&stream, args).expect("run");
        }
        drop((plan, device));
        let codes = stream.clone_dtoh(&q).expect("q");
        assert!(codes.iter().all(|code| code.to_bits() & 0x7f == 0x7f), "NaN stays NaN");
        drop((x, q, sf));
        context.check_err().expect("cudarc has kept no error");
    }
}

/// A graph needs its operands and a clone of the device; plans may go.
#[test]
fn a_graph_lives_on_a_clone_of_the_device() {
    for tracking in BOTH {
        let Some(engine) = Engine::open(tracking) else { return };
        let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
        let mut operands = Gemm::new(&engine.stream, &inputs(1));
        let graph = capture(&engine.stream, THREAD_LOCAL, || {
            operands.run(&gemm, &engine.stream).expect("run");
        });
        let kept = engine.device.clone();
        let Engine { context, stream, device } = engine;
        drop((gemm, device));
        for seed in [2, 3] {
            let changed = inputs(seed);
            operands.refill(&stream, &changed);
            graph.launch().expect("launch");
            operands.check(&stream, &changed);
        }
        drop((graph, operands, kept));
        context.check_err().expect("cudarc has kept no error");
    }
}

/// A device that goes while its kernels are being captured leaves what the graph needs.
#[test]
fn a_device_may_go_while_its_kernels_are_captured() {
    let Some(engine) = Engine::open(Tracking::Off) else { return };
    if elsewhere("lifetimes::a_device_may_go_while_its_kernels_are_captured") {
        return engine.close();
    }
    let Engine { context, stream, device } = engine;
    let gemm = Fp8Gemm::<bf16>::plan(&device, spec()).expect("plan");
    let data = inputs(1);
    let mut operands = Gemm::new(&stream, &data);
    context.synchronize().expect("synchronize");
    let graph = capture(&stream, THREAD_LOCAL, || {
        operands.run(&gemm, &stream).expect("run");
        drop((gemm, device));
    });
    graph.launch().expect("launch");
    operands.check(&stream, &data);
    context.check_err().expect("cudarc has kept no error");
}

/// A part of an engine, which goes when it is called.
type Part = Box<dyn FnOnce()>;

/// Context, device, plan, operands and graph of an engine on whose stream kernels are queued that store to the error words. The
/// codes are looked at when the operands go, wherever that is.
fn with_work_queued(engine: Engine) -> [Part; 5] {
    const SHAPE: (usize, usize) = (64, 128);
    let plan = Quantize1x128::plan(&engine.device, QuantizeSpec::new(SHAPE.0, SHAPE.1)).expect("plan");
    let stream = engine.stream.clone();
    let x = stream.clone_htod(&vec![bf16::NAN; SHAPE.0 * SHAPE.1]).expect("x");
    let mut q = stream.clone_htod(&vec![F8E4M3::ZERO; SHAPE.0 * SHAPE.1]).expect("q");
    let mut sf = stream.clone_htod(&vec![0.0_f32; SHAPE.0]).expect("sf");
    let mut run = || {
        let args = Quantize1x128Args {
            x: Matrix::new(&x, SHAPE.0, SHAPE.1).expect("x"),
            q: MatrixMut::new(&mut q, SHAPE.0, SHAPE.1).expect("q"),
            sf: Scales1x128Mut::<MMajor>::new(&mut sf, SHAPE.0, SHAPE.1).expect("sf"),
        };
        plan.run(&stream, args).expect("run");
    };
    engine.settle();
    let graph = capture(&stream, THREAD_LOCAL, &mut run);
    (0..3).for_each(|_| run());
    let Engine { context, stream: own, device } = engine;
    let operands = move || {
        let codes = stream.clone_dtoh(&q).expect("q");
        assert!(codes.iter().all(|code| code.to_bits() & 0x7f == 0x7f), "NaN stays NaN");
        drop((x, q, sf, stream, own));
    };
    [
        Box::new(move || drop(context)),
        Box::new(move || drop(device)),
        Box::new(move || drop(plan)),
        Box::new(operands),
        Box::new(move || drop(graph)),
    ]
}

/// Every order of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![vec![]];
    }
    let with_last =
        |order: Vec<usize>| (0..count).map(move |at| [&order[..at], &[count - 1], &order[at..]].concat());
    orders(count - 1).into_iter().flat_map(with_last).collect()
}

/// Two contexts at once: each part of one goes directly before the other's, whose work is still queued.
#[test]
fn every_order_of_going_with_two_contexts() {
    for order in orders(5) {
        let Some(first) = Engine::open(Tracking::On) else { return };
        let second = CudaContext::new_non_primary(0, 0).expect("a second context");
        let mut engines =
            [first, Engine::on(second, Tracking::On)].map(|engine| with_work_queued(engine).map(Some));
        for part in order {
            engines.iter_mut().filter_map(|parts| parts[part].take()).for_each(|go| go());
        }
    }
}

/// Every order in which an engine can let go of context, stream, device, operation and graph, work still queued.
#[test]
fn every_order_of_going() {
    for tracking in BOTH {
        for order in 0..5 {
            let Some(engine) = Engine::open(tracking) else { return };
            let mut operations =
                ["mla_decode_bf16", "moe_layer"].map(|name| Operation::named(&engine.device, name));
            let graph = capture(&engine.stream, THREAD_LOCAL, || {
                operations.iter_mut().for_each(|operation| operation.run(&engine.stream).expect("run"));
            });
            let Engine { context, stream, device } = engine;
            operations.iter_mut().for_each(|operation| operation.run(&stream).expect("run"));
            let mut parts: Vec<Box<dyn FnOnce()>> = vec![
                Box::new(move || drop(context)),
                Box::new(move || drop(stream)),
                Box::new(move || drop(device)),
                Box::new(move || {
                    // Nobody else knows that untracked operands are used: they are read, which waits, before they go.
                    if tracking == Tracking::Off {
                        operations.iter().for_each(|operation| drop(operation.outputs()));
                    }
                    drop(operations);
                }),
                Box::new(move || drop(graph)),
            ];
            parts.rotate_left(order);
            parts.into_iter().for_each(|part| part());
            // In some orders the graph goes last, and could not be launched any more; nobody does.
            crate::captures::expected_problems();
        }
    }
}
