//! The FP8 GEMM on every device, judged element by element: exact integers, the tensor core's bit model, and the
//! a-priori bound.

use check::case::{attempt, memory_of, pass, pass_in};
use check::devices::{devices, emulated, emulators, machines, schedules, seeded};
use check::gemm::fp8_gemm::{Fp8GemmCase, Fp8GemmProblem};
use check::memory::{Memory, Output};
use deepseek_kernels::table::gemm::{GEMM_INSTANCES, GemmInstance, OutputType};
use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales128x128};
use deepseek_kernels::{Device, EmulatorOptions, F8E4M3, Matrix, MatrixMut, bf16};
use oracles::gemm::GemmClass;
use proptest::prelude::*;
use std::sync::Arc;

fn f32(shape: (usize, usize, usize)) -> Fp8GemmCase {
    Fp8GemmCase { output: OutputType::F32, ..Fp8GemmCase::new(shape) }
}

fn instances(output: OutputType) -> impl Iterator<Item = GemmInstance> {
    GEMM_INSTANCES.iter().copied().filter(move |i| i.output == output)
}

#[test]
fn every_class_of_inputs() {
    for device in machines() {
        for class in GemmClass::ALL {
            pass(&Fp8GemmCase { class, ..Fp8GemmCase::new((130, 136, 384)) }, &device);
            pass(&Fp8GemmCase { class, ..f32((66, 24, 256)) }, &device);
        }
    }
}

/// Every special scale of A, above products and above zeros, meets every special scale of B, which has a block of columns each:
/// products of scales that underflow and overflow, 0 * Inf both ways, NaN, either sign.
#[test]
fn every_special_scale_meets_every_other() {
    let shape = (22, 10 * 128 + 8, 256);
    for device in machines() {
        for instance in GEMM_INSTANCES {
            let case = Fp8GemmCase { class: GemmClass::SpecialScales, ..Fp8GemmCase::new(shape) }.with(*instance);
            pass(&case, &device);
            pass(&Fp8GemmCase { accumulate: true, ..case }, &device);
        }
    }
}

/// Rows and columns one short of, at and past a tile; fewer K blocks than stages, as many, more; tiles that start wherever
/// one can start among the scales of B.
#[test]
fn every_instance_at_its_edges() {
    for device in devices() {
        for instance in GEMM_INSTANCES {
            let (bm, bn) = (instance.block_m as usize, instance.block_n as usize);
            let stages = instance.stages() as usize;
            for (m, n, k_blocks) in [
                (1, 8, 1),
                (bm - 1, bn - 8, 2),
                (bm, bn, stages),
                (bm + 1, bn + 8, stages + 1),
                (2 * bm + 17, 2 * bn + 8, 3),
                (9, bn << (7 - bn.trailing_zeros()), 2),
            ] {
                pass(&Fp8GemmCase::new((m, n.max(8), 128 * k_blocks)).with(*instance), &device);
            }
        }
    }
}

/// Columns that are no whole block, nor a whole step of the tensor core, with few and many blocks before them.
#[test]
fn any_k() {
    for device in devices() {
        for instance in GEMM_INSTANCES {
            let (bm, bn) = (instance.block_m as usize, instance.block_n as usize);
            for k in [16, 64, 100, 192, 576, 128 * instance.stages() as usize + 8] {
                let case = Fp8GemmCase::new((bm + 9, bn + 8, k)).with(*instance);
                pass(&case, &device);
                pass(&Fp8GemmCase { class: GemmClass::NanCodes, ..case }, &device);
            }
        }
        for class in GemmClass::ALL {
            pass(&Fp8GemmCase { class, ..Fp8GemmCase::new((70, 136, 328)) }, &device);
        }
    }
}

#[test]
fn promotion_happens_every_128() {
    for device in devices() {
        let integers = Fp8GemmCase { class: GemmClass::Integers, ..Fp8GemmCase::new((17, 16, 2048)) };
        pass(&integers, &device);
        pass(&Fp8GemmCase { class: GemmClass::Ones, ..f32((2, 8, 32768)) }, &device);
    }
}

#[test]
fn every_m_around_the_tile_sizes() {
    for device in devices() {
        for m in [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257] {
            pass(&Fp8GemmCase::new((m, 24, 256)), &device);
        }
        for n in (8..=136).step_by(8) {
            pass(&Fp8GemmCase::new((3, n, 128)), &device);
        }
    }
}

#[test]
fn no_k_writes_zeros_and_no_rows_or_columns_write_nothing() {
    for device in devices() {
        let [d] = &pass(&f32((70, 16, 0)), &device)[..] else { panic!("one output") };
        assert!(d.bytes.iter().all(|&byte| byte == 0), "+0 everywhere");
        for (m, n) in [(0, 16), (5, 0), (0, 0)] {
            let [d] = &pass(&Fp8GemmCase::new((m, n, 128)), &device)[..] else { panic!("one output") };
            assert!(d.bytes.is_empty());
        }
    }
}

#[test]
fn accumulates_into_d() {
    for device in devices() {
        for class in [GemmClass::SignedIntegers, GemmClass::Normal] {
            let accumulate = |case| Fp8GemmCase { class, accumulate: true, ..case };
            pass(&accumulate(Fp8GemmCase::new((130, 72, 256))), &device);
            pass(&accumulate(f32((65, 40, 256))), &device);
        }
        pass(&Fp8GemmCase { accumulate: true, ..f32((9, 16, 0)) }, &device);
    }
}

fn outputs(problem: Fp8GemmProblem, device: &Device) -> Vec<Output> {
    attempt(Arc::new(problem), device, memory_of("batch invariance")).expect("right").outputs
}

/// Bits depend on the row and the column alone: not on the instance, the multiprocessors, or the other rows.
#[test]
fn batch_invariance() {
    let (m, n, k) = (300, 136, 1024);
    let case = Fp8GemmCase { class: GemmClass::Outliers, seed: 11, ..Fp8GemmCase::new((m, n, k)) };
    for device in machines() {
        let whole = pass(&case, &device);
        for instance in instances(OutputType::Bf16) {
            assert!(pass(&case.with(instance), &device) == whole, "{} gives other bits", instance.name());
        }
        let row = 2 * n;
        for rows in [0..1, 37..102, 291..299, 291..300] {
            for instance in instances(OutputType::Bf16) {
                let mut part = case.with(instance).problem().expect("inputs");
                part.inputs = part.inputs.rows(rows.clone());
                part.case.m = rows.len();
                let part = outputs(part, &device);
                let same = part[0].bytes == whole[0].bytes[rows.start * row..rows.end * row];
                assert!(same, "{}: rows {rows:?} alone give other bits", instance.name());
            }
        }
    }
    let sizes =
        [4, 1, 3, 132].map(|multiprocessors| EmulatorOptions { multiprocessors, ..Default::default() });
    for pair in emulators(sizes).windows(2) {
        let counts = [pair[0].multiprocessors(), pair[1].multiprocessors()];
        assert!(pass(&case, &pair[0]) == pass(&case, &pair[1]), "{counts:?} multiprocessors do not agree");
    }
}

/// Whatever the schedule, no rule is broken and the bits are the same.
#[test]
fn every_schedule_gives_the_same_bits() {
    for instance in instances(OutputType::Bf16) {
        let case = Fp8GemmCase { class: GemmClass::Normal, seed: 3, ..Fp8GemmCase::new((200, 136, 1024)) };
        let case = case.with(instance);
        for machines in schedules(4) {
            let mut results = machines.iter().map(|device| pass(&case, device));
            let first = results.next();
            assert!(results.all(|d| Some(d) == first), "{} depends on the schedule", instance.name());
        }
    }
}

fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    (1..200_usize, 1..20_usize, 0..48_usize).prop_map(|(m, n, k)| (m, 8 * n, 16 * k))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_and_memory(
        shape in shape(), seed in any::<u64>(), pick in any::<prop::sample::Index>(), accumulate in any::<bool>(),
    ) {
        let instance = GEMM_INSTANCES[pick.index(GEMM_INSTANCES.len())];
        for device in seeded([seed]) {
            let case = Fp8GemmCase { seed, accumulate, ..Fp8GemmCase::new(shape) }.with(instance);
            pass_in(&case, &device, Memory::Poisoned(seed));
        }
    }
}

/// The calls of README's first example, on plain buffers of the lengths that it asks for.
#[test]
fn the_first_example_holds_for_every_m() {
    let device = emulated(0);
    for m in (1..=70).chain([127, 128, 129, 133, 255, 257]) {
        multiply_ones(&device, m).unwrap_or_else(|error| panic!("m = {m}: {error}"));
    }
}

fn multiply_ones(device: &Device, m: usize) -> Result<(), deepseek_kernels::Error> {
    let (n, k) = (16, 256);
    let a = device.upload(&vec![F8E4M3::ONE; m * k])?;
    let b = device.upload(&vec![F8E4M3::ONE; n * k])?;
    let sfa = device.upload(&vec![0.5; Scales1x128::<MMajor>::elements(m, k)])?;
    let sfb = device.upload(&vec![2.0; n.div_ceil(128) * (k / 128)])?;
    let mut d = device.zeros::<bf16>(m * n)?;
    let args = Fp8GemmArgs {
        a: Matrix::new(&a, m, k)?,
        sfa: Scales1x128::new(&sfa, m, k)?,
        b: Matrix::new(&b, n, k)?,
        sfb: Scales128x128::new(&sfb, n, k)?,
        d: MatrixMut::new(&mut d, m, n)?,
    };
    Fp8Gemm::<bf16>::plan(device, Fp8GemmSpec::new(m, n, k))?.run(device.stream()?, args)?;
    assert!(d.to_vec()?.iter().all(|x| x.to_f32() == 256.0), "m = {m}");
    Ok(())
}
