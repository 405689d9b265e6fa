//! From many short runs to one number: the median, with the quarter points as its spread.

use std::time::Duration;

use serde::Serialize;

/// What was seen in several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// A quarter of the rounds had no more.
    pub(crate) low: f64,
    pub(crate) median: f64,
    /// A quarter of the rounds had no less.
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one sample; of none, all are 0.
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |quarter: usize| {
            let place = samples.len().saturating_sub(1) * quarter / 4;
            samples.get(place).copied().unwrap_or_default()
        };
        Self { low: at(1), median: at(2), high: at(3) }
    }
}

/// Nanoseconds for each of `count`.
#[expect(clippy::cast_precision_loss, reason = "of some seconds in nanoseconds nothing is lost")]
pub(crate) fn nanos_per(taken: Duration, count: u32) -> f64 {
    taken.as_nanos() as f64 / f64::from(count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_quarter_points() {
        let samples = [9.0, 1.0, 5.0, 3.0, 7.0].to_vec();
        assert_eq!(Spread::of(samples), Spread { low: 3.0, median: 5.0, high: 7.0 });
    }

    #[test]
    fn a_single_round_has_no_spread() {
        assert_eq!(Spread::of(vec![2.0]), Spread { low: 2.0, median: 2.0, high: 2.0 });
    }
}
