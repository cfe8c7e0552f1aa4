//! A linear layer in FP8 with this crate alone: `y = x . w^T`, both operands quantised on the device, against FP64.
//!
//! `cargo run --release --example fp8_linear` uses a GPU where there is one, else the emulated Hopper.

use std::error::Error;

use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs, Fp8GemmSpec};
use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize1x128Args, Quantize128x128, Quantize128x128Args, QuantizeSpec,
    Scales1x128, Scales1x128Mut, Scales128x128, Scales128x128Mut,
};
use deepseek_kernels::{Device, F8E4M3, Matrix, MatrixMut, bf16};

/// Rows of x, rows of w, columns of both.
const M: usize = 100;
const N: usize = 264;
const K: usize = 512;
/// A code of E4M3 is within 2^-4 of its value, two of them within (1 + 2^-4)^2 - 1; the sums lose less than 1 %.
const RELATIVE: f64 = 0.13 + 0.01;

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::open_gpu(0).or_else(|_| Device::emulated())?;
    let (x, w) = (values(M * K, 0.61), values(N * K, 0.37));
    let y = linear(&device, &x, &w)?;
    device.poll_error()?;

    let distances = (0..M * N).map(|i| distance(&x[i / N * K..][..K], &w[i % N * K..][..K], y[i]));
    let distances: Vec<f64> = distances.collect();
    let worst = distances.iter().copied().fold(0.0, f64::max);
    println!("y [{M}, {N}] of k = {K}; {}", device.name());
    println!("worst |y - exact| / sum |x| |w|: {worst:.4}, allowed {RELATIVE}");
    if !distances.iter().all(|&distance| distance <= RELATIVE) {
        return Err("the result is wrong".into());
    }
    Ok(())
}

/// Quantises both operands and multiplies them.
fn linear(device: &Device, x: &[bf16], w: &[bf16]) -> Result<Vec<f32>, Box<dyn Error>> {
    let stream = device.stream()?;
    let (x, w) = (device.upload(x)?, device.upload(w)?);
    let mut a = device.zeros::<F8E4M3>(M * K)?;
    let mut b = device.zeros::<F8E4M3>(N * K)?;
    let mut sfa = device.zeros(Scales1x128::<MMajor>::elements(M, K))?;
    let mut sfb = device.zeros(N.div_ceil(128) * (K / 128))?;
    let mut y = device.zeros(M * N)?;

    // Plans are made once; they run any number of times.
    let quantize_x = Quantize1x128::plan(device, QuantizeSpec::new(M, K))?;
    let quantize_w = Quantize128x128::plan(device, QuantizeSpec::new(N, K))?;
    let gemm = Fp8Gemm::<f32>::plan(device, Fp8GemmSpec::new(M, N, K))?;

    let x_codes = Quantize1x128Args {
        x: Matrix::new(&x, M, K)?,
        q: MatrixMut::new(&mut a, M, K)?,
        sf: Scales1x128Mut::<MMajor>::new(&mut sfa, M, K)?,
    };
    quantize_x.run(stream, x_codes)?;
    let w_codes = Quantize128x128Args {
        x: Matrix::new(&w, N, K)?,
        q: MatrixMut::new(&mut b, N, K)?,
        sf: Scales128x128Mut::new(&mut sfb, N, K)?,
    };
    quantize_w.run(stream, w_codes)?;
    let product = Fp8GemmArgs {
        a: Matrix::new(&a, M, K)?,
        sfa: Scales1x128::<MMajor>::new(&sfa, M, K)?,
        b: Matrix::new(&b, N, K)?,
        sfb: Scales128x128::new(&sfb, N, K)?,
        d: MatrixMut::new(&mut y, M, N)?,
    };
    gemm.run(stream, product)?;
    Ok(y.to_vec()?)
}

/// Both signs, magnitudes from 0.5 to 2: all of them normal numbers of E4M3.
fn values(count: usize, step: f32) -> Vec<bf16> {
    let value = |i: usize| {
        let wave = (i as f32 * step).sin();
        bf16::from_f32(wave.signum() * (0.5 + 1.5 * wave.abs()))
    };
    (0..count).map(value).collect()
}

/// How far `y` is from `x . w`, in units of the sum of the products' magnitudes.
fn distance(x: &[bf16], w: &[bf16], y: f32) -> f64 {
    let products = x.iter().zip(w).map(|(x, w)| x.to_f64() * w.to_f64());
    let (sum, magnitudes) = products.fold((0.0, 0.0), |(sum, all), p| (sum + p, all + p.abs()));
    (f64::from(y) - sum).abs() / magnitudes
}
