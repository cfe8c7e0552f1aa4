//! Launches the test kernels of `cuda/hopper/probes`. For this crate's own tests, and no part of its API.

use std::fmt;

use crate::device::Device;
use crate::device::bindings::{ProbeParams, TensorMap};
#[cfg(has_emulator)]
pub use crate::device::{fused_dot_bf16, fused_dot_e4m3, trace};
use crate::error::Result;
use crate::launch::{Kernel, Launch, Layout, Operand};
pub use crate::table::probes as kernels;
pub use crate::tensor::MapElement;
pub use crate::tensor::tensor_map::Swizzle;
use crate::tensor::tensor_map::{Dimension, TensorMapSpec};
use crate::tensor::{Vector, VectorMut};
use kernels::ProbeKernel;

/// What a word of the output holds before the launch.
pub const UNWRITTEN: u32 = 0xdead_beef;

/// One hardware operation of one thread of a traced launch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    /// Name of the function in `ptx/`.
    pub name: &'static str,
    /// As `cuda/hopper/emulated/machine/trace.h` lists them.
    pub operands: Vec<u64>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operands: Vec<String> = self.operands.iter().map(|operand| format!("{operand:#x}")).collect();
        write!(f, "{}({})", self.name, operands.join(", "))
    }
}

/// A tensor that TMA loads from or stores to, with the memory it lies in.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Element type.
    pub element: MapElement,
    /// Permutation of a box in shared memory.
    pub swizzle: Swizzle,
    /// Elements per dimension, fastest first.
    pub dims: Vec<u64>,
    /// Bytes from index to index of dimensions 1, 2, ...
    pub strides: Vec<u64>,
    /// Elements of the box per dimension.
    pub box_sizes: Vec<u32>,
    /// The memory, from the tensor's first element on.
    pub memory: Vec<u8>,
}

impl Tensor {
    fn encode<T>(&self, device: &Device, memory: &Operand<*const T>) -> Result<TensorMap> {
        let sizes = self.dims.iter().zip(&self.box_sizes).skip(1);
        let dimension = |((&size, &box_size), &stride)| Dimension { size, stride, box_size };
        device.encode(&TensorMapSpec {
            operand: memory.name,
            element: self.element,
            base: memory.pointer.cast(),
            columns: self.dims.first().copied().unwrap_or_default(),
            box_columns: self.box_sizes.first().copied().unwrap_or_default(),
            outer: &sizes.zip(&self.strides).map(dimension).collect::<Vec<_>>(),
            swizzle: self.swizzle,
        })
    }
}

/// One launch or several; the head of the kernel's file says what it makes of the fields.
#[derive(Debug, Clone)]
pub struct Probe<'a> {
    /// The test kernel.
    pub kernel: ProbeKernel,
    /// CTAs.
    pub grid: u32,
    /// One after the other, as close as they come; the last argument is the number of each.
    pub launches: u32,
    /// At most eight; the rest are 0.
    pub arguments: &'a [u32],
    /// Words that the kernel reads.
    pub input: &'a [u32],
    /// Words that it writes.
    pub output_words: usize,
    /// At most two.
    pub loads: &'a [Tensor],
    /// Written by TMA stores.
    pub store: Option<&'a Tensor>,
}

/// What a launch left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The output words.
    pub output: Vec<u32>,
    /// The memory of [`Probe::store`].
    pub stored: Vec<u8>,
}

impl Probe<'_> {
    /// A launch without operands, to be completed.
    pub fn new(kernel: ProbeKernel, grid: u32) -> Self {
        Self {
            kernel,
            grid,
            launches: 1,
            arguments: &[],
            input: &[],
            output_words: 0,
            loads: &[],
            store: None,
        }
    }

    /// Uploads the operands, launches, waits and downloads.
    ///
    /// # Errors
    /// Faults of the kernel on the emulator, driver errors, refused tensor maps.
    pub fn run(&self, device: &Device) -> Result<Outcome> {
        let kernel = Kernel::<ProbeParams>::load(device, &self.kernel)?;
        let stream = device.stream()?;
        // A GPU allocates nothing of size zero.
        let input = device.upload(if self.input.is_empty() { &[UNWRITTEN] } else { self.input })?;
        let mut output = device.upload(&vec![UNWRITTEN; self.output_words.max(1)])?;
        let memories =
            self.loads.iter().map(|tensor| device.upload(&tensor.memory)).collect::<Result<Vec<_>>>()?;
        let mut stored = self.store.map(|tensor| device.upload(&tensor.memory)).transpose()?;

        let input_vector = Vector::from(&input);
        let mut output_vector = VectorMut::from(&mut output);
        let memory_vectors: Vec<_> = memories.iter().map(Vector::from).collect();
        let mut stored_vector = stored.as_mut().map(VectorMut::from);
        for number in 0..self.launches {
            let mut launch = Launch::new(device, &kernel, stream)?;
            let any = Layout::of_any_shape;
            let mut params = ProbeParams {
                input: launch.read(&input_vector, any("input"))?.pointer,
                output: launch.write(&mut output_vector, any("output"))?.pointer,
                ..Default::default()
            };
            for ((map, tensor), memory) in params.map_load.iter_mut().zip(self.loads).zip(&memory_vectors) {
                *map = tensor.encode(device, &launch.read(memory, any("load"))?)?;
            }
            if let (Some(tensor), Some(memory)) = (self.store, &mut stored_vector) {
                params.map_store =
                    tensor.encode(device, &launch.write(memory, any("store"))?.cast_const())?;
            }
            params.arguments[7] = number;
            for (argument, value) in params.arguments.iter_mut().zip(self.arguments) {
                *argument = *value;
            }
            launch.run(self.grid, &params)?;
        }

        let stored = stored.map_or_else(|| Ok(Vec::new()), |memory| memory.to_vec())?;
        Ok(Outcome { output: output.to_vec()?, stored })
    }
}
