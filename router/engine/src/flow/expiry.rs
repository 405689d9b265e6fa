//! Finding flows that have been idle for too long: a sweep over the table in small steps.
//!
//! A flow's timeouts are those of the policy that covers it now, so no slot says them: the few flows
//! that have been idle for as long as any policy allows ask the tables.
//!
//! No packet pays for it, and no timer is set: a sweep reads every live entry once in each
//! [`PASS_NS`], as far as it is called often enough. At the 10 calls a second of an idle worker it
//! looks at up to 38,400 slots a second: 2 s for a table of 65,536 flows.

use super::state::{FlowState, Timeouts};
use super::{Flows, SlotIndex};
use crate::engine::Nanos;
use crate::flow::slot::{Original, TICK_SHIFT, Tick, tick};
use crate::packet::Wire;
use crate::tables::FamilyTables;

/// How long one pass over the whole table takes when the worker is busy.
const PASS_NS: Nanos = 2_000_000_000;

/// How many groups of 15 slots one call looks at, at most.
pub(crate) const GROUPS_MAX: usize = 256;

/// How many flows one call ends, at most.
pub(crate) const EXPIRED_MAX: usize = 256;

/// How far a sweep over a table is, and what of it is due.
#[derive(Debug)]
pub(crate) struct Pace {
    /// How long a pass over the whole table takes.
    pass_ns: Nanos,
    /// The group that is looked at next.
    group: usize,
    /// The time up to which groups have been looked at.
    swept_until: Nanos,
}

impl Pace {
    pub(crate) fn new(pass_ns: Nanos) -> Self {
        Self { pass_ns, group: 0, swept_until: 0 }
    }

    /// How many groups of a table of `groups` to look at now, so that a pass takes `pass_ns`;
    /// [`GROUPS_MAX`] at most.
    pub(crate) fn due(&mut self, now: Nanos, groups: usize) -> usize {
        let elapsed = now.saturating_sub(self.swept_until).min(self.pass_ns);
        let share = elapsed * groups as u64;
        let due = share / self.pass_ns;
        if due > 0 {
            // What is left of the time counts with the next call; else a pass takes up to twice as
            // long, by how the calls happen to fall.
            self.swept_until = now - share % self.pass_ns / groups as u64;
        }
        usize::try_from(due).unwrap_or(GROUPS_MAX).min(GROUPS_MAX)
    }

    /// The next group.
    pub(crate) fn step(&mut self, groups: usize) -> usize {
        let next = (self.group + 1) % groups;
        std::mem::replace(&mut self.group, next)
    }
}

/// Looks for flows that have been idle for too long.
#[derive(Debug)]
pub(crate) struct Sweep {
    timeouts: Timeouts,
    pace: Pace,
}

impl Sweep {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self { timeouts, pace: Pace::new(PASS_NS) }
    }

    /// Looks at the groups that are due; calls `expired` with the place of each flow that has been
    /// idle for too long, at most [`EXPIRED_MAX`] times and a group.
    pub(crate) fn step<F: Wire>(
        &mut self,
        now: Nanos,
        tables: &FamilyTables<F>,
        flows: &mut Flows<F>,
        expired: &mut dyn FnMut(&mut Flows<F>, SlotIndex),
    ) {
        let groups = flows.originals.groups();
        let due = self.pace.due(now, groups);
        if due == 0 {
            return;
        }
        let mut count = 0;
        let least = tables.least_timeouts(self.timeouts);
        for _ in 0..due {
            for index in flows.originals.entries(self.pace.step(groups)) {
                if self.is_expired(flows, index, tick(now), tables, &least) {
                    expired(flows, index);
                    count += 1;
                }
            }
            if count >= EXPIRED_MAX {
                return;
            }
        }
    }

    /// `least` are timeouts that no flow's are below.
    fn is_expired<F: Wire>(
        &self,
        flows: &Flows<F>,
        index: SlotIndex,
        now: Tick,
        tables: &FamilyTables<F>,
        least: &Timeouts,
    ) -> bool {
        let original = &flows.originals[index];
        // Most entries are ruled out without a look at their twin.
        if !is_idle_for(least.shortest(), original.last_seen, now) {
            return false;
        }
        let reply = &flows.replies[original.twin];
        let state = FlowState::of(original.progress, reply.progress);
        let outlasts = |timeouts: &Timeouts| {
            let timeout = timeouts.of::<F>(original.protocol(), state);
            is_idle_for(timeout, original.last_seen, now)
                && is_idle_for(timeout, reply.last_seen, now)
        };
        outlasts(least) && outlasts(&self.timeouts_of(original, tables))
    }

    /// An idle flow may know its policy of an earlier epoch only.
    fn timeouts_of<F: Wire>(&self, original: &Original<F>, tables: &FamilyTables<F>) -> Timeouts {
        let policy = match original.epoch == tables.epoch() {
            true => Some(original.policy),
            false => {
                let tuple = original.tuple();
                tables.policy(tuple.source, tuple.destination)
            }
        };
        tables.options(policy).timeouts.unwrap_or(self.timeouts)
    }
}

/// Whether more than `timeout` has passed since `last_seen`. A clock that seems to run backwards
/// makes nothing old.
pub(super) fn is_idle_for(timeout: Nanos, last_seen: Tick, now: Tick) -> bool {
    now.wrapping_sub(last_seen).cast_signed().max(0).cast_unsigned() > ticks(timeout)
}

/// A duration in whole ticks. An entry is older than it when more ticks have passed.
fn ticks(duration: Nanos) -> Tick {
    let ticks = duration.div_ceil(1 << TICK_SHIFT);
    Tick::try_from(ticks).unwrap_or(Tick::MAX).min(Tick::MAX / 2)
}
