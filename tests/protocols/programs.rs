//! What the clusters of a launch do.

use std::collections::HashMap;

use check::protocol::extract::{Names, Recording};
use check::protocol::step::Program;
use check::trace::{Launch, REGION_BYTES, REGIONS, region};
use deepseek_kernels::probe::trace::TracedLaunch;
use deepseek_kernels::table::kernels;

/// Words of shared memory that a CTA has stored.
type Shared = HashMap<(usize, u64), u32>;

/// What each of its clusters does that does anything else than those before; none if the kernel has no mbarriers.
pub fn programs(launch: &Launch) -> Result<Vec<Program>, String> {
    let mut shared = Shared::new();
    loop {
        let (programs, stored) = with(launch, &shared)?;
        // What a thread reads in shared memory as a count is what was stored there, if the launch says what stands in memory.
        if launch.words.is_empty() || stored == shared {
            return Ok(programs);
        }
        shared = stored;
    }
}

fn with(launch: &Launch, shared: &Shared) -> Result<(Vec<Program>, Shared), String> {
    let regions: Vec<_> = (0..REGIONS).map(|i| region(i)..region(i) + REGION_BYTES).collect();
    let Launch { kernel, params, words, boxes, .. } = launch;
    let traced =
        TracedLaunch { kernel, grid: launch.grid, smem_bytes: launch.smem_bytes, params, regions: &regions };
    let word = |cta: usize, at: u64| match words.get(&at).or_else(|| shared.get(&(cta, at))) {
        None if !words.is_empty() && at < REGION_BYTES => Some(0),
        known => known.copied(),
    };
    let (mut recording, mut stored) = (Recording::default(), Shared::new());
    let bars = traced.run(&word, &mut |cta, thread, name, operands| {
        if let ("sts_u32", &[at, word]) = (name, operands) {
            stored.insert((cta, at), word as u32);
        }
        recording.record(cta, thread, name, operands);
    })?;
    let known =
        kernels().find(|known| known.name == *kernel).ok_or_else(|| format!("there is no {kernel}"))?;
    let all = recording.programs(known.cluster as usize, &Names { bars: &bars, boxes });
    let mut programs: Vec<Program> = Vec::new();
    for program in all.map_err(|why| format!("{kernel}: {why}"))? {
        if !programs.contains(&program) {
            programs.push(program);
        }
    }
    Ok((programs, stored))
}
