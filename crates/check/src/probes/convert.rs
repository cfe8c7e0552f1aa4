//! Conversions and approximations over sweeps of bit patterns, against their definitions.

use super::{Difference, Effort, Findings};
use deepseek_kernels::Device;
use deepseek_kernels::Result;
use deepseek_kernels::probe::Probe;
use deepseek_kernels::probe::kernels::CONVERT;
use oracles::codec::{decode_e4m3, encode_bf16, encode_e4m3};

/// What the test kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// FP32 to E4M3, saturating.
    E4m3,
    /// FP32 to BF16.
    Bf16,
    /// Both halves of a pair of BF16 to FP32.
    Unpack,
    /// `fma(a, b, c)`, and `a * b + c` with two roundings.
    Fma,
    /// `ex2.approx` and `lg2.approx`.
    Approx,
    /// A pair of E4M3 to FP32.
    E4m3Decode,
}

/// The bit patterns `start + (i << shift)` for `i < count`.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The first pattern.
    pub start: u32,
    /// Binary logarithm of the step.
    pub shift: u32,
    /// A multiple of 8.
    pub count: u32,
}

/// Patterns of one launch, so that its results fit into memory beside everything else.
const CHUNK: u32 = 1 << 26;

impl Sweep {
    /// Pattern `i` as FP32.
    pub fn value(self, i: usize) -> f32 {
        f32::from_bits(self.start.wrapping_add((i as u32) << self.shift))
    }

    /// The results of every pattern.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn run(
        self,
        device: &Device,
        operation: Operation,
        input: &[u32],
        output_words: usize,
    ) -> Result<Vec<u32>> {
        let arguments = &[operation as u32, self.start, self.shift, self.count];
        // As many CTAs as find something to do, at most eight a multiprocessor.
        let grid = (self.count / 1024).clamp(1, 8 * device.multiprocessors().min(128));
        let probe = Probe { arguments, input, output_words, ..Probe::new(CONVERT, grid) };
        Ok(probe.run(device)?.output)
    }

    /// The same patterns, few enough for one launch each.
    fn chunks(self) -> impl Iterator<Item = Self> {
        (0..self.count.div_ceil(CHUNK)).map(move |chunk| Self {
            start: self.start.wrapping_add((chunk * CHUNK) << self.shift),
            count: CHUNK.min(self.count - chunk * CHUNK),
            ..self
        })
    }

    fn difference(self, i: usize, expected: impl ToString, got: impl ToString) -> Difference {
        let x = self.value(i);
        Difference {
            inputs: format!("{x:e} ({:#010x})", x.to_bits()),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

/// Every FP32; in a quick run every upper half with the lower halves next to a tie, which lies at 0 for E4M3 and at 0x8000
/// for BF16: the lower half matters only by being below, at or above it.
fn every_fp32(effort: Effort) -> Vec<Sweep> {
    match effort {
        Effort::Full => (0..64).map(|slice| Sweep { start: slice << 26, shift: 0, count: 1 << 26 }).collect(),
        Effort::Quick => [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff]
            .map(|start| Sweep { start, shift: 16, count: 1 << 16 })
            .to_vec(),
    }
}

/// Every FP32 of magnitude 0.5 to 4, where the integer and the fraction of an exponent both move and a logarithm changes
/// sign, and one of 64 of all others. All results of all patterns would be 32 GiB.
fn approximated(effort: Effort) -> Vec<Sweep> {
    match effort {
        Effort::Full => vec![
            Sweep { start: 0x3f00_0000, shift: 0, count: 3 << 23 },
            Sweep { start: 0xbf00_0000, shift: 0, count: 3 << 23 },
            Sweep { start: 21, shift: 6, count: 1 << 26 },
        ],
        Effort::Quick => every_fp32(effort),
    }
}

/// FP32 to E4M3 is the nearest code, saturating. Of a NaN only that it stays one.
///
/// # Errors
/// As [`Probe::run`].
pub fn e4m3(device: &Device, effort: Effort) -> Result<Findings> {
    Findings::all(every_fp32(effort).into_iter().map(|sweep| {
        let words = sweep.run(device, Operation::E4m3, &[], sweep.count as usize / 4)?;
        let code = |i: usize| words[i / 4].to_le_bytes()[i % 4];
        let same = |i| {
            let x = sweep.value(i);
            if x.is_nan() { code(i) & 0x7f == 0x7f } else { code(i) == encode_e4m3(x) }
        };
        let hex = |code: u8| format!("{code:#04x}");
        let describe = |i| sweep.difference(i, hex(encode_e4m3(sweep.value(i))), hex(code(i)));
        Ok(Findings::of(sweep.count as usize, same, describe))
    }))
}

/// FP32 to BF16 is the nearest value. Of a NaN only that it stays one.
///
/// # Errors
/// As [`Probe::run`].
pub fn bf16(device: &Device, effort: Effort) -> Result<Findings> {
    Findings::all(every_fp32(effort).into_iter().map(|sweep| {
        let words = sweep.run(device, Operation::Bf16, &[], sweep.count as usize / 2)?;
        let half = |i: usize| (words[i / 2] >> (16 * (i % 2))) as u16;
        let same = |i| {
            let x = sweep.value(i);
            if x.is_nan() { half(i) & 0x7fff > 0x7f80 } else { half(i) == encode_bf16(x) }
        };
        let hex = |half: u16| format!("{half:#06x}");
        let describe = |i| sweep.difference(i, hex(encode_bf16(sweep.value(i))), hex(half(i)));
        Ok(Findings::of(sweep.count as usize, same, describe))
    }))
}

/// NaNs become the codes 0x7f and 0x7fff, as the emulator has it; the PTX manual promises a NaN alone.
///
/// # Errors
/// As [`Probe::run`].
pub fn nan_codes(device: &Device) -> Result<Findings> {
    let signs = [0x7f80_0000, 0xff80_0000].map(|infinity: u32| Sweep {
        start: infinity + 1,
        shift: 13,
        count: 1 << 10,
    });
    Findings::all(signs.into_iter().flat_map(|sweep| {
        let count = sweep.count as usize;
        let of = |operation, per_word: usize, code: u32| {
            let words = sweep.run(device, operation, &[], count / per_word)?;
            let expected = vec![code; words.len()];
            let name = |word| format!("{operation:?} of {:#010x}", sweep.value(word * per_word).to_bits());
            Ok(Findings::of_words(&expected, &words, name))
        };
        [of(Operation::E4m3, 4, 0x7f7f_7f7f), of(Operation::Bf16, 2, 0x7fff_7fff)]
    }))
}

/// Every E4M3 code widens exactly.
///
/// # Errors
/// As [`Probe::run`].
pub fn e4m3_decode(device: &Device) -> Result<Findings> {
    let sweep = Sweep { start: 0, shift: 0, count: 1 << 16 };
    let got = sweep.run(device, Operation::E4m3Decode, &[], 2 << 16)?;
    let expected = |i: usize| decode_e4m3(((i / 2) >> (8 * (i % 2))) as u8);
    let same = |i: usize| same(f32::from_bits(got[i]), expected(i));
    Ok(Findings::of(got.len(), same, |i| Difference {
        inputs: format!("byte {} of {:#06x}", i % 2, i / 2),
        expected: format!("{:e}", expected(i)),
        got: format!("{:e} ({:#010x})", f32::from_bits(got[i]), got[i]),
    }))
}

/// Both halves of a BF16 pair widen exactly.
///
/// # Errors
/// As [`Probe::run`].
pub fn unpack(device: &Device) -> Result<Findings> {
    let sweeps = [
        Sweep { start: 0x1234, shift: 16, count: 1 << 16 },
        Sweep { start: 0xc567_0000, shift: 0, count: 1 << 16 },
    ];
    Findings::all(sweeps.into_iter().map(|sweep| {
        let got = sweep.run(device, Operation::Unpack, &[], 2 * sweep.count as usize)?;
        let halves = |i| {
            let pair = sweep.value(i).to_bits();
            [pair << 16, pair & 0xffff_0000]
        };
        let expected: Vec<u32> = (0..sweep.count as usize).flat_map(halves).collect();
        Ok(Findings::of_words(&expected, &got, |i| format!("half of pattern {}", i / 2)))
    }))
}

/// `fma(a, b, c)` rounds once, `a * b + c` twice.
///
/// # Errors
/// As [`Probe::run`].
pub fn fma(device: &Device, triples: &[[f32; 3]]) -> Result<Findings> {
    let input: Vec<u32> = triples.iter().flatten().map(|x| x.to_bits()).collect();
    let sweep = Sweep { start: 0, shift: 0, count: triples.len() as u32 };
    let got = sweep.run(device, Operation::Fma, &input, 2 * triples.len())?;
    let expected = |i: usize| {
        let [a, b, c] = triples[i / 2];
        if i.is_multiple_of(2) { a.mul_add(b, c) } else { a * b + c }
    };
    Ok(Findings::of(
        got.len(),
        |i| same(f32::from_bits(got[i]), expected(i)),
        |i| {
            let [a, b, c] = triples[i / 2];
            Difference {
                inputs: format!("{} of {a:e}, {b:e}, {c:e}", ["fma", "product and sum"][i % 2]),
                expected: format!("{:e}", expected(i)),
                got: format!("{:e}", f32::from_bits(got[i])),
            }
        },
    ))
}

/// What is to hold of `ex2.approx` and `lg2.approx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearness {
    /// Within 2^-22 of the value, which is what the kernels' error bounds assume; a logarithm below 1 within 2^-22.
    Bound,
    /// The exact value rounded to nearest, subnormals flushed: what the emulator computes.
    Rounded,
}

/// `2^x` and `log2 x`.
///
/// # Errors
/// As [`Probe::run`].
pub fn approximations(device: &Device, effort: Effort, nearness: Nearness) -> Result<Findings> {
    let chunks = approximated(effort).into_iter().flat_map(Sweep::chunks);
    Findings::all(chunks.map(|sweep| {
        let got = sweep.run(device, Operation::Approx, &[], 2 * sweep.count as usize)?;
        let exact = |i: usize| {
            let x = f64::from(flush(sweep.value(i / 2)));
            if i.is_multiple_of(2) { x.exp2() } else { x.log2() }
        };
        let holds = |i: usize| {
            let y = f32::from_bits(got[i]);
            match nearness {
                Nearness::Bound => close(y, exact(i), if i.is_multiple_of(2) { 0.0 } else { 1.0 }),
                Nearness::Rounded => same(y, flush(exact(i) as f32)),
            }
        };
        let describe = |i: usize| {
            let mut difference = sweep.difference(
                i / 2,
                format!("{:e}", exact(i)),
                format!("{:e} ({:#010x})", f32::from_bits(got[i]), got[i]),
            );
            difference.inputs.insert_str(0, ["ex2 ", "lg2 "][i % 2]);
            difference
        };
        Ok(Findings::of(got.len(), holds, describe))
    }))
}

/// The same bits, or NaN both: which NaN is not part of the contract.
pub fn same(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
}

/// Subnormal numbers are zeros under `.ftz`.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

/// Whether `y` is within 2^-22 of `exact`, or of `least` where that is less.
fn close(y: f32, exact: f64, least: f64) -> bool {
    let bound = 2.0_f64.powi(-22) * exact.abs().max(least);
    let nearest = flush(exact as f32);
    if exact.is_nan() {
        return y.is_nan();
    }
    if nearest.is_infinite() || nearest == 0.0 {
        // The result may be the last one before the edge.
        return (f64::from(y) - exact).abs() <= bound.max(2.0 * f64::from(f32::MIN_POSITIVE)) || y == nearest;
    }
    (f64::from(y) - exact).abs() <= bound
}
