//! Sequences that a real driver accepts: no call fails, nothing is noted, the data are right, in every order of execution.

use crate::api::{Driver, MODES, Mode, address, code};
use crate::illegal_launch::encode;
use crate::scene::{
    Attribute, BYTES, GLOBAL, K, M, RELAXED, Scene, THREAD_LOCAL, matrix, programmatic_serialization,
};

type Sequence = (&'static str, fn(&Scene));

const SEQUENCES: &[Sequence] = &[
    ("upload, launch, download", |s| {
        let (rows, columns) = matrix(1);
        assert_eq!(s.upload(s.stream, s.input, &rows), code::SUCCESS);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        assert_eq!(s.download(s.stream, s.output), columns);
    }),
    ("launches that may overlap", |s| {
        let (rows, columns) = matrix(1);
        assert_eq!(s.upload(s.stream, s.input, &rows), code::SUCCESS);
        s.launch_overlapping();
        s.launch_overlapping();
        assert_eq!(s.launch_ex(&Attribute { id: 0, ..programmatic_serialization(true) }, 1), code::SUCCESS);
        assert_eq!(s.launch_ex(std::ptr::null(), 0), code::SUCCESS);
        assert_eq!(s.download(s.stream, s.output), columns);
    }),
    ("pageable memory may change after the call", |s| {
        let (mut rows, columns) = matrix(2);
        assert_eq!(s.upload(s.stream, s.input, &rows), code::SUCCESS);
        rows.fill(0.0);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        assert_eq!(s.download(s.stream, s.output), columns);
    }),
    ("pinned memory in both directions", |s| {
        let (rows, columns) = matrix(3);
        let [from, to] = [0, 1].map(|_| s.get("cuMemHostAlloc", &[BYTES, 1]));
        // SAFETY: BYTES of host memory, which nothing uses yet.
        unsafe { std::ptr::copy_nonoverlapping(rows.as_ptr(), from as *mut f32, M * K) };
        s.ok("cuMemcpyHtoDAsync_v2", &[s.input, from, BYTES, s.stream]);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        s.ok("cuMemcpyDtoHAsync_v2", &[to, s.output, BYTES, s.stream]);
        s.ok("cuStreamSynchronize", &[s.stream]);
        // SAFETY: BYTES of host memory, filled by the copy that was waited for.
        assert_eq!(unsafe { std::slice::from_raw_parts(to as *const f32, M * K) }, columns);
        s.ok("cuMemFreeHost", &[from]);
        s.ok("cuMemFreeHost", &[to]);
    }),
    ("two streams and an event", |s| {
        let (rows, columns) = matrix(4);
        assert_eq!(s.upload(s.other, s.input, &rows), code::SUCCESS);
        s.ok("cuEventRecord", &[s.event, s.other]);
        s.ok("cuStreamWaitEvent", &[s.stream, s.event, 0]);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        assert_eq!(s.download(s.stream, s.output), columns);
    }),
    ("an event recorded again after the wait", |s| {
        let (rows, columns) = matrix(5);
        assert_eq!(s.upload(s.other, s.input, &rows), code::SUCCESS);
        s.ok("cuEventRecord", &[s.event, s.other]);
        s.ok("cuStreamWaitEvent", &[s.stream, s.event, 0]);
        s.ok("cuEventRecord", &[s.event, s.stream]);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        assert_eq!(s.download(s.stream, s.output), columns);
    }),
    ("the host waits between two streams", |s| {
        let (rows, columns) = matrix(6);
        assert_eq!(s.upload(s.other, s.input, &rows), code::SUCCESS);
        s.ok("cuStreamSynchronize", &[s.other]);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        s.ok("cuCtxSynchronize", &[]);
        assert_eq!(s.download(s.other, s.output), columns);
    }),
    ("blocking streams and the legacy stream", |s| {
        let (rows, columns) = matrix(7);
        let [a, b] = [0, 1].map(|_| s.get("cuStreamCreate", &[0]));
        assert_eq!(s.upload(a, s.input, &rows), code::SUCCESS);
        assert_eq!(s.launch(0), code::SUCCESS);
        assert_eq!(s.download(b, s.output), columns);
    }),
    ("the stream of the thread", |s| {
        let (rows, columns) = matrix(8);
        const PER_THREAD: u64 = 2;
        assert_eq!(s.upload(PER_THREAD, s.input, &rows), code::SUCCESS);
        assert_eq!(s.launch(PER_THREAD), code::SUCCESS);
        assert_eq!(s.download(PER_THREAD, s.output), columns);
    }),
    ("memory in the order of a stream", |s| {
        let (rows, columns) = matrix(9);
        let memory = s.get("cuMemAllocAsync", &[BYTES, s.stream]);
        assert_eq!(s.upload(s.stream, memory, &rows), code::SUCCESS);
        let mut parameters = s.parameters();
        parameters.sf = memory;
        assert_eq!(s.launch_with(s.stream, parameters), code::SUCCESS);
        s.ok("cuMemFreeAsync", &[memory, s.stream]);
        assert_eq!(s.download(s.stream, s.output), columns);
    }),
    ("a stream destroyed with work in it", |s| {
        let (rows, columns) = matrix(10);
        let stream = s.get("cuStreamCreate", &[1]);
        assert_eq!(s.upload(stream, s.input, &rows), code::SUCCESS);
        assert_eq!(s.launch(stream), code::SUCCESS);
        s.ok("cuEventRecord", &[s.event, stream]);
        s.ok("cuStreamDestroy_v2", &[stream]);
        s.ok("cuEventSynchronize", &[s.event]);
        assert_eq!(s.download(s.stream, s.output), columns);
    }),
    ("a graph replayed on changed data", |s| {
        s.capture(s.stream, GLOBAL);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        let exec = s.instantiate(s.stream);
        for seed in [11, 12] {
            let (rows, columns) = matrix(seed);
            assert_eq!(s.upload(s.stream, s.input, &rows), code::SUCCESS);
            s.ok("cuGraphLaunch", &[exec, s.stream]);
            assert_eq!(s.download(s.stream, s.output), columns);
        }
        s.ok("cuGraphExecDestroy", &[exec]);
    }),
    ("a graph that forks and joins", |s| {
        let (rows, columns) = matrix(13);
        let copy = s.get("cuMemAlloc_v2", &[BYTES]);
        s.capture(s.stream, THREAD_LOCAL);
        s.ok("cuEventRecord", &[s.event, s.stream]);
        s.ok("cuStreamWaitEvent", &[s.other, s.event, 0]);
        s.ok("cuMemcpyDtoDAsync_v2", &[copy, s.input, BYTES, s.other]);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        s.ok("cuEventRecord", &[s.event, s.other]);
        s.ok("cuStreamWaitEvent", &[s.stream, s.event, 0]);
        let exec = s.instantiate(s.stream);
        assert_eq!(s.upload(s.stream, s.input, &rows), code::SUCCESS);
        s.ok("cuGraphLaunch", &[exec, s.stream]);
        assert_eq!(s.download(s.stream, s.output), columns);
        assert_eq!(s.download(s.stream, copy), rows);
        s.ok("cuGraphExecDestroy", &[exec]);
    }),
    ("one graph on two streams", |s| {
        let (rows, columns) = matrix(14);
        s.capture(s.stream, GLOBAL);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        let exec = s.instantiate(s.stream);
        assert_eq!(s.upload(s.stream, s.input, &rows), code::SUCCESS);
        s.ok("cuGraphLaunch", &[exec, s.stream]);
        s.ok("cuGraphLaunch", &[exec, s.other]); // after the launch before
        assert_eq!(s.download(s.other, s.output), columns);
        s.ok("cuGraphExecDestroy", &[exec]);
    }),
    ("memory in a relaxed capture", |s| {
        s.capture(s.stream, RELAXED);
        let memory = s.get("cuMemAlloc_v2", &[16]);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        assert_eq!(s.end_capture(s.stream), code::SUCCESS);
        s.ok("cuMemFree_v2", &[memory]);
    }),
    ("memory of a relaxed thread in a global capture", |s| {
        s.capture(s.stream, GLOBAL);
        let mut mode = 2u32;
        s.ok("cuThreadExchangeStreamCaptureMode", &[address(&mut mode)]);
        assert_eq!(mode, 0);
        let memory = s.get("cuMemAlloc_v2", &[16]);
        s.ok("cuThreadExchangeStreamCaptureMode", &[address(&mut mode)]);
        assert_eq!(mode, 2);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        assert_eq!(s.end_capture(s.stream), code::SUCCESS);
        s.ok("cuMemFree_v2", &[memory]);
    }),
    ("stream-ordered memory of a relaxed thread beside a capture", |s| {
        s.capture(s.stream, GLOBAL);
        let mut mode = RELAXED as u32;
        s.ok("cuThreadExchangeStreamCaptureMode", &[address(&mut mode)]);
        let memory = s.get("cuMemAllocAsync", &[BYTES, s.other]);
        s.ok("cuMemFreeAsync", &[memory, s.other]);
        s.ok("cuThreadExchangeStreamCaptureMode", &[address(&mut mode)]);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        assert_eq!(s.end_capture(s.stream), code::SUCCESS);
    }),
    ("stream-ordered memory of the graph", |s| {
        let (rows, columns) = matrix(15);
        assert_eq!(s.upload(s.stream, s.input, &rows), code::SUCCESS);
        s.capture(s.stream, GLOBAL);
        let memory = s.get("cuMemAllocAsync", &[BYTES, s.stream]);
        let mut parameters = s.parameters();
        parameters.out = memory;
        assert_eq!(s.launch_with(s.stream, parameters), code::SUCCESS);
        s.ok("cuMemcpyDtoDAsync_v2", &[s.output, memory, BYTES, s.stream]);
        s.ok("cuMemFreeAsync", &[memory, s.stream]);
        let exec = s.instantiate(s.stream);
        s.ok("cuGraphLaunch", &[exec, s.stream]);
        assert_eq!(s.download(s.stream, s.output), columns);
        s.ok("cuGraphExecDestroy", &[exec]);
    }),
    ("times", |s| {
        let end = s.get("cuEventCreate", &[0]);
        s.ok("cuEventRecord", &[s.event, s.stream]);
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        s.ok("cuEventRecord", &[end, s.stream]);
        s.ok("cuEventSynchronize", &[end]);
        let mut milliseconds = 0f32;
        s.ok("cuEventElapsedTime_v2", &[address(&mut milliseconds), s.event, end]);
        assert!(milliseconds > 0.0);
    }),
    ("an event that was never recorded", |s| {
        s.ok("cuStreamWaitEvent", &[s.stream, s.event, 0]);
        s.ok("cuEventQuery", &[s.event]);
        s.ok("cuEventSynchronize", &[s.event]);
    }),
    ("polling comes to an end", |s| {
        assert_eq!(s.launch(s.stream), code::SUCCESS);
        s.ok("cuEventRecord", &[s.event, s.stream]);
        let polls = (0..100).take_while(|_| s.call("cuEventQuery", &[s.event]) == code::NOT_READY).count();
        assert!(polls < 3, "{polls}");
        s.ok("cuStreamQuery", &[s.stream]);
    }),
    ("shared memory with opt-in", |s| {
        s.ok("cuFuncSetAttribute", &[s.function, 8, 227 * 1024]);
        assert_eq!(s.launch_sized([1, 1, 1, 256, 1, 1, 227 * 1024]), code::SUCCESS);
    }),
    ("the parameter of the kernel", |s| {
        let mut size = [0u64; 2];
        let places = [address(&mut size[0]), address(&mut size[1])];
        s.ok("cuFuncGetParamInfo", &[s.function, 0, places[0], places[1]]);
        assert_eq!(size, [0, size_of::<crate::scene::Parameters>() as u64]);
        let code = s.call("cuFuncGetParamInfo", &[s.function, 1, places[0], places[1]]);
        assert_eq!(code, code::INVALID_VALUE);
        s.ok("cuFuncLoad", &[s.function]);
    }),
    ("a tensor map", |s| assert_eq!(encode(s, |_| ()), code::SUCCESS)),
    ("nothing freed, nothing copied", |s| {
        s.ok("cuMemFree_v2", &[0]);
        s.ok("cuMemFreeAsync", &[0, s.stream]);
        s.ok("cuMemcpyDtoDAsync_v2", &[s.output, s.input, 0, s.stream]);
    }),
    ("the primary context, retained twice", |s| {
        let first = s.get("cuDevicePrimaryCtxRetain", &[0]);
        assert_eq!(s.get("cuDevicePrimaryCtxRetain", &[0]), first);
        s.ok("cuDevicePrimaryCtxRelease_v2", &[0]);
        s.ok("cuCtxPushCurrent_v2", &[first]);
        let stream = s.get("cuStreamCreate", &[1]);
        s.ok("cuStreamDestroy_v2", &[stream]);
        s.ok("cuCtxPopCurrent_v2", &[0]);
        s.ok("cuDevicePrimaryCtxRelease_v2", &[0]);
    }),
    ("a function by name", |s| {
        let mut function = 0u64;
        let version = 13000;
        let name = c"cuMemAlloc".as_ptr() as u64;
        s.ok("cuGetProcAddress_v2", &[name, address(&mut function), version, 0, 0]);
        assert_ne!(function, 0);
    }),
];

#[test]
fn every_legal_sequence_is_accepted_and_gives_the_right_data() {
    for mode in MODES {
        let driver = Driver::init(mode);
        for (what, sequence) in SEQUENCES {
            let scene = Scene::new(&driver);
            sequence(&scene);
            drop(scene);
            assert_eq!(driver.take_problems(), [""; 0], "{what}, {mode:?}");
            assert_eq!(driver.live(), [0; 8], "{what}, {mode:?} leaves something behind");
        }
    }
}

/// Lazily nothing happens before someone waits, and copies to pinned memory are seen only then.
#[test]
fn lazy_work_waits_for_somebody_to_wait() {
    let driver = Driver::init(Mode::Lazy);
    let s = Scene::new(&driver);
    let pinned = s.get("cuMemHostAlloc", &[BYTES, 0]) as *mut f32;
    s.ok("cuMemsetD8Async", &[s.input, 0, BYTES, s.stream]);
    s.ok("cuMemcpyDtoHAsync_v2", &[pinned as u64, s.input, BYTES, s.stream]);
    s.ok("cuEventRecord", &[s.event, s.stream]);
    // SAFETY: host memory of the driver, filled with NaN when it was allocated.
    assert!(unsafe { pinned.read() }.is_nan());
    assert_eq!(s.call("cuStreamQuery", &[s.stream]), code::NOT_READY);
    s.ok("cuStreamSynchronize", &[s.stream]);
    // SAFETY: as above; the copy has finished.
    assert_eq!(unsafe { pinned.read() }, 0.0);
    s.ok("cuMemFreeHost", &[pinned as u64]);
    assert_eq!(driver.take_problems(), [""; 0]);
}

#[test]
fn a_call_fails_when_a_test_wants_it_to() {
    let driver = Driver::init(Mode::Lazy);
    let s = Scene::new(&driver);
    s.call("fake_cuda_fail", &[c"cuMemAlloc_v2".as_ptr() as u64, 1, code::OUT_OF_MEMORY as u64]);
    let memory = s.get("cuMemAlloc_v2", &[16]);
    assert_eq!(s.call("cuMemAlloc_v2", &[address(&mut 0u64), 16]), code::OUT_OF_MEMORY);
    let again = s.get("cuMemAlloc_v2", &[16]);
    s.ok("cuMemFree_v2", &[memory]);
    s.ok("cuMemFree_v2", &[again]);
    s.call("fake_cuda_fail", &[c"cuStreamSynchronize".as_ptr() as u64, 0, code::LAUNCH_FAILED as u64]);
    assert_eq!(s.call("cuStreamSynchronize", &[s.stream]), code::LAUNCH_FAILED);
    assert_eq!(s.call("cuCtxSynchronize", &[]), code::LAUNCH_FAILED, "the context is broken");
    assert_eq!(driver.take_problems(), [""; 0], "it was asked for");
}

/// A kernel may start early where its launch allows it and nothing but a kernel is directly ahead; a graph remembers.
#[test]
fn launches_that_may_overlap_are_counted() {
    for mode in MODES {
        let driver = Driver::init(mode);
        let s = Scene::new(&driver);
        let overlaps = || driver.call("fake_cuda_overlaps", &[]);
        let plain = || assert_eq!(s.launch(s.stream), code::SUCCESS);
        s.ok("cuMemsetD8Async", &[s.input, 0, BYTES, s.stream]);
        s.launch_overlapping(); // behind no kernel
        assert_eq!(overlaps(), 0);
        s.launch_overlapping();
        assert_eq!(overlaps(), 1);
        plain();
        assert_eq!(s.launch_ex(&programmatic_serialization(false), 1), code::SUCCESS);
        assert_eq!(overlaps(), 1);
        s.launch_overlapping();
        assert_eq!(overlaps(), 2);
        s.ok("cuEventRecord", &[s.event, s.stream]);
        s.launch_overlapping(); // behind more than a kernel
        assert_eq!(overlaps(), 2);

        s.capture(s.stream, GLOBAL);
        s.launch_overlapping(); // the graph's first
        s.launch_overlapping();
        plain();
        s.launch_overlapping();
        let exec = s.instantiate(s.stream);
        assert_eq!(overlaps(), 2, "nothing runs yet");
        for replay in 1..3 {
            s.ok("cuGraphLaunch", &[exec, s.stream]);
            assert_eq!(overlaps(), 2 + 2 * replay);
        }
        s.ok("cuGraphExecDestroy", &[exec]);
        s.ok("cuCtxSynchronize", &[]);
        drop(s);
        assert_eq!(driver.take_problems(), [""; 0], "{mode:?}");
    }
}
