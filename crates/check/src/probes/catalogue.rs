//! What the emulator believes of the hardware, as a list of questions to a device.

use std::array::from_fn;

use rand::{Rng, RngExt};

use super::convert::{self, Nearness};
use super::tma::{self, Model, NO_SUCH_PAGES};
use super::tma_copy::Copy;
use super::wgmma::{Case, Operands, ROW, WIDTHS};
use super::wgmma_inputs::{any_subnormal, integer_case, random_case, rng, uniform_case};
use super::{Difference, Effort, Findings};
use Operands::{Bf16, Bf16Mn, Bf16RsMn, E4m3};
use deepseek_kernels::Device;
use deepseek_kernels::Result;
use deepseek_kernels::probe::kernels::GRIDS;
use deepseek_kernels::probe::{Probe, UNWRITTEN};

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Short and unique.
    pub name: &'static str,
    /// What no difference means.
    pub belief: &'static str,
    /// Whether results or their error bounds rest on it. Otherwise the documents leave it open, and a difference is news and
    /// no fault.
    pub relied_on: bool,
    /// Asks a device. The error is that of a launch that failed.
    pub run: fn(&Device, Effort) -> Result<Findings>,
}

const fn relied(
    name: &'static str,
    belief: &'static str,
    run: fn(&Device, Effort) -> Result<Findings>,
) -> Entry {
    Entry { name, belief, relied_on: true, run }
}

const fn open(
    name: &'static str,
    belief: &'static str,
    run: fn(&Device, Effort) -> Result<Findings>,
) -> Entry {
    Entry { name, belief, relied_on: false, run }
}

/// Bytes of 64 rows of 64 columns of an N-major B.
const CHUNK: u32 = super::wgmma::DENSE;

/// In the order in which answers are worth having: what all kernels stand on first.
pub const ENTRIES: &[Entry] = &[
    relied("wgmma/integers", "every element of D is where the fragments say, in every width", integers),
    relied("wgmma/e4m3/c_zero", "32 products of E4M3 onto nothing are the model's sum", |device, _| {
        sums(device, E4m3, 1, false, 31)
    }),
    relied("wgmma/e4m3/c_any", "32 products of E4M3 onto any sum are the model's sum", |device, _| {
        sums(device, E4m3, 1, true, 21)
    }),
    relied("wgmma/e4m3/k128", "four steps of E4M3 are four of the model's sums", |device, _| {
        sums(device, E4m3, 4, true, 22)
    }),
    relied("wgmma/bf16/c_zero", "16 products of BF16 onto nothing are the model's sum", |device, _| {
        sums(device, Bf16, 1, false, 32)
    }),
    relied("wgmma/bf16/c_any", "16 products of BF16 onto any sum are the model's sum", |device, _| {
        sums(device, Bf16, 1, true, 23)
    }),
    relied("wgmma/bf16/k64", "four steps of BF16 are four of the model's sums", |device, _| {
        sums(device, Bf16, 4, true, 24)
    }),
    relied("wgmma/bf16/n_major", "an N-major B is multiplied as a K-major one", |device, _| {
        random_case(Bf16Mn(CHUNK), 1, 4, 29).check(device)
    }),
    relied("wgmma/bf16/a_in_registers", "A in registers is multiplied as A in shared memory", |device, _| {
        random_case(Bf16RsMn, 1, 4, 35).check(device)
    }),
    relied("wgmma/promotion", "13 fraction bits of an E4M3 sum are kept, and ones stall at 2^14", promotion),
    relied("wgmma/subnormals", "subnormal operands and sums are kept", subnormals),
    relied("wgmma/zeros", "a sum that is zero, or is cut to zero, has the sign that the model gives", zeros),
    relied("wgmma/overflow", "what is too large becomes Inf, as in the model", overflow),
    relied("wgmma/nan", "NaN and Inf stay in their rows and columns", |device, _| {
        Findings::all([E4m3, Bf16].map(|operands| not_finite(operands).check(device)))
    }),
    open("wgmma/nan_bits", "a NaN of the tensor core is 0x7fffffff", |device, _| {
        let same = |x: f32, y: f32| x.to_bits() == y.to_bits();
        Findings::all([E4m3, Bf16].map(|operands| not_finite(operands).check_with(device, same)))
    }),
    relied("convert/e4m3", "FP32 to E4M3 is the nearest code, saturating", convert::e4m3),
    relied("convert/bf16", "FP32 to BF16 is the nearest value", convert::bf16),
    open("convert/nan_codes", "a NaN becomes 0x7f or 0x7fff, without a sign", |device, _| {
        convert::nan_codes(device)
    }),
    relied("convert/e4m3_decode", "every E4M3 code widens exactly", |device, _| convert::e4m3_decode(device)),
    relied("convert/unpack", "both halves of a BF16 pair widen exactly", |device, _| convert::unpack(device)),
    relied("convert/fma", "an fma rounds once, a product and a sum round twice", |device, _| {
        convert::fma(device, &triples())
    }),
    relied(
        "approx/bound",
        "ex2.approx is within 2^-22 of its value, lg2.approx of its value or of 1",
        |device, effort| convert::approximations(device, effort, Nearness::Bound),
    ),
    open("approx/rounded", "ex2.approx and lg2.approx round the exact value to nearest", |device, effort| {
        convert::approximations(device, effort, Nearness::Rounded)
    }),
    relied("tma/load", "every byte of a box lands in its place, zeros outside the tensor", |device, _| {
        Findings::all(Model::all().iter().map(|model| model.check_loads(device, &model.coordinates())))
    }),
    relied(
        "tma/load_low",
        "the swizzle of a low box goes by its address, between rows of another",
        |device, _| {
            Findings::all(Model::low().flat_map(|model| {
                let rows = model.rows();
                (0..16)
                    .step_by(rows)
                    .map(move |behind| model.check_loads_behind(device, &model.coordinates(), behind))
                    .collect::<Vec<_>>()
            }))
        },
    ),
    relied("tma/store", "a store writes the units of 16 bytes that begin inside the tensor", |device, _| {
        let each = |model: &Model| {
            Findings::all(
                model.coordinates_of_stores().into_iter().map(|at| model.check_stores(device, &[at])),
            )
        };
        Findings::all(Model::all().iter().map(each))
    }),
    relied("tma/reuse", "a buffer may be overwritten once a store has read it", |device, _| {
        Findings::all(Model::all().iter().map(|model| model.check_stores(device, &model.neighbours())))
    }),
    relied("tma/multicast", "a multicast reaches the CTAs of its mask", |device, _| {
        tma::check_multicast(device)
    }),
    relied(
        "tma/copy_to_peer",
        "a bulk copy reaches the other CTA's shared memory, and its barrier",
        |device, _| {
            let copies = [4, 8, 36, 256, 400].into_iter().flat_map(|words| [0, 1].map(|peer| (words, peer)));
            Findings::all(copies.map(|(words, peer)| Copy { peer, ..Copy::new(words) }.check(device)))
        },
    ),
    relied(
        "sync/grids",
        "a launch that may begin early sees all that the launch before it wrote",
        |device, effort| {
            // On a GPU: more CTAs than fit at once, and time enough for the next launch to come too early.
            let (grid, idle) = if effort == Effort::Full { (8192, 1000) } else { (3, 2) };
            grids(device, grid, idle)
        },
    ),
    // What a wrong expert or page number does.
    relied("tma/no_such_page/load", "a page that does not exist reads as zeros", |device, _| {
        Model::paged().check_loads(device, &NO_SUCH_PAGES)
    }),
    relied("tma/no_such_page/store", "a page behind the last one is not written", |device, _| {
        let behind = NO_SUCH_PAGES.into_iter().filter(|at| at[2] >= 0);
        Findings::all(behind.map(|at| Model::paged().check_stores(device, &[at])))
    }),
];

/// Words handed on through launches in a row: each adds one, so that a late or a lost store shows.
pub fn grids(device: &Device, grid: u32, idle: u32) -> Result<Findings> {
    const LAUNCHES: u32 = 20;
    let half = grid as usize * 64;
    let probe =
        Probe { launches: LAUNCHES, arguments: &[idle], output_words: 2 * half, ..Probe::new(GRIDS, grid) };
    let output = probe.run(device)?.output;
    // What the last launch wrote, and the one before it.
    let launches = |i: usize| LAUNCHES - u32::from(i >= half);
    let expected = |i: usize| UNWRITTEN.wrapping_add(launches(i));
    let describe = |i: usize| Difference {
        inputs: format!("word {i} of {}, after {} launches", output.len(), launches(i)),
        expected: format!("{:#010x}", expected(i)),
        got: format!("{:#010x}", output[i]),
    };
    Ok(Findings::of(output.len(), |i| output[i] == expected(i), describe))
}

fn integers(device: &Device, _: Effort) -> Result<Findings> {
    let cases =
        [E4m3, Bf16, Bf16Mn(CHUNK), Bf16RsMn].into_iter().flat_map(|operands| WIDTHS.map(|n| (operands, n)));
    Findings::all(cases.map(|(operands, n)| {
        let case = integer_case(operands, n, 2, n as u64);
        let kept = case.check(device)?;
        // What is overwritten may hold anything.
        Ok(kept.and(Case { keep: false, d: vec![f32::NAN; case.d.len()], ..case }.check(device)?))
    }))
}

/// 7 x 64 x 256 = 114,688 sums.
fn sums(device: &Device, operands: Operands, steps: usize, keep: bool, seed: u64) -> Result<Findings> {
    Case { keep, ..random_case(operands, 7, steps, seed) }.check(device)
}

/// 2^-5 is the last place of 448 = 1.75 * 2^8 with 13 fraction bits, 2^-6 is lost beside it. The ones of BF16 do not stall.
fn promotion(device: &Device, _: Effort) -> Result<Findings> {
    const K: usize = 32_768;
    let beside_448 = |exponent: i32| uniform_case(E4m3, &[448.0, 2.0_f32.powi(exponent)], &[1.0, 1.0]);
    let ones = |operands: Operands| {
        let elements = operands.row_elements();
        let one_row = uniform_case(operands, &vec![1.0; elements], &vec![1.0; elements]);
        Case { steps: 4, repeats: K / elements, ..one_row }
    };
    let known = [
        (beside_448(-6), 448.0),
        (beside_448(-5), 448.0 + 2.0_f32.powi(-5)),
        (ones(E4m3), 16_384.0),
        (ones(Bf16), K as f32),
    ];
    Findings::all(known.map(|(case, expected)| {
        let got = case.run(device)?;
        Ok(Findings::of(
            got.len(),
            |i| got[i] == expected,
            |i| Difference {
                inputs: format!("{:?}, the same row everywhere, {} times", case.operands, case.repeats),
                expected: format!("{expected:e}"),
                got: format!("{:e}", got[i]),
            },
        ))
    }))
}

/// Products and sums below the normal numbers of their types, of FP32 too.
fn subnormals(device: &Device, _: Effort) -> Result<Findings> {
    Findings::all([E4m3, Bf16].map(|operands| {
        let rng = &mut rng(33);
        let mut case = integer_case(operands, 64, 1, 33);
        let elements = operands.row_elements();
        let mut rows =
            || operands.encode((0..64 * elements).map(|_| any_subnormal(operands, rng)).collect::<Vec<_>>());
        (case.a, case.b) = (rows(), rows());
        // BF16 reaches FP32's subnormal sums only with one normal factor.
        if operands == Bf16 {
            case.b = operands.encode((0..64 * elements).map(|i| 2.0_f32.powi(i as i32 % 8 - 4)));
        }
        case.d.iter_mut().for_each(|d| *d = f32::from_bits(rng.next_u32() & 0x807f_ffff));
        case.check(device)
    }))
}

/// Zeros of both signs in A, B and D.
/// Zeros of either sign, and sums too small for FP32.
fn zeros(device: &Device, _: Effort) -> Result<Findings> {
    let small = 2.0_f32.powi(-100);
    let lost = [-small, small].map(|a| uniform_case(Bf16, &[a], &[small]).check(device));
    let of_zeros = [E4m3, Bf16].map(|operands| {
        let rng = &mut rng(34);
        let mut case = integer_case(operands, 64, 1, 34);
        let elements = operands.row_elements();
        let mut signed = |magnitude: f32| if rng.random() { magnitude } else { -magnitude };
        // Whole rows of one sign, so that some sums are of negative zeros alone.
        case.a = (0..64).flat_map(|_| operands.encode(vec![signed(0.0); elements])).collect();
        case.b = (0..64).flat_map(|_| operands.encode(vec![signed(1.0); elements])).collect();
        case.d.iter_mut().for_each(|d| *d = signed(0.0));
        case.check(device)
    });
    Findings::all(of_zeros.into_iter().chain(lost))
}

/// Sums beyond the largest FP32, from D and a product and from products alone; the largest that is none.
fn overflow(device: &Device, _: Effort) -> Result<Findings> {
    let mut cases = Vec::new();
    for (a, d) in
        [(1.0, f32::MAX), (448.0, f32::MAX), (-448.0, -f32::MAX), (-1.0, f32::MAX), (1.0, f32::INFINITY)]
    {
        let case = uniform_case(E4m3, &[a], &[448.0]);
        cases.push(Case { keep: true, d: vec![d; case.d.len()], ..case });
    }
    let large = 2.0_f32.powi(127);
    for (a, b) in
        [([large, large], 1.0), ([large, -large], 1.0), ([large, 1.0], 2.0), ([-large, -large], 1.0)]
    {
        cases.push(uniform_case(Bf16, &a, &[b, b]));
    }
    for d in [f32::MAX, -f32::MAX] {
        let case = uniform_case(Bf16, &[d.signum() * 2.0_f32.powi(110)], &[1.0]);
        cases.push(Case { keep: true, d: vec![d; case.d.len()], ..case });
    }
    Findings::all(cases.iter().map(|case| case.check(device)))
}

/// One NaN in A, one in B, and in D what is not finite.
pub fn not_finite(operands: Operands) -> Case {
    let mut case = integer_case(operands, 64, 1, 27);
    let nan = operands.encode([f32::NAN]);
    case.a[5 * ROW + 40..][..nan.len()].copy_from_slice(&nan);
    case.b[9 * ROW + 100..][..nan.len()].copy_from_slice(&nan);
    case.d[17 * 64 + 3] = f32::NAN;
    case.d[18 * 64 + 3] = f32::INFINITY;
    case.d[19 * 64 + 3] = f32::NEG_INFINITY;
    case
}

/// Operands for a * b + c: any bits, products that nearly cancel c, subnormal results, and numbers of everyday.
pub fn triples() -> Vec<[f32; 3]> {
    let rng = &mut rng(7);
    let mut triple = |index: usize| match index % 4 {
        0 => from_fn(|_| f32::from_bits(rng.next_u32())),
        1 => {
            let [a, b]: [f32; 2] = from_fn(|_| f32::from_bits(rng.next_u32()));
            [a, b, -(a * b)]
        }
        2 => {
            let scales = [2.0_f32.powi(-70), 2.0_f32.powi(-70), f32::MIN_POSITIVE / 8.0];
            scales.map(|scale| (1.0 + rng.random::<f32>()) * scale)
        }
        _ => from_fn(|_| rng.random_range(-4.0..4.0)),
    };
    (0..1 << 16).map(&mut triple).collect()
}
