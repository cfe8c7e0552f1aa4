//! The few lines of C++ that instantiate each entry of the table of kernels.

use crate::table::gemm::{self, GemmInstance, OutputType, Schedule};
use crate::table::mla::{self, MlaInstance};
use crate::table::{FixedKernel, MAX_EXPERTS, fixed_kernels};

/// A generated translation unit.
pub struct KernelSource {
    /// Name of the kernel and of the file.
    pub name: String,
    /// The text of the file.
    pub text: String,
    /// Dynamic shared memory of a CTA.
    pub smem_bytes: u32,
}

/// Every kernel of the crate.
pub fn kernel_sources() -> Vec<KernelSource> {
    let gemms = gemm::GEMM_INSTANCES.iter().chain(gemm::GROUPED_GEMM_INSTANCES).map(|i| KernelSource {
        name: i.name(),
        text: gemm_source(i),
        smem_bytes: i.smem_bytes(),
    });
    let fixed = fixed_kernels().map(|k| KernelSource {
        name: k.name.to_owned(),
        text: fixed_source(k),
        smem_bytes: k.smem_bytes,
    });
    let attention = mla::MLA_INSTANCES.iter().map(|i| KernelSource {
        name: i.name(),
        text: mla_source(i),
        smem_bytes: i.smem_bytes(),
    });
    gemms.chain(attention).chain(fixed).collect()
}

/// The C++ configuration `name` of an instance.
pub fn gemm_config(instance: &GemmInstance, name: &str) -> String {
    let GemmInstance { block_m, block_n, cluster, output, .. } = instance;
    let stages = instance.stages();
    let output = match output {
        OutputType::Bf16 => "Bf16",
        OutputType::F32 => "F32",
    };
    format!(
        "namespace {{  // or the host's linker would take every file's fp8_gemm<Config> for the same function\n\
         struct {name} : gemm::Fp8GemmConfig {{\n\
         \x20 static constexpr int kBlockM = {block_m}, kBlockN = {block_n}, kStages = {stages}, kCluster = {cluster};\n\
         \x20 static constexpr Output kOutput = Output::k{output};\n\
         }};\n\
         }}  // namespace\n"
    )
}

fn gemm_source(instance: &GemmInstance) -> String {
    let (name, threads, cluster) = (instance.name(), instance.threads(), instance.cluster);
    let smem_bytes = instance.smem_bytes();
    let config = gemm_config(instance, "Config");
    let (function, storage, params, experts) = match instance.schedule {
        Schedule::Dense => ("fp8_gemm", "Fp8GemmStorage", "Fp8GemmParams", String::new()),
        Schedule::Grouped => (
            "grouped_fp8_gemm",
            "GroupedFp8GemmStorage",
            "GroupedFp8GemmParams",
            format!("static_assert(MAX_EXPERTS == {MAX_EXPERTS});\n"),
        ),
    };
    format!(
        "#include \"gemm/{function}.cuh\"\n\
         {experts}\
         {config}\
         static_assert(sizeof(gemm::{storage}<Config>) == {smem_bytes});\n\
         PTX_KERNEL({name}, gemm::{function}<Config>, {params}, {threads}, {cluster})\n"
    )
}

fn mla_source(instance: &MlaInstance) -> String {
    let MlaInstance { fp8_cache, cluster } = instance;
    let (name, threads, smem_bytes) = (instance.name(), instance.threads(), instance.smem_bytes());
    let cache = if *fp8_cache { "Fp8" } else { "Bf16" };
    format!(
        "#include \"mla/mla_decode.cuh\"\n\
         namespace {{\n\
         struct Config : mla::MlaDecodeConfig {{\n\
         \x20 static constexpr Cache kCache = Cache::k{cache};\n\
         \x20 static constexpr int kCluster = {cluster};\n\
         }};\n\
         }}  // namespace\n\
         static_assert(sizeof(mla::MlaDecodeStorage<Config>) == {smem_bytes});\n\
         PTX_KERNEL({name}, mla::mla_decode<Config>, MlaDecodeParams, {threads}, {cluster})\n"
    )
}

fn fixed_source(kernel: &FixedKernel) -> String {
    let FixedKernel { family, name, params, threads, smem_bytes } = kernel;
    format!(
        "#include \"{family}/{name}.cuh\"\n\
         static_assert({family}::{name}_threads == {threads} && {family}::{name}_smem_bytes == {smem_bytes});\n\
         PTX_KERNEL({name}, {family}::{name}_kernel, {params}, {threads}, 1)\n"
    )
}

/// The file with the list that the emulator looks kernels up in, ended by null.
pub fn emulator_table(kernels: &[KernelSource]) -> String {
    let names = || kernels.iter().map(|kernel| &kernel.name);
    let declarations: String = names().map(|name| format!("extern const emu::Kernel {name};\n")).collect();
    let entries: String = names().map(|name| format!("&{name}, ")).collect();
    format!(
        "#include \"hopper/emulated/machine/machine.h\"\n\
         extern \"C\" {{\n\
         {declarations}\
         const emu::Kernel* const emu_kernels[] = {{{entries}nullptr}};\n\
         }}\n"
    )
}
