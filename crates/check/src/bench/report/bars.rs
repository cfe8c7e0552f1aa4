//! A bar for everyone who ran a case, in parts of what the case takes at least; of counts, a bar for each thing that is more
//! than it has to be.

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{Picture, across, colour, lines, pixels};
use super::figures::{Case, Figures, Group, label, of_least_bytes, positive};
use super::units;
use crate::bench::floor;
use crate::bench::record::{Record, Row};
use crate::bench::statistics::median;
use crate::escape::{escaped, shortened};

/// Cases of a picture: what is longer goes on in another one.
const CASES: usize = 12;
/// Letters of a line above the bars of a case, and of a name beside a bar.
const LABEL: usize = 44;
const NAME: usize = 16;
/// Pixels down.
const HEAD: f64 = 24.0;
const LINE: f64 = 15.0;
const BAR: f64 = 17.0;
const GAP: f64 = 10.0;
/// What the longest bar takes of the width: the rest is for what is written behind it.
const LONGEST: f64 = 0.5;

/// All bars of a record as a file; none where there are none.
pub fn svg(record: &Record) -> Option<String> {
    let figures = Figures::of(record);
    let pictures = pictures(&figures);
    let title = if figures.is_timed() { "Time of each case" } else { "What was counted, by the least" };
    let about = format!("{}. {}", figures.origin(), about(&figures));
    (!pictures.is_empty()).then(|| Picture::file(title, &about, &pictures))
}

/// What the pictures have in common.
pub fn about(figures: &Figures<'_>) -> String {
    let bars = if !figures.is_timed() {
        "Multiples of the least. Bytes: asked of global memory and written there, by those that have to be moved. \
         Products: of the tensor core, by those that results need. Busiest: columns of the multiprocessor that has \
         most, by an equal share of all."
    } else if figures.roofs().is_some() {
        "Medians as multiples of the floor: the time that the case's bytes take at the measured bandwidth of a copy, or \
         its products at the measured rate of the tensor core, whichever is longer."
    } else {
        "Medians as multiples of the fastest of the case: no roofs were measured."
    };
    format!("{bars} A bar with an arrow goes on.{}", figures.warning())
}

/// A bar, or words for one that there is not.
struct Bar {
    kind: usize,
    name: String,
    /// Times what is least.
    value: Option<f64>,
    says: String,
    tip: String,
}

/// A case's label in lines, and its bars.
type Bars = (Vec<String>, Vec<Bar>);

/// Pictures of each operation, with one axis; none where nothing has a bar.
pub fn pictures(figures: &Figures<'_>) -> Vec<Picture> {
    let of_group = |group: &Group<'_>| -> Vec<Bars> {
        let cases = group.cases.iter();
        let cases = cases.map(|case| (lines(&escaped(&group.label(case)), LABEL), bars(figures, case)));
        cases.filter(|(_, bars)| bars.iter().any(|bar| bar.value.is_some())).collect()
    };
    let groups: Vec<(String, Vec<Bars>)> =
        figures.groups.iter().map(|group| (escaped(group.title()), of_group(group))).collect();
    let all = groups.iter().flat_map(|(_, cases)| cases).flat_map(|(_, bars)| bars);
    let axis = Axis::linear(longest(&all.filter_map(|bar| bar.value).collect::<Vec<_>>()));
    let least = match (figures.is_timed(), figures.roofs()) {
        (false, _) => "least",
        (true, Some(_)) => "floor",
        (true, None) => "fastest",
    };
    let parts = groups.iter().flat_map(|(title, cases)| {
        cases.chunks(CASES).enumerate().map(move |(part, cases)| (title, part, cases))
    });
    let picture = |(title, part, cases): (&String, usize, &[Bars])| Picture {
        title: if part == 0 { title.clone() } else { format!("{title} ({})", part + 1) },
        about: format!("{} cases. {}", cases.len(), about(figures)),
        height: HEAD + cases.iter().map(|(label, bars)| height(label, bars)).sum::<f64>(),
        body: draw(&axis, least, cases),
    };
    parts.map(picture).collect()
}

/// The end of the axis: the longest bar, unless it is so long that nothing would be seen of the others.
fn longest(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(1.0, f64::max);
    most.min((4.0 * median(values)).max(4.0))
}

fn height(label: &[String], bars: &[Bar]) -> f64 {
    LINE * label.len() as f64 + BAR * bars.len() as f64 + GAP
}

fn bars(figures: &Figures<'_>, case: &Case<'_>) -> Vec<Bar> {
    if figures.is_timed() { timed(figures, case) } else { counted(figures, case.first()) }
}

fn timed(figures: &Figures<'_>, case: &Case<'_>) -> Vec<Bar> {
    let fastest = case.rows.iter().filter_map(|row| figures.seconds(row)).min_by(f64::total_cmp);
    let bar = |row: &&Row| {
        let seconds = figures.seconds(row);
        let value = match figures.roofs() {
            Some(_) => figures.of_floor(row),
            None => seconds.zip(fastest).and_then(|(seconds, fastest)| positive(seconds / fastest)),
        };
        let says = match (&row.failure, seconds, value) {
            (Some(failure), ..) => if failure.wrong { "wrong result" } else { "no result" }.to_owned(),
            (None, Some(seconds), Some(value)) => {
                format!("{} {}", units::time(seconds), units::ratio(value))
            }
            (None, Some(seconds), None) => units::time(seconds),
            (None, None, _) => "no time".to_owned(),
        };
        let cold = figures.median(row, "cold").is_some() || seconds.is_none();
        let tip = format!(
            "{}, {}: {says}{}",
            escaped(&row.who),
            escaped(&label(row)),
            if cold { "" } else { ", L2 warm" }
        );
        let says = if cold { says } else { format!("{says} warm") };
        Bar { kind: figures.series(row), name: shortened(&row.who, NAME), value, says, tip }
    };
    case.rows.iter().map(bar).collect()
}

fn counted(figures: &Figures<'_>, row: &Row) -> Vec<Bar> {
    let Some(counts) = &row.counts else { return Vec::new() };
    let floors = floor::cycles(counts, figures.record.device.multiprocessors);
    let things = [
        ("bytes", of_least_bytes(row)),
        ("products", super::figures::useful(row).map(f64::recip)),
        ("busiest", floors.balance),
    ];
    let bar = |(kind, (name, value)): (usize, (&str, Option<f64>))| {
        let says = units::ratio(value?);
        let tip = format!("{name}, {}: {says}", escaped(&label(row)));
        Some(Bar { kind, name: name.to_owned(), value, says, tip })
    };
    things.into_iter().enumerate().filter_map(bar).collect()
}

fn draw(axis: &Axis, least: &str, cases: &[Bars]) -> Markup {
    let x = |value: f64| across(LONGEST * axis.place(value));
    let tops = cases.iter().scan(HEAD, |top, (label, bars)| {
        let here = *top;
        *top += height(label, bars);
        Some(here)
    });
    html! {
        @for tick in axis.ticks().into_iter().filter(|tick| *tick != 1.0) {
            text .number x=(x(tick)) y="13" text-anchor=(if tick == 0.0 { "start" } else { "middle" }) {
                (units::tick(tick))
            }
        }
        text .name .over x=(x(1.0)) y="13" text-anchor="middle" { (least) }
        @for (top, (label, bars)) in tops.zip(cases) {
            @for (place, line) in label.iter().enumerate() {
                text .name x="0" y=(pixels(top + LINE * place as f64 + 11.0)) { (line) }
            }
            @for (place, bar) in bars.iter().enumerate() {
                (draw_bar(axis, bar, top + LINE * label.len() as f64 + BAR * place as f64))
            }
        }
    }
}

fn draw_bar(axis: &Axis, bar: &Bar, y: f64) -> Markup {
    let x = |value: f64| across(LONGEST * axis.place(value));
    let end = x(bar.value.unwrap_or(0.0));
    // Not over the line.
    let behind = x(bar.value.map_or(0.0, |value| value.max(1.0)));
    let beyond = bar.value.is_some_and(|value| value > axis.ends().1);
    let upright = |class: &str, value: f64| {
        html! { line class=(class) x1=(x(value)) x2=(x(value)) y1=(pixels(y)) y2=(pixels(y + BAR)) {} }
    };
    html! {
        g {
            title { (bar.tip) }
            @if bar.value.is_some() {
                @for tick in axis.ticks() { (upright("grid", tick)) }
                rect .bar .{ "s" (colour(bar.kind)) } x="0" y=(pixels(y + 2.0)) width=(end) height=(pixels(BAR - 4.0)) {}
                (upright("least", 1.0))
            }
            text .over x=(behind) dx="6" y=(pixels(y + 12.5)) {
                @if beyond { "▸ " }
                tspan .name { (bar.name) } " " (bar.says)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_bar_hides_no_others() {
        assert_eq!(longest(&[1.1, 1.2, 1.3]), 1.3);
        assert_eq!(longest(&[1.1, 1.2, 3.0]), 3.0);
        assert_eq!(longest(&[1.1, 1.2, 90.0]), 4.8);
        assert_eq!(longest(&[]), 1.0);
    }
}
