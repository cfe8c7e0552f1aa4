//! What counts tell where a roofline would stand: no rate was measured, so the operations for each byte that was counted
//! stand against those for each byte that has to be moved.

use maud::html;

use super::axis::Axis;
use super::chart::{Picture, pixels};
use super::figures::{Figures, distinct, label, operations_per_byte, positive, traffic};
use super::points::{Frame, Mark, height, legend};
use super::roofline::NAME;
use super::units;
use crate::bench::record::Row;
use crate::escape::{escaped, shortened};

/// None where no case multiplies.
pub fn picture(figures: &Figures<'_>) -> Option<Picture> {
    let points: Vec<(&Row, f64, f64)> = figures
        .rows()
        .filter_map(|(_, row)| {
            let moved = traffic(row.counts.as_ref()?);
            Some((row, operations_per_byte(row)?, positive(row.flops as f64 / moved as f64)?))
        })
        .collect();
    if points.is_empty() {
        return None;
    }
    let operations = distinct(points.iter().map(|(row, ..)| row.operation.as_str()));
    let axis = Axis::logarithmic(points.iter().flat_map(|point| [point.1, point.2]));
    let frame = Frame {
        x: axis,
        y: axis,
        x_title: "FLOP for each byte that has to be moved",
        y_title: "FLOP for each byte counted",
    };
    let (low, high) = axis.ends();
    // Where there is room for words on its left.
    let above = low.powf(0.35) * high.powf(0.65);
    let mark =
        |operation: &str| Mark::filled(operations.iter().position(|known| *known == operation).unwrap_or(0));
    let names: Vec<(Mark, String)> =
        operations.iter().map(|operation| (mark(operation), shortened(operation, NAME))).collect();
    let body = html! {
        (frame.lines())
        (frame.line("half", (low, low), (high, high)))
        text .label .over x=(frame.x(above)) dx="-8" y=(pixels(frame.y(above) - 4.0)) text-anchor="end" {
            "every byte once"
        }
        (frame.numbers())
        @for (row, least, counted) in &points {
            @let tip = format!("{}, {}: {} FLOP for each byte that has to be moved, {} for each counted",
                escaped(&row.title), escaped(&label(row)), units::plain(*least), units::plain(*counted));
            (frame.point(mark(&row.operation), (*least, *counted), &tip))
        }
        (legend(&names))
    };
    Some(Picture {
        title: "Operations for each byte".to_owned(),
        about: format!(
            "Counts of the emulated Hopper, no times: operations for each byte that kernels ask of global memory, \
             by operations for each byte that has to be moved at least. Below the line bytes are asked for again, \
             most of which L2 has. {} cases.",
            points.len()
        ),
        height: height(names.len()),
        body,
    })
}
