//! Flows as a person or a program outside of the engine sees them.

use std::net::Ipv4Addr;

use super::slot::{TICK_SHIFT, Tick};
use super::state::FlowState;
use super::{Flows, SlotIndex, Tuple};
use crate::Traffic;
use crate::engine::Nanos;
use crate::packet::Wire;
use crate::policy::PolicyIndex;

/// How many groups of 15 slots one page looks at, at most.
const PAGE_GROUPS_MAX: usize = 4096;

/// One live flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// From the pod to the remote, as the pod sends.
    pub original: Tuple,
    /// From the remote to the egress address, as the outside answers.
    pub reply: Tuple,
    /// How far it has come.
    pub state: FlowState,
    /// When its first packet came, to 17 ms.
    pub created_ns: Nanos,
    /// When its last packet in any direction came, to 17 ms.
    pub last_seen_ns: Nanos,
    /// Sent by the pod and forwarded.
    pub forward_traffic: Traffic,
    /// Sent by the remote and forwarded.
    pub reply_traffic: Traffic,
    /// The policy that covers it, an index into the policies of `epoch`.
    pub policy: PolicyIndex,
    /// The tables that `policy` refers to: an idle flow looks again with its next packet.
    pub epoch: u32,
    /// The tunnel peer that it came from and that its replies go to, by its key.
    pub peer: Ipv4Addr,
}

impl<F: Wire> Flows<F> {
    /// Appends live flows from `cursor` (at first 0) on to `out`, at least `limit` if there are so
    /// many, and at most 14 more. Gives the cursor of the next page, `None` after the last; a page
    /// may be short, or even empty, although others follow.
    pub(crate) fn page(
        &self,
        cursor: u32,
        limit: usize,
        now: Nanos,
        out: &mut Vec<FlowRecord>,
    ) -> Option<u32> {
        let wanted = out.len().saturating_add(limit);
        let first = usize::try_from(cursor).unwrap_or(usize::MAX);
        for group in first..self.originals.groups() {
            if out.len() >= wanted || group - first >= PAGE_GROUPS_MAX {
                return u32::try_from(group).ok();
            }
            out.extend(self.originals.entries(group).map(|index| self.record(index, now)));
        }
        None
    }

    /// One live flow. `now` is not before any packet of it.
    pub(crate) fn record(&self, index: SlotIndex, now: Nanos) -> FlowRecord {
        let original = &self.originals[index];
        let reply = &self.replies[original.twin];
        let created_ns = nanos(original.created, now);
        let last_seen = nanos(original.last_seen, now).max(nanos(reply.last_seen, now));
        FlowRecord {
            original: original.tuple().of_any_family(),
            reply: reply.tuple().of_any_family(),
            state: FlowState::of(original.progress, reply.progress),
            created_ns,
            last_seen_ns: last_seen,
            forward_traffic: original.tally.traffic(),
            reply_traffic: reply.tally.traffic(),
            policy: original.policy,
            epoch: original.epoch,
            peer: reply.way_back().peer_key,
        }
    }
}

/// The time of a tick that is not after `now`.
pub(super) fn nanos(tick: Tick, now: Nanos) -> Nanos {
    let age = super::tick(now).wrapping_sub(tick);
    ((now >> TICK_SHIFT).saturating_sub(u64::from(age))) << TICK_SHIFT
}
