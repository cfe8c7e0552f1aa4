//! The program from outside: what it prints and writes, its exit codes, and what it says of files that it cannot use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deepseek_kernels::Device;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

/// A finished run.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn verify<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_deepseek-kernels"))
        .arg("verify")
        .args(arguments)
        .output()
        .expect("the program starts");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

/// Runs on the emulator and returns the parsed `--json` file.
fn verified(folder: &Path, arguments: &[&str]) -> Value {
    let json = folder.join("report.json");
    let run = verify(
        arguments
            .iter()
            .map(PathBuf::from)
            .chain(["--device", "emulated", "--json"].map(PathBuf::from).into_iter().chain([json.clone()])),
    );
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{}", run.stdout);
    serde_json::from_slice(&fs::read(json).expect("the report exists")).expect("the report is JSON")
}

fn rows(report: &Value) -> &Vec<Value> {
    report["rows"].as_array().expect("rows")
}

/// A driver's library without its functions, where cudarc would panic.
#[cfg(unix)]
#[test]
fn a_driver_without_its_functions_is_an_error() {
    let folder = TempDir::new().unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-x", "c", "/dev/null", "-o"])
        .arg(folder.path().join("libcuda.so"))
        .status();
    assert!(made.expect("the tests need a C compiler").success());
    let output = Command::new(env!("CARGO_BIN_EXE_deepseek-kernels"))
        .args(["verify", "--device", "gpu"])
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .expect("the program starts");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: no device to run on: the NVIDIA driver libcuda.so has no cuCtxGetCurrent: expected one for CUDA 12.8 \
         or newer\n"
    );
}

mod layers {
    use super::*;

    #[test]
    fn every_operation_is_judged_and_reported() {
        let folder = TempDir::new().unwrap();
        let report = verified(folder.path(), &["--shapes", "136x256", "--m", "65,1", "--seed", "7"]);
        assert_eq!(report["crate"], "deepseek-kernels");
        assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!((&report["device"]["name"], &report["seed"]), (&"emulated Hopper".into(), &7.into()));
        assert_eq!(report["failed"], 0);

        let mut operations: Vec<_> =
            rows(&report).iter().map(|row| row["operation"].as_str().unwrap()).collect();
        operations.sort_unstable();
        operations.dedup();
        assert_eq!(
            operations,
            [
                "FP8 GEMM, BF16 D +=",
                "FP8 GEMM, BF16 D =",
                "FP8 GEMM, F32 D +=",
                "FP8 GEMM, F32 D =",
                "quantise 128x128, 2^i",
                "quantise 128x128, FP32",
                "quantise 1x128, 2^i [m, k/128]",
                "quantise 1x128, FP32 [k/128, m]",
                "transpose scales",
            ]
        );
        for row in rows(&report) {
            let checks = row["checks"].as_array().unwrap();
            assert!(!checks.is_empty() && !row["instance"].as_str().unwrap().is_empty(), "{row}");
            assert!(
                checks.iter().all(|check| check["failure"].is_null() && check["worst"].is_number()),
                "{row}"
            );
        }
        let exact =
            |row: &&Value| row["checks"].as_array().unwrap().iter().any(|check| check["oracle"] == "exact");
        assert_eq!(rows(&report).iter().filter(exact).count(), 8);
        let checks: usize = rows(&report).iter().map(|row| row["checks"].as_array().unwrap().len()).sum();
        assert_eq!(report["passed"], checks);
    }

    #[test]
    fn a_seed_replays_and_another_one_does_not() {
        let folder = TempDir::new().unwrap();
        let worst = |seed| {
            let report = verified(folder.path(), &["--shapes", "8x128", "--m", "2", "--seed", seed]);
            rows(&report).iter().map(|row| row["checks"].clone()).collect::<Vec<_>>()
        };
        let first = worst("1");
        assert_eq!(first, worst("1"));
        assert_ne!(first, worst("2"));
    }

    #[test]
    fn the_table_names_what_ran() {
        let run = verify(["--device", "emulated", "--shapes", "8x128", "--m", "1"]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        for part in
            ["operation", "worst", "emulated Hopper", "1 x 8 x 128", "fp8_gemm", " checks passed, 0 failed\n"]
        {
            assert!(run.stdout.contains(part), "{part} is missing in\n{}", run.stdout);
        }
    }
}

mod weights {
    use super::*;

    /// Values like a layer's, without a generator.
    fn values(count: usize) -> Vec<f32> {
        (0..count as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 65536.0 * 0.08 - 0.04)
            .collect()
    }

    fn f32_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn u16_bytes(bits: impl Iterator<Item = u16>) -> Vec<u8> {
        bits.flat_map(u16::to_le_bytes).collect()
    }

    /// Finite codes of either sign.
    fn codes(count: usize) -> Vec<u8> {
        (0..count).map(|i| (i * 37 % 127) as u8 | ((i % 2) as u8) << 7).collect()
    }

    fn write(path: &Path, tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)>) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("a consistent tensor"))
        });
        safetensors::serialize_to_file(views, None, path).expect("the file is written");
    }

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
        let report = verified(folder.path(), &["--weights", &model(folder.path()), "--m", "5"]);
        assert_eq!(report["failed"], 0);

        let mut used: Vec<_> = rows(&report).iter().map(|row| row["tensor"].as_str().unwrap()).collect();
        used.sort_unstable();
        assert_eq!(used, ["brain", "fits", "fp8", "half", "odd", "ragged", "zero"]);
        let unused = report["unused"].as_array().unwrap();
        let mut reasons: Vec<_> =
            unused.iter().map(|u| (u["tensor"].as_str().unwrap(), u["reason"].as_str().unwrap())).collect();
        reasons.sort_unstable();
        assert_eq!(
            reasons,
            [
                ("cube", "3-D"),
                ("empty", "empty"),
                ("huge", "a value beyond the range of BF16"),
                ("infinite", "holds Inf or NaN"),
                ("integers", "neither F32, F16, BF16 nor F8_E4M3"),
                ("lonely", "FP8 without lonely_scale_inv"),
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
        let report = verified(folder.path(), &["--weights", &model(folder.path()), "--m", "64"]);
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
            verified(folder.path(), &["--weights", &model(folder.path()), "--tensor", "^(fits|cube)$"]);
        assert_eq!(rows(&report).len(), 1);
        assert_eq!(report["unused"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_an_error() {
        let folder = TempDir::new().unwrap();
        let file = model(folder.path());
        let run = verify(["--weights", &file, "--tensor", "layers.99"]);
        assert_eq!(
            (run.code, run.stderr),
            (Some(2), format!("error: {file}: no tensor matches layers.99\n"))
        );
    }

    #[test]
    fn tensors_of_which_none_can_be_used_are_an_error() {
        let folder = TempDir::new().unwrap();
        let run =
            verify(["--device", "emulated", "--weights", &model(folder.path()), "--tensor", "^vector$"]);
        assert_eq!(run.code, Some(2));
        assert_eq!(run.stderr, "error: nothing was checked: no tensor can be used, for the reasons above\n");
        assert!(run.stdout.contains("vector") && run.stdout.contains("1-D"), "{}", run.stdout);
    }

    fn bad_scales(dtype: Dtype, shape: Vec<usize>, bytes: usize, message: &str) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        write(
            &path,
            vec![
                ("w", Dtype::F8_E4M3, vec![136, 200], codes(136 * 200)),
                ("w_scale_inv", dtype, shape, vec![0; bytes]),
            ],
        );
        let run = verify([Path::new("--weights"), &path]);
        assert_eq!((run.code, run.stderr), (Some(2), format!("error: {}: {message}\n", path.display())));
    }

    #[test]
    fn scales_of_another_shape_are_refused() {
        bad_scales(Dtype::F32, vec![2, 1], 8, "w_scale_inv: expected F32 or BF16 [2, 2], got F32 [2, 1]");
    }

    #[test]
    fn scales_of_another_type_are_refused() {
        bad_scales(Dtype::F16, vec![2, 2], 8, "w_scale_inv: expected F32 or BF16 [2, 2], got F16 [2, 2]");
    }
}

/// Files that no tool wrote, or that did not arrive whole: one line each, and no device is opened.
mod hostile {
    use super::*;

    fn refused(bytes: &[u8], message: &str) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("hostile.safetensors");
        fs::write(&path, bytes).unwrap();
        refused_path(&path, message);
    }

    fn refused_path(path: &Path, message: &str) {
        let run = verify([Path::new("--weights"), path]);
        assert_eq!(run.stderr, format!("error: {}: {message}\n", path.display()));
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    }

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn header(header_bytes: u64, available: u64) -> String {
        format!(
            "not a safetensors file, or truncated: a header of {header_bytes} bytes, {available} bytes follow and \
             100000000 are allowed"
        )
    }

    #[test]
    fn missing() {
        refused_path(Path::new("no-such.safetensors"), "No such file or directory (os error 2)");
    }

    #[test]
    fn a_folder() {
        let folder = TempDir::new().unwrap();
        refused_path(folder.path(), "not a regular file");
    }

    #[test]
    fn too_short_for_a_header_length() {
        refused(&[1, 0, 0], "not a safetensors file: 3 bytes are too few for the header's length");
    }

    #[test]
    fn a_header_longer_than_memory() {
        refused(&[0xff; 16], &header(u64::MAX, 8));
    }

    #[test]
    fn a_truncated_header() {
        refused(&file("{}", 0)[..9], &header(2, 1));
    }

    #[test]
    fn a_header_that_is_not_json() {
        refused(&file("{\"w\"", 0), "bad safetensors header: EOF while parsing an object at line 1 column 4");
    }

    #[test]
    fn a_header_that_is_not_utf8() {
        let mut bytes = file("{\"?\":1}", 0);
        bytes[10] = 0xff;
        refused(&bytes, "bad safetensors header: invalid unicode code point at line 1 column 3");
    }

    #[test]
    fn a_header_nested_without_end() {
        let nested = "[".repeat(100_000);
        refused(
            &file(&format!("{{\"w\":{nested}"), 0),
            "bad safetensors header: recursion limit exceeded at line 1 column 132",
        );
    }

    #[test]
    fn an_unknown_type() {
        let header = r#"{"w":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#;
        let run_on = file(header, 4);
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("hostile.safetensors");
        fs::write(&path, run_on).unwrap();
        let run = verify([Path::new("--weights"), &path]);
        assert!(run.stderr.contains("bad safetensors header: unknown variant `F31`"), "{}", run.stderr);
        assert_eq!((run.code, run.stderr.lines().count()), (Some(2), 1));
    }

    #[test]
    fn tensors_that_overlap() {
        let tensor = |start, end| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":[{start},{end}]}}"#);
        let header = format!(r#"{{"a":{},"b":{}}}"#, tensor(0, 4), tensor(2, 6));
        refused(&file(&header, 6), "bad safetensors header: invalid offset for tensor `b`");
    }

    #[test]
    fn a_tensor_that_ends_before_it_starts() {
        let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#;
        refused(&file(header, 4), "bad safetensors header: invalid offset for tensor `a`");
    }

    #[test]
    fn a_shape_that_overflows() {
        let header = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#;
        let message = "overflow computing buffer size from shape and/or element type";
        refused(&file(header, 4), &format!("bad safetensors header: {message}"));
    }

    #[test]
    fn a_shape_of_more_bytes_than_the_tensor_has() {
        let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,4]}}"#;
        let message = "invalid shape, data type, or offset for tensor";
        refused(&file(header, 4), &format!("bad safetensors header: {message}"));
    }

    #[test]
    fn a_tensor_as_long_as_the_address_space() {
        let header =
            r#"{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#;
        let message = "overflow computing buffer size from shape and/or element type";
        refused(&file(header, 4), &format!("bad safetensors header: {message}"));
    }

    #[test]
    fn a_tensor_of_two_exabytes() {
        let header =
            r#"{"a":{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]}}"#;
        let message = "truncated: the header describes 2305843009213693951 bytes of tensors, the file has 4";
        refused(&file(header, 4), message);
    }

    #[test]
    fn truncated() {
        let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        refused(&file(header, 15), "truncated: the header describes 16 bytes of tensors, the file has 15");
    }

    #[test]
    fn longer_than_its_tensors() {
        let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        refused(&file(header, 17), "the header describes 16 bytes of tensors, the file has 17");
    }

    #[test]
    fn without_tensors() {
        refused(&file("{}", 0), "no tensors");
    }
}

mod options {
    use super::*;

    fn wrong(arguments: &[&str], message: &str) {
        let run = verify(arguments);
        assert!(run.stderr.contains(message), "{}", run.stderr);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    }

    #[test]
    fn a_pattern_needs_a_file() {
        wrong(&["--tensor", "x"], "--weights <FILE.safetensors>");
    }

    #[test]
    fn a_file_and_shapes_exclude_each_other() {
        wrong(&["--weights", "x", "--shapes", "8x128"], "cannot be used with");
    }

    #[test]
    fn a_pattern_that_does_not_parse() {
        wrong(&["--weights", "x", "--tensor", "("], "unclosed group");
    }

    #[test]
    fn a_shape_that_the_kernels_cannot_do() {
        wrong(&["--shapes", "8x100"], "k must be a multiple of 128 above 0, got 100");
    }

    #[test]
    fn no_rows() {
        wrong(&["--m", "0"], "0 is not in 1..=65536");
    }

    #[test]
    fn a_gpu_that_is_not_there() {
        match Device::open_gpu(0) {
            Ok(_) => eprintln!("SKIPPED: there is a GPU"),
            Err(error) => wrong(&["--device", "gpu"], &format!("error: no device to run on: {error}\n")),
        }
    }

    #[test]
    fn a_report_that_cannot_be_written_costs_no_run() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("no-such-folder/report.json");
        let arguments = ["--device", "emulated", "--json", file.to_str().unwrap()];
        let message =
            format!("error: cannot write {}: No such file or directory (os error 2)\n", file.display());
        wrong(&arguments, &message);
    }

    #[test]
    fn a_report_replaces_the_old_one_and_leaves_nothing_beside_it() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("report.json"), "old").unwrap();
        verified(folder.path(), &["--shapes", "8x128", "--m", "1"]);
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["report.json"]);
    }
}
