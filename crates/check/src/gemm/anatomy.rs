//! The FP8 GEMMs taken apart: their tiles, and what bugs of theirs would give.

use std::ops::Range;

use deepseek_kernels::table::gemm::{GEMM_INSTANCES, GROUPED_GEMM_INSTANCES, SLICE_ROWS};
use oracles::gemm::GemmInputs;

use crate::anatomy::{Hypothesis, Segment, Tiling};
use crate::regress::diagnosis::Bug;

/// Columns of a K block.
const BLOCK: usize = 128;
/// Columns of a step of the tensor core.
const STEP: usize = 32;
/// Tiles of an expert start at a multiple of so many rows.
const SEGMENT_ALIGNMENT: usize = 8;

/// The tiles of an instance over a matrix of so many rows.
///
/// # Panics
/// Unless there is an instance of this name.
pub fn matrix_tiling(instance: &str, rows: usize) -> Tiling {
    tiling(instance, vec![Segment { name: String::new(), rows: 0..rows, first: 0 }])
}

/// The tiles of an instance over experts.
///
/// # Panics
/// As [`matrix_tiling`].
pub fn experts_tiling(instance: &str, experts: &[Range<usize>]) -> Tiling {
    let segment = |(expert, rows): (usize, &Range<usize>)| Segment {
        name: format!("expert {expert}"),
        first: rows.start / SEGMENT_ALIGNMENT * SEGMENT_ALIGNMENT,
        rows: rows.clone(),
    };
    tiling(instance, experts.iter().enumerate().map(segment).collect())
}

fn tiling(instance: &str, segments: Vec<Segment>) -> Tiling {
    let mut instances = GEMM_INSTANCES.iter().chain(GROUPED_GEMM_INSTANCES);
    let instance = instances.find(|known| known.name() == instance).expect("an instance");
    let slices = (instance.block_m / SLICE_ROWS / instance.math_warpgroups()) as usize;
    let columns = instance.block_n as usize;
    let warpgroup = (slices * SLICE_ROWS as usize, columns);
    Tiling { segments, tile: (instance.block_m as usize, columns), warpgroup }
}

/// Experts' operands, and where their rows of D are.
pub struct Sums<'p> {
    pub experts: &'p [GemmInputs],
    pub rows: Vec<Range<usize>>,
    /// What D held before.
    pub initial: Option<fn(usize, usize) -> f32>,
}

/// Which operands an element is made of, where a kernel errs.
#[derive(Clone, Copy, Default)]
struct Wrong {
    /// The scale of the row so many on, or of the one that has changed places with it over so many.
    row: isize,
    exchange: usize,
    /// The scale of the block of columns so many on.
    columns: isize,
    /// The scales of B's first K blocks, so many, again and again.
    first_blocks: Option<usize>,
    /// The scales of the K block so many on; of A, and of B.
    block_of_a: isize,
    block_of_b: isize,
    /// K blocks are left out, and counted twice.
    lost: Option<usize>,
    twice: Option<usize>,
    /// A step of every K block is left out.
    step: Option<usize>,
    /// Another expert's B, and its scales.
    codes: Option<usize>,
    scales: Option<usize>,
}

impl<'p> Sums<'p> {
    /// Of one matrix.
    pub fn of_matrix(inputs: &'p GemmInputs, initial: Option<fn(usize, usize) -> f32>) -> Self {
        Self { experts: std::slice::from_ref(inputs), rows: std::iter::once(0..inputs.m).collect(), initial }
    }

    /// What known bugs would give.
    pub fn hypotheses(self) -> Vec<Hypothesis<'p>> {
        let blocks = self.experts.first().map_or(0, |own| own.k.div_ceil(BLOCK));
        let sums = std::rc::Rc::new(self);
        let with = |bug, detail: String, wrong: Wrong| {
            let sums = sums.clone();
            Hypothesis { bug, detail, value: Box::new(move |row, column| sums.value(row, column, wrong)) }
        };
        let right = Wrong::default();
        let mut all = Vec::new();
        for block in 0..blocks {
            let block_of = format!("K block {block}");
            all.push(with(Bug::BlockLost, block_of.clone(), Wrong { lost: Some(block), ..right }));
            all.push(with(Bug::BlockTwice, block_of, Wrong { twice: Some(block), ..right }));
        }
        for step in 0..BLOCK / STEP {
            let columns = format!("columns {} to {} of each", step * STEP, (step + 1) * STEP - 1);
            all.push(with(Bug::StepLost, columns, Wrong { step: Some(step), ..right }));
        }
        for row in [1, -1, 8, -8, 2, -2, 16, -16, 64, -64] {
            all.push(with(Bug::ScaleOfA, format!("{row:+} rows on"), Wrong { row, ..right }));
        }
        for exchange in [1, 8, 16] {
            let detail = format!("rows {exchange} apart exchanged");
            all.push(with(Bug::ScaleOfA, detail, Wrong { exchange, ..right }));
        }
        for columns in [1, -1] {
            let detail = format!("{columns:+} blocks of columns on");
            all.push(with(Bug::ScaleOfB, detail, Wrong { columns, ..right }));
        }
        for block in [1, -1] {
            let detail = |of: &str| format!("{block:+} K blocks on, of {of}");
            all.push(with(Bug::ScaleOfBlock, detail("A"), Wrong { block_of_a: block, ..right }));
            all.push(with(Bug::ScaleOfBlock, detail("B"), Wrong { block_of_b: block, ..right }));
        }
        for first in [1, 2] {
            let wrong = Wrong { first_blocks: Some(first), ..right };
            all.push(with(Bug::ScaleOfBlock, format!("of B's first {first}"), wrong));
        }
        for expert in 0..sums.experts.len().min(16) {
            let wrong = Wrong { codes: Some(expert), ..right };
            all.push(with(Bug::WeightsOfOther, format!("of expert {expert}"), wrong));
            let both = Wrong { scales: Some(expert), ..wrong };
            all.push(with(Bug::WeightsOfOther, format!("of expert {expert}, with their scales"), both));
            let wrong = Wrong { scales: Some(expert), ..right };
            all.push(with(Bug::ScaleOfB, format!("of expert {expert}"), wrong));
        }
        all
    }

    /// An element by wrong operands; none where there are no such operands.
    fn value(&self, row: usize, column: usize, wrong: Wrong) -> Option<f64> {
        let expert = self.rows.iter().position(|rows| rows.contains(&row))?;
        let own = &self.experts[expert];
        let codes = &self.experts[wrong.codes.unwrap_or(expert)];
        let scales = &self.experts[wrong.scales.unwrap_or(expert)];
        let (m, k, local) = (own.m, own.k, row - self.rows[expert].start);
        let blocks = k.div_ceil(BLOCK);
        let part = own.n / own.parts.max(1);
        let scale_row = (column / part * part.div_ceil(BLOCK) + column % part / BLOCK)
            .checked_add_signed(wrong.columns)
            .filter(|row| (row + 1) * blocks <= scales.sfb.len())?;
        let scaled_as = (local ^ wrong.exchange).checked_add_signed(wrong.row).filter(|&row| row < m)?;
        let mut sum = 0.0;
        for block in (0..blocks).filter(|&block| wrong.lost != Some(block)) {
            // A block at the end has no next one, and none knows what is read there.
            let of = |step: isize| block.checked_add_signed(step).filter(|&other| other < blocks);
            let (a, b) = (of(wrong.block_of_a).unwrap_or(block), of(wrong.block_of_b).unwrap_or(block));
            let b = wrong.first_blocks.map_or(b, |first| b % first);
            let scale = f64::from(own.sfa[a * m + scaled_as]) * f64::from(scales.sfb[scale_row * blocks + b]);
            let columns =
                (block * BLOCK..k.min((block + 1) * BLOCK)).filter(|i| wrong.step != Some(i % BLOCK / STEP));
            let product = |i: usize| {
                f64::from(own.a[local * k + i].to_f32()) * f64::from(codes.b[column * k + i].to_f32())
            };
            let term = scale * columns.map(product).sum::<f64>();
            sum += if wrong.twice == Some(block) { 2.0 * term } else { term };
        }
        Some(sum + self.initial.map_or(0.0, |initial| f64::from(initial(row, column))))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use deepseek_kernels::{F8E4M3, bf16};
    use oracles::gemm::{GemmClass, Sample, reference};

    use super::*;
    use crate::anatomy::Anatomy;
    use crate::memory::Output;
    use crate::regress::diagnosis::{Diagnosis, diagnose};
    use crate::regress::digest::Bits;

    const SHAPE: (usize, usize, usize) = (70, 136, 640);

    struct Gemm(GemmInputs);

    impl Gemm {
        fn d(&self) -> Output {
            let sums = reference(&self.0.operands().unwrap(), &Sample::all(SHAPE.0, SHAPE.1));
            Output::of("d", SHAPE.1, &sums.into_iter().map(bf16::from_f64).collect::<Vec<_>>())
        }
    }

    impl Anatomy for Gemm {
        fn expected(&self) -> Result<Vec<Output>> {
            Ok(vec![self.d()])
        }

        fn tiling(&self) -> Tiling {
            matrix_tiling("fp8_gemm_m64_n64_c1_bf16", SHAPE.0)
        }

        fn hypotheses(&self) -> Vec<Hypothesis<'_>> {
            Sums::of_matrix(&self.0, None).hypotheses()
        }
    }

    /// What is said of a result of changed inputs.
    fn diagnosis(class: GemmClass, change: impl FnOnce(&mut GemmInputs)) -> Diagnosis {
        let right = Gemm(class.generate(SHAPE, 1).unwrap());
        let mut wrong = right.0.clone();
        change(&mut wrong);
        let got = Bits::of(&Gemm(wrong).d());
        diagnose("d", &Bits::of(&right.d()), &got, Some(&right)).expect("a difference")
    }

    #[test]
    fn what_a_known_bug_gives_is_recognised() {
        let (m, _, k) = SHAPE;
        for class in [GemmClass::SignedIntegers, GemmClass::Normal] {
            let lost = diagnosis(class, |inputs| {
                let rows = inputs.a.chunks_mut(k);
                rows.for_each(|row| row[3 * BLOCK..4 * BLOCK].fill(F8E4M3::from_bits(0)));
            });
            assert_eq!((lost.bug, lost.detail.as_deref()), (Bug::BlockLost, Some("K block 3")), "{lost}");
            let twice = diagnosis(class, |inputs| {
                inputs.sfa[2 * m..3 * m].iter_mut().for_each(|scale| *scale *= 2.0)
            });
            assert_eq!((twice.bug, twice.detail.as_deref()), (Bug::BlockTwice, Some("K block 2")), "{twice}");
            let row = diagnosis(class, |inputs| {
                (0..k / BLOCK).for_each(|block| inputs.sfa[block * m + 20] = inputs.sfa[block * m + 21]);
            });
            assert_eq!((row.bug, row.pattern.as_str()), (Bug::ScaleOfA, "one row, 20"), "{row}");
            assert_eq!(row.first.place.as_deref(), Some("tile (0, 0), warpgroup 0"));
        }
    }
}
