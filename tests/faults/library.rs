//! Builds an emulator whose kernels have a planted fault: the machine's own objects, and the kernels compiled from a
//! changed copy of the sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use build_support::emulator_table;
use check::planted::Edit;
use check::planted::anchor::{Source, apply};
use deepseek_kernels::{Device, EmulatorOptions};
use tempfile::TempDir;

/// The library with the kernels of an operation. The folder is deleted with it.
pub struct Library {
    folder: TempDir,
}

pub const CUDA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda");
const KERNELS: &str = env!("DK_KERNEL_DIR");

impl Library {
    /// Builds `kernels` with the edits applied; panics if an anchor is stale, or with the compiler's words.
    pub fn with(kernels: &[String], edits: &[Edit]) -> Self {
        let mut sources = sources(kernels);
        let edited: Vec<usize> = edits
            .iter()
            .map(|edit| apply(&mut sources, edit).unwrap_or_else(|stale| panic!("{stale}")))
            .collect();
        let changed: Vec<&Source> = edited.into_iter().map(|file| &sources[file]).collect();
        Self::of(kernels, &changed).unwrap_or_else(|words| panic!("{words}"))
    }

    /// Builds `kernels` with other texts of some files, or has the compiler's words. What includes none of them is taken from
    /// the crate's own build, if there are any.
    pub fn of(kernels: &[String], changed: &[&Source]) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for Source { path, text } in changed {
            let to = folder.path().join(path);
            fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
            fs::write(&to, text).expect("a file");
        }
        let table = folder.path().join("table.cpp");
        fs::write(&table, emulator_table(kernels)).expect("a file");
        let mut inputs = vec![table];
        for kernel in kernels {
            let included = sources(std::slice::from_ref(kernel));
            let is_changed = |source: &Source| changed.iter().any(|changed| changed.path == source.path);
            if changed.is_empty() || included.iter().any(is_changed) {
                let source = folder.path().join(kernel).with_extension("cpp");
                fs::copy(generated(kernel), &source).expect("the generated source");
                inputs.push(source);
            } else {
                inputs.push(object(kernel));
            }
        }
        compile(folder.path(), &inputs)?;
        Ok(Self { folder })
    }

    /// An emulated Hopper with this library's kernels.
    pub fn device(&self, options: EmulatorOptions) -> Device {
        // SAFETY: the library was built from this crate's `cuda/hopper/emulated/machine`, as its own emulator was.
        unsafe { Device::emulated_from_library(&self.folder.path().join("kernel.so"), options) }
            .expect("the library")
    }
}

/// The few lines that instantiate a kernel.
fn generated(kernel: &str) -> PathBuf {
    Path::new(KERNELS).join(kernel).with_extension("cu")
}

/// All that the kernels include from `cuda/`. The emulated `ptx/` lies elsewhere on the include path: it belongs to the
/// machine.
pub fn sources(kernels: &[String]) -> Vec<Source> {
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

/// What the crate's own build made of a source of this name.
fn object(name: impl AsRef<Path>) -> PathBuf {
    Path::new(KERNELS).with_file_name("emulator").join(name).with_extension("o")
}

/// Objects of the emulated machine: those whose source lies in `cuda/hopper/emulated/machine`.
fn machine_objects() -> Vec<PathBuf> {
    let sources = fs::read_dir(Path::new(CUDA).join("hopper/emulated/machine")).expect("the machine");
    let cpp = sources
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cpp"));
    cpp.map(|path| object(path.file_stem().expect("a name"))).collect()
}

/// The machine's instructions, which every kernel includes and no fault changes: a header of all of them, with what the compiler
/// has made of it beside it, where it looks for that by itself.
static INSTRUCTIONS: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    fs::create_dir_all(&folder).expect("a folder");
    // Another run may use what is there: it is replaced, not changed.
    let made = tempfile::tempdir_in(&folder).expect("a temporary folder");
    let files = fs::read_dir(Path::new(CUDA).join("hopper/emulated/ptx")).expect("the instructions");
    let mut names: Vec<_> = files.map(|file| file.expect("a file").file_name()).collect();
    names.sort();
    let text: String = names.iter().map(|name| format!("#include \"ptx/{}\"\n", name.display())).collect();
    let [header, compiled] = ["all.h", "all.h.gch"].map(|name| made.path().join(name));
    fs::write(&header, text).expect("a file");
    run(compiler(made.path()).args(["-x", "c++-header"]).arg(&header).arg("-o").arg(&compiled))
        .unwrap_or_else(|words| panic!("{words}"));
    for file in [&compiled, &header] {
        fs::rename(file, folder.join(file.file_name().expect("a name"))).expect("a file");
    }
    folder.join("all.h")
});

/// Of files below `folder`, which precedes `cuda/` on the include path.
fn compiler(folder: &Path) -> Command {
    let mut compiler = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned()));
    compiler.args(["-std=c++20", "-O1", "-ffp-contract=off", "-fPIC", "-w"]);
    for path in [folder, Path::new(CUDA), &Path::new(CUDA).join("hopper/emulated")] {
        compiler.arg("-I").arg(path);
    }
    compiler
}

fn run(compiler: &mut Command) -> Result<(), String> {
    let output = compiler.output().expect("a C++ compiler");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn compile(folder: &Path, inputs: &[PathBuf]) -> Result<(), String> {
    let mut compiler = compiler(folder);
    compiler.arg("-include").arg(&*INSTRUCTIONS).arg("-shared").args(inputs).args(machine_objects());
    run(compiler.arg("-o").arg(folder.join("kernel.so")))
}
