//! Numbers for people: three or four digits, and what they count.

/// What the prefixes of the International System of Units multiply by, the largest first.
const PREFIXES: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];

/// A number with three digits or four, such as `0`, `0.4`, `12`, `1.23k` and `98.2M`.
pub(super) fn short(number: f64) -> String {
    let (digits, prefix) = scaled(number);
    digits + prefix
}

/// Bits each second, such as `98.2 Mbit/s`.
pub(super) fn bit_rate(bits: f64) -> String {
    let (digits, prefix) = scaled(bits);
    format!("{digits} {prefix}bit/s")
}

/// The nearest whole number; 0 of what is less.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` takes the nearest number that there is"
)]
pub(super) fn whole(number: f64) -> u64 {
    number.round() as u64
}

fn scaled(number: f64) -> (String, &'static str) {
    // From where rounding to three digits gives the next prefix.
    match PREFIXES.into_iter().find(|(unit, _)| number >= unit * 0.9995) {
        Some((unit, prefix)) => (three_digits(number / unit), prefix),
        None if number > 0.0 && number < 9.95 => (format!("{number:.1}"), ""),
        None => (format!("{number:.0}"), ""),
    }
}

fn three_digits(number: f64) -> String {
    match number {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_few_digits_and_a_prefix() {
        for (number, shown) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (0.4, "0.4"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1_234.0, "1.23k"),
            (9_996.0, "10.0k"),
            (98_200_000.0, "98.2M"),
            (123_456_789_000.0, "123G"),
            (5e15, "5000T"),
        ] {
            assert_eq!(short(number), shown, "{number}");
        }
        assert_eq!(bit_rate(98_200_000.0), "98.2 Mbit/s");
        assert_eq!(bit_rate(0.0), "0 bit/s");
        assert_eq!([-1.0, 0.4, 0.6, 1e30].map(whole), [0, 0, 1, u64::MAX]);
    }
}
