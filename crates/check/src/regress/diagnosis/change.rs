//! How elements differ.

use std::fmt;

use oracles::gemm::Output as Rounding;
use oracles::verdict::ulps;
use safetensors::Dtype;

use crate::regress::digest::{Bits, value};

/// What became of the elements: the first that holds for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// They hold what they held before the run.
    NotWritten,
    /// NaN or Inf where there was a number.
    Nonfinite,
    /// A number where there was NaN or Inf.
    Finite,
    /// Zeros.
    Zero,
    Sign,
    /// Two to the power of so much.
    PowerOfTwo(i32),
    /// Rows hold what another row should, so many on.
    Rows(isize),
    /// Columns hold what another column should, so many on.
    Columns(isize),
    /// Columns of a pair have changed places.
    ColumnPairs,
    /// Units of the last place, at most.
    LastPlaces(u64),
    /// Little beside the elements as a whole, where a sum cancels.
    Little,
    Other,
}

/// How far away rows and columns are looked for.
const STEPS: [isize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Units of the last place that are a matter of rounding.
const ROUNDING: u64 = 2;
/// Of the root of the mean square: a last place of BF16, and the precision to which the tensor core adds FP8.
const LITTLE: [f64; 2] = [1.0 / 256.0, 1.0 / 2048.0];

/// What became of the elements that differ.
pub fn change(expected: &Bits, got: &Bits, wrong: &[(usize, usize)]) -> Change {
    let all = |is: &dyn Fn(u32, f64, f64) -> bool| {
        wrong.iter().all(|&(row, column)| {
            is(got.element(row, column), expected.value(row, column), got.value(row, column))
        })
    };
    let float = matches!(got.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F8_E4M3);
    if all(&|bits, _, _| bits == got.sentinel()) {
        return Change::NotWritten;
    }
    if float && all(&|_, want, got| want.is_finite() && !got.is_finite()) {
        return Change::Nonfinite;
    }
    if float && all(&|_, want, got| !want.is_finite() && got.is_finite()) {
        return Change::Finite;
    }
    if all(&|_, _, got| got == 0.0) {
        return Change::Zero;
    }
    if float && all(&|_, want, got| got == -want) {
        return Change::Sign;
    }
    let (row, column) = wrong[0];
    let log = (got.value(row, column) / expected.value(row, column)).log2();
    if float && log != 0.0 && log.fract() == 0.0 && all(&|_, want, got| got == want * log.exp2()) {
        return Change::PowerOfTwo(log as i32);
    }
    let furthest = last_places(expected, got, wrong);
    if let Some(furthest) = furthest.filter(|&furthest| furthest <= ROUNDING) {
        return Change::LastPlaces(furthest);
    }
    if let Some(moved) = moved(expected, got, wrong) {
        return moved;
    }
    let little = rms(expected) * if got.dtype == Dtype::BF16 { LITTLE[0] } else { LITTLE[1] };
    if float && all(&|_, want, got| (got - want).abs() <= little) { Change::Little } else { Change::Other }
}

/// The farthest from what it should be, in units of the last place; none where that means nothing.
fn last_places(expected: &Bits, got: &Bits, wrong: &[(usize, usize)]) -> Option<u64> {
    let rounding = match got.dtype {
        Dtype::BF16 => Rounding::Bf16,
        Dtype::F32 => Rounding::F32,
        _ => return None,
    };
    let distance = |&(row, column): &(usize, usize)| {
        let (want, got) = (expected.value(row, column), got.value(row, column));
        (want.is_finite() && got.is_finite()).then(|| ulps(rounding, want as f32, got as f32))
    };
    wrong.iter().map(distance).collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// The root of the mean square of the finite elements.
fn rms(bits: &Bits) -> f64 {
    let values = bits.elements.iter().map(|&element| value(bits.dtype, element)).filter(|x| x.is_finite());
    let (count, sum) = values.fold((0_u32, 0.0), |(count, sum), x| (count + 1, sum + x * x));
    (sum / f64::from(count.max(1))).sqrt()
}

/// Whether what should be elsewhere is there. Where all elements are alike nothing can tell.
fn moved(expected: &Bits, got: &Bits, wrong: &[(usize, usize)]) -> Option<Change> {
    let from = |find: &dyn Fn(usize, usize) -> Option<(usize, usize)>| {
        let known = |&(row, column): &(usize, usize)| {
            let (r, c) = find(row, column)?;
            (r < expected.rows && c < expected.columns)
                .then(|| expected.element(r, c) == got.element(row, column))
        };
        let found: Vec<bool> = wrong.iter().filter_map(known).collect();
        let right = found.iter().filter(|&&right| right).count();
        found.len() * 2 >= wrong.len() && right * 10 >= found.len() * 9
    };
    if from(&|row, column| Some((row, column ^ 1))) {
        return Some(Change::ColumnPairs);
    }
    for step in STEPS.iter().flat_map(|&step| [step, -step]) {
        if from(&|row, column| Some((row.checked_add_signed(step)?, column))) {
            return Some(Change::Rows(step));
        }
        if from(&|row, column| Some((row, column.checked_add_signed(step)?))) {
            return Some(Change::Columns(step));
        }
    }
    None
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWritten => write!(f, "they hold what they held before the run"),
            Self::Nonfinite => write!(f, "NaN or Inf where there was a number"),
            Self::Finite => write!(f, "a number where there was NaN or Inf"),
            Self::Zero => write!(f, "zeros"),
            Self::Sign => write!(f, "the other sign"),
            Self::PowerOfTwo(power) => write!(f, "off by a factor of 2^{power}"),
            Self::Rows(step) => write!(f, "they hold what belongs {step:+} rows on"),
            Self::Columns(step) => write!(f, "they hold what belongs {step:+} columns on"),
            Self::ColumnPairs => write!(f, "columns of a pair have changed places"),
            Self::LastPlaces(1) => write!(f, "the last bit"),
            Self::Little => write!(f, "little beside the elements as a whole"),
            Self::LastPlaces(most) => write!(f, "at most {most} units of the last place"),
            Self::Other => write!(f, "other numbers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deepseek_kernels::bf16;

    const SHAPE: (usize, usize) = (6, 8);

    fn matrix(value: impl Fn(usize, usize) -> f32) -> Bits {
        let elements =
            (0..SHAPE.0 * SHAPE.1).map(|i| bf16::from_f32(value(i / SHAPE.1, i % SHAPE.1)).to_bits().into());
        Bits { dtype: Dtype::BF16, rows: SHAPE.0, columns: SHAPE.1, elements: elements.collect() }
    }

    fn number(row: usize, column: usize) -> f32 {
        ((row * 37 + column * 11) % 101) as f32 + 3.0
    }

    fn changed(value: impl Fn(usize, usize) -> f32) -> Change {
        let (expected, got) = (matrix(number), matrix(value));
        let all = (0..SHAPE.0).flat_map(|row| (0..SHAPE.1).map(move |column| (row, column)));
        let wrong: Vec<_> = all.filter(|&(r, c)| expected.element(r, c) != got.element(r, c)).collect();
        change(&expected, &got, &wrong)
    }

    #[test]
    fn every_change_has_its_name() {
        let some = |r: usize, c: usize| r > 1 && c.is_multiple_of(3);
        let with =
            |f: fn(f32) -> f32| changed(move |r, c| if some(r, c) { f(number(r, c)) } else { number(r, c) });
        assert_eq!(with(|x| -x), Change::Sign);
        assert_eq!(with(|x| x * 8.0), Change::PowerOfTwo(3));
        assert_eq!(with(|x| x / 4.0), Change::PowerOfTwo(-2));
        assert_eq!(with(|_| 0.0), Change::Zero);
        assert_eq!(with(|_| f32::NAN), Change::Nonfinite);
        assert_eq!(with(|_| f32::INFINITY), Change::Nonfinite);
        let next = |x: f32| bf16::from_bits(bf16::from_f32(x).to_bits() + 1).to_f32();
        assert_eq!(with(next), Change::LastPlaces(1));
        assert_eq!(with(|x| x * 1.3 + 1.0), Change::Other);
        assert_eq!(changed(|r, c| number((r + 1).min(5), c)), Change::Rows(1));
        assert_eq!(changed(|r, c| number(r, c ^ 1)), Change::ColumnPairs);
        assert_eq!(changed(|r, c| number(r, c.saturating_sub(2))), Change::Columns(-2));
    }

    #[test]
    fn what_was_not_written_is_no_nan() {
        let mut got = matrix(number);
        let expected = got.clone();
        got.elements[3] = got.sentinel();
        assert_eq!(change(&expected, &got, &[(0, 3)]), Change::NotWritten);
        assert_eq!(change(&got, &expected, &[(0, 3)]), Change::Finite);
    }
}
