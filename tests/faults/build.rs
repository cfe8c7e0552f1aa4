//! Builds an emulator whose kernel has one planted fault: the machine's own objects, and one kernel compiled from a
//! changed copy of the sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deepseek_kernels::{Device, EmulatorOptions};
use tempfile::TempDir;

/// A change of one place in the sources.
#[derive(Clone, Copy)]
pub struct Edit {
    /// Below `cuda/`.
    pub file: &'static str,
    /// Text that occurs there exactly once.
    pub from: &'static str,
    /// What takes its place.
    pub to: &'static str,
}

/// The library with the kernels of an operation. The folder is deleted with it.
pub struct Library {
    folder: TempDir,
}

const CUDA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda");
const KERNELS: &str = env!("DK_KERNEL_DIR");

impl Library {
    /// Compiles `kernel` with the edits applied; panics with the compiler's words if it cannot.
    pub fn with(kernel: &str, edits: &[Edit]) -> Self {
        Self::of(&[kernel], edits)
    }

    /// Compiles all kernels of an operation.
    pub fn of(kernels: &[&str], edits: &[Edit]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for edit in edits {
            apply(folder.path(), edit);
        }
        let copy = |kernel: &&str| {
            let source = folder.path().join(kernel).with_extension("cpp");
            fs::copy(Path::new(KERNELS).join(kernel).with_extension("cu"), &source)
                .expect("the generated source");
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

    /// An emulated Hopper with this library's kernel.
    pub fn device(&self, seed: u64) -> Device {
        let options = EmulatorOptions { seed, multiprocessors: 4, ..Default::default() };
        // SAFETY: the library was built from this crate's `cuda/hopper/emulated/machine`, as its own emulator was.
        unsafe { Device::emulated_from_library(&self.folder.path().join("kernel.so"), options) }
            .expect("the library")
    }
}

/// Writes the changed file to `folder`, which precedes `cuda/` on the include path.
fn apply(folder: &Path, edit: &Edit) {
    let changed = folder.join(edit.file);
    let original = if changed.is_file() { changed.clone() } else { Path::new(CUDA).join(edit.file) };
    let text = fs::read_to_string(&original).expect("a source file");
    let places = text.matches(edit.from).count();
    assert_eq!(places, 1, "{}: `{}` must occur once to be changed", edit.file, edit.from);
    fs::create_dir_all(changed.parent().expect("a folder")).expect("a folder");
    fs::write(&changed, text.replacen(edit.from, edit.to, 1)).expect("a file");
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
