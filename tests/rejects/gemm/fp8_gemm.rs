//! Of the dense one: D keeps its bytes, and the device goes on working.

use check::devices::emulated;
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec, GEMM_INSTANCES, GemmChoice, OutputType};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales128x128};
use deepseek_kernels::{Device, Error, F8E4M3, Matrix, MatrixMut, Stream};

use crate::message;

const M: usize = 8;
const N: usize = 16;
const K: usize = 256;
const SPEC: Fp8GemmSpec = Fp8GemmSpec { m: M, n: N, k: K, accumulate: false };

/// Host memory for a GEMM of M x N x K with room to spare.
struct Memory {
    a: Vec<F8E4M3>,
    b: Vec<F8E4M3>,
    sfa: Vec<f32>,
    sfb: Vec<f32>,
    d: Vec<f32>,
}

/// The views that a test gets wrong, one at a time.
struct Views<'a> {
    a: Result<Matrix<'a, F8E4M3>, Error>,
    b: Result<Matrix<'a, F8E4M3>, Error>,
    sfa: Result<Scales1x128<'a, MMajor>, Error>,
    sfb: Result<Scales128x128<'a>, Error>,
}

impl Memory {
    fn new() -> Self {
        Self {
            a: vec![F8E4M3::ONE; 4 * M * K],
            b: vec![F8E4M3::ONE; 4 * N * K],
            sfa: vec![1.0; 8 * M],
            sfb: vec![1.0; 8],
            d: vec![-1.0; 4 * M * N],
        }
    }

    fn views(&self) -> Views<'_> {
        Views {
            a: Matrix::new(&self.a, M, K),
            b: Matrix::new(&self.b, N, K),
            sfa: Scales1x128::new(&self.sfa, M, K),
            sfb: Scales128x128::new(&self.sfb, N, K),
        }
    }
}

type Change = for<'a> fn(&'a Memory, &mut Views<'a>);
type Target = for<'a> fn(&'a mut [f32]) -> Result<MatrixMut<'a, f32>, Error>;

fn dense(d: &mut [f32]) -> Result<MatrixMut<'_, f32>, Error> {
    MatrixMut::new(d, M, N)
}

fn run(device: &Device, memory: &Memory, d: &mut [f32], change: Change, target: Target) -> Result<(), Error> {
    let mut views = memory.views();
    change(memory, &mut views);
    let args = Fp8GemmArgs { a: views.a?, sfa: views.sfa?, b: views.b?, sfb: views.sfb?, d: target(d)? };
    Fp8Gemm::<f32>::plan(device, SPEC)?.run(Stream::Emulated, args)
}

/// The message of the error; D untouched; then the same device runs the GEMM as if nothing had been.
fn rejected(change: Change, target: Target) -> String {
    let device = emulated(0);
    let mut memory = Memory::new();
    let mut d = std::mem::take(&mut memory.d);
    let before = d.clone();
    let error = message(run(&device, &memory, &mut d, change, target));
    assert!(d == before, "D was written although the call failed: {error}");
    run(&device, &memory, &mut d, |_, _| {}, dense).expect("the device still works");
    assert!(d[..M * N].iter().all(|&x| x == K as f32));
    error.to_string()
}

/// One test per message: what is wrong, and the text it must give.
macro_rules! gemm_rejects {
    ($($name:ident: |$memory:ident, $views:ident| $change:expr => $message:literal;)*) => {$(
        #[test]
        fn $name() {
            fn change<'a>($memory: &'a Memory, $views: &mut Views<'a>) {
                $change;
            }
            assert_eq!(rejected(change, dense), $message);
        }
    )*};
}

gemm_rejects! {
    a_of_another_shape: |memory, views| views.a = Matrix::new(&memory.a, M, K - 128)
        => "expected a [m, k] [8, 256], got [8, 128]";
    a_with_too_many_rows: |memory, views| views.a = Matrix::new(&memory.a, M + 1, K)
        => "expected a [m, k] [8, 256], got [9, 256]";
    b_of_another_shape: |memory, views| views.b = Matrix::new(&memory.b, N - 8, K)
        => "expected b [n, k] [16, 256], got [8, 256]";
    sfa_with_a_missing_row: |memory, views| views.sfa = Scales1x128::new(&memory.sfa, M - 1, K)
        => "expected sfa [k/128, m] [2, 8], got [2, 7]";
    sfa_of_another_k: |memory, views| views.sfa = Scales1x128::new(&memory.sfa, M, K + 128)
        => "expected sfa [k/128, m] [2, 8], got [3, 8]";
    sfb_of_another_n: |memory, views| views.sfb = Scales128x128::new(&memory.sfb, 129, K)
        => "expected sfb [ceil(n/128), k/128] [1, 2], got [2, 2]";
    a_too_short: |memory, views| views.a = Matrix::new(&memory.a[..M * K - 1], M, K)
        => "[8, 256] with pitch 256 needs 2048 elements, the slice has 2047";
    sfa_too_short: |memory, views| views.sfa = Scales1x128::new(&memory.sfa[..15], M, K)
        => "[2, 8] with pitch 8 needs 16 elements, the slice has 15";
    sfb_too_short: |memory, views| views.sfb = Scales128x128::new(&memory.sfb[..1], N, K)
        => "[1, 2] with pitch 2 needs 2 elements, the slice has 1";
    sfb_empty: |memory, views| views.sfb = Scales128x128::new(&memory.sfb[..0], N, K)
        => "[1, 2] with pitch 2 needs 2 elements, the slice has 0";
    a_with_overlapping_rows: |memory, views| views.a = Matrix::with_pitch(&memory.a, M, K, K - 16)
        => "pitch must be at least the number of columns: expected >= 256, got 240";
    a_with_an_odd_pitch: |memory, views| views.a = Matrix::with_pitch(&memory.a, M, K, K + 8)
        => "a: pitch must be a multiple of 16 bytes, got 264";
    b_with_an_odd_pitch: |memory, views| views.b = Matrix::with_pitch(&memory.b, N, K, K + 1)
        => "b: pitch must be a multiple of 16 bytes, got 257";
    sfa_with_an_odd_pitch: |memory, views| views.sfa = Scales1x128::with_pitch(&memory.sfa, M, K, M + 1)
        => "sfa: pitch must be a multiple of 16 bytes, got 36";
    a_at_an_odd_address: |memory, views| views.a = Matrix::new(&memory.a[1..], M, K)
        => "a: address must be a multiple of 16 bytes, got 1";
    b_at_an_odd_address: |memory, views| views.b = Matrix::new(&memory.b[8..], N, K)
        => "b: address must be a multiple of 16 bytes, got 8";
    sfa_at_an_odd_address: |memory, views| views.sfa = Scales1x128::new(&memory.sfa[1..], M, K)
        => "sfa: address must be a multiple of 16 bytes, got 4";
    scales_of_a_k_without_blocks: |memory, views| views.sfb = Scales128x128::new(&memory.sfb, N, 200)
        => "k must be a multiple of 128, got 200";
}

macro_rules! d_rejects {
    ($($name:ident: |$d:ident| $target:expr => $message:literal;)*) => {$(
        #[test]
        fn $name() {
            fn target($d: &mut [f32]) -> Result<MatrixMut<'_, f32>, Error> {
                $target
            }
            assert_eq!(rejected(|_, _| {}, target), $message);
        }
    )*};
}

d_rejects! {
    d_of_another_shape: |d| MatrixMut::new(d, M, N + 8) => "expected d [m, n] [8, 16], got [8, 24]";
    d_too_short: |d| MatrixMut::new(&mut d[..M * N - 1], M, N)
        => "[8, 16] with pitch 16 needs 128 elements, the slice has 127";
    d_with_an_odd_pitch: |d| MatrixMut::with_pitch(d, M, N, N + 2)
        => "d: pitch must be a multiple of 16 bytes, got 72";
    d_at_an_odd_address: |d| MatrixMut::new(&mut d[2..], M, N)
        => "d: address must be a multiple of 16 bytes, got 8";
}

fn plan_error(spec: Fp8GemmSpec) -> String {
    message(Fp8Gemm::<f32>::plan(&emulated(0), spec))
}

#[test]
fn n_not_a_multiple_of_8() {
    assert_eq!(plan_error(Fp8GemmSpec { n: 12, ..SPEC }), "n must be a multiple of 8, got 12");
}

#[test]
fn k_not_a_multiple_of_128() {
    assert_eq!(plan_error(Fp8GemmSpec { k: 130, ..SPEC }), "k must be a multiple of 128, got 130");
}

#[test]
fn sizes_beyond_what_tma_counts() {
    let huge = 1 << 31;
    assert_eq!(plan_error(Fp8GemmSpec { m: huge, ..SPEC }), "m must be at most 2147483647, got 2147483648");
    assert_eq!(plan_error(Fp8GemmSpec { n: huge, ..SPEC }), "n must be at most 2147483647, got 2147483648");
    assert_eq!(plan_error(Fp8GemmSpec { k: huge, ..SPEC }), "k must be at most 2147483647, got 2147483648");
    let wide = Fp8GemmSpec { m: huge - 1, n: huge - 8, ..SPEC };
    assert!(
        plan_error(wide).starts_with("tiles of D must be at most 2147483647, got "),
        "{}",
        plan_error(wide)
    );
}

#[test]
fn an_instance_of_another_output() {
    let bf16 = GEMM_INSTANCES.iter().find(|i| i.output == OutputType::Bf16).expect("instance");
    let error = message(Fp8Gemm::<f32>::plan_instance(&emulated(0), SPEC, *bf16));
    assert_eq!(error.to_string(), "the GPU kernels were not built: the instance writes another output type");
}

/// The planner is pure: the same shape gives the same choice, and every choice covers D.
#[test]
fn every_plan_covers_d() {
    for m in [1, 63, 64, 65, 128, 1000, 4096] {
        for (n, k) in [(8, 128), (576, 7168), (32768, 512)] {
            let spec = Fp8GemmSpec { m, n, k, accumulate: false };
            let choice = GemmChoice::for_shape(&spec, OutputType::Bf16, 132).expect("choice");
            let instance = choice.instance;
            let tiles = m.div_ceil(instance.block_m as usize) * n.div_ceil(instance.block_n as usize);
            assert!(
                choice.tiles as usize >= tiles
                    && choice.grid <= 132
                    && choice.grid.is_multiple_of(instance.cluster)
            );
            assert!(choice.grid * choice.waves >= choice.tiles, "{choice}");
        }
    }
}
