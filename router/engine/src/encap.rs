//! The outer headers of a reply: Ethernet, IPv4, UDP and VXLAN (RFC 7348), from a template.
//!
//! Outer DSCP 0, TTL 64, no UDP checksum: as Cilium sends them. The ECN field is the inner one (RFC
//! 6040). They may not be fragmented: nothing would notice pieces that are put together wrongly, and
//! tunnel endpoints need not take them (RFC 7348, section 4.3).

use std::net::Ipv4Addr;

use crate::DropReason;
use crate::checksum::{Delta, checksum};
use crate::packet::DONT_FRAGMENT;
use crate::steer::{REPLY_IP_OFFSET, TUNNEL_OVERHEAD};
use crate::tables::{Adjacency, DeviceIndex};

/// What the outer IPv4 packet has on top of the inner one: IPv4, UDP, VXLAN, inner Ethernet.
const OUTER_IP_OVERHEAD: u16 = 50;

/// The outer UDP length without the inner packet: UDP, VXLAN, inner Ethernet.
const OUTER_UDP_OVERHEAD: u16 = 30;

/// The first of the 16,384 outer source ports: the dynamic range, as RFC 7348 recommends.
const SOURCE_PORT_FIRST: u16 = 49_152;

/// What an Ethernet header says before an IPv4 packet.
pub(crate) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const IP: usize = 14;
const UDP: usize = IP + 20;
const VXLAN: usize = UDP + 8;

/// An Ethernet header that carries IPv4.
pub(crate) fn ethernet(destination: [u8; 6], source: [u8; 6]) -> [u8; 14] {
    let mut header = [0; 14];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12..].copy_from_slice(&ETHERTYPE_IPV4);
    header
}

/// Everything of the outer headers that is the same for all flows of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overlay {
    pub(crate) device: DeviceIndex,
    /// Our tunnel address, the outer source.
    pub(crate) tunnel_address: Ipv4Addr,
    /// The largest inner IPv4 packet that fits, in bytes.
    pub(crate) inner_mtu: u16,
    /// Our link address, the inner source of replies.
    mac: [u8; 6],
    /// The headers with lengths, source port and VNI of 0, and the IPv4 checksum of that.
    template: [u8; TUNNEL_OVERHEAD],
    template_checksum: u16,
}

/// What of the outer headers differs from reply to reply.
pub(crate) struct Label {
    /// Chooses the outer source port; the same for all packets of a flow.
    pub(crate) hash: u64,
    pub(crate) vni: [u8; 3],
    /// The inner Ethernet destination.
    pub(crate) inner_mac: [u8; 6],
    /// Total length of the inner IPv4 packet.
    pub(crate) inner_length: u16,
    /// The outer TOS byte.
    pub(crate) tos: u8,
}

impl Overlay {
    pub(crate) fn new(
        adjacency: &Adjacency,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        tunnel_port: u16,
    ) -> Self {
        let mut template = [0; TUNNEL_OVERHEAD];
        template[..IP].copy_from_slice(&adjacency.ethernet);
        template[IP] = 0x45;
        template[IP + 6] = DONT_FRAGMENT;
        template[IP + 8] = 64;
        template[IP + 9] = 17;
        template[IP + 12..IP + 16].copy_from_slice(&source.octets());
        template[IP + 16..IP + 20].copy_from_slice(&destination.octets());
        template[UDP + 2..UDP + 4].copy_from_slice(&tunnel_port.to_be_bytes());
        template[VXLAN] = 0x08;
        let template_checksum = checksum(&template[IP..UDP]);
        Self {
            device: adjacency.device,
            tunnel_address: source,
            inner_mtu: adjacency.mtu.saturating_sub(OUTER_IP_OVERHEAD),
            mac: adjacency.source_mac(),
            template,
            template_checksum,
        }
    }

    /// Writes the 64 bytes in front of the inner IPv4 packet.
    pub(crate) fn write(&self, frame: &mut [u8], label: &Label) -> Result<(), DropReason> {
        let head = frame.first_chunk_mut::<REPLY_IP_OFFSET>().ok_or(DropReason::Truncated)?;
        let ip_length = label.inner_length.saturating_add(OUTER_IP_OVERHEAD);
        let udp_length = label.inner_length.saturating_add(OUTER_UDP_OVERHEAD);
        let changed = Delta::word(0, ip_length).plus(Delta::word(0, u16::from(label.tos)));
        let ip_checksum = changed.apply(self.template_checksum);
        // 14 bits of the hash that have chosen neither the table's group nor the tag.
        let [_, high, low, ..] = label.hash.to_be_bytes();
        let source_port = SOURCE_PORT_FIRST | u16::from_be_bytes([high, low]) >> 2;
        head[..TUNNEL_OVERHEAD].copy_from_slice(&self.template);
        head[IP + 1] = label.tos;
        head[IP + 2..IP + 4].copy_from_slice(&ip_length.to_be_bytes());
        head[IP + 10..IP + 12].copy_from_slice(&ip_checksum.to_be_bytes());
        head[UDP..UDP + 2].copy_from_slice(&source_port.to_be_bytes());
        head[UDP + 4..UDP + 6].copy_from_slice(&udp_length.to_be_bytes());
        head[VXLAN + 4..VXLAN + 7].copy_from_slice(&label.vni);
        let inner = ethernet(label.inner_mac, other_than(label.inner_mac, self.mac));
        head[TUNNEL_OVERHEAD..].copy_from_slice(&inner);
        Ok(())
    }
}

/// Makes written outer headers those of an inner packet of another length.
pub(crate) fn resize(head: &mut [u8; REPLY_IP_OFFSET], inner_length: u16) {
    let ip_length = inner_length.saturating_add(OUTER_IP_OVERHEAD);
    let udp_length = inner_length.saturating_add(OUTER_UDP_OVERHEAD);
    head[IP + 2..IP + 4].copy_from_slice(&ip_length.to_be_bytes());
    head[UDP + 4..UDP + 6].copy_from_slice(&udp_length.to_be_bytes());
    head[IP + 10..IP + 12].fill(0);
    let sum = checksum(&head[IP..UDP]);
    head[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
}

/// `mac`, or where it equals `taken` one that differs: a kernel drops frames that seem to come
/// from itself.
fn other_than(taken: [u8; 6], mut mac: [u8; 6]) -> [u8; 6] {
    if mac == taken {
        mac[5] ^= 1;
    }
    mac
}
