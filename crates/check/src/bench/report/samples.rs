//! How the samples of a time lie: each one where there are few, a heap where there are many; the median, and between what it
//! lies. All of a case have one axis.

use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{across, colour, pixels};
use super::figures::{Case, Figures};
use super::units;
use crate::bench::record::{CardState, Row, Stop, Timing};
use crate::bench::statistics::median;
use crate::escape::escaped;

/// What L2 holds, or whose time it is; and how people call it.
const WHEN: [(&str, &str); 3] = [("cold", "L2 cold"), ("warm", "L2 warm"), ("host", "host, of a launch")];

/// More samples than these are a heap, of so many steps.
const FEW: usize = 40;
const STEPS: usize = 60;
/// Pixels down.
const HEIGHT: f64 = 26.0;

/// The samples of all who ran a case; none where there are none.
pub fn figure(figures: &Figures<'_>, case: &Case<'_>) -> Option<Markup> {
    let parts: Vec<Markup> = WHEN.iter().filter_map(|when| part(figures, case, *when)).collect();
    let first = case.first();
    (!parts.is_empty()).then(|| {
        html! {
            figure .samples {
                figcaption { b { (escaped(&first.title)) } " " (escaped(&case.label())) }
                @for part in &parts { (part) }
            }
        }
    })
}

fn part(figures: &Figures<'_>, case: &Case<'_>, (when, title): (&str, &str)) -> Option<Markup> {
    let lanes: Vec<(&Row, &Timing, f64)> = case
        .rows
        .iter()
        .filter_map(|row| Some((*row, row.times.get(when)?, figures.median(row, when)?)))
        .collect();
    let span = Span::of(lanes.iter().map(|(_, timing, _)| timing.seconds.as_slice()))?;
    Some(html! {
        div .part {
            p .when { (title) }
            @for (row, timing, middle) in &lanes {
                @let (low, high) = figures.interval(row, when).unwrap_or((*middle, *middle));
                p .lane-text {
                    b { (escaped(&row.who)) } " " (units::time(*middle))
                    span .quiet {
                        " [" (units::microseconds(low)) "; " (units::microseconds(high)) "], "
                        (timing.seconds.len()) " samples, " (stopped(timing.stop)) (span.beyond(&timing.seconds))
                        (card(timing))
                    }
                    @if timing.disturbed { strong .bad { " disturbed: the GPU held its clocks down" } }
                }
                (lane(&span, timing, (low, *middle, high), figures.series(row)))
            }
            p .ends { span { (units::time(span.low)) } span { (units::time(span.high)) } }
        }
    })
}

/// What an axis of samples shows.
struct Span {
    low: f64,
    high: f64,
}

impl Span {
    /// From the fastest to the slowest, but for stragglers so far out that nothing would be seen of the others.
    fn of<'s>(lanes: impl Iterator<Item = &'s [f64]>) -> Option<Self> {
        const REACH: f64 = 6.0;
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for seconds in lanes {
            let middle = median(seconds);
            let apart: Vec<f64> = seconds.iter().map(|second| (second - middle).abs()).collect();
            let reach = (REACH * median(&apart)).max(middle.abs() * 0.002);
            for second in seconds.iter().filter(|second| second.is_finite()) {
                low = low.min(second.max(middle - reach));
                high = high.max(second.min(middle + reach));
            }
        }
        (low <= high).then(|| {
            let room = ((high - low) * 0.03).max(high.abs() * 1e-6);
            Self { low: low - room, high: high + room }
        })
    }

    fn place(&self, seconds: f64) -> f64 {
        Axis::linear(self.high - self.low).place(seconds - self.low)
    }

    /// How many are not shown.
    fn beyond(&self, seconds: &[f64]) -> String {
        let slower = seconds.iter().filter(|second| **second > self.high).count();
        let faster = seconds.iter().filter(|second| **second < self.low).count();
        let of = |count: usize, which: &str| match count {
            0 => String::new(),
            _ => format!(", {count} {which} than shown"),
        };
        of(slower, "slower") + &of(faster, "faster")
    }
}

fn stopped(stop: Stop) -> &'static str {
    match stop {
        Stop::Deviation => "steady",
        Stop::Entropy => "more would not tell more",
        Stop::Time => "stopped by time",
    }
}

/// What the GPU said before and behind.
fn card(timing: &Timing) -> String {
    let Some([before, behind]) = timing.state else { return String::new() };
    let clocks = |of: fn(&CardState) -> u32| match (of(&before), of(&behind)) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first} to {last}"),
    };
    format!(
        ", {}\u{a0}MHz (memory {}), {}\u{a0}°C, {}\u{a0}W",
        clocks(|state| state.clock_mhz),
        clocks(|state| state.memory_clock_mhz),
        clocks(|state| state.celsius),
        units::plain(before.watts.max(behind.watts))
    )
}

fn lane(span: &Span, timing: &Timing, (low, middle, high): (f64, f64, f64), series: usize) -> Markup {
    let (left, right) = (span.place(low), span.place(high));
    let height = pixels(HEIGHT);
    html! {
        svg .chart width="100%" height=(height) aria-hidden="true" {
            g .{ "s" (colour(series)) } {
                rect .spread x=(across(left)) y="0" width=(across(right - left)) height=(height) {}
                svg width="100%" height=(height) viewBox="0 0 1000 100" preserveAspectRatio="none" {
                    @if timing.seconds.len() <= FEW {
                        path .samples d=(strokes(span, &timing.seconds)) {}
                    } @else {
                        path .heap d=(heap(span, &timing.seconds)) {}
                    }
                }
                line .median x1=(across(span.place(middle))) x2=(across(span.place(middle))) y1="0" y2=(height) {}
            }
            line .axis x1="0" x2="100%" y1=(height) y2=(height) {}
        }
    }
}

fn shown<'s>(span: &'s Span, seconds: &'s [f64]) -> impl Iterator<Item = f64> + 's {
    let inside = seconds.iter().filter(|second| (span.low..=span.high).contains(*second));
    inside.map(|second| span.place(*second))
}

/// A stroke for each.
fn strokes(span: &Span, seconds: &[f64]) -> String {
    shown(span, seconds).map(|at| format!("M{:.1} 30V100", 1000.0 * at)).collect()
}

/// As high as there are samples in each step.
fn heap(span: &Span, seconds: &[f64]) -> String {
    let mut counts = [0u32; STEPS];
    for at in shown(span, seconds) {
        counts[((at * STEPS as f64) as usize).min(STEPS - 1)] += 1;
    }
    let most = f64::from(counts.into_iter().max().unwrap_or(0).max(1));
    let step = 1000.0 / STEPS as f64;
    let up = counts.iter().enumerate().map(|(place, &count)| {
        format!("V{:.1}H{:.1}", 100.0 - 90.0 * f64::from(count) / most, step * (place + 1) as f64)
    });
    format!("M0 100{}V100z", up.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straggler_is_counted_and_not_drawn() {
        let mut seconds: Vec<f64> = (0..20).map(|i| 1e-5 + 1e-8 * f64::from(i)).collect();
        seconds.push(1.0);
        let span = Span::of([seconds.as_slice()].into_iter()).unwrap();
        assert!(span.high < 1.1e-5, "{}", span.high);
        assert_eq!(span.beyond(&seconds), ", 1 slower than shown");
        assert_eq!(strokes(&span, &seconds).matches('M').count(), 20);
        assert!(heap(&span, &seconds).starts_with("M0 100V"));
    }

    #[test]
    fn samples_that_are_all_alike_have_an_axis() {
        for seconds in [vec![1e-5], vec![2.0; 50]] {
            let span = Span::of([seconds.as_slice()].into_iter()).unwrap();
            let place = span.place(seconds[0]);
            assert!(place > 0.0 && place < 1.0, "{place}");
            assert_eq!(span.beyond(&seconds), "");
        }
        assert!(Span::of(std::iter::empty()).is_none());
        assert!(Span::of([[].as_slice()].into_iter()).is_none());
    }
}
