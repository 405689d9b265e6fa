//! The ICMP errors that the sender of a dropped packet is owed (RFC 792; RFC 1812, section 4.3; RFC
//! 4443): its time to live has ended here, or it may not be fragmented and does not fit.

use super::Nanos;
use super::translator::Translator;
use super::underlay::{self, LATER};
use crate::DropReason;
use crate::encap::{Label, Overlay};
use crate::family::{V4, V6};
use crate::flow::{Hasher, Tuple};
use crate::nat64::{Addresses, icmp_to_ipv6};
use crate::packet::{Direction, Packet, Transport, Wire, tunnel_tos};
use crate::steer::{REPLY_IP_OFFSET, REPLY_IP_OFFSET_6, TUNNEL_IP_OFFSET};
use crate::tables::{Adjacency, DeviceIndex, FamilyTables, Underlay};

/// How many bytes [`OwedError::write`] needs for an answer.
pub const ANSWER_ROOM: usize = REPLY_IP_OFFSET_6 + V6::ERROR_MAX as usize;

const _: () = assert!(V4::ERROR_MAX <= V6::ERROR_MAX);

const ICMP_HEADER: u16 = 8;

/// Internetwork control, as RFC 1812, section 4.3.2.5 wants it.
const TOS: u8 = 0xc0;

/// A frame of our own to send: so many bytes of it, out of this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Out of this device.
    pub device: DeviceIndex,
    /// Its length in bytes.
    pub length: u16,
}

/// The way back to a packet's sender.
#[derive(Clone, Copy, Debug)]
enum Way<'a> {
    /// To a pod.
    Tunnel(&'a Overlay),
    /// To the outside.
    Plain(&'a Adjacency),
}

/// An ICMP error that the sender of a dropped frame is owed.
#[derive(Clone, Copy, Debug)]
pub struct OwedError<'a> {
    pub(super) owed: OfFamily<'a>,
    /// What tunnels go over when not over IPv4.
    pub(super) underlay: Option<&'a Underlay>,
}

/// By ICMP, or by ICMPv6.
#[derive(Clone, Copy, Debug)]
pub(super) enum OfFamily<'a> {
    V4(Owed<'a, V4>),
    V6(Owed<'a, V6>),
}

impl OwedError<'_> {
    /// Writes the whole frame into `out`, which needs [`ANSWER_ROOM`]. `frame` is the dropped one.
    /// `None` when it does not fit.
    pub fn write(&self, frame: &[u8], out: &mut [u8]) -> Option<Answer> {
        let Some(underlay) = self.underlay else { return self.owed.write(frame, out) };
        let frame = underlay::seen(frame);
        if !self.owed.is_to_a_pod() {
            return self.owed.write(frame, out);
        }
        let Answer { device, length } = self.owed.write(frame, out.get_mut(LATER..)?)?;
        Some(Answer { device, length: underlay::encapsulate(underlay, out, length)? })
    }
}

impl OfFamily<'_> {
    fn write(&self, frame: &[u8], out: &mut [u8]) -> Option<Answer> {
        match self {
            Self::V4(owed) => owed.write(frame, out),
            Self::V6(owed) => owed.write(frame, out),
        }
    }

    /// Whether it goes through a tunnel.
    fn is_to_a_pod(&self) -> bool {
        match self {
            Self::V4(owed) => matches!(owed.way, Way::Tunnel(_)),
            Self::V6(owed) => matches!(owed.way, Way::Tunnel(_)),
        }
    }
}

/// The same of one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed<'a, F: Wire> {
    packet: Packet<F>,
    /// The first bytes of its message.
    icmp: [u8; ICMP_HEADER as usize],
    /// From whom it comes.
    source: F::Address,
    way: Way<'a>,
}

impl DropReason {
    /// Whether the sender may be owed an ICMP error: then [`Engine::owed_error`](super::Engine::owed_error)
    /// knows it.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        matches!(self, Self::TtlExpired | Self::ExceedsMtu | Self::ExceedsTunnelMtu)
    }
}

impl<F: Wire> Translator<F> {
    /// [`Engine::owed_error`](super::Engine::owed_error).
    pub(super) fn owed_error<'a>(
        &mut self,
        now: Nanos,
        tables: &'a FamilyTables<F>,
        reason: DropReason,
        frame: &[u8],
    ) -> Option<Owed<'a, F>> {
        let packet = Packet::parse_any_ttl(frame, &self.hasher).ok()?;
        // An error about an error has no end; of a packet's fragments, the first is answered for
        // (RFC 1122, section 3.2.2).
        if !reason.is_answered() || matches!(packet.transport, Transport::Error | Transport::Later)
        {
            return None;
        }
        let is_too_large = reason != DropReason::TtlExpired;
        let icmp = match is_too_large {
            true => F::too_big(self.path_mtu(tables, &packet)?)?,
            false => [F::TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0],
        };
        let (source, way) = match packet.direction {
            Direction::Forward => {
                let overlay = way_to_pod(tables, &packet)?;
                // Last the egress address, the only one of this family that pods know.
                let source = match F::address(overlay.tunnel_address).or(F::NOBODY) {
                    Some(source) => source,
                    None => self.egress_of(tables, &packet)?,
                };
                (source, Way::Tunnel(overlay))
            }
            Direction::Reply => {
                (packet.tuple.destination, Way::Plain(self.way_to_remote(tables, &packet)?))
            }
        };
        let [of_pods, of_outside] = &mut self.error_limits;
        let [time_exceeded, too_large] = match packet.direction {
            Direction::Forward => of_pods,
            Direction::Reply => of_outside,
        };
        let limit = if is_too_large { too_large } else { time_exceeded };
        if !limit.admits(self.hasher.address(packet.tuple.source), now) {
            self.counters.errors_limited += 1;
            return None;
        }
        self.counters.errors_sent += 1;
        Some(Owed { packet, icmp, source, way })
    }

    /// The largest packet that would have got through, in bytes.
    fn path_mtu(&self, tables: &FamilyTables<F>, packet: &Packet<F>) -> Option<u16> {
        if packet.direction == Direction::Reply {
            let flow = self.flows.replies.find(&packet.tuple, packet.hash)?;
            let reply = &self.flows.replies[flow];
            let pod = self.flows.originals[reply.twin].tuple().source;
            let peer = tables.peer(reply.way_back().peer_key, pod).ok()?;
            return tables.overlay_to(peer).ok().map(|overlay| overlay.inner_mtu);
        }
        let egress = self.egress_of(tables, packet)?;
        let next_hop = tables.route(egress, packet.tuple.destination, packet.hash).ok()?;
        tables.adjacency(next_hop).ok().map(|adjacency| adjacency.mtu)
    }

    /// The address that a pod's packet leaves with, or would have left with.
    fn egress_of(&self, tables: &FamilyTables<F>, packet: &Packet<F>) -> Option<F::Address> {
        let Tuple { source, destination, .. } = packet.tuple;
        Some(match self.flows.originals.find(&packet.tuple, packet.hash) {
            Some(flow) => self.flows.originals[flow].egress(),
            None => tables.egress_of(tables.policy(source, destination)?, source)?.address,
        })
    }

    /// To the outside only about packets of flows that live and are still selected: to all others we
    /// are nobody.
    fn way_to_remote<'a>(
        &self,
        tables: &'a FamilyTables<F>,
        packet: &Packet<F>,
    ) -> Option<&'a Adjacency> {
        let flow = self.flows.replies.find(&packet.tuple, packet.hash)?;
        let original = self.flows.originals[self.flows.replies[flow].twin].tuple();
        tables.policy(original.source, original.destination)?;
        let Tuple { source: remote, destination: egress, .. } = packet.tuple;
        tables.egress(egress)?;
        tables.adjacency(tables.route(egress, remote, packet.hash).ok()?).ok()
    }
}

/// To a pod through the tunnel that its packet came from, if its traffic is ours.
fn way_to_pod<'a, F: Wire>(tables: &'a FamilyTables<F>, packet: &Packet<F>) -> Option<&'a Overlay> {
    let pod = packet.tuple.source;
    tables.policy(pod, packet.tuple.destination)?;
    tables.overlay_to(tables.peer(packet.steer.outer_source, pod).ok()?).ok()
}

impl<'a> Owed<'a, V4> {
    /// The same to a pod of IPv6, about the packet in `frame`, which went on as IPv4.
    pub(super) fn to_ipv6(
        self,
        addresses: &Addresses,
        frame: &[u8],
        hasher: &Hasher,
    ) -> Option<Owed<'a, V6>> {
        let packet = Packet::parse_any_ttl(frame, hasher).ok()?;
        let icmp = icmp_to_ipv6(self.icmp, self.packet.length)?;
        Some(Owed { packet, icmp, source: addresses.embedded(self.source), way: self.way })
    }
}

impl<F: Wire> Owed<'_, F> {
    /// To a pod from our tunnel address, or where that is of the other family from nobody's (IPv4) or
    /// the egress address (IPv6); to the outside from the egress address.
    fn write(&self, frame: &[u8], out: &mut [u8]) -> Option<Answer> {
        let Self { packet, icmp, source, way } = self;
        let quote = frame.get(packet.direction.ip_offset()..)?.get(..usize::from(packet.length))?;
        let (ip_offset, mtu) = match way {
            Way::Tunnel(overlay) => (REPLY_IP_OFFSET, overlay.inner_mtu),
            Way::Plain(adjacency) => (TUNNEL_IP_OFFSET, adjacency.mtu),
        };
        let room = mtu.min(F::ERROR_MAX).checked_sub(F::HEADER_LEN + ICMP_HEADER)?;
        let quote = quote.get(..usize::from(room)).unwrap_or(quote);
        let length = u16::try_from(quote.len()).ok()? + F::HEADER_LEN + ICMP_HEADER;
        let frame_length = ip_offset + usize::from(length);
        let receiver = packet.tuple.source;
        let header = F::header(*source, receiver, F::ICMP, TOS, length);
        let (head, message) =
            out.get_mut(ip_offset..frame_length)?.split_at_mut_checked(F::HEADER_LEN.into())?;
        head.copy_from_slice(F::bytes(&header));
        message.get_mut(..icmp.len())?.copy_from_slice(icmp);
        message.get_mut(icmp.len()..)?.copy_from_slice(quote);
        let sum = F::icmp_checksum(*source, receiver, message);
        message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        let device = match way {
            Way::Tunnel(overlay) => {
                let label = Label {
                    hash: packet.hash,
                    flow_vni: &packet.steer.vni,
                    inner_mac: &packet.steer.inner_mac,
                    inner_length: length,
                    tos: tunnel_tos(TOS),
                };
                overlay.write(out.first_chunk_mut()?, &label);
                overlay.device
            }
            Way::Plain(adjacency) => {
                *out.first_chunk_mut()? = adjacency.ethernet;
                adjacency.device
            }
        };
        Some(Answer { device, length: u16::try_from(frame_length).ok()? })
    }
}
