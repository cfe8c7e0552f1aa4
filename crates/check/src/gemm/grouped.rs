//! A grouped GEMM with NaN in every row of A that is nobody's.

use std::ops::Range;

use deepseek_kernels::gemm::{
    GemmInstance, GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec, Segments,
};
use deepseek_kernels::quant::{MMajor, Scales1x128};
use deepseek_kernels::{Device, Error, F8E4M3, bf16};
use oracles::gemm::Oracle;
use oracles::gemm::{GemmClass, GemmInputs};

use super::{Guarded, Placement, Sentinel, check_gemm};

pub const NAN_CODE: F8E4M3 = F8E4M3::from_bits(0x7f);

/// Whose rows are whose, and what says so on the device.
#[derive(Debug, Clone)]
pub struct Routing {
    pub segments: Segments,
    pub values: Vec<i32>,
    pub experts: Vec<Range<usize>>,
    pub rows: usize,
}

/// Segments after each other, and `spare` rows of nobody.
pub fn ragged(counts: &[usize], spare: usize) -> Routing {
    let mut values = vec![0];
    let mut experts = Vec::new();
    let mut row = 0;
    for &count in counts {
        experts.push(row..row + count);
        row += count;
        values.push(row as i32);
    }
    let rows = row + spare;
    Routing { segments: Segments::Ragged { rows }, values, experts, rows }
}

pub fn masked(counts: &[usize], max_rows: usize) -> Routing {
    let experts = counts.iter().enumerate().map(|(e, &count)| e * max_rows..e * max_rows + count).collect();
    let values = counts.iter().map(|&count| count as i32).collect();
    Routing { segments: Segments::Masked { max_rows }, values, experts, rows: counts.len() * max_rows }
}

/// The operands of every expert, as if each were a GEMM of its own.
pub fn operands(class: GemmClass, routing: &Routing, n: usize, k: usize, seed: u64) -> Vec<GemmInputs> {
    let of = |(e, rows): (usize, &Range<usize>)| {
        class.generate((rows.len(), n, k), seed + e as u64).expect("inputs")
    };
    routing.experts.iter().enumerate().map(of).collect()
}

/// All experts in one launch; D with NaN in every row that is nobody's.
pub fn run(
    device: &Device,
    routing: &Routing,
    inputs: &[GemmInputs],
    (n, k): (usize, usize),
    instance: Option<GemmInstance>,
) -> Result<Vec<bf16>, Error> {
    let (rows, k_blocks) = (routing.rows, k / 128);
    let mut a = vec![NAN_CODE; rows * k];
    let mut sfa = vec![f32::NAN; k_blocks * rows];
    for (range, own) in routing.experts.iter().zip(inputs) {
        a[range.start * k..range.end * k].copy_from_slice(&own.a);
        for g in 0..k_blocks {
            let scales = &own.sfa[g * range.len()..(g + 1) * range.len()];
            sfa[g * rows + range.start..g * rows + range.end].copy_from_slice(scales);
        }
    }
    let b: Vec<F8E4M3> = inputs.iter().flat_map(|own| own.b.clone()).collect();
    let sfb: Vec<f32> = inputs.iter().flat_map(|own| own.sfb.clone()).collect();
    let experts = inputs.len();
    let n_blocks = n.div_ceil(128);

    let a = Guarded::new(device, &a, rows, k, Placement { offset: 16, pitch: k + 16 }, NAN_CODE);
    let b = Guarded::new(device, &b, experts * n, k, Placement { offset: 32, pitch: k + 32 }, NAN_CODE);
    let pitch = rows.next_multiple_of(4) + 4;
    let sfa = Guarded::new(device, &sfa, k_blocks, rows, Placement { offset: 4, pitch }, f32::NAN);
    let sfb = Guarded::new(
        device,
        &sfb,
        experts * n_blocks,
        k_blocks,
        Placement { offset: 1, pitch: k_blocks + 1 },
        f32::NAN,
    );
    let values = &routing.values;
    let segments = Guarded::new(device, values, 1, values.len(), Placement::dense(values.len()), i32::MIN);
    let mut d = Guarded::unwritten(device, rows, n, Placement { offset: 8, pitch: n + 8 }, bf16::SENTINEL);

    let expected_rows = routing.experts.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
    let spec = GroupedFp8GemmSpec { experts, n, k, segments: routing.segments, expected_rows };
    let gemm = match instance {
        Some(instance) => GroupedFp8Gemm::plan_instance(device, spec, instance)?,
        None => GroupedFp8Gemm::plan(device, spec)?,
    };
    let args = GroupedFp8GemmArgs {
        a: a.matrix(),
        sfa: Scales1x128::<MMajor>::with_pitch(sfa.slice(), rows, k, sfa.pitch())?,
        b: b.matrix(),
        sfb: sfb.matrix(),
        segments: segments.matrix(),
        d: d.matrix_mut(),
    };
    gemm.run(device.stream()?, args)?;
    Ok(d.into_checked(bf16::bits))
}

/// Judges every expert's rows, and demands that the others still hold what they held.
pub fn judge(what: &str, routing: &Routing, inputs: &[GemmInputs], n: usize, oracles: &[Oracle], d: &[bf16]) {
    let mut owned = vec![false; routing.rows];
    for (e, (range, own)) in routing.experts.iter().zip(inputs).enumerate() {
        owned[range.clone()].fill(true);
        let rows = &d[range.start * n..range.end * n];
        check_gemm(&format!("{what}, expert {e}, rows {range:?}"), own, oracles, None, rows);
    }
    for row in (0..routing.rows).filter(|&row| !owned[row]) {
        let touched = d[row * n..(row + 1) * n].iter().any(|x| x.bits() != bf16::SENTINEL.bits());
        assert!(!touched, "{what}: row {row} is nobody's and was written");
    }
}
