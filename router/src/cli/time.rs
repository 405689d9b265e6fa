//! Times and durations as people write them.

use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// A duration such as `90s`, `5m`, `2h30m` or `1d`, and never less than nothing.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 90s, 5m, 2h30m or 1d".to_owned();
    let span: Span = text.parse().map_err(|_| expected())?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| expected())?;
    Duration::try_from(signed).map_err(|_| expected())
}

/// A time as people say it: RFC 3339, `now`, or a duration before it (`5m` or `-5m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    /// When that is. What was before all times is the first of them.
    pub(super) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(duration) => before(now, duration).unwrap_or(Timestamp::MIN),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ago = text.strip_prefix('-').unwrap_or(text);
        let is_duration = ago.starts_with(|first: char| first.is_ascii_digit());
        let time = || text.parse().map(Self::At);
        match duration(ago) {
            _ if text == "now" => Ok(Self::Ago(Duration::ZERO)),
            Ok(duration) if is_duration => Ok(Self::Ago(duration)),
            _ => time().map_err(|_| {
                "expected a time such as 2026-11-22T14:00:00Z, 2026-11-22T15:00:00+01:00, now, or \
                 5m for five minutes ago"
                    .to_owned()
            }),
        }
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
            ("5m", "2026-11-22T13:55:00Z"),
            ("2h30m", "2026-11-22T11:30:00Z"),
            ("-1d", "2026-11-21T14:00:00Z"),
            ("2026-11-22T15:30:00.5+01:00", "2026-11-22T14:30:00.5Z"),
        ] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!(moment.at(now), expected.parse().unwrap(), "{text}");
        }
        for text in ["", "-", "yesterday", "2026-11-22", "2026-11-22T15:30:00", "+5m"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
