//! Conversions and arithmetic whose rounding is part of the contract, and loads and stores of global memory.

mod harness;
mod probes;

use deepseek_kernels::probe::Probe;
use deepseek_kernels::probe::kernels::{CONVERT, GMEM};
use deepseek_kernels::reference::codec::{decode_e4m3, encode_bf16, encode_e4m3};
use deepseek_kernels::{Device, DeviceKind};
use harness::devices;
use probes::{assert_words, machines, run_words};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rayon::prelude::*;

// Operations of the probe.
const E4M3: u32 = 0;
const BF16: u32 = 1;
const UNPACK: u32 = 2;
const FMA: u32 = 3;
const APPROX: u32 = 4;
const E4M3_DECODE: u32 = 5;

/// The bit patterns `start + (i << shift)` for `i < count`.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    start: u32,
    shift: u32,
    count: u32,
}

impl Sweep {
    fn value(self, i: usize) -> f32 {
        f32::from_bits(self.start.wrapping_add((i as u32) << self.shift))
    }

    fn run(self, device: &Device, operation: u32, input: &[u32], output_words: usize) -> Vec<u32> {
        let arguments = &[operation, self.start, self.shift, self.count];
        let grid =
            (self.count / 1024).clamp(1, 1024).min(if device.kind() == DeviceKind::Cuda { 1024 } else { 8 });
        run_words(device, &Probe { arguments, input, output_words, ..Probe::new(CONVERT, grid) })
    }
}

/// Every FP32 on a GPU. On the emulator every upper half, with the lower halves next to a tie, which lies at
/// 0 for E4M3 and at 0x8000 for BF16: the lower half matters only by being below, at or above it.
fn sweeps(device: &Device) -> Vec<Sweep> {
    match device.kind() {
        DeviceKind::Cuda => {
            (0..16).map(|slice| Sweep { start: slice << 28, shift: 0, count: 1 << 28 }).collect()
        }
        DeviceKind::Emulated => [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff]
            .map(|start| Sweep { start, shift: 16, count: 1 << 16 })
            .to_vec(),
    }
}

#[test]
fn every_e4m3_conversion_is_the_nearest_code() {
    for device in devices() {
        for sweep in sweeps(&device) {
            let words = sweep.run(&device, E4M3, &[], sweep.count as usize / 4);
            words.par_iter().enumerate().for_each(|(word, codes)| {
                for (byte, code) in codes.to_le_bytes().into_iter().enumerate() {
                    let x = sweep.value(4 * word + byte);
                    let same = if x.is_nan() { code & 0x7f == 0x7f } else { code == encode_e4m3(x) };
                    assert!(same, "{}: {x} ({:#010x}) gives {code:#04x}", device.name(), x.to_bits());
                }
            });
        }
    }
}

#[test]
fn every_bf16_conversion_is_the_nearest_value() {
    for device in devices() {
        for sweep in sweeps(&device) {
            let words = sweep.run(&device, BF16, &[], sweep.count as usize / 2);
            words.par_iter().enumerate().for_each(|(word, pair)| {
                for (half, got) in [*pair as u16, (pair >> 16) as u16].into_iter().enumerate() {
                    let x = sweep.value(2 * word + half);
                    let same = if x.is_nan() { got & 0x7fff > 0x7f80 } else { got == encode_bf16(x) };
                    assert!(same, "{}: {x} ({:#010x}) gives {got:#06x}", device.name(), x.to_bits());
                }
            });
        }
    }
}

#[test]
fn both_halves_of_a_bf16_pair_widen_exactly() {
    for device in devices() {
        for sweep in [
            Sweep { start: 0x1234, shift: 16, count: 1 << 16 },
            Sweep { start: 0xc567_0000, shift: 0, count: 1 << 16 },
        ] {
            let got = sweep.run(&device, UNPACK, &[], 2 * sweep.count as usize);
            let halves = |i| {
                let pair = sweep.value(i).to_bits();
                [pair << 16, pair & 0xffff_0000]
            };
            let expected: Vec<u32> = (0..sweep.count as usize).flat_map(halves).collect();
            assert_words(device.name(), &got, &expected);
        }
    }
}

/// Operands for a * b + c: any bits, products that nearly cancel c, and subnormal results.
fn triple(rng: &mut Xoshiro256PlusPlus, index: usize) -> [f32; 3] {
    let mut any = || f32::from_bits(rng.next_u32());
    match index % 4 {
        0 => [any(), any(), any()],
        1 => {
            let (a, b) = (any(), any());
            [a, b, -(a * b)]
        }
        2 => {
            let mut near_one = || 1.0 + rng.random::<f32>();
            [
                near_one() * 2.0_f32.powi(-70),
                near_one() * 2.0_f32.powi(-70),
                near_one() * f32::MIN_POSITIVE / 8.0,
            ]
        }
        _ => std::array::from_fn(|_| rng.random_range(-4.0..4.0)),
    }
}

#[test]
fn fma_rounds_once_and_a_product_with_a_sum_twice() {
    const COUNT: usize = 1 << 16;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
    let triples: Vec<[f32; 3]> = (0..COUNT).map(|i| triple(&mut rng, i)).collect();
    let input: Vec<u32> = triples.iter().flatten().map(|x| x.to_bits()).collect();
    let differing =
        triples.iter().filter(|[a, b, c]| a.mul_add(*b, *c).to_bits() != (a * b + c).to_bits()).count();
    assert!(differing > COUNT / 8, "the operands tell the two apart");
    for device in devices() {
        let got = Sweep { start: 0, shift: 0, count: COUNT as u32 }.run(&device, FMA, &input, 2 * COUNT);
        for ([a, b, c], got) in triples.iter().zip(got.chunks(2)) {
            for (got, expected) in
                got.iter().map(|&bits| f32::from_bits(bits)).zip([a.mul_add(*b, *c), a * b + c])
            {
                let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                assert!(same, "{}: {a:e} * {b:e} + {c:e} = {got:e}, expected {expected:e}", device.name());
            }
        }
    }
}

/// Subnormal numbers are zeros under `.ftz`.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

/// Where `y` must lie to be within 2 ulp of `exact`, or, near 0, within `absolute`.
fn close(y: f32, exact: f64, absolute: f64) -> bool {
    let nearest = flush(exact as f32);
    if exact.is_nan() {
        return y.is_nan();
    }
    if nearest.is_infinite() || nearest == 0.0 {
        // The result may be the last one before the edge.
        return (f64::from(y) - exact).abs() <= absolute.max(2.0 * f64::from(f32::MIN_POSITIVE))
            || y == nearest;
    }
    let ulp = 2.0_f64.powi(exact.abs().log2().floor() as i32 - 23);
    (f64::from(y) - exact).abs() <= (2.0 * ulp).max(absolute)
}

#[test]
fn approximate_powers_and_logarithms_are_within_two_ulp() {
    for device in devices() {
        for sweep in sweeps(&device) {
            let got = sweep.run(&device, APPROX, &[], 2 * sweep.count as usize);
            got.par_chunks(2).enumerate().for_each(|(i, got)| {
                let x = flush(sweep.value(i));
                let [power, logarithm] = [f32::from_bits(got[0]), f32::from_bits(got[1])];
                let exact = f64::from(x);
                assert!(close(power, exact.exp2(), 0.0), "{}: 2^{x:e} = {power:e}", device.name());
                let within = 2.0_f64.powi(-22);
                assert!(
                    close(logarithm, exact.log2(), within),
                    "{}: log2({x:e}) = {logarithm:e}",
                    device.name()
                );
            });
        }
        // What a masked key relies on.
        let infinity = Sweep { start: f32::NEG_INFINITY.to_bits(), shift: 0, count: 1024 };
        assert_eq!(infinity.run(&device, APPROX, &[], 2048)[0], 0, "{}: 2^-Inf", device.name());
    }
}

#[test]
fn every_e4m3_code_widens_exactly() {
    for device in devices() {
        let got = Sweep { start: 0, shift: 0, count: 1 << 16 }.run(&device, E4M3_DECODE, &[], 2 << 16);
        for (pair, got) in got.chunks(2).enumerate() {
            for (code, got) in [pair as u8, (pair >> 8) as u8].into_iter().zip(got) {
                let (got, expected) = (f32::from_bits(*got), decode_e4m3(code));
                let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                assert!(same, "{}: {code:#04x} gives {got}, expected {expected}", device.name());
            }
        }
    }
}

#[test]
fn global_memory_is_read_and_written_as_it_lies() {
    const GRID: u32 = 4;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(11);
    let input: Vec<u32> = (0..GRID * 64 * 8).map(|_| rng.next_u32()).collect();
    let threads = input.chunks(8).flat_map(|word| {
        let last = word[7];
        [word[0], word[1], word[2], word[3], word[4], word[5], word[6], 0, last, last, last, last]
    });
    let expected: Vec<u32> = threads.collect();
    for device in machines() {
        // The probe sets bits of a word that it must not assume to be zero.
        let output_words = 2 + expected.len();
        let output =
            Probe { input: &input, output_words, ..Probe::new(GMEM, GRID) }.run(&device).unwrap().output;
        assert_words(device.name(), &output[2..], &expected);
        assert_eq!(output[0], u32::MAX, "{}: all bits were set", device.name());
    }
}
