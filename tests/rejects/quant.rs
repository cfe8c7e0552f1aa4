//! Bad operands and shapes of quantisers and of the transposition of scales.

use check::devices::emulated;
use deepseek_kernels::quant::{
    Quantize1x128, Quantize128x128, QuantizeRule, QuantizeSpec, TransposeScales, TransposeScalesSpec,
};

use crate::message;

#[test]
fn plans() {
    let device = emulated(0);
    let odd = QuantizeSpec::new(2, 68);
    let expected = "k must be a multiple of 8, got 68";
    assert_eq!(message(Quantize1x128::plan(&device, odd)), expected);
    assert_eq!(message(Quantize128x128::plan(&device, odd)), expected);
    let huge = QuantizeSpec::new(1 << 31, 128);
    let expected = "rows must be at most 2147483647, got 2147483648";
    assert_eq!(message(Quantize1x128::plan(&device, huge)), expected);
    let least = "amax_floor must be finite and at least 448 * 2^-80 (QuantizeRule::LEAST_AMAX), got ";
    for floor in [0.0, -1.0, 1e-30, f32::NAN, f32::INFINITY] {
        for rule in [QuantizeRule::TILE_KERNELS, QuantizeRule::DEEP_GEMM, QuantizeRule::DEEPSEEK] {
            let spec = QuantizeSpec::new(2, 128).rule(rule.amax_floor(floor));
            assert_eq!(message(Quantize1x128::plan(&device, spec)), format!("{least}{floor}"));
            assert_eq!(message(Quantize128x128::plan(&device, spec)), format!("{least}{floor}"));
        }
    }
    let rule = QuantizeRule::TRANSFORMER_ENGINE;
    let negative = QuantizeSpec::new(2, 128).rule(rule.amax_floor(-1.0));
    let expected = "amax_floor must be finite and at least 0, got -1";
    assert_eq!(message(Quantize1x128::plan(&device, negative)), expected);
    for (m, k, expected) in [
        (1 << 31, 128, "m must be at most 2147483647, got 2147483648"),
        (1, 1 << 31, "k must be at most 2147483647, got 2147483648"),
    ] {
        assert_eq!(message(TransposeScales::plan(&device, TransposeScalesSpec::new(m, k))), expected);
    }
    let huge = TransposeScales::plan(&device, TransposeScalesSpec::new(1 << 30, 1 << 18));
    assert_eq!(message(huge), "m/32 * k/4096 must be at most 2147483647, got 2147483648");
}

mod rows {
    use std::sync::Arc;

    use check::devices::emulated;
    use check::memory::{Arena, Memory};
    use check::quant::quantize_1x128::{Layout, Quantize1x128Case, Quantize1x128Run, ScalesOut};
    use deepseek_kernels::Matrix;
    use deepseek_kernels::quant::Scales1x128Mut;

    fn quantize() -> Quantize1x128Run {
        let case = Quantize1x128Case { layout: Layout::RowMajor, ..Quantize1x128Case::new((2, 128)) };
        Quantize1x128Run::new(Arc::new(case.problem()), &mut Arena::new(&emulated(0), Memory::Plain))
            .expect("operands")
    }

    rejects! {
        quantize(), |plan, stream, args| args.run(plan, stream);
        sf_with_a_row_too_many: |args, spare|
            args.sf = ScalesOut::RowMajor(Scales1x128Mut::new(&mut spare.floats, 3, 128)?)
            => "expected sf [m, ceil(k/128)] [2, 1], got [3, 1]";
        x_with_an_odd_pitch: |args, spare| args.x = Matrix::with_pitch(&spare.halves, 2, 128, 132)?
            => "x: pitch must be a multiple of 16 bytes, got 264";
        x_at_an_odd_address: |args, spare| args.x = Matrix::new(&spare.halves[1..], 2, 128)?
            => "x: address must be a multiple of 16 bytes, got 2";
        x_with_a_row_too_many: |args, spare| args.x = Matrix::new(&spare.halves, 3, 128)?
            => "expected x [rows, k] [2, 128], got [3, 128]";
    }
}

mod blocks {
    use std::sync::Arc;

    use check::devices::emulated;
    use check::memory::{Arena, Memory};
    use check::quant::quantize_128x128::{Quantize128x128Case, Quantize128x128Run};
    use deepseek_kernels::quant::Scales128x128Mut;

    fn quantize() -> Quantize128x128Run {
        let problem = Arc::new(Quantize128x128Case::new((2, 128)).problem());
        Quantize128x128Run::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
    }

    rejects! {
        quantize();
        sf_of_more_rows: |args, spare| args.sf = Scales128x128Mut::new(&mut spare.floats, 300, 128)?
            => "expected sf [ceil(n/128), ceil(k/128)] [1, 1], got [3, 1]";
    }
}

mod transposition {
    use std::sync::Arc;

    use check::devices::emulated;
    use check::memory::{Arena, Memory};
    use check::quant::transpose_scales::{TransposeScalesCase, TransposeScalesRun};
    use deepseek_kernels::quant::{Scales1x128, Scales1x128Mut};

    fn transpose() -> TransposeScalesRun {
        let problem = Arc::new(TransposeScalesCase::new((4, 256)).problem());
        TransposeScalesRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
    }

    rejects! {
        transpose();
        sf_of_another_k: |args, spare| args.sf = Scales1x128::new(&spare.floats, 4, 128)?
            => "expected sf [m, ceil(k/128)] [4, 2], got [4, 1]";
        out_with_a_column_too_many: |args, spare| args.out = Scales1x128Mut::new(&mut spare.floats, 5, 256)?
            => "expected out [ceil(k/128), m] [2, 4], got [2, 5]";
    }
}
