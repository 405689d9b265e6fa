//! The ICMP errors that the sender of a dropped packet is owed (RFC 792; RFC 1812, section 4.3): its
//! time to live has ended here, or it may not be fragmented and does not fit.

use std::net::Ipv4Addr;

use super::{Engine, Nanos};
use crate::DropReason;
use crate::checksum::checksum;
use crate::encap::{Label, Overlay};
use crate::family::V4;
use crate::flow::Tuple;
use crate::fragment::MTU_MIN;
use crate::packet::{
    DESTINATION_UNREACHABLE, DONT_FRAGMENT, Direction, ICMP, Packet, TIME_EXCEEDED, Transport,
    tunnel_tos,
};
use crate::steer::{REPLY_IP_OFFSET, TUNNEL_IP_OFFSET};
use crate::tables::{Adjacency, DeviceIndex, FamilyTables, Tables};

/// How many bytes [`OwedError::write`] needs for an answer.
pub const ANSWER_ROOM: usize = REPLY_IP_OFFSET + ERROR_MAX as usize;

/// An error is no larger than every host can take (RFC 1812, section 4.3.2.3).
const ERROR_MAX: u16 = 576;

const IP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;

/// Internetwork control, as RFC 1812, section 4.3.2.5 wants it.
const TOS: u8 = 0xc0;

/// The code of [`DESTINATION_UNREACHABLE`].
const FRAGMENTATION_NEEDED: u8 = 4;

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
    packet: Packet,
    /// The first bytes of its message.
    icmp: [u8; ICMP_HEADER],
    way: Way<'a>,
}

impl DropReason {
    /// Whether the sender may be owed an ICMP error: then [`Engine::owed_error`] knows it.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        matches!(self, Self::TtlExpired | Self::ExceedsMtu | Self::ExceedsTunnelMtu)
    }
}

impl Engine {
    /// The ICMP error that the sender of a frame is owed which was dropped for `reason`, counted as
    /// sent; `None` when it is owed none, or has had too many. `frame` is as it was received, which
    /// it still is after a drop.
    pub fn owed_error<'a>(
        &mut self,
        now: Nanos,
        tables: &'a Tables,
        reason: DropReason,
        frame: &[u8],
    ) -> Option<OwedError<'a>> {
        let tables = &tables.v4;
        let packet = Packet::parse_any_ttl(frame, &self.hasher).ok()?;
        // An error about an error has no end; of a packet's fragments, the first is answered for
        // (RFC 1122, section 3.2.2).
        if !reason.is_answered() || matches!(packet.transport, Transport::Error | Transport::Later)
        {
            return None;
        }
        let is_too_large = reason != DropReason::TtlExpired;
        let icmp = match is_too_large {
            true => fragmentation_needed(self.path_mtu(tables, &packet)?)?,
            false => [TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0],
        };
        let way = match packet.direction {
            Direction::Forward => Way::Tunnel(way_to_pod(tables, &packet)?),
            Direction::Reply => Way::Plain(self.way_to_remote(tables, &packet)?),
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
        Some(OwedError { packet, icmp, way })
    }

    /// The largest packet that would have got through, in bytes.
    fn path_mtu(&self, tables: &FamilyTables<V4>, packet: &Packet) -> Option<u16> {
        let Tuple { source, destination, .. } = packet.tuple;
        if packet.direction == Direction::Reply {
            let flow = self.flows.replies.find(&packet.tuple, packet.hash)?;
            let peer = tables.peer(self.flows.replies[flow].way_back().peer_address).ok()?;
            return tables.overlay_to(peer).ok().map(|overlay| overlay.inner_mtu);
        }
        let egress = match self.flows.originals.find(&packet.tuple, packet.hash) {
            Some(flow) => self.flows.originals[flow].egress(),
            None => tables.egress_of(tables.policy(source, destination)?, source)?.address,
        };
        let next_hop = tables.route(egress, destination, packet.hash).ok()?;
        tables.adjacency(next_hop).ok().map(|adjacency| adjacency.mtu)
    }

    /// To the outside only about packets of flows that live and are still selected: to all others we
    /// are nobody.
    fn way_to_remote<'a>(
        &self,
        tables: &'a FamilyTables<V4>,
        packet: &Packet,
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
fn way_to_pod<'a>(tables: &'a FamilyTables<V4>, packet: &Packet) -> Option<&'a Overlay> {
    tables.policy(packet.tuple.source, packet.tuple.destination)?;
    tables.overlay_to(tables.peer(packet.steer.outer_source).ok()?).ok()
}

/// The word behind the ICMP checksum has the MTU of the next hop (RFC 1191). There is none below the
/// least of all (RFC 791).
fn fragmentation_needed(mtu: u16) -> Option<[u8; ICMP_HEADER]> {
    let [high, low] = mtu.to_be_bytes();
    let message = [DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0, high, low];
    (mtu >= MTU_MIN).then_some(message)
}

impl OwedError<'_> {
    /// Writes the whole frame into `out`, which needs [`ANSWER_ROOM`]: to a pod from our
    /// tunnel address, to the outside from the egress address. `frame` is the dropped one. `None`
    /// when it does not fit.
    pub fn write(&self, frame: &[u8], out: &mut [u8]) -> Option<Answer> {
        let Self { packet, icmp, way } = self;
        let quote = frame.get(packet.direction.ip_offset()..)?.get(..usize::from(packet.length))?;
        let (ip_offset, source, mtu) = match way {
            Way::Tunnel(overlay) => (REPLY_IP_OFFSET, overlay.tunnel_address, overlay.inner_mtu),
            Way::Plain(adjacency) => (TUNNEL_IP_OFFSET, packet.tuple.destination, adjacency.mtu),
        };
        let room = usize::from(mtu.min(ERROR_MAX)).checked_sub(IP_HEADER + ICMP_HEADER)?;
        let quote = quote.get(..room).unwrap_or(quote);
        let ip_length = u16::try_from(IP_HEADER + ICMP_HEADER + quote.len()).ok()?;
        let frame_length = ip_offset + usize::from(ip_length);
        let (header, message) = out.get_mut(ip_offset..frame_length)?.split_first_chunk_mut()?;
        *header = ipv4_header(source, packet.tuple.source, ip_length);
        message.get_mut(..ICMP_HEADER)?.copy_from_slice(icmp);
        message.get_mut(ICMP_HEADER..)?.copy_from_slice(quote);
        let sum = checksum(message);
        message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        let device = match way {
            Way::Tunnel(overlay) => {
                let label = Label {
                    hash: packet.hash,
                    flow_vni: &packet.steer.vni,
                    inner_mac: &packet.steer.inner_mac,
                    inner_length: ip_length,
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

/// The header of an ICMP error. It is never fragmented, so it needs no identification (RFC 6864).
fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> [u8; IP_HEADER] {
    const TTL: u8 = 64;
    let mut header = [0; IP_HEADER];
    header[0] = 0x45;
    header[1] = TOS;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[6] = DONT_FRAGMENT;
    header[8] = TTL;
    header[9] = ICMP;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}
