//! Builds an emulator whose kernels have a planted fault: the machine's own objects, and the kernels compiled from a
//! changed copy of the sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deepseek_kernels::{Device, EmulatorOptions};
use tempfile::TempDir;

use super::anchor::{Edit, Source, apply};

/// The library with the kernels of an operation. The folder is deleted with it.
pub struct Library {
    folder: TempDir,
}

const CUDA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda");
const KERNELS: &str = env!("DK_KERNEL_DIR");

impl Library {
    /// Compiles `kernels` with the edits applied; panics if an anchor is stale, or with the compiler's words.
    pub fn with(kernels: &[&str], edits: &[Edit]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        plant(folder.path(), kernels, edits);
        let copy = |kernel: &&str| {
            let source = folder.path().join(kernel).with_extension("cpp");
            fs::copy(generated(kernel), &source).expect("the generated source");
            source
        };
        let mut sources: Vec<PathBuf> = kernels.iter().map(copy).collect();
        let declared: String =
            kernels.iter().map(|kernel| format!("extern const emu::Kernel {kernel}; ")).collect();
        let listed: String = kernels.iter().map(|kernel| format!("&{kernel}, ")).collect();
        let table = folder.path().join("table.cpp");
        let text = format!(
            "#include \"hopper/emulated/machine/machine.h\"\nextern \"C\" {{ {declared}}}\n\
             extern const emu::Kernel* const emu_kernels[];\n\
             const emu::Kernel* const emu_kernels[] = {{{listed}nullptr}};\n"
        );
        fs::write(&table, text).expect("a file");
        sources.push(table);
        compile(folder.path(), &sources);
        Self { folder }
    }

    /// An emulated Hopper with this library's kernels.
    pub fn device(&self, seed: u64) -> Device {
        let options = EmulatorOptions { seed, multiprocessors: 4, ..Default::default() };
        // SAFETY: the library was built from this crate's `cuda/hopper/emulated/machine`, as its own emulator was.
        unsafe { Device::emulated_from_library(&self.folder.path().join("kernel.so"), options) }
            .expect("the library")
    }
}

/// The few lines that build.rs writes for a kernel.
fn generated(kernel: &str) -> PathBuf {
    Path::new(KERNELS).join(kernel).with_extension("cu")
}

/// Writes the changed files to `folder`, which precedes `cuda/` on the include path.
fn plant(folder: &Path, kernels: &[&str], edits: &[Edit]) {
    let mut sources = sources(kernels);
    for edit in edits {
        let file = apply(&mut sources, edit).unwrap_or_else(|stale| panic!("{stale}"));
        let changed = folder.join(&sources[file].path);
        fs::create_dir_all(changed.parent().expect("a folder")).expect("a folder");
        fs::write(&changed, &sources[file].text).expect("a file");
    }
}

/// All that the kernels include from `cuda/`. The emulated `ptx/` lies elsewhere on the include path: it belongs to the
/// machine.
fn sources(kernels: &[&str]) -> Vec<Source> {
    let mut found: Vec<Source> = Vec::new();
    let texts =
        kernels.iter().map(|kernel| fs::read_to_string(generated(kernel)).expect("the generated source"));
    let mut unread: Vec<String> = texts.flat_map(|text| included(&text)).collect();
    while let Some(path) = unread.pop() {
        let file = Path::new(CUDA).join(&path);
        if found.iter().any(|source| source.path == path) || !file.is_file() {
            continue;
        }
        let text = fs::read_to_string(file).expect("a source file");
        unread.extend(included(&text));
        found.push(Source { path, text });
    }
    found
}

/// The files that `text` includes in quotes.
fn included(text: &str) -> Vec<String> {
    let paths = text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")?.split('"').next());
    paths.map(str::to_owned).collect()
}

/// Objects of the emulated machine: those whose source lies in `cuda/hopper/emulated/machine`.
fn machine_objects() -> Vec<PathBuf> {
    let built = Path::new(KERNELS).with_file_name("emulator");
    let sources = fs::read_dir(Path::new(CUDA).join("hopper/emulated/machine")).expect("the machine");
    let cpp = sources
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cpp"));
    cpp.map(|path| built.join(path.file_stem().expect("a name")).with_extension("o")).collect()
}

fn compile(folder: &Path, sources: &[PathBuf]) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let output = Command::new(compiler)
        .args(["-std=c++20", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-w"])
        .args([
            Path::new("-I"),
            folder,
            Path::new("-I"),
            Path::new(CUDA),
            Path::new("-I"),
            &Path::new(CUDA).join("hopper/emulated"),
        ])
        .args(sources)
        .args(machine_objects())
        .arg("-o")
        .arg(folder.join("kernel.so"))
        .output()
        .expect("a C++ compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
