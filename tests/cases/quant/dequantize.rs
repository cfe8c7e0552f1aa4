//! The dequantiser: every code and scale, short blocks, and values that come back as they were.

use check::case::{pass, pass_in};
use check::devices::{devices, seeded};
use check::memory::Memory;
use check::quant::dequantize::{Blocks, DequantizeCase};
use check::quant::Rule;
use deepseek_kernels::quant::{
    Dequantize128x128, Dequantize128x128Args, DequantizeSpec, Quantize128x128, Quantize128x128Args, QuantizeSpec,
    Scales128x128, Scales128x128Mut,
};
use deepseek_kernels::{Device, F8E4M3, Matrix, MatrixMut, Result, bf16};
use oracles::gemm::GemmClass;
use proptest::prelude::*;

const BLOCKS: [Blocks; 3] = [Blocks::MMajor, Blocks::RowMajor, Blocks::Square];

#[test]
fn every_code_scale_and_layout() {
    for device in devices() {
        for blocks in BLOCKS {
            for class in [GemmClass::Codes, GemmClass::NanCodes, GemmClass::SpecialScales] {
                pass(&DequantizeCase { blocks, class, ..DequantizeCase::new((1300, 272)) }, &device);
            }
            for k in [16, 112, 128, 144, 576] {
                pass(&DequantizeCase { blocks, ..DequantizeCase::new((130, k)) }, &device);
            }
            for shape in [(0, 128), (3, 0)] {
                pass(&DequantizeCase { blocks, ..DequantizeCase::new(shape) }, &device);
            }
        }
    }
}

fn there_and_back(device: &Device, x: &[bf16], (rows, k): (usize, usize)) -> Result<Vec<bf16>> {
    let stream = device.stream()?;
    let (x, mut back) = (device.upload(x)?, device.zeros::<bf16>(rows * k)?);
    let (mut q, scales) = (device.zeros::<F8E4M3>(rows * k)?, rows.div_ceil(128) * k.div_ceil(128));
    let mut sf = device.zeros::<f32>(scales)?;
    let quantize = Quantize128x128::plan(device, QuantizeSpec::new(rows, k).rule(Rule::POWER_OF_TWO.rule()))?;
    let args = Quantize128x128Args {
        x: Matrix::new(&x, rows, k)?,
        q: MatrixMut::new(&mut q, rows, k)?,
        sf: Scales128x128Mut::new(&mut sf, rows, k)?,
    };
    quantize.run(stream, args)?;
    let args = Dequantize128x128Args {
        q: Matrix::new(&q, rows, k)?,
        sf: Scales128x128::new(&sf, rows, k)?,
        x: MatrixMut::new(&mut back, rows, k)?,
    };
    Dequantize128x128::plan(device, DequantizeSpec::new(rows, k))?.run(stream, args)?;
    back.to_vec()
}

/// What was a code once is the same value ever after; and no value moves further than half a step of its code.
#[test]
fn round_trip() {
    let shape = (150, 336);
    let x = check::data::weights(shape.0, shape.1, 5);
    for device in devices() {
        let once = there_and_back(&device, &x, shape).expect("once");
        let twice = there_and_back(&device, &once, shape).expect("twice");
        assert!(once.iter().zip(&twice).all(|(a, b)| a.to_bits() == b.to_bits()));
        let far = |(x, y): (&bf16, &bf16)| (x.to_f32() - y.to_f32()).abs() > x.to_f32().abs() / 16.0 + 2f32.powi(-14);
        assert!(!x.iter().zip(&once).any(far));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_and_memory(
        rows in 1..300_usize, pieces in 1..30_usize, blocks in 0..BLOCKS.len(), seed in any::<u64>(),
    ) {
        let case = DequantizeCase { blocks: BLOCKS[blocks], seed, ..DequantizeCase::new((rows, 16 * pieces)) };
        for device in seeded([seed]) {
            pass_in(&case, &device, Memory::Poisoned(seed));
        }
    }
}
