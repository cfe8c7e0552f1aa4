//! What a run costs the host: which driver calls it makes when nothing has to be ordered by events.

use std::sync::Arc;

use deepseek_kernels::cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales128x128};
use deepseek_kernels::{F8E4M3, Matrix, MatrixMut, RawSlice, RawSliceMut, bf16};

use crate::engine::{Engine, THREAD_LOCAL, Tracking, capture};
use crate::hooks::Hooks;
use crate::operation::{Operation, cases};
use crate::streams::{Gemm, SHAPE, inputs, spec};

/// Each of a launch: the context is current, the stream is captured or not, the kernel. No tensor map is encoded.
const OF_A_LAUNCH: [&str; 3] = ["cuCtxGetCurrent", "cuStreamIsCapturing", "cuLaunchKernelEx"];

/// Fails unless `run` makes these calls for each of its launches, and no other.
/// Of `checks` launches more only the operands are looked at.
fn expect_three_a_launch(hooks: &Hooks, what: &str, checks: u64, run: impl FnOnce()) {
    let before = (hooks.all_calls(), OF_A_LAUNCH.map(|call| hooks.calls(call)));
    run();
    let all = hooks.all_calls() - before.0;
    let each: Vec<u64> =
        OF_A_LAUNCH.iter().zip(before.1).map(|(call, before)| hooks.calls(call) - before).collect();
    assert!(each[2] > 0, "{what}: nothing was launched");
    let looked_at = each[2] + checks;
    assert_eq!(each, [looked_at, looked_at, each[2]], "{what}: {OF_A_LAUNCH:?}");
    assert_eq!(all, each.iter().sum::<u64>(), "{what}: {each:?} of {OF_A_LAUNCH:?}, and others");
}

/// Once the first run has encoded its tensor maps.
#[test]
fn a_launch_takes_three_calls() {
    let test = "a_launch_takes_three_calls";
    for tracking in [Tracking::Off, Tracking::On] {
        let Some(engine) = Engine::open(tracking) else { return };
        let Some(hooks) = Hooks::needed_by(test) else { return };
        let stream = &engine.stream;
        for case in cases() {
            let mut operation = Operation::new(&engine.device, &*case);
            operation.calm(stream, 1);
            let name = operation.name;
            let checks = u64::from(name == "moe_layer"); // of its operands, before its first step
            if tracking == Tracking::Off {
                expect_three_a_launch(&hooks, name, checks, || operation.run(stream).expect("run"));
            }
            let capture = capture(stream, THREAD_LOCAL, || {
                expect_three_a_launch(&hooks, name, checks, || operation.run(stream).expect("run"));
            });
            operation.bits(stream); // waits, and takes what the data report
            drop((capture, operation));
        }
        engine.close();
    }
}

/// By address it is the same although cudarc tracks.
#[test]
fn a_launch_takes_three_calls_by_address() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let Some(hooks) = Hooks::needed_by("a_launch_takes_three_calls_by_address") else { return };
    // SAFETY: it is of the device's context, and outlives the results.
    let stream = unsafe { engine.device.raw_stream(engine.stream.cu_stream().cast()) }.expect("a stream");
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let data = inputs(1);
    let mut operands = Gemm::new(&engine.stream, &data);
    let (m, n, k) = SHAPE;
    let codes = [&operands.a, &operands.b].map(|slice| slice.device_ptr(&engine.stream).0 as *const F8E4M3);
    let scales = [&operands.sfa, &operands.sfb].map(|slice| slice.device_ptr(&engine.stream).0 as *const f32);
    let d = operands.d.device_ptr_mut(&engine.stream).0 as *mut bf16;
    let scale_counts = [operands.sfa.len(), operands.sfb.len()];
    engine.settle();
    let mut run = || {
        // SAFETY: the slices lie there, and are waited for before they are looked at or dropped.
        let (a, b) = unsafe { (RawSlice::new(&(), codes[0], m * k), RawSlice::new(&(), codes[1], n * k)) };
        // SAFETY: as above.
        let [sfa, sfb] = [0, 1].map(|i| unsafe { RawSlice::new(&(), scales[i], scale_counts[i]) });
        // SAFETY: as above.
        let d = unsafe { RawSliceMut::new(&mut operands.d, d, m * n) };
        let args = Fp8GemmArgs {
            a: Matrix::new(a, m, k).expect("a"),
            sfa: Scales1x128::<MMajor>::new(sfa, m, k).expect("sfa"),
            b: Matrix::new(b, n, k).expect("b"),
            sfb: Scales128x128::new(sfb, n, k).expect("sfb"),
            d: MatrixMut::new(d, m, n).expect("d"),
        };
        gemm.run(&stream, args).expect("run");
    };
    run();
    expect_three_a_launch(&hooks, "fp8_gemm by address", 0, run);
    engine.settle();
    operands.check(&engine.stream, &data);
    drop((stream, gemm, operands));
    engine.close();
}

/// Operands elsewhere have maps of their own; those that were there before are known.
#[test]
fn maps_are_encoded_when_operands_move() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let Some(hooks) = Hooks::needed_by("maps_are_encoded_when_operands_move") else { return };
    let stream = &engine.stream;
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let encoded = |operands: &mut Gemm, data, stream: &Arc<CudaStream>| {
        let before = hooks.calls("cuTensorMapEncodeTiled");
        operands.run(&gemm, stream).expect("run");
        let encoded = hooks.calls("cuTensorMapEncodeTiled") - before;
        operands.check(stream, data);
        encoded
    };
    let data = [1, 2, 3].map(inputs);
    let [mut one, mut two] = [0, 1].map(|i| Gemm::new(stream, &data[i]));
    assert_eq!(encoded(&mut one, &data[0], stream), 4);
    assert_eq!(encoded(&mut one, &data[0], stream), 0);
    assert_eq!(encoded(&mut two, &data[1], stream), 4);
    assert_eq!(encoded(&mut one, &data[0], stream), 0);
    one.b = stream.clone_htod(&data[0].b).expect("b"); // while the old one is there
    assert_eq!(encoded(&mut one, &data[0], stream), 1);
    one.refill(stream, &data[2]);
    assert_eq!(encoded(&mut one, &data[2], stream), 0);
    drop((one, two, gemm));
    engine.close();
}
