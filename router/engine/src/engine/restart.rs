//! What outlives an engine: its flows, for those that come after it.

use super::Nanos;
use super::translator::Translator;
use crate::Tuple;
use crate::flow::{GROUPS_MAX, NotRestored, SavedFlow, tick};
use crate::packet::Wire;
use crate::tables::{EPOCH_NONE, FamilyTables};

impl<F: Wire> Translator<F> {
    /// Every live flow.
    pub(super) fn saved(&self) -> impl Iterator<Item = SavedFlow> + '_ {
        self.flows.saved(self.now)
    }

    /// [`Engine::restore`](super::Engine::restore) of a flow of this family.
    pub(super) fn restore(&mut self, now: Nanos, flow: &SavedFlow) -> Result<(), NotRestored> {
        self.now = now;
        if self.owner(flow.egress_port) != self.worker {
            return Err(NotRestored::WrongWorker);
        }
        let addresses = flow.original.of_family::<F::Address>().zip(F::address(flow.egress));
        let (Tuple { source: pod, .. }, egress) = addresses.ok_or(NotRestored::Malformed)?;
        self.ports.restored((egress, flow.egress_port), pod, flow.created_ns)?;
        if let Err(reason) = self.flows.restore(now, flow) {
            self.ports.not_restored((egress, flow.egress_port), now);
            return Err(reason);
        }
        self.not_taken_up = Some(0);
        self.counters.flows_restored += 1;
        self.counters.flows_live = u64::from(self.flows.live());
        Ok(())
    }

    /// Gives flows of an earlier engine what their policies' options want of them, some in each call:
    /// mostly before they speak, and before others want what they have.
    pub(super) fn take_up_some(&mut self, tables: &FamilyTables<F>) {
        let Some(from) = self.not_taken_up else { return };
        let groups = self.flows.originals.groups();
        let until = groups.min(from + GROUPS_MAX);
        for flow in (from..until).flat_map(|group| self.flows.originals.entries(group)) {
            let original = &self.flows.originals[flow];
            let Tuple { source, destination, .. } = original.tuple();
            if original.epoch == EPOCH_NONE
                && let Some(policy) = tables.policy(source, destination)
            {
                self.holdings.take_up(tables, policy, flow, &original.translation());
            }
        }
        self.not_taken_up = (until < groups).then_some(until);
    }

    /// From now on a pod's packets are handed to `worker`, which goes on with their flow.
    pub(super) fn redirect(
        &mut self,
        now: Nanos,
        original: &Tuple<F::Address>,
        worker: u8,
    ) -> Result<(), NotRestored> {
        let is_set = self.redirects.set(original, worker, true, tick(now));
        if is_set { Ok(()) } else { Err(NotRestored::RedirectsFull) }
    }
}
