//! Times of every operation on a GPU, by graph replay, cold and warm. A result is checked against its bound before it is
//! timed, and a row is on the disk before the next case begins.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use check::bench::timing;
use check::case::{Case, Cases};
use check::cli;
use check::escape::escaped;
use check::judge::Scrutiny;
use check::memory::{Arena, Memory};
use clap::{Parser, ValueEnum};
use deepseek_kernels::cudarc::driver::CudaContext;
use deepseek_kernels::{Device, Stream};
use deepseek_kernels_hardware::card::Card;
use deepseek_kernels_hardware::device::{self, Variant};
use deepseek_kernels_hardware::record::{Csv, Row};
use deepseek_kernels_hardware::shapes;

#[derive(Parser)]
#[command(about = "Times every operation on a GPU, by graph replay, cold and warm")]
struct Arguments {
    /// Which cases
    #[arg(value_enum)]
    list: List,
    /// Rows are appended to this file; those that it has are not measured again
    #[arg(long)]
    csv: PathBuf,
    /// Rows of these files are not measured again either
    #[arg(long)]
    earlier: Vec<PathBuf>,
    /// Seconds after which no case begins
    #[arg(long, default_value_t = 600.0)]
    deadline: f64,
    /// Folder of folders of cubins, one per edit of the kernels
    #[arg(long, required_if_eq("list", "variants"))]
    variants: Option<PathBuf>,
    /// Only cases whose name begins with this
    #[arg(long)]
    only: Option<String>,
    /// A few small cases instead, as a rehearsal takes them
    #[arg(long)]
    reduced: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum List {
    /// The numbers that matter most, and the copy ceiling
    First,
    /// CTAs alone against CTAs in pairs
    Rivals,
    /// Edited kernels against the current ones
    Variants,
    /// The rest, in order of importance
    Rest,
}

/// Exit code of a list that time did not suffice for.
const UNFINISHED: u8 = 75;

/// How much is done for a number.
struct Effort {
    /// Runs in a graph at least, unless one takes long.
    runs: usize,
    /// Of the graph.
    replays: usize,
    /// Time that the replays of a case may take, in all.
    budget: Duration,
    /// What cold operands must exceed.
    l2_bytes: u64,
    /// What is copied for the ceiling of memory.
    copy_bytes: usize,
}

impl Effort {
    fn measured(card: &Card) -> Self {
        let l2_bytes = card.l2_bytes as u64;
        Self { runs: 20, replays: 9, budget: Duration::from_millis(400), l2_bytes, copy_bytes: 1 << 30 }
    }

    /// Every step once, on a machine that takes milliseconds for a launch.
    fn rehearsed() -> Self {
        Self {
            runs: 2,
            replays: 2,
            budget: Duration::from_millis(400),
            l2_bytes: 1 << 16,
            copy_bytes: 1 << 20,
        }
    }
}

fn main() -> ExitCode {
    match run(&cli::parse::<Arguments>()) {
        Ok(Outcome { unfinished: 0, failed: 0, .. }) => ExitCode::SUCCESS,
        Ok(Outcome { unfinished, failed: 0, .. }) => {
            eprintln!("{unfinished} cases are left for another time");
            ExitCode::from(UNFINISHED)
        }
        Ok(Outcome { failed, .. }) => {
            eprintln!("{failed} cases failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {}", escaped(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Outcome {
    unfinished: usize,
    failed: usize,
}

fn run(arguments: &Arguments) -> Result<Outcome> {
    let begin = Instant::now();
    let (device, context) = device::open()?;
    timing::untracked(&context);
    let bench = Bench::new(device, &context, arguments)?;
    let mut csv = Csv::open(&arguments.csv, &arguments.earlier)?;
    let mut outcome = Outcome::default();
    let late = || begin.elapsed().as_secs_f64() > arguments.deadline;
    let copies = arguments.only.as_ref().is_none_or(|only| "copy".starts_with(only.as_str()));
    if arguments.list == List::First && copies {
        bench.copy_ceiling(&mut csv)?;
    }
    for case in cases(arguments) {
        // The forms of a kernel one after the other: the card's temperature is the same for all.
        for variant in &bench.variants {
            if late() {
                outcome.unfinished += 1;
                continue;
            }
            if let Err(error) = bench.case(&*case, variant, &mut csv) {
                outcome.failed += 1;
                println!("{} {}: FAILED: {error:#}", case.name(), variant.name);
            }
        }
    }
    Ok(outcome)
}

fn cases(arguments: &Arguments) -> Cases {
    let mut cases = match arguments.list {
        _ if arguments.reduced => shapes::reduced(),
        List::First => shapes::first(),
        List::Rivals => shapes::rivals(),
        List::Variants => shapes::variants(),
        List::Rest => shapes::rest(),
    };
    cases.retain(|case| arguments.only.as_ref().is_none_or(|only| case.name().starts_with(only)));
    cases
}

struct Bench {
    effort: Effort,
    card: Card,
    /// The current kernels, then every edit of them.
    variants: Vec<Variant>,
}

impl Bench {
    fn new(device: Device, context: &Arc<CudaContext>, arguments: &Arguments) -> Result<Self> {
        let mut variants = vec![Variant::current(device)];
        let folders = arguments.variants.iter().filter(|_| arguments.list == List::Variants);
        for folder in folders {
            variants.extend(Variant::all(context, folder)?);
        }
        let card = Card::read(context)?;
        let effort = if arguments.reduced { Effort::rehearsed() } else { Effort::measured(&card) };
        Ok(Self { effort, card, variants })
    }

    /// The ceiling of memory: a copy on the device, which reads and writes every byte.
    fn copy_ceiling(&self, csv: &mut Csv) -> Result<()> {
        let bytes = self.effort.copy_bytes;
        let row = Row {
            operation: "copy".to_owned(),
            shape: bytes.to_string(),
            instance: "memcpy".to_owned(),
            bytes: 2 * bytes as u64,
            ..self.row("current", "cold")
        };
        if csv.has(&row) {
            return Ok(());
        }
        let stream = device::stream(&self.variants[0].device)?;
        let from = stream.alloc_zeros::<u8>(bytes)?;
        let mut to = stream.alloc_zeros::<u8>(bytes)?;
        let times =
            timing::replay(stream, 3, self.effort.replays, |_| Ok(stream.memcpy_dtod(&from, &mut to)?))?;
        self.append(csv, row, &times)
    }

    /// A case, cold and warm; nothing where an edit leaves its kernel as it is.
    fn case(&self, case: &dyn Case, variant: &Variant, csv: &mut Csv) -> Result<()> {
        let device = &variant.device;
        let work = case.work();
        let named = |l2: &str, instance: String| Row {
            operation: case.operation().to_owned(),
            shape: case.label(),
            instance,
            flops: work.flops,
            bytes: work.bytes,
            ..self.row(&variant.name, l2)
        };
        let problem = case.draw()?;
        let mut prepared = vec![problem.clone().prepare(&mut Arena::new(device, Memory::Plain))?];
        let instance = prepared[0].instance();
        if variant.name != self.variants[0].name && !variant.edits(&instance) {
            return Ok(());
        }
        let rows = [named("cold", instance.clone()), named("warm", instance)];
        if rows.iter().all(|row| csv.has(row)) {
            return Ok(());
        }
        let stream = device::stream(device)?;
        stream.synchronize()?;
        let begin = Instant::now();
        prepared[0].launch(Stream::Cuda(stream))?;
        stream.synchronize()?;
        let one = begin.elapsed();
        let checks = prepared[0].judge(Scrutiny::Brief)?;
        if let Some(failure) = checks.iter().find_map(|check| check.failure.as_ref()) {
            anyhow::bail!("wrong, so not timed: {failure}");
        }
        let worst = checks.iter().filter_map(|check| check.worst).fold(0.0, f64::max);
        let Effort { runs, replays, budget, l2_bytes, .. } = self.effort;
        let sets = timing::cold_sets(work.bytes, l2_bytes);
        while prepared.len() < sets {
            prepared.push(problem.clone().prepare(&mut Arena::new(device, Memory::Plain))?);
        }
        stream.synchronize()?;
        // A run that takes long is as well known from a few.
        let affordable = budget.as_secs_f64() / (2.0 * (replays + 1) as f64 * one.as_secs_f64());
        let runs = runs.min(affordable.max(1.0) as usize);
        for (mut row, sets) in rows.into_iter().zip([sets, 1]) {
            if csv.has(&row) {
                continue;
            }
            row.worst = worst;
            // Fewer runs than sets would leave the first ones in L2 for the next replay.
            let runs = runs.max(sets);
            let times = timing::replay(stream, runs, replays, |i| {
                Ok(prepared[i % sets].launch(Stream::Cuda(stream))?)
            })?;
            self.append(csv, row, &times)?;
        }
        Ok(())
    }

    fn append(&self, csv: &mut Csv, mut row: Row, times: &timing::Times) -> Result<()> {
        [row.median_us, row.min_us, row.max_us] = [times.median(), times.min(), times.max()].map(|x| x * 1e6);
        println!(
            "{} {} {} {} {}: {:.1} us, {:.1} TFLOP/s, {:.1} GB/s",
            row.operation,
            row.shape,
            row.instance,
            row.variant,
            row.l2,
            row.median_us,
            row.flops as f64 / row.median_us / 1e6,
            row.bytes as f64 / row.median_us / 1e3
        );
        csv.append(&row)
    }

    fn row(&self, variant: &str, l2: &str) -> Row {
        Row {
            who: "ours".to_owned(),
            operation: String::new(),
            shape: String::new(),
            instance: String::new(),
            variant: variant.to_owned(),
            l2: l2.to_owned(),
            median_us: 0.0,
            min_us: 0.0,
            max_us: 0.0,
            flops: 0,
            bytes: 0,
            worst: 0.0,
            card: self.card.name.clone(),
        }
    }
}
