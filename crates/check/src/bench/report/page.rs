//! The page.

use maud::{DOCTYPE, Markup, PreEscaped, html as markup};

use super::chart::{self, Picture};
use super::figures::{Case, Figures, distinct, geometric_mean, label, of_least_bytes, useful};
use super::{bars, compared, roofline, samples, table, units};
use crate::bench::compare::Comparison;
use crate::bench::record::{Failure, Kind, Record, Row};
use crate::escape::escaped;

/// The page of a record, and of how it compares with another one.
pub fn html(record: &Record, comparison: Option<&Comparison>) -> String {
    let figures = Figures::of(record);
    let title = figures.origin();
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(chart::STYLE)) (PreEscaped(include_str!("page.css"))) }
                script { (PreEscaped(include_str!("page.js"))) }
            }
            body {
                (head(&figures, &title))
                main {
                    (failures(&figures))
                    @if let Some(comparison) = comparison { (compared::section(comparison)) }
                    (pictures(&figures))
                    (tables(&figures))
                    (distributions(&figures))
                }
            }
        }
    };
    page.into_string()
}

fn head(figures: &Figures<'_>, title: &str) -> Markup {
    let record = figures.record;
    markup! {
        header {
            h1 { (title) }
            @match record.device.kind {
                Kind::Gpu => {}
                Kind::FakeGpu => p .warning {
                    strong { "The fake driver's clock." } " These times tell nothing about a GPU."
                }
                Kind::Emulated => p .warning {
                    strong { "Counts of the emulated Hopper: no time was measured." }
                    " What a GPU would execute and move as well, and what that takes at least."
                }
            }
            pre .command { code { "$ " (command(&record.command)) } }
            dl .facts {
                @for (name, value) in facts(figures) { div { dt { (name) } dd { (value) } } }
            }
        }
    }
}

/// As a shell takes it.
fn command(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./,:@%".contains(c);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            escaped(&format!("'{}'", word.replace('\'', r"'\''")))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn facts(figures: &Figures<'_>) -> Vec<(&'static str, String)> {
    let (record, device) = (figures.record, &figures.record.device);
    let mut facts = Vec::new();
    let mut say = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    say("device", Some(escaped(&device.name)));
    say("multiprocessors", Some(device.multiprocessors.to_string()));
    say("capability", device.capability.as_deref().map(escaped));
    say("driver", device.driver.as_deref().map(escaped));
    say("L2", device.l2_bytes.map(|bytes| units::scaled(bytes as f64, "B")));
    say("copy, measured", figures.roofs().map(|roofs| units::scaled(roofs.copy, "B/s")));
    say("FP8 products, measured", figures.roofs().map(|roofs| units::scaled(roofs.tensor, "FLOP/s")));
    let control = record.control.as_ref();
    say(
        "noise: a kernel against itself",
        control.map(|control| format!("{}, of {}", units::percent(control.noise), escaped(&control.name))),
    );
    let cases = figures.cases().count();
    let failed = figures.rows().filter(|(_, row)| row.failure.is_some()).count();
    say(
        "cases",
        Some(if failed == 0 {
            cases.to_string()
        } else {
            format!("{cases}; rows without a result: {failed}")
        }),
    );
    let mean = |ratio: &dyn Fn(&Case<'_>, &Row) -> Option<f64>| {
        let ratios: Vec<f64> = figures.cases().filter_map(|case| ratio(case, case.ours()?)).collect();
        let mean = geometric_mean(&ratios)?;
        Some(format!("{} (geometric mean of\u{a0}{})", units::ratio(mean), ratios.len()))
    };
    say("ours / floor", mean(&|_, row| figures.of_floor(row)));
    say("ours / best peer", mean(&|case, row| figures.of_best_peer(case, row)));
    if !figures.is_timed() {
        say("products made / needed", mean(&|_, row| useful(row).map(f64::recip)));
        say("bytes asked for / least", mean(&|_, row| of_least_bytes(row)));
    }
    facts
}

/// What has no result, and why: once, where it is the same for many.
fn failures(figures: &Figures<'_>) -> Markup {
    let failed: Vec<(&Row, &Failure)> =
        figures.rows().filter_map(|(_, row)| Some((row, row.failure.as_ref()?))).collect();
    let reasons = distinct(failed.iter().map(|(row, failure)| (&row.who, *failure)));
    markup! {
        @if !failed.is_empty() {
            section #failures {
                h2 { "Without a result" }
                ul {
                    @for (who, reason) in reasons {
                        @let rows = failed.iter().filter(|(row, failure)| (&row.who, *failure) == (who, reason));
                        (failure(reason, &rows.map(|(row, _)| *row).collect::<Vec<_>>()))
                    }
                }
            }
        }
    }
}

fn failure(failure: &Failure, rows: &[&Row]) -> Markup {
    let case = |row: &Row| escaped(&format!("{}, {}", row.title, label(row)));
    markup! {
        li {
            strong .bad { (if failure.wrong { "wrong" } else { "absent" }) } " "
            b { (escaped(&rows[0].who)) } ", "
            @if let [row] = rows { (case(row)) } @else { (rows.len()) " cases" }
            ": " (escaped(&failure.why))
            @if rows.len() > 1 {
                details { summary { "which" } ul { @for row in rows { li { (case(row)) } } } }
            }
        }
    }
}

fn pictures(figures: &Figures<'_>) -> Markup {
    let roofs = roofline::pictures(figures);
    let all_bars = bars::pictures(figures);
    let counted = !figures.is_timed();
    markup! {
        @if !roofs.is_empty() {
            section #roofline {
                h2 { (if counted { "Operations for each byte" } else { "Roofline" }) }
                // A picture alone says all of it.
                p .about { @if let [alone] = roofs.as_slice() { (alone.about) } @else { (roofline::about(figures)) } }
                (figures_of(&roofs, "roofline"))
            }
        }
        @if !all_bars.is_empty() {
            section #bars {
                h2 { (if counted { "What was counted, by the least" } else { "Each case beside its floor" }) }
                p .about { (bars::about(figures)) }
                (figures_of(&all_bars, "bars"))
            }
        }
    }
}

fn figures_of(pictures: &[Picture], id: &str) -> Markup {
    markup! {
        div .pictures .alone[pictures.len() == 1] {
            @for (place, picture) in pictures.iter().enumerate() {
                figure {
                    @if pictures.len() > 1 { figcaption { b { (picture.title) } } }
                    (picture.inline(&format!("{id}-{place}")))
                }
            }
        }
    }
}

fn tables(figures: &Figures<'_>) -> Markup {
    markup! {
        @if figures.is_timed() {
            section #times { h2 { "Times" } (table::table(figures, "times-table", false)) }
        }
        @if figures.is_counted() || !figures.is_timed() {
            section #counts {
                h2 { "Counts" }
                @if figures.is_timed() { p .about { "Of the emulated Hopper: no times." } }
                (table::table(figures, "counts-table", true))
            }
        }
    }
}

fn distributions(figures: &Figures<'_>) -> Markup {
    let all: Vec<Markup> = figures.cases().filter_map(|case| samples::figure(figures, case)).collect();
    markup! {
        @if !all.is_empty() {
            section #samples {
                h2 { "Samples" }
                p .about {
                    "Each time that was taken, or heaps of them where there are many. The line is the median; with 99\u{a0}% confidence the median lies in the coloured band. Those of a case have one axis."
                    (figures.warning())
                }
                div .pictures { @for figure in &all { (figure) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_the_command() {
        let words = ["bench", "--op", "mla.*", "it's", "", "a b", "--json=x.json"].map(str::to_owned);
        assert_eq!(command(&words), r"bench --op 'mla.*' 'it'\''s' '' 'a b' --json=x.json");
        assert_eq!(command(&["\u{1b}[2J".to_owned()]), r"'\u{1b}[2J'");
    }
}
