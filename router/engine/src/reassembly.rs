//! Virtual reassembly: which fragments of a packet have come, and the ports that its first one told.
//! Nothing is put together, and no fragment waits for another but for the first.
//!
//! Fragments may come in any order. One that overlaps another is refused, so that whoever puts them
//! together, and whoever looks on, sees the same bytes (RFC 1858, RFC 3128).

use std::iter;
use std::ops::Range;

use arrayvec::ArrayVec;

use crate::DropReason;
use crate::engine::Nanos;
use crate::flow::{Hasher, Key, Pace, Slot, SlotIndex, Table, Tuple};
use crate::packet::{Direction, Fragment, Packet, Transport, Wire};

/// How long the fragments of a packet may take to come, in nanoseconds: 2 s. Hosts wait for longer
/// (RFC 1122, section 3.3.2), but who sends them sends them at once.
pub const DATAGRAM_NS_MAX: Nanos = 2_000_000_000;

/// Packets of which some fragments have come, in each direction: the outside takes no place from
/// pods.
const DATAGRAMS_MAX: u32 = 4096;

/// Fragments that wait for the first of their packet, in each direction.
const WAITING_MAX: u32 = 64;

/// Parts of one packet with gaps between them. A packet of 65,535 bytes in fragments of 1,500 has
/// 45, so 23 at most, whatever their order.
const PARTS_MAX: usize = 24;

/// How long a pass over all packets takes.
const PASS_NS: Nanos = 250_000_000;

/// What is known of a packet as soon as its first fragment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// The transport protocol.
    pub(crate) protocol: u8,
    /// With which its fragments leave.
    pub(crate) identification: u32,
}

/// What is to become of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Its packet's first one has told this.
    Known(Datagram),
    /// That one has not come yet.
    Waits {
        /// When nobody waits for it any more.
        until: Nanos,
    },
}

/// One packet of which fragments have come.
#[derive(Clone, Copy, Debug)]
struct Entry<F: Wire> {
    key: Key<F>,
    direction: Direction,
    since: Nanos,
    /// With which its fragments leave.
    identification: u32,
    told: Option<Told>,
    /// Where the packet ends, in units of 8 bytes, when the last fragment has come.
    end: Option<u16>,
    /// How many of its fragments wait for the first.
    waiting: u8,
    parts: Parts,
}

/// What the first fragment tells: the ports, and the transport protocol.
#[derive(Clone, Copy, Debug)]
struct Told {
    ports: (u16, u16),
    protocol: u8,
}

/// The parts of a packet that have come: in order, with gaps between them, in units of 8 bytes.
#[derive(Clone, Copy, Debug)]
struct Parts {
    count: u8,
    bounds: [(u16, u16); PARTS_MAX],
}

impl<F: Wire> Slot for Entry<F> {
    type Family = F;

    const EMPTY: Self = Self {
        key: Key::NONE,
        direction: Direction::Forward,
        since: 0,
        identification: 0,
        told: None,
        end: None,
        waiting: 0,
        parts: Parts { count: 0, bounds: [(0, 0); PARTS_MAX] },
    };

    fn key(&self) -> Key<F> {
        self.key
    }
}

impl Parts {
    /// Adds a fragment.
    fn add(&mut self, fragment: &Fragment) -> Result<(), DropReason> {
        let mut parts: ArrayVec<Range<u16>, { PARTS_MAX + 1 }> = ArrayVec::new();
        let known = self.bounds.iter().take(self.count.into()).map(|(start, end)| *start..*end);
        let (before, after): (ArrayVec<_, PARTS_MAX>, ArrayVec<_, PARTS_MAX>) =
            known.partition(|part| part.start < fragment.start);
        let new = fragment.start..fragment.end;
        for part in before.into_iter().chain(iter::once(new)).chain(after) {
            match parts.last_mut() {
                Some(last) if part.start < last.end => return Err(DropReason::FragmentOverlap),
                Some(last) if part.start == last.end => last.end = part.end,
                _ => parts.push(part),
            }
        }
        if parts.len() > PARTS_MAX {
            return Err(DropReason::FragmentsFull);
        }
        self.count = u8::try_from(parts.len()).unwrap_or_default();
        for (bounds, part) in self.bounds.iter_mut().zip(parts) {
            *bounds = (part.start, part.end);
        }
        Ok(())
    }

    /// How far the last part reaches.
    fn end(&self) -> u16 {
        let last = usize::from(self.count).checked_sub(1);
        last.and_then(|last| self.bounds.get(last)).map_or(0, |(_, end)| *end)
    }

    /// Whether everything up to `end` is there.
    fn is_whole(&self, end: u16) -> bool {
        self.count == 1 && self.bounds.first() == Some(&(0, end))
    }
}

impl<F: Wire> Entry<F> {
    /// Takes note of a fragment.
    fn add(&mut self, packet: &Packet<F>, fragment: &Fragment) -> Result<(), DropReason> {
        let end = self.end.or(fragment.is_last.then_some(fragment.end));
        let last = self.parts.end().max(fragment.end);
        if end.is_some_and(|end| last > end || (fragment.is_last && fragment.end != end)) {
            return Err(DropReason::FragmentOverlap);
        }
        self.parts.add(fragment)?;
        self.end = end;
        if packet.transport != Transport::Later {
            self.told = Some(Told::by(packet));
        }
        Ok(())
    }

    fn datagram(&self) -> Option<Datagram> {
        let Told { ports: (source_port, destination_port), protocol } = self.told?;
        let identification = self.identification;
        Some(Datagram { source_port, destination_port, protocol, identification })
    }

    fn waits(&self) -> Arrival {
        Arrival::Waits { until: self.since.saturating_add(DATAGRAM_NS_MAX) }
    }

    /// Whether nothing more can come of it.
    fn is_done(&self) -> bool {
        self.waiting == 0 && self.end.is_some_and(|end| self.parts.is_whole(end))
    }

    fn is_over(&self, now: Nanos) -> bool {
        now.saturating_sub(self.since) >= DATAGRAM_NS_MAX
    }
}

impl Told {
    fn by<F: Wire>(packet: &Packet<F>) -> Self {
        let Tuple { source_port, destination_port, protocol, .. } = packet.tuple;
        Self { ports: (source_port, destination_port), protocol }
    }
}

/// How much there is in one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    datagrams: u32,
    waiting: u32,
}

/// All packets of which some fragments have come. One worker has them: the owner of port 0.
#[derive(Debug)]
pub(crate) struct Reassembly<F: Wire> {
    entries: Table<Entry<F>>,
    hasher: Hasher,
    /// Of pods, and of the outside.
    loads: [Load; 2],
    pace: Pace,
    /// Whether a first fragment came for which others wait.
    learned: bool,
}

impl<F: Wire> Reassembly<F> {
    /// Room for all, if fragments come to this worker.
    pub(crate) fn new(comes_here: bool, hasher: Hasher) -> Self {
        let room = if comes_here { 2 * DATAGRAMS_MAX } else { 1 };
        let (loads, pace) = (Default::default(), Pace::new(PASS_NS));
        Self { entries: Table::new(room), hasher, loads, pace, learned: false }
    }

    /// Takes in a fragment that has just come. `identification` is that of the
    /// packet, if it is new, on its way on.
    pub(crate) fn arrive(
        &mut self,
        packet: &Packet<F>,
        fragment: &Fragment,
        now: Nanos,
        identification: impl FnOnce() -> u32,
    ) -> Result<Arrival, DropReason> {
        let index = match self.find(packet, fragment, now) {
            Some(index) => index,
            None => self.insert(packet, fragment, now, identification())?,
        };
        let entry = &mut self.entries[index];
        let was_known = entry.told.is_some();
        entry.add(packet, fragment)?;
        let Some(datagram) = entry.datagram() else {
            let load = load(&mut self.loads, packet.direction);
            if load.waiting >= WAITING_MAX {
                return Err(DropReason::FragmentsFull);
            }
            (load.waiting, entry.waiting) = (load.waiting + 1, entry.waiting.saturating_add(1));
            return Ok(entry.waits());
        };
        self.learned |= !was_known && entry.waiting > 0;
        if entry.is_done() {
            self.remove(index);
        }
        Ok(Arrival::Known(datagram))
    }

    /// The same for a fragment that has waited.
    pub(crate) fn again(
        &mut self,
        packet: &Packet<F>,
        fragment: &Fragment,
        now: Nanos,
    ) -> Result<Arrival, DropReason> {
        let found = self.find(packet, fragment, now);
        let index = found.ok_or(DropReason::FragmentTimeout)?;
        let entry = &mut self.entries[index];
        let Some(datagram) = entry.datagram() else { return Ok(entry.waits()) };
        let load = load(&mut self.loads, packet.direction);
        load.waiting = load.waiting.saturating_sub(1);
        entry.waiting = entry.waiting.saturating_sub(1);
        if entry.is_done() {
            self.remove(index);
        }
        Ok(Arrival::Known(datagram))
    }

    /// Whether fragments that wait should be tried again: said once.
    pub(crate) fn take_learned(&mut self) -> bool {
        std::mem::take(&mut self.learned)
    }

    /// Forgets packets whose time is over; some of them, if there is much to do.
    pub(crate) fn expire(&mut self, now: Nanos) {
        if self.loads.iter().all(|load| load.datagrams == 0) {
            return;
        }
        let groups = self.entries.groups();
        for _ in 0..self.pace.due(now, groups) {
            for index in self.entries.entries(self.pace.step(groups)) {
                if self.entries[index].is_over(now) {
                    self.remove(index);
                }
            }
        }
    }

    fn find(&mut self, packet: &Packet<F>, fragment: &Fragment, now: Nanos) -> Option<SlotIndex> {
        let key = key(packet, fragment);
        let index = self.entries.find_key(&key, self.hasher.key(&key))?;
        if self.entries[index].is_over(now) {
            self.remove(index);
            return None;
        }
        Some(index)
    }

    fn insert(
        &mut self,
        packet: &Packet<F>,
        fragment: &Fragment,
        now: Nanos,
        identification: u32,
    ) -> Result<SlotIndex, DropReason> {
        let load = load(&mut self.loads, packet.direction);
        if load.datagrams >= DATAGRAMS_MAX {
            return Err(DropReason::FragmentsFull);
        }
        let key = key(packet, fragment);
        // What has no ports need not wait for them.
        let told = packet.has_no_ports().then(|| Told::by(packet));
        let direction = packet.direction;
        let entry = Entry { key, direction, since: now, identification, told, ..Entry::EMPTY };
        let index = self.entries.insert(self.hasher.key(&key), entry);
        let index = index.ok_or(DropReason::FragmentsFull)?;
        load.datagrams += 1;
        Ok(index)
    }

    fn remove(&mut self, index: SlotIndex) {
        let Entry { key, direction, waiting, .. } = self.entries[index];
        let load = load(&mut self.loads, direction);
        load.datagrams = load.datagrams.saturating_sub(1);
        load.waiting = load.waiting.saturating_sub(waiting.into());
        self.entries.remove(self.hasher.key(&key), index);
    }
}

/// What the fragments of a packet have in common (RFC 791; RFC 8200, section 4.5), and their direction.
fn key<F: Wire>(packet: &Packet<F>, fragment: &Fragment) -> Key<F> {
    let protocol = F::datagram_protocol(packet.tuple.protocol);
    let addresses = F::pair(packet.tuple.source, packet.tuple.destination);
    let is_forward = packet.direction == Direction::Forward;
    Key::of_datagram(addresses, fragment.identification, protocol, is_forward)
}

fn load(loads: &mut [Load; 2], direction: Direction) -> &mut Load {
    let [of_pods, of_outside] = loads;
    match direction {
        Direction::Forward => of_pods,
        Direction::Reply => of_outside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(start: u16, end: u16) -> Fragment {
        Fragment { identification: 1, start, end, is_last: false }
    }

    fn parts() -> Parts {
        Entry::<crate::V4>::EMPTY.parts
    }

    #[test]
    fn every_order_of_parts_makes_one() {
        let places = [0_u16, 3, 4, 9];
        // Every order of four, by the factorial number system.
        for order in 0..24 {
            let (mut left, mut number) = (places.to_vec(), order);
            let mut parts = parts();
            for remaining in (1..=4).rev() {
                let start = left.remove(number % remaining);
                number /= remaining;
                let end = places.iter().copied().find(|next| *next > start).unwrap_or(12);
                parts.add(&fragment(start, end)).unwrap();
            }
            assert!(parts.is_whole(12), "order {order}: {parts:?}");
        }
    }

    #[test]
    fn what_overlaps_is_refused_and_changes_nothing() {
        let mut parts = parts();
        parts.add(&fragment(4, 8)).unwrap();
        parts.add(&fragment(12, 16)).unwrap();
        for (start, end) in [(4, 8), (5, 6), (0, 5), (7, 9), (0, 20), (8, 13), (15, 17)] {
            let refused = parts.add(&fragment(start, end));
            assert_eq!(refused, Err(DropReason::FragmentOverlap), "{start}..{end}");
        }
        for (start, end) in [(8, 12), (0, 4), (16, 17)] {
            parts.add(&fragment(start, end)).unwrap();
        }
        assert!(parts.is_whole(17));
    }

    #[test]
    fn too_many_gaps_are_refused_and_can_still_be_closed() {
        let mut parts = parts();
        let count = u16::try_from(PARTS_MAX).unwrap();
        for number in 0..count {
            parts.add(&fragment(2 * number, 2 * number + 1)).unwrap();
        }
        assert_eq!(parts.add(&fragment(900, 901)), Err(DropReason::FragmentsFull));
        for number in 0..count - 1 {
            parts.add(&fragment(2 * number + 1, 2 * number + 2)).unwrap();
        }
        assert!(parts.is_whole(2 * count - 1));
    }
}
