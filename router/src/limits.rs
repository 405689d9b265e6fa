//! Tells of limits that newcomers run into: what lives goes on, so nobody else would say so. Pure: time
//! and counters are arguments.

use std::time::{Duration, Instant};

use spillway_engine::DropReason;

use crate::remedy::remedy;

/// How often the counters are looked at, and so the most that is said of each limit.
const INTERVAL: Duration = Duration::from_secs(10);

/// Reasons that are limits.
const LIMITS: [DropReason; 7] = [
    DropReason::PortsExhausted,
    DropReason::MappingsExhausted,
    DropReason::FlowTableFull,
    DropReason::PodFlowLimit,
    DropReason::RedirectsFull,
    DropReason::FragmentsFull,
    DropReason::HandOffFull,
];

/// A limit at which packets were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) reason: DropReason,
    /// How many packets, since the last time that anybody looked.
    pub(crate) packets: u64,
    /// What to do about it.
    pub(crate) remedy: &'static str,
}

/// What the counters were when somebody looked last.
#[derive(Debug)]
pub(crate) struct Limits {
    next: Instant,
    seen: [u64; LIMITS.len()],
}

impl Limits {
    pub(crate) fn new(now: Instant) -> Self {
        Self { next: now + INTERVAL, seen: [0; LIMITS.len()] }
    }

    /// When the counters are to be looked at.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Nobody could look at the counters now.
    pub(crate) fn postpone(&mut self, now: Instant) {
        self.next = now + INTERVAL;
    }

    /// Looks at the counters: `dropped` says how many packets were dropped for a reason, ever.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        dropped: impl Fn(DropReason) -> u64,
    ) -> impl Iterator<Item = Reached> {
        self.postpone(now);
        LIMITS.iter().zip(&mut self.seen).filter_map(move |(reason, seen)| {
            let count = dropped(*reason);
            let packets = count.saturating_sub(std::mem::replace(seen, count));
            let remedy = remedy(*reason).unwrap_or_default();
            (packets > 0).then_some(Reached { reason: *reason, packets, remedy })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_something_to_do_about_each_limit() {
        assert!(LIMITS.iter().all(|reason| remedy(*reason).is_some()));
    }

    #[test]
    fn what_was_refused_since_the_last_look_is_told_once() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let mut look = |seconds, ports, flows| -> Vec<(DropReason, u64)> {
            let now = start + Duration::from_secs(seconds);
            let dropped = |reason| match reason {
                DropReason::PortsExhausted => ports,
                DropReason::FlowTableFull => flows,
                DropReason::NoFlow => unreachable!("that is no limit"),
                _ => 0,
            };
            limits.look(now, dropped).map(|reached| (reached.reason, reached.packets)).collect()
        };
        assert_eq!(look(10, 0, 0), []);
        assert_eq!(look(20, 7, 0), [(DropReason::PortsExhausted, 7)]);
        assert_eq!(look(30, 7, 0), []);
        let both = [(DropReason::PortsExhausted, 1), (DropReason::FlowTableFull, 3)];
        assert_eq!(look(40, 8, 3), both);
        assert_eq!(limits.next(), start + Duration::from_secs(50));
    }
}
