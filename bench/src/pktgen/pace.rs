//! When the next packet may be sent. generate.bpf.c is the twin of this file.

/// Intervals and times are in 1/65536 ns, so that a rate of millions is exact.
const SHIFT: u32 = 16;

/// How long a stall may be that is made up for, in nanoseconds. What a longer one kept back is lost:
/// the rate that was reached is reported beside the one that was asked for.
const STALL_NS: u64 = 20_000_000;

/// How many packets may come at once.
const BURST: u64 = 32;

/// A rate, kept in the long run by `interval` and at every moment by `peak_interval`: after a stall
/// packets come up to twice as fast, until it is made up for, and never more than
/// [`BURST`] at once. A plain token bucket would either lose what a stall kept back, or send all of
/// it in one burst, which is no measurement of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Between two packets; 0: as fast as it goes.
    pub(crate) interval: u64,
    pub(crate) peak_interval: u64,
    pub(crate) stall: u64,
    pub(crate) peak_burst: u64,
}

impl Pace {
    /// A rate in packets per second; `None`: as fast as it goes.
    pub(crate) fn new(rate: Option<f64>) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^50")]
        let interval = rate.map_or(0, |rate| (1e9 / rate * f64::from(1 << SHIFT)) as u64);
        let peak_interval = interval / 2;
        let (stall, peak_burst) = (STALL_NS << SHIFT, BURST * peak_interval);
        Self { interval, peak_interval, stall, peak_burst }
    }
}

/// Keeps a pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    pace: Pace,
    /// When the next packet is due, and when the peak rate allows it.
    due: u64,
    peak_due: u64,
}

impl Pacer {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, due: 0, peak_due: 0 }
    }

    /// Whether a packet may be sent `since_ns` after the start; then it counts as sent.
    pub(crate) fn may_send(&mut self, since_ns: u64) -> bool {
        let Pace { interval, peak_interval, stall, peak_burst } = self.pace;
        let since = since_ns << SHIFT;
        if interval == 0 {
            return true;
        }
        if self.due > since || self.peak_due > since {
            return false;
        }
        self.due = self.due.max(since.saturating_sub(stall)) + interval;
        self.peak_due = self.peak_due.max(since.saturating_sub(peak_burst)) + peak_interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many packets leave from `from_us` to `to_us`, asked every microsecond as often as allowed.
    fn sent(pacer: &mut Pacer, from_us: u64, to_us: u64) -> u64 {
        let mut count = 0;
        for now in from_us..to_us {
            while pacer.may_send(now * 1000) {
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_rate_is_kept_exactly() {
        for rate in [1.0, 999.0, 123_457.0, 1e6, 3.3e6] {
            let mut pacer = Pacer::new(Pace::new(Some(rate)));
            let sent = sent(&mut pacer, 0, 2_000_000) as f64;
            assert!((sent - 2.0 * rate).abs() <= 34.0, "{sent} at {rate}");
        }
    }

    #[test]
    fn a_short_stall_is_made_up_for_but_not_at_once() {
        let mut pacer = Pacer::new(Pace::new(Some(1e6)));
        sent(&mut pacer, 0, 1000);
        // For 10 ms nothing could be sent. In the next one: the burst, and twice as many as usual.
        let next = sent(&mut pacer, 11_000, 12_000);
        assert!((2000..=2035).contains(&next), "{next}");
        // After as long as the stall it is made up for, and the rate is as it was.
        sent(&mut pacer, 12_000, 22_000);
        let next = sent(&mut pacer, 22_000, 23_000);
        assert!((999..=1001).contains(&next), "{next}");
    }

    #[test]
    fn a_long_stall_is_made_up_for_in_part() {
        let mut pacer = Pacer::new(Pace::new(Some(1e6)));
        sent(&mut pacer, 0, 1000);
        let after = sent(&mut pacer, 1_001_000, 1_201_000);
        assert!((220_000..=220_040).contains(&after), "{after}");
    }

    #[test]
    fn without_a_rate_every_packet_may_be_sent() {
        let mut pacer = Pacer::new(Pace::new(None));
        assert!((0..1000).all(|_| pacer.may_send(0)));
    }
}
