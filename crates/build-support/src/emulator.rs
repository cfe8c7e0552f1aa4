//! The emulated Hopper with every kernel in it, as one static library.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compile::{self, Task};
use crate::{Kernel, emulator_table, write};

/// Builds with AddressSanitizer and UndefinedBehaviorSanitizer, for tests.
const SANITIZE: &str = "DEEPSEEK_KERNELS_SANITIZE";

/// A C++20 compiler and what is known of it.
pub struct Emulator {
    build: cc::Build,
    version: String,
    folder: PathBuf,
    objects: Vec<PathBuf>,
    /// Built with sanitizers.
    pub sanitized: bool,
}

impl Emulator {
    /// Asks the compiler to compile an empty C++20 program; the error says why it cannot.
    pub fn find(out: &Path) -> Result<Self, String> {
        println!("cargo:rerun-if-env-changed={SANITIZE}");
        let sanitized = std::env::var_os(SANITIZE).is_some();
        let folder = out.join(if sanitized { "emulator-sanitized" } else { "emulator" });
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut build = cc::Build::new();
        // Optimised in every profile, or tests take minutes; never contracted: a product and a sum round twice.
        build.cpp(true).std("c++20").opt_level(2).debug(false).flag("-ffp-contract=off");
        build.flag("-Wno-unknown-pragmas"); // `#pragma unroll` is for nvcc
        if sanitized {
            build
                .opt_level(1)
                .debug(true)
                .flag("-fsanitize=address,undefined")
                .flag("-fno-sanitize-recover=all");
            // Rust's linker call keeps the compiler from adding these; before libc, or malloc is not theirs.
            println!("cargo:rustc-link-lib=dylib=asan");
            println!("cargo:rustc-link-lib=dylib=ubsan");
        }

        let compiler = build.try_get_compiler().map_err(|error| format!("no C++ compiler: {error}"))?;
        let probe = folder.join("probe.cpp");
        write(&probe, "#include <version>\nstatic_assert(__cplusplus >= 202002L);\n")?;
        compile::run(compiler.to_command().arg("-c").arg(&probe).arg("-o").arg(probe.with_extension("o")))
            .map_err(|text| format!("no C++20 compiler: {}", text.replace('\n', "; ")))?;
        let version = compile::run(Command::new(compiler.path()).arg("-v")).unwrap_or_default();
        Ok(Self { build, version, folder, objects: Vec::new(), sanitized })
    }

    /// One task per file of `cuda/hopper/emulated/machine` and per kernel.
    pub fn tasks(&mut self, cuda: &Path, kernels: &[Kernel]) -> Result<Vec<Task>, String> {
        let mut sources = sources_in(&cuda.join("hopper/emulated/machine"))?;
        for kernel in kernels {
            let source = self.folder.join(format!("{}.cpp", kernel.name));
            write(&source, &kernel.source)?;
            sources.push(source);
        }
        let table = self.folder.join("emu_kernels.cpp");
        let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        write(&table, &emulator_table(&names))?;
        sources.push(table);
        let (objects, tasks): (Vec<_>, Vec<_>) =
            sources.iter().map(|source| self.task(cuda, source, &self.folder)).collect::<Result<_, _>>()?;
        self.build.objects(&objects);
        self.objects = objects;
        Ok(tasks)
    }

    /// The object in `folder` that a source becomes, and what makes it.
    pub fn task(&self, cuda: &Path, source: &Path, folder: &Path) -> Result<(PathBuf, Task), String> {
        let name = source.file_stem().ok_or("a source without a name")?;
        let object = folder.join(name).with_extension("o");
        let depfile = object.with_extension("d");
        let mut command = self.compiler()?;
        command
            .arg("-I")
            .arg(cuda)
            .arg("-I")
            .arg(cuda.join("hopper/emulated"))
            .arg("-MMD")
            .arg("-MF")
            .arg(&depfile);
        command.arg("-c").arg(source).arg("-o").arg(&object);

        let recipe = self.recipe(&command);
        let output = object.clone();
        let task =
            move || compile::unless_made(&output, &depfile, &recipe, || compile::run(&mut command).map(drop));
        Ok((object, Box::new(task)))
    }

    /// A call of the compiler.
    pub fn compiler(&self) -> Result<Command, String> {
        Ok(self.build.try_get_compiler().map_err(|error| error.to_string())?.to_command())
    }

    /// What decides the output of a command besides the files it reads.
    pub fn recipe(&self, command: &Command) -> String {
        self.version.clone() + &compile::line(command)
    }

    /// What the machine and the kernels were compiled to.
    pub fn objects(&self) -> &[PathBuf] {
        &self.objects
    }

    /// Archives the objects and has cargo link them.
    pub fn link(self) -> Result<(), String> {
        self.build.try_compile("deepseek_emulator").map_err(|error| error.to_string())
    }
}

/// The C++ files of a folder, in order.
pub fn sources_in(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut sources: Vec<_> = files.filter(|path| path.extension() == Some(OsStr::new("cpp"))).collect();
    sources.sort();
    Ok(sources)
}
