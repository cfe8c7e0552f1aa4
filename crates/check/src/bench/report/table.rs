//! Every figure of every row, in columns that say what they are.

use maud::{Markup, html};

use super::figures::{Case, Figures, OURS, label, of_least_bytes, traffic, useful};
use super::units;
use crate::bench::floor::{self, Floors};
use crate::bench::record::{CountsRecord, Row};
use crate::escape::escaped;

/// A row, and where it stands.
pub struct Line<'a> {
    figures: &'a Figures<'a>,
    case: &'a Case<'a>,
    row: &'a Row,
}

/// What is shown, and what it is sorted by.
struct Cell {
    shown: String,
    order: Option<f64>,
}

struct Column {
    title: &'static str,
    /// What it says, for who does not know.
    meaning: &'static str,
    cell: fn(&Line<'_>) -> Cell,
}

impl Column {
    const fn new(title: &'static str, meaning: &'static str, cell: fn(&Line<'_>) -> Cell) -> Self {
        Self { title, meaning, cell }
    }
}

/// A number, shown as its unit is.
fn number(value: Option<f64>, show: impl Fn(f64) -> String) -> Cell {
    let value = value.filter(|value| value.is_finite());
    Cell { shown: value.map_or_else(|| units::NONE.to_owned(), show), order: value }
}

const WORST: Column = Column::new(
    "error / bound",
    "Largest |error| of the result, as a part of its bound, before anything was timed: correct is at most 1.",
    |line| number(line.row.worst, units::plain),
);

const TIMES: [Column; 9] = [
    Column::new("cold", "Median time of a run; L2 holds foreign lines when it starts.", |line| {
        time(line, "cold")
    }),
    Column::new("warm", "Median time of a run; L2 holds what the run before left there.", |line| {
        time(line, "warm")
    }),
    Column::new("host", "Median time that the host takes to launch a prepared plan.", |line| {
        time(line, "host")
    }),
    Column::new(
        "TFLOP/s",
        "Operations of the products that the result needs, by the cold time (or the warm one).",
        |line| number(line.figures.operations_per_second(line.row).map(|rate| rate / 1e12), units::plain),
    ),
    Column::new("GB/s", "Bytes that have to be moved, each operand once, by the same time.", |line| {
        number(line.figures.bytes_per_second(line.row).map(|rate| rate / 1e9), units::plain)
    }),
    Column::new("×\u{a0}floor", "The same time by the floor.", |line| {
        number(line.figures.of_floor(line.row), units::ratio)
    }),
    Column::new(
        "×\u{a0}best peer",
        "Our time by that of the fastest other library in this run: below 1 ours is faster.",
        |line| number(line.figures.of_best_peer(line.case, line.row), units::ratio),
    ),
    Column::new("share", "Part of a step of DeepSeek-V3, where all of its cases were timed.", |line| {
        let share = line.figures.share(line.row);
        let mut cell = number(share.map(|(_, share)| share), units::percent);
        cell.shown.extend(share.map(|(step, _)| format!(" of {step}")));
        cell
    }),
    WORST,
];

fn time(line: &Line<'_>, when: &str) -> Cell {
    let mut cell = number(line.figures.median(line.row, when), units::time);
    if line.row.times.get(when).is_some_and(|timing| timing.disturbed) && cell.order.is_some() {
        cell.shown.push_str(" disturbed");
    }
    cell
}

const COUNTS: [Column; 19] = [
    Column::new(
        "useful products",
        "Operations that the result needs, of all that the tensor core made: the rest are rows and columns of tiles that no result needs. Above 100 % where a kernel leaves out what a mask hides, which is counted as needed.",
        |line| number(useful(line.row), units::percent),
    ),
    Column::new(
        "busiest",
        "Columns of wgmmas of the multiprocessor that has most of them, by an equal share of all multiprocessors: 1 is even.",
        |line| number(floors(line).and_then(|floors| floors.balance), units::ratio),
    ),
    Column::new(
        "cycles, tensor core",
        "The fewest of the busiest multiprocessor's tensor core: arithmetic from an H100's documented rate, no time.",
        |line| least_cycles(line, |floors| floors.tensor),
    ),
    Column::new(
        "cycles, shared memory",
        "The fewest of a multiprocessor's shared memory, at 128 bytes a cycle: operands, what TMA lands and stores, and wavefronts. As above, no time.",
        |line| least_cycles(line, |floors| floors.shared_memory),
    ),
    Column::new(
        "cycles, special functions",
        "The fewest of a multiprocessor's exponentials and logarithms, at 16 a cycle. As above, no time.",
        |line| least_cycles(line, |floors| floors.special),
    ),
    Column::new("least bytes", "Bytes that have to be moved, each operand once.", |line| {
        number(Some(line.row.bytes as f64), |bytes| units::scaled(bytes, "B"))
    }),
    Column::new(
        "asked for",
        "Bytes of global memory that TMA and threads loaded and stored: each time, and once for all CTAs that share a load. Most of what is loaded again comes from L2.",
        |line| bytes(line, traffic),
    ),
    Column::new("×\u{a0}least", "The one by the other.", |line| {
        number(of_least_bytes(line.row), units::ratio)
    }),
    Column::new("by TMA", "Bytes that TMA loaded, once for all CTAs that share a load.", |line| {
        bytes(line, |counts| counts.get("tma_load_bytes"))
    }),
    Column::new("landed", "Bytes that TMA put into shared memory, of every CTA.", |line| {
        bytes(line, |counts| counts.get("tma_landed_bytes"))
    }),
    Column::new("stored", "Bytes that TMA and threads stored.", |line| {
        bytes(line, |counts| counts.get("tma_store_bytes").saturating_add(counts.get("global_store_bytes")))
    }),
    Column::new("wavefronts", "Of loads and stores of shared memory by threads: a model.", |line| {
        wavefronts(line, "shared_wavefronts")
    }),
    Column::new("conflicts", "Wavefronts among them that banks cost which several words lie in.", |line| {
        wavefronts(line, "shared_conflicts")
    }),
    Column::new(
        "promotions",
        "FP32 values that threads took over from the tensor core: in an FP8 GEMM a product and a sum each.",
        |line| count(line, &["accumulators_read"]),
    ),
    Column::new("exponentials", "ex2 of threads.", |line| count(line, &["exponentials"])),
    Column::new(
        "barriers",
        "Phases that mbarriers completed, and times that barriers of warps, CTAs and clusters opened.",
        |line| count(line, &["mbarrier_phases", "warp_barriers", "named_barriers", "cluster_barriers"]),
    ),
    Column::new("fences", "fence.proxy.async and wgmma.fence, of all threads.", |line| {
        count(line, &["proxy_fences", "wgmma_fences"])
    }),
    Column::new("CTAs", "CTAs of all launches.", |line| count(line, &["ctas"])),
    WORST,
];

fn floors(line: &Line<'_>) -> Option<Floors> {
    let multiprocessors = line.figures.record.device.multiprocessors;
    line.row.counts.as_ref().map(|counts| floor::cycles(counts, multiprocessors))
}

fn least_cycles(line: &Line<'_>, unit: fn(&Floors) -> f64) -> Cell {
    number(floors(line).map(|floors| unit(&floors)), units::count)
}

fn bytes(line: &Line<'_>, of: impl Fn(&CountsRecord) -> u64) -> Cell {
    number(line.row.counts.as_ref().map(|counts| of(counts) as f64), |bytes| units::scaled(bytes, "B"))
}

/// Of several counts together.
fn count(line: &Line<'_>, names: &[&str]) -> Cell {
    let sum = |counts: &CountsRecord| names.iter().map(|name| counts.get(name) as f64).sum();
    number(line.row.counts.as_ref().map(sum), units::count)
}

/// Accesses without a wavefront were not looked at.
fn wavefronts(line: &Line<'_>, name: &str) -> Cell {
    let counts = line.row.counts.as_ref().filter(|counts| {
        counts.get("shared_wavefronts") > 0
            || counts.get("shared_loads").max(counts.get("shared_stores")) == 0
    });
    number(counts.map(|counts| counts.get(name) as f64), units::count)
}

/// The table of times, or of counts.
pub fn table(figures: &Figures<'_>, id: &str, counts: bool) -> Markup {
    let columns: &[Column] = if counts { &COUNTS } else { &TIMES };
    // A case without counts is named among the others where there is no other table.
    let lines = figures.rows().filter(|(_, row)| !counts || row.counts.is_some() || !figures.is_timed());
    html! {
        div .scroll tabindex="0" role="region" aria-label="table, scrolls sideways" {
            table id=(id) .sortable {
                thead { tr {
                    th scope="col" { "case" }
                    @if figures.names.len() > 1 { th scope="col" { "by" } }
                    @for column in columns { th scope="col" .figure title=(column.meaning) { (column.title) } }
                } }
                tbody {
                    @for (case, row) in lines {
                        (table_row(columns, &Line { figures, case, row }))
                    }
                }
            }
        }
        details .meanings {
            summary { "What the columns say" }
            dl { @for column in columns { dt { (column.title) } dd { (column.meaning) } } }
        }
    }
}

fn table_row(columns: &[Column], line: &Line<'_>) -> Markup {
    let row = line.row;
    html! {
        tr .peer[row.who != OURS] .failed[row.failure.is_some()] {
            th scope="row" {
                span .title { (escaped(&row.title)) } " " span .shape { (escaped(&label(row))) }
                @if let Some(failure) = &row.failure {
                    " " strong .bad { (if failure.wrong { "wrong result" } else { "no result" }) }
                }
                (kernel(row))
            }
            @if line.figures.names.len() > 1 { td { (escaped(&row.who)) } }
            @for column in columns {
                @let cell = (column.cell)(line);
                td .figure data-order=[cell.order] { (cell.shown) }
            }
        }
    }
}

/// The kernel; behind it why the planner took it, and wgmmas by shape.
fn kernel(row: &Row) -> Markup {
    let name = if row.instance.is_empty() { "kernel" } else { &row.instance };
    let wgmmas = row.counts.as_ref().map(|counts| &counts.wgmmas).filter(|wgmmas| !wgmmas.is_empty());
    html! {
        @if row.reason.is_some() || wgmmas.is_some() {
            details {
                summary { code { (escaped(name)) } }
                @if let Some(reason) = &row.reason { p { (escaped(reason)) } }
                @if let Some(wgmmas) = wgmmas {
                    ul { @for (shape, &count) in wgmmas { li { (units::whole(count)) " × " (escaped(shape)) } } }
                }
            }
        } @else if !row.instance.is_empty() {
            " " code { (escaped(name)) }
        }
    }
}
