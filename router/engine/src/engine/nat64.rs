//! NAT64 in front of the IPv4 translator: a pod's frame of IPv6 to an IPv4 destination is written as one
//! of IPv4 beside it, goes through as what it is then, and is copied back when it leaves. So a frame that
//! does not leave now is untouched, and comes again as it was. Replies come as IPv4, and become IPv6
//! when they are sent ([`Fragments`](crate::Fragments)).

use super::answer::Owed;
use super::translator::{Glances, Translator};
use super::{BURST_MAX, Engine, Halt, Nanos, Verdict};
use crate::family::{V4, V6};
use crate::nat64::{Addresses, AsIpv4, write_ipv4};
use crate::packet::{Packet, Usual};
use crate::steer::{FAMILY_6, KIND_AND_FAMILY_MASK, KIND_TUNNEL, TUNNEL_IP_OFFSET};
use crate::tables::Tables;
use crate::{DropReason, Ticket};

/// Bytes of room: no frame is larger.
const ROOM: usize = 1 << 16;

/// Where the destination is in a tunnel frame of IPv6.
const DESTINATION: usize = TUNNEL_IP_OFFSET + 24;

/// Room for one frame, as the IPv4 translator has it.
#[derive(Debug)]
pub(super) struct Room {
    frame: Box<[u8]>,
    glances: Box<Glances<V4>>,
}

/// How a frame comes here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrival {
    Received,
    Held(Ticket),
    Handed(Ticket),
}

/// Whether a frame is a pod's of IPv6 to an IPv4 destination.
pub(super) fn takes(tables: &Tables, frame: &[u8]) -> bool {
    tables.nat64.as_ref().is_some_and(|addresses| is_to_ipv4(addresses, frame))
}

fn is_to_ipv4(addresses: &Addresses, frame: &[u8]) -> bool {
    let kind = frame.first().map(|first| first & KIND_AND_FAMILY_MASK);
    let destination = frame.get(DESTINATION..).and_then(|rest| rest.first_chunk::<16>());
    kind == Some(KIND_TUNNEL | FAMILY_6)
        && destination.is_some_and(|octets| addresses.is_outside((*octets).into()))
}

impl Room {
    pub(super) fn new() -> Self {
        let frame = vec![0; ROOM].into_boxed_slice();
        Self { frame, glances: Box::new([Usual::NONE; BURST_MAX]) }
    }

    /// Writes the frame as one of IPv4.
    fn write(&mut self, addresses: &Addresses, frame: &[u8]) -> Result<AsIpv4, DropReason> {
        let (steer, packet) =
            frame.split_first_chunk::<TUNNEL_IP_OFFSET>().ok_or(DropReason::Truncated)?;
        let (head, room) = self
            .frame
            .split_first_chunk_mut::<TUNNEL_IP_OFFSET>()
            .ok_or(DropReason::BadIpLength)?;
        let written = write_ipv4(addresses, packet, room)?;
        *head = *steer;
        head[0] &= !FAMILY_6;
        // It has to find room in the frame again; and IPv4 is shorter.
        let fits = TUNNEL_IP_OFFSET + usize::from(written.length) <= frame.len();
        fits.then_some(written).ok_or(DropReason::BadIpLength)
    }

    /// A frame that [`takes`] tells of, as the IPv4 translator has it; `None` when it cannot become IPv4.
    pub(super) fn as_ipv4(&mut self, tables: &Tables, frame: &[u8]) -> Option<&[u8]> {
        let written = self.write(tables.nat64.as_ref()?, frame).ok()?;
        self.frame.get(..TUNNEL_IP_OFFSET + usize::from(written.length))
    }

    /// Processes what the IPv4 translator has left of a burst, as far as it goes to IPv4 destinations;
    /// the rest is still left.
    #[inline(never)]
    pub(super) fn take_each(
        &mut self,
        v4: &mut Translator<V4>,
        now: Nanos,
        (tables, addresses): (&Tables, &Addresses),
        glances: &mut Glances<V4>,
        frames: &mut [&mut [u8]],
        verdicts: &mut [Verdict],
    ) {
        for ((frame, verdict), glance) in frames.iter_mut().zip(verdicts).zip(glances) {
            if glance.is_left() && is_to_ipv4(addresses, frame) {
                *verdict = self.process(v4, now, tables, frame, Arrival::Received);
                glance.set_left(false);
            }
        }
    }

    /// Processes a frame that [`takes`] tells of.
    pub(super) fn process(
        &mut self,
        v4: &mut Translator<V4>,
        now: Nanos,
        tables: &Tables,
        frame: &mut [u8],
        arrival: Arrival,
    ) -> Verdict {
        let addresses = tables.nat64.as_ref().ok_or(DropReason::NotProgrammed);
        let written = addresses.and_then(|addresses| self.write(addresses, frame));
        let AsIpv4 { was_atomic, length } = match written {
            Ok(written) => written,
            Err(reason) => return v4.refuse(arrival, reason),
        };
        let Self { frame: room, glances } = self;
        let ipv4 = room.get_mut(..TUNNEL_IP_OFFSET + usize::from(length)).unwrap_or_default();
        let verdict = match arrival {
            Arrival::Received => match was_atomic.then(|| v4.elsewhere(ipv4)).flatten() {
                Some(worker) => v4.hand_to(worker),
                None => v4.process_one(now, tables, glances, ipv4),
            },
            Arrival::Held(ticket) => v4.process_held(now, &tables.v4, ipv4, ticket),
            Arrival::Handed(ticket) => v4.process_handed(now, &tables.v4, ipv4, ticket),
        };
        if let Verdict::Transmit { .. } | Verdict::Fragment { .. } = verdict
            && let Some(place) = frame.get_mut(..ipv4.len())
        {
            place.copy_from_slice(ipv4);
        }
        verdict
    }
}

impl Engine {
    /// [`Engine::owed_error`] to the pod of such a frame. The gateway is known to it as an IPv4
    /// destination.
    pub(super) fn owed_error_nat64<'a>(
        &mut self,
        now: Nanos,
        tables: &'a Tables,
        reason: DropReason,
        frame: &[u8],
    ) -> Option<Owed<'a, V6>> {
        let Self { v4, v6, room, .. } = self;
        let addresses = tables.nat64.as_ref()?;
        let ipv4 = room.as_ipv4(tables, frame)?;
        v4.owed_error(now, &tables.v4, reason, ipv4)?.to_ipv6(addresses, frame, &v6.hasher)
    }
}

impl Translator<V4> {
    /// Drops a frame that did not become IPv4.
    fn refuse(&mut self, arrival: Arrival, reason: DropReason) -> Verdict {
        match arrival {
            Arrival::Received => self.counters.received += 1,
            Arrival::Held(_) => self.counters.held = self.counters.held.wrapping_sub(1),
            Arrival::Handed(_) => self.counters.taken_over += 1,
        }
        self.drop(reason)
    }

    /// Processes one frame, as received.
    fn process_one(
        &mut self,
        now: Nanos,
        tables: &Tables,
        glances: &mut Glances<V4>,
        frame: &mut [u8],
    ) -> Verdict {
        let mut verdict = [Verdict::Drop(DropReason::UnknownKind)];
        self.burst::<false>(now, &tables.v4, glances, &mut [frame], &mut verdict);
        let [verdict] = verdict;
        verdict
    }

    /// The worker that a packet's port belongs to, if that is another one.
    fn elsewhere(&self, frame: &[u8]) -> Option<u8> {
        let packet = Packet::<V4>::parse(frame, &self.hasher).ok()?;
        Some(self.owner(packet.owner_port())).filter(|owner| *owner != self.worker)
    }

    /// Hands a received frame to another worker.
    fn hand_to(&mut self, worker: u8) -> Verdict {
        self.counters.received += 1;
        let ticket = Ticket::default();
        self.halt(ticket, Halt::HandOff { worker, ticket })
    }
}
