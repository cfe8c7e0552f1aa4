//! The few lines of C++ that instantiate each entry of the table of kernels.

use crate::instances::{
    FixedKernel, GEMM_INSTANCES, GemmInstance, OutputType, QUANTIZE_1X128, QUANTIZE_128X128, TRANSPOSE_SCALES,
};

/// A generated translation unit.
pub struct KernelSource {
    /// Name of the kernel and of the file.
    pub name: String,
    /// The text of the file.
    pub text: String,
}

/// Every kernel of the crate.
pub fn kernel_sources() -> Vec<KernelSource> {
    let gemms = GEMM_INSTANCES.iter().map(|i| KernelSource { name: i.name(), text: gemm(i) });
    let fixed = [QUANTIZE_1X128, QUANTIZE_128X128, TRANSPOSE_SCALES];
    gemms.chain(fixed.iter().map(|k| KernelSource { name: k.name.to_owned(), text: single(k) })).collect()
}

fn gemm(instance: &GemmInstance) -> String {
    let GemmInstance { block_m, block_n, cluster, output } = instance;
    let (name, threads, stages) = (instance.name(), instance.threads(), instance.stages());
    let smem_bytes = instance.smem_bytes();
    let output = match output {
        OutputType::Bf16 => "Bf16",
        OutputType::F32 => "F32",
    };
    format!(
        "#include \"kernels/fp8_gemm.cuh\"\n\
         struct Config : Fp8GemmConfig {{\n\
         \x20 static constexpr int kBlockM = {block_m}, kBlockN = {block_n}, kStages = {stages}, kCluster = {cluster};\n\
         \x20 static constexpr Output kOutput = Output::k{output};\n\
         }};\n\
         static_assert(sizeof(Fp8GemmStorage<Config>) == {smem_bytes});\n\
         PTX_KERNEL({name}, fp8_gemm<Config>, Fp8GemmParams, {threads}, {cluster})\n"
    )
}

fn single(kernel: &FixedKernel) -> String {
    let FixedKernel { name, params, threads, smem_bytes } = kernel;
    format!(
        "#include \"kernels/{name}.cuh\"\n\
         static_assert({name}_threads == {threads} && {name}_smem_bytes == {smem_bytes});\n\
         PTX_KERNEL({name}, {name}_kernel, {params}, {threads}, 1)\n"
    )
}
