//! Faults whose results tell what is wrong: the kind of bug that `regress check` names.

use check::case::Cases;
use check::planted::Trial;
use check::regress::diagnosis::Bug;
use check::regress::{DeviceClass, Held, Verdict, check, ours, record};
use deepseek_kernels::Device;

/// Faults, and what their diagnosis says.
pub const DIAGNOSED: [(&str, Bug, &str); 11] = [
    ("gemm::fp8_gemm::last_k32_dropped", Bug::StepLost, "columns 96 to 127 of each"),
    ("gemm::fp8_gemm::product_and_sum_rounded_apart", Bug::Rounding, ""),
    ("gemm::fp8_gemm::scales_of_the_other_row", Bug::ScaleOfA, "rows 8 apart exchanged"),
    ("gemm::fp8_gemm::scale_of_b_of_the_first_blocks", Bug::ScaleOfBlock, "of B's first 2"),
    ("gemm::fp8_gemm::scale_of_b_of_another_tile", Bug::ScaleOfB, "-1 blocks of columns on"),
    ("gemm::fp8_gemm::columns_exchanged_in_a_pair", Bug::ColumnsMoved, ""),
    ("gemm::fp8_gemm::tile_of_b_shifted", Bug::ColumnsMoved, ""),
    ("gemm::fp8_gemm::tile_stored_one_row_low", Bug::RowsMoved, ""),
    ("gemm::grouped_fp8_gemm::last_row_of_a_segment_lost", Bug::NotStored, ""),
    ("gemm::grouped_fp8_gemm::weights_of_the_first_expert", Bug::WeightsOfOther, "of expert 0"),
    ("gemm::grouped_fp8_gemm::scales_of_the_first_expert", Bug::ScaleOfB, "of expert 0"),
];

/// Records what the unchanged kernels give, and demands that the changed ones fail and the diagnosis names the bug.
pub fn diagnosed(name: &str, trial: Trial, unchanged: &Device, changed: &Device) {
    let Some(&(_, bug, detail)) = DIAGNOSED.iter().find(|(fault, ..)| *fault == name) else { return };
    let Trial::Cases(cases) = trial else { panic!("{name} is tried on no cases") };
    let class = DeviceClass::of(unchanged);
    let baseline = record(&ours(first(cases), 0, std::slice::from_ref(unchanged)), 1, class.clone(), 0);
    let baseline = baseline.expect("the unchanged kernels are right");
    let subjects = ours(first(cases), 0, std::slice::from_ref(changed));
    let report = check(&baseline, subjects, 1, class, Held::Both);
    assert_eq!(report.verdict, Verdict::Fail, "{:?}", report.cases);
    let [diagnosis] = &report.cases[0].diagnoses[..] else { panic!("no diagnosis: {:?}", report.cases) };
    assert_eq!((diagnosis.bug, diagnosis.detail.as_deref().unwrap_or("")), (bug, detail), "{diagnosis}");
}

fn first(cases: fn() -> Cases) -> Cases {
    cases().into_iter().take(1).collect()
}
