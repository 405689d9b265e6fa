//! The peer: what one would write first. Two hash maps (hashbrown, foldhash), one packet at a time; no
//! policy, no expiry, no state of connections. What it forwards is translated correctly, and it checks
//! what it reads.

use std::net::Ipv4Addr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use spillway_engine::steer::{KIND_REPLY, REPLY_IP_OFFSET, STEER_HEADER_LEN, TUNNEL_OVERHEAD};

use super::family::EGRESS;
use super::world::{ROUTER_MAC, UPLINK_MAC};

const UDP: u8 = 17;
const TCP: u8 = 6;
const PORT_FIRST: u16 = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    last: u64,
    packets: u64,
    bytes: u64,
}

impl Seen {
    fn note(&mut self, now: u64, length: u16) {
        self.last = now;
        self.packets += 1;
        self.bytes += u64::from(length);
    }
}

struct Original {
    egress_port: u16,
    seen: Seen,
}

struct Reply {
    pod: Ipv4Addr,
    pod_port: u16,
    node: Ipv4Addr,
    inner_mac: [u8; 6],
    seen: Seen,
}

/// A NAT for TCP and UDP.
pub(super) struct Naive {
    originals: HashMap<Key, Original, RandomState>,
    replies: HashMap<Key, Reply, RandomState>,
}

impl Naive {
    /// Room for `flows`, so that nothing grows while it is measured.
    pub(super) fn new(flows: usize) -> Self {
        Self {
            originals: HashMap::with_capacity_and_hasher(flows, RandomState::default()),
            replies: HashMap::with_capacity_and_hasher(flows, RandomState::default()),
        }
    }

    /// How many flows there are.
    pub(super) fn flows(&self) -> usize {
        self.originals.len()
    }

    /// Forwards a steered packet either way; gives its length, or `None` if it is dropped.
    pub(super) fn process(&mut self, now: u64, frame: &mut [u8]) -> Option<u16> {
        match *frame.first()? {
            KIND_REPLY => self.reply(now, frame),
            _ => self.forward(now, frame),
        }
    }

    /// A pod's packet: out.
    fn forward(&mut self, now: u64, frame: &mut [u8]) -> Option<u16> {
        let (steer, packet) = frame.split_at_mut_checked(STEER_HEADER_LEN)?;
        let (key, length) = parse(packet)?;
        let egress_port = match self.originals.get_mut(&key) {
            Some(original) => {
                original.seen.note(now, length);
                original.egress_port
            }
            None => self.open(now, key, steer, length)?,
        };
        translate(packet, 12, 0, (key.source, key.source_port), (EGRESS, egress_port));
        steer[..6].copy_from_slice(&ROUTER_MAC);
        steer[6..12].copy_from_slice(&UPLINK_MAC);
        steer[12..14].copy_from_slice(&[8, 0]);
        Some(length)
    }

    /// A reply: back through the tunnel.
    fn reply(&mut self, now: u64, frame: &mut [u8]) -> Option<u16> {
        let (head, packet) = frame.split_at_mut_checked(REPLY_IP_OFFSET)?;
        let (key, length) = parse(packet)?;
        let reply = self.replies.get_mut(&key)?;
        reply.seen.note(now, length);
        let to = (reply.pod, reply.pod_port);
        translate(packet, 16, 2, (key.destination, key.destination_port), to);
        encapsulate(head, length, reply, key.source_port ^ reply.pod_port);
        Some(length)
    }

    fn open(&mut self, now: u64, key: Key, steer: &[u8], length: u16) -> Option<u16> {
        let mut back = Key {
            source: key.destination,
            destination: EGRESS,
            source_port: key.destination_port,
            destination_port: key.source_port,
            protocol: key.protocol,
        };
        let ports = PORT_FIRST..=u16::MAX;
        while self.replies.contains_key(&back) {
            back.destination_port = back.destination_port.wrapping_add(1).max(*ports.start());
            if back.destination_port == key.source_port {
                return None;
            }
        }
        let reply = Reply {
            pod: key.source,
            pod_port: key.source_port,
            node: address(steer.get(4..)?)?,
            inner_mac: steer[8..14].try_into().ok()?,
            seen: Seen::default(),
        };
        self.replies.insert(back, reply);
        let mut original = Original { egress_port: back.destination_port, seen: Seen::default() };
        original.seen.note(now, length);
        self.originals.insert(key, original);
        Some(back.destination_port)
    }
}

/// The address that starts some bytes.
fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

/// Checks an IPv4 packet of TCP or UDP; gives its tuple and its length.
fn parse(packet: &[u8]) -> Option<(Key, u16)> {
    let header = packet.first_chunk::<20>()?;
    let length = u16::from_be_bytes([header[2], header[3]]);
    let protocol = header[9];
    let transport = packet.get(20..usize::from(length))?;
    let needed = if protocol == TCP { 20 } else { 8 };
    let is_ours = header[0] == 0x45
        && (protocol == TCP || protocol == UDP)
        && transport.len() >= needed
        && header[8] > 1
        && (header[6] & 0x3f, header[7]) == (0, 0)
        && sum(header) == 0xffff;
    let key = Key {
        source: address(&header[12..])?,
        destination: address(&header[16..])?,
        source_port: u16::from_be_bytes(transport[..2].try_into().ok()?),
        destination_port: u16::from_be_bytes(transport[2..4].try_into().ok()?),
        protocol,
    };
    is_ours.then_some((key, length))
}

/// Replaces the address at `address` and the port at `port` of a packet that was parsed.
fn translate(
    packet: &mut [u8],
    address: usize,
    port: usize,
    (old_address, old_port): (Ipv4Addr, u16),
    (new_address, new_port): (Ipv4Addr, u16),
) {
    let words = |address: Ipv4Addr| (address.to_bits() >> 16) + (address.to_bits() & 0xffff);
    let addresses = words(Ipv4Addr::from_bits(!old_address.to_bits())) + words(new_address);
    let ports = u32::from(!old_port) + u32::from(new_port);
    let (header, transport) = packet.split_at_mut(20);
    header[address..address + 4].copy_from_slice(&new_address.octets());
    header[8] -= 1;
    update(&mut header[10..12], addresses + 0xfeff);
    transport[port..port + 2].copy_from_slice(&new_port.to_be_bytes());
    match header[9] {
        TCP => update(&mut transport[16..18], addresses + ports),
        _ if transport[6..8] == [0, 0] => {}
        _ => {
            update(&mut transport[6..8], addresses + ports);
            if transport[6..8] == [0, 0] {
                transport[6..8].fill(0xff);
            }
        }
    }
}

/// Changes a checksum as its words have changed (RFC 1624).
fn update(checksum: &mut [u8], change: u32) {
    let old = u16::from_be_bytes([checksum[0], checksum[1]]);
    let [.., high, low] = (!fold(u32::from(!old) + change)).to_be_bytes();
    checksum.copy_from_slice(&[high, low]);
}

/// Writes Ethernet, IPv4, UDP, VXLAN and the inner Ethernet header.
fn encapsulate(head: &mut [u8], inner_length: u16, reply: &Reply, entropy: u16) {
    let Some(head) = head.first_chunk_mut::<{ TUNNEL_OVERHEAD + 14 }>() else { return };
    head.fill(0);
    head[..6].copy_from_slice(&[2, 0, 0, 0, 2, 7]);
    head[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    head[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    head[16..18].copy_from_slice(&(inner_length + 50).to_be_bytes());
    head[20] = 0x40;
    head[22..24].copy_from_slice(&[64, UDP]);
    head[26..30].copy_from_slice(&[192, 0, 2, 200]);
    head[30..34].copy_from_slice(&reply.node.octets());
    let [.., high, low] = (!sum(&head[14..34])).to_be_bytes();
    head[24..26].copy_from_slice(&[high, low]);
    head[34..36].copy_from_slice(&(0xc000 | entropy).to_be_bytes());
    head[36..38].copy_from_slice(&8472_u16.to_be_bytes());
    head[38..40].copy_from_slice(&(inner_length + 30).to_be_bytes());
    head[42] = 8;
    head[48] = 2;
    head[50..56].copy_from_slice(&reply.inner_mac);
    head[56..62].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    head[62..64].copy_from_slice(&[8, 0]);
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    fold(words.sum())
}

fn fold(sum: u32) -> u32 {
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff)
}
