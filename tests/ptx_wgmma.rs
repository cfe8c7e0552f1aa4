//! wgmma: fragments, descriptors, every width, and the tensor core's arithmetic bit for bit.

mod harness;
mod probes;

use std::array::from_fn;

use deepseek_kernels::probe::kernels::WGMMA;
use deepseek_kernels::probe::{self, MapElement, Probe, Swizzle, Tensor};
use deepseek_kernels::reference::codec::{decode_bf16, decode_e4m3, encode_bf16, encode_e4m3};
use deepseek_kernels::reference::{fused_dot_bf16, fused_dot_e4m3};
use deepseek_kernels::{Device, F8E4M3, bf16};
use harness::devices;
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
}
use Operands::{Bf16, E4m3};

impl Operands {
    fn encode(self, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        match self {
            E4m3 => values.into_iter().map(encode_e4m3).collect(),
            Bf16 => values.into_iter().flat_map(|x| encode_bf16(x).to_le_bytes()).collect(),
        }
    }

    fn row_elements(self) -> usize {
        match self {
            E4m3 => ROW,
            Bf16 => ROW / 2,
        }
    }

    /// One k step of the reference.
    fn fused_dot(self, a: &[u8], b: &[u8], c: f32) -> f32 {
        let wide = |bytes: &[u8], i: usize| bf16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        match self {
            E4m3 => fused_dot_e4m3(&from_fn(|i| F8E4M3::from_bits(a[i])), &from_fn(|i| F8E4M3::from_bits(b[i])), c),
            Bf16 => fused_dot_bf16(&from_fn(|i| wide(a, i)), &from_fn(|i| wide(b, i)), c),
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
        let map = |memory: &[u8], box_rows: usize| Tensor {
            element: MapElement::U8,
            swizzle: Swizzle::Span128,
            dims: vec![ROW as u64, (memory.len() / ROW) as u64],
            strides: vec![ROW as u64],
            box_sizes: vec![ROW as u32, box_rows as u32],
            memory: memory.to_vec(),
        };
        let operands = u32::from(self.operands == Bf16);
        let [n, first_step, steps, repeats] = [self.n, self.first_step, self.steps, self.repeats].map(|x| x as u32);
        let words = run_words(
            device,
            &Probe {
                arguments: &[n, operands, first_step, steps, u32::from(self.keep), repeats],
                input: &self.d.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                output_words: self.d.len(),
                loads: &[map(&self.a, 64), map(&self.b, self.n)],
                ..Probe::new(WGMMA, self.grid as u32)
            },
        );
        words.into_iter().map(f32::from_bits).collect()
    }

    /// Rows of A and B that meet in element `index` of D.
    fn rows(&self, index: usize) -> (&[u8], &[u8]) {
        let (row, tile) = (index / self.n, index / self.n / 64);
        (&self.a[row * ROW..][..ROW], &self.b[(tile * self.n + index % self.n) * ROW..][..ROW])
    }

    fn expected(&self, index: usize) -> f32 {
        let (a, b) = self.rows(index);
        let mut d = if self.keep { self.d[index] } else { 0.0 };
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
                "{}: {different} of {} differ, first {i}: {:e} ({:#010x}), expected {:e} ({:#010x}); {:?} n {} steps {}+{} \
                 x {} keep {} d {:e}\na {a:02x?}\nb {b:02x?}",
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
        for (operands, n) in [E4m3, Bf16].into_iter().flat_map(|o| WIDTHS.map(|n| (o, n))) {
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
        for operands in [E4m3, Bf16] {
            let case = integer_case(operands, 32, 1, 3);
            for first_step in 0..4 {
                Case { first_step, steps: 1, ..case.clone() }.check(&device);
            }
        }
    }
}

#[test]
fn later_groups_continue_the_sum() {
    for device in machines() {
        for operands in [E4m3, Bf16] {
            Case { repeats: 5, ..integer_case(operands, 16, 1, 4) }.check(&device);
        }
    }
}

// ------------------------------------------------------------------------------------------------- arithmetic

/// What the rows of an operand hold; each row is of one class.
const CLASSES: usize = 8;

/// Row of class `index % CLASSES` or, for B, of another combination with each row of A.
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
            Bf16 => decode_bf16(bits as u16),
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
        Bf16 => decode_bf16(bits as u16 & 0x807f),
    }
}

/// An accumulator: zeros, of the size of the sum, far larger, far smaller, subnormal, cancelling the sum, any number.
fn random_d(case: &Case, index: usize, rng: &mut Xoshiro256PlusPlus) -> f32 {
    let normal: f32 = rng.sample(StandardNormal);
    let sum = || Case { keep: false, ..case.shallow() }.expected_of(case.rows(index));
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
