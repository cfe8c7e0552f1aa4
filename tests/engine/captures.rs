//! Graphs: every operation captured, and replayed on changed data.

use deepseek_kernels::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureStatus};
use deepseek_kernels::gemm::Fp8Gemm;
use deepseek_kernels::{Device, bf16};

use crate::engine::{Engine, GLOBAL, RELAXED, THREAD_LOCAL, Tracking, capture};
use crate::hooks::Hooks;
use crate::operation::{Operation, cases};
use crate::streams::{Gemm, inputs, spec};

/// Operations that read slots, positions, ids or lengths, or a mask.
const INDEXED: usize = 9;
const BOTH: [Tracking; 2] = [Tracking::On, Tracking::Off];

/// A graph holds what the operation does, and nothing of what was there when it was captured.
#[test]
fn every_operation_follows_changed_data() {
    for tracking in BOTH {
        let Some(engine) = Engine::open(tracking) else { return };
        let stream = &engine.stream;
        for case in cases() {
            let mut operation = Operation::new(&engine.device, &*case);
            let calm = [1, 2, 3].map(|seed| (operation.calm(stream, seed), operation.outputs()));
            assert!(calm[0].1 != calm[1].1, "{}: the data decide the result", operation.name);
            let expected = calm.map(|(bits, _)| bits);
            let graph = capture(stream, THREAD_LOCAL, || {
                operation.run(stream).unwrap_or_else(|error| panic!("{}: {error}", operation.name));
            });
            for (seed, expected) in [1, 2, 3].into_iter().zip(&expected).rev() {
                operation.refill(stream, seed);
                graph.launch().expect("launch");
                let got = operation.bits(stream);
                assert!(got == *expected, "{}, tracking {tracking:?}, seed {seed}", operation.name);
            }
            // What was used in a graph is used without one, and dropped.
            assert!(operation.calm(stream, 2) == expected[1], "{} after its graph", operation.name);
            drop((graph, operation));
        }
        engine.close();
    }
}

/// Captured with as many tokens as there is room for, replayed with half of them, and with all of them again: masks, slots, ids
/// and lengths say how many there are, and nothing of another replay is left.
#[test]
fn a_full_batch_is_replayed_with_fewer_tokens() {
    for tracking in BOTH {
        let Some(engine) = Engine::open(tracking) else { return };
        let stream = &engine.stream;
        let mut with_fewer = 0;
        for case in cases() {
            let mut operation = Operation::new(&engine.device, &*case);
            if !operation.can_have_fewer() {
                continue;
            }
            let full = operation.calm(stream, 1);
            let fewer = operation.calm_with(stream, 1, true);
            with_fewer += usize::from(fewer != full);
            operation.refill(stream, 1);
            engine.settle();
            let graph = capture(stream, THREAD_LOCAL, || operation.run(stream).expect("run"));
            for (is_fewer, expected) in [(true, &fewer), (false, &full)] {
                operation.refill_with(stream, 1, is_fewer);
                graph.launch().expect("launch");
                assert!(operation.bits(stream) == *expected, "{}, tracking {tracking:?}", operation.name);
            }
            drop((graph, operation));
        }
        assert!(with_fewer >= INDEXED, "{with_fewer} operations can say that there are fewer tokens");
        engine.close();
    }
}

/// Nothing in `run` is unsafe for a capture, whoever looks.
#[test]
fn every_mode_of_capture() {
    for tracking in BOTH {
        for mode in [THREAD_LOCAL, GLOBAL, RELAXED] {
            let Some(engine) = Engine::open(tracking) else { return };
            let stream = &engine.stream;
            let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
            let mut operands = Gemm::new(stream, &inputs(1));
            let graph = capture(stream, mode, || {
                operands.run(&gemm, stream).expect("run");
                operands.run(&gemm, stream).expect("run again");
                engine.device.poll_error().expect("polling waits for nothing");
            });
            for seed in [2, 3] {
                let changed = inputs(seed);
                operands.refill(stream, &changed);
                graph.launch().expect("launch");
                operands.check(stream, &changed);
            }
            drop((graph, operands, gemm));
            engine.close();
        }
    }
}

/// Attention and experts in one graph; lengths, pages and hidden states change.
#[test]
fn a_decode_step_in_one_graph() {
    for tracking in BOTH {
        let Some(engine) = Engine::open(tracking) else { return };
        let stream = &engine.stream;
        let mut step = ["mla_decode_bf16", "moe_layer"].map(|name| Operation::named(&engine.device, name));
        let expected: Vec<_> =
            (1..5).map(|seed| step.each_mut().map(|operation| operation.calm(stream, seed))).collect();
        let graph = capture(stream, GLOBAL, || {
            step.iter_mut().for_each(|operation| operation.run(stream).expect("run"));
        });
        for (seed, expected) in (1..).zip(&expected) {
            step.iter().for_each(|operation| operation.refill(stream, seed));
            graph.launch().expect("launch");
            for (operation, expected) in step.iter().zip(expected) {
                assert!(operation.bits(stream) == *expected, "{}, seed {seed}", operation.name);
            }
        }
        drop((graph, step));
        engine.close();
    }
}

/// Nothing outside of the graph is waited for, and nothing inside of it is recorded.
#[test]
fn a_captured_run_touches_no_event() {
    let test = "a_captured_run_touches_no_event";
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let Some(hooks) = Hooks::needed_by(test) else { return };
    let stream = &engine.stream;
    for case in cases() {
        let mut operation = Operation::new(&engine.device, &*case);
        operation.refill(stream, 1);
        engine.settle();
        let count = |name| hooks.calls(name);
        let mut used = [0; 3];
        drop(capture(stream, THREAD_LOCAL, || {
            let calls = ["cuStreamWaitEvent", "cuEventRecord", "cuLaunchKernelEx"];
            let before = calls.map(count);
            operation.run(stream).expect("run");
            used = std::array::from_fn(|i| count(calls[i]) - before[i]);
        }));
        assert_eq!(used[..2], [0, 0], "{}: waits and records", operation.name);
        assert!(used[2] > 0, "{}: nothing was launched", operation.name);
    }
    engine.close();
}

/// Every kernel behind another one may start before that has ended: in a stream whose operands need no events, and in a
/// graph.
#[test]
fn launches_may_overlap() {
    let Some(engine) = Engine::open(Tracking::Off) else { return };
    let Some(hooks) = Hooks::needed_by("launches_may_overlap") else { return };
    let stream = &engine.stream;
    for case in cases() {
        let mut operation = Operation::new(&engine.device, &*case);
        operation.refill(stream, 1);
        let overlaps = |work: &mut dyn FnMut()| {
            let before = hooks.overlaps();
            work();
            hooks.overlaps() - before
        };
        let launches = hooks.calls("cuLaunchKernelEx");
        let in_stream = overlaps(&mut || operation.run(stream).expect("run"));
        let launches = hooks.calls("cuLaunchKernelEx") - launches;
        assert!(launches > 0, "{}: nothing was launched", operation.name);
        assert_eq!(in_stream, launches - 1, "{}", operation.name);
        let graph = capture(stream, THREAD_LOCAL, || operation.run(stream).expect("run"));
        let in_graph = overlaps(&mut || graph.launch().expect("launch"));
        assert_eq!(in_graph, launches - 1, "{} in a graph", operation.name);
        operation.bits(stream); // waits, for the memory was filled by address, and takes what the data report
        drop((graph, operation));
    }
    engine.close();
}

/// A capture that somebody broke is named, and nothing is added to it.
#[test]
fn an_invalidated_capture_is_refused_by_name() {
    let Some(engine) = Engine::open(Tracking::Off) else { return };
    let stream = &engine.stream;
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let data = inputs(1);
    let mut operands = Gemm::new(stream, &data);
    engine.settle();
    stream.begin_capture(THREAD_LOCAL).expect("begin");
    stream.synchronize().expect_err("waiting for a captured stream breaks the capture");
    assert_eq!(
        operands.run(&gemm, stream).expect_err("invalidated").to_string(),
        "a launch is not possible while a stream is captured: an earlier call has invalidated the capture; \
         end it and capture again"
    );
    let _ = stream.end_capture(CUgraphInstantiate_flags(0));
    assert_eq!(
        stream.capture_status().expect("status"),
        CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE
    );
    operands.run(&gemm, stream).expect("the stream is free again");
    operands.check(stream, &data);
    drop((operands, gemm));
    expected_problems();
    engine.close();
}

/// Planning, uploading and loading, and dropping what was planned and uploaded, do not become part of a graph and do not break
/// it.
#[test]
fn planning_and_loading_while_a_stream_is_captured() {
    for mode in [THREAD_LOCAL, GLOBAL, RELAXED] {
        let Some(engine) = Engine::open(Tracking::Off) else { return };
        let stream = &engine.stream;
        let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
        let data = inputs(1);
        let mut operands = Gemm::new(stream, &data);
        let operation = || Operation::named(&engine.device, "moe_layer");
        let earlier = operation();
        engine.settle();
        let mut planned = None;
        let graph = capture(stream, mode, || {
            operands.run(&gemm, stream).expect("run");
            let other = Device::gpu(&engine.context).expect("another device");
            planned = Some((operation(), other));
            drop(earlier);
            operands.run(&gemm, stream).expect("run");
        });
        engine.context.check_err().expect("cudarc has kept no error");
        graph.launch().expect("launch");
        operands.check(stream, &data);
        let (mut layer, other) = planned.expect("planned");
        // Its operands are those of a layer that was planned and uploaded at another time.
        assert!(layer.calm(stream, 1) == operation().calm(stream, 1));
        drop((graph, operands, gemm, layer, other));
        engine.close();
    }
}

/// The device's own stream, captured: what must run at once is refused there, by name.
#[test]
fn the_own_stream_may_be_captured() {
    let Some(engine) = Engine::open(Tracking::Off) else { return };
    let own = engine.device_stream().clone();
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let data = inputs(1);
    let mut operands = Gemm::new(&own, &data);
    let buffer = engine.device.upload(&[1_u32]).expect("upload");
    engine.settle();
    let graph = capture(&own, THREAD_LOCAL, || {
        operands.run(&gemm, &own).expect("run");
        assert_eq!(
            engine.device.upload(&[1_u8]).expect_err("an upload would be captured").to_string(),
            "an upload is not possible while a stream is captured: the device's own stream is; \
             capture another one, or end the capture first"
        );
        assert_eq!(
            buffer.to_vec().expect_err("nobody may wait").to_string(),
            "reading a buffer is not possible while a stream is captured: end the capture first"
        );
    });
    graph.launch().expect("launch");
    operands.check(&own, &data);
    assert_eq!(buffer.to_vec().expect("to_vec"), [1]);
    drop((graph, operands, gemm, buffer, own));
    engine.close();
}

/// Takes what the driver noted of this thread: the test provoked it.
pub fn expected_problems() {
    if let Some(hooks) = Hooks::find() {
        hooks.take_problems();
    }
}
