//! The quantisers' rules by name, against what torch computes from their published definitions.

use std::error::Error;

use check::goldens::integers;
use half::bf16;
use oracles::quant::{CodeFormula, QuantizeModel, QuantizeScale, quantize_1x128};

const GOLDENS: &str = include_str!("../goldens/quantize.txt");
const ROWS: usize = 24;

/// `block` of `make_quantize.py`.
fn block(row: usize) -> Vec<bf16> {
    if row == ROWS - 1 {
        return vec![bf16::ZERO; 128];
    }
    let size = 0.75 * 2f64.powi(20 - 7 * row as i32);
    integers(128, row as u32).map(|x| bf16::from_f64(f64::from(x) * size)).collect()
}

fn named(name: &str) -> QuantizeModel {
    let (rule, scale) = match name.strip_suffix("_power_of_two") {
        Some(rule) => (rule, QuantizeScale::PowerOfTwo),
        None => (name, QuantizeScale::Fp32),
    };
    let (formula, amax_floor) = match rule {
        "tile_kernels" => (CodeFormula::Ratio, 1e-4),
        "deep_gemm" => (CodeFormula::Reciprocal, 1e-4),
        "deepseek" => (CodeFormula::Quotient, 1e-4),
        "transformer_engine" => (CodeFormula::Inverse, 0.0),
        rule => panic!("no rule is called {rule}"),
    };
    QuantizeModel { formula, scale, amax_floor }
}

#[test]
fn rules_are_those_of_their_names() -> Result<(), Box<dyn Error>> {
    let mut seen = 0;
    for line in GOLDENS.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, row, scale, codes] = fields[..] else { panic!("not four fields: {line}") };
        let got = quantize_1x128(&block(row.parse()?), 1, 128, 128, named(name))?;
        assert_eq!(format!("{:08x}", got.sf[0].to_bits()), scale, "scale of {name}, row {row}");
        let bytes: String = got.q.iter().map(|code| format!("{:02x}", code.to_bits())).collect();
        assert_eq!(bytes, codes, "codes of {name}, row {row}");
        seen += 1;
    }
    assert_eq!(seen, 8 * ROWS);
    Ok(())
}

/// With FP32 scales no two of them are the same rule.
#[test]
fn rules_differ_with_fp32_scales() -> Result<(), Box<dyn Error>> {
    let x: Vec<bf16> =
        (0..1 << 16).map(|i| bf16::from_f32((i as f32 * 0.37).sin() * (i / 128 + 1) as f32)).collect();
    let names = ["tile_kernels", "deep_gemm", "deepseek", "transformer_engine"];
    let all = names.map(|name| quantize_1x128(&x, 512, 128, 128, named(name)));
    for i in 0..names.len() {
        for j in 0..i {
            let ([a, b], pair) = ([&all[i], &all[j]], [names[i], names[j]]);
            let (Ok(a), Ok(b)) = (a, b) else { panic!("shapes") };
            assert!((&a.q, &a.sf) != (&b.q, &b.sf), "{pair:?}");
        }
    }
    Ok(())
}
