//! What the tests of every operation share: the devices to run on, and memory with guards around it.
#![allow(dead_code, unused_imports, reason = "every test target uses its own part")]

mod devices;
pub mod grouped;

use std::fmt::Debug;

use deepseek_kernels::cudarc::driver::DeviceRepr;
use deepseek_kernels::reference::inputs::GemmInputs;
use deepseek_kernels::reference::{Elements, Epilogue, Oracle, Output, Sample};
use deepseek_kernels::{
    Buffer, Device, EmulatorOptions, Error, F8E4M3, Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, GemmInstance,
    GemmOutput, MMajor, Matrix, MatrixMut, Scales1x128, Scales128x128, Slice, SliceMut, bf16,
};

pub use devices::{FEW_MULTIPROCESSORS, devices, emulated, emulators, gpu, runs_emulated, schedules, seeded};

/// Where a matrix lies in a larger buffer: elements before it, and from row to row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub offset: usize,
    pub pitch: usize,
}

impl Placement {
    pub fn dense(columns: usize) -> Self {
        Self { offset: 0, pitch: columns }
    }
}

/// A matrix in a buffer whose every other element is poison: read, it spoils a result; written, it is found.
pub struct Guarded<T> {
    buffer: Buffer<T>,
    rows: usize,
    columns: usize,
    placement: Placement,
    poison: T,
}

/// Elements behind the last row.
const TAIL: usize = 64;

impl<T: DeviceRepr + Copy> Guarded<T> {
    pub fn new(
        device: &Device,
        data: &[T],
        rows: usize,
        columns: usize,
        placement: Placement,
        poison: T,
    ) -> Self {
        Self::of_length(device, data, rows, columns, placement, poison, rows * placement.pitch + TAIL)
    }

    /// An operand that ends with its last element, so that a read past it is outside every region.
    pub fn ending(
        device: &Device,
        data: &[T],
        rows: usize,
        columns: usize,
        placement: Placement,
        poison: T,
    ) -> Self {
        let length = rows.saturating_sub(1) * placement.pitch + columns;
        Self::of_length(device, data, rows, columns, placement, poison, length)
    }

    /// `length` elements from the first one on.
    fn of_length(
        device: &Device,
        data: &[T],
        rows: usize,
        columns: usize,
        placement: Placement,
        poison: T,
        length: usize,
    ) -> Self {
        assert_eq!(data.len(), rows * columns);
        let mut host = vec![poison; placement.offset + length];
        for (row, values) in data.chunks(columns.max(1)).enumerate() {
            host[placement.offset + row * placement.pitch..][..columns].copy_from_slice(values);
        }
        let buffer = device.upload(&host).expect("upload");
        Self { buffer, rows, columns, placement, poison }
    }

    /// A matrix of poison, to be overwritten.
    pub fn unwritten(device: &Device, rows: usize, columns: usize, placement: Placement, poison: T) -> Self {
        Self::new(device, &vec![poison; rows * columns], rows, columns, placement, poison)
    }

    /// From the first element on.
    pub fn slice(&self) -> Slice<'_, T> {
        self.buffer.slice(self.placement.offset)
    }

    /// From an element of the first row on.
    pub fn slice_from(&self, column: usize) -> Slice<'_, T> {
        self.buffer.slice(self.placement.offset + column)
    }

    /// From the first element on.
    pub fn slice_mut(&mut self) -> SliceMut<'_, T> {
        self.buffer.slice_mut(self.placement.offset)
    }

    pub fn matrix(&self) -> Matrix<'_, T> {
        Matrix::with_pitch(self.slice(), self.rows, self.columns, self.placement.pitch).expect("view")
    }

    pub fn matrix_mut(&mut self) -> MatrixMut<'_, T> {
        let Self { rows, columns, placement, .. } = *self;
        MatrixMut::with_pitch(self.slice_mut(), rows, columns, placement.pitch).expect("view")
    }

    pub fn pitch(&self) -> usize {
        self.placement.pitch
    }

    /// The matrix, row-major and dense, after checking with `bits` that every element around it still is poison.
    pub fn into_checked<B: PartialEq + Debug>(self, bits: impl Fn(T) -> B) -> Vec<T> {
        let host = self.buffer.to_vec().expect("download");
        let mut data = Vec::with_capacity(self.rows * self.columns);
        for (index, &value) in host.iter().enumerate() {
            let column = index.checked_sub(self.placement.offset).map(|i| i % self.placement.pitch.max(1));
            let row = index.checked_sub(self.placement.offset).map(|i| i / self.placement.pitch.max(1));
            if column.is_some_and(|c| c < self.columns) && row.is_some_and(|r| r < self.rows) {
                data.push(value);
            } else {
                assert_eq!(bits(value), bits(self.poison), "element {index} around the matrix was written");
            }
        }
        data
    }
}

/// A NaN that no kernel produces: an element that still holds it was not written.
pub trait Sentinel: GemmOutput {
    const SENTINEL: Self;
    const OUTPUT_MODEL: Output;
    fn widen(self) -> f32;
    fn narrow(x: f32) -> Self;
    fn bits(self) -> u32;
}

impl Sentinel for bf16 {
    const SENTINEL: Self = bf16::from_bits(0x7fc1);
    const OUTPUT_MODEL: Output = Output::Bf16;
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(x: f32) -> Self {
        bf16::from_f32(x)
    }
    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

impl Sentinel for f32 {
    const SENTINEL: Self = f32::from_bits(0x7fc1_0001);
    const OUTPUT_MODEL: Output = Output::F32;
    fn widen(self) -> f32 {
        self
    }
    fn narrow(x: f32) -> Self {
        x
    }
    fn bits(self) -> u32 {
        self.to_bits()
    }
}

/// How the operands of a GEMM lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmLayout {
    pub a: Placement,
    pub b: Placement,
    pub sfa: Placement,
    pub sfb: Placement,
    pub d: Placement,
}

impl GemmLayout {
    /// The tightest layout that the alignment rules allow.
    pub fn tight(m: usize, n: usize, k: usize, d_bytes: usize) -> Self {
        Self {
            a: Placement::dense(k),
            b: Placement::dense(k),
            sfa: Placement::dense(m.next_multiple_of(4)),
            sfb: Placement::dense(k / 128),
            d: Placement::dense((n * d_bytes).next_multiple_of(16) / d_bytes),
        }
    }
}

/// Runs a GEMM with every gap around its operands poisoned, and checks that only D was written, and all of it.
pub fn run_gemm<D: Sentinel>(
    device: &Device,
    inputs: &GemmInputs,
    layout: &GemmLayout,
    instance: Option<GemmInstance>,
    initial: Option<&[D]>,
) -> Result<Vec<D>, Error> {
    let GemmInputs { m, n, k, .. } = *inputs;
    let k_blocks = k / 128;
    let nan = F8E4M3::from_bits(0x7f);
    let a = Guarded::new(device, &inputs.a, m, k, layout.a, nan);
    let b = Guarded::new(device, &inputs.b, n, k, layout.b, nan);
    let sfa = Guarded::new(device, &inputs.sfa, k_blocks, m, layout.sfa, f32::NAN);
    let sfb = Guarded::ending(device, &inputs.sfb, n.div_ceil(128), k_blocks, layout.sfb, f32::NAN);
    let mut d = match initial {
        Some(values) => Guarded::new(device, values, m, n, layout.d, D::SENTINEL),
        None => Guarded::unwritten(device, m, n, layout.d, D::SENTINEL),
    };

    let spec = Fp8GemmSpec { m, n, k, accumulate: initial.is_some() };
    let gemm = match instance {
        Some(instance) => Fp8Gemm::<D>::plan_instance(device, spec, instance)?,
        None => Fp8Gemm::<D>::plan(device, spec)?,
    };
    let args = Fp8GemmArgs {
        a: a.matrix(),
        sfa: Scales1x128::<MMajor>::with_pitch(sfa.slice(), m, k, sfa.pitch())?,
        b: b.matrix(),
        sfb: Scales128x128::with_pitch(sfb.slice(), n, k, sfb.pitch())?,
        d: d.matrix_mut(),
    };
    gemm.run(device.stream()?, args)?;

    let result = d.into_checked(D::bits);
    let unwritten = result.iter().position(|x| x.bits() == D::SENTINEL.bits());
    if let Some(index) = unwritten.filter(|_| initial.is_none()) {
        panic!("d[{}, {}] was not written ({} {}x{}x{})", index / n, index % n, gemm.choice(), m, n, k);
    }
    Ok(result)
}

/// Demands that every oracle accepts every element.
pub fn check_gemm<D: Sentinel>(
    what: &str,
    inputs: &GemmInputs,
    oracles: &[Oracle],
    initial: Option<&[D]>,
    got: &[D],
) {
    let (m, n) = (inputs.m, inputs.n);
    let operands = inputs.operands().expect("operands");
    let before = |row: usize, column: usize| initial.map_or(0.0, |d| d[row * n + column].widen());
    let before: &Elements = &before;
    let epilogue = Epilogue { output: D::OUTPUT_MODEL, initial: initial.map(|_| before) };
    let got = |row: usize, column: usize| got[row * n + column].widen();
    for oracle in oracles {
        let verdict =
            oracle.check(&operands, &epilogue, &Sample::all(m, n), &got).expect("inputs fit the oracle");
        assert!(verdict.accepted(), "{what}, {oracle:?}: {verdict}");
    }
}
