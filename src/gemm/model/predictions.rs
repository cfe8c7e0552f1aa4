//! The committed table of predictions for the public shapes, `benches/model/predicted.md`.

use std::fmt::Write as _;

use super::calibration::{deepgemm, number, report, time};
use super::*;
use crate::predictions::{assert_todays, geomean, table};
use crate::table::gemm::{GEMM_INSTANCES, GROUPED_GEMM_INSTANCES};

const SHAPES: &str = "benches/model/public-shapes.csv";
const PREDICTED: &str = "benches/model/predicted.md";
const MULTIPROCESSORS: u32 = 132;
/// Operations per microsecond of the tensor cores in FP8, by the data sheet of the H100 SXM.
const PEAK: f64 = 1979e6;

const HEAD: &str = "\
# Predicted times of the GEMMs: a model, not a measurement

**No time here was measured.** They are what the planner's model (`src/gemm/model.rs`) says of an H100 SXM with a cold, clean
L2, and of DeepGEMM 2.6.1's tiles in the same model. It takes rows that are few as the bytes that are loaded: boxes of 64
rows were measured far slower at M < 64 ([notes](../results/NOTES.md)), for reasons that are not known, so that **M < 64 is what
could be, not what was**. Known to be too short besides: launches of more than half a millisecond, by 5 to 8 %, since the
card's clock falls in them. A ratio within 3 % of 1 says nothing.

* *Floor*: each byte of the operands and of D once at 2.9 TB/s, or the products at the data sheet's 1979 TFLOP/s, whichever is
  longer.
* *Bound by*: the longest part of the time. *Latency*: the start, the ends of tiles, and what a K block waits for besides.
* *Ratio*: ours by DeepGEMM's; below 1 we are faster.
* What is above 1.02 has DeepGEMM's tile or one like it, two math warpgroups, and shared memory for a bound: there ours took
  7 % more a K block than the model says of theirs, in what run 4 measured. The model carries that as a fitted number, whose
  cause is not known.
* The shapes are those of [public-shapes.csv](public-shapes.csv), experts x rows of each x n x k.

`DEEPSEEK_KERNELS_BLESS=1 cargo test --lib gemm::model` writes this file; without the variable, the same test compares it.

## How far the model is from what it is fitted to

Eight numbers are fitted to all of these at once, and to the ratios of the last two rows, M < 64 left out; a ninth belongs to
DeepGEMM's kernels of until April 2025. The fit is in `src/gemm/model/calibration.rs`, whose tests fail when a step of a
number would be better; when the rms of all published times exceeds 8 %, or that of a row of run 4 what is here, rounded up to
whole percents; and when the planner takes an instance that was measured more than 3 % slower than another of that shape.
Published: [published.csv](published.csv), with an L2 full of written lines. Run 4:
[the record](../results/2026-11-27-h100/README.md).

| source | times | rms | worst |
|---|---|---|---|
";

/// A line of the file of shapes.
struct Shape {
    list: String,
    /// What a plan is told.
    planned: GemmProblem,
    /// What it then runs on; both have the rows of an expert.
    run: GemmProblem,
    deepgemm: String,
}

impl Shape {
    fn all() -> Vec<Self> {
        let shape = |[list, experts, expected, active, rows, n, k, deepgemm]: [String; 8]| {
            let [experts, expected, active, rows, n, k] =
                [experts, expected, active, rows, n, k].map(|text| number(&text));
            let planned = GemmProblem { experts, rows: expected, n, k, parts: 1 };
            let run = GemmProblem { experts: active, rows, n, k, parts: 1 };
            Self { list, planned, run, deepgemm }
        };
        table(SHAPES).into_iter().map(shape).collect()
    }

    fn is_dense(&self) -> bool {
        self.list.starts_with("dense")
    }

    fn name(&self) -> String {
        let GemmProblem { experts, rows, n, k, .. } = self.run;
        if self.is_dense() { format!("{rows}x{n}x{k}") } else { format!("{experts} x {rows}x{n}x{k}") }
    }

    /// Appends its line, and returns the ratio of the two times.
    fn line(&self, text: &mut String) -> f64 {
        let instances = if self.is_dense() { GEMM_INSTANCES } else { GROUPED_GEMM_INSTANCES };
        let of_bf16 = instances.iter().filter(|instance| instance.output == OutputType::Bf16);
        let choice = self.planned.fastest(of_bf16, self.planned.rows, MULTIPROCESSORS).expect("an instance");
        let instance = choice.instance;
        let ours = self.run.launch(&instance, self.run.rows, MULTIPROCESSORS).expect("a launch").estimate;
        let machine = Machine::h100(MULTIPROCESSORS);
        let theirs = time(&machine, &deepgemm(&self.deepgemm, self.run.rows), &self.run);

        let bytes = self.run.bytes(self.run.rows, instance.output.bytes().into()) / machine.dram_bytes_per_us;
        let products =
            2.0 * (self.run.experts * self.run.rows * self.run.n) as f64 * self.run.k as f64 / PEAK;
        let (floor, of) = if bytes > products { (bytes, "DRAM") } else { (products, "tensor") };
        let ratio = ours.us / theirs.us;
        let (name, bound, tile) = (self.name(), ours.bound(), &self.deepgemm);
        let (block_m, block_n, cluster) = (instance.block_m, instance.block_n, instance.cluster);
        let _ = writeln!(
            text,
            "| {name} | m{block_m}_n{block_n}_c{cluster} | {:.1} | {bound} | {floor:.1} {of} | {tile} | {:.1} | {ratio:.2} |",
            ours.us, theirs.us
        );
        ratio
    }
}

fn predicted() -> String {
    let shapes = Shape::all();
    let (mut means, mut lists, mut all) = (String::new(), String::new(), Vec::new());
    for of_list in shapes.chunk_by(|a, b| a.list == b.list) {
        let list = &of_list[0].list;
        let _ = write!(
            lists,
            "\n## {list}\n\n| shape | instance | us | bound by | floor, us | DeepGEMM's tile | us | ratio |\n|---|---|---|---|---|---|---|---|\n"
        );
        let ratios: Vec<f64> = of_list.iter().map(|shape| shape.line(&mut lists)).collect();
        let _ = writeln!(means, "| {list} | {} | {:.3} |", ratios.len(), geomean(&ratios));
        all.extend(ratios);
    }
    let total = format!("| **all** | {} | **{:.3}** |\n", all.len(), geomean(&all));
    let errors = report();
    format!(
        "{HEAD}{errors}\n## Ratios\n\n| list | shapes | geomean, model |\n|---|---|---|\n{means}{total}{lists}"
    )
}

/// The committed table is what the model says today.
#[test]
fn the_table_of_predictions_is_todays() {
    assert_todays(PREDICTED, &predicted());
}
