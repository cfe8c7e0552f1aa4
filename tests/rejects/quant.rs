//! Bad operands and shapes of quantisers and of the transposition of scales.

use check::devices::emulated;
use deepseek_kernels::quant::{
    MMajor, Quantize1x128, Quantize128x128, QuantizeSpec, RowMajor, ScaleFormat, Scales1x128, Scales1x128Mut,
    Scales128x128Mut, TransposeScales,
};
use deepseek_kernels::{F8E4M3, Matrix, MatrixMut, Stream, bf16};

use crate::message;

#[test]
fn quantisers() {
    let device = emulated(0);
    let spec = QuantizeSpec { rows: 2, k: 128, format: ScaleFormat::Fp32 };
    let odd = QuantizeSpec { k: 64, ..spec };
    let expected = "k must be a multiple of 128, got 64";
    assert_eq!(message(Quantize1x128::plan(&device, odd)), expected);
    assert_eq!(message(Quantize128x128::plan(&device, odd)), expected);
    let huge = QuantizeSpec { rows: 1 << 31, ..spec };
    assert_eq!(
        message(Quantize1x128::plan(&device, huge)),
        "rows must be at most 2147483647, got 2147483648"
    );

    let x = vec![bf16::ONE; 3 * 136];
    let mut q = vec![F8E4M3::ZERO; 3 * 136];
    let mut sf = vec![0.0; 8];
    let plan = Quantize1x128::plan(&device, spec).expect("plan");
    let mut run = |x: Matrix<'_, bf16>, rows: usize| {
        let q = MatrixMut::new(&mut q, 2, 128).expect("q");
        let sf = Scales1x128Mut::<RowMajor>::new(&mut sf, rows, 128).expect("sf");
        message(plan.run(Stream::Emulated, x, q, sf))
    };
    let view = |data, pitch| Matrix::with_pitch(data, 2, 128, pitch).expect("x");
    assert_eq!(run(view(&x[..], 128), 3), "expected sfa [m, k/128] [2, 1], got [3, 1]");
    assert_eq!(run(view(&x[..], 132), 2), "x: pitch must be a multiple of 16 bytes, got 264");
    assert_eq!(run(view(&x[1..], 128), 2), "x: address must be a multiple of 16 bytes, got 2");
    assert_eq!(
        run(Matrix::new(&x[..], 3, 128).expect("x"), 2),
        "expected x [rows, k] [2, 128], got [3, 128]"
    );

    let plan = Quantize128x128::plan(&device, spec).expect("plan");
    let sf = Scales128x128Mut::new(&mut sf, 300, 128).expect("sf");
    let q = MatrixMut::new(&mut q[..], 2, 128).expect("q");
    let error = message(plan.run(Stream::Emulated, view(&x[..], 128), q, sf));
    assert_eq!(error, "expected sfb [ceil(n/128), k/128] [1, 1], got [3, 1]");
}

#[test]
fn transposition() {
    let device = emulated(0);
    assert_eq!(message(TransposeScales::plan(&device, 4, 100)), "k must be a multiple of 128, got 100");
    let plan = TransposeScales::plan(&device, 4, 256).expect("plan");
    let (sf, mut out) = (vec![0.0; 16], vec![0.0; 16]);
    let source = Scales1x128::<RowMajor>::new(&sf, 4, 256).expect("view");
    let target = Scales1x128Mut::<MMajor>::new(&mut out, 5, 256).expect("view");
    let error = message(plan.run(Stream::Emulated, source, target));
    assert_eq!(error, "expected sfa [k/128, m] [2, 4], got [2, 5]");
}
