//! What happens to flows, for whoever keeps a record of it, and what they have carried: noted where a flow
//! begins or ends, and never for a packet of a known flow. The worker takes the events after each round.

use super::Nanos;
use crate::accounts::Ledger;
use crate::flow::{FlowRecord, Flows, SlotIndex};
use crate::packet::Wire;
use crate::policy::PolicyIndex;
use crate::tables::FamilyTables;

/// Events of one family that wait for the worker at most: more than a round of it makes, of a burst, of
/// frames that were held or handed over, and of a sweep.
const EVENTS_MAX: usize = 1024;

/// A flow began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// When, by the clock that the engine is given.
    pub at: Nanos,
    /// Which of the two.
    pub change: FlowChange,
    /// The flow: as it begins, without any packet; or as it was when it ended.
    pub flow: FlowRecord,
}

/// What becomes of a flow, and of its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlowChange {
    /// It begins: nobody else has its egress address and port towards its remote from now on.
    Begin,
    /// It has ended: others may have them.
    End(EndReason),
}

/// Why a flow has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndReason {
    /// It was idle for too long.
    Expired,
    /// Its connection was closed or reset, and nothing came for a while.
    Closed,
    /// Its policy or its egress address was taken away.
    Deselected,
    /// Its connection was closed or reset, and its pod has opened another one with the same ports: that
    /// one begins at the same moment.
    Replaced,
}

impl EndReason {
    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Closed => "closed",
            Self::Deselected => "deselected",
            Self::Replaced => "replaced",
        }
    }
}

/// What has happened to the flows of one family since the worker asked last.
#[derive(Debug)]
pub(super) struct Journal {
    events: Vec<FlowEvent>,
    /// How many events it takes; none when nobody wants to know.
    room: usize,
    lost: u64,
    /// What flows have carried that have ended.
    pub(super) ledger: Ledger,
}

impl Journal {
    /// All that it will ever need is allocated now.
    pub(super) fn new(is_wanted: bool) -> Self {
        let room = if is_wanted { EVENTS_MAX } else { 0 };
        Self { events: Vec::with_capacity(room), room, lost: 0, ledger: Ledger::new() }
    }

    /// A flow begins.
    #[inline]
    pub(super) fn begin<F: Wire>(&mut self, flows: &Flows<F>, flow: SlotIndex, now: Nanos) {
        if self.room > 0 {
            self.note(flows, flow, now, FlowChange::Begin);
        }
    }

    /// A flow ends: it is still there. One that expires closing was closed.
    #[inline]
    pub(super) fn end<F: Wire>(
        &mut self,
        tables: &FamilyTables<F>,
        flows: &Flows<F>,
        flow: SlotIndex,
        (now, why): (Nanos, EndReason),
    ) {
        let (original, carried) = (&flows.originals[flow], flows.carried(flow));
        let accounts = tables.accounts();
        self.ledger.add(accounts.policy(original.epoch, original.policy), carried);
        self.ledger.add(accounts.egress(original.egress().into()), carried);
        if self.room > 0 {
            let is_closed = why == EndReason::Expired && flows.is_closing(flow);
            let why = if is_closed { EndReason::Closed } else { why };
            self.note(flows, flow, now, FlowChange::End(why));
        }
    }

    /// A flow goes on under a policy of these tables: what it has carried so far stays with the one before.
    pub(super) fn change_policy<F: Wire>(
        &mut self,
        tables: &FamilyTables<F>,
        flows: &Flows<F>,
        flow: SlotIndex,
        policy: PolicyIndex,
    ) {
        let (original, accounts) = (&flows.originals[flow], tables.accounts());
        let before = accounts.policy(original.epoch, original.policy);
        let after = accounts.policy(tables.epoch(), policy);
        if before != after {
            let carried = flows.carried(flow);
            self.ledger.add(before, carried);
            self.ledger.subtract(after, carried);
        }
    }

    #[inline(never)]
    fn note<F: Wire>(&mut self, flows: &Flows<F>, flow: SlotIndex, now: Nanos, change: FlowChange) {
        if self.events.len() < self.room {
            self.events.push(FlowEvent { at: now, change, flow: flows.record(flow, now) });
        } else {
            self.lost += 1;
        }
    }

    /// Gives all events to `take`; and how many were lost since the last call.
    pub(super) fn take(&mut self, take: impl FnMut(FlowEvent)) -> u64 {
        self.events.drain(..).for_each(take);
        std::mem::take(&mut self.lost)
    }
}
