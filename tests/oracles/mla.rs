//! The reference of MLA decode judged itself: its bound holds for the pinned order computed step by step with Hopper's
//! tensor core, and not for the mistakes that it is there to find.
use half::bf16;
use oracles::ShapeError;
use oracles::mla::{
    Approximations, ExpandedKv, FlashMlaBar, MlaSequence, MlaStep, dequantize_kv_fp8, gather_pages,
    mla_decode, mla_decode_bits,
};
use oracles::mla::{AttentionClass, AttentionInputs};
use oracles::tensor_core::fused_dot_bf16;
use rayon::prelude::*;

const LATENT: usize = 512;
const WIDTH: usize = 576;
const SCALE: f32 = 0.135_233_78;

/// What an emulated kernel does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Sees one key too many.
    Mask,
    /// Adds up the splits as if they had the same maximum.
    Merge,
    /// Keeps its accumulator when the maximum grows.
    Rescale,
    /// Takes every value from the next key of its block.
    Values,
    /// Returns the logarithm to base 2.
    Log2,
}

/// 2^x, up to 2 units of the last place away as `ex2.approx` may be; exact at 0.
fn ex2(x: f32) -> f32 {
    let exact = x.exp2();
    if x == 0.0 || exact < f32::MIN_POSITIVE {
        return if x == 0.0 { 1.0 } else { 0.0 };
    }
    f32::from_bits(exact.to_bits() + x.to_bits().wrapping_mul(2_654_435_761) % 5 - 2)
}

/// A split's partial result.
struct Partial {
    /// Not normalised.
    o: Vec<f32>,
    /// To base 2.
    max: f32,
    sum: f32,
}

fn steps<'a>(a: &'a [bf16], b: &'a [bf16]) -> impl Iterator<Item = (&'a [bf16; 16], &'a [bf16; 16])> {
    a.as_chunks().0.iter().zip(b.as_chunks().0)
}

/// A split in the pinned order.
fn split(q: &[bf16], keys: &[bf16], scale: f32, fault: Fault) -> Partial {
    let mut partial = Partial { o: vec![0.0; LATENT], max: f32::NEG_INFINITY, sum: 0.0 };
    // One for each of the threads that share a row.
    let mut sums = [0.0_f32; 4];
    for block in keys.chunks(64 * WIDTH) {
        let logits: Vec<f32> = block
            .chunks(WIDTH)
            .map(|key| {
                let rope = steps(&q[LATENT..], &key[LATENT..]);
                rope.chain(steps(&q[..LATENT], &key[..LATENT])).fold(0.0, |c, (a, b)| fused_dot_bf16(a, b, c))
                    * (scale * std::f32::consts::LOG2_E)
            })
            .collect();
        let max = logits.iter().copied().fold(partial.max, f32::max);
        let factor = if partial.max == f32::NEG_INFINITY { 1.0 } else { ex2(partial.max - max) };
        partial.max = max;
        sums = sums.map(|sum| sum * factor);
        let mut p = [bf16::ZERO; 64];
        for (j, logit) in logits.iter().enumerate() {
            let exponential = ex2(logit - max);
            sums[j / 2 % 4] += exponential;
            p[j] = bf16::from_f32(exponential);
        }
        let shift = usize::from(fault == Fault::Values);
        for (column, o) in partial.o.iter_mut().enumerate() {
            let v: [bf16; 64] =
                std::array::from_fn(|j| block.get((j + shift) * WIDTH + column).copied().unwrap_or_default());
            let start = if fault == Fault::Rescale { *o } else { *o * factor };
            *o = steps(&p, &v).fold(start, |c, (a, b)| fused_dot_bf16(a, b, c));
        }
    }
    partial.sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    partial
}

fn attend(q: &[bf16], keys: &[bf16], sequence: &MlaSequence, fault: Fault) -> (Vec<bf16>, f32) {
    let split_keys = if sequence.split_keys == 0 { keys.len() } else { sequence.split_keys * WIDTH };
    if keys.is_empty() {
        return (vec![bf16::ZERO; LATENT], f32::NEG_INFINITY);
    }
    let partials: Vec<Partial> =
        keys.chunks(split_keys).map(|keys| split(q, keys, sequence.scale, fault)).collect();
    let max = partials.iter().map(|partial| partial.max).fold(f32::NEG_INFINITY, f32::max);
    let (mut o, mut sum) = (vec![0.0; LATENT], 0.0);
    for partial in &partials {
        let factor = if fault == Fault::Merge { 1.0 } else { ex2(partial.max - max) };
        sum += factor * partial.sum;
        o.iter_mut().zip(&partial.o).for_each(|(o, partial)| *o += factor * partial);
    }
    let base = if fault == Fault::Log2 { 1.0 } else { std::f32::consts::LN_2 };
    (o.iter().map(|o| bf16::from_f32(o / sum)).collect(), (max + sum.log2()) * base)
}

/// The bit model itself, on a machine whose `ex2` is as wrong as it may be; or what a kernel with a mistake gives.
fn emulate(sequence: &MlaSequence, fault: Fault) -> Result<(Vec<bf16>, Vec<f32>), ShapeError> {
    if fault == Fault::None {
        let rows: Vec<usize> = (0..sequence.q_tokens * sequence.heads).collect();
        let bits = mla_decode_bits(sequence, &rows, Approximations { ex2, lg2: f32::log2 })?;
        return Ok((bits.out, bits.lse));
    }
    let MlaSequence { q, keys, q_tokens, heads, causal, .. } = *sequence;
    let n = keys.len() / WIDTH;
    let row = |(index, q): (usize, &[bf16])| {
        let seen = if causal { (n + index / heads + 1).saturating_sub(q_tokens) } else { n };
        let seen = if fault == Fault::Mask { (seen + 1).min(n) } else { seen };
        attend(q, &keys[..seen * WIDTH], sequence, fault)
    };
    let rows: Vec<_> = q.par_chunks(WIDTH).enumerate().map(row).collect();
    let (out, lse): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    Ok((out.concat(), lse))
}

struct Problem {
    class: AttentionClass,
    q_tokens: usize,
    heads: usize,
    keys: usize,
    causal: bool,
    split_keys: usize,
}

impl Problem {
    fn inputs(&self) -> AttentionInputs {
        let seen = (self.keys + 1).saturating_sub(self.q_tokens);
        self.class.generate(self.q_tokens * self.heads, self.keys, seen, 3)
    }

    fn sequence<'a>(&self, inputs: &'a AttentionInputs) -> MlaSequence<'a> {
        let Self { q_tokens, heads, causal, split_keys, .. } = *self;
        MlaSequence {
            q: &inputs.q,
            keys: &inputs.keys,
            rope: WIDTH - LATENT,
            q_tokens,
            heads,
            scale: SCALE,
            causal,
            split_keys,
        }
    }

    /// The worst error of outputs and of logarithms, of their bounds.
    fn worst(&self, fault: Fault) -> Result<(f64, f64), ShapeError> {
        let inputs = self.inputs();
        let sequence = self.sequence(&inputs);
        let (out, lse) = emulate(&sequence, fault)?;
        let bounded = mla_decode(&sequence)?;
        Ok((bounded.check_out(&out)?.worst, bounded.check_lse(&lse)?.worst))
    }
}

fn problems() -> Vec<Problem> {
    let mut problems = vec![];
    for class in AttentionClass::ALL {
        for (q_tokens, heads, keys, causal, split_keys) in [
            (1, 4, 1, false, 0),
            (1, 5, 64, false, 0),
            (2, 3, 65, true, 64),
            (1, 16, 512, false, 128),
            (4, 4, 700, true, 256),
            (2, 4, 1024, true, 0),
            (1, 2, 4101, true, 2048),
        ] {
            problems.push(Problem { class, q_tokens, heads, keys, causal, split_keys });
        }
    }
    problems
}

#[test]
fn the_pinned_order_is_within_the_bound() -> Result<(), ShapeError> {
    for class in AttentionClass::ALL {
        let mut worst = (0.0_f64, 0.0_f64);
        for problem in problems().iter().filter(|problem| problem.class == class) {
            let (out, lse) = problem.worst(Fault::None)?;
            worst = (worst.0.max(out), worst.1.max(lse));
        }
        println!("{class}: outputs {:.4} of the bound, logarithms {:.4}", worst.0, worst.1);
        for worst in [worst.0, worst.1] {
            assert!(worst < 1.0, "{class}: {worst} of the bound");
            // OneKey comes out without any error.
            let wide = worst < 1e-3 && class != AttentionClass::OneKey;
            assert!(!wide, "{class}: the bound is far too wide, the worst error is {worst} of it");
        }
    }
    Ok(())
}

#[test]
fn mistakes_are_outside_the_bound() -> Result<(), ShapeError> {
    use AttentionClass::{Normal, Peaked, Positive, VeryNegative};
    for (fault, classes, keys) in [
        // Of many keys of Peaked, one more hardly ever counts.
        (Fault::Mask, &[Normal, Positive][..], 700),
        (Fault::Mask, &[Peaked], 5),
        // All logits of Normal and Positive are nearly the same, and so are their maxima.
        (Fault::Merge, &[Peaked], 700),
        (Fault::Rescale, &[Peaked], 700),
        (Fault::Values, &[Normal, Positive, Peaked], 700),
        (Fault::Log2, &[Normal, Positive, Peaked, VeryNegative], 700),
    ] {
        for &class in classes {
            let problem = Problem { class, q_tokens: 2, heads: 16, keys, causal: true, split_keys: 256 };
            let (out, lse) = problem.worst(fault)?;
            println!("{fault:?} {class}: outputs {out:.2e} of the bound, logarithms {lse:.2e}");
            assert!(out > 1.0 || lse > 1.0, "{fault:?} {class}: {out} and {lse} of the bound");
        }
    }

    // A stand-in for -inf that is above all logits leaves no p at all.
    let problem =
        Problem { class: VeryNegative, q_tokens: 1, heads: 2, keys: 100, causal: false, split_keys: 0 };
    let inputs = problem.inputs();
    let zeros = vec![bf16::ZERO; 2 * LATENT];
    assert!(!mla_decode(&problem.sequence(&inputs))?.check_out(&zeros)?.accepted());
    Ok(())
}

#[test]
fn exact_classes_are_exact() -> Result<(), ShapeError> {
    for problem in problems() {
        let inputs = problem.inputs();
        let sequence = problem.sequence(&inputs);
        let (out, _) = emulate(&sequence, Fault::None)?;
        let expected = mla_decode(&sequence)?.out;
        for (row, (out, expected)) in out.chunks(LATENT).zip(expected.chunks(LATENT)).enumerate() {
            let hidden = if problem.causal { problem.q_tokens - 1 - row / problem.heads } else { 0 };
            if problem.class.is_exact(problem.keys - hidden) {
                let nearest: Vec<bf16> = expected.iter().map(|x| bf16::from_f64(*x)).collect();
                assert!(out == nearest, "{} of {} keys, row {row}", problem.class, problem.keys);
            }
        }
    }
    Ok(())
}

/// The values again, from the definitions.
#[test]
fn values() -> Result<(), ShapeError> {
    let problem = Problem {
        class: AttentionClass::Normal,
        q_tokens: 3,
        heads: 2,
        keys: 40,
        causal: true,
        split_keys: 0,
    };
    let inputs = problem.inputs();
    let got = mla_decode(&problem.sequence(&inputs))?;
    let element = |data: &[bf16], row: usize, column: usize| data[row * WIDTH + column].to_f64();
    for row in 0..6 {
        let keys = 38 + row / 2;
        let exponential = |j: usize| {
            let dot: f64 = (0..WIDTH).map(|i| element(&inputs.q, row, i) * element(&inputs.keys, j, i)).sum();
            (f64::from(SCALE) * dot).exp()
        };
        let sum: f64 = (0..keys).map(exponential).sum();
        assert!((got.lse[row] - sum.ln()).abs() < 1e-13);
        for column in [0, 1, 255, 511] {
            let out: f64 = (0..keys).map(|j| exponential(j) * element(&inputs.keys, j, column)).sum();
            assert!((got.out[row * LATENT + column] - out / sum).abs() < 1e-14);
        }
    }
    Ok(())
}

#[test]
fn each_query_of_x4_has_its_own_key() -> Result<(), ShapeError> {
    let inputs = AttentionClass::OneKey.generate(50, 50, 50, 9);
    let whole = MlaSequence {
        q: &inputs.q,
        keys: &inputs.keys,
        rope: WIDTH - LATENT,
        q_tokens: 1,
        heads: 50,
        scale: SCALE,
        causal: false,
        split_keys: 0,
    };
    let out = mla_decode(&whole)?.out;
    let same = |row: &[f64], key: &[bf16]| row.iter().zip(key).all(|(out, v)| *out == v.to_f64());
    for (j, key) in inputs.keys.chunks(WIDTH).enumerate() {
        assert_eq!(out.chunks(LATENT).filter(|row| same(row, key)).count(), 1, "key {j}");
    }
    Ok(())
}

#[test]
fn queries_without_keys() -> Result<(), ShapeError> {
    let inputs = AttentionClass::Normal.generate(6, 1, 1, 0);
    let sequence = MlaSequence {
        q: &inputs.q,
        keys: &inputs.keys,
        rope: WIDTH - LATENT,
        q_tokens: 3,
        heads: 2,
        scale: SCALE,
        causal: true,
        split_keys: 64,
    };
    for (keys, empty_rows) in [(&inputs.keys[..], 4), (&[][..], 6)] {
        let got = mla_decode(&MlaSequence { keys, ..sequence })?;
        assert!(got.lse[..empty_rows].iter().all(|lse| *lse == f64::NEG_INFINITY));
        assert!(got.lse[empty_rows..].iter().all(|lse| lse.is_finite()));
        let empty = empty_rows * LATENT;
        assert!(got.out[..empty].iter().chain(&got.out_bound[..empty]).all(|x| x.to_bits() == 0));

        let mut lse: Vec<f32> = got.lse.iter().map(|x| *x as f32).collect();
        let mut out: Vec<bf16> = got.out.iter().map(|x| bf16::from_f64(*x)).collect();
        assert!(got.check_out(&out)?.accepted() && got.check_lse(&lse)?.accepted());
        // Only +0 and -inf.
        out[0] = bf16::NEG_ZERO;
        lse[0] = f32::MIN;
        assert_eq!((got.check_out(&out)?.bad, got.check_lse(&lse)?.bad), (1, 1));
    }
    Ok(())
}

#[test]
fn pages_are_brought_into_order() {
    let rows: Vec<u8> = (0..24).collect();
    // Three pages of four keys of two elements.
    let gather = |table: &[i32], len| gather_pages(&rows, 2, 4, table, len);
    assert_eq!(gather(&[2, 0], 5), [16, 17, 18, 19, 20, 21, 22, 23, 0, 1]);
    assert_eq!(gather(&[1], i32::MAX), [8, 9, 10, 11, 12, 13, 14, 15], "no more than the table holds");
    assert_eq!(gather(&[1], -1), [0_u8; 0]);
    assert_eq!(gather(&[], 3), [0_u8; 0]);
    assert_eq!(gather(&[-1, 3, i32::MAX, 1], 13), [vec![0; 24], vec![8, 9]].concat());
}

#[test]
fn fp8_keys() -> Result<(), ShapeError> {
    let mut row = vec![0x38; 512];
    row[0] = 0xb9;
    row[511] = 0x01;
    for scale in [1.0_f32, 2.0, 1.0 + 2_f32.powi(-8) + 2_f32.powi(-20), 0.5] {
        row.extend(scale.to_le_bytes());
    }
    row.extend((0..64_u16).flat_map(|i| (0x3f80 + i).to_le_bytes()));
    let key = dequantize_kv_fp8(&row, WIDTH - LATENT)?;
    assert_eq!(key.len(), WIDTH);
    assert_eq!(
        [0, 1, 128, 256, 384, 511].map(|i| key[i].to_f32()),
        [-1.125, 1.0, 2.0, 1.0078125, 0.5, 2_f32.powi(-10)]
    );
    assert!((0..64).all(|i| key[512 + i].to_bits() == 0x3f80 + i as u16));
    let expected = ShapeError::Length { operand: "rows", expected: 0, got: 655 };
    assert_eq!(dequantize_kv_fp8(&row[1..], WIDTH - LATENT), Err(expected));
    Ok(())
}

#[test]
fn flash_mla_bars() -> Result<(), ShapeError> {
    let bar = FlashMlaBar { absolute: 1e-3, relative: 1e-2, cosine: 1e-3 };
    let expected = [0.0, 1.0, -2.0, f64::NEG_INFINITY, f64::NAN];
    let verdict = bar.check(&expected, &[0.0009, 1.009, -2.0, f32::NEG_INFINITY, f32::NAN])?;
    assert!(verdict.accepted(), "{verdict}");
    let (index, ..) = verdict.worst.expect("a worst element");
    assert!(index < 2 && (0.89..0.91).contains(&verdict.worst_ratio), "{verdict}");
    for wrong in [
        [0.0011, 1.0, -2.0, f32::NEG_INFINITY, f32::NAN],
        [0.0, 1.011, -2.0, f32::NEG_INFINITY, f32::NAN],
        [0.0, 1.0, -2.0, f32::INFINITY, f32::NAN],
        [0.0, 1.0, -2.0, f32::MIN, f32::NAN],
        [0.0, 1.0, -2.0, f32::NEG_INFINITY, 0.0],
        [0.0, f32::NAN, -2.0, f32::NEG_INFINITY, f32::NAN],
    ] {
        assert_eq!(bar.check(&expected, &wrong)?.bad, 1, "{wrong:?}");
    }
    // Each element is near, the whole is not.
    let verdict = bar.check(&[1e-4; 8], &[9e-4; 8])?;
    assert!(verdict.bad == 0 && verdict.cosine_ratio > 1.0 && !verdict.accepted(), "{verdict}");

    // What a correct kernel scores.
    let problem = Problem {
        class: AttentionClass::Normal,
        q_tokens: 1,
        heads: 4,
        keys: 512,
        causal: false,
        split_keys: 256,
    };
    let inputs = problem.inputs();
    let sequence = problem.sequence(&inputs);
    let (out, lse) = emulate(&sequence, Fault::None)?;
    let expected = mla_decode(&sequence)?;
    let out: Vec<f32> = out.iter().map(|x| x.to_f32()).collect();
    let (out, lse) =
        (FlashMlaBar::OUT.check(&expected.out, &out)?, FlashMlaBar::LSE.check(&expected.lse, &lse)?);
    println!("out: {out}; lse: {lse}");
    assert!(out.accepted() && lse.accepted(), "out: {out}; lse: {lse}");
    Ok(())
}

// A whole step

use check::mla::golden::{Golden, HEADS};

/// How far the library may be from f64 for each head, by what it computes in FP32.
///
/// A cosine or sine is within two units of 2^-24, so a turned pair is within 2 sqrt(2) units of its length, and a logit
/// within twice that of its size. The softmax rounds the logit and its distance from the largest one, at most three times
/// the size together; its exponential adds two units, the sum of n one each, and the quotient one. A relative error of
/// all p that is at most e moves their mean of the values by at most 2 e times the largest value.
fn tolerances(step: &MlaStep) -> Result<Vec<f64>, ShapeError> {
    const UNIT: f64 = 1.0 / 16_777_216.0;
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let tolerance = |head| -> Result<f64, ShapeError> {
        let ExpandedKv { keys, values } = step.expand(head)?;
        let key = keys.chunks(192).map(length).fold(0.0, f64::max);
        let queries = step.q.chunks(192).skip(head).step_by(HEADS);
        let query = queries.map(|q| length(&q.iter().map(|x| x.to_f64()).collect::<Vec<_>>()));
        // No logit, and no sum of its products' absolute values, is larger.
        let size = step.scale * query.fold(0.0, f64::max) * key;
        let units = size * (4.0 * std::f64::consts::SQRT_2 + 3.0) + step.positions.len() as f64 + 3.0;
        Ok(2.0 * units * UNIT * values.iter().fold(0.0, |most: f64, v| most.max(v.abs())))
    };
    (0..HEADS).map(tolerance).collect()
}

#[test]
fn hugging_face_computes_the_same_step() -> Result<(), ShapeError> {
    for sequence in 0..2 {
        let golden = Golden::read(sequence);
        for (tokens, end) in [(1, golden.first + 1), (2, golden.first + 3)] {
            let step = golden.step(end, tokens);
            let expected = &golden.out[end - tokens - golden.first..][..tokens];
            let tolerances = tolerances(&step)?;
            let mut worst = 0.0_f64;
            for out in [step.naive()?, step.absorbed()?] {
                for (index, (out, expected)) in out.iter().zip(expected.concat()).enumerate() {
                    let tolerance = tolerances[index / 128 % HEADS];
                    let error = (out - expected).abs();
                    worst = worst.max(error / tolerance);
                    assert!(error <= tolerance, "{sequence}, {index}: {out}, expected {expected}");
                }
            }
            println!("sequence {sequence}, {tokens} tokens: {worst:.4} of {tolerances:?}");
            // A tolerance as wide as this would let mistakes pass.
            assert!(worst > 1e-4 && tolerances.iter().all(|tolerance| *tolerance < 1e-3));
        }
    }
    Ok(())
}

#[test]
fn both_forms_of_a_step_are_the_same() -> Result<(), ShapeError> {
    let golden = Golden::read(1);
    // A whole prompt too.
    for (tokens, end) in [(2, golden.first + 3), (40, 40)] {
        let step = golden.step(end, tokens);
        let (naive, absorbed) = (step.naive()?, step.absorbed()?);
        assert_eq!(naive.len(), tokens * HEADS * 128);
        let largest = naive.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        for (index, (naive, absorbed)) in naive.iter().zip(&absorbed).enumerate() {
            assert!((naive - absorbed).abs() <= 1e-12 * largest, "{index}: {naive}, {absorbed}");
        }
    }
    Ok(())
}
