//! Where numbers lie between two ends.

/// No axis ends beyond these.
const SMALLEST: f64 = 1e-30;
const LARGEST: f64 = 1e30;

/// The numbers between two ends, and where they lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// From 0 to the largest of them; to 1 of none.
    pub fn linear(largest: f64) -> Self {
        let high = if largest > SMALLEST && largest < LARGEST { largest } else { 1.0 };
        Self { low: 0.0, high, logarithmic: false }
    }

    /// All of them that have a logarithm, with some room around; from 1 to 10 of none.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>) -> Self {
        const ROOM: f64 = 1.3;
        let values = values.into_iter().filter(|value| *value > SMALLEST && *value < LARGEST);
        let (low, high) =
            values.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
        if high == 0.0 {
            return Self { low: 1.0, high: 10.0, logarithmic: true };
        }
        Self { low: low / ROOM, high: high * ROOM, logarithmic: true }
    }

    /// Where it lies, from 0 to 1; what is outside lies at an end.
    pub fn place(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        if part.is_nan() { 0.0 } else { part.clamp(0.0, 1.0) }
    }

    pub fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Round numbers, few enough to be read.
    pub fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            const MOST: f64 = 5.0;
            let rough = self.high / MOST;
            let decade = 10f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * decade).into_iter().find(|s| *s >= rough);
            let step = step.unwrap_or(rough);
            return (0..).map(|i| f64::from(i) * step).take_while(|tick| *tick <= self.high).collect();
        }
        let [first, last] = [self.low, self.high].map(|end| end.log10().floor() as i32);
        let decades = (self.high / self.low).log10();
        let digits: &[f64] = if decades < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        // Seven at most.
        let every = (decades / 7.0).ceil().max(1.0) as usize;
        let ticks = (first..=last).step_by(every);
        let ticks = ticks.flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
        ticks.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_on_the_picture_whatever_the_numbers_are() {
        let odd = [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, f64::MAX, 5e-324, 3.0];
        for low in odd {
            for high in odd {
                for axis in [Axis::linear(high), Axis::logarithmic([low, high])] {
                    for value in odd {
                        assert!((0.0..=1.0).contains(&axis.place(value)), "{axis:?} {value}");
                    }
                    assert!(axis.ticks().len() <= 12, "{axis:?} {:?}", axis.ticks());
                }
            }
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(Axis::linear(3.4).ticks(), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(Axis::linear(17.0).ticks(), [0.0, 5.0, 10.0, 15.0]);
        assert_eq!(Axis::linear(f64::NAN).ticks(), Axis::linear(1.0).ticks());
        assert_eq!(Axis::logarithmic([1.0, 6000.0]).ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Axis::logarithmic([110.0, 900.0]).ticks(), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(Axis::logarithmic([]).ends(), (1.0, 10.0));
    }

    #[test]
    fn a_logarithmic_axis_puts_equal_factors_at_equal_distances() {
        let axis = Axis::logarithmic([1.0, 100.0]);
        assert!((axis.place(10.0) - 0.5).abs() < 1e-12);
        assert_eq!(Axis::linear(4.0).place(1.0), 0.25);
    }
}
