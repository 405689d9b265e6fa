//! The highest rate that a system forwards with almost no loss, by bisection (as RFC 2544's
//! throughput, with a small loss allowed: on a machine that others use too, none at all measures
//! the others).

use anyhow::Result;

/// Loss that counts as none: half a percent of what was sent.
pub(crate) const LOSS_MAX: f64 = 0.005;

/// Rates below this are not looked at, in packets per second.
const RATE_MIN: f64 = 1_000.0;

/// How a search goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    /// Where it starts, in packets per second: a guess that decides how long it takes, not where it
    /// ends.
    pub(crate) first: f64,
    /// It ends when what passes and what fails are this close, as a ratio above 1.
    pub(crate) precision: f64,
    /// Rates that it tries at most, each once or twice.
    pub(crate) rates_max: u32,
}

impl Search {
    /// The highest rate for which `passes` says yes, as near as the search goes; 0 when none does.
    /// A rate fails when it fails twice: a neighbour on the machine costs a trial, not the result.
    pub(crate) fn run(&self, mut passes: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
        let (mut passed, mut failed) = (None, None);
        let mut rate = self.first.max(RATE_MIN);
        for _ in 0..self.rates_max {
            if passes(rate)? || passes(rate)? {
                passed = Some(rate);
            } else {
                failed = Some(rate);
            }
            rate = match (passed, failed) {
                (Some(low), Some(high)) if high / low <= self.precision => break,
                (Some(low), Some(high)) => f64::sqrt(low * high),
                (Some(low), None) => low * 1.5,
                (None, Some(high)) if high <= RATE_MIN => break,
                (None, Some(high)) => (high / 1.5).max(RATE_MIN),
                (None, None) => break,
            };
        }
        Ok(passed.unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH: Search = Search { first: 400_000.0, precision: 1.02, rates_max: 30 };

    #[test]
    fn it_finds_the_rate_from_below_and_from_above() {
        for capacity in [3_000.0, 250_000.0, 401_000.0, 5_000_000.0] {
            let found = SEARCH.run(|rate| Ok(rate <= capacity)).unwrap();
            assert!(found <= capacity && found * 1.02 >= capacity, "{found} for {capacity}");
        }
    }

    #[test]
    fn nothing_passes_or_everything() {
        assert_eq!(SEARCH.run(|_| Ok(false)).unwrap(), 0.0);
        let all = SEARCH.run(|_| Ok(true)).unwrap();
        assert!(all > 1e9 && all.is_finite(), "{all}");
    }

    #[test]
    fn one_bad_trial_does_not_count() {
        let mut trial = 0;
        let found = SEARCH.run(|rate| {
            trial += 1;
            Ok(rate <= 500_000.0 && trial != 3)
        });
        assert!(found.unwrap() > 490_000.0);
    }

    #[test]
    fn it_ends_when_it_may_not_try_any_more() {
        let search = Search { rates_max: 3, ..SEARCH };
        let mut rates = Vec::new();
        search
            .run(|rate| {
                rates.push(rate);
                Ok(true)
            })
            .unwrap();
        assert_eq!(rates.len(), 3);
    }

    #[test]
    fn an_error_ends_it() {
        assert!(SEARCH.run(|_| anyhow::bail!("no generator")).is_err());
    }
}
