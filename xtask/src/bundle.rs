//! One archive of all that runs on a GPU host that has a driver, but neither Rust nor nvcc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::build_output::{self, Executable};
use crate::process;
use crate::variants;

/// The archive, and the folder it is packed from.
pub const ARCHIVE: &str = "target/hardware.tar.xz";
const FOLDER: &str = "target/hardware";

/// What is carried as it is, and where to: the script, its steps and tools, and what measures other libraries.
const SCRIPTS: [(&str, &str); 3] =
    [("crates/hardware/run", ""), ("benches/peers", "peers"), ("benches/peers/libraries", "peers/libraries")];

/// Tests of what a GPU host does not change: they compile, read what lies in the build's folders, or judge references.
const NOT_CARRIED: [&str; 9] =
    ["cli", "driver", "faults", "operand_trace", "oracles", "protocols", "regress", "rejects", "run_script"];

/// What may be carried to a GPU host is limited, and wheels of other libraries go along.
const MAX_BYTES: u64 = 40 << 20;

/// What a host has at least: glibc of 2021.
const GLIBC: (u32, u32) = (2, 34);

/// Builds as every other step does, and packs the programs.
pub fn make(root: &Path) -> Result<()> {
    let arguments = ["build", "--workspace", "--bins", "--tests"];
    let built = build_output::cargo(root, &arguments, &[])?;
    let folder = root.join(FOLDER);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    for executable in &built.executables {
        if let Some(place) = place(executable) {
            carry(&executable.path, &folder.join(place))?;
        }
    }
    for (from, to) in SCRIPTS {
        copy_scripts(&root.join(from), &folder.join(to))?;
    }
    check_steps(&folder)?;
    check_tests(&folder)?;
    variants::compile(root, &built, &folder.join("variants"))?;
    process::run(
        Command::new(folder.join("bin/smoke")).arg("--bless").arg(folder.join("goldens.safetensors")),
    )?;
    pack(&folder, &root.join(ARCHIVE))
}

/// Whether an executable holds tests, an example's included, that show more on a GPU than without.
pub fn tests_gpu(executable: &Executable) -> bool {
    let holds_tests = executable.test && ["test", "example"].contains(&executable.kind.as_str());
    holds_tests && !NOT_CARRIED.contains(&executable.name.as_str())
}

/// Where an executable goes in the archive.
fn place(executable: &Executable) -> Option<PathBuf> {
    let Executable { name, kind, test, .. } = executable;
    if tests_gpu(executable) {
        return Some(format!("tests/{name}").into());
    }
    (kind == "bin" && !test && name != "xtask").then(|| format!("bin/{name}").into())
}

/// Copies a program without its symbols, and the C++ library that it needs, for hosts that have an older one or none.
fn carry(program: &Path, to: &Path) -> Result<()> {
    let libraries = to.parent().and_then(Path::parent).context("a place is two folders deep")?.join("lib");
    fs::create_dir_all(&libraries)?;
    fs::create_dir_all(to.parent().context("a place has a folder")?)?;
    process::run(Command::new("strip").arg("-o").arg(to).arg(program))?;
    check_glibc(to)?;
    for library in cpp_libraries(&process::read(Command::new("ldd").arg(program))?) {
        let carried = libraries.join(library.file_name().context("a library has a name")?);
        if !carried.exists() {
            fs::copy(&library, &carried).with_context(|| library.display().to_string())?;
        }
    }
    Ok(())
}

/// The paths of the C++ runtime in what `ldd` prints.
fn cpp_libraries(ldd: &str) -> Vec<PathBuf> {
    let line = |line: &str| {
        let (name, path) = line.trim().split_once(" => ")?;
        let ours = ["libstdc++.so", "libgcc_s.so"].iter().any(|library| name.starts_with(library));
        ours.then(|| PathBuf::from(path.split(" (").next().unwrap_or(path)))
    };
    ldd.lines().filter_map(line).collect()
}

/// The files of a folder, but none of the folders in it.
fn copy_scripts(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            // With its permissions: scripts stay executable.
            fs::copy(&path, to.join(path.file_name().context("an entry has a name")?))?;
        }
    }
    Ok(())
}

/// Every test is in a step, and every program of a step is there.
fn check_steps(folder: &Path) -> Result<()> {
    let steps = fs::read_to_string(folder.join("steps.txt"))?;
    let named = programs(&steps);
    for program in &named {
        ensure!(folder.join(program).is_file(), "steps.txt names {program}, which is not carried");
    }
    for entry in fs::read_dir(folder.join("tests"))? {
        let program = format!("tests/{}", entry?.file_name().to_string_lossy());
        ensure!(
            named.contains(&program.as_str()),
            "no step of steps.txt runs {program}: add one, or name it in NOT_CARRIED"
        );
    }
    Ok(())
}

/// Asks every carried test program what tests it has, and looks for their steps.
fn check_tests(folder: &Path) -> Result<()> {
    let steps = fs::read_to_string(folder.join("steps.txt"))?;
    for entry in fs::read_dir(folder.join("tests"))? {
        let entry = entry?;
        let list = process::read(Command::new(entry.path()).args(["--list", "--format=terse"]))?;
        let tests: Vec<&str> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        check_filters(&steps, &format!("tests/{}", entry.file_name().to_string_lossy()), &tests)?;
    }
    Ok(())
}

/// Every test of a program is in a step, and every step runs some: a filter that matches nothing would pass.
fn check_filters(steps: &str, program: &str, tests: &[&str]) -> Result<()> {
    let filters: Vec<&str> = step_lines(steps).filter_map(|line| filter(line, program)).collect();
    for filter in &filters {
        ensure!(
            tests.iter().any(|test| test.contains(filter)),
            "steps.txt runs {program} {filter}, which matches no test"
        );
    }
    for test in tests {
        let is_run = filters.iter().any(|filter| test.contains(filter));
        ensure!(is_run, "no step of steps.txt runs {test} of {program}");
    }
    Ok(())
}

/// The module that a step runs of a program's tests; all of them without one.
fn filter<'s>(line: &'s str, program: &str) -> Option<&'s str> {
    let mut words = line.split_whitespace().skip_while(|word| *word != program);
    words.next()?;
    Some(words.next().filter(|word| word.ends_with("::")).unwrap_or_default())
}

fn step_lines(steps: &str) -> impl Iterator<Item = &str> {
    steps.lines().filter(|line| !line.starts_with('#'))
}

/// What the steps name below bin/ and tests/.
fn programs(steps: &str) -> Vec<&str> {
    let words = step_lines(steps).flat_map(|line| line.split([' ', ';']));
    words.filter(|word| word.starts_with("bin/") || word.starts_with("tests/")).collect()
}

/// Packs the folder: equal kernels in different programs lie within one dictionary.
fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    tar.arg("--use-compress-program=xz --threads=1 --lzma2=preset=3,dict=256MiB").arg("-cf").arg(archive);
    process::run(tar.arg("-C").arg(folder.parent().context("the folder has a parent")?).arg("hardware"))?;
    let bytes = fs::metadata(archive)?.len();
    println!("{:.1} MiB  {}: unpack it on a GPU host and start run.sh", mebibytes(bytes), archive.display());
    if bytes > MAX_BYTES {
        bail!("the archive has {:.1} MiB, expected at most {}", mebibytes(bytes), MAX_BYTES >> 20);
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Fails when the program needs symbols that an older glibc lacks.
fn check_glibc(program: &Path) -> Result<()> {
    let symbols = process::read(Command::new("objdump").arg("-T").arg(program))?;
    let newest = newest_glibc(&symbols).context("the program uses no glibc")?;
    ensure!(
        newest <= GLIBC,
        "{} needs glibc {}.{}, expected at most {}.{}",
        program.display(),
        newest.0,
        newest.1,
        GLIBC.0,
        GLIBC.1
    );
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
        assert_eq!(place("smoke", "bin", false).as_deref(), Some("bin/smoke"));
        assert_eq!(place("fp8_gemm", "test", true).as_deref(), Some("tests/fp8_gemm"));
        assert_eq!(place("decode_step", "example", true).as_deref(), Some("tests/decode_step"));
        for (name, kind, test) in [
            ("smoke", "bin", true),
            ("xtask", "bin", false),
            ("deepseek_kernels", "lib", true),
            ("faults", "test", true),
            ("balance", "example", false),
        ] {
            assert_eq!(place(name, kind, test), None);
        }
    }

    #[test]
    fn only_the_cpp_runtime_is_carried() {
        let ldd = "\tlinux-vdso.so.1 (0x1)\n\tlibstdc++.so.6 => /usr/lib/libstdc++.so.6 (0x7f)\n\
                   \tlibgcc_s.so.1 => /usr/lib/libgcc_s.so.1 (0x2)\n\tlibc.so.6 => /usr/lib/libc.so.6 (0x3)\n";
        assert_eq!(
            cpp_libraries(ldd),
            ["/usr/lib/libstdc++.so.6", "/usr/lib/libgcc_s.so.1"].map(PathBuf::from)
        );
    }

    #[test]
    fn files_are_copied_and_folders_in_them_are_not() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to/deep"));
        fs::create_dir_all(from.join("tests")).unwrap();
        fs::write(from.join("run.py"), "run").unwrap();
        fs::write(from.join("tests/test.py"), "test").unwrap();
        copy_scripts(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("run.py")).unwrap(), "run");
        assert!(!to.join("tests").exists());
        assert!(
            copy_scripts(&place.path().join("nowhere"), &to).unwrap_err().to_string().contains("nowhere")
        );
    }

    #[test]
    fn a_test_without_a_step_and_a_step_without_a_program_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("tests/rope", "");
        write("steps.txt", "# tests/none\nrope 10 always no tests/rope; bin/smoke --list\n");
        let error = check_steps(folder.path()).unwrap_err().to_string();
        assert_eq!(error, "steps.txt names bin/smoke, which is not carried");
        write("bin/smoke", "");
        assert!(check_steps(folder.path()).is_ok());
        write("tests/gate", "");
        assert!(
            check_steps(folder.path())
                .unwrap_err()
                .to_string()
                .starts_with("no step of steps.txt runs tests/gate")
        );
    }

    #[test]
    fn a_test_outside_every_filter_and_a_filter_without_tests_are_found() {
        let steps = "# tests/cases none::\nrope 10 always no tests/cases mla::rope:: --test-threads=1\n";
        let check = |tests: &[&str]| check_filters(steps, "tests/cases", tests).map_err(|e| e.to_string());
        assert_eq!(check(&["mla::rope::turns"]), Ok(()));
        let missing = "no step of steps.txt runs moe::layer::one of tests/cases";
        assert_eq!(check(&["mla::rope::turns", "moe::layer::one"]), Err(missing.to_owned()));
        let empty = "steps.txt runs tests/cases mla::rope::, which matches no test";
        assert_eq!(check(&["mla::ropes"]), Err(empty.to_owned()));
        assert!(check_filters("engine 30 always no tests/engine\n", "tests/engine", &["any::test"]).is_ok());
    }
}
