//! The references and oracles judge the kernels; here they are judged themselves: against second
//! formulations, against each other, and by defects that an oracle must see.
use std::error::Error;

use float8::F8E4M3;
use half::bf16;
use oracles::codec::{decode_bf16, decode_e4m3, encode_bf16, encode_e4m3};
use oracles::gemm::{
    Elements, Epilogue, NotExact, Operands, Oracle, Output, Sample, bit_model, bound, exact, reference,
};
use oracles::gemm::{GemmClass, GemmInputs};
use oracles::mla::calc_diff;
use oracles::quant::quantizer_rows;
use oracles::quant::{QuantizeModel, QuantizeScale, quantize_1x128, quantize_128x128};
use oracles::tensor_core::{NAN, fused_dot_bf16, fused_dot_e4m3};
use oracles::verdict::Verdict;
use oracles::{BLOCK, ShapeError};
use rand::{Rng, RngExt, SeedableRng, rngs::Xoshiro256PlusPlus, seq::SliceRandom};
use rand_distr::StandardNormal;

type TestResult = Result<(), Box<dyn Error>>;

const F32: Epilogue<'static> = Epilogue::store(Output::F32);
const BF16: Epilogue<'static> = Epilogue::store(Output::Bf16);

fn e4m3(x: f32) -> F8E4M3 {
    F8E4M3::from_bits(encode_e4m3(x))
}

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn same(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
}

// The tensor core

/// The fused sum a second time: `f64` holds every step exactly, so truncation is `f64::trunc`.
fn fused_sum(products: &[(f64, i32)], c: f32, kept_bits: i32, result_bits: i32) -> f32 {
    let exponent = |x: f64, least: i32| (x.abs().log2().floor() as i32).max(least);
    let mut terms = products.to_vec();
    terms.push((c.into(), if c == 0.0 { 0 } else { exponent(c.into(), -126) }));
    terms.retain(|(value, _)| *value != 0.0);
    let Some(largest) = terms.iter().map(|(_, exponent)| *exponent).max() else { return 0.0 };
    let quantum = 2f64.powi(largest - kept_bits);
    let sum: f64 = terms.iter().map(|(value, _)| (value / quantum).trunc() * quantum).sum();
    if sum == 0.0 {
        return 0.0;
    }
    let last_place = 2f64.powi(exponent(sum, -126) - result_bits);
    ((sum / last_place).trunc() * last_place) as f32
}

fn product(a: f32, b: f32, least_exponent: i32) -> (f64, i32) {
    let exponent = |x: f32| (f64::from(x).abs().log2().floor() as i32).max(least_exponent);
    (
        f64::from(a) * f64::from(b),
        if a * b == 0.0 && (a == 0.0 || b == 0.0) { 0 } else { exponent(a) + exponent(b) },
    )
}

#[test]
fn fused_dot_e4m3_agrees_with_a_second_formulation() {
    let mut rng = rng(1);
    for round in 0..100_000 {
        // Blocks of one magnitude with many zeros and subnormals, then blocks of all magnitudes.
        let most = [0x18, 0x40, 0x7f][round % 3];
        let mut code = || F8E4M3::from_bits(rng.random_range(0..most) | if rng.random() { 0x80 } else { 0 });
        let a: [_; 32] = std::array::from_fn(|_| code());
        let mut b: [_; 32] = std::array::from_fn(|_| code());
        if round % 5 == 0 {
            // Cancellation down to a few products.
            (0..28).step_by(2).for_each(|i| b[i + 1] = F8E4M3::from_bits(0));
        }
        let c = match round % 4 {
            0 => 0.0,
            1 => f32::from_bits(rng.next_u32() & 0x87ff_ffff),
            _ => rng.sample::<f32, _>(StandardNormal) * 2f32.powi(rng.random_range(-20..16)),
        };
        let products: Vec<_> = (0..32).map(|i| product(a[i].to_f32(), b[i].to_f32(), -6)).collect();
        let (got, expected) = (fused_dot_e4m3(&a, &b, c), fused_sum(&products, c, 13, 13));
        assert_eq!(got.to_bits(), expected.to_bits(), "{got:e}, expected {expected:e}: {a:?} {b:?} {c:e}");
    }
}

#[test]
fn fused_dot_bf16_agrees_with_a_second_formulation() {
    let mut rng = rng(2);
    for round in 0..100_000 {
        // Exponents in a narrow band, or anywhere: then products and sums over- and underflow.
        let (low, high) = [(120, 134), (90, 160), (0, 255)][round % 3];
        let mut value = || {
            let bits = rng.random_range(low..high) << 7 | rng.random_range(0..128);
            bf16::from_bits(bits | if rng.random() { 0x8000 } else { 0 })
        };
        let a: [_; 16] = std::array::from_fn(|_| value());
        let b: [_; 16] = std::array::from_fn(|_| value());
        let c = if round % 4 == 0 { 0.0 } else { rng.sample::<f32, _>(StandardNormal) * a[0].to_f32() };
        if !c.is_finite() {
            continue;
        }
        let products: Vec<_> = (0..16).map(|i| product(a[i].to_f32(), b[i].to_f32(), -126)).collect();
        let (got, expected) = (fused_dot_bf16(&a, &b, c), fused_sum(&products, c, 25, 23));
        assert_eq!(got.to_bits(), expected.to_bits(), "{got:e}, expected {expected:e}: {a:?} {b:?} {c:e}");
    }
}

/// 32 (or 16) operands that start with `values` and go on with zeros.
fn padded<T: Copy, const L: usize>(values: &[f32], convert: impl Fn(f32) -> T) -> [T; L] {
    std::array::from_fn(|i| convert(values.get(i).copied().unwrap_or(0.0)))
}

#[test]
fn fused_dot_e4m3_checkpoints() {
    let dot = |a: &[f32], b: &[f32], c| fused_dot_e4m3(&padded(a, e4m3), &padded(b, e4m3), c);
    let tiny = 2f32.powi(-6);
    assert_eq!(dot(&[448.0, tiny], &[1.0, 1.0], 0.0), 448.0);
    assert_eq!(dot(&[448.0, 0.0625], &[1.0, 1.0], 0.0), 448.0625, "2^-4 is within 13 bits of 2^8, and kept");
    assert_eq!(dot(&[-448.0, -tiny], &[1.0, 1.0], 0.0), -448.0, "toward zero on both sides");
    assert_eq!(dot(&[tiny], &[1.0], 448.0), 448.0, "the accumulator decides the alignment too");
    assert_eq!(dot(&[448.0], &[1.0], tiny), 448.0, "and is cut as the products are");
    // 2^-9 counts with exponent -6, so 448 * 2^-9 = 0.875 aligns as if it were at least 4 and 2^-12 is
    // lost.
    assert_eq!(dot(&[448.0, tiny], &[2f32.powi(-9), tiny], 0.0), 0.875);
    assert_eq!(dot(&[1.0], &[0.0], -0.0).to_bits(), 0);
    assert_eq!(dot(&[f32::NAN], &[0.0], 0.0).to_bits(), NAN.to_bits());
    assert_eq!(dot(&[1.0], &[1.0], f32::NAN).to_bits(), NAN.to_bits());
}

#[test]
fn fused_dot_bf16_checkpoints() {
    let dot =
        |a: &[f32], b: &[f32], c| fused_dot_bf16(&padded(a, bf16::from_f32), &padded(b, bf16::from_f32), c);
    let (one, two, four) = (2f32.powi(-24), 2f32.powi(-23), 2f32.powi(-26));
    assert_eq!(dot(&[one], &[1.0], 1.0), 1.0, "cut toward zero");
    assert_eq!(dot(&[one, one], &[1.0, 1.0], 1.0), 1.0 + two, "two guard bits are kept until the sum");
    assert_eq!(dot(&[four; 15], &[1.0; 15], 1.0), 1.0, "and no third");
    let (x, y) = (1.5 * 2f32.powi(-75), 2f32.powi(-74));
    assert_eq!(dot(&[x], &[y], 0.0), f32::from_bits(1), "subnormal results are kept, and cut too");
    assert_eq!(dot(&[f32::INFINITY], &[1.0], 0.0), f32::INFINITY);
    assert!(dot(&[f32::INFINITY], &[0.0], 0.0).is_nan());
    assert!(dot(&[f32::INFINITY], &[1.0], f32::NEG_INFINITY).is_nan());
    assert!(dot(&[f32::NAN], &[0.0], 0.0).is_nan());
}

#[test]
fn ones_stall_without_promotion_and_not_with_it() -> TestResult {
    let ones = [e4m3(1.0); 32];
    let unpromoted = (0..32768 / 32).fold(0.0, |c, _| fused_dot_e4m3(&ones, &ones, c));
    assert_eq!(unpromoted, 16384.0);

    for k in [7168, 16384, 32768, 65536] {
        let inputs = GemmClass::Ones.generate((1, 8, k), 0)?;
        assert_eq!(bit_model(&inputs.operands()?, &F32, &Sample::all(1, 8)), [k as f32; 8]);
    }
    Ok(())
}

#[test]
fn order_within_a_chunk_and_of_the_factors_does_not_matter() {
    let mut rng = rng(3);
    for _ in 0..10_000 {
        let mut pairs: [(F8E4M3, F8E4M3); 32] =
            std::array::from_fn(|_| (e4m3(rng.sample(StandardNormal)), e4m3(rng.sample(StandardNormal))));
        let c = rng.sample::<f32, _>(StandardNormal);
        let before = fused_dot_e4m3(&pairs.map(|p| p.0), &pairs.map(|p| p.1), c);
        pairs.shuffle(&mut rng);
        assert_eq!(fused_dot_e4m3(&pairs.map(|p| p.1), &pairs.map(|p| p.0), c).to_bits(), before.to_bits());
    }
}

// The GEMM references

/// The pinned order, written out over the codes of one element.
fn plain_bit_model(inputs: &GemmInputs, row: usize, column: usize) -> f32 {
    let k_blocks = inputs.k / BLOCK;
    let mut acc = 0.0f32;
    for g in 0..k_blocks {
        let mut c = 0.0;
        for k in (g * BLOCK..(g + 1) * BLOCK).step_by(32) {
            let a = std::array::from_fn(|i| inputs.a[row * inputs.k + k + i]);
            let b = std::array::from_fn(|i| inputs.b[column * inputs.k + k + i]);
            c = fused_dot_e4m3(&a, &b, c);
        }
        let s = inputs.sfa[g * inputs.m + row] * inputs.sfb[column / BLOCK * k_blocks + g];
        acc = s.mul_add(c, acc);
    }
    acc
}

#[test]
fn bit_model_is_the_pinned_order() -> TestResult {
    // Ragged in every direction of the tiles, and two blocks of columns.
    let (m, n, k) = (37, 171, 384);
    for class in GemmClass::ALL {
        let inputs = class.generate((m, n, k), 11)?;
        let got = bit_model(&inputs.operands()?, &F32, &Sample::all(m, n));
        for (index, &got) in got.iter().enumerate() {
            let expected = plain_bit_model(&inputs, index / n, index % n);
            assert!(same(got, expected), "{class} {index}: {got:e}, expected {expected:e}");
        }
        let rounded = bit_model(&inputs.operands()?, &BF16, &Sample::all(m, n));
        assert!(rounded.iter().zip(&got).all(|(&d, &acc)| same(d, decode_bf16(encode_bf16(acc)))), "{class}");
    }
    Ok(())
}

#[test]
fn reference_is_a_plain_loop() -> TestResult {
    let (m, n, k) = (5, 130, 256);
    let inputs = GemmClass::Normal.generate((m, n, k), 12)?;
    let got = reference(&inputs.operands()?, &Sample::all(m, n));
    for (index, &got) in got.iter().enumerate() {
        let (row, column) = (index / n, index % n);
        let term = |i: usize| {
            let a = inputs.a[row * k + i].to_f64() * f64::from(inputs.sfa[i / BLOCK * m + row]);
            a * inputs.b[column * k + i].to_f64()
                * f64::from(inputs.sfb[column / BLOCK * (k / BLOCK) + i / BLOCK])
        };
        let expected: f64 = (0..k).map(term).sum();
        let magnitude: f64 = (0..k).map(|i| term(i).abs()).sum();
        assert!((got - expected).abs() <= 1e-13 * magnitude, "{index}: {got:e}, expected {expected:e}");
    }
    Ok(())
}

#[test]
fn exact_inputs_are_exact() -> TestResult {
    for class in [GemmClass::SignedIntegers, GemmClass::Integers, GemmClass::OneHot, GemmClass::Ones] {
        for k in [128, 2048, 7168, 16384] {
            let (m, n) = (19, 150);
            let inputs = class.generate((m, n, k), k as u64)?;
            let (operands, sample) = (inputs.operands()?, Sample::all(m, n));
            let expected = exact(&operands, &F32, &sample)?;
            assert!(expected.iter().any(|&d| d != 0.0));
            assert_eq!(bit_model(&operands, &F32, &sample), expected, "{class}, k = {k}");
            let in_f64: Vec<f32> = reference(&operands, &sample).iter().map(|&d| d as f32).collect();
            assert_eq!(in_f64, expected, "{class}, k = {k}");
        }
    }
    Ok(())
}

#[test]
fn exact_refuses_inputs_that_a_correct_kernel_may_round() -> TestResult {
    let refused = |inputs: &GemmInputs| -> Result<NotExact, Box<dyn Error>> {
        let sample = Sample { rows: vec![3], columns: vec![5] };
        Ok(exact(&inputs.operands()?, &F32, &sample).expect_err("rounding went unnoticed"))
    };
    let at = NotExact { row: 3, column: 5 };
    let shape = (8, 8, 256);
    assert_eq!(refused(&GemmClass::Normal.generate(shape, 0)?)?, at);
    assert_eq!(refused(&GemmClass::Codes.generate(shape, 0)?)?, at);

    let plant = |change: fn(&mut GemmInputs)| -> Result<NotExact, Box<dyn Error>> {
        let mut inputs = GemmClass::SignedIntegers.generate(shape, 0)?;
        change(&mut inputs);
        refused(&inputs)
    };
    assert_eq!(plant(|inputs| inputs.sfa[3] = 3.0)?, at, "not a power of two");
    assert_eq!(plant(|inputs| inputs.sfa[3] = f32::INFINITY)?, at);
    assert_eq!(plant(|inputs| inputs.sfa[3] = 2f32.powi(30))?, at, "two blocks 2^30 apart");
    assert_eq!(plant(|inputs| inputs.a[3 * 256] = F8E4M3::from_bits(0x7f))?, at);
    let wide = |inputs: &mut GemmInputs| {
        (inputs.a[3 * 256], inputs.b[5 * 256]) = (e4m3(448.0), e4m3(448.0));
        (inputs.a[3 * 256 + 1], inputs.b[5 * 256 + 1]) = (e4m3(1.0), e4m3(1.0));
    };
    assert_eq!(plant(wide)?, at, "448^2 + 1 needs more than 14 bits");
    let subnormal = |inputs: &mut GemmInputs| {
        inputs.a[3 * 256..4 * 256].fill(e4m3(0.0));
        let tiny = 2f32.powi(-6);
        inputs.a[3 * 256..][..2].copy_from_slice(&[e4m3(448.0), e4m3(tiny)]);
        inputs.b[5 * 256..][..2].copy_from_slice(&[e4m3(2f32.powi(-9)), e4m3(tiny)]);
    };
    assert_eq!(plant(subnormal)?, at, "0.875 + 2^-12 fits 14 bits, but 2^-9 aligns as if it were 2^-6");
    Ok(())
}

#[test]
fn accumulation_adds_d_last() -> TestResult {
    let (m, n, k) = (7, 140, 256);
    let initial = |row: usize, column: usize| (row * 31 + column * 7) as f32 - 500.0;
    for output in [Output::F32, Output::Bf16] {
        let epilogue = Epilogue { output, initial: Some(&initial) };
        let inputs = GemmClass::SignedIntegers.generate((m, n, k), 4)?;
        let (operands, sample) = (inputs.operands()?, Sample::all(m, n));
        let sums = exact(&operands, &F32, &sample)?;
        let expected: Vec<f32> = (sums.iter().enumerate())
            .map(|(index, sum)| sum + initial(index / n, index % n))
            .map(|d| if output == Output::Bf16 { bf16::from_f32(d).to_f32() } else { d })
            .collect();
        assert_eq!(exact(&operands, &epilogue, &sample)?, expected);
        assert_eq!(bit_model(&operands, &epilogue, &sample), expected);

        // D far above the sum: the rounding of the last addition is most of the error.
        let large = |row: usize, column: usize| initial(row, column) * 1e6;
        let epilogue = Epilogue { output, initial: Some(&large) };
        let inputs = GemmClass::Normal.generate((m, n, k), 4)?;
        let got = bit_model(&inputs.operands()?, &epilogue, &sample);
        let judged = |row: usize, column: usize| got[row * n + column];
        let verdict = Oracle::Bound.check(&inputs.operands()?, &epilogue, &sample, &judged)?;
        assert!(verdict.accepted(), "{output:?}: {verdict}");
    }
    Ok(())
}

#[test]
fn empty_sums() -> TestResult {
    let inputs = GemmClass::Normal.generate((3, 4, 0), 0)?;
    let (operands, sample) = (inputs.operands()?, Sample::all(3, 4));
    let zero = [0.0f32.to_bits(); 12];
    assert_eq!(bit_model(&operands, &BF16, &sample).map_bits(), zero);
    assert_eq!(exact(&operands, &BF16, &sample)?.map_bits(), zero);
    let held = Epilogue { output: Output::F32, initial: Some(&|row, column| (row + column) as f32) };
    assert_eq!(bit_model(&operands, &held, &sample), exact(&operands, &held, &sample)?);
    assert!(Oracle::Bound.check(&operands, &held, &sample, &|row, column| (row + column) as f32)?.accepted());
    assert!(bit_model(&operands, &BF16, &Sample::all(0, 4)).is_empty());
    Ok(())
}

trait MapBits {
    fn map_bits(&self) -> Vec<u32>;
}

impl MapBits for Vec<f32> {
    fn map_bits(&self) -> Vec<u32> {
        self.iter().map(|x| x.to_bits()).collect()
    }
}

#[test]
fn a_sample_is_part_of_the_whole() -> TestResult {
    let (m, n, k) = (90, 300, 256);
    let inputs = GemmClass::Normal.generate((m, n, k), 5)?;
    let whole = bit_model(&inputs.operands()?, &F32, &Sample::all(m, n));
    let sample = Sample::spread(m, n, 20, 33, 5);
    assert!(sample.rows.len() >= 20 && sample.columns.len() >= 33);
    for (picked, extent) in [(&sample.rows, m), (&sample.columns, n)] {
        assert_eq!((picked.first(), picked.last()), (Some(&0), Some(&(extent - 1))));
        assert!(picked.is_sorted_by(|a, b| a < b));
    }
    let part = bit_model(&inputs.operands()?, &F32, &sample);
    let places = sample.rows.iter().flat_map(|row| sample.columns.iter().map(move |column| row * n + column));
    assert!(places.zip(&part).all(|(place, d)| whole[place].to_bits() == d.to_bits()));
    assert_eq!(Sample::spread(m, n, m, n, 5).rows.len(), m);
    Ok(())
}

#[test]
fn shapes_are_checked() {
    let (a, sf) = ([F8E4M3::from_bits(0); 128], [1.0; 1]);
    let length = |operand, expected, got| Some(ShapeError::Length { operand, expected, got });
    assert_eq!(Operands::new((1, 1, 128), &a, &sf, &a, &sf).err(), None);
    assert_eq!(Operands::new((1, 1, 100), &a[..100], &sf, &a[..100], &sf).err(), None);
    assert_eq!(Operands::new((1, 1, 100), &a[..100], &[], &a[..100], &sf).err(), length("sfa", 1, 0));
    assert_eq!(Operands::new((2, 1, 128), &a, &sf, &a, &sf).err(), length("a", 256, 128));
    assert_eq!(Operands::new((1, 1, 128), &a, &[], &a, &sf).err(), length("sfa", 1, 0));
    assert_eq!(Operands::new((1, 129, 128), &a, &sf, &a, &sf).err(), length("b", 129 * 128, 128));
    assert_eq!(Operands::new((1, 1, 128), &a, &sf, &a, &[1.0; 2]).err(), length("sfb", 1, 2));
    let x = [bf16::ONE; 300];
    let quantize = |m, k, pitch| quantize_1x128(&x, m, k, pitch, MODELS[0]).err();
    assert_eq!(quantize(2, 128, 172), None);
    assert_eq!(quantize(2, 128, 173), length("x", 301, 300));
    assert_eq!(quantize(2, 128, 127), Some(ShapeError::Pitch { k: 128, pitch: 127 }));
    assert_eq!(quantize(2, 64, 64), None);
}

// The bound

#[test]
fn the_bound_holds_for_the_bit_model() -> TestResult {
    let (m, n) = (17, 130);
    let mut checked = 0;
    let mut worst = 0f64;
    for class in GemmClass::ALL {
        let mut worst_of_class = 0f64;
        for k in [128, 512, 2048, 7168] {
            let inputs = class.generate((m, n, k), 100 + k as u64)?;
            let (operands, sample) = (inputs.operands()?, Sample::all(m, n));
            let initial =
                |row: usize, column: usize| bf16::from_f32((row as f32 - 12.3) * column as f32).to_f32();
            for output in [Output::F32, Output::Bf16] {
                for initial in [None, Some(&initial as &Elements)] {
                    let epilogue = Epilogue { output, initial };
                    let d = bit_model(&operands, &epilogue, &sample);
                    let got = |row: usize, column: usize| d[row * n + column];
                    let verdict = Oracle::Bound.check(&operands, &epilogue, &sample, &got)?;
                    assert!(verdict.accepted(), "{class}, k = {k}, {output:?}: {verdict}");
                    checked += verdict.checked;
                    if output == Output::F32 && initial.is_none() {
                        worst_of_class = worst_of_class.max(verdict.worst);
                    }
                }
            }
        }
        println!("{class}: worst error of an FP32 result {worst_of_class:.3} of the bound");
        worst = worst.max(worst_of_class);
    }
    println!("{checked} elements, worst {worst:.3}");
    assert!(checked >= 100_000);
    Ok(())
}

/// The textbook bound takes every operation for an FP32 one, which Hopper's FP8 sum is not.
#[test]
fn the_textbook_bound_rejects_the_bit_model() -> TestResult {
    let (m, n) = (16, 128);
    for k in [128, 512, 7168] {
        let inputs = GemmClass::Positive.generate((m, n, k), 6)?;
        let (operands, sample) = (inputs.operands()?, Sample::all(m, n));
        let expected = reference(&operands, &sample);
        let unit = k as f64 * 2f64.powi(-24);
        let gamma = unit / (1.0 - unit);
        let within = (bit_model(&operands, &F32, &sample).iter().zip(&expected))
            // All terms are positive, so sum |a b| is the result itself.
            .filter(|&(&d, &x)| (f64::from(d) - x).abs() <= gamma * x)
            .count();
        println!("k = {k}: {within} of {} elements are within the textbook bound", m * n);
        assert!(within * 100 < m * n, "k = {k}");
    }
    Ok(())
}

#[test]
fn the_bound_is_useful() -> TestResult {
    for (class, most) in [(GemmClass::Normal, 2e-3), (GemmClass::Positive, 2e-2)] {
        let inputs = class.generate((16, 128, 2048), 7)?;
        let (operands, sample) = (inputs.operands()?, Sample::all(16, 128));
        let magnitudes = {
            let mut inputs = inputs.clone();
            let positive = |x: &mut F8E4M3| *x = F8E4M3::from_bits(x.to_bits() & 0x7f);
            inputs.a.iter_mut().for_each(positive);
            inputs.b.iter_mut().for_each(positive);
            reference(&inputs.operands()?, &sample)
        };
        for (element, magnitude) in bound(&operands, &F32, &sample).iter().zip(&magnitudes) {
            assert!(element.bound <= most * magnitude, "{class}: {:e} of {magnitude:e}", element.bound);
        }
    }
    Ok(())
}

#[test]
fn a_verdict_names_the_first_bad_element() -> TestResult {
    let (m, n, k) = (4, 6, 128);
    let inputs = GemmClass::SignedIntegers.generate((m, n, k), 0)?;
    let (operands, sample) = (inputs.operands()?, Sample::all(m, n));
    let d = exact(&operands, &F32, &sample)?;
    let got = |row: usize, column: usize| {
        let wrong = [(1, 4), (2, 0)].contains(&(row, column));
        d[row * n + column] + if wrong { 1000.0 } else { 0.0 }
    };
    for oracle in GemmClass::SignedIntegers.oracles() {
        let verdict = oracle.check(&operands, &F32, &sample, &got)?;
        let Some(first) = verdict.first_bad else { panic!("{oracle:?} found nothing") };
        assert_eq!((verdict.checked, verdict.bad, first.row, first.column), (24, 2, 1, 4));
        assert_eq!((first.expected, first.got), (f64::from(d[10]), d[10] + 1000.0));
        assert_eq!(first.bound == 0.0, *oracle != Oracle::Bound);
        assert!(verdict.worst > 1.0 && !verdict.accepted());
        assert!(
            verdict.to_string().starts_with("2 of 24 elements are wrong, first d[1, 4]: expected "),
            "{verdict}"
        );
    }
    Ok(())
}

// Special values

#[test]
fn a_nan_code_stays_in_its_row_and_column() -> TestResult {
    let (m, n, k) = (12, 20, 256);
    let inputs = GemmClass::NanCodes.generate((m, n, k), 8)?;
    let has_nan = |codes: &[F8E4M3]| codes.iter().any(F8E4M3::is_nan);
    let d = bit_model(&inputs.operands()?, &BF16, &Sample::all(m, n));
    for (index, d) in d.iter().enumerate() {
        let touched = has_nan(&inputs.a[index / n * k..][..k]) || has_nan(&inputs.b[index % n * k..][..k]);
        assert_eq!(d.is_nan(), touched, "{index}");
    }
    assert!(d.iter().any(|d| d.is_nan()) && d.iter().any(|d| !d.is_nan()));

    let got = |row: usize, column: usize| if (row, column) == (2, 3) { 1.0 } else { d[row * n + column] };
    for oracle in GemmClass::NanCodes.oracles() {
        let verdict = oracle.check(&inputs.operands()?, &BF16, &Sample::all(m, n), &got)?;
        assert_eq!(verdict.bad, 1, "{oracle:?} must ask for a NaN where row 2 of A holds one: {verdict}");
    }
    Ok(())
}

#[test]
fn special_scales() -> TestResult {
    let one_element = |sfa: f32, sfb: f32, code: f32| -> Result<f32, Box<dyn Error>> {
        let inputs = GemmInputs {
            m: 1,
            n: 1,
            k: 128,
            parts: 1,
            a: vec![e4m3(code); 128],
            sfa: vec![sfa],
            b: vec![e4m3(1.0); 128],
            sfb: vec![sfb],
        };
        let (operands, sample) = (inputs.operands()?, Sample::all(1, 1));
        let d = bit_model(&operands, &F32, &sample)[0];
        let verdict = Oracle::Bound.check(&operands, &F32, &sample, &|_, _| d)?;
        assert!(verdict.accepted(), "{sfa:e} {sfb:e}: {verdict}");
        Ok(d)
    };
    assert_eq!(
        one_element(1e-23, 1e-23, 448.0)?.to_bits(),
        0,
        "the product of the scales underflows to zero"
    );
    assert_eq!(one_element(0.0, 5.0, 448.0)?.to_bits(), 0);
    assert_eq!(one_element(-0.0, 5.0, 448.0)?.to_bits(), 0);
    assert!(one_element(0.0, f32::INFINITY, 1.0)?.is_nan());
    assert!(one_element(f32::INFINITY, 1.0, 0.0)?.is_nan(), "Inf times an empty block");
    assert_eq!(one_element(f32::INFINITY, -1.0, 1.0)?, f32::NEG_INFINITY);
    assert!(one_element(f32::NAN, 1.0, 0.0)?.is_nan());
    assert_eq!(one_element(-1.5, 2.0, 1.0)?, -384.0);
    assert_eq!(one_element(2f32.powi(-149), 1.0, 1.0)?, 2f32.powi(-142), "subnormal scales are not flushed");
    assert_eq!(one_element(2f32.powi(127), 1.0, 1.0)?, f32::INFINITY, "overflow");
    Ok(())
}

// Defects that an oracle must see

/// Which oracles reject `got`, in the order bound, bit model, exact; the last is `None` where inputs are
/// not exact.
fn verdicts(
    inputs: &GemmInputs,
    epilogue: &Epilogue,
    got: &Elements,
) -> Result<[Option<Verdict>; 3], ShapeError> {
    let (operands, sample) = (inputs.operands()?, Sample::all(inputs.m, inputs.n));
    Ok([Oracle::Bound, Oracle::BitModel, Oracle::Exact]
        .map(|oracle| oracle.check(&operands, epilogue, &sample, got).ok()))
}

const DATA: [GemmClass; 4] =
    [GemmClass::Normal, GemmClass::Outliers, GemmClass::Positive, GemmClass::SignedIntegers];

/// Plants a defect in each of `DATA` and demands that each oracle in `seen` rejects the result.
/// `seen` has a line per class: bound, bit model, exact.
fn plant(
    defect: &str,
    epilogue: &Epilogue,
    seen: [[bool; 3]; 4],
    kernel: impl Fn(&GemmInputs) -> Result<Vec<f32>, ShapeError>,
) -> TestResult {
    for (class, seen) in DATA.into_iter().zip(seen) {
        let inputs = class.generate((64, 128, 2048), 9)?;
        let d = kernel(&inputs)?;
        let verdicts = verdicts(&inputs, epilogue, &|row, column| d[row * inputs.n + column])?;
        for ((oracle, verdict), seen) in ["bound", "bit model", "exact"].into_iter().zip(verdicts).zip(seen) {
            let Some(verdict) = verdict else { continue };
            println!("{defect}, {class}, {oracle}: {} of {} rejected", verdict.bad, verdict.checked);
            assert!(!verdict.accepted() || !seen, "{oracle} accepts {defect} on {class}");
        }
    }
    Ok(())
}

const ALWAYS: [[bool; 3]; 4] = [[true; 3]; 4];

fn compute(inputs: &GemmInputs, epilogue: &Epilogue) -> Result<Vec<f32>, ShapeError> {
    Ok(bit_model(&inputs.operands()?, epilogue, &Sample::all(inputs.m, inputs.n)))
}

/// The result with other inputs than the oracle is told of.
fn compute_changed(inputs: &GemmInputs, change: impl Fn(&mut GemmInputs)) -> Result<Vec<f32>, ShapeError> {
    let mut inputs = inputs.clone();
    change(&mut inputs);
    compute(&inputs, &BF16)
}

#[test]
fn no_defect_is_accepted() -> TestResult {
    for class in DATA {
        let inputs = class.generate((64, 128, 2048), 9)?;
        let d = compute(&inputs, &BF16)?;
        for verdict in
            verdicts(&inputs, &BF16, &|row, column| d[row * inputs.n + column])?.into_iter().flatten()
        {
            assert!(verdict.accepted(), "{class}: {verdict}");
        }
    }
    Ok(())
}

#[test]
fn a_dropped_k_step_is_seen() -> TestResult {
    plant("last k32 dropped", &BF16, ALWAYS, |inputs| {
        compute_changed(inputs, |inputs| {
            for row in inputs.a.chunks_mut(inputs.k) {
                row[inputs.k - 32..].fill(e4m3(0.0));
            }
        })
    })
}

#[test]
fn a_neighbours_scales_are_seen() -> TestResult {
    plant("one row uses its neighbour's scales", &BF16, ALWAYS, |inputs| {
        compute_changed(inputs, |inputs| {
            for scales in inputs.sfa.chunks_mut(inputs.m) {
                scales[20] = scales[21];
            }
        })
    })
}

#[test]
fn one_shifted_scale_is_seen() -> TestResult {
    // Where neighbouring scales are nearly equal the defect is small; exact inputs keep them a factor of 2
    // apart.
    let seen = [[true, true, true], [false, true, true], [false, false, true], [true, true, true]];
    plant("one scale taken from the next block of K", &BF16, seen, |inputs| {
        compute_changed(inputs, |inputs| inputs.sfa[5 * inputs.m + 20] = inputs.sfa[6 * inputs.m + 20])
    })
}

#[test]
fn one_wrong_byte_is_seen() -> TestResult {
    let seen = [[true, true, true], [false, true, true], [false, true, true], [false, true, true]];
    plant("one byte of A wrong", &BF16, seen, |inputs| {
        compute_changed(inputs, |inputs| {
            let byte = &mut inputs.a[20 * inputs.k + 777];
            *byte = F8E4M3::from_bits(byte.to_bits() ^ 0x88);
        })
    })
}

#[test]
fn a_neighbours_column_is_seen() -> TestResult {
    // A whole row, for on same-sign data two neighbours can be closer than the bound.
    plant("one row taken from the next columns", &BF16, ALWAYS, |inputs| {
        let mut d = compute(inputs, &BF16)?;
        d[20 * inputs.n..21 * inputs.n].rotate_left(1);
        Ok(d)
    })
}

#[test]
fn bf16_partial_sums_are_seen() -> TestResult {
    let seen = [[false, true, true], [false, true, true], [false, true, true], [false, true, true]];
    plant("two BF16 partial sums", &BF16, seen, |inputs| {
        let half = |from: usize| {
            let mut half = inputs.clone();
            let k_blocks = inputs.k / BLOCK;
            for (index, scale) in half.sfa.iter_mut().enumerate() {
                if index / inputs.m / (k_blocks / 2) != from {
                    *scale = 0.0;
                }
            }
            compute(&half, &BF16)
        };
        let sums = half(0)?.into_iter().zip(half(1)?).map(|(x, y)| decode_bf16(encode_bf16(x + y)));
        Ok(sums.collect())
    })
}

#[test]
fn a_missing_promotion_is_seen() -> TestResult {
    let unpromoted = |inputs: &GemmInputs| -> Vec<f32> {
        let chunk = |codes: &[F8E4M3], at: usize| -> [F8E4M3; 32] { std::array::from_fn(|i| codes[at + i]) };
        let element = |index: usize| {
            let (row, column) = (index / inputs.n * inputs.k, index % inputs.n * inputs.k);
            (0..inputs.k).step_by(32).fold(0.0, |c, k| {
                fused_dot_e4m3(&chunk(&inputs.a, row + k), &chunk(&inputs.b, column + k), c)
            })
        };
        (0..inputs.m * inputs.n).map(element).collect()
    };
    // bound, bit model, exact: the least share of elements that each must reject.
    let classes = [
        (GemmClass::Normal, [0.0, 0.1, 0.0]),
        (GemmClass::Positive, [1.0, 1.0, 0.0]),
        (GemmClass::Integers, [0.0, 1.0, 1.0]),
    ];
    for (class, share) in classes {
        let mut inputs = class.generate((64, 128, 2048), 9)?;
        // Without a promotion there is one scale for all of K.
        inputs.sfa.fill(1.0);
        inputs.sfb.fill(1.0);
        let d = unpromoted(&inputs);
        let verdicts = verdicts(&inputs, &F32, &|row, column| d[row * inputs.n + column])?;
        for ((oracle, verdict), share) in ["bound", "bit model", "exact"].into_iter().zip(verdicts).zip(share)
        {
            let Some(verdict) = verdict else { continue };
            println!("promotion removed, {class}, {oracle}: {} of {} rejected", verdict.bad, verdict.checked);
            let rejected = verdict.bad as f64 / verdict.checked as f64;
            assert!(rejected >= share, "{oracle} accepts a missing promotion on {class}: {verdict}");
        }
    }
    Ok(())
}

/// Zero-mean data hides a missing promotion; data in [0, 1) shows it growing with K.
#[test]
fn promotion_keeps_positive_data_accurate() -> TestResult {
    let (m, n, k) = (64, 64, 4096);
    let mut rng = rng(10);
    let mut uniform = |len: usize| -> Vec<F8E4M3> { (0..len).map(|_| e4m3(rng.random())).collect() };
    let (a, b) = (uniform(m * k), uniform(n * k));
    let inputs =
        GemmInputs { m, n, k, a, sfa: vec![1.0; m * k / BLOCK], b, sfb: vec![1.0; k / BLOCK], parts: 1 };
    let (operands, sample) = (inputs.operands()?, Sample::all(m, n));
    let expected = reference(&operands, &sample);
    let worst =
        |d: &[f32]| d.iter().zip(&expected).map(|(&d, x)| (f64::from(d) - x).abs() / x).fold(0.0, f64::max);

    let promoted = bit_model(&operands, &F32, &sample);
    let chunk = |codes: &[F8E4M3], at: usize| -> [F8E4M3; 32] { std::array::from_fn(|i| codes[at + i]) };
    let sum = |index: usize| {
        (0..k).step_by(32).fold(0.0, |c, at| {
            fused_dot_e4m3(&chunk(&inputs.a, index / n * k + at), &chunk(&inputs.b, index % n * k + at), c)
        })
    };
    let unpromoted: Vec<f32> = (0..m * n).map(sum).collect();
    let diff = |d: &[f32]| calc_diff(&expected, d);
    println!("promoted {:.2e}, calc_diff {:.2e}", worst(&promoted), diff(&promoted));
    println!("un-promoted {:.2e}, calc_diff {:.2e}", worst(&unpromoted), diff(&unpromoted));
    assert!(worst(&promoted) < 1e-3 && worst(&unpromoted) > 0.05);
    assert!(diff(&promoted) < 1e-6 && diff(&unpromoted) > 1e-3);
    Ok(())
}

// The quantisers

fn normal_rows(m: usize, k: usize, seed: u64) -> Vec<bf16> {
    let mut rng = rng(seed);
    (0..m * k).map(|_| bf16::from_f32(rng.sample(StandardNormal))).collect()
}

/// The rule a second time, block by block, with `log2` for the power of two and `float8` for the code.
fn plain_quantize(block: &[bf16], scale: QuantizeScale) -> (Vec<u8>, f32) {
    let finite = block.iter().map(|x| x.to_f32().abs()).filter(|x| x.is_finite());
    let amax = finite.fold(1e-4, f32::max);
    let (sf, multiplier) = match scale {
        QuantizeScale::Fp32 => (amax / 448.0, 448.0 / amax),
        QuantizeScale::PowerOfTwo => {
            let exponent = f64::from(amax / 448.0).log2().ceil() as i32;
            (2f32.powi(exponent), 2f32.powi(-exponent))
        }
    };
    let encode = |x: &bf16| match x.to_f32() * multiplier {
        x if x.is_nan() => 0x7f,
        x => F8E4M3::from_f32(x).to_bits(),
    };
    (block.iter().map(encode).collect(), sf)
}

const MODELS: [QuantizeModel; 2] = [
    QuantizeModel::tile_kernels(QuantizeScale::Fp32),
    QuantizeModel::tile_kernels(QuantizeScale::PowerOfTwo),
];

#[test]
fn quantize_1x128_follows_the_rule() -> TestResult {
    let (m, k) = (60, 512);
    for x in [quantizer_rows(m, k, 1), normal_rows(m, k, 2)] {
        for model in MODELS {
            let quantized = quantize_1x128(&x, m, k, k, model)?;
            assert_eq!(quantized.nonfinite, x.iter().any(|x| !x.is_finite()));
            for (row, g) in (0..m).flat_map(|row| (0..k / BLOCK).map(move |g| (row, g))) {
                let at = row * k + g * BLOCK;
                let (q, sf) = plain_quantize(&x[at..][..BLOCK], model.scale);
                let got: Vec<u8> = quantized.q[at..][..BLOCK].iter().map(|q| q.to_bits()).collect();
                assert_eq!((got, quantized.sf[g * m + row]), (q, sf), "{model:?}, row {row}, block {g}");
            }
        }
    }
    Ok(())
}

#[test]
fn quantize_128x128_follows_the_rule_and_pads_with_zeros() -> TestResult {
    let (n, k) = (150, 256);
    for x in [quantizer_rows(n, k, 3), normal_rows(n, k, 4)] {
        for model in MODELS {
            let quantized = quantize_128x128(&x, n, k, k, model)?;
            assert_eq!(quantized.sf.len(), 2 * k / BLOCK);
            for (row_block, g) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let rows = (row_block * BLOCK..n).take(BLOCK);
                let at = |row: usize| row * k + g * BLOCK;
                let block: Vec<bf16> = rows.clone().flat_map(|row| x[at(row)..][..BLOCK].to_vec()).collect();
                let (q, sf) = plain_quantize(&block, model.scale);
                let got: Vec<u8> =
                    rows.flat_map(|row| &quantized.q[at(row)..][..BLOCK]).map(|q| q.to_bits()).collect();
                assert_eq!(
                    (got, quantized.sf[row_block * (k / BLOCK) + g]),
                    (q, sf),
                    "{model:?} {row_block} {g}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn quantizers_do_not_read_between_rows() -> TestResult {
    let (m, k, pitch) = (5, 256, 300);
    let dense = normal_rows(m, k, 5);
    let mut pitched = vec![bf16::NAN; m * pitch];
    for (to, from) in pitched.chunks_mut(pitch).zip(dense.chunks(k)) {
        to[..k].copy_from_slice(from);
    }
    for quantize in [quantize_1x128, quantize_128x128] {
        let (dense, pitched) =
            (quantize(&dense, m, k, k, MODELS[0])?, quantize(&pitched, m, k, pitch, MODELS[0])?);
        assert_eq!((dense.q, dense.sf, dense.nonfinite), (pitched.q, pitched.sf, pitched.nonfinite));
    }
    Ok(())
}

#[test]
fn quantizers_handle_zero_inf_and_nan() -> TestResult {
    let mut x = [bf16::ZERO; 3 * 128];
    x[1] = bf16::NEG_ZERO;
    for (i, x) in x[128..256].iter_mut().enumerate() {
        *x = bf16::from_f32(i as f32 / 128.0);
    }
    let clean = quantize_1x128(&x, 3, 128, 128, MODELS[0])?;
    x[128 + 3] = bf16::INFINITY;
    x[128 + 4] = bf16::NEG_INFINITY;
    x[128 + 5] = bf16::NAN;
    let got = quantize_1x128(&x, 3, 128, 128, MODELS[0])?;

    assert!(got.nonfinite && !clean.nonfinite);
    assert_eq!(got.sf, clean.sf, "amax is that of the finite elements");
    assert_eq!(got.sf[0], 1e-4 / 448.0);
    for (index, (q, clean)) in got.q.iter().zip(&clean.q).enumerate() {
        let expected = match index {
            1 => 0x80,
            131 => 0x7e,
            132 => 0xfe,
            133 => 0x7f,
            _ => clean.to_bits(),
        };
        assert_eq!(q.to_bits(), expected, "{index}");
    }
    Ok(())
}

/// `x / s`, `x * (1 / s)` and `x * (448 / amax)` are three quantisers with FP32 scales and one with powers
/// of two.
#[test]
fn the_formula_of_the_code_matters_only_with_fp32_scales() -> TestResult {
    let (m, k) = (256, 4096);
    let x = normal_rows(m, k, 6);
    for model in MODELS {
        let quantized = quantize_1x128(&x, m, k, k, model)?;
        let differing = |formula: fn(f32, f32) -> f32| {
            let codes = x.iter().zip(&quantized.q).enumerate();
            let differs = |(index, (x, q)): (usize, (&bf16, &F8E4M3))| {
                let sf = quantized.sf[index % k / BLOCK * m + index / k];
                encode_e4m3(formula(x.to_f32(), sf)) != q.to_bits()
            };
            codes.map(differs).filter(|&differs| differs).count() as f64 / (m * k) as f64
        };
        let (divided, inverted) = (differing(|x, s| x / s), differing(|x, s| x * (1.0 / s)));
        println!("{model:?}: {divided:.2e} of the codes differ for x / s, {inverted:.2e} for x * (1 / s)");
        match model.scale {
            QuantizeScale::Fp32 => {
                assert!(divided.max(inverted) > 1e-5 && divided.max(inverted) < 2e-3)
            }
            QuantizeScale::PowerOfTwo => assert_eq!((divided, inverted), (0.0, 0.0)),
        }
    }
    Ok(())
}

/// Backward needs 128x1 of what forward quantised 1x128: lossless only with power-of-two scales.
#[test]
fn requantising_the_other_way_costs_nothing_with_power_of_two_scales() -> TestResult {
    let size = 2048;
    let x = normal_rows(size, size, 7);
    let truth: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
    let dequantised = |x: &[bf16], model| -> Result<Vec<f32>, ShapeError> {
        let quantized = quantize_1x128(x, size, size, size, model)?;
        let codes = quantized.q.iter().enumerate();
        let value = |(i, q): (usize, &F8E4M3)| q.to_f32() * quantized.sf[i % size / BLOCK * size + i / size];
        Ok(codes.map(value).collect())
    };
    let transposed =
        |x: &[f32]| -> Vec<f32> { (0..size * size).map(|i| x[i % size * size + i / size]).collect() };

    for model in MODELS {
        let once = dequantised(&x, model)?;
        let columns: Vec<bf16> = transposed(&once).into_iter().map(bf16::from_f32).collect();
        let twice = transposed(&dequantised(&columns, model)?);
        let changed = once.iter().zip(&twice).filter(|(x, y)| x != y).count() as f64 / once.len() as f64;
        let (before, after) = (calc_diff(&truth, &once), calc_diff(&truth, &twice));
        println!("{model:?}: {changed:.2e} of the elements change, calc_diff {before:.3e} -> {after:.3e}");
        match model.scale {
            QuantizeScale::Fp32 => assert!(changed > 0.9 && after > 1.8 * before),
            QuantizeScale::PowerOfTwo => assert!(changed < 1e-4 && after < 1.001 * before),
        }
    }
    Ok(())
}

// The inputs

fn bytes(inputs: &GemmInputs) -> (Vec<u8>, Vec<u32>) {
    let codes = inputs.a.iter().chain(&inputs.b).map(|q| q.to_bits());
    let scales = inputs.sfa.iter().chain(&inputs.sfb).map(|s| s.to_bits());
    (codes.collect(), scales.collect())
}

#[test]
fn inputs_are_what_they_say() -> TestResult {
    let (m, n, k) = (200, 300, 1024);
    for class in GemmClass::ALL {
        assert_eq!(class.to_string().parse(), Ok(class));
        let (inputs, again) = (class.generate((m, n, k), 3)?, class.generate((m, n, k), 3)?);
        assert!(bytes(&inputs) == bytes(&again), "{class}: the same seed gives the same bytes");
        let other = class.generate((m, n, k), 4)?;
        assert!(class == GemmClass::Ones || bytes(&inputs) != bytes(&other), "{class}: the seed is used");
        if matches!(class, GemmClass::SignedIntegers | GemmClass::Integers | GemmClass::OneHot) {
            for (scales, width) in [(&inputs.sfa, m), (&inputs.sfb, k / BLOCK)] {
                let beside =
                    scales.chunks(width).flat_map(|row| row.windows(2)).all(|pair| pair[0] != pair[1]);
                let below = scales.iter().zip(&scales[width..]).all(|(above, below)| above != below);
                assert!(beside && below && scales.iter().all(|s| [1.0, 2.0, 4.0].contains(s)), "{class}");
            }
        }
    }
    let codes = |class: GemmClass| -> Result<[Vec<bool>; 2], ShapeError> {
        let inputs = class.generate((m, n, k), 3)?;
        Ok([inputs.a, inputs.b].map(|matrix| {
            let mut seen = vec![false; 256];
            matrix.iter().for_each(|q| seen[usize::from(q.to_bits())] = true);
            seen
        }))
    };
    for seen in codes(GemmClass::NanCodes)? {
        assert!(seen.iter().all(|&seen| seen), "all 256 codes");
    }
    for seen in codes(GemmClass::Codes)? {
        assert!((0..256).all(|code| seen[code] != (code & 0x7f == 0x7f)), "all codes but NaN");
    }
    for (seen, code) in
        codes(GemmClass::SignedIntegers)?.iter().flat_map(|seen| (0..256).map(move |code| (seen, code)))
    {
        let value = decode_e4m3(code as u8);
        let integer = value.abs() <= 8.0 && value.fract() == 0.0 && code != 0x80;
        assert_eq!(seen[code], integer, "{value}");
    }
    assert!("Z9".parse::<GemmClass>().is_err());
    Ok(())
}
