//! How many ICMP errors one receiver gets (RFC 1812, section 4.3.2.8), and answers to its pings.

use super::Nanos;

/// One error in this time, in the long run …
const INTERVAL: Nanos = 100_000_000;

/// … and so many at once: a traceroute asks every hop for some.
const BURST: Nanos = 20;

/// A place for each receiver by its hash. Receivers that share one share its rate, so that memory
/// and the sum of all are bounded: 2,560 errors of a kind a second, and 5,120 at once.
const PLACES: usize = 256;

/// Rates of errors of one kind, in one direction: traceroutes cost nobody the news of what fits, and
/// the outside takes nothing from pods. Kept as the generic cell rate algorithm does.
#[derive(Debug)]
pub(super) struct ErrorLimit {
    /// When each place will have had its errors at the long run's rate.
    due: [Nanos; PLACES],
}

impl ErrorLimit {
    pub(super) fn new() -> Self {
        Self { due: [0; PLACES] }
    }

    /// Whether a receiver may get an error now; if so, it counts.
    pub(super) fn admits(&mut self, receiver: u64, now: Nanos) -> bool {
        let [.., place] = receiver.to_be_bytes();
        let Some(due) = self.due.get_mut(usize::from(place)) else { return false };
        let latest = now.saturating_add((BURST - 1) * INTERVAL);
        if *due > latest {
            // Never further ahead, whatever the clock did.
            *due = (*due).min(latest + INTERVAL);
            return false;
        }
        *due = (*due).max(now).saturating_add(INTERVAL);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn a_receiver_gets_a_burst_and_then_ten_a_second() {
        let mut limit = ErrorLimit::new();
        let mut admitted = |from: Nanos, steps: u64| {
            (0..steps).filter(|step| limit.admits(7, from + step * SECOND / 1000)).count()
        };
        assert_eq!(admitted(5 * SECOND, 1), 1);
        assert_eq!(admitted(5 * SECOND, 100), 19);
        // Ten for the second that is over, nine while the next one goes by.
        assert_eq!(admitted(6 * SECOND, 1000), 19);
        assert_eq!(admitted(60 * SECOND, 1), 1);
    }

    #[test]
    fn receivers_do_not_mind_each_other() {
        let mut limit = ErrorLimit::new();
        assert!((0..100).filter(|_| limit.admits(1, SECOND)).count() < 100);
        assert!(limit.admits(2, SECOND));
    }

    #[test]
    fn a_clock_that_jumps_back_silences_nobody_for_long() {
        let mut limit = ErrorLimit::new();
        assert!(limit.admits(1, 1000 * SECOND));
        assert!(!limit.admits(1, 10 * SECOND));
        assert!(limit.admits(1, 13 * SECOND));
    }
}
