//! The emulator's side of the trace.

use check::trace::{Launch, REGION_BYTES, REGIONS, region};
use deepseek_kernels::probe::Operation;
use deepseek_kernels::probe::trace::TracedLaunch;

/// Operations by CTA and thread, in program order.
pub type Traces = Vec<Vec<Vec<Operation>>>;

/// Runs the launch in trace mode.
pub fn run(launch: &Launch, threads: usize) -> Result<Traces, String> {
    let regions: Vec<_> = (0..REGIONS).map(|i| region(i)..region(i) + REGION_BYTES).collect();
    let Launch { kernel, params, .. } = launch;
    let traced =
        TracedLaunch { kernel, grid: launch.grid, smem_bytes: launch.smem_bytes, params, regions: &regions };
    let mut traces: Traces = vec![vec![Vec::new(); threads]; launch.grid as usize];
    traced.run(&|_, _| None, &mut |cta, thread, name, operands| {
        traces[cta][thread].push(Operation { name, operands: operands.to_vec() });
    })?;
    Ok(traces)
}
