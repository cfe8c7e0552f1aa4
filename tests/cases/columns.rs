//! Outputs that are columns of a wider matrix: the same bits as in a matrix of their own, and nothing beside them is touched.

use std::ops::Range;
use std::sync::Arc;

use check::case::{memory_of, pass};
use check::devices::devices;
use check::gemm::fp8_gemm::{Element, Fp8GemmCase, Fp8GemmRun};
use check::memory::{Align, Arena, Memory, Operand, Output, Scalar};
use check::mla::LATENT;
use check::mla::decode::{MlaDecodeCase, MlaDecodeRun};
use deepseek_kernels::gemm::Fp8GemmArgs;
use deepseek_kernels::mla::{KvFormat, MlaAttendArgs};
use deepseek_kernels::table::gemm::OutputType;
use deepseek_kernels::{Device, MatrixMut, bf16};

/// Given as slices and by address.
fn memories(name: &str) -> [Memory; 2] {
    let Memory::Poisoned(seed) = memory_of(name) else { unreachable!("memory of a name is poisoned") };
    [Memory::Poisoned(seed), Memory::Raw(seed)]
}

/// A matrix some of whose columns are an output.
struct Wide<T> {
    matrix: Operand<T>,
    columns: Range<usize>,
    of: usize,
}

impl<T: Scalar> Wide<T> {
    /// Room for `columns` of them between others, as many before as 16 bytes hold, or one.
    fn new(arena: &mut Arena<'_>, rows: usize, columns: usize, align: Align) -> Self {
        let before = (align.0 / size_of::<T>()).max(1);
        let of = 3 * before + columns;
        let matrix = arena.output((rows, of), align).expect("memory");
        Self { matrix, columns: before..before + columns, of }
    }

    /// Gives the columns to an operation.
    fn give(&mut self, run: impl FnOnce(MatrixMut<'_, T>)) {
        let mut whole = self.matrix.matrix_mut().expect("a view");
        run(whole.column_range(self.columns.clone()).expect("columns"));
    }

    /// The columns hold what a matrix of their own would, everything else what it did before.
    fn holds(&self, expected: &Output) {
        let values = self.matrix.values().expect("values");
        let bits = |values: &[T]| -> Vec<u32> { values.iter().map(|x| x.bits()).collect() };
        let expected = expected.values::<T>();
        for (row, values) in values.chunks(self.of).enumerate() {
            let (inside, width) = (&values[self.columns.clone()], self.columns.len());
            assert!(bits(inside) == bits(&expected[row * width..][..width]), "row {row}");
            let mut beside = values[..self.columns.start].iter().chain(&values[self.columns.end..]);
            assert!(beside.all(|x| x.bits() == T::SENTINEL.bits()), "beside row {row}");
        }
        assert_eq!(self.matrix.guarded("the matrix").expect("values").failure, None);
    }
}

fn gemm<D: Element>(device: &Device, case: Fp8GemmCase, memory: Memory) {
    let expected = pass(&case, device);
    let mut arena = Arena::new(device, memory);
    let mut run =
        Fp8GemmRun::<D>::new(Arc::new(case.problem().expect("inputs")), &mut arena).expect("operands");
    let mut d = Wide::<D>::new(&mut arena, case.m, case.n, Align(16));
    d.give(|d| {
        let args = Fp8GemmArgs { d, ..run.operands.args().expect("views") };
        run.plan.run(device.stream().expect("stream"), args).expect("launch");
    });
    d.holds(&expected[0]);
}

/// Tiles that end within the matrix, and one that is whole.
#[test]
fn the_result_of_a_gemm() {
    for device in devices() {
        for memory in memories("d among others") {
            for (m, n) in [(70, 136), (64, 128), (3, 8)] {
                let case = Fp8GemmCase::new((m, n, 256));
                gemm::<bf16>(&device, case, memory);
                gemm::<f32>(&device, Fp8GemmCase { output: OutputType::F32, ..case }, memory);
            }
        }
    }
}

/// Written by the attention itself, and by the step that adds splits up.
#[test]
fn the_state_of_an_attention() {
    for device in devices() {
        for memory in memories("states among others") {
            for split_keys in [64, 256] {
                let case = MlaDecodeCase::new(KvFormat::Bf16, vec![150, 0, 70]);
                let case = MlaDecodeCase { q_tokens: 2, heads: 5, split_keys: Some(split_keys), ..case };
                let expected = pass(&case, &device);
                let (tokens, heads) = (3 * case.q_tokens, case.heads);
                let mut arena = Arena::new(&device, memory);
                let problem = Arc::new(case.problem().expect("inputs"));
                let mut run = MlaDecodeRun::new(problem, &mut arena).expect("operands");
                let mut out = Wide::<bf16>::new(&mut arena, tokens * heads, LATENT, Align(16));
                let mut lse = Wide::<f32>::new(&mut arena, tokens, heads, Align(4));
                out.give(|out| {
                    lse.give(|lse| {
                        let mut args = run.operands.args().expect("views");
                        args.attend = MlaAttendArgs { out, lse, ..args.attend };
                        run.plan.run(device.stream().expect("stream"), args).expect("launch");
                    });
                });
                out.holds(&expected[0]);
                lse.holds(&expected[1]);
            }
        }
    }
}
