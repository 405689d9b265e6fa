//! Rewriting a packet in place: one end's address and port, the time to live, the checksums.

use super::{error, mss, sctp};
use crate::DropReason;
use crate::checksum::Delta;
use crate::family::Family;
use crate::packet::{Packet, Transport, Wire};

/// Which end of a packet is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The source: forward.
    Source,
    /// The destination: reply.
    Destination,
}

impl Side {
    /// The other end: that of the translated end in a packet that went the other way.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// The port of this end in a TCP or UDP header.
    #[inline]
    pub(super) fn port(self, header: &mut [u8; 8]) -> &mut [u8] {
        match self {
            Self::Source => &mut header[0..2],
            Self::Destination => &mut header[2..4],
        }
    }
}

/// What becomes of one end of a flow's packets, and what that does to their checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change<F: Family> {
    pub(crate) address: F::Address,
    /// The port, or the echo identifier.
    pub(crate) port: u16,
    /// Of the IPv4 header, with the decrement of the time to live. IPv6's has no checksum.
    pub(crate) ip: Delta,
    /// Of the transport header: with the pseudo-header's address where there is one.
    pub(crate) transport: Delta,
}

impl<F: Wire> Change<F> {
    pub(crate) fn new(protocol: u8, from: (F::Address, u16), to: (F::Address, u16)) -> Self {
        let address = F::changed(from.0, to.0);
        let port = Delta::word(from.1, to.1);
        // Of SCTP and of protocols without ports it means nothing.
        let is_plain = protocol == F::ICMP && !F::ICMP_COVERS_ADDRESSES;
        let transport = if is_plain { port } else { port.plus(address) };
        Self { address: to.0, port: to.1, ip: address.plus(Delta::TTL_DECREMENT), transport }
    }
}

/// Lowers the segment size that a SYN announces to what fits `mtu`.
pub(crate) fn clamp_mss<F: Wire>(bytes: &mut [u8], packet: &Packet<F>, mtu: u16) {
    if let Some((_, payload)) = F::split(bytes, packet.layout)
        && let Ok(segment) = without_padding(payload, packet)
    {
        mss::clamp(segment, mtu.saturating_sub(F::HEADER_LEN));
    }
}

/// The part of a transport header that has its ports.
fn start(payload: &mut [u8]) -> Result<&mut [u8; 8], DropReason> {
    payload.first_chunk_mut().ok_or(DropReason::BadTransport)
}

/// What a packet has from its transport header on, without what a frame has behind the packet.
fn without_padding<'a, F: Wire>(
    payload: &'a mut [u8],
    packet: &Packet<F>,
) -> Result<&'a mut [u8], DropReason> {
    let length = usize::from(packet.length).saturating_sub(F::transport_at(packet.layout));
    payload.get_mut(..length).ok_or(DropReason::BadTransport)
}

/// Rewrites the packet that starts `bytes` and was parsed as `packet`.
#[inline]
pub(crate) fn rewrite<F: Wire>(
    bytes: &mut [u8],
    packet: &Packet<F>,
    side: Side,
    change: &Change<F>,
) -> Result<(), DropReason> {
    let (header, payload) = F::split(bytes, packet.layout).ok_or(DropReason::Truncated)?;
    match packet.transport {
        Transport::Tcp(_) => {
            let segment = payload.first_chunk_mut::<20>().ok_or(DropReason::BadTransport)?;
            rewrite_tcp(segment, side, change);
        }
        Transport::Udp => rewrite_udp(start(payload)?, side, change),
        Transport::Echo => {
            let transport = start(payload)?;
            transport[4..6].copy_from_slice(&change.port.to_be_bytes());
            let checksum = change.transport.apply(u16::from_be_bytes([transport[2], transport[3]]));
            transport[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        Transport::Sctp(_) => {
            let message = without_padding(payload, packet)?;
            let (header, rest) = message.split_first_chunk_mut().ok_or(DropReason::BadTransport)?;
            let old = *header;
            side.port(start(header)?).copy_from_slice(&change.port.to_be_bytes());
            // Mostly the pod keeps its port; a change of it is refused for fragments.
            if *header != old {
                let checksum = sctp::checksum(&old, header, rest);
                header[8..].copy_from_slice(&checksum);
            }
        }
        Transport::Portless | Transport::Later => {}
        Transport::Error => {
            let message = without_padding(payload, packet)?;
            error::rewrite(message, packet.tuple.protocol, side.other(), change)?;
        }
    }
    let tos = F::set_tos(header, packet.tos);
    F::rewrite_header(header, side, &Change { ip: change.ip.plus(tos), ..*change });
    Ok(())
}

/// Rewrites a TCP header.
#[inline]
pub(crate) fn rewrite_tcp<F: Family>(segment: &mut [u8; 20], side: Side, change: &Change<F>) {
    let checksum = change.transport.apply(u16::from_be_bytes([segment[16], segment[17]]));
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    if let Some(start) = segment.first_chunk_mut() {
        side.port(start).copy_from_slice(&change.port.to_be_bytes());
    }
}

/// Rewrites a UDP header.
#[inline]
pub(crate) fn rewrite_udp<F: Family>(header: &mut [u8; 8], side: Side, change: &Change<F>) {
    let checksum = u16::from_be_bytes([header[6], header[7]]);
    header[6..8].copy_from_slice(&change.transport.apply_udp(checksum).to_be_bytes());
    side.port(header).copy_from_slice(&change.port.to_be_bytes());
}
