//! From many short runs to one number: the median, with the quarter points as its spread.

use std::time::Duration;

use serde::Serialize;

/// What was seen in several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// A quarter of the rounds had less.
    pub(crate) low: f64,
    pub(crate) median: f64,
    /// A quarter of the rounds had more.
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one sample; of none, all are 0.
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        // A quarter point between two samples lies on the line between them.
        let at = |quarter: usize| {
            let quarters = samples.len().saturating_sub(1) * quarter;
            let sample = |place: usize| samples.get(place).copied().unwrap_or_default();
            let (below, above) = (sample(quarters / 4), sample(quarters.div_ceil(4)));
            below + (above - below) * [0.0, 0.25, 0.5, 0.75][quarters % 4]
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
    fn the_median_of_an_even_number_is_between_the_middle_ones() {
        let samples = [4.0, 1.0, 2.0, 9.0].to_vec();
        assert_eq!(Spread::of(samples), Spread { low: 1.75, median: 3.0, high: 5.25 });
    }

    #[test]
    fn a_single_round_has_no_spread() {
        assert_eq!(Spread::of(vec![2.0]), Spread { low: 2.0, median: 2.0, high: 2.0 });
    }
}
