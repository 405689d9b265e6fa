//! Valid frames, built by etherparse, and small helpers to damage them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpHeaders, IpNumber, PacketBuilder,
    PacketBuilderStep,
};

use crate::rig::{PEER, POD, POD_6, REMOTE, REMOTE_6, TUNNEL};

pub(crate) const INNER_SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
pub(crate) const VNI: [u8; 3] = [0, 0x9c, 0x40];

/// Where parts of a tunnel frame start.
pub(crate) const OUTER_IP: usize = 14;
pub(crate) const VXLAN: usize = 42;
pub(crate) const INNER_ETH: usize = 50;
pub(crate) const INNER_IP: usize = 64;
/// Where an untagged IPv6 packet has its transport header, or its first extension header.
pub(crate) const BEHIND_IPV6: usize = 14 + 40;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The headers that are in front of all else, of either family.
fn headers(source: impl Into<IpAddr>, target: impl Into<IpAddr>) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(INNER_SOURCE_MAC, MAC);
    match (source.into(), target.into()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            ethernet.ipv4(source.octets(), target.octets(), 63)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            ethernet.ipv6(source.octets(), target.octets(), 63)
        }
        mixed => panic!("{mixed:?} are of two families"),
    }
}

/// An Ethernet frame with a UDP packet.
pub(crate) fn udp<A: Into<IpAddr>>(source: (A, u16), target: (A, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = headers(source.0, target.0).udp(source.1, target.1);
    packet.write(&mut frame, payload).unwrap();
    frame
}

/// An Ethernet frame with a TCP SYN.
pub(crate) fn tcp<A: Into<IpAddr>>(source: (A, u16), target: (A, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = headers(source.0, target.0).tcp(source.1, target.1, 1000, 64_000).syn();
    packet.write(&mut frame, &[]).unwrap();
    frame
}

/// An Ethernet frame with an ICMP echo of the addresses' family.
pub(crate) fn echo<A: Into<IpAddr>>(source: A, target: A, id: u16, reply: bool) -> Vec<u8> {
    let (source, target) = (source.into(), target.into());
    let headers = headers(source, target);
    let packet = match (source, reply) {
        (IpAddr::V4(_), true) => headers.icmpv4_echo_reply(id, 1),
        (IpAddr::V4(_), false) => headers.icmpv4_echo_request(id, 1),
        (IpAddr::V6(_), reply) => {
            let mut frame = Vec::new();
            let packet = if reply {
                headers.icmpv6_echo_reply(id, 1)
            } else {
                headers.icmpv6_echo_request(id, 1)
            };
            packet.write(&mut frame, b"ping").unwrap();
            return frame;
        }
    };
    let mut frame = Vec::new();
    packet.write(&mut frame, b"ping").unwrap();
    frame
}

/// An ARP request, as Ethernet carries it.
pub(crate) fn arp(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &INNER_SOURCE_MAC,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    );
    PacketBuilder::ethernet2(INNER_SOURCE_MAC, [0xff; 6])
        .arp(packet.unwrap())
        .write(&mut frame)
        .unwrap();
    frame
}

/// An Ethernet frame with an IP packet of any protocol.
pub(crate) fn ip<A: Into<IpAddr>>(source: A, target: A, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    headers(source, target).write(&mut frame, IpNumber(protocol), payload).unwrap();
    frame
}

/// An ICMP error (fragmentation needed, packet too big) that quotes an Ethernet frame's packet: of
/// IPv4 its header and 8 bytes more, of IPv6 all of it.
pub(crate) fn icmp_error<A: Into<IpAddr>>(source: A, target: A, quoted: &[u8]) -> Vec<u8> {
    let source = source.into();
    let (protocol, mut payload, quoted) = match source {
        IpAddr::V4(_) => (1, vec![3, 4, 0, 0, 0, 0, 5, 0x78], &quoted[14..14 + 28]),
        IpAddr::V6(_) => (58, vec![2, 0, 0, 0, 0, 0, 5, 0x78], &quoted[14..]),
    };
    payload.extend_from_slice(quoted);
    ip(source, target.into(), protocol, &payload)
}

/// A neighbour solicitation, as Ethernet carries it, to the group of `target`.
pub(crate) fn solicitation(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&target.octets()[13..]);
    let mut payload = vec![135, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(target.octets());
    payload.extend([1, 1]);
    payload.extend(INNER_SOURCE_MAC);
    // Hop limit 255.
    with(ip(source, group.into(), 58, &payload), 14 + 7, &[255])
}

/// Wraps an Ethernet frame in VXLAN, as a peer's kernel would.
pub(crate) fn tunnel_from<A: Into<IpAddr>>(peer: A, tunnel: A, inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x08, 0, 0, 0, VNI[0], VNI[1], VNI[2], 0];
    payload.extend_from_slice(inner);
    udp((peer, 50_000), (tunnel, 8472), &payload)
}

pub(crate) fn tunnel(inner: &[u8]) -> Vec<u8> {
    tunnel_from(PEER, TUNNEL, inner)
}

/// The frame that everything is a mutation of: a selected pod to a covered destination.
pub(crate) fn valid() -> Vec<u8> {
    tunnel(&tcp((POD, 40_001), (REMOTE, 443)))
}

/// The same of IPv6.
pub(crate) fn valid_ipv6() -> Vec<u8> {
    tunnel(&tcp((POD_6, 40_001), (REMOTE_6, 443)))
}

/// The same frame with these bytes at `offset`.
pub(crate) fn with(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The same frame with a VLAN tag after the link addresses of the Ethernet header at `offset`.
pub(crate) fn tagged(mut frame: Vec<u8>, offset: usize) -> Vec<u8> {
    let at = offset + 12;
    frame.splice(at..at, [0x81, 0, 0, 0]);
    frame
}

/// The same frame with four bytes of IP options (no operation) behind the IPv4 header at `offset`.
pub(crate) fn with_options(mut frame: Vec<u8>, offset: usize) -> Vec<u8> {
    frame[offset] = 0x46;
    let end = offset + 20;
    frame.splice(end..end, [1, 1, 1, 1]);
    frame
}

/// An untagged frame's IPv6 packet with an extension header of this kind behind all that it has. The
/// bytes behind the one that names the next header are the caller's.
pub(crate) fn with_extension(mut frame: Vec<u8>, kind: u8, rest: &[u8]) -> Vec<u8> {
    let (mut named_at, mut end) = (14 + 6, BEHIND_IPV6);
    while matches!(frame[named_at], 0 | 43 | 44 | 60) {
        let words = if frame[named_at] == 44 { 0 } else { usize::from(frame[end + 1]) };
        (named_at, end) = (end, end + (words + 1) * 8);
    }
    let next = std::mem::replace(&mut frame[named_at], kind);
    frame.splice(end..end, [&[next], rest].concat());
    frame
}

/// Destination options, nothing but padding, of so many bytes: a multiple of 8.
pub(crate) fn with_options_of(frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    let mut rest = vec![(bytes / 8 - 1) as u8];
    rest.resize(bytes - 1, 0);
    with_extension(frame, 60, &rest)
}

/// A fragment header; `place` is its offset in units of 8 bytes, and whether more follow.
pub(crate) fn with_fragment(frame: Vec<u8>, place: (u16, bool), identification: u32) -> Vec<u8> {
    let [high, low] = (place.0 << 3 | u16::from(place.1)).to_be_bytes();
    let mut rest = vec![0, high, low];
    rest.extend(identification.to_be_bytes());
    with_extension(frame, 44, &rest)
}

/// A routing header of type 0 with so many segments left.
pub(crate) fn with_routing(frame: Vec<u8>, segments_left: u8) -> Vec<u8> {
    let mut rest = vec![2, 0, segments_left];
    rest.resize(23, 0);
    with_extension(frame, 43, &rest)
}
