//! FP8 matrices and their scales: of every name, type and shape that public models have.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use super::{codes, f32_bytes, u16_bytes, values, write};
use crate::program::{Run, reported, rows, verified, verify};

type Tensor<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

fn fp8(name: &str, n: usize, k: usize) -> Tensor<'_> {
    (name, Dtype::F8_E4M3, vec![n, k], codes(n * k))
}

/// The report on a file with these tensors, and the exit code.
fn judged(tensors: Vec<Tensor<'_>>) -> (Option<i32>, Value) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, tensors);
    reported(folder.path(), &["--weights", path.to_str().unwrap(), "--m", "3"])
}

/// What the program prints of a file with these tensors.
fn printed(tensors: Vec<Tensor<'_>>) -> Run {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, tensors);
    verify([Path::new("--device"), Path::new("emulated"), Path::new("--weights"), &path])
}

/// Names of the rows and of what is not used.
fn listed(report: &Value) -> (Vec<&str>, Vec<&str>) {
    let names = |list: &'static str| {
        let rows = report[list].as_array().unwrap().iter();
        let mut names: Vec<_> = rows.map(|row| row["tensor"].as_str().unwrap()).collect();
        names.sort_unstable();
        names
    };
    (names("rows"), names("unused"))
}

/// Checks of the product and the error of FP8, which are the same for the same values, whatever their form.
fn found(report: &Value) -> (Value, Value) {
    let row = &rows(report)[0];
    (row["checks"].clone(), row["quantisation_error"].clone())
}

/// An ordinary matrix beside the one that is of interest: it is judged, whatever becomes of the other.
fn beside(tensors: Vec<Tensor<'_>>) -> Vec<Tensor<'_>> {
    let mut all = tensors;
    all.push(("ordinary", Dtype::F32, vec![8, 128], f32_bytes(&values(1024))));
    all
}

/// The reason for which `l.weight` `[n, k]` is not used with a scale of this type, shape and content; the rest is.
fn refused([n, k]: [usize; 2], dtype: Dtype, shape: &[usize], scales: Vec<u8>) -> String {
    let tensors = beside(vec![fp8("l.weight", n, k), ("l.weight_scale", dtype, shape.to_vec(), scales)]);
    let (code, report) = judged(tensors);
    assert_eq!(code, Some(3), "{report}");
    assert_eq!(listed(&report), (vec!["ordinary"], vec!["l.weight"]), "{report}");
    assert_eq!((&report["fp8_matrices"], &report["fp8_checked"]), (&1.into(), &0.into()));
    report["unused"][0]["reason"].as_str().unwrap().to_owned()
}

#[test]
fn scales_go_with_their_weight_by_any_name() {
    for (weight, scale) in [
        ("l.weight", "l.weight_scale_inv"),
        ("l.weight", "l.weight_scale"),
        ("l.weight", "l.scale"),
        ("l.weight", "l.weight.scale"),
        ("l.weight", "l.scale_weight"),
        ("l.weight", "l.qscale_weight"),
        ("experts.gate_up_proj", "experts.gate_up_proj_scale_inv"),
        ("experts.w2_weight", "experts.w2_scale"),
    ] {
        let scales = (scale, Dtype::F32, vec![2, 1], f32_bytes(&[0.5, 2.0]));
        let (code, report) = judged(vec![fp8(weight, 136, 128), scales]);
        assert_eq!((code, listed(&report)), (Some(0), (vec![weight], vec![])), "{scale}");
        assert_eq!((&report["fp8_matrices"], &report["fp8_checked"]), (&1.into(), &1.into()));
        assert_eq!(rows(&report)[0]["note"], "FP8 as stored");
    }
}

#[test]
fn scales_of_every_type_give_what_the_same_ones_in_fp32_give() {
    let scales = [0.25_f32, 4.0];
    let of = |dtype, bytes: Vec<u8>| {
        let (code, report) = judged(vec![fp8("w", 136, 128), ("w_scale", dtype, vec![2, 1], bytes)]);
        assert_eq!(code, Some(0), "{dtype}");
        found(&report)
    };
    let expected = of(Dtype::F32, f32_bytes(&scales));
    assert_eq!(of(Dtype::BF16, u16_bytes(scales.iter().map(|x| bf16::from_f32(*x).to_bits()))), expected);
    assert_eq!(of(Dtype::F16, u16_bytes(scales.iter().map(|x| f16::from_f32(*x).to_bits()))), expected);
    assert_eq!(of(Dtype::F8_E8M0, vec![125, 129]), expected);
    let doubles = scales.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
    assert_eq!(of(Dtype::F64, doubles), expected);
    assert_ne!(of(Dtype::F8_E8M0, vec![125, 128]), expected);
}

#[test]
fn scales_that_can_be_expanded_give_what_the_expanded_ones_give() {
    let of = |shape: &[usize], scales: &[f32]| {
        let scales = ("w_scale_inv", Dtype::F32, shape.to_vec(), f32_bytes(scales));
        let (code, report) = judged(vec![fp8("w", 256, 256), scales]);
        assert_eq!(code, Some(0), "{shape:?}");
        (found(&report), rows(&report)[0]["note"].as_str().unwrap().to_owned())
    };
    let one = of(&[2, 2], &[0.5; 4]).0;
    for shape in [&[][..], &[1], &[1, 1]] {
        assert_eq!(of(shape, &[0.5]), (one.clone(), "FP8 as stored, one scale".to_owned()), "{shape:?}");
    }
    let blocks = of(&[2, 2], &[0.5, 0.5, 2.0, 2.0]);
    assert_eq!(blocks.1, "FP8 as stored");
    let rows = [[0.5; 128], [2.0; 128]].concat();
    for shape in [&[256][..], &[256, 1]] {
        assert_eq!(of(shape, &rows), (blocks.0.clone(), "FP8 as stored, scales of 1x256".to_owned()));
    }
    assert_eq!(of(&[2, 1], &[0.5, 2.0]), (blocks.0.clone(), "FP8 as stored, scales of 128x256".to_owned()));
    let small = [[0.5; 8], [2.0; 8]].concat();
    assert_eq!(of(&[4, 4], &small), (blocks.0, "FP8 as stored, scales of 64x64".to_owned()));
}

#[test]
fn what_cannot_be_expanded_is_listed_with_the_reason() {
    let rows: Vec<f32> = (1..=136).map(|i| i as f32).collect();
    let differ = "the scales differ within 128x128, for which the kernels have one; dequantised to BF16 it can be checked, \
                  and is quantised anew";
    for shape in [&[136][..], &[136, 1]] {
        assert_eq!(
            refused([136, 128], Dtype::F32, shape, f32_bytes(&rows)),
            format!("one scale a row: {differ}")
        );
    }
    let small: Vec<f32> = (1..=6).map(|i| i as f32).collect();
    assert_eq!(
        refused([136, 128], Dtype::F32, &[3, 2], f32_bytes(&small)),
        format!("blocks of 64x64: {differ}")
    );
    let unlike = "expected [2, 1] or one, or another number of scales per block";
    for shape in [&[137, 1][..], &[7], &[2, 1, 1]] {
        let count = shape.iter().product();
        assert_eq!(
            refused([136, 128], Dtype::F32, shape, f32_bytes(&vec![1.0; count])),
            format!("scales {:?}: {unlike}", if shape == [7] { &[7, 1][..] } else { shape })
        );
    }
    assert_eq!(
        refused(
            [136, 128],
            Dtype::F64,
            &[2, 1],
            [0.5_f64, 0.1].iter().flat_map(|x| x.to_le_bytes()).collect()
        ),
        "F64 scales that are not exact in FP32, as 0.1: round them to F32"
    );
    assert_eq!(
        refused([136, 128], Dtype::U8, &[2, 1], vec![127, 127]),
        "scales of type U8: expected F32, BF16, F16, F64 or F8_E8M0"
    );
    assert_eq!(refused([136, 128], Dtype::F8_E8M0, &[2, 1], vec![127, 255]), "holds Inf or NaN");
    assert_eq!(refused([136, 128], Dtype::F32, &[0, 1], vec![]), format!("scales [0, 1]: {unlike}"));
}

#[test]
fn every_exponent_is_a_scale() {
    for exponent in [0, 1, 100, 127, 140] {
        let (code, report) =
            judged(vec![fp8("w", 8, 128), ("w_scale", Dtype::F8_E8M0, vec![1, 1], vec![exponent])]);
        assert_eq!(code, Some(0), "{exponent}: {report}");
    }
    let reason = refused([8, 128], Dtype::F8_E8M0, &[1, 1], vec![254]);
    assert_eq!(reason, "a value beyond the range of BF16");
}

#[test]
fn two_sizes_of_blocks_are_ambiguous_until_the_model_says() {
    let scales = f32_bytes(&[1.0, 2.0, 3.0, 4.0]);
    let reason = refused([192, 192], Dtype::F32, &[2, 2], scales.clone());
    assert_eq!(
        reason,
        "ambiguous: blocks of 96x96 and of 96x128 and of 128x96 and of 128x128 have scales [2, 2]; a config.json beside the \
         file says which, by weight_block_size in quantization_config"
    );
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, vec![fp8("w", 192, 192), ("w_scale_inv", Dtype::F32, vec![2, 2], scales)]);
    let told = |config: &str| {
        fs::write(folder.path().join("config.json"), config).unwrap();
        reported(folder.path(), &["--weights", path.to_str().unwrap(), "--m", "3"])
    };
    let block = |size: &str| format!(r#"{{"quantization_config": {{"weight_block_size": {size}}}}}"#);
    let (code, report) = told(&block("[128, 128]"));
    assert_eq!((code, &report["fp8_checked"]), (Some(0), &1.into()), "{report}");
    for (config, reason) in [
        (block("[64, 64]"), "scales [2, 2] are not the [3, 3] of blocks 64x64, which config.json gives"),
        (block("[96, 96]"), "blocks of 96x96: the scales differ within 128x128"),
        (block("\"\\u001b[2J\""), "ambiguous: "),
        ("{".to_owned(), "ambiguous: "),
    ] {
        let run = verify(["--device", "emulated", "--weights", path.to_str().unwrap(), "--json", "-"]);
        assert_eq!(run.code, Some(0));
        fs::write(folder.path().join("config.json"), &config).unwrap();
        let run = verify(["--device", "emulated", "--weights", path.to_str().unwrap(), "--json", "-"]);
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        let told = report["unused"][0]["reason"].as_str().unwrap();
        assert!(told.starts_with(reason), "{config}: {told}");
        assert_eq!(run.code, Some(2), "nothing else is there");
        let note = report["notes"].to_string().contains("config.json is not used: ");
        assert_eq!(note, reason.starts_with("ambiguous"), "{report}");
        fs::write(folder.path().join("config.json"), block("[128, 128]")).unwrap();
    }
}

#[test]
fn what_has_no_weight_is_not_judged_as_one() {
    let orphan = |name, shape: &[usize]| {
        let count: usize = shape.iter().product();
        (name, Dtype::F32, shape.to_vec(), f32_bytes(&vec![1.0; count]))
    };
    let tensors = beside(vec![
        orphan("a.weight_scale_inv", &[8, 128]),
        orphan("b.scale", &[8, 128]),
        orphan("c.weight_scale", &[2]),
        orphan("d.input_scale", &[8, 128]),
        orphan("d.k_scale", &[]),
    ]);
    let (code, report) = judged(tensors);
    assert_eq!(code, Some(0));
    let orphans = vec!["a.weight_scale_inv", "b.scale", "c.weight_scale", "d.input_scale", "d.k_scale"];
    assert_eq!(listed(&report), (vec!["ordinary"], orphans));
    for unused in report["unused"].as_array().unwrap() {
        let weight = "scales without their weight, which may be in another file: name the model's folder";
        let other = "a scale of activations or of the cache: activations are made up here, and quantised";
        let expected = if unused["tensor"].as_str().unwrap().starts_with('d') { other } else { weight };
        assert_eq!(unused["reason"], expected);
    }
}

#[test]
fn scales_of_another_type_of_weight_are_not_judged_either() {
    let ones = |name, count: usize| (name, Dtype::F32, vec![count, 1], f32_bytes(&vec![1.0; count]));
    let (code, report) = judged(vec![
        ("a.weight", Dtype::F32, vec![8, 128], f32_bytes(&values(1024))),
        ones("a.weight_scale", 8),
        ("b.weight", Dtype::I8, vec![8, 128], vec![1; 1024]),
        ones("b.weight_scale", 8),
        ("c.weight", Dtype::U8, vec![8, 64], vec![1; 512]),
        ("c.weight_scale", Dtype::F8_E4M3, vec![8, 8], codes(64)),
    ]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(listed(&report), (vec!["a.weight"], vec!["a.weight_scale", "b.weight", "c.weight"]));
    assert_eq!(report["fp8_matrices"], 0);
}

#[test]
fn formats_of_fp8_that_the_kernels_do_not_multiply_are_counted() {
    let of = |name, dtype| (name, dtype, vec![8, 128], codes(1024));
    let run = printed(vec![
        of("a.weight", Dtype::F8_E5M2),
        ("a.weight_scale_inv", Dtype::F32, vec![1, 1], f32_bytes(&[1.0])),
        of("b.weight", Dtype::F8_E4M3FNUZ),
        of("c.weight", Dtype::F8_E4M3),
        ("c.weight_scale", Dtype::F32, vec![], f32_bytes(&[1.0])),
    ]);
    assert!(run.stdout.ends_with(" 0 failed\n1 of 3 FP8 matrices checked\n"), "{}", run.stdout);
    assert_eq!((run.code, run.stderr.as_str()), (Some(3), ""));
    assert_eq!(run.stdout.matches("dequantised to BF16").count(), 2, "{}", run.stdout);
}

#[test]
fn two_tensors_that_may_both_be_the_scales_are_named() {
    let scale = |name, x: f32| (name, Dtype::F32, vec![1, 1], f32_bytes(&[x]));
    let (code, report) = judged(beside(vec![
        fp8("w.weight", 8, 128),
        scale("w.weight_scale", 1.0),
        scale("w.weight_scale_inv", 2.0),
    ]));
    assert_eq!(code, Some(3));
    let reason = report["unused"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("two tensors may be its scales: w.weight_scale"), "{reason}");
}

#[test]
fn stacked_experts_are_judged_one_by_one() {
    let stack = |name| (name, Dtype::F8_E4M3, vec![3, 136, 128], codes(3 * 136 * 128));
    let scales = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let (code, report) =
        judged(vec![stack("e.w"), ("e.w_scale_inv", Dtype::F32, vec![3, 2, 1], f32_bytes(&scales))]);
    assert_eq!((code, &report["fp8_checked"]), (Some(0), &3.into()), "{report}");
    for (expert, row) in rows(&report).iter().enumerate() {
        assert_eq!((&row["tensor"], &row["expert"]), (&"e.w".into(), &expert.into()));
        let bytes = codes(3 * 136 * 128)[expert * 136 * 128..][..136 * 128].to_vec();
        let alone = vec![
            ("w", Dtype::F8_E4M3, vec![136, 128], bytes),
            ("w_scale_inv", Dtype::F32, vec![2, 1], f32_bytes(&scales[2 * expert..][..2])),
        ];
        let alone = judged(alone).1;
        let same = |of: &Value| (of["checks"].clone(), of["quantisation_error"].clone());
        assert_eq!(same(row), same(&rows(&alone)[0]), "{expert}");
    }
    for shape in [&[3][..], &[3, 1], &[3, 1, 1], &[1]] {
        let scales = f32_bytes(&vec![0.5; shape[0]]);
        let (code, report) = judged(vec![stack("w"), ("w_scale", Dtype::F32, shape.to_vec(), scales)]);
        assert_eq!((code, &report["fp8_checked"]), (Some(0), &3.into()), "{shape:?}");
    }
}

#[test]
fn experts_that_cannot_be_used_are_counted_one_by_one_and_listed_together() {
    let mut bytes = codes(4 * 8 * 128);
    bytes[8 * 128] = 0x7f;
    bytes[3 * 8 * 128] = 0xff;
    let scales = f32_bytes(&[1.0; 4]);
    let (code, report) = judged(vec![
        ("w", Dtype::F8_E4M3, vec![4, 8, 128], bytes),
        ("w_scale", Dtype::F32, vec![4], scales),
        ("lonely", Dtype::F8_E4M3, vec![5, 8, 128], codes(5 * 1024)),
    ]);
    assert_eq!(code, Some(3));
    assert_eq!((&report["fp8_matrices"], &report["fp8_checked"]), (&9.into(), &2.into()));
    assert_eq!(report["unused"][1]["experts"], serde_json::json!([1, 3]), "{report}");
    assert_eq!(report["unused"].as_array().unwrap().len(), 2);
}

#[test]
fn a_pattern_takes_scales_with_their_weights_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let path = path.to_str().unwrap();
    let scale = ("l.weight_scale", Dtype::F32, vec![1, 1], f32_bytes(&[1.0]));
    write(Path::new(path), vec![fp8("l.weight", 8, 128), scale]);
    let report = verified(folder.path(), &["--weights", path, "--tensor", "^l.weight$"]);
    assert_eq!(listed(&report), (vec!["l.weight"], vec![]));
    let run = verify(["--weights", path, "--tensor", "scale"]);
    let said = format!("error: {path}: only scales match scale: they go with their weights, name those\n");
    assert_eq!((run.code, run.stderr), (Some(2), said));
}
