//! The host half of a GPU run, where there is none: every program that uses a GPU runs under the fake driver, which is
//! strict with its caller and emulates the kernels.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build_output::{self, Executable};
use crate::{bundle, process};

/// Programs at a time: each is mostly the emulator, which uses one core.
const AT_ONCE: usize = 2;

/// Orders of execution that the engine's tests see besides the lazy one, in which faults are planted: whatever streams and
/// events allow.
const RANDOM_SEEDS: [&str; 2] = ["1", "2"];

/// A program under the fake driver.
struct Job {
    name: String,
    program: PathBuf,
    arguments: Vec<&'static str>,
    variables: Vec<(&'static str, &'static str)>,
}

/// Builds what the tests built, writes the driver, and runs every program; all run even when one fails.
pub fn check(root: &Path) -> Result<()> {
    let built = build_output::cargo(
        root,
        &["test", "--no-run", "--workspace", "--bins", "--tests", "--benches"],
        &[],
    )?;
    let folder = root.join("target/driver");
    fs::create_dir_all(&folder)?;
    let program = built.executables.iter().find(|executable| is_program(executable));
    let program = &program.context("cargo built no program of the crate")?.path;
    process::run(Command::new(program).args(["driver", "--into"]).arg(&folder))?;

    let outputs = tempfile::tempdir()?;
    let queue = Mutex::new(jobs(&built.executables, program).into_iter());
    let next = || queue.lock().ok().and_then(|mut jobs| jobs.next());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(job) = next() {
                    if let Err(error) = run(root, &folder, outputs.path(), &job) {
                        failed.lock().expect("no thread panics").push(format!("{}: {error:#}", job.name));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panicked");
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

/// The crate's own program.
fn is_program(executable: &Executable) -> bool {
    executable.kind == "bin" && !executable.test && executable.name == "deepseek-kernels"
}

fn jobs(executables: &[Executable], program: &Path) -> Vec<Job> {
    let job = |name: String, program: &Path, arguments: &[&'static str]| Job {
        name,
        program: program.to_owned(),
        arguments: arguments.to_vec(),
        variables: Vec::new(),
    };
    let mut jobs = vec![job("verify".to_owned(), program, &["verify", "--device", "gpu", "--small"])];
    for executable in executables {
        let name = format!("{} {}", executable.kind, executable.name);
        match executable.kind.as_str() {
            // Without --bench criterion tries each benchmark once.
            "bench" => jobs.push(job(name, &executable.path, &["--test"])),
            _ if bundle::tests_gpu(executable) => jobs.push(job(name, &executable.path, &[])),
            _ => {}
        }
        if executable.name == "engine" {
            jobs.extend(RANDOM_SEEDS.map(|seed| Job {
                variables: vec![("FAKE_CUDA_MODE", "random"), ("FAKE_CUDA_SEED", seed)],
                ..job(format!("test engine, random order {seed}"), &executable.path, &["--skip", "planted"])
            }));
        }
    }
    jobs
}

/// Shows what the program printed only when it fails.
fn run(root: &Path, driver: &Path, outputs: &Path, job: &Job) -> Result<()> {
    let output = outputs.join(job.name.replace([' ', ','], "_"));
    let file = File::create(&output)?;
    let begin = Instant::now();
    let status = Command::new(&job.program)
        .args(&job.arguments)
        .current_dir(root)
        .env("LD_LIBRARY_PATH", driver)
        .env("DEEPSEEK_KERNELS_TEST_DEVICES", "gpu")
        .env("FAKE_CUDA_STRICT", "1")
        // The strides of heads and tokens need not be multiples of each other; `MlaAbsorb` documents it.
        .env("FAKE_CUDA_ALLOW", "stride-multiple")
        .envs(job.variables.iter().copied())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()?;
    report(job, begin.elapsed(), status);
    if status.success() {
        return Ok(());
    }
    bail!("{status}\n{}", fs::read_to_string(&output)?)
}

fn report(job: &Job, time: Duration, status: ExitStatus) {
    let verdict = if status.success() { "" } else { "  FAILED" };
    println!("{:>8.1} s  {}{verdict}", time.as_secs_f64(), job.name);
}
