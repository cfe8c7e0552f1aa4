//! Where each case lies under the roofs that were measured: what it reaches, by its operations for each byte.

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{Picture, pixels};
use super::figures::{Figures, distinct, label, operations_per_byte};
use super::points::{Frame, Mark, height, legend};
use super::{intensity, units};
use crate::bench::floor;
use crate::bench::record::{Record, Roofs, Row};
use crate::escape::{escaped, shortened};

/// Letters of a name beside a mark.
pub const NAME: usize = 24;

/// The picture of a record as a file, of counts another one; none where no case multiplies.
pub fn svg(record: &Record) -> Option<String> {
    let figures = Figures::of(record);
    let pictures = pictures(&figures);
    let (title, about) = match pictures.as_slice() {
        [] => return None,
        [alone] => (alone.title.clone(), alone.about.clone()),
        _ => ("Roofline".to_owned(), about(&figures)),
    };
    Some(Picture::file(&title, &format!("{}. {about}", figures.origin()), &pictures))
}

/// A picture for each operation that multiplies, with the same axes; of counts one for all.
pub fn pictures(figures: &Figures<'_>) -> Vec<Picture> {
    if !figures.is_timed() {
        return intensity::picture(figures).into_iter().collect();
    }
    let reached: Vec<Reached<'_>> = figures
        .rows()
        .filter_map(|(_, row)| {
            let rate = figures.operations_per_second(row)? / TERA;
            Some(Reached { row, intensity: operations_per_byte(row)?, rate })
        })
        .collect();
    let operations = distinct(reached.iter().map(|point| point.row.operation.as_str()));
    operations.iter().map(|operation| timed(figures, operation, &reached)).collect()
}

/// What the pictures of times have in common.
pub fn about(figures: &Figures<'_>) -> String {
    let roofs = if figures.roofs().is_some() {
        "Roofs: bandwidth of a copy and rate of the fastest product, both measured in this run."
    } else {
        "No roofs were measured in this run."
    };
    let warning = figures.warning();
    format!(
        "Operations a second that each case reaches, L2 cold where measured, by operations for each byte it has \
         to move. {roofs}{warning}"
    )
}

const TERA: f64 = 1e12;

/// A point under the roofs.
struct Reached<'r> {
    row: &'r Row,
    intensity: f64,
    /// TFLOP/s.
    rate: f64,
}

impl Reached<'_> {
    fn tip(&self) -> String {
        let (who, case) = (escaped(&self.row.who), escaped(&label(self.row)));
        let (rate, intensity) = (units::scaled(self.rate * TERA, "FLOP/s"), units::plain(self.intensity));
        format!("{who}: {case}, {rate}, {intensity} FLOP for each byte")
    }
}

fn timed(figures: &Figures<'_>, operation: &str, all: &[Reached<'_>]) -> Picture {
    let roofs = figures.roofs();
    let ridge = roofs.map(|roofs| roofs.tensor / roofs.copy);
    let frame = Frame {
        // Both roofs are seen, and there is room for what is said of the left one.
        x: Axis::logarithmic(
            all.iter()
                .map(|point| point.intensity)
                .chain(ridge.into_iter().flat_map(|at| [at / 12.0, at * 3.0])),
        ),
        y: Axis::logarithmic(
            all.iter().map(|point| point.rate).chain(roofs.map(|roofs| roofs.tensor / TERA)),
        ),
        x_title: "FLOP for each byte",
        y_title: "TFLOP/s",
    };
    let here: Vec<&Reached<'_>> = all.iter().filter(|point| point.row.operation == operation).collect();
    let mut series = distinct(here.iter().map(|point| figures.series(point.row)));
    series.sort_unstable();
    let names: Vec<(Mark, String)> = series
        .into_iter()
        .map(|series| (Mark::of_series(series), shortened(figures.names[series], NAME)))
        .collect();
    let bf16_share = here.first().map_or(0.0, |point| floor::bf16_share(point.row));
    let body = html! {
        (frame.lines())
        @if let Some(roofs) = roofs { (roof_lines(&frame, roofs, bf16_share)) }
        (frame.numbers())
        // Ours are drawn last, over the others.
        @for point in here.iter().rev() {
            (frame.point(Mark::of_series(figures.series(point.row)), (point.intensity, point.rate), &point.tip()))
        }
        (legend(&names))
    };
    Picture {
        title: escaped(operation),
        about: format!("{} points. {}", here.len(), about(figures)),
        height: height(names.len()),
        body,
    }
}

/// The two roofs of an operation, with what they say in the room above them.
fn roof_lines(frame: &Frame, roofs: &Roofs, bf16_share: f64) -> Markup {
    let rate = roofs.tensor / (1.0 + bf16_share);
    let kind = if bf16_share == 1.0 {
        "BF16 products"
    } else if bf16_share == 0.0 {
        "FP8 products"
    } else {
        "FP8 and BF16 products"
    };
    let ridge = rate / roofs.copy;
    let ((left, right), (bottom, _)) = (frame.x.ends(), frame.y.ends());
    let under = |intensity: f64| intensity * roofs.copy / TERA;
    // It comes up from the lower edge, or in from the left one.
    let start = left.max(bottom * TERA / roofs.copy).min(ridge);
    let middle = (start.max(left * 2.0) * ridge).sqrt().max(ridge / 2.5);
    html! {
        (frame.line("roof", (start, under(start)), (ridge, rate / TERA)))
        (frame.line("roof", (ridge, rate / TERA), (right, rate / TERA)))
        text .label .over x=(frame.x(middle)) dx="-8" y=(pixels(frame.y(under(middle)) - 4.0)) text-anchor="end" {
            "copy " (units::scaled(roofs.copy, "B/s"))
        }
        text .label .over x="100%" y=(pixels(frame.y(rate / TERA) - 6.0)) text-anchor="end" {
            (kind) " " (units::scaled(rate, "FLOP/s"))
        }
    }
}
