//! What the parts of `cuda/hopper` are for, put together: a ring, its producer and its consumers, in a cluster.

use super::run;
use deepseek_kernels::probe::kernels::PRODUCT;
use deepseek_kernels::probe::{MapElement, Probe, Swizzle, Tensor};
use deepseek_kernels::{Device, bf16};

/// Rows of A in a CTA, and columns of D.
const ROWS: usize = 64;

/// A matrix of BF16, one behind the other; the box is 64 columns of some rows.
fn tensor(values: &[f32], columns: usize, outer: &[(u64, u32)]) -> Tensor {
    let row_bytes = (columns * size_of::<bf16>()) as u64;
    let sizes = || outer.iter().map(|&(size, _)| size);
    Tensor {
        element: MapElement::Bf16,
        swizzle: Swizzle::Span128,
        dims: [columns as u64].into_iter().chain(sizes()).collect(),
        strides: sizes()
            .scan(row_bytes, |stride, size| Some(std::mem::replace(stride, *stride * size)))
            .collect(),
        box_sizes: [64].into_iter().chain(outer.iter().map(|&(_, rows)| rows)).collect(),
        memory: values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

/// Multiplies with fewer steps than stages, as many, and more. Integers, so that only the rounding to BF16 rounds.
pub fn check_product(device: &Device) {
    for steps in [1, 2, 7] {
        let k = 64 * steps;
        let value = |i: usize| (i * 31 % 11) as f32 - 5.0;
        let a: Vec<f32> = (0..2 * ROWS * k).map(value).collect();
        let b: Vec<f32> = (0..ROWS * k).map(|i| value(i + i / k + 3)).collect();
        let dot = |row: usize, column: usize| -> f32 {
            a[row * k..][..k].iter().zip(&b[column * k..][..k]).map(|(x, y)| x * y).sum()
        };
        let expected: Vec<f32> = (0..2 * ROWS * ROWS).map(|i| dot(i / ROWS, i % ROWS)).collect();
        let expected = tensor(&expected, ROWS, &[(128, 64)]).memory;
        let probe = Probe {
            arguments: &[steps as u32],
            loads: &[tensor(&a, k, &[(128, 64)]), tensor(&b, k, &[(64, 32), (1, 1)])],
            store: Some(&tensor(&[f32::NAN; 2 * ROWS * ROWS], ROWS, &[(128, 64)])),
            ..Probe::new(PRODUCT, 2)
        };
        let stored = run(device, &probe).stored;
        let wrong = stored.chunks(2).zip(expected.chunks(2)).position(|(got, want)| got != want);
        if let Some(element) = wrong {
            panic!("{}: element {element} of D is wrong after {steps} steps", device.name());
        }
    }
}
