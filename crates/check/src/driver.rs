//! `driver`: writes the fake CUDA driver where programs will find it.

use std::path::Path;
use std::{fs, io};

use deepseek_kernels::fake_driver;

use crate::cli::DriverArgs;

const FILE: &str = "libcuda.so.1";
/// The name that cudarc tries first: without it a real driver would be found.
const LINK: &str = "libcuda.so";

/// Writes the library and says how to use it.
pub fn write(args: &DriverArgs) -> Result<(), String> {
    let library = fake_driver::library()
        .map_err(|reason| format!("this program was built without the fake driver: {reason}"))?;
    let folder = fs::canonicalize(&args.into).map_err(|error| format!("{}: {error}", args.into.display()))?;
    if !folder.is_dir() {
        return Err(format!("expected a folder, got {}", folder.display()));
    }
    replace(&folder, library).map_err(|error| format!("{}: {error}", folder.display()))?;
    println!("wrote {} ({} bytes) and a link to it, {LINK}", folder.join(FILE).display(), library.len());
    println!("a program sees it, and no other driver, under LD_LIBRARY_PATH={}", folder.display());
    println!(
        "FAKE_CUDA_MODE=lazy|random|eager, FAKE_CUDA_SEED, FAKE_CUDA_STRICT=1: docs/fake-driver.md has them all"
    );
    Ok(())
}

/// Puts both names in place of what stood there; a program that starts meanwhile finds the old file or the new one.
fn replace(folder: &Path, library: &[u8]) -> io::Result<()> {
    put(folder, FILE, |path| fs::write(path, library))?;
    #[cfg(unix)]
    put(folder, LINK, |path| std::os::unix::fs::symlink(FILE, path))?;
    Ok(())
}

/// Makes a file beside `name` and gives it the name; leaves nothing behind when that fails.
fn put(folder: &Path, name: &str, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let fresh = folder.join(format!(".{name}.{}", std::process::id()));
    let result = make(&fresh).and_then(|()| fs::rename(&fresh, folder.join(name)));
    if result.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    result
}
