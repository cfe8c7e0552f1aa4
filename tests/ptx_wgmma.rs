//! wgmma: fragments, descriptors, every width, and the tensor core's arithmetic bit for bit.

mod harness;
mod probes;

use std::array::from_fn;

use deepseek_kernels::probe::kernels::WGMMA;
use deepseek_kernels::probe::{self, MapElement, Probe, Swizzle, Tensor};
use deepseek_kernels::reference::codec::{decode_bf16, decode_e4m3, encode_bf16, encode_e4m3};
use deepseek_kernels::reference::{fused_dot_bf16, fused_dot_e4m3};
use deepseek_kernels::{Device, F8E4M3, bf16};
use harness::{devices, emulated};
use probes::{machines, run_words};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::StandardNormal;
use rayon::prelude::*;

/// Bytes of a row of A or B, of which one wgmma reads 32.
const ROW: usize = 128;
const STEP: usize = 32;
const WIDTHS: [usize; 6] = [8, 16, 32, 64, 128, 256];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operands {
    E4m3,
    Bf16,
    /// BF16 and B N-major, in chunks of 64 columns that are so many bytes apart.
    Bf16Mn(u32),
}
use Operands::{Bf16, Bf16Mn, E4m3};

/// Bytes of 64 rows of 64 columns: chunks one after the other.
const DENSE: u32 = 64 * 128;

/// What the probe does wrong in the descriptor of an N-major B.
#[derive(Debug, Clone, Copy)]
enum Slip {
    None,
    Major,
    Swizzle,
    NextAtom,
    FarAway,
}

impl Operands {
    fn encode(self, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        match self {
            E4m3 => values.into_iter().map(encode_e4m3).collect(),
            Bf16 | Bf16Mn(_) => values.into_iter().flat_map(|x| encode_bf16(x).to_le_bytes()).collect(),
        }
    }

    fn row_elements(self) -> usize {
        match self {
            E4m3 => ROW,
            Bf16 | Bf16Mn(_) => ROW / 2,
        }
    }

    /// One k step of the reference.
    fn fused_dot(self, a: &[u8], b: &[u8], c: f32) -> f32 {
        let wide = |bytes: &[u8], i: usize| bf16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        match self {
            E4m3 => fused_dot_e4m3(
                &from_fn(|i| F8E4M3::from_bits(a[i])),
                &from_fn(|i| F8E4M3::from_bits(b[i])),
                c,
            ),
            Bf16 | Bf16Mn(_) => fused_dot_bf16(&from_fn(|i| wide(a, i)), &from_fn(|i| wide(b, i)), c),
        }
    }
}

/// One launch: `grid` tiles of 64 x n.
#[derive(Debug, Clone)]
struct Case {
    operands: Operands,
    n: usize,
    grid: usize,
    /// Rows of 128 bytes.
    a: Vec<u8>,
    b: Vec<u8>,
    /// D before, `[grid, 64, n]`.
    d: Vec<f32>,
    keep: bool,
    first_step: usize,
    steps: usize,
    repeats: usize,
}

impl Case {
    fn run(&self, device: &Device) -> Vec<f32> {
        self.with_probe(Slip::None, |probe| run_words(device, probe))
            .into_iter()
            .map(f32::from_bits)
            .collect()
    }

    /// Columns of an N-major B in memory.
    fn columns(&self) -> usize {
        self.n.max(64)
    }

    /// B as rows of K, and NaN where no product may look.
    fn b_n_major(&self) -> Vec<u8> {
        let mut rows = 0x7fff_u16.to_le_bytes().repeat(self.grid * 64 * self.columns());
        for (column, codes) in self.b.chunks(ROW).enumerate() {
            for (k, code) in codes.chunks(2).enumerate() {
                let element = (column / self.n * 64 + k) * self.columns() + column % self.n;
                rows[2 * element..][..2].copy_from_slice(code);
            }
        }
        rows
    }

    fn with_probe<T>(&self, slip: Slip, run: impl FnOnce(&Probe) -> T) -> T {
        let map = |memory: Vec<u8>, row_bytes: usize, box_rows: usize| Tensor {
            element: MapElement::U8,
            swizzle: Swizzle::Span128,
            dims: vec![row_bytes as u64, (memory.len() / row_bytes) as u64],
            strides: vec![row_bytes as u64],
            box_sizes: vec![ROW as u32, box_rows as u32],
            memory,
        };
        let (operands, chunk_bytes, b) = match self.operands {
            E4m3 => (0, 0, map(self.b.clone(), ROW, self.n)),
            Bf16 => (1, 0, map(self.b.clone(), ROW, self.n)),
            Bf16Mn(chunk_bytes) => (2, chunk_bytes, map(self.b_n_major(), 2 * self.columns(), 64)),
        };
        let [n, first_step, steps, repeats] =
            [self.n, self.first_step, self.steps, self.repeats].map(|x| x as u32);
        run(&Probe {
            arguments: &[
                n,
                operands,
                first_step,
                steps,
                u32::from(self.keep),
                repeats,
                chunk_bytes,
                slip as u32,
            ],
            input: &self.d.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            output_words: self.d.len(),
            loads: &[map(self.a.clone(), ROW, 64), b],
            ..Probe::new(WGMMA, self.grid as u32)
        })
    }

    /// Rows of A and B that meet in element `index` of D.
    fn rows(&self, index: usize) -> (&[u8], &[u8]) {
        let (row, tile) = (index / self.n, index / self.n / 64);
        (&self.a[row * ROW..][..ROW], &self.b[(tile * self.n + index % self.n) * ROW..][..ROW])
    }

    fn expected(&self, index: usize) -> f32 {
        self.sum(index, if self.keep { self.d[index] } else { 0.0 })
    }

    /// Element `index` of the product, added to `d`.
    fn sum(&self, index: usize, mut d: f32) -> f32 {
        let (a, b) = self.rows(index);
        for _ in 0..self.repeats {
            for step in self.first_step..self.first_step + self.steps {
                let bytes = step * STEP..(step + 1) * STEP;
                d = self.operands.fused_dot(&a[bytes.clone()], &b[bytes], d);
            }
        }
        d
    }

    fn check(&self, device: &Device) {
        let got = self.run(device);
        let expected: Vec<f32> = (0..got.len()).into_par_iter().map(|index| self.expected(index)).collect();
        let same = |i: usize| same(got[i], expected[i]);
        let different = (0..got.len()).filter(|&i| !same(i)).count();
        if let Some(i) = (0..got.len()).find(|&i| !same(i)) {
            let (a, b) = self.rows(i);
            panic!(
                "{}: {different} of {} differ, first {i}: {:e} ({:#010x}), expected {:e} ({:#010x}); \
                 {:?} n {} steps {}+{} x {} keep {} d {:e}\na {a:02x?}\nb {b:02x?}",
                device.name(),
                got.len(),
                got[i],
                got[i].to_bits(),
                expected[i],
                expected[i].to_bits(),
                self.operands,
                self.n,
                self.first_step,
                self.steps,
                self.repeats,
                self.keep,
                self.d[i],
            );
        }
    }
}

/// The same bits, or NaN both: which NaN is not part of the contract.
fn same(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
}

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn integers(rng: &mut Xoshiro256PlusPlus, count: usize) -> impl Iterator<Item = f32> {
    (0..count).map(|_| rng.random_range(-8..=8) as f32)
}

/// Small integers, so that every sum is exact: only places can go wrong.
fn integer_case(operands: Operands, n: usize, grid: usize, seed: u64) -> Case {
    let rng = &mut rng(seed);
    let elements = operands.row_elements();
    let a = operands.encode(integers(rng, grid * 64 * elements));
    let b = operands.encode(integers(rng, grid * n * elements));
    let d = integers(rng, grid * 64 * n).collect();
    Case { operands, n, grid, a, b, d, keep: true, first_step: 0, steps: 4, repeats: 1 }
}

#[test]
fn every_width_multiplies_and_keeps_or_overwrites_d() {
    for device in devices() {
        for (operands, n) in [E4m3, Bf16, Bf16Mn(DENSE)].into_iter().flat_map(|o| WIDTHS.map(|n| (o, n))) {
            let case = integer_case(operands, n, 2, n as u64);
            case.check(&device);
            // What is overwritten may hold anything.
            Case { keep: false, d: vec![f32::NAN; case.d.len()], ..case }.check(&device);
        }
    }
}

#[test]
fn descriptors_advance_along_k_inside_the_swizzled_row() {
    for device in machines() {
        for operands in [E4m3, Bf16, Bf16Mn(DENSE)] {
            let case = integer_case(operands, 128, 1, 3);
            for first_step in 0..4 {
                Case { first_step, steps: 1, ..case.clone() }.check(&device);
            }
        }
    }
}

#[test]
fn later_groups_continue_the_sum() {
    for device in machines() {
        for operands in [E4m3, Bf16, Bf16Mn(DENSE)] {
            Case { repeats: 5, ..integer_case(operands, 16, 1, 4) }.check(&device);
        }
    }
}

#[test]
fn chunks_of_columns_may_lie_apart() {
    for device in machines() {
        for (n, chunk_bytes) in [(128, 9 * 1024), (128, 16 * 1024), (128, 30 * 1024), (256, 10 * 1024)] {
            integer_case(Bf16Mn(chunk_bytes), n, 2, 5).check(&device);
        }
        // One chunk: the distance is not used.
        for chunk_bytes in [0, 1024, 200 * 1024] {
            integer_case(Bf16Mn(chunk_bytes), 64, 1, 6).check(&device);
        }
    }
}

#[test]
fn a_wrong_descriptor_of_an_n_major_b_is_a_fault() {
    let case = integer_case(Bf16Mn(DENSE), 128, 1, 7);
    for (slip, expected) in [
        (Slip::Major, "leading offset 0"),
        (Slip::Swizzle, "swizzle of 0 bytes, not 128"),
        (Slip::NextAtom, "which nothing has written"),
        (Slip::FarAway, "outside the CTA's shared memory"),
    ] {
        for seed in 1..4 {
            let fault = case.with_probe(slip, |probe| probe.run(&emulated(seed))).expect_err("a fault");
            assert!(fault.to_string().contains(expected), "{slip:?}: {fault}");
        }
    }
}

// ---------------------------------------------------------------------------------------- arithmetic

/// Kinds of rows of an operand.
const CLASSES: usize = 8;

fn random_row(operands: Operands, class: usize, is_b: bool, rng: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let count = operands.row_elements();
    let mut values = vec![0.0_f32; count];
    match class {
        0 => values.fill_with(|| any_finite(operands, rng)),
        1 => values.fill_with(|| rng.sample::<f32, _>(StandardNormal)),
        2 => values.fill_with(|| any_subnormal(operands, rng)),
        3 => values.fill_with(|| 448.0 * rng.random_range(-1.0..1.0_f32).powi(9)),
        // Neighbours cancel between A and B, but for the last ones of a step.
        4 => {
            for (i, pair) in values.chunks_mut(2).enumerate() {
                let x = any_finite(operands, rng);
                let last = i % 8 == 7;
                pair.copy_from_slice(&[x, if is_b && !last { -x } else { x }]);
            }
        }
        // One large element among small ones.
        5 => {
            values.fill_with(|| any_subnormal(operands, rng));
            for step in values.chunks_mut(count / 4) {
                let place = rng.random_range(0..step.len());
                step[place] = 1.5 * 2.0_f32.powi(rng.random_range(0..8));
            }
        }
        6 => values.fill_with(|| if rng.random_ratio(1, 8) { any_finite(operands, rng) } else { 0.0 }),
        _ => values.fill_with(|| rng.random_range(0.5..1.5)),
    }
    operands.encode(values)
}

fn any_finite(operands: Operands, rng: &mut Xoshiro256PlusPlus) -> f32 {
    loop {
        let bits = rng.next_u32();
        let x = match operands {
            E4m3 => decode_e4m3(bits as u8),
            Bf16 | Bf16Mn(_) => decode_bf16(bits as u16),
        };
        if x.is_finite() {
            return x;
        }
    }
}

fn any_subnormal(operands: Operands, rng: &mut Xoshiro256PlusPlus) -> f32 {
    let bits = rng.next_u32();
    match operands {
        E4m3 => decode_e4m3(bits as u8 & 0x87),
        Bf16 | Bf16Mn(_) => decode_bf16(bits as u16 & 0x807f),
    }
}

/// An accumulator for element `index`: zeros, of the size of the sum, far larger, far smaller, subnormal,
/// cancelling the sum, any number.
fn random_d(case: &Case, index: usize, rng: &mut Xoshiro256PlusPlus) -> f32 {
    let normal: f32 = rng.sample(StandardNormal);
    let sum = || case.sum(index, 0.0);
    match rng.random_range(0..10) {
        0 => 0.0,
        1 => -0.0,
        2 => normal * 2.0_f32.powi(rng.random_range(10..40)),
        3 => normal * 2.0_f32.powi(rng.random_range(-40..-10)),
        4 => f32::from_bits(rng.next_u32() & 0x807f_ffff),
        5 => -sum(),
        6 => -sum() * (1.0 + normal / 1000.0),
        7 => loop {
            let x = f32::from_bits(rng.next_u32());
            if x.is_finite() {
                break x;
            }
        },
        _ => 16.0 * normal,
    }
}

/// Blocks of every pair of classes, on every kind of accumulator.
fn random_case(operands: Operands, grid: usize, steps: usize, seed: u64) -> Case {
    const N: usize = 256;
    let rng = &mut rng(seed);
    let mut rows = |count, is_b| {
        (0..count).flat_map(|row| random_row(operands, row % CLASSES, is_b, rng)).collect::<Vec<_>>()
    };
    let (a, b) = (rows(grid * 64, false), rows(grid * N, true));
    let mut case =
        Case { operands, n: N, grid, a, b, d: Vec::new(), keep: true, first_step: 0, steps, repeats: 1 };
    case.d = (0..grid * 64 * N).map(|index| random_d(&case, index, rng)).collect();
    case
}

/// 7 x 64 x 256 = 114,688 blocks each.
const RANDOM_GRID: usize = 7;

#[test]
fn random_fp8_blocks_of_32_and_128_follow_the_model() {
    for device in devices() {
        random_case(E4m3, RANDOM_GRID, 1, 21).check(&device);
        random_case(E4m3, RANDOM_GRID, 4, 22).check(&device);
    }
}

#[test]
fn random_bf16_blocks_of_16_and_64_follow_the_model() {
    for device in devices() {
        random_case(Bf16, RANDOM_GRID, 1, 23).check(&device);
        random_case(Bf16, RANDOM_GRID, 4, 24).check(&device);
        random_case(Bf16Mn(DENSE), 1, 4, 29).check(&device);
    }
}

/// One 64 x 8 tile with the same row everywhere in A and in B.
fn uniform_case(operands: Operands, a: &[f32], b: &[f32]) -> Case {
    let row = |values: &[f32], rows: usize| {
        let padding = std::iter::repeat(0.0);
        operands.encode(values.iter().copied().chain(padding).take(operands.row_elements())).repeat(rows)
    };
    let d = vec![0.0; 64 * 8];
    Case {
        operands,
        n: 8,
        grid: 1,
        a: row(a, 64),
        b: row(b, 8),
        d,
        keep: false,
        first_step: 0,
        steps: 1,
        repeats: 1,
    }
}

#[test]
fn thirteen_fraction_bits_are_kept() {
    for device in devices() {
        let tiny = 2.0_f32.powi(-6);
        let small = uniform_case(E4m3, &[448.0, tiny], &[1.0, 1.0]).run(&device);
        assert!(small.iter().all(|&x| x == 448.0), "{}: {}", device.name(), small[0]);
        // 2^-5 is the last place of 448 = 1.75 * 2^8 with 13 fraction bits.
        let kept = uniform_case(E4m3, &[448.0, 2.0 * tiny], &[1.0, 1.0]).run(&device);
        assert!(kept.iter().all(|&x| x == 448.0 + 2.0 * tiny), "{}: {}", device.name(), kept[0]);
    }
}

#[test]
fn ones_stall_without_promotion() {
    const K: usize = 32_768;
    for device in devices() {
        let ones = uniform_case(E4m3, &[1.0; ROW], &[1.0; ROW]);
        let sum = Case { steps: 4, repeats: K / ROW, ..ones }.run(&device);
        assert!(sum.iter().all(|&x| x == 16_384.0), "{}: {}", device.name(), sum[0]);
        let ones = uniform_case(Bf16, &[1.0; ROW / 2], &[1.0; ROW / 2]);
        let sum = Case { steps: 4, repeats: 2 * K / ROW, ..ones }.run(&device);
        assert!(sum.iter().all(|&x| x == K as f32), "{}: {}", device.name(), sum[0]);
    }
}

#[test]
fn the_order_inside_a_step_and_the_side_of_an_operand_do_not_matter() {
    for device in devices() {
        for operands in [E4m3, Bf16] {
            let case = Case { keep: false, ..random_case(operands, 1, 4, 25) };
            let element_bytes = ROW / operands.row_elements();
            let mut order: Vec<usize> = (0..STEP / element_bytes).collect();
            order.shuffle(&mut rng(26));
            let permuted = |rows: &[u8]| {
                let step = |step: &[u8]| {
                    let elements = order.iter().map(|&i| &step[i * element_bytes..][..element_bytes]);
                    elements.flatten().copied().collect::<Vec<_>>()
                };
                rows.chunks(STEP).flat_map(step).collect::<Vec<_>>()
            };
            let straight = case.run(&device);
            let other = Case { a: permuted(&case.a), b: permuted(&case.b), ..case.clone() }.run(&device);
            assert!(straight.iter().zip(&other).all(|(x, y)| same(*x, *y)), "{} {operands:?}", device.name());

            let swapped = Case { n: 64, a: case.b[..64 * ROW].to_vec(), b: case.a.clone(), ..case.clone() };
            let swapped = Case { d: vec![0.0; 64 * 64], ..swapped }.run(&device);
            for (row, column) in (0..64).flat_map(|row| (0..64).map(move |column| (row, column))) {
                let (x, y) = (straight[row * case.n + column], swapped[column * 64 + row]);
                assert!(same(x, y), "{} {operands:?} [{row}, {column}]: {x:e}, swapped {y:e}", device.name());
            }
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_rows_and_columns() {
    for device in devices() {
        for operands in [E4m3, Bf16] {
            let mut case = integer_case(operands, 64, 1, 27);
            let nan = operands.encode([f32::NAN]);
            case.a[5 * ROW + 40..][..nan.len()].copy_from_slice(&nan);
            case.b[9 * ROW + 100..][..nan.len()].copy_from_slice(&nan);
            case.d[17 * 64 + 3] = f32::NAN;
            case.d[18 * 64 + 3] = f32::INFINITY;
            case.d[19 * 64 + 3] = f32::NEG_INFINITY;
            let got = case.run(&device);
            for (index, x) in got.iter().enumerate() {
                let (row, column) = (index / 64, index % 64);
                let nan = row == 5 || column == 9 || (row, column) == (17, 3);
                assert_eq!(x.is_nan(), nan, "{} {operands:?} [{row}, {column}]: {x}", device.name());
            }
            case.check(&device);
        }
        // BF16 has infinities: alone, of both signs, times zero.
        let with = |a: [f32; 2], b: [f32; 2]| uniform_case(Bf16, &a, &b).run(&device)[0];
        assert_eq!(with([f32::INFINITY, 1.0], [2.0, 3.0]), f32::INFINITY);
        assert_eq!(with([f32::INFINITY, 1.0], [-2.0, 3.0]), f32::NEG_INFINITY);
        assert!(with([f32::INFINITY, f32::INFINITY], [1.0, -1.0]).is_nan());
        assert!(with([f32::INFINITY, 1.0], [0.0, 3.0]).is_nan());
    }
}

/// The emulator's definition of a fused sum, apart from the wgmma around it and from its faster path.
#[test]
fn the_emulators_fused_sum_is_the_references() {
    const BLOCKS: u64 = 1_000_000;
    const ROWS: usize = 2048;
    for operands in [E4m3, Bf16] {
        let mut row_rng = rng(28);
        let mut rows = |is_b| {
            (0..ROWS).map(|row| random_row(operands, row % CLASSES, is_b, &mut row_rng)).collect::<Vec<_>>()
        };
        let (a, b) = (rows(false), rows(true));
        (0..BLOCKS / 1000).into_par_iter().for_each(|chunk| {
            let rng = &mut rng(chunk);
            for _ in 0..1000 {
                let mut step = |rows: &[Vec<u8>]| {
                    let from = STEP * rng.random_range(0..ROW / STEP);
                    rows[rng.random_range(0..ROWS)][from..from + STEP].to_vec()
                };
                let (a, b) = (step(&a), step(&b));
                let c = match rng.random_range(0..4) {
                    0 => f32::from_bits(rng.next_u32()),
                    1 => -operands.fused_dot(&a, &b, 0.0),
                    _ => 16.0 * rng.sample::<f32, _>(StandardNormal),
                };
                let wide = |bytes: &[u8]| from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]));
                let narrow = |bytes: &[u8]| from_fn(|i| bytes[i]);
                let got = match operands {
                    E4m3 => probe::fused_dot_e4m3(c, &narrow(&a), &narrow(&b)),
                    Bf16 | Bf16Mn(_) => probe::fused_dot_bf16(c, &wide(&a), &wide(&b)),
                };
                let expected = operands.fused_dot(&a, &b, c);
                assert!(
                    same(got, expected),
                    "{operands:?}: {got:e}, expected {expected:e}; c {c:e} a {a:02x?} b {b:02x?}"
                );
            }
        });
    }
}
