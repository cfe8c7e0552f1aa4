//! The fake CUDA driver: `cuda/driver` and the emulated Hopper with every kernel, as one shared library.

use std::fs;
use std::path::{Path, PathBuf};

use crate::compile::{self, Task};
use crate::emulator::{Emulator, sources_in};
use crate::write;

/// The name that programs load.
const LIBRARY: &str = "libcuda.so.1";

/// Exports the API and the hooks of tests, and keeps everything else, the C++ library included, to itself: the program
/// that loads the driver may have its own emulator.
const EXPORTS: &str = "{ global: cu*; fake_cuda_*; local: *; };\n";

/// What the library is linked from.
pub struct Driver {
    folder: PathBuf,
    objects: Vec<PathBuf>,
}

impl Driver {
    /// The driver's own sources, one task each; the error says why there can be no driver.
    pub fn plan(out: &Path, cuda: &Path, emulator: &Emulator) -> Result<(Self, Vec<Task>), String> {
        if emulator.sanitized {
            return Err("a sanitised build has none".to_owned());
        }
        if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
            return Err("it exists for Linux only".to_owned());
        }
        let folder = out.join("driver");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let sources = sources_in(&cuda.join("driver"))?;
        let (objects, tasks): (Vec<_>, Vec<_>) =
            sources.iter().map(|source| emulator.task(cuda, source, &folder)).collect::<Result<_, _>>()?;
        Ok((Self { folder, objects }, tasks))
    }

    /// Links `libcuda.so.1`, when all objects are made. In a folder of its own: cargo has programs that it starts look for
    /// libraries in `OUT_DIR`, where they would find this driver, and no real one, unasked.
    pub fn link(self, emulator: &Emulator) -> Result<(), String> {
        let library = self.folder.join(LIBRARY);
        let exports = self.folder.join("exports.map");
        write(&exports, EXPORTS)?;
        let objects: Vec<_> = self.objects.iter().chain(emulator.objects()).collect();
        let mut command = emulator.compiler()?;
        command.args(["-shared", "-pthread", "-static-libstdc++", "-static-libgcc", "-Wl,-Bsymbolic"]);
        command.arg(format!("-Wl,-soname,{LIBRARY}")).arg("-Wl,-z,defs");
        command.arg(format!("-Wl,--version-script={}", exports.display()));
        command.args(&objects).arg("-o").arg(&library).arg("-ldl");

        let depfile = self.folder.join("link.d");
        let names: Vec<_> =
            objects.iter().map(|object| object.to_string_lossy().replace(' ', "\\ ")).collect();
        write(&depfile, &format!("{LIBRARY}: {}\n", names.join(" ")))?;
        let recipe = emulator.recipe(&command) + EXPORTS;
        compile::unless_made(&library, &depfile, &recipe, || compile::run(&mut command).map(drop))
    }
}
