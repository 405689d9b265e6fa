//! Tables and numbers as a reader likes them.

/// A table: the heads, then the rows.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heads: Vec<_> = heads.iter().map(|head| (*head).to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(heads.len()));
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("\n{}{rule}{rows}", line(&heads))
}

/// `1,032,192`.
pub(super) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number in three digits or so.
pub(super) fn short(number: f64) -> String {
    let digits = match number.abs() {
        large if large >= 99.95 => 0,
        middle if middle >= 9.995 => 1,
        _ => 2,
    };
    format!("{number:.digits$}")
}

/// A median, with what spread there was.
pub(super) fn spread(median: f64, low: f64, high: f64) -> String {
    format!("{} ({}–{})", short(median), short(low), short(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three_digits() {
        let texts = [1, 999, 1_000, 64_512, 4_128_768].map(grouped);
        assert_eq!(texts, ["1", "999", "1,000", "64,512", "4,128,768"]);
    }

    #[test]
    fn numbers_have_three_digits_or_so() {
        assert_eq!(
            [0.5, 9.999, 12.34, 99.96, 4079.17].map(short),
            ["0.50", "10.0", "12.3", "100", "4079"]
        );
    }

    #[test]
    fn a_table_has_a_rule_under_its_heads() {
        let rows = [vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["a", "b"], &rows), "\n| a | b |\n|---|---|\n| 1 | 2 |\n");
    }
}
