//! Bits that depend neither on the batch nor on the tile.

use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::Device;
use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::table::gemm::{GEMM_INSTANCES, GROUPED_GEMM_INSTANCES, OutputType};
use deepseek_kernels::table::moe::GATE_UP_INSTANCES;
use oracles::gemm::GemmClass;

use super::{Comparisons, bits, only, rows};
use crate::case::{Case, Cases, boxed, memory_of};
use crate::gemm::fp8_gemm::{Fp8GemmCase, Fp8GemmProblem};
use crate::gemm::grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase};
use crate::mla::decode::{MlaDecodeCase, instances};
use crate::moe::gate_up_swiglu::GateUpSwigluCase;

/// Data whose sums are large and small, so that an order shows.
const CLASS: GemmClass = GemmClass::Outliers;

/// Rows of every expert of the grouped operations: several tiles, none, one.
const COUNTS: [usize; 4] = [131, 0, 1, 40];

/// Sequences of different lengths, of more splits than one and of none.
pub(super) const LENGTHS: [usize; 3] = [300, 0, 65];

pub(super) const FORMATS: [KvFormat; 3] = [KvFormat::Bf16, KvFormat::Fp8, KvFormat::Fp8PerTensor];

/// Rows of a GEMM, experts of a grouped one, sequences of a step, each alone.
pub fn batch(device: &Device) -> Result<Comparisons> {
    let mut held = Comparisons::default();
    let memory = memory_of("batch invariance");
    let (m, n, k) = (300, 136, 640);
    for output in [OutputType::Bf16, OutputType::F32] {
        let case = Fp8GemmCase { class: CLASS, output, ..Fp8GemmCase::new((m, n, k)) };
        let problem = case.problem()?;
        let whole = only(bits(Arc::new(problem.clone()), device, memory)?)?;
        for range in [0..1, 37..102, 291..300] {
            let mut part = problem.clone();
            part.inputs = part.inputs.rows(range.clone());
            part.case.m = range.len();
            let alone = only(bits(Arc::new(part), device, memory)?)?;
            let subject = format!("{}, rows {range:?}", case.name());
            held.compare(&subject, &[rows(&whole, range)], &[alone]);
        }
    }
    let case = GroupedFp8GemmCase {
        class: CLASS,
        ..GroupedFp8GemmCase::new(Assignment::ragged(&COUNTS, 2), (136, 640))
    };
    let problem = case.clone().problem()?;
    let together = only(bits(Arc::new(problem.clone()), device, memory)?)?;
    for (expert, range) in case.assignment.experts().into_iter().enumerate() {
        let inputs = problem.experts[expert].clone();
        let dense = Fp8GemmCase { class: CLASS, ..Fp8GemmCase::new((inputs.m, case.n, case.k)) };
        let alone = only(bits(Arc::new(Fp8GemmProblem::new(dense, inputs)), device, memory)?)?;
        let subject = format!("{}, expert {expert} and the dense GEMM", case.name());
        held.compare(&subject, &[rows(&together, range)], &[alone]);
    }
    for format in FORMATS {
        let case = MlaDecodeCase { q_tokens: 2, ..MlaDecodeCase::new(format, LENGTHS.to_vec()) };
        let problem = case.clone().problem()?;
        let together = bits(Arc::new(problem.clone()), device, memory)?;
        for sequence in 0..LENGTHS.len() {
            let alone = bits(Arc::new(problem.only(sequence)), device, memory)?;
            let queries = problem.queries(sequence);
            let of = |output: &crate::memory::Output| {
                let per_token = output.elements() / output.columns / problem.tokens();
                rows(output, queries.start * per_token..queries.end * per_token)
            };
            let expected: Vec<_> = together.iter().map(of).collect();
            held.compare(&format!("{}, sequence {sequence}", case.name()), &expected, &alone);
        }
    }
    Ok(held)
}

/// Every instance of an operation against the first.
pub fn tile(device: &Device) -> Result<Comparisons> {
    let mut held = Comparisons::default();
    let dense = |output| {
        let case = Fp8GemmCase { class: CLASS, ..Fp8GemmCase::new((131, 264, 640)) };
        let instances = GEMM_INSTANCES.iter().filter(move |instance| instance.output == output);
        boxed(instances.map(move |&instance| case.with(instance)))
    };
    let grouped = GROUPED_GEMM_INSTANCES.iter().map(|&instance| GroupedFp8GemmCase {
        class: CLASS,
        instance: Some(instance),
        ..GroupedFp8GemmCase::new(Assignment::ragged(&COUNTS, 2), (136, 640))
    });
    let gate_up = GATE_UP_INSTANCES
        .iter()
        .map(|&instance| GateUpSwigluCase::new(Assignment::ragged(&COUNTS, 2), (256, 640)).with(instance));
    let mut kinds: Vec<Cases> =
        vec![dense(OutputType::Bf16), dense(OutputType::F32), boxed(grouped), boxed(gate_up)];
    for format in FORMATS {
        let decode = instances(format).map(|instance| MlaDecodeCase {
            instance: Some(instance),
            heads: 128,
            ..MlaDecodeCase::new(format, LENGTHS.to_vec())
        });
        kinds.push(boxed(decode));
    }
    for cases in kinds {
        compare_all(&cases, device, &mut held)?;
    }
    Ok(held)
}

/// The cases' results against the first one's.
pub(super) fn compare_all(cases: &[Box<dyn Case>], device: &Device, held: &mut Comparisons) -> Result<()> {
    let mut first = None;
    for case in cases {
        let got = bits(case.draw()?, device, memory_of(&case.name()))?;
        match &first {
            None => first = Some(got),
            Some(first) => held.compare(&case.name(), first, &got),
        }
    }
    Ok(())
}
