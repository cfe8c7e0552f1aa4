//! Running cases: on a GPU one by one, on the emulator as many at a time as there are cores.

use std::collections::HashSet;
use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result as Anyhow;
use deepseek_kernels::cudarc::driver::CudaContext;
use deepseek_kernels::{Device, DeviceKind, Stream};

use super::args::BenchArgs;
use super::card::Card;
use super::measure::{Bench, l2_bytes};
use super::record::{DeviceRecord, FORMAT, Failure, Kind, Record, Roofs, Row};
use super::statistics::median;
use super::{counting, floor, lists};
use crate::case::{Case, Cases};
use crate::devices::runs_emulated;
use crate::gemm::timed_gemm;
use crate::machine::Machine;

/// Operands of a case may have so many bytes on the emulator, whose memory is the host's.
const MOST_BYTES: u64 = 4 << 30;

/// Lists that are taken where none is named: on a GPU, where counting does, and where the emulator multiplies as a GPU would.
const ON_GPU: &[&str] = &["v3-decode", "v3-prefill", "deepgemm"];
const COUNTED: &[&str] = &["v3-decode"];
const ON_FAKE_GPU: &[&str] = &["small"];

/// Runs what the arguments ask for.
///
/// # Errors
/// In one line: no such device, list, operation or shape.
pub fn run(args: &BenchArgs) -> Result<Record, String> {
    let machine = Machine::open(args.device, counting::COUNTING)?;
    let device = machine.device();
    if let Some(note) = &machine.fallback {
        eprintln!("not on a GPU: {note}");
    }
    let cases = cases(args, device)?;
    let deadline = Instant::now() + Duration::from_secs(args.budget);
    let mut record = Record {
        format: FORMAT,
        package: "deepseek-kernels".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: env::args().skip(1).collect(),
        device: describe(device).map_err(|error| format!("{error:#}"))?,
        roofs: None,
        control: None,
        rows: Vec::new(),
    };
    match device.stream() {
        Ok(Stream::Cuda(stream)) => {
            let measured =
                Bench::new(device, stream).and_then(|bench| measure(&bench, &cases, deadline, &mut record));
            measured.map_err(|error| format!("{error:#}"))?;
        }
        _ => record.rows = count(&machine.devices, &cases, deadline),
    }
    Ok(record)
}

fn describe(device: &Device) -> Anyhow<DeviceRecord> {
    let mut record = DeviceRecord {
        kind: Kind::Emulated,
        name: device.name().to_owned(),
        multiprocessors: device.multiprocessors(),
        capability: None,
        driver: None,
        l2_bytes: None,
    };
    if let Stream::Cuda(stream) = device.stream()? {
        let context: &CudaContext = stream.context();
        let (major, minor) = context.compute_capability()?;
        record.kind = if runs_emulated(device) { Kind::FakeGpu } else { Kind::Gpu };
        record.capability = Some(format!("{major}.{minor}"));
        record.l2_bytes = Some(l2_bytes(context)?);
        record.driver = Card::of(context)?.driver();
    }
    Ok(record)
}

/// Those of every list, each once, that the selection takes.
fn cases(args: &BenchArgs, device: &Device) -> Result<Cases, String> {
    let default = match device.kind() {
        DeviceKind::Emulated => COUNTED,
        DeviceKind::Cuda if runs_emulated(device) => ON_FAKE_GPU,
        DeviceKind::Cuda => ON_GPU,
    };
    let named: Vec<&str> = args.list.iter().map(String::as_str).collect();
    let mut all = Cases::new();
    for list in if named.is_empty() { default } else { &named } {
        all.extend(lists::cases(list)?);
    }
    let mut seen = HashSet::new();
    all.retain(|case| seen.insert(case.name()));
    args.selection.select(all)
}

/// A row without a result.
fn row(case: &dyn Case) -> Row {
    let work = case.work();
    Row {
        who: "ours".to_owned(),
        operation: case.operation().to_owned(),
        name: case.name(),
        title: case.title(),
        shape: case.shape(),
        data: case.data(),
        instance: String::new(),
        reason: None,
        flops: work.flops,
        bytes: work.bytes,
        worst: None,
        failure: None,
        counts: None,
        times: Default::default(),
    }
}

fn failed(row: Row, failure: Failure) -> Row {
    Row { failure: Some(failure), ..row }
}

fn left_out(why: &str) -> Failure {
    Failure { wrong: false, why: why.to_owned() }
}

const NO_TIME: &str = "no time was left: a larger --budget, or fewer cases by --list, --op and --shape";

/// One after the other; the roofs and the control first.
fn measure(bench: &Bench<'_>, cases: &[Box<dyn Case>], deadline: Instant, record: &mut Record) -> Anyhow<()> {
    let copy = bench.copy_rate()?;
    if let Some(case) = cases.first() {
        record.control = Some(bench.control(&**case)?);
    }
    for (i, case) in cases.iter().enumerate() {
        eprintln!("{}/{} {}", i + 1, cases.len(), case.name());
        let row = row(&**case);
        if Instant::now() > deadline {
            record.rows.push(failed(row, left_out(NO_TIME)));
            continue;
        }
        record.rows.push(match bench.case(&**case) {
            Ok(measured) => Row {
                instance: measured.instance,
                reason: measured.reason,
                worst: measured.worst,
                times: measured.times,
                ..row
            },
            Err(failure) => failed(row, failure),
        });
    }
    // The largest product is a row of no list, but what its rate is the others are measured by.
    let largest = timed_gemm(bench.largest_product());
    let largest = bench.case(&largest).ok().map(|measured| Row { times: measured.times, ..row(&largest) });
    let rates = record.rows.iter().chain(&largest).filter_map(|row| {
        let times = row.times.iter().filter(|(what, _)| *what != "host");
        let fastest = times.map(|(_, timing)| median(&timing.seconds)).reduce(f64::min)?;
        Some(floor::fp8_flops(row) / fastest)
    });
    record.roofs = Some(Roofs { copy, tensor: rates.fold(0.0, f64::max) });
    Ok(())
}

/// As many at a time as there are cores; the rows in the order of the cases.
fn count(devices: &[Device], cases: &[Box<dyn Case>], deadline: Instant) -> Vec<Row> {
    let rows: Vec<OnceLock<Row>> = cases.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for device in devices {
            scope.spawn(|| {
                while let Some((i, case)) = take(&next, cases) {
                    rows[i].get_or_init(|| counted(case, device, deadline));
                    eprintln!("{}/{} {}", i + 1, cases.len(), case.name());
                }
            });
        }
    });
    rows.into_iter().filter_map(OnceLock::into_inner).collect()
}

fn take<'c>(next: &AtomicUsize, cases: &'c [Box<dyn Case>]) -> Option<(usize, &'c dyn Case)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    Some((i, &**cases.get(i)?))
}

fn counted(case: &dyn Case, device: &Device, deadline: Instant) -> Row {
    let row = row(case);
    if Instant::now() > deadline {
        return failed(row, left_out(NO_TIME));
    }
    if row.bytes > MOST_BYTES {
        let gigabytes = row.bytes as f64 / 1e9;
        return failed(row, left_out(&format!("its operands take {gigabytes:.0} GB of the host's memory")));
    }
    match counting::count(case, device) {
        Ok(counted) => {
            Row { instance: counted.instance, reason: counted.reason, counts: Some(counted.counts), ..row }
        }
        Err(error) => failed(row, left_out(&format!("{error:#}"))),
    }
}
