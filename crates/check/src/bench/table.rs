//! A run as text.

use super::record::{CountsRecord, Record, Roofs, Row};
use super::share::shares;
use super::statistics::median;
use crate::escape::shortened;
use crate::text_table::{empty, right_align};

/// Characters of a name, and of a reason.
const NAME: usize = 60;
const SENTENCE: usize = 200;

const COUNTS_LEGEND: &str = "counts of what one run does, by the emulated Hopper: no time was measured\n\
     useful: part of the tensor core's work that results need\n\
     busiest: wgmma columns of the busiest CTA, by an equal share for every multiprocessor\n\
     loaded, stored: bytes that kernels ask for, against the least; conflicts: wavefronts lost to banks";
const TIMES_LEGEND: &str = "medians of graph replays; cold, warm: what L2 holds; host: the host's time for a launch\n\
     x of floor: cold time against the larger of bytes over the copy's rate and operations over the fastest product's rate";

/// The table, failures, and what the columns mean.
pub fn render(record: &Record) -> String {
    let mut parts = vec![];
    let timed: Vec<&Row> = record.rows.iter().filter(|row| !row.times.is_empty()).collect();
    let counted: Vec<(&Row, &CountsRecord)> =
        record.rows.iter().filter_map(|row| Some((row, row.counts.as_ref()?))).collect();
    if !timed.is_empty() {
        parts.push(times(record, &timed));
        parts.push(TIMES_LEGEND.to_owned());
    }
    if !counted.is_empty() {
        parts.push(counts(&counted, record.device.multiprocessors));
        parts.push(COUNTS_LEGEND.to_owned());
    }
    if let Some(control) = &record.control {
        let noise = 100.0 * control.noise;
        parts.push(format!("control: {} against itself differs by {noise:.2} %", control.name));
    }
    for row in &record.rows {
        let Some(failure) = &row.failure else { continue };
        let word = if failure.wrong { "WRONG" } else { "NO RESULT" };
        parts.push(format!("{word} {} {}: {}", row.who, row.name, shortened(&failure.why, SENTENCE)));
    }
    parts.join("\n") + "\n"
}

fn times(record: &Record, rows: &[&Row]) -> String {
    let mut table = empty(&[
        "who",
        "case",
        "instance",
        "cold",
        "warm",
        "host",
        "TFLOP/s",
        "GB/s",
        "x of floor",
        "share",
        "|error|/bound",
    ]);
    let shares = shares(record);
    for row in rows {
        let of = |what: &str| row.times.get(what).map(|timing| median(&timing.seconds));
        let cold = of("cold");
        let rate = |amount: u64, unit: f64| match cold {
            Some(seconds) if amount > 0 => format!("{:.1}", amount as f64 / seconds / unit),
            _ => "-".to_owned(),
        };
        let of_floor = |roofs: &Roofs| Some(cold? / super::floor::seconds(row, roofs));
        let of_floor = record.roofs.as_ref().and_then(of_floor);
        let share = shares.get(&row.name).filter(|_| row.who == "ours");
        table.add_row([
            shortened(&row.who, NAME),
            shortened(&row.name, NAME),
            shortened(&row.instance, NAME),
            microseconds(cold),
            microseconds(of("warm")),
            microseconds(of("host")),
            rate(row.flops, 1e12),
            rate(row.bytes, 1e9),
            of_floor.map_or("-".to_owned(), |x| format!("{x:.2}")),
            share.map_or("-".to_owned(), |(step, share)| format!("{:.1} % of {step}", 100.0 * share)),
            row.worst.map_or("-".to_owned(), |worst| format!("{worst:.3}")),
        ]);
    }
    right_align(&mut table, &[3, 4, 5, 6, 7, 8, 9, 10]);
    table.to_string()
}

fn counts(rows: &[(&Row, &CountsRecord)], multiprocessors: u32) -> String {
    let mut table = empty(&[
        "case",
        "instance",
        "wgmmas",
        "useful",
        "busiest",
        "loaded",
        "stored",
        "conflicts",
        "exponentials",
        "barriers",
        "fences",
    ]);
    for (row, counts) in rows {
        let part = |part: u64, whole: u64| match whole {
            0 => "-".to_owned(),
            _ => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
        };
        let loaded = counts.get("tma_load_bytes") + counts.get("global_load_bytes");
        let stored = counts.get("tma_store_bytes") + counts.get("global_store_bytes");
        let barriers = ["mbarrier_phases", "named_barriers", "cluster_barriers", "warp_barriers"];
        let busiest = counts.busiest_cta_columns as f64 * f64::from(multiprocessors) / counts.columns as f64;
        table.add_row([
            shortened(&row.name, NAME),
            shortened(&row.instance, NAME),
            counts.wgmmas.values().sum::<u64>().to_string(),
            part(row.flops, counts.tensor_flops),
            if counts.columns == 0 { "-".to_owned() } else { format!("{busiest:.2}") },
            bytes(loaded),
            bytes(stored),
            part(counts.get("shared_conflicts"), counts.get("shared_wavefronts")),
            counts.get("exponentials").to_string(),
            barriers.iter().map(|name| counts.get(name)).sum::<u64>().to_string(),
            (counts.get("proxy_fences") + counts.get("wgmma_fences")).to_string(),
        ]);
    }
    right_align(&mut table, &[2, 3, 4, 5, 6, 7, 8, 9, 10]);
    table.to_string()
}

fn microseconds(seconds: Option<f64>) -> String {
    seconds.map_or("-".to_owned(), |seconds| format!("{:.2} us", seconds * 1e6))
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
