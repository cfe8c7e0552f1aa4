//! The translation units of the test kernels in `cuda/hopper/probes`.

use std::fmt::Write as _;

use crate::sources::{KernelSource, gemm_config};
use crate::table::gemm;
use crate::table::probes::{PROBES, ProbeKernel, STORAGE};

/// Every test kernel.
pub fn kernel_sources() -> Vec<KernelSource> {
    let source = |probe: &ProbeKernel| {
        let ProbeKernel { name, threads, cluster, smem_bytes } = *probe;
        let (file, kernel) = match *probe {
            STORAGE => ("gemm/storage_probe".to_owned(), storage_kernel()),
            _ => (format!("hopper/probes/{name}"), String::new()),
        };
        let text = format!(
            "#include \"{file}.cuh\"\n\
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
    for (index, instance) in gemm::GEMM_INSTANCES.iter().enumerate() {
        configs.push_str(&gemm_config(instance, &format!("Config{index}")));
        let _ = writeln!(calls, "  gemm::write_storage<Config{index}>(params, {index});");
    }
    format!("{configs}PTX_DEVICE void probe_storage_kernel(const ProbeParams& params) {{\n{calls}}}\n")
}
