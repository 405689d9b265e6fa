//! Times and durations as people write them.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// A duration such as `90s`, `5m`, `2h30m` or `1d`, and never less than nothing.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 90s, 5m, 2h30m or 1d".to_owned();
    let span: Span = text.parse().map_err(|_| expected())?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| expected())?;
    Duration::try_from(signed).map_err(|_| expected())
}

/// A time: RFC 3339, `now`, or a duration before it (`-5m`).
pub(super) fn time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let expected = "expected a time such as 2026-11-22T14:00:00Z, 2026-11-22T15:00:00+01:00, now, \
                    or -5m for five minutes ago";
    match text.strip_prefix('-') {
        Some(ago) => before(now, duration(ago)?).ok_or_else(|| expected.to_owned()),
        None if text == "now" => Ok(now),
        None => text.parse().map_err(|_| expected.to_owned()),
    }
}

/// A time so long before another.
pub(super) fn before(time: Timestamp, duration: Duration) -> Option<Timestamp> {
    time.checked_sub(SignedDuration::try_from(duration).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_people_write_them() {
        for (text, seconds) in
            [("90s", 90), ("5m", 300), ("2h30m", 9_000), ("1d", 86_400), ("1w", 604_800), ("0s", 0)]
        {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "5", "-5m", "1y", "five minutes", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_absolute_or_ago() {
        let now: Timestamp = "2026-11-22T14:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("now", "2026-11-22T14:00:00Z"),
            ("-5m", "2026-11-22T13:55:00Z"),
            ("-1d", "2026-11-21T14:00:00Z"),
            ("2026-11-22T15:30:00.5+01:00", "2026-11-22T14:30:00.5Z"),
        ] {
            assert_eq!(time(text, now).unwrap(), expected.parse().unwrap(), "{text}");
        }
        for text in ["", "-", "yesterday", "2026-11-22", "2026-11-22T15:30:00", "+5m"] {
            assert!(time(text, now).is_err(), "{text}");
        }
    }
}
