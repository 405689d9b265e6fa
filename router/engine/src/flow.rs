//! Flows: what the engine remembers of each connection, one cache line for each direction (two of
//! IPv6).
//!
//! Two tables of one worker: originals by the pod's tuple, replies by the outside's. The reply
//! entry is also the lease of its port: a port is free towards a remote when no reply entry has
//! it. Twins know each other's place; a packet touches one of them.

mod expiry;
mod pod_flows;
mod record;
mod redirect;
mod saved;
mod slot;
mod state;
mod table;
mod tuple;

use spillway_mem::{Arena, TagGroup};

pub use pod_flows::{FLOWS_PER_POD_MAX, PodFlows};
pub use record::FlowRecord;
pub use saved::{NotRestored, SavedDirection, SavedFlow};
pub use state::{FlowState, TIMEOUT_NS_MAX, Timeouts};
pub use tuple::Tuple;

pub(crate) use expiry::{GROUPS_MAX, Pace, Sweep};
pub(crate) use pod_flows::Place;
pub(crate) use redirect::{REDIRECTS_MAX, Redirects};
pub(crate) use slot::{Original, Reply, Tick, Translation, WayBack, tick};
pub(crate) use table::{Slot, SlotIndex, Table};
pub(crate) use tuple::{Hasher, Key};

use crate::accounts::Carried;
use crate::packet::Wire;
use slot::Tally;
use state::Progress;

/// All flows of one worker.
#[derive(Debug)]
pub(crate) struct Flows<F: Wire> {
    pub(crate) originals: Table<Original<F>>,
    pub(crate) replies: Table<Reply<F>>,
    hasher: Hasher,
    live: u32,
    flows_max: u32,
}

impl<F: Wire> Flows<F> {
    /// Room for `flows_max` flows, allocated now.
    pub(crate) fn new(flows_max: u32, hasher: Hasher) -> Self {
        Self {
            originals: Table::new(flows_max),
            replies: Table::new(flows_max),
            hasher,
            live: 0,
            flows_max,
        }
    }

    /// How many flows live.
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    /// Whether there is no room for another flow.
    pub(crate) fn is_full(&self) -> bool {
        self.live >= self.flows_max
    }

    /// Whether no flow has this reply tuple.
    pub(crate) fn is_free(&self, reply: &Tuple<F::Address>) -> bool {
        self.replies.find(reply, self.hasher.tuple(reply)).is_none()
    }

    /// Adds a flow, neither of whose tuples is known yet; gives its original's place, or `None`
    /// when the table is full.
    pub(crate) fn insert(&mut self, original: Original<F>, reply: Reply<F>) -> Option<SlotIndex> {
        if self.is_full() {
            return None;
        }
        let original_hash = self.hasher.key(&original.key());
        let reply_hash = self.hasher.key(&reply.key());
        let original_index = self.originals.insert(original_hash, original)?;
        let reply_index = self.replies.insert(reply_hash, reply)?;
        self.originals[original_index].twin = reply_index;
        self.replies[reply_index].twin = original_index;
        self.live += 1;
        Some(original_index)
    }

    /// Whether a flow's connection is closing or closed.
    pub(crate) fn is_closing(&self, original_index: SlotIndex) -> bool {
        let original = &self.originals[original_index];
        let reply = &self.replies[original.twin];
        FlowState::of(original.progress, reply.progress) == FlowState::Closing
    }

    /// Lets a TCP flow that is closing begin anew, with counts of its own: its pod opens a connection
    /// with the same ports.
    pub(crate) fn reopen(&mut self, original_index: SlotIndex, now: Tick) {
        let original = &mut self.originals[original_index];
        let reply = &mut self.replies[original.twin];
        (original.progress, original.tally) = (Progress::NONE, Tally::NONE);
        (reply.progress, reply.tally) = (Progress::NONE, Tally::NONE);
        (original.created, original.last_seen, reply.last_seen) = (now, now, now);
    }

    /// What a flow has carried.
    pub(crate) fn carried(&self, original_index: SlotIndex) -> Carried {
        let original = &self.originals[original_index];
        let reply = &self.replies[original.twin];
        Carried { forward: original.tally.traffic(), reply: reply.tally.traffic() }
    }

    /// Removes a flow; gives how it was translated: its port is free again.
    pub(crate) fn remove(&mut self, original_index: SlotIndex) -> Translation<F> {
        let original = self.originals[original_index];
        let reply = self.replies[original.twin].key();
        self.replies.remove(self.hasher.key(&reply), original.twin);
        self.originals.remove(self.hasher.key(&original.key()), original_index);
        self.live = self.live.saturating_sub(1);
        original.translation()
    }
}
