//! The faults that the driver can plant: for each, a host that does everything right is told what it "did" wrong.

use crate::api::{Driver, Mode, address};
use crate::illegal_launch::encode;
use crate::scene::{BYTES, GLOBAL, Scene, THREADS, matrix};

struct Planted {
    name: &'static str,
    /// A correct use of what the fault breaks.
    host: fn(&Scene),
    /// Part of what the driver says.
    says: &'static str,
}

/// The least that shows it: a host on two streams.
fn two_streams(s: &Scene) {
    s.upload(s.other, s.input, &matrix(1).0);
    s.call("cuEventRecord", &[s.event, s.other]);
    s.call("cuStreamWaitEvent", &[s.stream, s.event, 0]);
    s.launch(s.stream);
}

fn launch(s: &Scene) {
    s.launch(s.stream);
}

fn opt_in(s: &Scene) {
    s.call("cuFuncSetAttribute", &[s.function, 8, 227 * 1024]);
    s.launch_sized([1, 1, 1, THREADS, 1, 1, 100 * 1024]);
}

fn pool(s: &Scene) {
    let memory = s.get("cuMemAllocAsync", &[BYTES, s.stream]);
    let mut parameters = s.parameters();
    parameters.sf = memory;
    s.launch_with(s.stream, parameters);
    s.call("cuMemFreeAsync", &[memory, s.stream]);
}

fn map(s: &Scene) {
    encode(s, |_| ());
}

const FAULTS: &[Planted] = &[
    Planted {
        name: "no-smem-opt-in",
        host: opt_in,
        says: "cuLaunchKernel: CUDA_ERROR_INVALID_VALUE: transpose_scales: 102400 bytes of dynamic shared memory",
    },
    Planted {
        name: "smem-opt-in-too-large",
        host: opt_in,
        says: "cuFuncSetAttribute: CUDA_ERROR_INVALID_VALUE",
    },
    Planted { name: "no-dynamic-smem", host: launch, says: "transpose_scales: CUDA_ERROR_LAUNCH_FAILED" },
    Planted { name: "half-the-threads", host: launch, says: "launched with 128 threads, written for 256" },
    Planted {
        name: "odd-grid",
        host: |s| {
            let function = s.cluster_function();
            s.launch_raw(function, [2, 1, 1, 384, 1, 1, 0], s.stream, 0);
        },
        says: "cuLaunchKernel: CUDA_ERROR_INVALID_CLUSTER_SIZE",
    },
    Planted {
        name: "null-stream",
        host: |s| {
            s.upload(s.stream, s.input, &matrix(1).0);
            s.launch(s.stream);
        },
        says: "note `unordered`: transpose_scales",
    },
    Planted {
        name: "context-not-bound",
        host: |s| {
            s.ok("cuCtxPopCurrent_v2", &[0]);
            s.call("cuCtxSetCurrent", &[s.context]);
            s.call("cuMemAlloc_v2", &[address(&mut 0u64), 16]);
            if s.get("cuCtxGetCurrent", &[]) == 0 {
                s.ok("cuCtxPushCurrent_v2", &[s.context]);
            }
        },
        says: "cuMemAlloc_v2: CUDA_ERROR_INVALID_CONTEXT",
    },
    Planted { name: "foreign-context", host: pool, says: "is memory of another context" },
    Planted { name: "event-wait-dropped", host: two_streams, says: "note `unordered`: " },
    Planted { name: "event-record-dropped", host: two_streams, says: "note `unordered`: " },
    Planted {
        name: "sync-dropped",
        host: |s| {
            s.upload(s.other, s.input, &matrix(1).0);
            s.call("cuStreamSynchronize", &[s.other]);
            s.launch(s.stream);
            s.download(s.other, s.input); // executes the copy
        },
        says: "note `unordered`: ",
    },
    Planted {
        name: "error-word-pageable",
        host: |s| {
            let word = s.get("cuMemHostAlloc", &[4, 3]);
            s.call("cuMemFreeHost", &[word]);
        },
        says: "cuMemFreeHost: CUDA_ERROR_INVALID_VALUE",
    },
    Planted { name: "early-free", host: pool, says: "touches allocation" },
    Planted { name: "double-free", host: pool, says: "cuMemFreeAsync: CUDA_ERROR_INVALID_VALUE: allocation" },
    Planted { name: "zero-element-strides", host: map, says: "an element stride must be 1 to 8: 0x0" },
    Planted { name: "misaligned-memory", host: map, says: "the address must be aligned to 16 bytes" },
    Planted { name: "tensor-map-too-long", host: map, says: "note `past-the-end`" },
    Planted { name: "stray-pointer", host: launch, says: "note `stray-pointer`: transpose_scales" },
    Planted { name: "param-size", host: launch, says: "48 bytes of parameters, written for 40" },
    Planted {
        name: "capture-wait-outside",
        host: |s| {
            s.capture(s.stream, GLOBAL);
            s.launch(s.stream);
            s.end_capture(s.stream);
        },
        says: "cuLaunchKernel: CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
    },
    Planted { name: "module-unloaded-early", host: launch, says: "note `unload-in-use`" },
];

/// What is never freed is told when the process ends: process.rs sees it.
const TOLD_AT_EXIT: &str = "free-dropped";

#[test]
fn every_planted_fault_is_told_to_the_host() {
    let driver = Driver::init(Mode::Lazy);
    for fault in FAULTS {
        for planted in [false, true] {
            let s = Scene::new(&driver);
            driver.set("FAULT", if planted { fault.name } else { "" });
            (fault.host)(&s);
            s.call("cuCtxSynchronize", &[]);
            s.call("cuStreamSynchronize", &[s.stream]);
            driver.set("FAULT", "");
            drop(s);
            let problems = driver.take_problems();
            let told = problems.iter().any(|problem| problem.contains(fault.says));
            assert_eq!(told, planted, "{}: {problems:?}", fault.name);
        }
    }
}

#[test]
fn no_fault_is_left_out() {
    let header = include_str!("../../cuda/driver/faults.h");
    let in_header: Vec<_> = header.lines().filter(|line| line.trim_start().starts_with("X(")).collect();
    let names: Vec<_> = FAULTS.iter().map(|fault| fault.name).chain([TOLD_AT_EXIT]).collect();
    assert_eq!(in_header.len(), names.len());
    for name in names {
        let quoted = format!("\"{name}\"");
        assert_eq!(in_header.iter().filter(|line| line.contains(&quoted)).count(), 1, "{quoted}");
    }
}
