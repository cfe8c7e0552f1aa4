//! A folder of programs for a GPU host that has a driver, but neither Rust nor nvcc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build_output::{self, Executable};
use crate::process;

const RUN_SCRIPT: &str = include_str!("../run.sh");

/// Tests that compile, or read what lies in the build's folders.
const NOT_CARRIED: [&str; 3] = ["faults", "operand_trace", "verify_cli"];

const MAX_BYTES: u64 = 60 << 20;

/// What a host has at least: glibc of 2021.
const GLIBC: (u32, u32) = (2, 34);

/// Builds in release mode and fills `target/bundle`.
pub fn make(root: &Path) -> Result<()> {
    let arguments = ["build", "--release", "--package=deepseek-kernels", "--bins", "--tests", "--benches"];
    let built = build_output::cargo(root, &arguments, &[("DEEPSEEK_KERNELS_STATIC_STDCXX", "1")])?;
    let bundle = root.join("target/bundle");
    if bundle.exists() {
        fs::remove_dir_all(&bundle)?;
    }
    let mut bytes = RUN_SCRIPT.len() as u64;
    for executable in &built.executables {
        let Some(place) = place(executable) else { continue };
        let carried = bundle.join(place);
        fs::create_dir_all(carried.parent().context("the place has a folder")?)?;
        process::run(Command::new("strip").arg("-o").arg(&carried).arg(&executable.path))?;
        check_glibc(&carried)?;
        let size = fs::metadata(&carried)?.len();
        println!("{:>7.1} MiB  {}", mebibytes(size), carried.display());
        bytes += size;
    }
    write_executable(&bundle.join("run.sh"), RUN_SCRIPT)?;
    println!("{:>7.1} MiB  {}: copy it and start run.sh there", mebibytes(bytes), bundle.display());
    if bytes > MAX_BYTES {
        bail!("the bundle has {:.1} MiB; at most {}", mebibytes(bytes), MAX_BYTES >> 20);
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Where an executable goes in the bundle.
fn place(executable: &Executable) -> Option<PathBuf> {
    let Executable { name, kind, test, .. } = executable;
    if NOT_CARRIED.contains(&name.as_str()) {
        return None;
    }
    let place = match (kind.as_str(), test) {
        ("bin", false) => format!("bin/{name}"),
        ("bench", _) => format!("benches/{name}"),
        ("test", _) => format!("tests/{name}"),
        _ => format!("tests/{kind}-{name}"),
    };
    Some(PathBuf::from(place))
}

/// Fails when the program needs symbols that an older glibc lacks.
fn check_glibc(program: &Path) -> Result<()> {
    let symbols = process::read(Command::new("objdump").arg("-T").arg(program))?;
    let newest = newest_glibc(&symbols).context("the program uses no glibc")?;
    if newest > GLIBC {
        bail!(
            "{} needs glibc {}.{}, newer than {}.{}",
            program.display(),
            newest.0,
            newest.1,
            GLIBC.0,
            GLIBC.1
        );
    }
    if symbols.contains("GLIBCXX_") {
        bail!("{} needs the host's libstdc++", program.display());
    }
    Ok(())
}

fn newest_glibc(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let (major, minor) = version.split_once('.')?;
        Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
    });
    versions.max()
}

#[cfg(unix)]
fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
fn write_executable(path: &Path, text: &str) -> Result<()> {
    Ok(fs::write(path, text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_decides() {
        let symbols = "0000 DF *UND* 0000 (GLIBC_2.2.5) strlen\n0000 DF *UND* 0000 (GLIBC_2.34) pthread_create\n(GLIBC_2.17) x";
        assert_eq!(newest_glibc(symbols), Some((2, 34)));
        assert_eq!(newest_glibc("nothing"), None);
    }

    #[test]
    fn every_program_has_one_place() {
        let executable = |name: &str, kind: &str, test| Executable {
            name: name.to_owned(),
            kind: kind.to_owned(),
            test,
            path: PathBuf::new(),
        };
        let place =
            |name, kind, test| place(&executable(name, kind, test)).map(|place| place.display().to_string());
        assert_eq!(place("deepseek-kernels", "bin", false).as_deref(), Some("bin/deepseek-kernels"));
        assert_eq!(place("deepseek-kernels", "bin", true).as_deref(), Some("tests/bin-deepseek-kernels"));
        assert_eq!(place("deepseek_kernels", "lib", true).as_deref(), Some("tests/lib-deepseek_kernels"));
        assert_eq!(place("fp8_gemm", "test", true).as_deref(), Some("tests/fp8_gemm"));
        assert_eq!(place("fp8_gemm", "bench", false).as_deref(), Some("benches/fp8_gemm"));
        assert_eq!(place("faults", "test", true), None);
    }
}
