//! Numbers as people read them.

/// What stands for a number that there is not.
pub const NONE: &str = "–";

/// Of seconds: `96.2 µs`.
pub fn time(seconds: f64) -> String {
    format!("{}\u{a0}µs", microseconds(seconds))
}

/// The same without its unit. A tenth tells more than noise, however long a run is.
pub fn microseconds(seconds: f64) -> String {
    let value = seconds * 1e6;
    if value.is_finite() && value >= 99.95 { format!("{value:.1}") } else { with_unit(value, "") }
}

/// `1.17×`.
pub fn ratio(value: f64) -> String {
    with_unit(value, "×")
}

/// Of a part of one: `4.2 %`.
pub fn percent(part: f64) -> String {
    with_unit(part * 100.0, " %")
}

/// With a prefix for thousands: `1.34 PFLOP/s`.
pub fn scaled(value: f64, unit: &str) -> String {
    const PREFIXES: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let (mut value, mut prefix) = (value, 0);
    // What would be shown as 1000 is a thousand.
    while value.abs() >= 999.5 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    if prefix == 0 && value.fract() == 0.0 {
        return if unit.is_empty() { format!("{value}") } else { format!("{value}\u{a0}{unit}") };
    }
    let space = if unit.is_empty() && prefix == 0 { "" } else { "\u{a0}" };
    with_unit(value, &format!("{space}{}{unit}", PREFIXES[prefix]))
}

/// As few digits as tell it: whole, unless it is large.
pub fn count(value: f64) -> String {
    if (0.0..1e5).contains(&value) { whole(value as u64) } else { scaled(value, "") }
}

/// Whole, in groups of three digits: `57 344`.
pub fn whole(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// In three digits.
pub fn plain(value: f64) -> String {
    with_unit(value, "")
}

/// With a digit more, for what is near 1.
pub fn precise(value: f64) -> String {
    if (0.1..10.0).contains(&value) { format!("{value:.3}") } else { plain(value) }
}

/// A round number of an axis.
pub fn tick(value: f64) -> String {
    if !(1e-4..1e6).contains(&value.abs()) && value != 0.0 {
        return format!("{value:.0e}");
    }
    let shown = format!("{value:.6}");
    shown.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn with_unit(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let decimals = match value.abs() {
        0.0 => 0,
        size if size < 0.01 => return format!("{value:.1e}{unit}").replace(' ', "\u{a0}"),
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{unit}").replace(' ', "\u{a0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_shown() {
        for (value, shown) in [
            (0.0, "0"),
            (1.0, "1.00"),
            (1.234, "1.23"),
            (12.345, "12.3"),
            (123.45, "123"),
            (1603.1, "1603"),
            (9.996, "10.0"),
            (99.96, "100"),
            (0.000_123, "1.2e-4"),
            (f64::NAN, NONE),
            (f64::INFINITY, NONE),
        ] {
            assert_eq!(plain(value), shown);
        }
        for (value, shown) in
            [(0.0, "0"), (0.1 + 0.2, "0.3"), (50.0, "50"), (1000.0, "1000"), (1e7, "1e7"), (1e-5, "1e-5")]
        {
            assert_eq!(tick(value), shown);
        }
        assert_eq!(time(96.2e-6), "96.2\u{a0}µs");
        assert_eq!(
            (microseconds(1603.12e-6), microseconds(99.96e-6)),
            ("1603.1".to_owned(), "100.0".to_owned())
        );
        assert_eq!(ratio(1.17), "1.17×");
        assert_eq!(percent(0.042), "4.20\u{a0}%");
    }

    #[test]
    fn thousands_have_prefixes_and_groups() {
        assert_eq!(scaled(1.34e15, "FLOP/s"), "1.34\u{a0}PFLOP/s");
        assert_eq!(scaled(999_600.0, "B"), "1.00\u{a0}MB");
        assert_eq!((scaled(12.0, ""), scaled(7.0, "B")), ("12".to_owned(), "7\u{a0}B".to_owned()));
        assert_eq!((count(4096.0), count(123_456.0)), ("4\u{202f}096".to_owned(), "123\u{a0}k".to_owned()));
        assert_eq!(scaled(1e21, "B"), "1000000\u{a0}PB");
        assert_eq!(scaled(f64::NAN, "B"), NONE);
        assert_eq!(whole(57_344), "57\u{202f}344");
        assert_eq!((whole(7), whole(999)), ("7".to_owned(), "999".to_owned()));
        assert_eq!(whole(u64::MAX).replace('\u{202f}', ""), u64::MAX.to_string());
    }
}
