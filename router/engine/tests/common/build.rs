//! Packets, built by etherparse with all their checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, IpHeaders, IpNumber, Ipv4Header, Ipv4HeaderSlice,
    Ipv6Header, PacketBuilder,
};

use super::gateway::{TUNNEL, TUNNEL_PORT, TUNNEL6};

pub const PAYLOAD: &[u8] = b"the quick brown fox";

/// One end of a packet: address and port, or echo identifier.
pub type End<A = Ipv4Addr> = (A, u16);

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Syn,
    SynAck,
    Ack,
    Fin,
    /// With the sequence number that follows everything else.
    Rst,
    RstAt(u32),
    /// Acknowledges up to this sequence number.
    AckOf(u32),
    Udp,
    UdpWithoutChecksum,
    /// The identifier is the source's port.
    EchoRequest,
    /// The identifier is the destination's port.
    EchoReply,
    /// Asks for the tag 77.
    SctpInit,
    /// Shows the tag 77.
    SctpInitAck,
    SctpData,
    /// Shows this tag.
    SctpAbort(u32),
    Gre,
    Esp,
}

/// The bytes behind an IP header of what etherparse does not build, and their protocol.
fn raw(body: Body, source: u16, destination: u16, payload: &[u8]) -> Option<(IpNumber, Vec<u8>)> {
    let (chunk, tag) = match body {
        Body::SctpInit => (1, 0),
        Body::SctpInitAck => (2, 77),
        Body::SctpData => (0, 88),
        Body::SctpAbort(tag) => (6, tag),
        Body::Gre => return Some((IpNumber(47), [&[0, 0, 8, 0], payload].concat())),
        Body::Esp => return Some((IpNumber(50), [&[0, 0, 0, 9, 0, 0, 0, 1], payload].concat())),
        _ => return None,
    };
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend(u32::to_be_bytes(tag));
    bytes.extend([0; 4]);
    bytes.extend([chunk, 0, 0, 20]);
    bytes.extend(77_u32.to_be_bytes());
    bytes.extend(payload);
    let checksum = crc32c(&bytes).to_le_bytes();
    bytes[8..12].copy_from_slice(&checksum);
    Some((IpNumber::SCTP, bytes))
}

/// RFC 9260, appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

/// What no NAT may touch: these bits, and an identification or flow label.
const TOS: u8 = 10 << 2 | 2;

fn header(source: IpAddr, destination: IpAddr, ttl: u8) -> IpHeaders {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            IpHeaders::Ipv4(ipv4_header(source, destination, ttl), Default::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: TOS,
                flow_label: 0x5_4321.try_into().unwrap(),
                payload_length: 0,
                next_header: IpNumber::TCP,
                hop_limit: ttl,
                source: source.octets(),
                destination: destination.octets(),
            };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, ttl: u8) -> Ipv4Header {
    let mut header =
        Ipv4Header::new(0, ttl, IpNumber::TCP, source.octets(), destination.octets()).unwrap();
    header.dscp = (TOS >> 2).try_into().unwrap();
    header.ecn = (TOS & 3).try_into().unwrap();
    header.identification = 0x1234;
    header.dont_fragment = true;
    header
}

/// A packet.
pub fn packet<A: Into<IpAddr>>(
    body: Body,
    source: End<A>,
    destination: End<A>,
    ttl: u8,
) -> Vec<u8> {
    packet_with(body, source, destination, ttl, PAYLOAD)
}

/// A packet that carries `payload`.
pub fn packet_with<A: Into<IpAddr>>(
    body: Body,
    source: End<A>,
    destination: End<A>,
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    let header = header(source.0.into(), destination.0.into(), ttl);
    let is_ipv6 = matches!(header, IpHeaders::Ipv6(..));
    let mut bytes = Vec::new();
    if let Some((protocol, payload)) = raw(body, source.1, destination.1, payload) {
        PacketBuilder::ip(header).write(&mut bytes, protocol, &payload).unwrap();
        return bytes;
    }
    let ip = PacketBuilder::ip(header);
    let sequence = if let Body::RstAt(sequence) = body { sequence } else { 1000 };
    let tcp = |ip: etherparse::PacketBuilderStep<IpHeaders>| {
        ip.tcp(source.1, destination.1, sequence, 64_000)
    };
    match body {
        Body::Syn => tcp(ip).syn().write(&mut bytes, payload),
        Body::SynAck => tcp(ip).syn().ack(1).write(&mut bytes, payload),
        Body::Ack => tcp(ip).ack(1).write(&mut bytes, payload),
        Body::Fin => tcp(ip).ack(1).fin().write(&mut bytes, payload),
        Body::AckOf(sequence) => tcp(ip).ack(sequence).write(&mut bytes, payload),
        Body::Rst | Body::RstAt(_) => tcp(ip).rst().write(&mut bytes, payload),
        Body::Udp | Body::UdpWithoutChecksum => {
            ip.udp(source.1, destination.1).write(&mut bytes, payload)
        }
        Body::EchoRequest if is_ipv6 => {
            ip.icmpv6_echo_request(source.1, 7).write(&mut bytes, payload)
        }
        Body::EchoReply if is_ipv6 => {
            ip.icmpv6_echo_reply(destination.1, 7).write(&mut bytes, payload)
        }
        Body::EchoRequest => ip.icmpv4_echo_request(source.1, 7).write(&mut bytes, payload),
        Body::EchoReply => ip.icmpv4_echo_reply(destination.1, 7).write(&mut bytes, payload),
        Body::SctpInit
        | Body::SctpInitAck
        | Body::SctpData
        | Body::SctpAbort(_)
        | Body::Gre
        | Body::Esp => unreachable!("built above"),
    }
    .unwrap();
    if body == Body::UdpWithoutChecksum {
        let at = if is_ipv6 { 46 } else { 26 };
        bytes[at..at + 2].fill(0);
    }
    bytes
}

/// A packet with bytes changed and the header checksum made right again.
pub fn changed(mut packet: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut packet);
    packet[10..12].fill(0);
    let header = Ipv4HeaderSlice::from_slice(&packet);
    let checksum = match header {
        Ok(header) => header.to_header().calc_header_checksum(),
        // etherparse refuses what is wrong on purpose.
        Err(_) => etherparse::checksum::Sum16BitWords::new()
            .add_slice(&packet[..20])
            .ones_complement()
            .to_be(),
    };
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// An ICMP error with the first bytes of the packet that it is about.
pub fn error<A: Into<IpAddr>>(
    type_code: (u8, u8),
    source: A,
    destination: A,
    ttl: u8,
    quote: &[u8],
) -> Vec<u8> {
    error_with((type_code, 1400), source, destination, ttl, quote)
}

/// The same with another last word than the MTU of 1400 that routers say.
pub fn error_with<A: Into<IpAddr>>(
    (type_code, word): ((u8, u8), u32),
    source: A,
    destination: A,
    ttl: u8,
    quote: &[u8],
) -> Vec<u8> {
    let header = header(source.into(), destination.into(), ttl);
    let is_ipv6 = matches!(header, IpHeaders::Ipv6(..));
    let ip = PacketBuilder::ip(header);
    let (mut bytes, rest) = (Vec::new(), word.to_be_bytes());
    match is_ipv6 {
        false => ip.icmpv4_raw(type_code.0, type_code.1, rest).write(&mut bytes, quote),
        true => ip.icmpv6_raw(type_code.0, type_code.1, rest).write(&mut bytes, quote),
    }
    .unwrap();
    bytes
}

/// An Ethernet frame that carries a packet.
pub fn ethernet(source: [u8; 6], destination: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let header = etherparse::Ethernet2Header {
        source,
        destination,
        ether_type: match packet[0] >> 4 {
            4 => etherparse::EtherType::IPV4,
            _ => etherparse::EtherType::IPV6,
        },
    };
    [&header.to_bytes(), packet].concat()
}

/// A frame in a VXLAN tunnel as a reply has it, with this outer source port.
pub fn vxlan(
    macs: ([u8; 6], [u8; 6]),
    peer: Ipv4Addr,
    source_port: u16,
    vni: [u8; 3],
    inner: &[u8],
) -> Vec<u8> {
    let mut payload = vec![0x08, 0, 0, 0, vni[0], vni[1], vni[2], 0];
    payload.extend(inner);
    let mut outer = Ipv4Header::new(0, 64, IpNumber::UDP, TUNNEL.octets(), peer.octets()).unwrap();
    outer.dont_fragment = true;
    let tos = if inner[12..14] == [8, 0] { inner[15] } else { inner[15] >> 4 };
    outer.ecn = (tos & 3).try_into().unwrap();
    let ip = IpHeaders::Ipv4(outer, etherparse::Ipv4Extensions::default());
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ip(ip);
    builder.udp(source_port, TUNNEL_PORT).write(&mut bytes, &payload).unwrap();
    bytes[40..42].fill(0);
    bytes
}

/// The same over IPv6, with all checksums.
pub fn vxlan_over_ipv6(
    macs: ([u8; 6], [u8; 6]),
    peer: Ipv6Addr,
    source_port: u16,
    vni: [u8; 3],
    inner: &[u8],
) -> Vec<u8> {
    let mut payload = vec![0x08, 0, 0, 0, vni[0], vni[1], vni[2], 0];
    payload.extend(inner);
    let tos = if inner[12..14] == [8, 0] { inner[15] } else { inner[15] >> 4 };
    let outer = Ipv6Header {
        traffic_class: tos & 3,
        flow_label: u32::from(source_port).try_into().unwrap(),
        payload_length: 0,
        next_header: IpNumber::UDP,
        hop_limit: 64,
        source: TUNNEL6.octets(),
        destination: peer.octets(),
    };
    let ip = IpHeaders::Ipv6(outer, etherparse::Ipv6Extensions::default());
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ip(ip);
    builder.udp(source_port, TUNNEL_PORT).write(&mut bytes, &payload).unwrap();
    bytes
}

/// The fragments of a packet, `step` bytes of payload each, as its sender makes them.
pub fn cut(packet: &[u8], step: usize) -> Vec<Vec<u8>> {
    if packet[0] >> 4 == 6 {
        return cut_ipv6(packet, step);
    }
    let parts = packet[20..].chunks(step).enumerate();
    let last = packet[20..].len().div_ceil(step) - 1;
    let fragment = |(number, part): (usize, &[u8])| {
        let bytes = [&packet[..20], part].concat();
        changed(bytes, |bytes| {
            let length = u16::try_from(bytes.len()).unwrap();
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            let more = if number == last { 0 } else { 0x2000 };
            let place = more | u16::try_from(number * step / 8).unwrap();
            bytes[6..8].copy_from_slice(&place.to_be_bytes());
        })
    };
    parts.map(fragment).collect()
}

/// The same of IPv6 without extension headers.
fn cut_ipv6(packet: &[u8], step: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(40);
    let last = payload.len().div_ceil(step) - 1;
    let fragment = |(number, part): (usize, &[u8])| {
        let place = u16::try_from(number * step).unwrap() | u16::from(number != last);
        let [high, low] = place.to_be_bytes();
        let extension = [header[6], 0, high, low, 0xab, 0xcd, 0x12, 0x34];
        let mut bytes = [header, &extension, part].concat();
        let length = u16::try_from(bytes.len() - 40).unwrap();
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bytes[6] = 44;
        bytes
    };
    payload.chunks(step).enumerate().map(fragment).collect()
}

/// An ARP packet for Ethernet and IPv4.
pub fn arp(
    operation: ArpOperation,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
) -> Vec<u8> {
    let (ethernet, ipv4) = (ArpHardwareId::ETHERNET, etherparse::EtherType::IPV4);
    let (sender_address, target_address) = (sender.1.octets(), target.1.octets());
    let packet = ArpPacket::new(
        ethernet,
        ipv4,
        operation,
        &sender.0,
        &sender_address,
        &target.0,
        &target_address,
    );
    packet.unwrap().to_bytes().to_vec()
}

/// An Ethernet frame that carries ARP.
pub fn ethernet_arp(source: [u8; 6], destination: [u8; 6], arp: &[u8]) -> Vec<u8> {
    let header =
        etherparse::Ethernet2Header { source, destination, ether_type: etherparse::EtherType::ARP };
    [&header.to_bytes(), arp].concat()
}

/// Puts extension headers in front of what a packet carries: each its number, and its bytes from the
/// second on, which are 8 at least with the first.
pub fn extended(packet: &[u8], extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let (header, payload) = packet.split_at(40);
    let mut bytes = header.to_vec();
    let mut next = 6;
    for (number, rest) in extensions {
        bytes[next] = *number;
        next = bytes.len();
        bytes.push(0);
        bytes.extend(*rest);
    }
    bytes[next] = header[6];
    bytes.extend(payload);
    let length = u16::try_from(bytes.len() - 40).unwrap();
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// A neighbour solicitation as a host sends it.
pub fn solicitation(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    option: &[u8],
) -> Vec<u8> {
    let payload = [&target.octets(), option].concat();
    let mut bytes = Vec::new();
    PacketBuilder::ipv6(source.octets(), destination.octets(), 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut bytes, &payload)
        .unwrap();
    bytes
}
