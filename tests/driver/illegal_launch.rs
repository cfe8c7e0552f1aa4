//! Illegal calls about modules, launches and tensor maps.

use crate::api::{address, code};
use crate::illegal::{Illegal, row};
use crate::scene::{Attribute, GLOBAL, KERNEL, M, SMEM, Scene, THREADS, programmatic_serialization};

static GARBAGE: [u8; 64] = [7; 64];

/// The header of a 64-bit ELF file for x86-64.
static FOREIGN: [u8; 64] = {
    let mut bytes = [0; 64];
    (bytes[0], bytes[1], bytes[2], bytes[3]) = (0x7f, b'E', b'L', b'F');
    bytes[4] = 2;
    bytes[18] = 62;
    bytes
};

pub const LAUNCHES: &[Illegal] = &[
    row("no image", "cuModuleLoadData: returns", code::INVALID_VALUE, |s| {
        s.call("cuModuleLoadData", &[address(&mut 0u64), 0])
    }),
    row("an image that is none", "cuModuleLoadData: returns", code::INVALID_IMAGE, |s| {
        s.call("cuModuleLoadData", &[address(&mut 0u64), GARBAGE.as_ptr() as u64])
    }),
    row("a program for an image", "cuModuleLoadData: returns", code::INVALID_IMAGE, |s| {
        s.call("cuModuleLoadData", &[address(&mut 0u64), FOREIGN.as_ptr() as u64])
    }),
    row("a cubin of another architecture", "cuModuleLoadData: returns", code::NO_BINARY_FOR_GPU, |s| {
        s.driver.set("COMPUTE_CAPABILITY", "80");
        let code = s.call("cuModuleLoadData", &[address(&mut 0u64), KERNEL.as_ptr() as u64]);
        s.driver.set("COMPUTE_CAPABILITY", "90");
        code
    }),
    row("a cubin newer than the driver", "CUDA compatibility guide: cubins", code::INVALID_IMAGE, |s| {
        s.driver.set("DRIVER_VERSION", "12080");
        let code = s.call("cuModuleLoadData", &[address(&mut 0u64), KERNEL.as_ptr() as u64]);
        s.driver.set("DRIVER_VERSION", "13000");
        code
    }),
    row("a kernel that there is not", "cuModuleGetFunction: returns", code::NOT_FOUND, |s| {
        s.call("cuModuleGetFunction", &[address(&mut 0u64), s.module, c"no_such".as_ptr() as u64])
    }),
    row("a module that was unloaded", "cuModuleGetFunction: returns", code::INVALID_HANDLE, |s| {
        s.ok("cuModuleUnload", &[s.module]);
        s.call("cuModuleGetFunction", &[address(&mut 0u64), s.module, c"transpose_scales".as_ptr() as u64])
    }),
    row(
        "a module of another context",
        "cuModuleUnload: of the current context",
        code::INVALID_CONTEXT,
        |s| abroad(s, |s| s.call("cuModuleUnload", &[s.module])),
    ),
    row("more shared memory than there is", "cuFuncSetAttribute: device limit", code::INVALID_VALUE, |s| {
        s.call("cuFuncSetAttribute", &[s.function, 8, 227 * 1024 + 1])
    }),
    row("a carveout of 101 percent", "cuFuncSetAttribute: 0 to 100, or -1", code::INVALID_VALUE, |s| {
        s.call("cuFuncSetAttribute", &[s.function, 9, 101])
    }),
    row("registers set", "cuFuncSetAttribute: not to be set", code::INVALID_VALUE, |s| {
        s.call("cuFuncSetAttribute", &[s.function, 4, 32])
    }),
    row("an attribute that there is not", "cuFuncGetAttribute: returns", code::INVALID_VALUE, |s| {
        s.call("cuFuncGetAttribute", &[address(&mut 0u64), 99, s.function])
    }),
    row("blocks of no threads", "cuOccupancyMaxActiveBlocksPerMultiprocessor", code::INVALID_VALUE, |s| {
        let call = "cuOccupancyMaxActiveBlocksPerMultiprocessor";
        s.call(call, &[address(&mut 0u64), s.function, 0, 0])
    }),
    row("an empty grid", "cuLaunchKernel: returns", code::INVALID_VALUE, |s| {
        s.launch_sized([0, 1, 1, THREADS, 1, 1, SMEM])
    }),
    row("a grid of 65536 in y", "guide, compute capabilities", code::INVALID_VALUE, |s| {
        s.launch_sized([1, 65536, 1, THREADS, 1, 1, SMEM])
    }),
    row("a block without threads", "cuLaunchKernel: returns", code::INVALID_VALUE, |s| {
        s.launch_sized([1, 1, 1, THREADS, 0, 1, SMEM])
    }),
    row("a block of 2048 threads", "guide, compute capabilities", code::INVALID_VALUE, |s| {
        s.launch_sized([1, 1, 1, 1024, 2, 1, SMEM])
    }),
    row("more threads than launch bounds", "guide, launch bounds", code::LAUNCH_OUT_OF_RESOURCES, |s| {
        s.launch_sized([1, 1, 1, 512, 1, 1, SMEM])
    }),
    row("fewer threads than it is written for", "this driver alone", code::INVALID_VALUE, |s| {
        s.launch_sized([1, 1, 1, THREADS / 2, 1, 1, SMEM])
    }),
    row("shared memory without opt-in", "guide, shared memory of 9.x", code::INVALID_VALUE, |s| {
        s.launch_sized([1, 1, 1, THREADS, 1, 1, 48 * 1024 + 1])
    }),
    row(
        "a grid that is no multiple of the cluster",
        "data types: INVALID_CLUSTER_SIZE",
        code::INVALID_CLUSTER_SIZE,
        |s| s.launch_raw(s.cluster_function(), [3, 1, 1, 384, 1, 1, 0], s.stream, 0),
    ),
    row("no parameters", "cuLaunchKernel: returns", code::INVALID_VALUE, |s| {
        s.launch_raw(s.function, [1, 1, 1, THREADS, 1, 1, SMEM], s.stream, 0)
    }),
    row("a parameter that is null", "cuLaunchKernel: returns", code::INVALID_VALUE, |s| {
        s.launch_raw(s.function, [1, 1, 1, THREADS, 1, 1, SMEM], s.stream, address(&mut [0u64; 1]))
    }),
    row("no configuration", "cuLaunchKernelEx: returns", code::INVALID_VALUE, |s| {
        s.call("cuLaunchKernelEx", &[0, s.function, 0, 0])
    }),
    row("attributes at null", "cuLaunchKernelEx: returns", code::INVALID_VALUE, |s| {
        s.launch_ex(std::ptr::null(), 1)
    }),
    row("an attribute that is not modelled", "this driver alone", code::NOT_SUPPORTED, |s| {
        let cooperative = Attribute { id: 2, ..programmatic_serialization(true) };
        s.launch_ex([programmatic_serialization(true), cooperative].as_ptr(), 2)
    }),
    row("a kernel that was unloaded", "cuLaunchKernel: returns", code::INVALID_HANDLE, |s| {
        s.ok("cuModuleUnload", &[s.module]);
        s.launch(s.stream)
    }),
    row("a kernel unloaded while queued", "cuModuleUnload: does not wait", code::LAUNCH_FAILED, |s| {
        s.launch(s.stream);
        s.ok("cuModuleUnload", &[s.module]);
        s.call("cuStreamSynchronize", &[s.stream])
    }),
    row("a graph whose kernel was unloaded", "cuModuleUnload", code::INVALID_HANDLE, |s| {
        s.capture(s.stream, GLOBAL);
        s.launch(s.stream);
        let exec = s.instantiate(s.stream);
        s.ok("cuModuleUnload", &[s.module]);
        let code = s.call("cuGraphLaunch", &[exec, s.stream]);
        s.ok("cuGraphExecDestroy", &[exec]);
        code
    }),
    row("a stream of another context", "guide, stream and context", code::INVALID_HANDLE, |s| {
        let there = s.get("cuCtxCreate_v4", &[0, 0, 0]);
        let stream = s.get("cuStreamCreate", &[1]);
        s.ok("cuCtxPopCurrent_v2", &[0]);
        let code = s.launch(stream);
        s.ok("cuCtxDestroy_v2", &[there]);
        code
    }),
    row("a kernel of another context", "cuLaunchKernel: current context", code::INVALID_CONTEXT, |s| {
        abroad(s, |s| s.launch(s.stream))
    }),
    row("a launch without a context", "cuLaunchKernel: returns", code::INVALID_CONTEXT, |s| {
        s.ok("cuCtxPopCurrent_v2", &[0]);
        s.launch(s.stream)
    }),
    row("an operand freed before the launch", "cuMemFree", code::ILLEGAL_ADDRESS, |s| {
        s.ok("cuMemFree_v2", &[s.input]);
        s.launch(s.stream);
        s.call("cuStreamSynchronize", &[s.stream])
    }),
    row("an operand of another context", "guide, contexts: address spaces", code::ILLEGAL_ADDRESS, |s| {
        let mut parameters = s.parameters();
        abroad(s, |s| {
            parameters.sf = s.get("cuMemAlloc_v2", &[64]);
            s.ok("cuCtxPushCurrent_v2", &[s.context]);
            s.launch_with(s.stream, parameters);
            let code = s.call("cuStreamSynchronize", &[s.stream]);
            s.ok("cuCtxPopCurrent_v2", &[0]);
            code
        })
    }),
    row("an operand that is too short", "data types: ILLEGAL_ADDRESS", code::ILLEGAL_ADDRESS, |s| {
        let mut parameters = s.parameters();
        parameters.m = 2 * M as u32;
        s.launch_with(s.stream, parameters);
        s.call("cuStreamSynchronize", &[s.stream])
    }),
    row("an operand in pageable memory", "data types: ILLEGAL_ADDRESS", code::ILLEGAL_ADDRESS, |s| {
        let mut host = [0f32; 32];
        let mut parameters = s.parameters();
        parameters.sf = address(&mut host);
        s.launch_with(s.stream, parameters);
        s.call("cuStreamSynchronize", &[s.stream])
    }),
    tensor("a map that is not aligned", code::INVALID_VALUE, |s| encode(s, |map| map.offset = 32)),
    tensor("a map of rank 0", code::INVALID_VALUE, |s| encode(s, |map| map.rank = 0)),
    tensor("a map of rank 6", code::INVALID_VALUE, |s| encode(s, |map| map.rank = 6)),
    tensor("a data type that there is not", code::INVALID_VALUE, |s| encode(s, |map| map.element = 13)),
    tensor("an address of 8 bytes", code::INVALID_VALUE, |s| encode(s, |map| map.base += 8)),
    tensor("the null address", code::INVALID_VALUE, |s| encode(s, |map| map.base = 0)),
    tensor("an empty dimension", code::INVALID_VALUE, |s| encode(s, |map| map.dims[1] = 0)),
    tensor("a dimension above 2^32", code::INVALID_VALUE, |s| encode(s, |map| map.dims[1] = (1 << 32) + 1)),
    tensor("a stride of 24 bytes", code::INVALID_VALUE, |s| encode(s, |map| map.strides[0] = 24)),
    tensor("a stride of 2^40", code::INVALID_VALUE, |s| encode(s, |map| map.strides[0] = 1 << 40)),
    tensor("an empty box", code::INVALID_VALUE, |s| encode(s, |map| map.boxes[1] = 0)),
    tensor("a box of 257", code::INVALID_VALUE, |s| encode(s, |map| map.boxes[1] = 257)),
    tensor("an element stride of 0", code::INVALID_VALUE, |s| encode(s, |map| map.element_strides[0] = 0)),
    tensor("an element stride of 9", code::INVALID_VALUE, |s| encode(s, |map| map.element_strides[0] = 9)),
    tensor("an inner box of 12 bytes", code::INVALID_VALUE, |s| encode(s, |map| map.boxes[0] = 3)),
    tensor("an inner box beyond the swizzle", code::INVALID_VALUE, |s| {
        encode(s, |map| {
            map.swizzle = 1; // 32 bytes
            map.boxes[0] = 16;
        })
    }),
    tensor("a swizzle that there is not", code::INVALID_VALUE, |s| encode(s, |map| map.swizzle = 9)),
    tensor("a promotion that there is not", code::INVALID_VALUE, |s| encode(s, |map| map.promotion = 4)),
    tensor("an interleave that there is not", code::INVALID_VALUE, |s| encode(s, |map| map.interleave = 3)),
    tensor("NaN for integers", code::INVALID_VALUE, |s| {
        encode(s, |map| {
            map.element = 0;
            map.boxes[0] = 16;
            map.fill = 1;
        })
    }),
    tensor("an interleave that is not modelled", code::NOT_SUPPORTED, |s| {
        encode(s, |map| map.interleave = 1)
    }),
];

const fn tensor(what: &'static str, code: i32, call: fn(&Scene) -> i32) -> Illegal {
    row(what, "cuTensorMapEncodeTiled", code, call)
}

/// Calls with another context current, which is gone afterwards.
fn abroad(s: &Scene, mut call: impl FnMut(&Scene) -> i32) -> i32 {
    let there = s.get("cuCtxCreate_v4", &[0, 0, 0]);
    let code = call(s);
    s.ok("cuCtxDestroy_v2", &[there]);
    code
}

/// Arguments of cuTensorMapEncodeTiled: the output of the scene as FP32 [8, 4].
pub struct Map {
    /// Of the map from an address that is aligned to 64 bytes.
    pub offset: u64,
    pub element: u64,
    pub rank: u64,
    pub base: u64,
    pub dims: [u64; 5],
    pub strides: [u64; 4],
    pub boxes: [u32; 5],
    pub element_strides: [u32; 5],
    pub interleave: u64,
    pub swizzle: u64,
    pub promotion: u64,
    pub fill: u64,
}

#[repr(C, align(64))]
struct Room([u8; 192]);

/// Encodes the good map after a change.
pub fn encode(s: &Scene, change: impl Fn(&mut Map)) -> i32 {
    let mut map = Map {
        offset: 0,
        element: 7,
        rank: 2,
        base: s.output,
        dims: [4, 8, 1, 1, 1],
        strides: [16, 128, 128, 128],
        boxes: [4, 8, 1, 1, 1],
        element_strides: [1; 5],
        interleave: 0,
        swizzle: 0,
        promotion: 3,
        fill: 0,
    };
    change(&mut map);
    let mut room = Room([0; 192]);
    s.call(
        "cuTensorMapEncodeTiled",
        &[
            address(&mut room) + map.offset,
            map.element,
            map.rank,
            map.base,
            map.dims.as_ptr() as u64,
            map.strides.as_ptr() as u64,
            map.boxes.as_ptr() as u64,
            map.element_strides.as_ptr() as u64,
            map.interleave,
            map.swizzle,
            map.promotion,
            map.fill,
        ],
    )
}
