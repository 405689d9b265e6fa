//! Port blocks (RFC 6888, REQ-12 and REQ-14): a pod has whole runs of ports on an egress address, so that
//! who keeps a record of it writes down blocks, not flows.
//!
//! A block belongs to one pod for as long as a flow lives in it, and rests afterwards as single ports do
//! (`rest.rs`); its pod goes on in it, another one gets it only when no other is free. Every live flow with
//! ports is in a block of its pod. All ports of a block are of one class, so a pod has blocks with each
//! worker that its flows come to, and no worker asks another. Nothing of this is inlined: flows without
//! blocks should not pay for it.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::Random;
use super::port::{Use, Wish};
use super::rest::REST;
use crate::DropReason;
use crate::engine::Nanos;
use crate::flow::{Hasher, Key, NotRestored, Pace, Slot, SlotIndex, Table, Tuple, tick};
use crate::packet::Wire;
use crate::steer::Run;
use crate::tables::EgressAddress;

/// Blocks that one worker keeps of each family at most.
pub(crate) const BLOCKS_MAX: u32 = 65_536;

/// Blocks that a pod can have on one egress address with one worker, at most.
pub const BLOCKS_PER_POD_MAX: u8 = 16;

/// Egress addresses without a free block that are remembered.
const FULL_MAX: usize = 64;

/// Pods without a free port towards a remote that are remembered; a power of two.
const EXHAUSTED_PLACES: usize = 64;

/// How long one pass over all blocks takes that looks for those that have rested.
const PASS_NS: Nanos = 4_000_000_000;

/// Events that wait for the worker at most: a round begins and ends fewer blocks than flows.
const EVENTS_MAX: usize = 1024;

/// A pod's ports on an egress address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBlock {
    /// The pod.
    pub pod: IpAddr,
    /// The egress address.
    pub egress: IpAddr,
    /// The first port of it.
    pub first: u16,
    /// The last one.
    pub last: u16,
    /// Since when the pod has it; after a restart, since its oldest flow that lives.
    pub since_ns: Nanos,
    /// How many flows live in it.
    pub flows: u32,
}

/// A pod has a block, or has it no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEvent {
    /// When, by the clock that the engine is given.
    pub at: Nanos,
    /// Whether the pod has it from now on; else it is anybody's.
    pub is_begin: bool,
    /// The block.
    pub block: PortBlock,
}

/// A block, found by its first port.
#[derive(Clone, Copy, Debug)]
struct Block<F: Wire> {
    egress: F::Address,
    first: u16,
    pod: F::Address,
    since: Nanos,
    flows: u32,
    /// When its last flow ended; without meaning while one lives.
    idle_since: u32,
}

/// The blocks of a pod on an egress address.
#[derive(Clone, Copy, Debug)]
struct Holder<F: Wire> {
    pod: F::Address,
    egress: F::Address,
    blocks: [SlotIndex; BLOCKS_PER_POD_MAX as usize],
    held: u8,
    /// The one in which a port was found last: the next one is looked for there first.
    latest: u8,
}

/// The keys' protocol: no packet has it.
const NO_PROTOCOL: u8 = 255;

impl<F: Wire> Slot for Block<F> {
    type Family = F;

    const EMPTY: Self = Self {
        egress: F::UNSPECIFIED,
        first: 0,
        pod: F::UNSPECIFIED,
        since: 0,
        flows: 0,
        idle_since: 0,
    };

    fn key(&self) -> Key<F> {
        block_key::<F>(self.egress, self.first).key()
    }
}

impl<F: Wire> Slot for Holder<F> {
    type Family = F;

    const EMPTY: Self = Self {
        pod: F::UNSPECIFIED,
        egress: F::UNSPECIFIED,
        blocks: [SlotIndex::FIRST; BLOCKS_PER_POD_MAX as usize],
        held: 0,
        latest: 0,
    };

    fn key(&self) -> Key<F> {
        holder_key::<F>(self.pod, self.egress).key()
    }
}

fn block_key<F: Wire>(egress: F::Address, first: u16) -> Tuple<F::Address> {
    let (destination, destination_port) = (egress, first);
    Tuple { destination, destination_port, protocol: NO_PROTOCOL, ..Tuple::NONE }
}

fn holder_key<F: Wire>(pod: F::Address, egress: F::Address) -> Tuple<F::Address> {
    Tuple { source: pod, destination: egress, protocol: NO_PROTOCOL, ..Tuple::NONE }
}

impl<F: Wire> Holder<F> {
    /// The places of its blocks, the latest first.
    fn places(&self) -> impl Iterator<Item = (u8, SlotIndex)> + use<F> {
        let Self { blocks, held, latest, .. } = *self;
        (0..held).filter_map(move |step| {
            let at = (latest + step) % held;
            blocks.get(usize::from(at)).map(|block| (at, *block))
        })
    }
}

/// A pod that has found no port towards a remote, and no block on the egress address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exhausted<F: Wire> {
    pod: F::Address,
    /// Its reply tuple without the port.
    remote: Tuple<F::Address>,
    range: (u16, u16),
}

/// The blocks of one worker. Everything is allocated by [`Blocks::new`].
#[derive(Debug)]
pub(super) struct Blocks<F: Wire> {
    run: Run,
    per_pod: u8,
    by_port: Table<Block<F>>,
    by_pod: Table<Holder<F>>,
    hasher: Hasher,
    live: u32,
    max: u32,
    full: ArrayVec<(F::Address, (u16, u16)), FULL_MAX>,
    exhausted: [Option<Exhausted<F>>; EXHAUSTED_PLACES],
    pace: Pace,
    events: Vec<BlockEvent>,
    /// How many events it takes; none when nobody wants to know.
    room: usize,
    lost: u64,
}

impl<F: Wire> Blocks<F> {
    /// For so many flows at most; a pod gets `per_pod` blocks, 1 to [`BLOCKS_PER_POD_MAX`].
    pub(super) fn new(run: Run, per_pod: u8, flows_max: u32, hasher: Hasher, events: bool) -> Self {
        let max = flows_max.min(BLOCKS_MAX);
        let room = if events { EVENTS_MAX } else { 0 };
        Self {
            run,
            per_pod: per_pod.clamp(1, BLOCKS_PER_POD_MAX),
            by_port: Table::new(max),
            by_pod: Table::new(max),
            hasher,
            live: 0,
            max,
            full: ArrayVec::new(),
            exhausted: [None; EXHAUSTED_PLACES],
            pace: Pace::new(PASS_NS),
            events: Vec::with_capacity(room),
            room,
            lost: 0,
        }
    }

    /// How many there are.
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// Chooses a free port in a block of the pod; if there is none, in a new block.
    #[inline(never)]
    pub(super) fn lease(
        &mut self,
        random: &mut Random,
        classes: &[u8],
        egress: &EgressAddress<F>,
        wish: &Wish<F>,
        use_of: &mut dyn FnMut(&Tuple<F::Address>) -> Use,
    ) -> Result<u16, DropReason> {
        let exhausted = exhausted(egress, wish);
        let memo = self.memo(&exhausted);
        if self.exhausted.get(memo) == Some(&Some(exhausted)) {
            return Err(DropReason::PortsExhausted);
        }
        let mut may_be =
            |port| use_of(&Tuple { destination_port: port, ..wish.reply }) == Use::Free;
        let holder = self.find_holder(wish.pod, egress.address);
        if let Some(holder) = holder {
            for (at, block) in self.by_pod[holder].places() {
                let first = self.by_port[block].first;
                if let Some(port) = self.port_in(first, random, egress, &mut may_be) {
                    self.by_pod[holder].latest = at;
                    return Ok(port);
                }
            }
        }
        let first = self.acquire(random, classes, egress, wish);
        let port = first.and_then(|first| self.port_in(first, random, egress, &mut may_be));
        if port.is_none()
            && let Some(place) = self.exhausted.get_mut(memo)
        {
            *place = Some(exhausted);
        }
        port.ok_or(DropReason::PortsExhausted)
    }

    /// Whether [`Blocks::lease`] would find a port; nothing is changed or remembered. `is_free` says it of
    /// a reply tuple.
    #[inline(never)]
    pub(super) fn forecast(
        &self,
        classes: &[u8],
        egress: &EgressAddress<F>,
        wish: &Wish<F>,
        is_free: &dyn Fn(&Tuple<F::Address>) -> bool,
    ) -> bool {
        let range = egress.port_first..=egress.port_last;
        let may_be = |port| is_free(&Tuple { destination_port: port, ..wish.reply });
        let holder = self.find_holder(wish.pod, egress.address).map(|at| &self.by_pod[at]);
        let mut places = holder.into_iter().flat_map(Holder::places);
        let in_own = places.any(|(_, block)| {
            let mut ports = self.run.ports(self.by_port[block].first);
            ports.any(|port| range.contains(&port) && may_be(port))
        });
        let has_room = holder.is_none_or(|holder| holder.held < self.per_pod);
        in_own || has_room && self.vacant(0, classes, egress).is_some()
    }

    /// A flow has opened that leaves from this port.
    #[inline(never)]
    pub(super) fn opened(&mut self, egress: F::Address, port: u16) {
        if let Some(block) = self.find(egress, port) {
            self.by_port[block].flows += 1;
        }
    }

    /// A flow with this reply tuple has ended.
    #[inline(never)]
    pub(super) fn ended(&mut self, reply: &Tuple<F::Address>, pod: F::Address, now: Nanos) {
        self.left(reply.destination, reply.destination_port, now);
        let remote = Tuple { destination_port: 0, ..*reply };
        let is_of = |it: &Exhausted<F>| (it.pod, it.remote) == (pod, remote);
        let memo = self.place_of(pod, &remote);
        if let Some(place) =
            self.exhausted.get_mut(memo).filter(|it| it.is_some_and(|it| is_of(&it)))
        {
            *place = None;
        }
    }

    /// A flow has left the block of its port.
    pub(super) fn left(&mut self, egress: F::Address, port: u16, now: Nanos) {
        let Some(block) = self.find(egress, port) else { return };
        let block = &mut self.by_port[block];
        block.flows = block.flows.saturating_sub(1);
        if block.flows == 0 {
            block.idle_since = tick(now);
            // It may be anybody's next.
            self.changed(egress);
        }
    }

    /// A flow of an earlier engine wants to go on with its port.
    #[inline(never)]
    pub(super) fn restored(
        &mut self,
        (egress, port): (F::Address, u16),
        pod: F::Address,
        since: Nanos,
    ) -> Result<(), NotRestored> {
        if port == 0 {
            return Ok(());
        }
        let found = self.find(egress, port);
        let block = found.or_else(|| self.insert(egress, self.run.first(port), pod, since));
        let block = block.ok_or(NotRestored::PortBlock)?;
        let block = &mut self.by_port[block];
        if block.pod != pod {
            return Err(NotRestored::PortBlock);
        }
        block.flows += 1;
        block.since = block.since.min(since);
        Ok(())
    }

    /// Ends some blocks that have rested. A bounded amount of work.
    #[inline(never)]
    pub(super) fn expire(&mut self, now: Nanos) {
        let groups = self.by_port.groups();
        for _ in 0..self.pace.due(now, groups) {
            for at in self.by_port.entries(self.pace.step(groups)) {
                let block = &self.by_port[at];
                if block.flows == 0 && tick(now).wrapping_sub(block.idle_since) >= REST {
                    self.release(at, now);
                }
            }
        }
    }

    /// Appends a page of blocks to `out`, from `cursor` (at first 0) on; as pages of flows are.
    pub(super) fn page(&self, cursor: u32, limit: usize, out: &mut Vec<PortBlock>) -> Option<u32> {
        let wanted = out.len().saturating_add(limit);
        let first = usize::try_from(cursor).unwrap_or(usize::MAX);
        for group in first..self.by_port.groups() {
            if out.len() >= wanted {
                return u32::try_from(group).ok();
            }
            let entries = self.by_port.entries(group);
            out.extend(entries.map(|at| self.describe(&self.by_port[at])));
        }
        None
    }

    /// Gives all events to `take`; and how many were lost since the last call.
    pub(super) fn take(&mut self, take: impl FnMut(BlockEvent)) -> u64 {
        self.events.drain(..).for_each(take);
        std::mem::take(&mut self.lost)
    }

    /// A free port of a block: each is looked at once, from a random one on, with a random stride.
    fn port_in(
        &self,
        first: u16,
        random: &mut Random,
        egress: &EgressAddress<F>,
        may_be: &mut dyn FnMut(u16) -> bool,
    ) -> Option<u16> {
        let (start, stride) = (u16::from(random.byte()), u16::from(random.byte() | 1));
        let range = egress.port_first..=egress.port_last;
        let ports = self.run.ports(0);
        let mut at = ports.map(|step| self.run.at(first, start.wrapping_add(step * stride)));
        at.find(|port| range.contains(port) && may_be(*port))
    }

    /// A new block for the pod: its first port.
    fn acquire(
        &mut self,
        random: &mut Random,
        classes: &[u8],
        egress: &EgressAddress<F>,
        wish: &Wish<F>,
    ) -> Option<u16> {
        let holder = self.find_holder(wish.pod, egress.address);
        if holder.is_some_and(|holder| self.by_pod[holder].held >= self.per_pod) {
            return None;
        }
        let key = (egress.address, (egress.port_first, egress.port_last));
        if self.full.contains(&key) {
            return None;
        }
        let Some((first, idle)) = self.vacant(random.next(), classes, egress) else {
            if self.full.is_full() {
                self.full.clear();
            }
            self.full.push(key);
            return None;
        };
        if let Some(idle) = idle {
            self.release(idle, wish.now);
        }
        let block = self.insert(egress.address, first, wish.pod, wish.now)?;
        let block = self.by_port[block];
        self.tell(&block, wish.now, true);
        Some(first)
    }

    /// A block of this worker that no pod has, from a random one on, by its first port; else the one that has
    /// rested for longest, and where it is.
    fn vacant(
        &self,
        random: u64,
        classes: &[u8],
        egress: &EgressAddress<F>,
    ) -> Option<(u16, Option<SlotIndex>)> {
        let [start, number, ..] = random.to_le_bytes();
        let runs = self.run.in_class();
        let mut resting: Option<(u32, u16, SlotIndex)> = None;
        for step in 0..classes.len() {
            let class = classes.get((usize::from(start) + step) % classes.len())?;
            for step in 0..runs {
                let first = self.run.of_class(*class, (u16::from(number) + step) % runs);
                if first < egress.port_first || self.run.last(first) > egress.port_last {
                    continue;
                }
                let Some(at) = self.find(egress.address, first) else {
                    if self.live < self.max {
                        return Some((first, None));
                    }
                    continue;
                };
                let Block { flows, idle_since, .. } = self.by_port[at];
                let is_longer =
                    |(since, ..): (u32, _, _)| idle_since.wrapping_sub(since) > u32::MAX / 2;
                if flows == 0 && resting.is_none_or(is_longer) {
                    resting = Some((idle_since, first, at));
                }
            }
        }
        resting.map(|(_, first, at)| (first, Some(at)))
    }

    /// Gives a block that nobody has to a pod; `None` when it has as many as it may, or there is no room.
    fn insert(
        &mut self,
        egress: F::Address,
        first: u16,
        pod: F::Address,
        since: Nanos,
    ) -> Option<SlotIndex> {
        let holder = self.find_holder(pod, egress);
        let has_room = holder.is_none_or(|holder| self.by_pod[holder].held < self.per_pod);
        if !has_room || self.live >= self.max {
            return None;
        }
        let block = Block { egress, first, pod, since, flows: 0, idle_since: tick(since) };
        let block = self.by_port.insert(self.hasher.key(&block.key()), block)?;
        let holder = match holder {
            Some(holder) => holder,
            None => {
                let holder = Holder { pod, egress, ..Holder::EMPTY };
                self.by_pod.insert(self.hasher.key(&holder.key()), holder)?
            }
        };
        let holder = &mut self.by_pod[holder];
        if let Some(place) = holder.blocks.get_mut(usize::from(holder.held)) {
            *place = block;
            holder.latest = holder.held;
            holder.held += 1;
        }
        self.live += 1;
        Some(block)
    }

    /// A block without flows is nobody's.
    fn release(&mut self, at: SlotIndex, now: Nanos) {
        let block = self.by_port[at];
        if let Some(holder) = self.find_holder(block.pod, block.egress) {
            let of_pod = &mut self.by_pod[holder];
            let held = usize::from(of_pod.held).saturating_sub(1);
            if let Some(place) = of_pod.blocks.iter().position(|block| *block == at) {
                of_pod.blocks.swap(place, held);
            }
            of_pod.held = of_pod.held.saturating_sub(1);
            of_pod.latest = 0;
            if of_pod.held == 0 {
                let hash = self.hasher.key(&of_pod.key());
                self.by_pod.remove(hash, holder);
            }
        }
        self.by_port.remove(self.hasher.key(&block.key()), at);
        let had_no_room = self.live >= self.max;
        self.live -= 1;
        self.tell(&block, now, false);
        self.changed(block.egress);
        if had_no_room {
            // Addresses may have had no block for that alone.
            self.full.clear();
            self.exhausted.fill(None);
        }
    }

    /// What was known of an egress address's last blocks does not hold any more.
    fn changed(&mut self, egress: F::Address) {
        self.full.retain(|(address, _)| *address != egress);
        for place in &mut self.exhausted {
            place.take_if(|it| it.remote.destination == egress);
        }
    }

    fn tell(&mut self, block: &Block<F>, at: Nanos, is_begin: bool) {
        if self.events.len() < self.room {
            self.events.push(BlockEvent { at, is_begin, block: self.describe(block) });
        } else if self.room > 0 {
            self.lost += 1;
        }
    }

    fn describe(&self, block: &Block<F>) -> PortBlock {
        let Block { egress, first, pod, since, flows, .. } = *block;
        let (pod, egress, last) = (pod.into(), egress.into(), self.run.last(first));
        PortBlock { pod, egress, first, last, since_ns: since, flows }
    }

    fn find(&self, egress: F::Address, port: u16) -> Option<SlotIndex> {
        // Port 0 is that of protocols without ports.
        let key = block_key::<F>(egress, self.run.first(port));
        if port == 0 { None } else { self.by_port.find(&key, self.hasher.tuple(&key)) }
    }

    fn find_holder(&self, pod: F::Address, egress: F::Address) -> Option<SlotIndex> {
        let key = holder_key::<F>(pod, egress);
        self.by_pod.find(&key, self.hasher.tuple(&key))
    }

    fn memo(&self, exhausted: &Exhausted<F>) -> usize {
        self.place_of(exhausted.pod, &exhausted.remote)
    }

    /// The only place where a pod and remote are remembered.
    fn place_of(&self, pod: F::Address, remote: &Tuple<F::Address>) -> usize {
        let hash = self.hasher.address_with(self.hasher.tuple(remote), pod);
        let [low, ..] = (hash >> 32).to_le_bytes();
        usize::from(low) % EXHAUSTED_PLACES
    }
}

fn exhausted<F: Wire>(egress: &EgressAddress<F>, wish: &Wish<F>) -> Exhausted<F> {
    Exhausted {
        pod: wish.pod,
        remote: Tuple { destination_port: 0, ..wish.reply },
        range: (egress.port_first, egress.port_last),
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
