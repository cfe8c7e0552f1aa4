//! Points in a frame of two axes.

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{across, colour, pixels};
use super::units;

/// Two logarithmic axes, their lines and numbers. Numbers of the upright one stand in the frame.
pub struct Frame {
    pub x: Axis,
    pub y: Axis,
    /// What the axes tell.
    pub x_title: &'static str,
    pub y_title: &'static str,
}

impl Frame {
    /// Pixels of the frame, what stands above and what below it.
    const INNER: f64 = 300.0;
    const ABOVE: f64 = 20.0;
    const BELOW: f64 = 42.0;
    const HEIGHT: f64 = Self::ABOVE + Self::INNER + Self::BELOW;

    pub fn x(&self, value: f64) -> String {
        across(self.x.place(value))
    }

    /// Pixels from the top.
    pub fn y(&self, value: f64) -> f64 {
        Self::ABOVE + Self::INNER * (1.0 - self.y.place(value))
    }

    pub fn lines(&self) -> Markup {
        let bottom = Self::ABOVE + Self::INNER;
        html! {
            text .quiet x="0" y="12" { "↑ " (self.y_title) }
            @for tick in self.y.ticks() {
                @let y = self.y(tick);
                line .grid x1="0" x2="100%" y1=(pixels(y)) y2=(pixels(y)) {}
            }
            @for tick in self.x.ticks() {
                line .grid x1=(self.x(tick)) x2=(self.x(tick)) y1=(pixels(Self::ABOVE)) y2=(pixels(bottom)) {}
                @let part = self.x.place(tick);
                // What would stand beyond the edge is left out.
                @if part < 0.96 {
                    text .number x=(across(part)) y=(pixels(bottom + 15.0))
                        text-anchor=(if part < 0.04 { "start" } else { "middle" }) { (units::tick(tick)) }
                }
            }
            line .axis x1="0" x2="100%" y1=(pixels(bottom)) y2=(pixels(bottom)) {}
            text .quiet x="100%" y=(pixels(bottom + 34.0)) text-anchor="end" { (self.x_title) " →" }
        }
    }

    /// Numbers of the upright axis: over what is drawn.
    pub fn numbers(&self) -> Markup {
        html! {
            @for tick in self.y.ticks() {
                @let y = self.y(tick) - 3.0;
                @if y > Self::ABOVE + 8.0 { text .number .over x="2" y=(pixels(y)) { (units::tick(tick)) } }
            }
        }
    }

    /// A line between two points, each of an x and a y.
    pub fn line(&self, class: &str, from: (f64, f64), to: (f64, f64)) -> Markup {
        html! {
            line class=(class) x1=(self.x(from.0)) y1=(pixels(self.y(from.1)))
                x2=(self.x(to.0)) y2=(pixels(self.y(to.1))) {}
        }
    }

    /// A point, and what it says to who points at it.
    pub fn point(&self, mark: Mark, (x, y): (f64, f64), tip: &str) -> Markup {
        mark.draw(&self.x(x), self.y(y), tip)
    }
}

/// Outlines of points around their middle.
const OUTLINES: [&str; 8] = [
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5.5L5 3.5H-5z",
    "M0 -5.5L5.5 0L0 5.5L-5.5 0z",
    "M0 5.5L5 -3.5H-5z",
    "M-1.8 -5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z",
    "M-5 -2.5L0 -5.5L5 -2.5V2.5L0 5.5L-5 2.5z",
    "M5.5 0L-3.5 5V-5z",
];

/// How those of one kind are told from others: by outline, by colour, and the first one by being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    kind: usize,
    hollow: bool,
}

impl Mark {
    pub fn filled(kind: usize) -> Self {
        Self { kind, hollow: false }
    }

    /// The first one, and all the others.
    pub fn of_series(kind: usize) -> Self {
        Self { kind, hollow: kind > 0 }
    }

    fn draw(self, x: &str, y: f64, tip: &str) -> Markup {
        html! {
            svg x=(x) y=(pixels(y)) overflow="visible" {
                path .mark .hollow[self.hollow] .{ "s" (colour(self.kind)) } d=(OUTLINES[self.kind % OUTLINES.len()]) {
                    @if !tip.is_empty() { title { (tip) } }
                }
            }
        }
    }
}

/// Pixels of a line of a legend, and between it and the frame.
const LEGEND_LINE: f64 = 20.0;
const LEGEND_GAP: f64 = 6.0;

/// Marks and what they stand for, in two columns below the frame.
pub fn legend(entries: &[(Mark, String)]) -> Markup {
    html! {
        @for (place, (mark, name)) in entries.iter().enumerate() {
            @let left = 0.5 * (place % 2) as f64;
            @let y = Frame::HEIGHT + LEGEND_GAP + LEGEND_LINE * (place / 2) as f64;
            svg x=(across(left)) y=(pixels(y)) overflow="visible" {
                (mark.draw("8", 8.0, ""))
                text .label x="20" y="12" { (name) }
            }
        }
    }
}

/// Pixels of the frame and of a legend of so many.
pub fn height(entries: usize) -> f64 {
    Frame::HEIGHT + LEGEND_GAP + LEGEND_LINE * entries.div_ceil(2) as f64
}
