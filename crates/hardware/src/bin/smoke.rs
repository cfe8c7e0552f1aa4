//! The first program on a GPU: does every kernel load, is it what was compiled, does each family give the bits that the
//! emulated Hopper gives, and the same ones again in a graph and on two streams, and does the error word tell. A check a
//! line, as JSON.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use check::bench::timing;
use check::case::{Case, Prepared, reported};
use check::cli;
use check::escape::escaped;
use check::families;
use check::judge::Scrutiny;
use check::memory::{Arena, Memory, Output};
use check::output::OutputFile;
use clap::Parser;
use deepseek_kernels::cudarc::driver::{CudaContext, CudaStream};
use deepseek_kernels::quant::{MMajor, Quantize1x128, Quantize1x128Args, QuantizeSpec, Scales1x128Mut};
use deepseek_kernels::{DataFaults, Device, EmulatorOptions, Error, F8E4M3, Matrix, MatrixMut, Stream, bf16};
use deepseek_kernels_hardware::card::Card;
use deepseek_kernels_hardware::golden::{self, Goldens, Meaning};
use deepseek_kernels_hardware::record::{Checks, Finding};
use deepseek_kernels_hardware::{device, resources};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(
    about = "The first program on a GPU: every kernel loads and gives the bits that the emulator gives"
)]
struct Arguments {
    /// File of goldens that `--bless` wrote
    #[arg(long)]
    goldens: Option<PathBuf>,
    /// Runs the cases on the emulator instead and writes their results to this file
    #[arg(long, conflicts_with_all = ["goldens", "list"])]
    bless: Option<PathBuf>,
    /// Only checks whose name begins with one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Graphs and streams with one case in this many
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Prints the names of the cases
    #[arg(long)]
    list: bool,
}

/// Runs of a case on each of two streams.
const TURNS: usize = 20;

fn main() -> ExitCode {
    match run(&cli::parse::<Arguments>()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{failed} checks failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {}", escaped(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// The number of failed checks.
fn run(arguments: &Arguments) -> Result<usize> {
    let wanted = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|only| name.starts_with(only.as_str()))
    };
    let cases = families::all(|family| (family.smoke)());
    if arguments.list {
        cases.iter().for_each(|case| println!("{}", case.name()));
        return Ok(0);
    }
    if let Some(file) = &arguments.bless {
        return bless(file, &cases).map(|()| 0);
    }
    let goldens =
        arguments.goldens.as_ref().context("--goldens FILE says what is right; --bless FILE makes it")?;
    let smoke = Smoke::open(Goldens::read(goldens)?)?;
    let mut checks = Checks::default();
    let mut check = |name: &str, check: &dyn Fn() -> Result<Finding>| {
        if wanted(name) {
            checks.check(name, check);
        }
    };
    check("card", &|| smoke.card());
    check("attributes", &|| smoke.attributes());
    for case in &cases {
        check(&case.name(), &|| smoke.case(&**case));
    }
    // What is compared is what the last of several runs wrote.
    let repeatable = cases.iter().filter(|case| case.repeatable());
    for case in repeatable.step_by(arguments.every.max(1)) {
        check(&format!("graph/{}", case.name()), &|| smoke.graph(&**case));
        check(&format!("streams/{}", case.name()), &|| smoke.two_streams(&**case));
    }
    check("error_word", &|| smoke.error_word());
    check("nothing", &|| smoke.nothing());
    Ok(checks.failed())
}

/// Computes the goldens, each of which its reference must accept.
fn bless(file: &std::path::Path, cases: &[Box<dyn Case>]) -> Result<()> {
    let file = OutputFile::open(file, []).map_err(anyhow::Error::msg)?;
    // The planner sees an H100: the kernels that run there are those that ran here.
    let device = Device::emulated_with(EmulatorOptions { multiprocessors: 132, ..Default::default() })?;
    let mut outputs = Vec::new();
    for case in cases {
        let mut prepared = prepare(&**case, &device)?;
        prepared.launch(Stream::Emulated)?;
        let mut checks = prepared.judge(Scrutiny::Thorough)?;
        checks.push(reported(&device, prepared.faults())?);
        for check in checks {
            if let Some(failure) = check.failure {
                anyhow::bail!("{}, {}: {failure}", case.name(), check.oracle);
            }
        }
        outputs.extend(prepared.outputs()?.into_iter().map(|output| (case.name(), output)));
    }
    golden::write(file, &outputs)
}

fn prepare(case: &dyn Case, device: &Device) -> Result<Box<dyn Prepared>> {
    case.draw()?.prepare(&mut Arena::new(device, Memory::Plain))
}

struct Smoke {
    context: Arc<CudaContext>,
    device: Device,
    seconds_to_open: f64,
    goldens: Goldens,
}

impl Smoke {
    fn open(goldens: Goldens) -> Result<Self> {
        let start = Instant::now();
        let (device, context) = device::open()?;
        Ok(Self { context, device, seconds_to_open: start.elapsed().as_secs_f64(), goldens })
    }

    fn card(&self) -> Result<Finding> {
        Ok(Finding::Data(
            json!({"card": Card::read(&self.context)?, "seconds_to_open": self.seconds_to_open}),
        ))
    }

    fn attributes(&self) -> Result<Finding> {
        let kernels = self.device.kernel_attributes()?;
        let differences = resources::differences(&kernels)?;
        if differences.is_empty() {
            return Ok(Finding::Passed(json!({"kernels": kernels.len()})));
        }
        Ok(Finding::Failed(json!(differences)))
    }

    /// The first launch, against the golden bits.
    fn case(&self, case: &dyn Case) -> Result<Finding> {
        let mut prepared = prepare(case, &self.device)?;
        prepared.launch(self.device.stream()?)?;
        let outputs = prepared.outputs()?;
        let error_word = self.error_word_of(&*prepared);
        let instance = prepared.instance();
        if let Some(reported) = error_word {
            return Ok(Finding::Failed(json!({"instance": instance, "error_word": reported})));
        }
        let differences = self.goldens.compare(&case.name(), &outputs)?;
        if differences.is_empty() {
            return Ok(Finding::Passed(json!({"instance": instance})));
        }
        let checks = prepared.judge(Scrutiny::Thorough)?;
        let meaning = Meaning::of(case.portable_bits(), &checks);
        let text = meaning.text();
        let detail = json!({"instance": instance, "meaning": text, "bits": differences, "checks": checks});
        Ok(if meaning == Meaning::OwnBits { Finding::Data(detail) } else { Finding::Failed(detail) })
    }

    /// Captured, and replayed twice: what is compared was written by the replay.
    fn graph(&self, case: &dyn Case) -> Result<Finding> {
        let first = self.first_launch(case)?;
        let mut prepared = prepare(case, &self.device)?;
        let stream = self.stream()?;
        self.context.synchronize()?;
        let graph = timing::capture(&stream, || Ok(prepared.launch(Stream::Cuda(&stream))?))?;
        graph.launch()?;
        graph.launch()?;
        stream.synchronize()?;
        self.repeats(&first, &[prepared])
    }

    /// In turns on two streams, with other memory.
    fn two_streams(&self, case: &dyn Case) -> Result<Finding> {
        let first = self.first_launch(case)?;
        let streams = [self.stream()?, self.stream()?];
        let problem = case.draw()?;
        let prepare = |_: &_| problem.clone().prepare(&mut Arena::new(&self.device, Memory::Plain));
        let mut prepared = streams.iter().map(prepare).collect::<Result<Vec<_>>>()?;
        self.context.synchronize()?;
        for _ in 0..TURNS {
            for (prepared, stream) in prepared.iter_mut().zip(&streams) {
                prepared.launch(Stream::Cuda(stream))?;
            }
        }
        self.context.synchronize()?;
        self.repeats(&first, &prepared)
    }

    /// What a launch by itself writes, on this GPU. Its error word is [`Self::case`]'s affair.
    fn first_launch(&self, case: &dyn Case) -> Result<Vec<Output>> {
        let mut prepared = prepare(case, &self.device)?;
        prepared.launch(self.device.stream()?)?;
        let outputs = prepared.outputs()?;
        let _ = self.device.poll_error();
        Ok(outputs)
    }

    /// However a case is launched, it gives the same bits on one GPU, also where another GPU has others.
    fn repeats(&self, first: &[Output], prepared: &[Box<dyn Prepared>]) -> Result<Finding> {
        let mut bits = Vec::new();
        for prepared in prepared {
            bits.extend(golden::changes(first, &prepared.outputs()?));
        }
        let error_word = self.error_word_of(&*prepared[0]);
        let instance = prepared[0].instance();
        if bits.is_empty() && error_word.is_none() {
            return Ok(Finding::Passed(json!({"instance": instance})));
        }
        let meaning = "other bits than at the first launch, or another error word";
        Ok(Finding::Failed(
            json!({"instance": instance, "meaning": meaning, "bits": bits, "error_word": error_word}),
        ))
    }

    /// What the error word tells, where that is not what it should.
    fn error_word_of(&self, prepared: &dyn Prepared) -> Option<String> {
        let expected = prepared.faults();
        match self.device.poll_error() {
            Err(Error::Data(faults)) if faults == expected => None,
            Ok(()) if expected == DataFaults::NONE => None,
            reported => Some(reported_text(&reported)),
        }
    }

    fn stream(&self) -> Result<Arc<CudaStream>> {
        Ok(self.context.new_stream()?)
    }

    /// A quantiser meets a NaN behind other work: the word is clean before, tells once, and is clean again.
    fn error_word(&self) -> Result<Finding> {
        let (rows, k) = (4, 128);
        let plan = Quantize1x128::plan(&self.device, QuantizeSpec::new(rows, k))?;
        let mut values = vec![bf16::ONE; rows * k];
        let clean = self.device.upload(&values)?;
        values[rows * k - 1] = bf16::NAN;
        let dirty = self.device.upload(&values)?;
        let mut q = self.device.upload(&vec![F8E4M3::ZERO; rows * k])?;
        let mut sf = self.device.upload(&vec![0.0_f32; rows])?;
        let mut quantize = |x: &deepseek_kernels::Buffer<bf16>| -> deepseek_kernels::Result<()> {
            let args = Quantize1x128Args {
                x: Matrix::new(x, rows, k)?,
                q: MatrixMut::new(&mut q, rows, k)?,
                sf: Scales1x128Mut::<MMajor>::new(&mut sf, rows, k)?,
            };
            plan.run(self.device.stream()?, args)
        };
        let mut words = Vec::new();
        let mut poll = || -> Result<()> {
            self.context.synchronize()?;
            words.push(self.device.poll_error());
            Ok(())
        };
        (0..TURNS).try_for_each(|_| quantize(&clean))?;
        poll()?;
        quantize(&dirty)?;
        (0..TURNS).try_for_each(|_| quantize(&clean))?;
        poll()?;
        poll()?;
        let told = |word: &Result<(), Error>| matches!(word, Err(Error::Data(faults)) if DataFaults::nonfinite_input(*faults));
        if words[0].is_ok() && told(&words[1]) && words[2].is_ok() {
            return Ok(Finding::Passed(Value::Null));
        }
        Ok(Finding::Failed(json!(words.iter().map(reported_text).collect::<Vec<_>>())))
    }

    /// CUDA has no empty allocations; an upload of nothing must not ask for one.
    fn nothing(&self) -> Result<Finding> {
        let bytes = self.device.upload::<u8>(&[])?.to_vec()?;
        if bytes.is_empty() { Ok(Finding::Passed(Value::Null)) } else { Ok(Finding::Failed(json!(bytes))) }
    }
}

fn reported_text(reported: &Result<(), Error>) -> String {
    match reported {
        Ok(()) => "nothing reported".to_owned(),
        Err(error) => error.to_string(),
    }
}
