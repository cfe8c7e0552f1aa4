//! Calls that the driver refuses, each with the code that a real one gives and the document that says so.

use crate::api::{Driver, Mode, address, code};
use crate::illegal_launch::LAUNCHES;
use crate::scene::{BYTES, GLOBAL, M, NON_BLOCKING, RELAXED, Scene, THREAD_LOCAL};

/// An illegal call in a scene of its own; `call` returns what it answered.
pub struct Illegal {
    pub what: &'static str,
    /// Chapter of the driver API's manual, or section of the programming guide.
    pub source: &'static str,
    pub code: i32,
    pub call: fn(&Scene) -> i32,
}

pub const fn row(what: &'static str, source: &'static str, code: i32, call: fn(&Scene) -> i32) -> Illegal {
    Illegal { what, source, code, call }
}

const DEVICES: &[Illegal] = &[
    row("flags of cuInit", "cuInit: must be 0", code::INVALID_VALUE, |s| s.call("cuInit", &[1])),
    row("a second device", "cuDeviceGet: 0 to count - 1", code::INVALID_DEVICE, |s| {
        s.call("cuDeviceGet", &[address(&mut 0u64), 1])
    }),
    row("no room for the name", "cuDeviceGetName: returns", code::INVALID_VALUE, |s| {
        s.call("cuDeviceGetName", &[address(&mut 0u64), 0, 0])
    }),
    row("an attribute of no device", "cuDeviceGetAttribute: returns", code::INVALID_DEVICE, |s| {
        s.call("cuDeviceGetAttribute", &[address(&mut 0u64), 16, 7])
    }),
    row("the primary context of no device", "cuDevicePrimaryCtxRetain: returns", code::INVALID_DEVICE, |s| {
        s.call("cuDevicePrimaryCtxRetain", &[address(&mut 0u64), 3])
    }),
    row("released and not retained", "cuDevicePrimaryCtxRelease: returns", code::INVALID_CONTEXT, |s| {
        s.call("cuDevicePrimaryCtxRelease_v2", &[0])
    }),
    row("the primary context destroyed", "cuCtxDestroy: not the primary one", code::INVALID_CONTEXT, |s| {
        let primary = s.get("cuDevicePrimaryCtxRetain", &[0]);
        let code = s.call("cuCtxDestroy_v2", &[primary]);
        s.ok("cuDevicePrimaryCtxRelease_v2", &[0]);
        code
    }),
    row("a context that is none", "cuCtxSetCurrent: returns", code::INVALID_CONTEXT, |s| {
        s.call("cuCtxSetCurrent", &[s.stream])
    }),
    row("nothing to pop", "cuCtxPopCurrent: returns", code::INVALID_CONTEXT, |s| {
        s.ok("cuCtxPopCurrent_v2", &[0]);
        s.call("cuCtxPopCurrent_v2", &[0])
    }),
    row("memory without a context", "context management: current context", code::INVALID_CONTEXT, |s| {
        s.ok("cuCtxPopCurrent_v2", &[0]);
        s.call("cuMemAlloc_v2", &[address(&mut 0u64), 16])
    }),
    row("a stream without a context", "cuStreamCreate: returns", code::INVALID_CONTEXT, |s| {
        s.ok("cuCtxPopCurrent_v2", &[0]);
        s.call("cuStreamCreate", &[address(&mut 0u64), 0])
    }),
    row("the current context is gone", "data types: CONTEXT_IS_DESTROYED", code::CONTEXT_IS_DESTROYED, |s| {
        let gone = s.get("cuCtxCreate_v4", &[0, 0, 0]);
        s.ok("cuCtxPushCurrent_v2", &[gone]);
        s.ok("cuCtxDestroy_v2", &[gone]);
        let code = s.call("cuCtxSynchronize", &[]);
        s.ok("cuCtxPopCurrent_v2", &[0]);
        code
    }),
    row("a function that is not modelled", "data types: NOT_SUPPORTED", code::NOT_SUPPORTED, |s| {
        s.call("cuMemPoolCreate", &[address(&mut 0u64), 0])
    }),
    row("a function that there is not", "cuGetProcAddress: returns", code::NOT_FOUND, |s| {
        s.call("cuGetProcAddress_v2", &[c"cuFly".as_ptr() as u64, address(&mut 0u64), 13000, 0, 0])
    }),
];

const MEMORY: &[Illegal] = &[
    row("0 bytes", "cuMemAlloc: bytesize 0", code::INVALID_VALUE, |s| {
        s.call("cuMemAlloc_v2", &[address(&mut 0u64), 0])
    }),
    row("nowhere to store the pointer", "cuMemAlloc: returns", code::INVALID_VALUE, |s| {
        s.call("cuMemAlloc_v2", &[0, 16])
    }),
    row("more than there is", "cuMemAlloc: returns", code::OUT_OF_MEMORY, |s| {
        s.call("cuMemAlloc_v2", &[address(&mut 0u64), 100 << 30])
    }),
    row("freed inside an allocation", "cuMemFree: returned by an allocation", code::INVALID_VALUE, |s| {
        s.call("cuMemFree_v2", &[s.input + 16])
    }),
    row("freed twice", "cuMemFree: returns", code::INVALID_VALUE, |s| {
        s.ok("cuMemFree_v2", &[s.input]);
        s.call("cuMemFree_v2", &[s.input])
    }),
    row("freed twice on a stream", "cuMemFreeAsync: returns", code::INVALID_VALUE, |s| {
        let memory = s.get("cuMemAllocAsync", &[64, s.stream]);
        s.ok("cuMemFreeAsync", &[memory, s.stream]);
        s.call("cuMemFreeAsync", &[memory, s.stream])
    }),
    row("a copy beyond the end", "cuMemcpyHtoDAsync: returns", code::INVALID_VALUE, |s| {
        s.upload(s.stream, s.input + 4, &[0.0; BYTES as usize / 4])
    }),
    row("a copy to nothing", "cuMemcpyHtoDAsync: returns", code::INVALID_VALUE, |s| {
        s.upload(s.stream, 4096, &[0.0])
    }),
    row("a copy from freed memory", "cuMemcpyDtoH: returns", code::INVALID_VALUE, |s| {
        s.ok("cuMemFree_v2", &[s.input]);
        s.call("cuMemcpyDtoH_v2", &[address(&mut 0u64), s.input, 8])
    }),
    row("a copy from the null pointer", "cuMemcpyHtoDAsync: returns", code::INVALID_VALUE, |s| {
        s.call("cuMemcpyHtoDAsync_v2", &[s.input, 0, 8, s.stream])
    }),
    row(
        "device memory for the host's",
        "cuMemcpyHtoDAsync: srcHost is host memory",
        code::INVALID_VALUE,
        |s| s.call("cuMemcpyHtoDAsync_v2", &[s.input, s.output, 8, s.stream]),
    ),
    row("a copy on the device, too long", "cuMemcpyDtoDAsync: returns", code::INVALID_VALUE, |s| {
        s.call("cuMemcpyDtoDAsync_v2", &[s.output, s.input, BYTES + 1, s.stream])
    }),
    row("words at an odd address", "cuMemsetD32Async: 4-byte aligned", code::INVALID_VALUE, |s| {
        s.call("cuMemsetD32Async", &[s.input + 2, 0, 1, s.stream])
    }),
    row("a set beyond the end", "cuMemsetD8Async: returns", code::INVALID_VALUE, |s| {
        s.call("cuMemsetD8Async", &[s.input, 0, BYTES + 1, s.stream])
    }),
    row("0 bytes of host memory", "cuMemHostAlloc: returns", code::INVALID_VALUE, |s| {
        s.call("cuMemHostAlloc", &[address(&mut 0u64), 0, 0])
    }),
    row("flags of host memory", "cuMemHostAlloc: flags", code::INVALID_VALUE, |s| {
        s.call("cuMemHostAlloc", &[address(&mut 0u64), 16, 8])
    }),
    row("pageable memory freed", "cuMemFreeHost: of cuMemHostAlloc", code::INVALID_VALUE, |s| {
        s.call("cuMemFreeHost", &[address(&mut 0u64)])
    }),
    row("host memory freed twice", "cuMemFreeHost: returns", code::INVALID_VALUE, |s| {
        let memory = s.get("cuMemHostAlloc", &[16, 0]);
        s.ok("cuMemFreeHost", &[memory]);
        s.call("cuMemFreeHost", &[memory])
    }),
    row("pageable memory mapped", "cuMemHostGetDevicePointer: returns", code::INVALID_VALUE, |s| {
        s.call("cuMemHostGetDevicePointer_v2", &[address(&mut 0u64), address(&mut 0u64), 0])
    }),
    row("an address of nothing", "cuPointerGetAttribute: returns", code::INVALID_VALUE, |s| {
        s.call("cuPointerGetAttribute", &[address(&mut 0u64), 2, 4096])
    }),
    row(
        "used before it is allocated",
        "stream-ordered allocator: order of use",
        code::ILLEGAL_ADDRESS,
        |s| {
            let memory = s.get("cuMemAllocAsync", &[64, s.other]);
            s.ok("cuMemsetD8Async", &[memory, 0, 64, s.stream]);
            s.call("cuStreamSynchronize", &[s.stream])
        },
    ),
    row("used after it was freed", "stream-ordered allocator: order of use", code::ILLEGAL_ADDRESS, |s| {
        let memory = s.get("cuMemAllocAsync", &[64, s.stream]);
        s.ok("cuMemsetD8Async", &[memory, 0, 64, s.other]);
        s.ok("cuMemFreeAsync", &[memory, s.stream]);
        s.ok("cuStreamSynchronize", &[s.stream]);
        s.call("cuStreamSynchronize", &[s.other])
    }),
];

const STREAMS: &[Illegal] = &[
    row("flags of a stream", "cuStreamCreate: flags", code::INVALID_VALUE, |s| {
        s.call("cuStreamCreate", &[address(&mut 0u64), 2])
    }),
    row("a stream that was destroyed", "cuStreamSynchronize: returns", code::INVALID_HANDLE, |s| {
        s.ok("cuStreamDestroy_v2", &[s.other]);
        s.call("cuStreamSynchronize", &[s.other])
    }),
    row("a stream destroyed twice", "cuStreamDestroy: returns", code::INVALID_HANDLE, |s| {
        s.ok("cuStreamDestroy_v2", &[s.other]);
        s.call("cuStreamDestroy_v2", &[s.other])
    }),
    row("the legacy stream destroyed", "cuStreamDestroy: returns", code::INVALID_HANDLE, |s| {
        s.call("cuStreamDestroy_v2", &[1])
    }),
    row("flags of a wait", "cuStreamWaitEvent: flags", code::INVALID_VALUE, |s| {
        s.call("cuStreamWaitEvent", &[s.stream, s.event, 8])
    }),
    row("an event for a stream", "cuStreamSynchronize: returns", code::INVALID_HANDLE, |s| {
        s.call("cuStreamSynchronize", &[s.event])
    }),
    row("no host function", "cuLaunchHostFunc: returns", code::INVALID_VALUE, |s| {
        s.call("cuLaunchHostFunc", &[s.stream, 0, 0])
    }),
    row("a call from a host function", "cuLaunchHostFunc: no calls", code::NOT_PERMITTED, |s| {
        let mut call = HostCall { driver: s.driver, stream: s.stream, code: code::SUCCESS };
        s.ok("cuLaunchHostFunc", &[s.stream, synchronize as *const () as u64, address(&mut call)]);
        s.ok("cuStreamSynchronize", &[s.stream]);
        call.code
    }),
    row("flags of an event", "cuEventCreate: flags", code::INVALID_VALUE, |s| {
        s.call("cuEventCreate", &[address(&mut 0u64), 8])
    }),
    row(
        "times between processes",
        "cuEventCreate: INTERPROCESS with DISABLE_TIMING",
        code::INVALID_VALUE,
        |s| s.call("cuEventCreate", &[address(&mut 0u64), 4]),
    ),
    row("an event that was destroyed", "cuEventRecord: returns", code::INVALID_HANDLE, |s| {
        s.ok("cuEventDestroy_v2", &[s.event]);
        s.call("cuEventRecord", &[s.event, s.stream])
    }),
    row("an event of another context", "cuEventRecord: of the same context", code::INVALID_HANDLE, |s| {
        let there = s.get("cuCtxCreate_v4", &[0, 0, 0]);
        let event = s.get("cuEventCreate", &[0]);
        s.ok("cuCtxPopCurrent_v2", &[0]);
        let code = s.call("cuEventRecord", &[event, s.stream]);
        s.ok("cuCtxDestroy_v2", &[there]);
        code
    }),
    row("the time of an event without", "cuEventElapsedTime: DISABLE_TIMING", code::INVALID_HANDLE, |s| {
        let event = s.get("cuEventCreate", &[2]);
        s.ok("cuEventRecord", &[event, s.stream]);
        s.call("cuEventElapsedTime_v2", &[address(&mut 0f32), event, event])
    }),
    row("the time of no record", "cuEventElapsedTime: not recorded", code::INVALID_HANDLE, |s| {
        s.call("cuEventElapsedTime_v2", &[address(&mut 0f32), s.event, s.event])
    }),
];

const CAPTURES: &[Illegal] = &[
    row(
        "the legacy stream captured",
        "cuStreamBeginCapture: not the legacy stream",
        code::CAPTURE_UNSUPPORTED,
        |s| s.call("cuStreamBeginCapture_v2", &[0, GLOBAL]),
    ),
    row("a mode that there is not", "cuStreamBeginCapture: returns", code::INVALID_VALUE, |s| {
        s.call("cuStreamBeginCapture_v2", &[s.stream, 3])
    }),
    row("captured twice", "data types: ILLEGAL_STATE", code::ILLEGAL_STATE, |s| {
        s.capture(s.stream, RELAXED);
        let code = s.call("cuStreamBeginCapture_v2", &[s.stream, RELAXED]);
        s.end_capture(s.stream);
        code
    }),
    row("ended and not begun", "data types: ILLEGAL_STATE", code::ILLEGAL_STATE, |s| s.end_capture(s.stream)),
    row("waited for", "guide, prohibited operations", code::CAPTURE_UNSUPPORTED, |s| {
        ended(s, |s| s.call("cuStreamSynchronize", &[s.stream]))
    }),
    row("asked", "guide, prohibited operations", code::CAPTURE_UNSUPPORTED, |s| {
        ended(s, |s| s.call("cuStreamQuery", &[s.stream]))
    }),
    row("its context waited for", "guide, prohibited operations", code::CAPTURE_UNSUPPORTED, |s| {
        ended(s, |s| s.call("cuCtxSynchronize", &[]))
    }),
    row("memory in a global capture", "cuThreadExchangeStreamCaptureMode", code::CAPTURE_UNSUPPORTED, |s| {
        ended(s, |s| s.call("cuMemAlloc_v2", &[address(&mut 0u64), 16]))
    }),
    row(
        "memory in the thread's capture",
        "cuThreadExchangeStreamCaptureMode",
        code::CAPTURE_UNSUPPORTED,
        |s| {
            s.capture(s.stream, THREAD_LOCAL);
            let code = s.call("cuMemHostAlloc", &[address(&mut 0u64), 16, 0]);
            s.end_capture(s.stream);
            code
        },
    ),
    row(
        "stream-ordered memory beside the thread's capture",
        "cuThreadExchangeStreamCaptureMode, and an H100",
        code::CAPTURE_UNSUPPORTED,
        |s| {
            s.capture(s.stream, THREAD_LOCAL);
            let code = s.call("cuMemAllocAsync", &[address(&mut 0u64), 16, s.other]);
            s.end_capture(s.stream);
            code
        },
    ),
    row(
        "stream-ordered memory beside another thread's global capture",
        "cuThreadExchangeStreamCaptureMode",
        code::CAPTURE_UNSUPPORTED,
        |s| {
            let allocate = || {
                s.ok("cuCtxSetCurrent", &[s.context]);
                let code = s.call("cuMemAllocAsync", &[address(&mut 0u64), 16, s.other]);
                assert!(!s.driver.take_problems().is_empty());
                code
            };
            ended(s, |_| std::thread::scope(|scope| scope.spawn(allocate).join().expect("the thread ends")))
        },
    ),
    row(
        "stream-ordered memory freed beside a capture",
        "cuThreadExchangeStreamCaptureMode, and an H100",
        code::CAPTURE_UNSUPPORTED,
        |s| {
            let memory = s.get("cuMemAllocAsync", &[64, s.other]);
            ended(s, |s| s.call("cuMemFreeAsync", &[memory, s.other]))
        },
    ),
    row(
        "a module unloaded in a capture",
        "cuThreadExchangeStreamCaptureMode",
        code::CAPTURE_UNSUPPORTED,
        |s| ended(s, |s| s.call("cuModuleUnload", &[s.module])),
    ),
    row("a copy on the legacy stream", "guide, prohibited operations", code::CAPTURE_UNSUPPORTED, |s| {
        ended(s, |s| s.call("cuMemcpyDtoH_v2", &[address(&mut 0u64), s.input, 8]))
    }),
    row("an event outside waited for", "guide, cross-stream dependencies", code::CAPTURE_ISOLATION, |s| {
        s.ok("cuEventRecord", &[s.event, s.other]);
        ended(s, |s| s.call("cuStreamWaitEvent", &[s.stream, s.event, 0]))
    }),
    row("two captures merged", "guide, invalidation: merging", code::CAPTURE_MERGE, |s| {
        s.capture(s.other, RELAXED);
        s.ok("cuEventRecord", &[s.event, s.other]);
        let code = ended(s, |s| s.call("cuStreamWaitEvent", &[s.stream, s.event, 0]));
        s.end_capture(s.other);
        code
    }),
    row("a stream that was not joined", "cuStreamEndCapture: unjoined work", code::CAPTURE_UNJOINED, |s| {
        fork(s);
        s.end_capture(s.stream)
    }),
    row("ended on a stream that joined", "cuStreamEndCapture: same stream", code::CAPTURE_UNMATCHED, |s| {
        fork(s);
        let code = s.end_capture(s.other);
        s.end_capture(s.stream);
        code
    }),
    row("the legacy stream meanwhile", "guide, legacy stream and captures", code::CAPTURE_IMPLICIT, |s| {
        let blocking = s.get("cuStreamCreate", &[0]);
        s.capture(blocking, RELAXED);
        let code = s.call("cuMemsetD8Async", &[s.input, 0, 16, 0]);
        s.end_capture(blocking);
        code
    }),
    row("ended by another thread", "cuStreamEndCapture: same thread", code::CAPTURE_WRONG_THREAD, |s| {
        s.capture(s.stream, GLOBAL);
        let code = std::thread::scope(|scope| {
            let end = || {
                s.ok("cuCtxSetCurrent", &[s.context]);
                let code = s.end_capture(s.stream);
                assert!(!s.driver.take_problems().is_empty());
                code
            };
            scope.spawn(end).join().expect("the thread ends")
        });
        s.end_capture(s.stream);
        code
    }),
    row("work in a dead capture", "guide, invalidation", code::CAPTURE_INVALIDATED, |s| {
        ended(s, |s| {
            s.call("cuStreamSynchronize", &[s.stream]);
            s.launch(s.stream)
        })
    }),
    row("a dead capture ended", "guide, invalidation", code::CAPTURE_INVALIDATED, |s| {
        s.capture(s.stream, GLOBAL);
        s.call("cuStreamSynchronize", &[s.stream]);
        s.end_capture(s.stream)
    }),
    row("a captured event asked", "guide, prohibited operations", code::CAPTURED_EVENT, |s| {
        ended(s, |s| {
            s.ok("cuEventRecord", &[s.event, s.stream]);
            s.call("cuEventQuery", &[s.event])
        })
    }),
    row("an event of a capture that ended", "data types: CAPTURED_EVENT", code::CAPTURED_EVENT, |s| {
        s.capture(s.stream, GLOBAL);
        s.ok("cuEventRecord", &[s.event, s.stream]);
        s.end_capture(s.stream);
        s.call("cuStreamWaitEvent", &[s.other, s.event, 0])
    }),
    row(
        "memory that the graph does not own",
        "cuMemFreeAsync: graph memory nodes",
        code::INVALID_VALUE,
        |s| {
            let memory = s.get("cuMemAllocAsync", &[64, s.stream]);
            ended(s, |s| s.call("cuMemFreeAsync", &[memory, s.stream]))
        },
    ),
    row("a graph that was destroyed", "cuGraphInstantiate: returns", code::INVALID_VALUE, |s| {
        let mut graph = 0u64;
        s.capture(s.stream, GLOBAL);
        s.launch(s.stream);
        s.ok("cuStreamEndCapture", &[s.stream, address(&mut graph)]);
        s.ok("cuGraphDestroy", &[graph]);
        s.call("cuGraphInstantiateWithFlags", &[address(&mut 0u64), graph, 0])
    }),
    row("an executable graph that was destroyed", "cuGraphLaunch: returns", code::INVALID_VALUE, |s| {
        s.capture(s.stream, GLOBAL);
        s.launch(s.stream);
        let exec = s.instantiate(s.stream);
        s.ok("cuGraphExecDestroy", &[exec]);
        s.call("cuGraphLaunch", &[exec, s.stream])
    }),
];

/// What the host function of a stream does.
struct HostCall<'d> {
    driver: &'d Driver,
    stream: u64,
    code: i32,
}

unsafe extern "C" fn synchronize(call: *mut HostCall<'_>) {
    // SAFETY: the row passes its own, and waits for this.
    let call = unsafe { &mut *call };
    call.code = call.driver.call("cuStreamSynchronize", &[call.stream]);
}

/// A call in a global capture, which is then ended.
fn ended(s: &Scene, call: impl Fn(&Scene) -> i32) -> i32 {
    s.capture(s.stream, GLOBAL);
    let code = call(s);
    s.end_capture(s.stream);
    code
}

/// A capture that the other stream joins, and works in.
fn fork(s: &Scene) {
    s.capture(s.stream, GLOBAL);
    s.ok("cuEventRecord", &[s.event, s.stream]);
    s.ok("cuStreamWaitEvent", &[s.other, s.event, 0]);
    s.ok("cuMemsetD8Async", &[s.input, 0, 16, s.other]);
}

#[test]
fn every_illegal_call_is_refused_with_the_code_of_the_driver() {
    let driver = Driver::init(Mode::Lazy);
    let rows: Vec<_> = [DEVICES, MEMORY, STREAMS, CAPTURES, LAUNCHES].into_iter().flatten().collect();
    assert!(rows.len() >= 100, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        let got = (row.call)(&Scene::new(&driver));
        let problems = driver.take_problems();
        if got != row.code || problems.is_empty() {
            wrong.push(format!(
                "{} ({}): expected {}, got {got}, {problems:?}",
                row.what, row.source, row.code
            ));
        }
        assert_eq!(driver.live(), [0; 8], "{} leaves something behind", row.what);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_works_before_cu_init() {
    let driver = Driver::load();
    for (name, arguments) in [
        ("cuDeviceGetCount", 1),
        ("cuDeviceGet", 1),
        ("cuDevicePrimaryCtxRetain", 1),
        ("cuCtxGetCurrent", 1),
        ("cuMemAlloc_v2", 1),
        ("cuStreamCreate", 1),
    ] {
        let mut place = 0u64;
        assert_eq!(
            driver.call(name, &[address(&mut place); 3][..arguments]),
            code::NOT_INITIALIZED,
            "{name}"
        );
        assert_eq!(driver.take_problems(), [format!("{name}: CUDA_ERROR_NOT_INITIALIZED: before cuInit")]);
    }
    // Asking for the version is not working.
    let version = driver.get("cuDriverGetVersion", &[]);
    assert_eq!(version, 13000);
    driver.ok("cuInit", &[0]);
    assert_eq!(driver.get("cuDeviceGetCount", &[]), 1);
}

#[test]
fn a_broken_context_answers_with_what_broke_it() {
    let driver = Driver::init(Mode::Lazy);
    let s = Scene::new(&driver);
    let mut parameters = s.parameters();
    parameters.m = 2 * M as u32; // more rows than the input has
    assert_eq!(s.launch_with(s.stream, parameters), code::SUCCESS);
    assert_eq!(s.call("cuStreamSynchronize", &[s.stream]), code::ILLEGAL_ADDRESS);
    assert_eq!(driver.take_problems().len(), 1);
    for (name, arguments) in [
        ("cuCtxSynchronize", vec![]),
        ("cuMemAlloc_v2", vec![address(&mut 0u64), 16]),
        ("cuStreamCreate", vec![address(&mut 0u64), NON_BLOCKING]),
        ("cuMemFreeAsync", vec![s.input, s.stream]),
        ("cuEventSynchronize", vec![s.event]),
    ] {
        assert_eq!(s.call(name, &arguments), code::ILLEGAL_ADDRESS, "{name}");
    }
    assert_eq!(s.launch(s.stream), code::ILLEGAL_ADDRESS);
    assert_eq!(driver.take_problems(), [""; 0], "the cause is told once");
    drop(s);
    let again = Scene::new(&driver);
    assert_eq!(again.launch(again.stream), code::SUCCESS);
    assert_eq!(again.call("cuStreamSynchronize", &[again.stream]), code::SUCCESS);
}
