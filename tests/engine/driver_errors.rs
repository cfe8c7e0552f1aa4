//! What the driver answers reaches the caller: as itself, once, and never as somebody else's.

use deepseek_kernels::cudarc::driver::{CudaContext, DevicePtr};
use deepseek_kernels::gemm::Fp8Gemm;
use deepseek_kernels::quant::{
    MMajor, RowMajor, Scales1x128, Scales1x128Mut, TransposeScales, TransposeScalesArgs, TransposeScalesSpec,
};
use deepseek_kernels::{Device, Error, RawSlice, bf16};

use check::memory::Scalar;

use crate::engine::{Engine, THREAD_LOCAL, Tracking, capture};
use crate::hooks::Hooks;
use crate::operation::Operation;
use crate::process::elsewhere;
use crate::streams::{Gemm, inputs, spec};

/// A call that fails, which one of its kind, with what, and what `run` answers.
const OF_A_RUN: [(&str, i32, i32, &str); 8] = [
    ("cuLaunchKernelEx", 0, 701, "launch of "),
    ("cuLaunchKernelEx", 0, 1, "launch of "),
    ("cuTensorMapEncodeTiled", 0, 1, "tensor map of a: the driver refused it with CUDA_ERROR_INVALID_VALUE"),
    ("cuTensorMapEncodeTiled", 3, 1, "tensor map of d: the driver refused it with CUDA_ERROR_INVALID_VALUE"),
    ("cuStreamWaitEvent", 0, 400, "ordering the operands failed with CUDA_ERROR_INVALID_HANDLE (400)"),
    (
        "cuEventRecord",
        0,
        400,
        "recording the use of the operands failed with CUDA_ERROR_INVALID_HANDLE (400)",
    ),
    (
        "cuEventRecord",
        4,
        400,
        "recording the use of the operands failed with CUDA_ERROR_INVALID_HANDLE (400)",
    ),
    (
        "cuStreamIsCapturing",
        0,
        400,
        "asking whether a stream is captured failed with CUDA_ERROR_INVALID_HANDLE (400)",
    ),
];

/// Whatever the driver refuses, the run that asked tells of it, and the next one is as if nothing had been.
#[test]
fn a_run_tells_its_own_errors() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let Some(hooks) = Hooks::needed_by("a_run_tells_its_own_errors") else { return };
    let data = inputs(1);
    let mut operands = Gemm::new(&engine.stream, &data);
    engine.settle();
    for (call, after, code, expected) in OF_A_RUN {
        let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan"); // that knows no tensor map
        hooks.fail(call, after, code);
        let error = operands.run(&gemm, &engine.stream).expect_err("the driver refused").to_string();
        assert!(error.starts_with(expected), "{call} after {after}: expected {expected}, got {error}");
        operands.run(&gemm, &engine.stream).unwrap_or_else(|error| panic!("the run after {call}: {error}"));
        operands.check(&engine.stream, &data);
    }
    drop(operands);
    engine.close();
}

/// What a drop of the engine's left behind is told as that; nothing is launched, and the same run works next.
#[test]
fn an_earlier_error_is_nobody_elses() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let Some(hooks) = Hooks::needed_by("an_earlier_error_is_nobody_elses") else { return };
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let data = inputs(1);
    let mut operands = Gemm::new(&engine.stream, &data);
    let theirs = engine.stream.clone_htod(&[1_u8; 64]).expect("theirs");
    engine.settle();
    let leave = |hooks: &Hooks, what| {
        hooks.fail("cuStreamWaitEvent", 0, 1);
        drop(what);
    };
    leave(&hooks, theirs);
    let expected = "an earlier call on this context failed with CUDA_ERROR_INVALID_VALUE (1)";
    assert_eq!(operands.run(&gemm, &engine.stream).expect_err("refused").to_string(), expected);
    let d = engine.stream.clone_dtoh(&operands.d).expect("d");
    assert!(d.iter().all(|x| x.bits() == bf16::SENTINEL.bits()), "nothing was launched");
    operands.run(&gemm, &engine.stream).expect("the same run");
    operands.check(&engine.stream, &data);

    leave(&hooks, engine.stream.clone_htod(&[1_u8; 64]).expect("theirs"));
    assert_eq!(Device::gpu(&engine.context).expect_err("told").to_string(), expected);
    leave(&hooks, engine.stream.clone_htod(&[1_u8; 64]).expect("theirs"));
    assert_eq!(engine.device.upload(&[1_u8]).expect_err("told").to_string(), expected);
    drop((gemm, operands));
    engine.settle();
    drop(engine);
}

/// A call of loading that fails, and what is told; nothing of the attempt stays.
const OF_LOADING: [(&str, i32, i32, &str); 10] = [
    ("cuModuleLoadData", 0, 2, "loading a kernel failed with CUDA_ERROR_OUT_OF_MEMORY (2)"),
    ("cuModuleLoadData", 30, 209, "loading a kernel failed with CUDA_ERROR_NO_BINARY_FOR_GPU (209)"),
    ("cuModuleGetFunction", 2, 500, "finding a kernel in its module failed with CUDA_ERROR_NOT_FOUND (500)"),
    ("cuFuncSetAttribute", 0, 1, "asking for shared memory failed with CUDA_ERROR_INVALID_VALUE (1)"),
    (
        "cuFuncGetParamInfo",
        0,
        1,
        "reading the size of a kernel's parameters failed with CUDA_ERROR_INVALID_VALUE (1)",
    ),
    ("cuFuncLoad", 0, 2, "loading a kernel's code failed with CUDA_ERROR_OUT_OF_MEMORY (2)"),
    ("cuMemHostAlloc", 0, 2, "allocating the error words failed with CUDA_ERROR_OUT_OF_MEMORY (2)"),
    ("cuStreamCreate", 0, 2, "creating a stream failed with CUDA_ERROR_OUT_OF_MEMORY (2)"),
    ("cuDeviceGetName", 0, 999, "reading the GPU's name failed with CUDA_ERROR_UNKNOWN (999)"),
    ("cuDriverGetVersion", 0, 1, "reading the driver's version failed with CUDA_ERROR_INVALID_VALUE (1)"),
];

#[test]
fn loading_tells_its_errors() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let Some(hooks) = Hooks::needed_by("loading_tells_its_errors") else { return };
    for (call, after, code, expected) in OF_LOADING {
        hooks.fail(call, after, code);
        let error = Device::gpu(&engine.context).expect_err("the driver refused").to_string();
        assert_eq!(error, expected, "{call} after {after}");
        engine.context.check_err().unwrap_or_else(|error| panic!("kept after {call}: {error:?}"));
    }
    engine.close();
}

#[test]
fn memory_tells_its_errors() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let Some(hooks) = Hooks::needed_by("memory_tells_its_errors") else { return };
    for (call, code, expected) in [
        ("cuMemAllocAsync", 2, "allocating on the GPU failed with CUDA_ERROR_OUT_OF_MEMORY (2)"),
        ("cuMemcpyHtoDAsync_v2", 1, "copying to the GPU failed with CUDA_ERROR_INVALID_VALUE (1)"),
        ("cuStreamSynchronize", 1, "copying to the GPU failed with CUDA_ERROR_INVALID_VALUE (1)"),
    ] {
        hooks.fail(call, 0, code);
        assert_eq!(engine.device.upload(&[1_u8]).expect_err("refused").to_string(), expected);
    }
    let buffer = engine.device.upload(&[1_u8, 2]).expect("upload");
    for (call, code, expected) in [
        ("cuCtxSynchronize", 1, "waiting for the GPU failed with CUDA_ERROR_INVALID_VALUE (1)"),
        ("cuMemcpyDtoHAsync_v2", 1, "copying from the GPU failed with CUDA_ERROR_INVALID_VALUE (1)"),
        ("cuStreamSynchronize", 1, "copying from the GPU failed with CUDA_ERROR_INVALID_VALUE (1)"),
    ] {
        hooks.fail(call, 0, code);
        assert_eq!(buffer.to_vec().expect_err("refused").to_string(), expected);
        assert_eq!(buffer.to_vec().expect("and then"), [1, 2], "after {call}");
    }
    drop(buffer);
    engine.close();
}

/// A kernel of another library hit an illegal address: from then on every call is an error, and nothing panics on the way out.
#[test]
fn a_dead_context() {
    let Some(gate) = Engine::open(Tracking::On) else { return };
    let Some(hooks) = Hooks::needed_by("a_dead_context") else { return };
    if elsewhere("driver_errors::a_dead_context") {
        return gate.close();
    }
    lose_a_context(&hooks, |engine| {
        hooks.fail("cuStreamSynchronize", 0, 700);
        engine.stream.synchronize().expect_err("the context is dead");
    });
    gate.close();
}

/// A kernel of this crate does: a caller has given it the address of what was freed.
#[test]
fn a_context_that_a_wrong_address_has_killed() {
    let Some(gate) = Engine::open(Tracking::On) else { return };
    let Some(hooks) = Hooks::needed_by("a_context_that_a_wrong_address_has_killed") else { return };
    if elsewhere("driver_errors::a_context_that_a_wrong_address_has_killed") {
        return gate.close();
    }
    lose_a_context(&hooks, |engine| {
        let plan = TransposeScales::plan(&engine.device, TransposeScalesSpec::new(8, 128)).expect("plan");
        let mut out = engine.stream.clone_htod(&[0.0_f32; 8]).expect("out");
        let gone = engine.stream.clone_htod(&[0.0_f32; 8]).expect("sf");
        let address = gone.device_ptr(&engine.stream).0 as *const f32;
        drop(gone);
        engine.settle();
        // SAFETY: the promise is broken on purpose, in a process and a context of their own.
        let sf = unsafe { RawSlice::new(&(), address, 8) };
        let args = TransposeScalesArgs {
            sf: Scales1x128::<RowMajor>::new(sf, 8, 128).expect("sf"),
            out: Scales1x128Mut::<MMajor>::new(&mut out, 8, 128).expect("out"),
        };
        // Who gives an address is believed: the kernel finds out, when it runs, which may be within the call.
        let launched = plan.run(&engine.stream, args).is_ok();
        assert!(!launched || engine.stream.synchronize().is_err(), "the context is dead");
    });
    gate.close();
}

/// Kills a context of its own; whatever is called then is an error, and what goes, goes without a panic.
fn lose_a_context(hooks: &Hooks, kill: impl FnOnce(&Engine)) {
    let context = CudaContext::new_non_primary(0, 0).expect("a context to lose");
    let engine = Engine::on(context, Tracking::On);
    let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
    let mut operands = Gemm::new(&engine.stream, &inputs(1));
    let buffer = engine.device.upload(&[1_u8]).expect("upload");
    let mut layer = Operation::named(&engine.device, "moe_layer");
    layer.refill(&engine.stream, 1);
    layer.run(&engine.stream).expect("run");
    let graph = capture(&engine.stream, THREAD_LOCAL, || layer.run(&engine.stream).expect("run"));
    engine.settle();
    kill(&engine);
    graph.launch().expect_err("a graph in a dead context");
    for (what, error) in [
        ("run", operands.run(&gemm, &engine.stream).err()),
        ("a layer", layer.run(&engine.stream).err()),
        ("upload", engine.device.upload(&[1_u8]).err()),
        ("to_vec", buffer.to_vec().err()),
        ("loading", Device::gpu(&engine.context).err()),
    ] {
        let error = error.unwrap_or_else(|| panic!("{what} in a dead context is Ok"));
        assert!(matches!(error, Error::Driver { code: 700, .. }), "{what}: {error}");
    }
    drop((graph, layer, operands, buffer, gemm, engine));
    hooks.take_problems();
}
