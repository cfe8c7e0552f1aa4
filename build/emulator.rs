//! The emulated Hopper with every kernel in it, as one static library.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compile::{self, Task};
use crate::sources::{KernelSource, emulator_table};

/// Links the C++ library into the program, so that it runs where only glibc is. Off by default: a program that also
/// loads a libstdc++.so should not carry a second copy.
const STATIC_LIBRARY: &str = "DEEPSEEK_KERNELS_STATIC_STDCXX";

/// Builds with AddressSanitizer and UndefinedBehaviorSanitizer, for tests.
const SANITIZE: &str = "DEEPSEEK_KERNELS_SANITIZE";

/// A C++20 compiler and what is known of it.
pub struct Emulator {
    build: cc::Build,
    version: String,
    folder: PathBuf,
}

impl Emulator {
    /// Asks the compiler to compile an empty C++20 program; the error says why it cannot.
    pub fn find(out: &Path) -> Result<Self, String> {
        println!("cargo:rerun-if-env-changed={SANITIZE}");
        let sanitize = std::env::var_os(SANITIZE).is_some();
        let folder = out.join(if sanitize { "emulator-sanitized" } else { "emulator" });
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut build = cc::Build::new();
        // Optimised in every profile, or tests take minutes; never contracted: a product and a sum round twice.
        build.cpp(true).std("c++20").opt_level(2).debug(false).flag("-ffp-contract=off");
        build.flag("-Wno-unknown-pragmas"); // `#pragma unroll` is for nvcc
        if sanitize {
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
        Ok(Self { build, version, folder })
    }

    /// One task per file of `cuda/emu` and per kernel.
    pub fn tasks(&mut self, cuda: &Path, kernels: &[KernelSource]) -> Result<Vec<Task>, String> {
        let entries = fs::read_dir(cuda.join("emu")).map_err(|error| format!("cuda/emu: {error}"))?;
        let machine = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut sources: Vec<_> =
            machine.filter(|path| path.extension() == Some(OsStr::new("cpp"))).collect();
        sources.sort();

        for kernel in kernels {
            let source = self.folder.join(format!("{}.cpp", kernel.name));
            write(&source, &kernel.text)?;
            sources.push(source);
        }
        let table = self.folder.join("emu_kernels.cpp");
        write(&table, &emulator_table(kernels))?;
        sources.push(table);
        sources.into_iter().map(|source| self.task(cuda, &source)).collect()
    }

    fn task(&mut self, cuda: &Path, source: &Path) -> Result<Task, String> {
        let name = source.file_stem().ok_or("a source without a name")?;
        let object = self.folder.join(name).with_extension("o");
        let depfile = object.with_extension("d");
        let compiler = self.build.try_get_compiler().map_err(|error| error.to_string())?;
        let mut command = compiler.to_command();
        command.arg("-I").arg(cuda).arg("-I").arg(cuda.join("emu")).arg("-MMD").arg("-MF").arg(&depfile);
        command.arg("-c").arg(source).arg("-o").arg(&object);
        self.build.object(&object);

        let recipe = self.version.clone() + &compile::line(&command);
        Ok(Box::new(move || {
            compile::unless_made(&object, &depfile, &recipe, || compile::run(&mut command).map(drop))
        }))
    }

    /// Archives the objects and has cargo link them.
    pub fn link(mut self) -> Result<(), String> {
        println!("cargo:rerun-if-env-changed={STATIC_LIBRARY}");
        if std::env::var_os(STATIC_LIBRARY).is_none() {
            return self.build.try_compile("deepseek_emulator").map_err(|error| error.to_string());
        }
        self.build
            .cpp_link_stdlib(None)
            .try_compile("deepseek_emulator")
            .map_err(|error| error.to_string())?;
        let compiler = self.build.try_get_compiler().map_err(|error| error.to_string())?;
        let mut ask = compiler.to_command();
        let output = ask.arg("-print-file-name=libstdc++.a").output().map_err(|error| error.to_string())?;
        let archive = String::from_utf8_lossy(&output.stdout);
        // A compiler that has no such file prints the bare name.
        let folder = Path::new(archive.trim()).parent().filter(|folder| folder.is_absolute());
        let folder = folder.ok_or_else(|| format!("{STATIC_LIBRARY} is set, but there is no libstdc++.a"))?;
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=static=stdc++");
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
