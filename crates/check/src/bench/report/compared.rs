//! How a run compares with another one: what cannot be told, and a line for each row of both.

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{across, pixels};
use super::units;
use crate::bench::compare::{Compared, Comparison, Verdict};
use crate::escape::escaped;

/// In the order in which they matter.
const VERDICTS: [Verdict; 4] = [Verdict::Slower, Verdict::Ambiguous, Verdict::Faster, Verdict::Same];

pub fn section(comparison: &Comparison) -> Markup {
    let mut rows: Vec<&Compared> = comparison.rows.iter().collect();
    rows.sort_by_key(|row| VERDICTS.iter().position(|verdict| *verdict == row.verdict));
    let ends = rows.iter().filter_map(|row| row.ratio).flatten();
    let axis = Axis::logarithmic(ends.chain([0.9, 1.1]));
    html! {
        section #compared {
            h2 { "Beside the other run" }
            p .about {
                "New by old: below 1 is faster. The bar is what the ratio of the medians may be. Counts have no noise: fewer is faster, more is slower, and neither is a time. "
                @for verdict in VERDICTS { b { (verdict.to_string()) } ": " (comparison.count(verdict)) " " }
            }
            @if !comparison.problems.is_empty() {
                h3 { "Not compared" }
                ul { @for problem in &comparison.problems { li { (escaped(problem)) } } }
            }
            @if !rows.is_empty() {
                div .scroll tabindex="0" role="region" aria-label="table, scrolls sideways" {
                    table #compared-table .sortable {
                        thead { tr {
                            @for title in ["case", "of"] { th scope="col" { (title) } }
                            th scope="col" { "verdict" }
                            th scope="col" .figure { "new / old" }
                            th scope="col" .wide { "what it may be" }
                        } }
                        tbody { @for row in rows { (line(&axis, row)) } }
                    }
                }
            }
        }
    }
}

fn line(axis: &Axis, row: &Compared) -> Markup {
    let ratio = row.ratio.filter(|ratio| ratio.iter().all(|value| value.is_finite()));
    html! {
        tr {
            th scope="row" { span .shape { (escaped(&row.name)) } }
            td { (escaped(&row.what)) }
            td { strong .bad[row.verdict == Verdict::Slower] { (row.verdict.to_string()) } }
            td .figure data-order=[ratio.map(|ratio| ratio[0])] {
                (ratio.map_or_else(|| units::NONE.to_owned(), |ratio| units::precise(ratio[0])))
            }
            td .wide {
                @if let Some(ratio) = ratio {
                    (units::precise(ratio[1])) " to " (units::precise(ratio[2])) (interval(axis, ratio))
                }
                @if !row.counts.is_empty() { (differing(row)) }
            }
        }
    }
}

/// The ratio and what it may be, beside 1.
fn interval(axis: &Axis, [ratio, low, high]: [f64; 3]) -> Markup {
    const HEIGHT: f64 = 14.0;
    let x = |value: f64| across(axis.place(value));
    let middle = pixels(HEIGHT / 2.0);
    html! {
        svg .chart width="100%" height=(pixels(HEIGHT)) aria-hidden="true" {
            line .axis x1="0" x2="100%" y1=(middle) y2=(middle) {}
            line .least x1=(x(1.0)) x2=(x(1.0)) y1="0" y2=(pixels(HEIGHT)) {}
            g .s0 {
                rect .bar x=(x(low)) y="4" width=(across(axis.place(high) - axis.place(low))) height="6" {}
                circle .bar cx=(x(ratio)) cy=(middle) r="4.5" {}
            }
        }
    }
}

/// Counts of both.
fn differing(row: &Compared) -> Markup {
    html! {
        details {
            summary { (row.counts.len()) " counts differ" }
            ul {
                @for (name, [old, new]) in &row.counts {
                    li { (escaped(name)) ": " (units::whole(*old)) " then, " (units::whole(*new)) " now" }
                }
            }
        }
    }
}
