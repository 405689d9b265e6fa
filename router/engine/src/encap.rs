//! The outer headers of a reply: Ethernet, IPv4, UDP and VXLAN (RFC 7348), from a template. Where
//! tunnels go over IPv6, [`OuterIpv6`] then takes the place of the first two.
//!
//! Outer DSCP 0, TTL 64, no UDP checksum: as Cilium sends them. The ECN field is the inner one (RFC
//! 6040). They may not be fragmented: nothing would notice pieces that are put together wrongly, and
//! tunnel endpoints need not take them (RFC 7348, section 4.3).

mod ipv6;

use std::net::IpAddr;

use crate::checksum::{Delta, checksum};
use crate::nat64;
use crate::packet::DONT_FRAGMENT;
use crate::steer::{REPLY_IP_OFFSET, REPLY_IP_OFFSET_6, TUNNEL_OVERHEAD};
use crate::tables::{Adjacency, DeviceIndex, Peer, ReplyVni};

pub(crate) use ipv6::{OuterIpv6, peer_key};

/// What the outer IPv4 packet has on top of the inner one: IPv4, UDP, VXLAN, inner Ethernet.
const OUTER_IP_OVERHEAD: u16 = 50;
/// The same of an outer IPv6 packet.
const OUTER_IPV6_OVERHEAD: u16 = 70;

/// The outer UDP length without the inner packet: UDP, VXLAN, inner Ethernet.
const OUTER_UDP_OVERHEAD: u16 = 30;

/// The first of the 16,384 outer source ports: the dynamic range, as RFC 7348 recommends.
const SOURCE_PORT_FIRST: u16 = 49_152;

/// What an Ethernet header says before a packet of IPv4 and of IPv6.
pub(crate) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(crate) const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

const IP: usize = 14;
const UDP: usize = IP + 20;
const VXLAN: usize = UDP + 8;
const VNI: usize = VXLAN + 4;
const INNER: usize = TUNNEL_OVERHEAD;

/// An Ethernet header.
pub(crate) fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: [u8; 2]) -> [u8; 14] {
    let mut header = [0; 14];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12..].copy_from_slice(&ethertype);
    header
}

/// Everything in front of a reply that is the same for all flows of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overlay {
    pub(crate) device: DeviceIndex,
    /// The largest inner packet that fits, in bytes: of IPv4 if that becomes IPv6.
    pub(crate) inner_mtu: u16,
    /// The same of packets that leave as they stand.
    pub(crate) usual_mtu: u16,
    /// Whether packets of IPv4 become IPv6 (NAT64).
    pub(crate) to_ipv6: bool,
    /// Whether replies have their flow's VNI; else the template has theirs.
    vni_of_flow: bool,
    /// Our tunnel address, the outer source.
    pub(crate) tunnel_address: IpAddr,
    /// All headers, with lengths, TOS, source port and inner destination of 0; over IPv6 with the
    /// peer's key for the outer destination, and no source.
    template: [u8; REPLY_IP_OFFSET],
    /// The checksum of the template's IPv4 header.
    template_checksum: u16,
}

/// What of these headers differs from reply to reply.
pub(crate) struct Label<'a> {
    /// Chooses the outer source port; the same for all packets of a flow.
    pub(crate) hash: u64,
    /// The VNI of the flow's own frames.
    pub(crate) flow_vni: &'a [u8; 3],
    /// The inner Ethernet destination.
    pub(crate) inner_mac: &'a [u8; 6],
    /// Length of the inner packet. Of one that will be cut the outer lengths mean nothing
    /// until then.
    pub(crate) inner_length: u16,
    /// The outer TOS byte.
    pub(crate) tos: u8,
}

impl Overlay {
    pub(crate) fn new(
        adjacency: &Adjacency,
        peer: &Peer,
        tunnel_port: u16,
        reply_vni: ReplyVni,
        inner_ethertype: [u8; 2],
    ) -> Self {
        let mut template = [0; REPLY_IP_OFFSET];
        template[..IP].copy_from_slice(&adjacency.ethernet);
        template[IP] = 0x45;
        template[IP + 6] = DONT_FRAGMENT;
        template[IP + 8] = 64;
        template[IP + 9] = 17;
        let overhead = match peer.tunnel_address {
            IpAddr::V4(source) => {
                template[IP + 12..IP + 16].copy_from_slice(&source.octets());
                OUTER_IP_OVERHEAD
            }
            IpAddr::V6(_) => OUTER_IPV6_OVERHEAD,
        };
        template[IP + 16..IP + 20].copy_from_slice(&peer.key.octets());
        template[UDP + 2..UDP + 4].copy_from_slice(&tunnel_port.to_be_bytes());
        template[VXLAN] = 0x08;
        if let ReplyVni::Fixed(vni) = reply_vni {
            let [_, vni @ ..] = vni.to_be_bytes();
            template[VNI..VNI + 3].copy_from_slice(&vni);
        }
        let inner = ethernet([0; 6], adjacency.source_mac(), inner_ethertype);
        template[INNER..].copy_from_slice(&inner);
        let template_checksum = checksum(&template[IP..UDP]);
        let inner_mtu = adjacency.mtu.saturating_sub(overhead);
        Self {
            device: adjacency.device,
            inner_mtu,
            usual_mtu: inner_mtu,
            to_ipv6: false,
            vni_of_flow: reply_vni == ReplyVni::Flow,
            tunnel_address: peer.tunnel_address,
            template,
            template_checksum,
        }
    }

    /// The same for packets of IPv4 that become IPv6, which the inner Ethernet header has to say. None
    /// of them takes the short way, where frames are sent as they stand.
    pub(crate) fn for_nat64(self) -> Self {
        let inner_mtu = self.inner_mtu.saturating_sub(nat64::SHORTER);
        Self { inner_mtu, usual_mtu: 0, to_ipv6: true, ..self }
    }

    /// Writes the 64 bytes in front of the inner packet.
    #[inline]
    pub(crate) fn write(&self, head: &mut [u8; REPLY_IP_OFFSET], label: &Label<'_>) {
        let ip_length = label.inner_length.wrapping_add(OUTER_IP_OVERHEAD);
        let udp_length = label.inner_length.wrapping_add(OUTER_UDP_OVERHEAD);
        let written = Delta::added(ip_length).plus(Delta::added(label.tos.into()));
        let ip_checksum = written.apply(self.template_checksum);
        // 14 bits of the hash that have chosen neither the table's group nor the tag.
        let [_, _, _, _, _, low, high, _] = label.hash.to_le_bytes();
        let source_port = SOURCE_PORT_FIRST | u16::from_le_bytes([low, high]);
        *head = self.template;
        head[IP + 1] = label.tos;
        head[IP + 2..IP + 4].copy_from_slice(&ip_length.to_be_bytes());
        head[IP + 10..IP + 12].copy_from_slice(&ip_checksum.to_be_bytes());
        head[UDP..UDP + 2].copy_from_slice(&source_port.to_be_bytes());
        head[UDP + 4..UDP + 6].copy_from_slice(&udp_length.to_be_bytes());
        if self.vni_of_flow {
            head[VNI..VNI + 3].copy_from_slice(label.flow_vni);
        }
        head[INNER..INNER + 6].copy_from_slice(label.inner_mac);
        // A kernel drops frames that seem to come from itself.
        if self.template[INNER + 6..INNER + 12] == *label.inner_mac {
            head[INNER + 11] ^= 1;
        }
    }
}

/// Makes the outer headers in front of a written inner packet, which is all that `frame` has behind
/// them, those of its length. `None`, and nothing done, when nothing is in front of a packet that
/// starts at `ip_offset`, or too much.
pub(crate) fn resize(frame: &mut [u8], ip_offset: usize) -> Option<()> {
    let inner_length = u16::try_from(frame.len().checked_sub(ip_offset)?).ok()?;
    match ip_offset {
        REPLY_IP_OFFSET => resize_ipv4(frame.first_chunk_mut()?, inner_length),
        REPLY_IP_OFFSET_6 => ipv6::resize(frame, inner_length.checked_add(OUTER_UDP_OVERHEAD)?)?,
        _ => return None,
    }
    Some(())
}

fn resize_ipv4(head: &mut [u8; REPLY_IP_OFFSET], inner_length: u16) {
    let ip_length = inner_length.saturating_add(OUTER_IP_OVERHEAD);
    let udp_length = inner_length.saturating_add(OUTER_UDP_OVERHEAD);
    head[IP + 2..IP + 4].copy_from_slice(&ip_length.to_be_bytes());
    head[UDP + 4..UDP + 6].copy_from_slice(&udp_length.to_be_bytes());
    head[IP + 10..IP + 12].fill(0);
    let sum = checksum(&head[IP..UDP]);
    head[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
}
