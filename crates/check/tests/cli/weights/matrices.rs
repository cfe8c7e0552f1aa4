//! Which tensors are judged, and what is found.

use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use super::{codes, f32_bytes, u16_bytes, values, write};
use crate::program::{reported, rows, verified, verify};

/// One of everything: what fits, what is padded, and what cannot be used.
fn model(folder: &Path) -> String {
    let path = folder.join("model.safetensors");
    let mut infinite = values(8 * 128);
    infinite[77] = f32::INFINITY;
    let mut huge = values(8 * 128);
    huge[77] = f32::MAX;
    let mut nan = codes(8 * 128);
    nan[9] = 0x7f;
    let bf16_scales = u16_bytes([1.5_f32, 0.25].map(|x| half::bf16::from_f32(x).to_bits()).into_iter());
    write(
        &path,
        vec![
            ("fits", Dtype::F32, vec![136, 256], f32_bytes(&values(136 * 256))),
            ("odd", Dtype::F32, vec![30, 200], f32_bytes(&values(30 * 200))),
            (
                "half",
                Dtype::F16,
                vec![8, 128],
                u16_bytes(values(1024).iter().map(|x| half::f16::from_f32(*x).to_bits())),
            ),
            ("brain", Dtype::BF16, vec![1, 1], u16_bytes([0x3f80].into_iter())),
            ("zero", Dtype::F32, vec![8, 128], vec![0; 4096]),
            ("fp8", Dtype::F8_E4M3, vec![136, 128], codes(136 * 128)),
            ("fp8_scale_inv", Dtype::F32, vec![2, 1], f32_bytes(&[0.01, 0.02])),
            ("ragged", Dtype::F8_E4M3, vec![7, 130], codes(7 * 130)),
            ("ragged_scale_inv", Dtype::BF16, vec![1, 2], bf16_scales),
            ("vector", Dtype::F32, vec![8], vec![0; 32]),
            ("hypercube", Dtype::F32, vec![2, 2, 2, 1], vec![0; 32]),
            ("cube", Dtype::F32, vec![2, 2, 2], vec![0; 32]),
            ("integers", Dtype::I64, vec![2, 2], vec![0; 32]),
            ("empty", Dtype::F32, vec![0, 128], Vec::new()),
            ("infinite", Dtype::F32, vec![8, 128], f32_bytes(&infinite)),
            ("huge", Dtype::F32, vec![8, 128], f32_bytes(&huge)),
            ("nan", Dtype::F8_E4M3, vec![8, 128], nan),
            ("nan_scale_inv", Dtype::F32, vec![1, 1], f32_bytes(&[1.0])),
            ("lonely", Dtype::F8_E4M3, vec![8, 128], codes(1024)),
        ],
    );
    path.to_str().expect("a UTF-8 path").to_owned()
}

fn tensor<'a>(report: &'a Value, name: &str) -> &'a Value {
    rows(report).iter().find(|row| row["tensor"] == name).unwrap_or_else(|| panic!("{name} in {report}"))
}

#[test]
fn every_tensor_is_judged_or_listed_with_a_reason() {
    let folder = TempDir::new().unwrap();
    let (code, report) = reported(folder.path(), &["--weights", &model(folder.path()), "--m", "5,1"]);
    // Two of four FP8 matrices are of no use.
    assert_eq!(code, Some(3));
    assert_eq!((&report["fp8_matrices"], &report["fp8_checked"]), (&4.into(), &2.into()));

    let mut used: Vec<_> = rows(&report).iter().map(|row| row["tensor"].as_str().unwrap()).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used, ["brain", "cube", "fits", "fp8", "half", "odd", "ragged", "zero"]);
    let unused = report["unused"].as_array().unwrap();
    let mut reasons: Vec<_> =
        unused.iter().map(|u| (u["tensor"].as_str().unwrap(), u["reason"].as_str().unwrap())).collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        [
            ("empty", "empty"),
            ("huge", "a value beyond the range of BF16"),
            ("hypercube", "4-D"),
            ("infinite", "holds Inf or NaN"),
            ("integers", "neither F32, F16, BF16 nor F8_E4M3"),
            (
                "lonely",
                "FP8 without scales: no tensor of its name with _scale_inv, _scale or .scale; in another file? name the \
                 model's folder",
            ),
            ("nan", "holds Inf or NaN"),
            ("vector", "1-D"),
        ]
    );

    assert_eq!(tensor(&report, "fits")["note"], Value::Null);
    assert_eq!(tensor(&report, "odd")["note"], "padded from [30, 200]");
    assert_eq!(tensor(&report, "odd")["shape"], "5 x 32 x 256");
    assert_eq!(tensor(&report, "fp8")["note"], "FP8 as stored");
    assert_eq!(tensor(&report, "ragged")["note"], "padded from [7, 130]; FP8 as stored");
}

#[test]
fn the_error_of_fp8_is_what_its_three_fraction_bits_give() {
    let folder = TempDir::new().unwrap();
    let pattern = "^(fits|odd|half|fp8|ragged|zero)$";
    let report =
        verified(folder.path(), &["--weights", &model(folder.path()), "--m", "64", "--tensor", pattern]);
    let error = |name| tensor(&report, name)["quantisation_error"].as_f64().unwrap();
    // A code errs by up to 1/16 of its value, evenly spread: below 1/16/sqrt(3) RMS. Errors of independent operands
    // add as squares; where B was FP8 already, only A errs.
    let one = 1.0 / 16.0 / 3.0_f64.sqrt();
    for name in ["fits", "odd", "half"] {
        assert!((0.01..one * 2.0_f64.sqrt()).contains(&error(name)), "{name}: {}", error(name));
    }
    for name in ["fp8", "ragged"] {
        assert!((0.001..one).contains(&error(name)), "{name}: {}", error(name));
    }
    assert!(error("fp8") < error("fits"));
    assert_eq!(error("zero"), 0.0);
}

#[test]
fn a_pattern_selects_tensors() {
    let folder = TempDir::new().unwrap();
    let report =
        verified(folder.path(), &["--weights", &model(folder.path()), "--tensor", "^(fits|vector)$"]);
    assert_eq!(rows(&report).len(), 1);
    assert_eq!(report["unused"].as_array().unwrap().len(), 1);
}

#[test]
fn a_pattern_that_matches_nothing_is_an_error() {
    let folder = TempDir::new().unwrap();
    let file = model(folder.path());
    let run = verify(["--weights", &file, "--tensor", "layers.99"]);
    assert_eq!((run.code, run.stderr), (Some(2), format!("error: {file}: no tensor matches layers.99\n")));
}

#[test]
fn tensors_of_which_none_can_be_used_are_an_error() {
    let folder = TempDir::new().unwrap();
    let run = verify(["--device", "emulated", "--weights", &model(folder.path()), "--tensor", "^vector$"]);
    assert_eq!(run.code, Some(2));
    assert_eq!(run.stderr, "error: nothing was checked: no tensor can be used, for the reasons above\n");
    assert!(run.stdout.contains("vector") && run.stdout.contains("1-D"), "{}", run.stdout);
}
