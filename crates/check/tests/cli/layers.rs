//! `verify` on layers: what is judged and printed.

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{rows, verified, verify};

#[test]
fn every_operation_is_judged_and_reported() {
    let folder = TempDir::new().unwrap();
    let report = verified(folder.path(), &["--shapes", "136x256", "--m", "65,1", "--seed", "7"]);
    assert_eq!(report["crate"], "deepseek-kernels");
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&report["device"]["name"], &report["seed"]), (&"emulated Hopper".into(), &7.into()));
    assert_eq!(report["failed"], 0);

    let mut operations: Vec<_> = rows(&report).iter().map(|row| row["operation"].as_str().unwrap()).collect();
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
        assert!(checks.iter().all(|check| check["failure"].is_null() && check["worst"].is_number()), "{row}");
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
