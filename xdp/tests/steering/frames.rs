//! Valid frames, built by etherparse, and small helpers to damage them.

use std::net::Ipv4Addr;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};

use crate::rig::{PEER, POD, REMOTE, TUNNEL};

pub(crate) const INNER_SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
pub(crate) const VNI: [u8; 3] = [0, 0x9c, 0x40];

/// Where parts of a tunnel frame start.
pub(crate) const OUTER_IP: usize = 14;
pub(crate) const VXLAN: usize = 42;
pub(crate) const INNER_ETH: usize = 50;
pub(crate) const INNER_IP: usize = 64;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An Ethernet frame with a UDP packet.
pub(crate) fn udp(
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(INNER_SOURCE_MAC, MAC)
        .ipv4(source.0.octets(), destination.0.octets(), 63)
        .udp(source.1, destination.1)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// An Ethernet frame with a TCP SYN.
pub(crate) fn tcp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(INNER_SOURCE_MAC, MAC)
        .ipv4(source.0.octets(), destination.0.octets(), 63)
        .tcp(source.1, destination.1, 1000, 64_000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

/// An Ethernet frame with an ICMP echo.
pub(crate) fn echo(source: Ipv4Addr, destination: Ipv4Addr, id: u16, reply: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(INNER_SOURCE_MAC, MAC).ipv4(
        source.octets(),
        destination.octets(),
        63,
    );
    let builder =
        if reply { builder.icmpv4_echo_reply(id, 1) } else { builder.icmpv4_echo_request(id, 1) };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"ping").unwrap();
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

/// An Ethernet frame with an IPv4 packet of any protocol.
pub(crate) fn ip(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(INNER_SOURCE_MAC, MAC)
        .ipv4(source.octets(), destination.octets(), 63)
        .write(&mut frame, etherparse::IpNumber(protocol), payload)
        .unwrap();
    frame
}

/// An ICMP error (destination unreachable, fragmentation needed) that quotes an Ethernet frame's
/// packet: its IPv4 header and 8 bytes more.
pub(crate) fn icmp_error(source: Ipv4Addr, destination: Ipv4Addr, quoted: &[u8]) -> Vec<u8> {
    let mut payload = vec![3, 4, 0, 0, 0, 0, 5, 0x78];
    payload.extend_from_slice(&quoted[14..14 + 28]);
    ip(source, destination, 1, &payload)
}

/// Wraps an Ethernet frame in VXLAN, as a peer's kernel would.
pub(crate) fn tunnel_from(peer: Ipv4Addr, tunnel: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
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
