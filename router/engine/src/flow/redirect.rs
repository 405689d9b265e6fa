//! Flows that live with another worker than the owner of their pod's port: that one had no port left
//! for them. Their packets come to it all the same, and it sends them on.

use super::expiry::{Pace, is_idle_for};
use super::state::TIMEOUT_NS_MAX;
use super::table::{Slot, SlotIndex, Table};
use super::tuple::{Hasher, Key, Tuple};
use super::{Tick, tick};
use crate::engine::Nanos;
use crate::packet::Wire;

/// How many flows of one worker can live with others.
pub(crate) const REDIRECTS_MAX: u32 = 65_536;

/// How long a pass over all of them takes.
const PASS_NS: Nanos = 2_000_000_000;

/// How long an entry stays of whose flow nobody has said that it was opened, or whose end came at the
/// same time as a packet of the pod.
const UNCONFIRMED_NS: Nanos = 10_000_000_000;

/// How long one stays at most while the pod is silent, should nobody say that its flow has ended: a day
/// longer than any flow may be idle.
const SILENT_NS: Nanos = TIMEOUT_NS_MAX + 24 * 3600 * 1_000_000_000;

/// The end of a flow is not believed so soon after a packet of the pod: that one may open it anew.
const CROSSING_NS: Nanos = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Redirect<F: Wire> {
    original: Tuple<F::Address>,
    worker: u8,
    /// Whether the worker is believed to have the flow. Where it has not, it gives the next packet
    /// back.
    is_open: bool,
    last_seen: Tick,
}

impl<F: Wire> Slot for Redirect<F> {
    type Family = F;

    const EMPTY: Self = Self { original: Tuple::NONE, worker: 0, is_open: false, last_seen: 0 };

    fn key(&self) -> Key<F> {
        self.original.key()
    }
}

/// The flows of one worker that live with others. Those say when a flow was opened, and when it has
/// ended.
#[derive(Debug)]
pub(crate) struct Redirects<F: Wire> {
    entries: Table<Redirect<F>>,
    hasher: Hasher,
    live: u32,
    pace: Pace,
}

impl<F: Wire> Redirects<F> {
    /// Room for `redirects_max`.
    pub(crate) fn new(redirects_max: u32, hasher: Hasher) -> Self {
        let entries = Table::new(redirects_max);
        Self { entries, hasher, live: 0, pace: Pace::new(PASS_NS) }
    }

    /// The worker that a pod's packet has to go to.
    pub(crate) fn follow(&mut self, original: &Tuple<F::Address>, now: Tick) -> Option<u8> {
        if self.live == 0 {
            return None;
        }
        let index = self.entries.find(original, self.hasher.tuple(original))?;
        let redirect = &mut self.entries[index];
        (redirect.last_seen, redirect.is_open) = (now, true);
        Some(redirect.worker)
    }

    /// The same without taking note of it.
    pub(crate) fn look(&self, original: &Tuple<F::Address>) -> Option<u8> {
        let index = self.entries.find(original, self.hasher.tuple(original))?;
        Some(self.entries[index].worker)
    }

    /// From now on a pod's packets go to `worker`, who may have opened their flow. Whether there was
    /// room.
    pub(crate) fn set(
        &mut self,
        original: &Tuple<F::Address>,
        worker: u8,
        is_open: bool,
        now: Tick,
    ) -> bool {
        let hash = self.hasher.tuple(original);
        let redirect = Redirect { original: *original, worker, is_open, last_seen: now };
        if let Some(index) = self.entries.find(original, hash) {
            self.entries[index] = redirect;
            return true;
        }
        if self.live >= REDIRECTS_MAX || self.entries.insert(hash, redirect).is_none() {
            return false;
        }
        self.live += 1;
        true
    }

    /// `worker` says that it has opened the flow, or that the flow has ended.
    pub(crate) fn note(
        &mut self,
        original: &Tuple<F::Address>,
        worker: u8,
        is_open: bool,
        now: Tick,
    ) {
        let found = self.entries.find(original, self.hasher.tuple(original));
        let at = found.filter(|index| self.entries[*index].worker == worker);
        let Some(index) = at else { return };
        if is_open || !is_idle_for(CROSSING_NS, self.entries[index].last_seen, now) {
            self.entries[index].is_open = is_open;
        } else {
            self.remove(index);
        }
    }

    /// From now on they stay here.
    pub(crate) fn unset(&mut self, original: &Tuple<F::Address>) {
        if let Some(index) = self.entries.find(original, self.hasher.tuple(original)) {
            self.remove(index);
        }
    }

    /// Ends some that have been idle for too long.
    pub(crate) fn expire(&mut self, now: Nanos) {
        if self.live == 0 {
            return;
        }
        let groups = self.entries.groups();
        for _ in 0..self.pace.due(now, groups) {
            for index in self.entries.entries(self.pace.step(groups)) {
                let Redirect { is_open, last_seen, .. } = self.entries[index];
                let timeout = if is_open { SILENT_NS } else { UNCONFIRMED_NS };
                if is_idle_for(timeout, last_seen, tick(now)) {
                    self.remove(index);
                }
            }
        }
    }

    fn remove(&mut self, index: SlotIndex) {
        let original = self.entries[index].original;
        self.entries.remove(self.hasher.tuple(&original), index);
        self.live = self.live.saturating_sub(1);
    }
}
