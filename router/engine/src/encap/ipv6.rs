//! The outer headers of a reply over IPv6. They are made of those over IPv4: UDP, VXLAN and the inner
//! Ethernet header are the same and stay where they are; in front of them, Ethernet and IPv6 take the
//! place of Ethernet and IPv4, and begin 20 bytes earlier.
//!
//! Outer DSCP 0 and hop limit 64, as over IPv4. The flow label is the source port, the same for all
//! packets of a flow (RFC 6438). UDP has a checksum: a kernel's VXLAN device drops what has none, unless
//! it is told otherwise (`udp6zerocsumrx`), and Cilium does not tell it (RFC 8200, section 8.1; RFC 6935).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{ETHERTYPE_IPV6, IP, OUTER_IP_OVERHEAD, OUTER_IPV6_OVERHEAD, UDP, ethernet};
use crate::checksum::{Delta, checksum};
use crate::steer::{REPLY_IP_OFFSET, REPLY_IP_OFFSET_6};
use crate::tables::Adjacency;

/// How much earlier the headers begin.
const EARLIER: usize = REPLY_IP_OFFSET_6 - REPLY_IP_OFFSET;

const IPV6_ADDRESSES: usize = IP + 8;
const IPV6_UDP: usize = IP + 40;
const _: () = assert!(IPV6_UDP == UDP + EARLIER);

const UDP_PROTOCOL: u8 = 17;

/// Ethernet and IPv6 in front of a reply, as far as they are the same for all flows of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OuterIpv6([u8; IPV6_UDP]);

impl OuterIpv6 {
    /// From one of our tunnel addresses to a peer's.
    pub(crate) fn new(adjacency: &Adjacency, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        let mut template = [0; IPV6_UDP];
        let link = ethernet(adjacency.destination_mac(), adjacency.source_mac(), ETHERTYPE_IPV6);
        template[..IP].copy_from_slice(&link);
        template[IP + 6] = UDP_PROTOCOL;
        template[IP + 7] = 64;
        template[IPV6_ADDRESSES..IPV6_ADDRESSES + 16].copy_from_slice(&source.octets());
        template[IPV6_ADDRESSES + 16..].copy_from_slice(&destination.octets());
        Self(template)
    }

    /// Takes the place of Ethernet and IPv4 in a frame whose headers over IPv4 begin 20 bytes behind
    /// its start. Of a packet that will be cut, length and checksum mean nothing until then.
    fn write(&self, head: &mut [u8; REPLY_IP_OFFSET_6]) {
        let tos = head[EARLIER + IP + 1];
        let source_port = [head[IPV6_UDP], head[IPV6_UDP + 1]];
        let udp_length = [head[IPV6_UDP + 4], head[IPV6_UDP + 5]];
        head[..IPV6_UDP].copy_from_slice(&self.0);
        head[IP] = 6 << 4 | tos >> 4;
        head[IP + 1] = tos << 4;
        head[IP + 2..IP + 4].copy_from_slice(&source_port);
        head[IP + 4..IP + 6].copy_from_slice(&udp_length);
    }

    /// The same for a frame that is to be cut.
    pub(crate) fn write_unfinished(&self, frame: &mut [u8]) -> Option<()> {
        self.write(frame.first_chunk_mut()?);
        Some(())
    }

    /// The same for a frame that is to be sent, of which `length` bytes were to be without this; so
    /// many are then.
    pub(crate) fn write_whole(&self, frame: &mut [u8], length: u16) -> Option<u16> {
        let length = length.checked_add(OUTER_IPV6_OVERHEAD - OUTER_IP_OVERHEAD)?;
        self.write(frame.first_chunk_mut()?);
        finish(frame.get_mut(..usize::from(length))?)?;
        Some(length)
    }
}

/// The key of the peer that headers over IPv4 go to, which begin 20 bytes behind a frame's start.
pub(crate) fn peer_key(frame: &[u8]) -> Option<Ipv4Addr> {
    let head = frame.first_chunk::<REPLY_IP_OFFSET_6>()?;
    let destination = head.get(EARLIER + IP + 16..)?.first_chunk::<4>()?;
    Some(Ipv4Addr::from(*destination))
}

/// Makes written headers those of a frame of this length.
pub(super) fn resize(frame: &mut [u8], udp_length: u16) -> Option<()> {
    let head = frame.first_chunk_mut::<REPLY_IP_OFFSET_6>()?;
    head[IP + 4..IP + 6].copy_from_slice(&udp_length.to_be_bytes());
    head[IPV6_UDP + 4..IPV6_UDP + 6].copy_from_slice(&udp_length.to_be_bytes());
    finish(frame)
}

/// Computes UDP's checksum over a whole frame. The pseudo-header is the addresses, which are in front
/// of UDP, the length and the protocol.
fn finish(frame: &mut [u8]) -> Option<()> {
    let head = frame.first_chunk_mut::<REPLY_IP_OFFSET_6>()?;
    head[IPV6_UDP + 6..IPV6_UDP + 8].fill(0);
    let udp_length = u16::from_be_bytes([head[IPV6_UDP + 4], head[IPV6_UDP + 5]]);
    let rest = Delta::added(UDP_PROTOCOL.into()).plus(Delta::added(udp_length));
    let sum = match rest.apply(checksum(frame.get(IPV6_ADDRESSES..)?)) {
        0 => 0xffff,
        sum => sum,
    };
    frame.get_mut(IPV6_UDP + 6..IPV6_UDP + 8)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}
