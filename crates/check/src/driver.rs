//! `driver`: writes the fake CUDA driver where programs will find it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use deepseek_kernels::fake_driver;

use crate::cli::DriverArgs;
use crate::escape::escaped;
use crate::output::OutputFile;

const FILE: &str = "libcuda.so.1";
/// The name that cudarc tries first: without it a real driver would be found.
const LINK: &str = "libcuda.so";

/// What every library begins with, and a function that no other driver has.
const ELF: &[u8] = b"\x7fELF";
const OURS: &[u8] = b"fake_cuda_live";

/// Writes the library and says how to use it.
pub fn write(args: &DriverArgs) -> Result<(), String> {
    let library = library()?;
    let folder = fs::canonicalize(&args.into).map_err(|error| format!("{}: {error}", args.into.display()))?;
    if !folder.is_dir() {
        return Err(format!("expected a folder, got {}", folder.display()));
    }
    put(&folder, library)?;
    let shown = |path: &Path| escaped(&path.to_string_lossy());
    println!("wrote {} ({} bytes) and a link to it, {LINK}", shown(&folder.join(FILE)), library.len());
    println!("a program sees it, and no other driver, under LD_LIBRARY_PATH={}", shown(&folder));
    println!(
        "FAKE_CUDA_MODE=lazy|random|eager, FAKE_CUDA_SEED, FAKE_CUDA_STRICT=1: docs/fake-driver.md has them all"
    );
    Ok(())
}

/// Writes the library where programs of an own choice will find it.
///
/// # Errors
/// In one line, why there is none, or it could not be written.
pub fn install(folder: &Path) -> Result<(), String> {
    put(folder, library()?)
}

fn library() -> Result<&'static [u8], String> {
    fake_driver::library()
        .map_err(|reason| format!("this program was built without the fake driver: {reason}"))
}

/// Puts it in place of what stood under both names; a program that starts meanwhile finds the old library or the new one.
fn put(folder: &Path, library: &[u8]) -> Result<(), String> {
    let (file, link) = (folder.join(FILE), folder.join(LINK));
    // Both names are looked at before anything is written.
    let first = output(&file)?;
    let linked = match (fs::canonicalize(&link), fs::canonicalize(&file)) {
        (Ok(link), Ok(file)) => link == file,
        _ => fs::read_link(&link).is_ok_and(|to| to == Path::new(FILE)),
    };
    let absent = fs::symlink_metadata(&link).is_err();
    let second = if linked || absent { None } else { Some(output(&link)?) };

    first.write(library)?;
    if absent {
        symlink(FILE, &link).map_err(|error| format!("cannot write {}: {error}", link.display()))?;
    }
    second.map_or(Ok(()), |second| second.write(library))
}

/// A place for the library, where nothing stands or a file that nobody misses.
fn output(path: &Path) -> Result<OutputFile, String> {
    if let Ok(there) = fs::metadata(path) {
        if !there.is_file() {
            return Err(format!("{}: expected a file or nothing, got something else", path.display()));
        }
        let old = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if old.starts_with(ELF) && !old.windows(OURS.len()).any(|bytes| bytes == OURS) {
            return Err(format!(
                "{} is a library that this program did not write, perhaps a GPU's driver: choose another folder",
                path.display()
            ));
        }
    }
    OutputFile::open(path, [])
}
