//! Frames as steering hands them over, each in a chunk of its own as in a UMEM.

use std::net::IpAddr;

use spillway_engine::BURST_MAX;
use spillway_engine::steer::{
    FAMILY_6, KIND_REPLY, KIND_TUNNEL, REPLY_IP_OFFSET, STEER_HEADER_LEN, TUNNEL_IP_OFFSET,
};

use super::family::AddressFamily;
use super::world::Flow;

/// Bytes of a chunk, and where a received frame starts in it: as the devices have them.
const CHUNK: usize = 2048;
const HEADROOM: usize = 256;

/// Frames of a full burst, as flows and packets are counted.
#[expect(clippy::cast_possible_truncation, reason = "64")]
pub(super) const BURST: u32 = BURST_MAX as u32;

/// A transport header and what it carries: with IPv4 an Ethernet frame of 64 bytes.
const TRANSPORT_LENGTH: u16 = 30;
const IPV4_HEADER: u16 = 20;
const IPV6_HEADER: u16 = 40;
/// The hop limit, or time to live, that packets come with.
const HOPS: u8 = 63;
const VNI: [u8; 3] = [0, 0x9c, 0x40];

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
        }
    }

    /// Where the checksum is in the transport header.
    fn checksum_offset(self) -> usize {
        match self {
            Self::Udp => 6,
            Self::Tcp => 16,
        }
    }
}

/// Room for one burst.
pub(super) struct Frames {
    chunks: Vec<u8>,
    lengths: [usize; BURST_MAX],
    protocol: Protocol,
}

impl Frames {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { chunks: vec![0; CHUNK * BURST_MAX], lengths: [0; BURST_MAX], protocol }
    }

    /// The frames as they stand.
    pub(super) fn slices(&mut self) -> [&mut [u8]; BURST_MAX] {
        let mut chunks = self.chunks.chunks_exact_mut(CHUNK);
        self.lengths.map(|length| {
            let chunk = chunks.next().unwrap_or_default();
            chunk.get_mut(HEADROOM..HEADROOM + length).unwrap_or_default()
        })
    }

    /// Writes a packet of the flow from its pod into place `at`: the `opening` one of a connection, or
    /// a later one.
    pub(super) fn write_forward(&mut self, at: usize, flow: &Flow, opening: bool) {
        let protocol = self.protocol;
        let frame = self.frame(at, TUNNEL_IP_OFFSET, flow.family);
        let [_, _, a, b, c, d] =
            flow.node.octets().iter().fold([2, 0, 0, 0, 0, 0], |mac: [u8; 6], octet| {
                let [_, a, b, c, d, e] = mac;
                [a, b, c, d, e, *octet]
            });
        let [v0, v1, v2] = VNI;
        let [s0, s1, s2, s3] = flow.node.octets();
        frame[..STEER_HEADER_LEN].copy_from_slice(&[
            KIND_TUNNEL | family_flag(flow.family),
            v0,
            v1,
            v2,
            s0,
            s1,
            s2,
            s3,
            2,
            0,
            a,
            b,
            c,
            d,
        ]);
        let ends = [(flow.pod, flow.pod_port), (flow.remote, flow.remote_port)];
        let packet = &mut frame[TUNNEL_IP_OFFSET..];
        write_packet(packet, flow.family, protocol, ends, flags(opening, 0x10));
    }

    /// Writes a reply to what leaves as `egress_port`.
    pub(super) fn write_reply(&mut self, at: usize, flow: &Flow, egress_port: u16, opening: bool) {
        let protocol = self.protocol;
        let frame = self.frame(at, REPLY_IP_OFFSET, flow.family);
        frame[0] = KIND_REPLY | family_flag(flow.family);
        let (head, packet) = frame.split_at_mut(REPLY_IP_OFFSET);
        head[REPLY_IP_OFFSET - 2..].copy_from_slice(&match flow.family {
            AddressFamily::Ipv4 => [0x08, 0x00],
            AddressFamily::Ipv6 => [0x86, 0xdd],
        });
        let ends = [(flow.remote, flow.remote_port), (flow.family.egress(), egress_port)];
        write_packet(packet, flow.family, protocol, ends, flags(opening, 0x10) | 0x10);
    }

    /// The port that the packet at `at`, forwarded by now, has left with.
    pub(super) fn egress_port(&self, at: usize, family: AddressFamily) -> u16 {
        let start = at * CHUNK + HEADROOM + TUNNEL_IP_OFFSET + header_length(family);
        u16::from_be_bytes([self.chunks[start], self.chunks[start + 1]])
    }

    fn frame(&mut self, at: usize, ip_offset: usize, family: AddressFamily) -> &mut [u8] {
        let length = ip_offset + header_length(family) + usize::from(TRANSPORT_LENGTH);
        self.lengths[at] = length;
        &mut self.chunks[at * CHUNK + HEADROOM..][..length]
    }
}

fn header_length(family: AddressFamily) -> usize {
    usize::from(match family {
        AddressFamily::Ipv4 => IPV4_HEADER,
        AddressFamily::Ipv6 => IPV6_HEADER,
    })
}

/// How steering says of which family a packet is.
fn family_flag(family: AddressFamily) -> u8 {
    match family {
        AddressFamily::Ipv4 => 0,
        AddressFamily::Ipv6 => FAMILY_6,
    }
}

/// SYN, or what comes later.
fn flags(opening: bool, later: u8) -> u8 {
    if opening { 0x02 } else { later }
}

/// Writes a packet with right checksums: every byte of it.
fn write_packet(
    packet: &mut [u8],
    family: AddressFamily,
    protocol: Protocol,
    ends: [(IpAddr, u16); 2],
    flags: u8,
) {
    let [(source, source_port), (destination, destination_port)] = ends;
    packet.fill(0);
    let (header, transport) = packet.split_at_mut(header_length(family));
    let addresses = write_header(header, family, protocol, [source, destination]);
    transport[..2].copy_from_slice(&source_port.to_be_bytes());
    transport[2..4].copy_from_slice(&destination_port.to_be_bytes());
    match protocol {
        Protocol::Udp => transport[4..6].copy_from_slice(&TRANSPORT_LENGTH.to_be_bytes()),
        Protocol::Tcp => transport[12..14].copy_from_slice(&[0x50, flags]),
    }
    let pseudo = u32::from(protocol.number()) + u32::from(TRANSPORT_LENGTH);
    let sum = match finish(add(add(pseudo, addresses), transport)) {
        // Zero would say that there is none, which IPv6 does not allow (RFC 8200, section 8.1).
        [0, 0] if protocol == Protocol::Udp => [0xff, 0xff],
        sum => sum,
    };
    let at = protocol.checksum_offset();
    transport[at..at + 2].copy_from_slice(&sum);
}

/// Writes an IP header; gives its addresses, which transport checksums cover.
fn write_header(
    header: &mut [u8],
    family: AddressFamily,
    protocol: Protocol,
    addresses: [IpAddr; 2],
) -> &[u8] {
    let places = match family {
        AddressFamily::Ipv4 => 12..20,
        AddressFamily::Ipv6 => 8..40,
    };
    let (source, destination) = header[places.clone()].split_at_mut(places.len() / 2);
    for (place, address) in [source, destination].into_iter().zip(addresses) {
        match address {
            IpAddr::V4(address) => place.copy_from_slice(&address.octets()),
            IpAddr::V6(address) => place.copy_from_slice(&address.octets()),
        }
    }
    match family {
        AddressFamily::Ipv4 => {
            let length = IPV4_HEADER + TRANSPORT_LENGTH;
            header[0] = 0x45;
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[6] = 0x40;
            header[8..10].copy_from_slice(&[HOPS, protocol.number()]);
            let sum = finish(add(0, header));
            header[10..12].copy_from_slice(&sum);
        }
        AddressFamily::Ipv6 => {
            header[0] = 0x60;
            header[4..6].copy_from_slice(&TRANSPORT_LENGTH.to_be_bytes());
            header[6..8].copy_from_slice(&[protocol.number(), HOPS]);
        }
    }
    &header[places]
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    words.fold(sum, u32::wrapping_add)
}

fn finish(sum: u32) -> [u8; 2] {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    [!(sum >> 8).to_be_bytes()[3], !sum.to_be_bytes()[3]]
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    use super::*;

    /// Checks a packet, with its checksums, against what another parser makes of it.
    fn check(packet: &[u8], ends: [(IpAddr, u16); 2], protocol: Protocol) {
        let parsed = PacketHeaders::from_ip_slice(packet).unwrap();
        let (transport, payload) = (parsed.transport.unwrap(), parsed.payload.slice());
        let mut right = transport.clone();
        let addresses: [IpAddr; 2] = match parsed.net.unwrap() {
            NetHeaders::Ipv4(ip, _) => {
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                right.update_checksum_ipv4(&ip, payload).unwrap();
                [ip.source.into(), ip.destination.into()]
            }
            NetHeaders::Ipv6(ip, _) => {
                right.update_checksum_ipv6(&ip, payload).unwrap();
                [ip.source.into(), ip.destination.into()]
            }
            NetHeaders::Arp(arp) => panic!("{arp:?}"),
        };
        assert_eq!(transport, right);
        let ports = match (transport, protocol) {
            (TransportHeader::Udp(udp), Protocol::Udp) => [udp.source_port, udp.destination_port],
            (TransportHeader::Tcp(tcp), Protocol::Tcp) => [tcp.source_port, tcp.destination_port],
            (other, _) => panic!("{protocol:?}: {other:?}"),
        };
        assert_eq!(addresses, ends.map(|(address, _)| address));
        assert_eq!(ports, ends.map(|(_, port)| port));
    }

    #[test]
    fn packets_of_both_families_are_right() {
        for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let (mut frames, flow) = (Frames::new(protocol), Flow::new(family, 12_345));
                let (pod, remote) = ((flow.pod, flow.pod_port), (flow.remote, flow.remote_port));
                frames.write_forward(0, &flow, true);
                check(&frames.slices()[0][TUNNEL_IP_OFFSET..], [pod, remote], protocol);
                frames.write_reply(1, &flow, 4321, false);
                let egress = (family.egress(), 4321);
                check(&frames.slices()[1][REPLY_IP_OFFSET..], [remote, egress], protocol);
            }
        }
    }
}
