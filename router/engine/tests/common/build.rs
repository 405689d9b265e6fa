//! Packets, built by etherparse with all their checksums.

use std::net::Ipv4Addr;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, IpNumber, Ipv4Header, Ipv4HeaderSlice, PacketBuilder,
};

use super::gateway::{TUNNEL, TUNNEL_PORT};

pub const PAYLOAD: &[u8] = b"the quick brown fox";

/// One end of a packet: address and port, or echo identifier.
pub type End = (Ipv4Addr, u16);

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

/// The bytes behind an IPv4 header of what etherparse does not build, and their protocol.
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

fn header(source: Ipv4Addr, destination: Ipv4Addr, ttl: u8) -> Ipv4Header {
    let mut header =
        Ipv4Header::new(0, ttl, IpNumber::TCP, source.octets(), destination.octets()).unwrap();
    // What no NAT may touch.
    header.dscp = 10.try_into().unwrap();
    header.ecn = 2.try_into().unwrap();
    header.identification = 0x1234;
    header.dont_fragment = true;
    header
}

/// An IPv4 packet.
pub fn packet(body: Body, source: End, destination: End, ttl: u8) -> Vec<u8> {
    packet_with(body, source, destination, ttl, PAYLOAD)
}

/// An IPv4 packet that carries `payload`.
pub fn packet_with(body: Body, source: End, destination: End, ttl: u8, payload: &[u8]) -> Vec<u8> {
    if let Some((protocol, payload)) = raw(body, source.1, destination.1, payload) {
        let mut header = header(source.0, destination.0, ttl);
        header.protocol = protocol;
        header.set_payload_len(payload.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        return [&header.to_bytes(), payload.as_slice()].concat();
    }
    let ip = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(
        header(source.0, destination.0, ttl),
        etherparse::Ipv4Extensions::default(),
    ));
    let mut bytes = Vec::new();
    let sequence = if let Body::RstAt(sequence) = body { sequence } else { 1000 };
    let tcp = |ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>| {
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
        bytes[26..28].fill(0);
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
pub fn error(
    type_code: (u8, u8),
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    quote: &[u8],
) -> Vec<u8> {
    let ip = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(
        header(source, destination, ttl),
        etherparse::Ipv4Extensions::default(),
    ));
    let mut bytes = Vec::new();
    ip.icmpv4_raw(type_code.0, type_code.1, [0, 0, 5, 120]).write(&mut bytes, quote).unwrap();
    bytes
}

/// An Ethernet frame that carries an IPv4 packet.
pub fn ethernet(source: [u8; 6], destination: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let header = etherparse::Ethernet2Header {
        source,
        destination,
        ether_type: etherparse::EtherType::IPV4,
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
    outer.ecn = (inner[15] & 3).try_into().unwrap();
    let ip = etherparse::IpHeaders::Ipv4(outer, etherparse::Ipv4Extensions::default());
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ip(ip);
    builder.udp(source_port, TUNNEL_PORT).write(&mut bytes, &payload).unwrap();
    bytes[40..42].fill(0);
    bytes
}

/// The fragments of a packet, `step` bytes of payload each, as its sender makes them.
pub fn cut(packet: &[u8], step: usize) -> Vec<Vec<u8>> {
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
