//! Finding flows that have been idle for too long: a sweep over the table in small steps.
//!
//! No packet pays for it, and no timer is set: a sweep reads every live entry once in each
//! [`PASS_NS`], as far as it is called often enough. At the 10 calls a second of an idle worker it
//! looks at up to 38,400 slots a second: 2 s for a table of 65,536 flows.

use super::state::{FlowState, Timeouts};
use super::{Flows, SlotIndex};
use crate::engine::Nanos;
use crate::flow::slot::{TICK_SHIFT, Tick, tick};

/// How long one pass over the whole table takes when the worker is busy.
const PASS_NS: Nanos = 2_000_000_000;

/// How many groups of 15 slots one call looks at, at most.
const GROUPS_MAX: usize = 256;

/// How many flows one call ends, at most.
pub(crate) const EXPIRED_MAX: usize = 256;

/// Where the sweep is.
#[derive(Debug)]
pub(crate) struct Sweep {
    timeouts: Timeouts,
    /// The group that is looked at next.
    group: usize,
    /// The time up to which groups have been looked at.
    swept_until: Nanos,
}

impl Sweep {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self { timeouts, group: 0, swept_until: 0 }
    }

    /// Looks at the groups that are due; calls `expired` with the place of each flow that has been
    /// idle for too long, at most [`EXPIRED_MAX`] times and a group.
    pub(crate) fn step(
        &mut self,
        now: Nanos,
        flows: &mut Flows,
        expired: &mut dyn FnMut(&mut Flows, SlotIndex),
    ) {
        let mut count = 0;
        for _ in 0..self.due(now, flows.originals.groups()) {
            for index in flows.originals.entries(self.group) {
                if self.is_expired(flows, index, tick(now)) {
                    expired(flows, index);
                    count += 1;
                }
            }
            self.group = (self.group + 1) % flows.originals.groups();
            if count >= EXPIRED_MAX {
                return;
            }
        }
    }

    /// How many groups to look at now, so that a pass takes [`PASS_NS`].
    fn due(&mut self, now: Nanos, groups: usize) -> usize {
        let elapsed = now.saturating_sub(self.swept_until).min(PASS_NS);
        let due = elapsed * groups as u64 / PASS_NS;
        if due > 0 {
            self.swept_until = now;
        }
        usize::try_from(due).unwrap_or(GROUPS_MAX).min(GROUPS_MAX)
    }

    fn is_expired(&self, flows: &Flows, index: SlotIndex, now: Tick) -> bool {
        let original = &flows.originals[index];
        // A clock that seems to run backwards makes nothing old.
        let idle =
            |last_seen: Tick| now.wrapping_sub(last_seen).cast_signed().max(0).cast_unsigned();
        // Most entries are ruled out without a look at their twin.
        if idle(original.last_seen) <= ticks(self.timeouts.shortest()) {
            return false;
        }
        let reply = &flows.replies[original.twin];
        let state = FlowState::of(original.progress, reply.progress);
        let timeout = ticks(self.timeouts.of(original.protocol(), state));
        idle(original.last_seen).min(idle(reply.last_seen)) > timeout
    }
}

/// A duration in whole ticks. An entry is older than it when more ticks have passed.
fn ticks(duration: Nanos) -> Tick {
    let ticks = duration.div_ceil(1 << TICK_SHIFT);
    Tick::try_from(ticks).unwrap_or(Tick::MAX).min(Tick::MAX / 2)
}
