//! The translation units of the test kernels in `cuda/probes`.

use std::fmt::Write as _;

use crate::instances::GEMM_INSTANCES;
use crate::probe_kernels::{PROBES, ProbeKernel, STORAGE};
use crate::sources::{KernelSource, gemm_config};

/// Every test kernel.
pub fn kernel_sources() -> Vec<KernelSource> {
    let source = |probe: &ProbeKernel| {
        let ProbeKernel { name, threads, cluster, smem_bytes } = *probe;
        let kernel = if *probe == STORAGE { storage_kernel() } else { String::new() };
        let text = format!(
            "#include \"probes/{name}.cuh\"\n\
             {kernel}\
             PTX_KERNEL(probe_{name}, probe_{name}_kernel, ProbeParams, {threads}, {cluster})\n"
        );
        KernelSource { name: format!("probe_{name}"), text, smem_bytes }
    };
    PROBES.iter().map(source).collect()
}

/// The probe that looks at the storage of every GEMM.
fn storage_kernel() -> String {
    let mut configs = String::new();
    let mut calls = String::new();
    for (index, instance) in GEMM_INSTANCES.iter().enumerate() {
        configs.push_str(&gemm_config(instance, &format!("Config{index}")));
        let _ = writeln!(calls, "  write_storage<Config{index}>(params, {index});");
    }
    format!("{configs}PTX_DEVICE void probe_storage_kernel(const ProbeParams& params) {{\n{calls}}}\n")
}
