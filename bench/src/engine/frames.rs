//! Frames as steering hands them over, each in a chunk of its own as in a UMEM.

use spillway_engine::BURST_MAX;
use spillway_engine::steer::{
    KIND_REPLY, KIND_TUNNEL, REPLY_IP_OFFSET, STEER_HEADER_LEN, TUNNEL_IP_OFFSET,
};

use super::world::{EGRESS, Flow};

/// Bytes of a chunk, and where a received frame starts in it: as the devices have them.
const CHUNK: usize = 2048;
const HEADROOM: usize = 256;

/// Frames of a full burst, as flows and packets are counted.
#[expect(clippy::cast_possible_truncation, reason = "64")]
pub(super) const BURST: u32 = BURST_MAX as u32;

/// The IPv4 packet in an Ethernet frame of 64 bytes.
const IP_LENGTH: u16 = 50;
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
        let frame = self.frame(at, TUNNEL_IP_OFFSET);
        let [_, _, a, b, c, d] =
            flow.node.octets().iter().fold([2, 0, 0, 0, 0, 0], |mac: [u8; 6], octet| {
                let [_, a, b, c, d, e] = mac;
                [a, b, c, d, e, *octet]
            });
        let [v0, v1, v2] = VNI;
        let [s0, s1, s2, s3] = flow.node.octets();
        frame[..STEER_HEADER_LEN].copy_from_slice(&[
            KIND_TUNNEL,
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
        write_packet(&mut frame[TUNNEL_IP_OFFSET..], protocol, ends, flags(opening, 0x10));
    }

    /// Writes a reply to what leaves as `egress_port`.
    pub(super) fn write_reply(&mut self, at: usize, flow: &Flow, egress_port: u16, opening: bool) {
        let protocol = self.protocol;
        let frame = self.frame(at, REPLY_IP_OFFSET);
        frame[0] = KIND_REPLY;
        frame[REPLY_IP_OFFSET - 2..REPLY_IP_OFFSET].copy_from_slice(&[8, 0]);
        let ends = [(flow.remote, flow.remote_port), (EGRESS, egress_port)];
        write_packet(&mut frame[REPLY_IP_OFFSET..], protocol, ends, flags(opening, 0x10) | 0x10);
    }

    /// The port that the packet at `at`, forwarded by now, has left with.
    pub(super) fn egress_port(&self, at: usize) -> u16 {
        let start = at * CHUNK + HEADROOM + TUNNEL_IP_OFFSET + 20;
        u16::from_be_bytes([self.chunks[start], self.chunks[start + 1]])
    }

    fn frame(&mut self, at: usize, ip_offset: usize) -> &mut [u8] {
        let length = ip_offset + usize::from(IP_LENGTH);
        self.lengths[at] = length;
        &mut self.chunks[at * CHUNK + HEADROOM..][..length]
    }
}

/// SYN, or what comes later.
fn flags(opening: bool, later: u8) -> u8 {
    if opening { 0x02 } else { later }
}

/// Writes an IPv4 packet with right checksums: every byte of it.
fn write_packet(
    packet: &mut [u8],
    protocol: Protocol,
    ends: [(std::net::Ipv4Addr, u16); 2],
    flags: u8,
) {
    let [(source, source_port), (destination, destination_port)] = ends;
    packet.fill(0);
    let (header, transport) = packet.split_at_mut(20);
    header[0] = 0x45;
    header[2..4].copy_from_slice(&IP_LENGTH.to_be_bytes());
    header[6] = 0x40;
    header[8] = 63;
    header[9] = protocol.number();
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let sum = finish(add(0, header));
    header[10..12].copy_from_slice(&sum);
    let length = IP_LENGTH - 20;
    transport[..2].copy_from_slice(&source_port.to_be_bytes());
    transport[2..4].copy_from_slice(&destination_port.to_be_bytes());
    match protocol {
        Protocol::Udp => transport[4..6].copy_from_slice(&length.to_be_bytes()),
        Protocol::Tcp => transport[12..14].copy_from_slice(&[0x50, flags]),
    }
    let pseudo = u32::from(protocol.number()) + u32::from(length);
    let sum = finish(add(add(pseudo, &header[12..20]), transport));
    let at = protocol.checksum_offset();
    transport[at..at + 2].copy_from_slice(&sum);
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
