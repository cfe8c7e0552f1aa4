//! Operations in several ways: fused and apart, whole and in parts, launched and replayed.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use deepseek_kernels::mla::MlaDecodeSpec;
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{Device, Stream};

use super::invariance::{FORMATS, compare_all};
use super::{Comparisons, bits};
use crate::bench::timing::capture;
use crate::case::{Case, attempt, boxed, memory_of, wait};
use crate::families;
use crate::gemm::grouped_fp8_gemm::Assignment;
use crate::memory::{Arena, Memory, Output};
use crate::mla::decode::{Launches, MlaDecodeCase};
use crate::mla::merge_states::{MergeStatesCase, MergeStatesProblem, Part};
use crate::moe::LAYOUTS;
use crate::moe::expert_map::{ExpertMapCase, ExpertMapProblem};
use crate::moe::gate_map::GateMapCase;
use crate::moe::gate_up_swiglu::GateUpSwigluCase;
use crate::router::gate::GateCase;

/// Gate, up and SwiGLU; the router and the map; a step with its schedule.
pub fn fused(device: &Device) -> Result<Comparisons> {
    let mut held = Comparisons::default();
    for clamp in [None, Some(0.75)] {
        let case = GateUpSwigluCase::new(Assignment::ragged(&[3, 0, 129, 64], 3), (256, 256));
        let case = GateUpSwigluCase { clamp, ..case };
        let problem = Arc::new(case.clone().problem()?);
        let together = bits(problem.clone(), device, memory_of(&case.name()))?;
        let (q, sf) = problem.apart(device)?;
        let assignment = &case.gemm.assignment;
        let apart = [Output::of("q", 256, &q), Output::of("sf", assignment.rows(), &sf)];
        // Of rows that somebody has.
        for rows in assignment.experts() {
            let codes = |outputs: &[Output]| super::rows(&outputs[0], rows.clone());
            let scales = |outputs: &[Output]| {
                let sf: Vec<f32> = outputs[1].values();
                let lines = sf.chunks_exact(assignment.rows()).flat_map(|line| line[rows.clone()].to_vec());
                Output::of("sf", rows.len(), &lines.collect::<Vec<_>>())
            };
            let both = |outputs: &[Output]| [codes(outputs), scales(outputs)];
            held.compare(&format!("{}, rows {rows:?}", case.name()), &both(&apart), &both(&together));
        }
    }
    for layout in LAYOUTS {
        let spec = GateSpec::new(37, 64, 72, 6).groups(8).kept_groups(4);
        let case = GateMapCase::new(GateCase { bias: true, ..GateCase::new(spec) }).laid_out(layout);
        let (problem, memory) = (case.problem(), memory_of(&case.name()));
        let gate = bits(Arc::new(problem.gate.clone()), device, memory)?;
        let map = ExpertMapCase { spec: case.spec().map(), ..ExpertMapCase::new((0, 0, 0)) };
        let ids = gate[0].values();
        let map = ExpertMapProblem { case: map, ids, local_ids: problem.local_ids.clone() };
        let apart = [gate, bits(Arc::new(map), device, memory)?].concat();
        held.compare(&case.name(), &apart, &bits(Arc::new(problem), device, memory)?);
    }
    for format in FORMATS {
        let case = |launches| MlaDecodeCase { launches, ..MlaDecodeCase::new(format, vec![300, 0, 65]) };
        compare_all(&boxed([Launches::Apart, Launches::Whole].map(case)), device, &mut held)?;
    }
    Ok(held)
}

/// Attention in one split and in parts.
pub fn split_and_merged(device: &Device) -> Result<Comparisons> {
    let mut held = Comparisons::default();
    for format in FORMATS {
        let step = |lengths: &[usize]| MlaDecodeCase::new(format, lengths.to_vec());
        let split = |keys| MlaDecodeCase { split_keys: Some(keys), ..step(&[100, 128, 0]) };
        compare_all(&boxed([split(128), split(1024)]), device, &mut held)?;

        let case = step(&[64, 0, 33]);
        let problem = case.clone().problem()?;
        let whole = bits(Arc::new(problem.clone()), device, Memory::Poisoned(1))?;
        for pages in [0, 1] {
            let merged = merged(device, &problem.halves(pages), problem.spec)?;
            let subject = format!("{}, a part of {pages} pages and the rest", case.name());
            held.compare(&subject, &as_rows(&whole), &as_rows(&merged));
        }
        // The bound judges the merge.
        let parts = step(&[300, 193]).problem()?;
        merged(device, &parts.halves(2), parts.spec)?;
        held.held += 1;
    }
    Ok(held)
}

/// Names and rows of two operations alike.
fn as_rows(outputs: &[Output]) -> Vec<Output> {
    let names = ["out", "lse"].into_iter().zip(outputs);
    names.map(|(name, output)| Output { name, columns: 1, ..output.clone() }).collect()
}

/// The merge of both parts' states, judged.
fn merged(
    device: &Device,
    parts: &[crate::mla::decode::MlaDecodeProblem; 2],
    spec: MlaDecodeSpec,
) -> Result<Vec<Output>> {
    let state = |part: &crate::mla::decode::MlaDecodeProblem| -> Result<Part> {
        Ok(Part::of_step(&bits(Arc::new(part.clone()), device, Memory::Poisoned(1))?))
    };
    let case = MergeStatesCase::new(spec.batch * spec.q_tokens, spec.heads);
    let parts = [state(&parts[0])?, state(&parts[1])?];
    Ok(attempt(Arc::new(MergeStatesProblem { case, parts }), device, Memory::Poisoned(1))?.outputs)
}

/// Of every operation one case, launched, and captured and replayed.
pub fn graph(device: &Device) -> Result<Comparisons> {
    let mut held = Comparisons::default();
    let Stream::Cuda(own) = device.stream()? else {
        held.unasked = Some("the emulator alone has no graphs; the fake driver has".to_owned());
        return Ok(held);
    };
    let mut seen = BTreeSet::new();
    for case in families::all(|family| (family.smoke)()) {
        if !case.repeatable() || !seen.insert(case.operation()) {
            continue;
        }
        let (problem, memory) = (case.draw()?, memory_of(&case.name()));
        let eager = bits(problem.clone(), device, memory)?;
        let mut prepared = problem.prepare(&mut Arena::new(device, memory))?;
        wait(Stream::Cuda(own))?;
        let stream = own.context().new_stream()?;
        let graph = capture(&stream, || Ok(prepared.launch(Stream::Cuda(&stream))?))?;
        graph.launch()?;
        graph.launch()?;
        stream.synchronize()?;
        held.compare(&case.name(), &eager, &prepared.outputs()?);
    }
    Ok(held)
}
