//! Old forms of kernels, compiled beside the current ones: what a change gains is measured in one run on one card.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use build_support::{compile, cubins, nvcc};

use crate::build_output::Built;
use crate::process;

/// One patch of `cuda/` per variant. Its first line names the kernels: `kernels: NAME NAME`.
const PATCHES: &str = "crates/hardware/variants";
/// Where they are compiled.
const FOLDER: &str = "target/variants";

/// Compiles every variant to `to/VARIANT/KERNEL.cubin`. A patch that no longer applies is an error.
pub fn compile(root: &Path, built: &Built, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let nvcc = nvcc::find(root).map_err(|reason| anyhow!(reason))?;
    for entry in fs::read_dir(root.join(PATCHES))? {
        let patch = entry?.path();
        let variant = patch.file_stem().context("a patch has a name")?.to_os_string();
        let text = fs::read_to_string(&patch)?;
        let names = kernel_names(&text).with_context(|| patch.display().to_string())?;

        let folder = root.join(FOLDER).join(&variant);
        let cuda = patched(root, &patch, &folder)?;
        for file in patched_files(&text) {
            // git passes over files that it takes for another repository's.
            let same = fs::read(root.join(file))? == fs::read(folder.join(file))?;
            ensure!(!same, "{}: {file} was not patched", patch.display());
        }
        for name in &names {
            let source = format!("{name}.cu");
            fs::copy(built.kernel_folder.join(&source), folder.join(&source))
                .with_context(|| format!("{}: expected a kernel, got {name}", patch.display()))?;
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        compile::in_parallel(cubins::tasks(&nvcc, &cuda, &folder, names.iter().copied()), threads)
            .map_err(|error| anyhow!(error))?;
        fs::create_dir_all(to.join(&variant))?;
        for name in &names {
            let cubin = format!("{name}.cubin");
            fs::copy(folder.join(&cubin), to.join(&variant).join(&cubin))?;
        }
    }
    Ok(())
}

fn kernel_names(patch: &str) -> Result<Vec<&str>> {
    let names = patch.lines().next().and_then(|line| line.strip_prefix("kernels: "));
    let names = names.context("expected a first line \"kernels: NAME NAME\"")?;
    Ok(names.split_whitespace().collect())
}

/// Files that a patch changes, below the repository's root.
fn patched_files(patch: &str) -> impl Iterator<Item = &str> {
    patch.lines().filter_map(|line| line.strip_prefix("+++ b/"))
}

/// A copy of `cuda/` with a patch applied.
fn patched(root: &Path, patch: &Path, folder: &Path) -> Result<std::path::PathBuf> {
    let cuda = folder.join("cuda");
    if cuda.exists() {
        fs::remove_dir_all(&cuda)?;
    }
    fs::create_dir_all(folder)?;
    process::run(Command::new("cp").arg("-R").arg(root.join("cuda")).arg(&cuda))?;
    // git would otherwise take the paths from the repository that the folder lies in.
    let mut apply = Command::new("git");
    apply.args(["apply", "--unsafe-paths", "--directory"]).arg(folder).arg(patch);
    process::run(&mut apply).with_context(|| format!("{}: write it anew", patch.display()))?;
    Ok(cuda)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_kernels() {
        assert_eq!(kernel_names("kernels: rope gate_logits\n--- a\n").unwrap(), ["rope", "gate_logits"]);
        assert!(kernel_names("--- a\n").is_err());
    }

    #[test]
    fn the_patched_files_are_named() {
        let patch = "kernels: rope\n--- a/cuda/x.h\n+++ b/cuda/x.h\n@@ -1 +1 @@\n-a\n+b\n";
        assert_eq!(patched_files(patch).collect::<Vec<_>>(), ["cuda/x.h"]);
    }
}
