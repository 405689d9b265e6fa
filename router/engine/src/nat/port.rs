//! Leasing a port (or echo identifier) on an egress address.
//!
//! Where pods have whole blocks of ports (`blocks.rs`), a port of the pod's blocks is taken. Else:
//!
//! A pod's own port is kept when it may be. Else a class is searched in a random order until a
//! port is free: first the class of the pod's port, then the worker's others. So a lease fails
//! only when this worker has no port left towards that remote; then others are asked
//! (`engine/adoption.rs`). A port that another pod's flow to the same remote had lately is taken
//! only when nothing else in the class is free.

use std::ops::RangeInclusive;

use super::blocks::{BlockEvent, Blocks, PortBlock};
use super::crowded::{Crowded, Remote, Taken};
use super::rest::Resting;
use crate::DropReason;
use crate::engine::{EngineConfig, Nanos};
use crate::flow::{Hasher, NotRestored, Tuple, tick};
use crate::nat::Random;
use crate::packet::Wire;
use crate::steer::{CLASSES, class, port_of};
use crate::tables::EgressAddress;

/// After so many ports that were asked for in vain, a remote is remembered as crowded.
const ASKED_MAX: u32 = 32;

/// A lease that had to look at more ports than these has found a remote with few left: where 9 of 10 are
/// taken, one search in 30 does.
const LOOKED_AT_MAX: u32 = 32;

/// What a new flow asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<F: Wire> {
    /// The tuple of its replies, with the pod's own port.
    pub(crate) reply: Tuple<F::Address>,
    pub(crate) pod: F::Address,
    pub(crate) now: Nanos,
}

/// Who has a port towards a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Free,
    /// A flow to that remote.
    Leased,
    /// An endpoint-independent mapping, towards every remote.
    Mapped,
}

/// What one worker knows of ports. Which are leased is known by the flows alone.
#[derive(Debug)]
pub(crate) struct Ports<F: Wire> {
    /// The classes that this worker owns.
    classes: Vec<u8>,
    /// Whether it owns each class.
    owns: [bool; CLASSES],
    random: Random,
    hasher: Hasher,
    resting: Resting<F>,
    /// Remotes towards which few ports are left, or none; of any remote, those that mappings leave.
    crowded: Crowded<F>,
    leases_crowded: u64,
    /// Where pods have whole blocks of ports; nothing else of this decides then.
    blocks: Option<Box<Blocks<F>>>,
}

impl<F: Wire> Ports<F> {
    pub(crate) fn new(config: &EngineConfig, flows_max: u32, hasher: Hasher) -> Self {
        let EngineConfig { worker, owners, blocks_per_pod, events, .. } = *config;
        let owned = (0..=u8::MAX).zip(owners.of_class).filter(|(_, owner)| *owner == worker);
        let classes = owned.map(|(class, _)| class).collect();
        let blocks = || Blocks::new(owners.run, blocks_per_pod, flows_max, hasher, events);
        Self {
            classes,
            owns: owners.of_class.map(|owner| owner == worker),
            blocks: (blocks_per_pod > 0).then(|| Box::new(blocks())),
            random: Random::new(config.seed),
            hasher,
            resting: Resting::new(),
            crowded: Crowded::new(),
            leases_crowded: 0,
        }
    }

    /// How many leases have found few ports left towards their remote, or none.
    pub(crate) fn leases_crowded(&self) -> u64 {
        self.leases_crowded
    }

    /// Chooses a port on `egress` for replies: the pod's own if it may be, else another. `use_of`
    /// says of a reply tuple who has it.
    pub(crate) fn lease(
        &mut self,
        egress: &EgressAddress<F>,
        wish: &Wish<F>,
        use_of: &mut dyn FnMut(&Tuple<F::Address>) -> Use,
    ) -> Result<u16, DropReason> {
        if let Some(blocks) = &mut self.blocks {
            let leased = blocks.lease(&mut self.random, &self.classes, egress, wish, use_of);
            self.leases_crowded += u64::from(leased.is_err());
            return leased;
        }
        let Wish { reply, pod, now } = *wish;
        let own = reply.destination_port;
        // Replies to a port of another worker's class would never come here.
        let own_class = class(own);
        let is_ours = self.owns.get(usize::from(own_class)).copied().unwrap_or_default();
        let mut all_mapped = true;
        let mut may_be = |port: u16| {
            if !(egress.port_first..=egress.port_last).contains(&port) {
                return false;
            }
            let used = use_of(&Tuple { destination_port: port, ..reply });
            all_mapped &= used == Use::Mapped;
            used == Use::Free
        };
        let Self { hasher, resting, crowded, .. } = self;
        let is_rested = |port: u16| {
            let tuple = Tuple { destination_port: port, ..reply };
            !resting.has(hasher.tuple(&tuple), pod, tick(now))
        };
        if is_ours && is_rested(own) && may_be(own) {
            return Ok(own);
        }
        let any_remote = Tuple { source: F::UNSPECIFIED, source_port: 0, ..reply };
        let range = (egress.port_first, egress.port_last);
        let [remote, any_remote] =
            [reply, any_remote].map(|tuple| Remote::new(hasher, &tuple, range));
        if crowded.is_exhausted(&remote) || crowded.is_exhausted(&any_remote) {
            self.leases_crowded += 1;
            return Err(DropReason::PortsExhausted);
        }
        let Self { classes, random, leases_crowded, .. } = self;
        let range = egress.port_first..=egress.port_last;
        let mut search = Search { taken: crowded.of(&remote), asked: 0, range, looked_at: 0 };
        let mut found = None;
        if is_ours {
            found = search.class(random, own_class, &mut |port| is_rested(port), &mut may_be);
            found = found.or_else(|| search.class(random, own_class, &mut |_| true, &mut may_be));
        }
        let found = found.or_else(|| search.other_classes(random, classes, own_class, &mut may_be));
        let Search { taken, asked, looked_at, .. } = search;
        *leases_crowded += u64::from(found.is_none() || looked_at > LOOKED_AT_MAX);
        // What was skipped may be leased.
        all_mapped &= taken.is_none();
        if found.is_none() {
            crowded.remember(if all_mapped { &any_remote } else { &remote }, true);
        } else if asked > ASKED_MAX {
            crowded.remember(&remote, false);
        }
        found.ok_or(DropReason::PortsExhausted)
    }

    /// What [`Ports::lease`] would find: whether the pod keeps its own port. No dearer than the lease, and
    /// nothing is remembered of it. `is_free` says it of a reply tuple.
    pub(crate) fn forecast(
        &self,
        egress: &EgressAddress<F>,
        wish: &Wish<F>,
        is_free: &dyn Fn(&Tuple<F::Address>) -> bool,
    ) -> Result<bool, DropReason> {
        if let Some(blocks) = &self.blocks {
            let is_any_left = blocks.forecast(&self.classes, egress, wish, is_free);
            return is_any_left.then_some(false).ok_or(DropReason::PortsExhausted);
        }
        let Wish { reply, pod, now } = *wish;
        let range = egress.port_first..=egress.port_last;
        let with = |port| Tuple { destination_port: port, ..reply };
        let may_be = |port: u16| {
            let is_ours = self.owns.get(usize::from(class(port))).copied().unwrap_or_default();
            is_ours && range.contains(&port) && is_free(&with(port))
        };
        let own = reply.destination_port;
        if !self.resting.has(self.hasher.tuple(&with(own)), pod, tick(now)) && may_be(own) {
            return Ok(true);
        }
        let any_remote = Tuple { source: F::UNSPECIFIED, source_port: 0, ..reply };
        let bounds = (egress.port_first, egress.port_last);
        let is_exhausted =
            |tuple| self.crowded.is_exhausted(&Remote::new(&self.hasher, tuple, bounds));
        if is_exhausted(&reply) || is_exhausted(&any_remote) {
            return Err(DropReason::PortsExhausted);
        }
        // Its own port may be one that rests.
        let is_any_left = range.clone().any(may_be);
        is_any_left.then_some(false).ok_or(DropReason::PortsExhausted)
    }

    /// Starts to load what a lease asks about a reply tuple with this hash.
    pub(crate) fn prefetch(&self, hash: u64) {
        self.resting.prefetch(hash);
    }

    /// A pod's flow with this reply tuple has ended: its port rests, and its remote is not
    /// exhausted.
    pub(crate) fn released(&mut self, reply: &Tuple<F::Address>, pod: F::Address, now: Nanos) {
        if let Some(blocks) = &mut self.blocks {
            return blocks.ended(reply, pod, now);
        }
        self.resting.add(self.hasher.tuple(reply), pod, tick(now));
        self.crowded.released(&self.hasher, reply);
    }

    /// A flow has opened that leaves from this port, which was leased for it or is its mapping's.
    pub(crate) fn opened(&mut self, egress: F::Address, port: u16) {
        if let Some(blocks) = &mut self.blocks {
            blocks.opened(egress, port);
        }
    }

    /// A pod's flow of an earlier engine, which began at `since`, wants to go on with its port.
    pub(crate) fn restored(
        &mut self,
        port: (F::Address, u16),
        pod: F::Address,
        since: Nanos,
    ) -> Result<(), NotRestored> {
        self.blocks.as_mut().map_or(Ok(()), |blocks| blocks.restored(port, pod, since))
    }

    /// [`Ports::restored`] was in vain.
    pub(crate) fn not_restored(&mut self, (egress, port): (F::Address, u16), now: Nanos) {
        if let Some(blocks) = &mut self.blocks {
            blocks.left(egress, port, now);
        }
    }

    /// Ends some blocks that have rested; ports by themselves need nothing.
    pub(crate) fn expire(&mut self, now: Nanos) {
        if let Some(blocks) = &mut self.blocks {
            blocks.expire(now);
        }
    }

    /// How many blocks pods have.
    pub(crate) fn blocks_live(&self) -> u64 {
        self.blocks.as_ref().map_or(0, |blocks| blocks.live().into())
    }

    /// Appends a page of them to `out`; gives the cursor of the next one.
    pub(crate) fn blocks(
        &self,
        cursor: u32,
        limit: usize,
        out: &mut Vec<PortBlock>,
    ) -> Option<u32> {
        self.blocks.as_ref()?.page(cursor, limit, out)
    }

    /// Gives what has happened to blocks to `take`; and how many events were lost since the last call.
    pub(crate) fn take_block_events(&mut self, take: impl FnMut(BlockEvent)) -> u64 {
        self.blocks.as_mut().map_or(0, |blocks| blocks.take(take))
    }

    /// A mapping has ended, which kept its port from every remote: nothing is known of any now.
    pub(crate) fn forget_taken(&mut self) {
        self.crowded.forget();
    }
}

/// A search for a free port.
struct Search<'a> {
    /// What is known of the remote, if it is crowded.
    taken: Option<&'a mut Taken>,
    /// How many ports were asked for.
    asked: u32,
    /// The egress address's ports, and how many of them were looked at: asked for, or known to be taken.
    range: RangeInclusive<u16>,
    looked_at: u32,
}

impl Search<'_> {
    /// A free port of a class that is wanted: each is looked at once, in one of 32,768 orders, a random
    /// start and stride.
    fn class(
        &mut self,
        random: &mut Random,
        class: u8,
        is_wanted: &mut dyn FnMut(u16) -> bool,
        may_be: &mut dyn FnMut(u16) -> bool,
    ) -> Option<u16> {
        let start = random.byte();
        let stride = random.byte() | 1;
        if self.taken.as_ref().is_some_and(|taken| taken.has_class(class)) {
            return None;
        }
        let number = |step: u8| start.wrapping_add(step.wrapping_mul(stride));
        (0..=u8::MAX).map(|step| port_of(class, number(step))).find(|port| {
            let is_known = self.taken.as_ref().is_some_and(|taken| taken.has(*port));
            let is_asked = !is_known && is_wanted(*port);
            // One that rests is free, and found in the end.
            self.looked_at += u32::from((is_known || is_asked) && self.range.contains(port));
            is_asked && self.ask(*port, may_be)
        })
    }

    /// The same in all classes but one, from a random one on.
    fn other_classes(
        &mut self,
        random: &mut Random,
        classes: &[u8],
        searched: u8,
        may_be: &mut dyn FnMut(u16) -> bool,
    ) -> Option<u16> {
        let start = usize::from(random.byte());
        (0..classes.len()).find_map(|step| {
            let place = (start + step) % classes.len();
            let class = classes.get(place).copied().filter(|class| *class != searched)?;
            self.class(random, class, &mut |_| true, may_be)
        })
    }

    fn ask(&mut self, port: u16, may_be: &mut dyn FnMut(u16) -> bool) -> bool {
        self.asked += 1;
        let is_free = may_be(port);
        if !is_free && let Some(taken) = &mut self.taken {
            taken.set(port, true);
        }
        is_free
    }
}

#[cfg(test)]
mod tests;
