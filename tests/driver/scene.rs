//! A context with what calls need: streams, an event, memory, a kernel.

use crate::api::{Driver, address};

/// The kernel that tests launch: out [k, m] = transposed sf [m, k].
pub static KERNEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels/transpose_scales.cubin"));
/// One with clusters of two, and more shared memory than there is without asking.
static CLUSTER_KERNEL: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/kernels/fp8_gemm_m128_n128_c2_bf16.cubin"));

pub const THREADS: u64 = 256;
pub const SMEM: u64 = 32 * 33 * 4;

/// Rows and columns of the matrix.
pub const M: usize = 4;
pub const K: usize = 8;
/// Of each buffer.
pub const BYTES: u64 = (M * K * size_of::<f32>()) as u64;

pub const NON_BLOCKING: u64 = 1;
/// Capture modes.
pub const GLOBAL: u64 = 0;
pub const THREAD_LOCAL: u64 = 1;
pub const RELAXED: u64 = 2;

/// `TransposeScalesParams` of `cuda/quant/params.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parameters {
    pub sf: u64,
    pub out: u64,
    pub sf_pitch: u64,
    pub out_pitch: u64,
    pub m: u32,
    pub k_blocks: u32,
}

/// `CUlaunchAttribute`, of a number.
#[repr(C, align(8))]
pub struct Attribute {
    pub id: i32,
    pub padding: i32,
    pub value: [i32; 16],
}

/// Whether a launch may begin while the kernel ahead of it in the stream still runs.
pub const fn programmatic_serialization(allowed: bool) -> Attribute {
    let mut value = [0; 16];
    value[0] = allowed as i32;
    Attribute { id: 6, padding: 0, value }
}

/// `CUlaunchConfig`.
#[repr(C)]
struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: u64,
    attributes: u64,
    attribute_count: u32,
}

/// Dropped, the context goes with all that is in it.
pub struct Scene<'d> {
    pub driver: &'d Driver,
    pub context: u64,
    pub stream: u64,
    pub other: u64,
    pub event: u64,
    pub input: u64,
    pub output: u64,
    pub module: u64,
    pub function: u64,
}

impl<'d> Scene<'d> {
    pub fn new(driver: &'d Driver) -> Self {
        let context = driver.get("cuCtxCreate_v4", &[0, 0, 0]);
        let module = driver.get("cuModuleLoadData", &[KERNEL.as_ptr() as u64]);
        Self {
            driver,
            context,
            stream: driver.get("cuStreamCreate", &[NON_BLOCKING]),
            other: driver.get("cuStreamCreate", &[NON_BLOCKING]),
            event: driver.get("cuEventCreate", &[0]),
            input: driver.get("cuMemAlloc_v2", &[BYTES]),
            output: driver.get("cuMemAlloc_v2", &[BYTES]),
            module,
            function: driver.get("cuModuleGetFunction", &[module, c"transpose_scales".as_ptr() as u64]),
        }
    }

    pub fn call(&self, name: &str, arguments: &[u64]) -> i32 {
        self.driver.call(name, arguments)
    }

    pub fn ok(&self, name: &str, arguments: &[u64]) {
        self.driver.ok(name, arguments);
    }

    pub fn get(&self, name: &str, arguments: &[u64]) -> u64 {
        self.driver.get(name, arguments)
    }

    /// A kernel that has clusters, with all the shared memory there is.
    pub fn cluster_function(&self) -> u64 {
        let module = self.get("cuModuleLoadData", &[CLUSTER_KERNEL.as_ptr() as u64]);
        self.get("cuModuleGetFunction", &[module, c"fp8_gemm_m128_n128_c2_bf16".as_ptr() as u64])
    }

    pub fn parameters(&self) -> Parameters {
        Parameters {
            sf: self.input,
            out: self.output,
            sf_pitch: K as u64,
            out_pitch: M as u64,
            m: M as u32,
            k_blocks: K as u32,
        }
    }

    /// cuLaunchKernel with one CTA of the size that the kernel is written for.
    pub fn launch_with(&self, stream: u64, mut parameters: Parameters) -> i32 {
        let mut list = [address(&mut parameters)];
        let size = [1, 1, 1, THREADS, 1, 1, SMEM];
        self.launch_raw(self.function, size, stream, address(&mut list))
    }

    pub fn launch(&self, stream: u64) -> i32 {
        self.launch_with(stream, self.parameters())
    }

    /// cuLaunchKernelEx of the same, with `count` attributes that lie at `attributes`.
    pub fn launch_ex(&self, attributes: *const Attribute, count: usize) -> i32 {
        let mut parameters = self.parameters();
        let mut list = [address(&mut parameters)];
        let mut config = Config {
            grid: [1; 3],
            block: [THREADS as u32, 1, 1],
            shared_bytes: SMEM as u32,
            stream: self.stream,
            attributes: attributes as u64,
            attribute_count: count as u32,
        };
        self.call("cuLaunchKernelEx", &[address(&mut config), self.function, address(&mut list), 0])
    }

    /// The same, that may begin while the kernel ahead of it still runs.
    pub fn launch_overlapping(&self) {
        assert_eq!(self.launch_ex(&programmatic_serialization(true), 1), crate::api::code::SUCCESS);
    }

    /// Grid, block and dynamic shared memory as given.
    pub fn launch_raw(&self, function: u64, size: [u64; 7], stream: u64, list: u64) -> i32 {
        let [gx, gy, gz, bx, by, bz, smem] = size;
        self.call("cuLaunchKernel", &[function, gx, gy, gz, bx, by, bz, smem, stream, list, 0])
    }

    /// cuLaunchKernel of another size, with good parameters.
    pub fn launch_sized(&self, size: [u64; 7]) -> i32 {
        let mut parameters = self.parameters();
        let mut list = [address(&mut parameters)];
        self.launch_raw(self.function, size, self.stream, address(&mut list))
    }

    pub fn upload(&self, stream: u64, to: u64, data: &[f32]) -> i32 {
        let bytes = size_of_val(data) as u64;
        self.call("cuMemcpyHtoDAsync_v2", &[to, data.as_ptr() as u64, bytes, stream])
    }

    pub fn download(&self, stream: u64, from: u64) -> Vec<f32> {
        let mut data = vec![0f32; M * K];
        self.ok("cuMemcpyDtoHAsync_v2", &[data.as_mut_ptr() as u64, from, BYTES, stream]);
        data
    }

    pub fn capture(&self, stream: u64, mode: u64) {
        self.ok("cuStreamBeginCapture_v2", &[stream, mode]);
    }

    /// Ends it and makes the graph executable.
    pub fn instantiate(&self, stream: u64) -> u64 {
        let mut graph = 0u64;
        self.ok("cuStreamEndCapture", &[stream, address(&mut graph)]);
        let exec = self.get("cuGraphInstantiateWithFlags", &[graph, 0]);
        self.ok("cuGraphDestroy", &[graph]);
        exec
    }

    /// What a capture ends with, its graph thrown away.
    pub fn end_capture(&self, stream: u64) -> i32 {
        let mut graph = 0u64;
        let code = self.call("cuStreamEndCapture", &[stream, address(&mut graph)]);
        if graph != 0 {
            self.ok("cuGraphDestroy", &[graph]);
        }
        code
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        // A row may have ended with another context current, or with none.
        self.driver.call("cuCtxSetCurrent", &[self.context]);
        self.driver.call("cuCtxDestroy_v2", &[self.context]);
    }
}

/// A matrix [m, k] of small numbers, and its transpose.
pub fn matrix(seed: u32) -> (Vec<f32>, Vec<f32>) {
    let value = |m: usize, k: usize| (seed as usize * 1000 + m * K + k) as f32;
    let rows = (0..M).flat_map(|m| (0..K).map(move |k| value(m, k))).collect();
    let columns = (0..K).flat_map(|k| (0..M).map(move |m| value(m, k))).collect();
    (rows, columns)
}
