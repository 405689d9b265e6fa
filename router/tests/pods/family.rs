//! The two families' addresses of the topology, and what else differs between them there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of one family.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) pods: [IpAddr; 2],
    pub(crate) egress: IpAddr,
    pub(crate) server: IpAddr,
    /// The same server, but packets of more than [`NARROW_MTU`](crate::world::NARROW_MTU) bytes do
    /// not reach it there.
    pub(crate) narrow: IpAddr,
    /// The hop refuses what goes there: unreachable, and prohibited.
    pub(crate) unreachable: IpAddr,
    pub(crate) prohibited: IpAddr,
    /// Bytes of a header without options or extensions.
    pub(crate) header: usize,

    /// The networks of the pods and of the server.
    pub(crate) pod_network: &'static str,
    pub(crate) outside: &'static str,
    /// Bits of the network of a link.
    pub(crate) prefix: u8,
    /// The node, for its pods.
    pub(crate) node: &'static str,
    /// For static neighbours only, so that an inner frame has the other end's link address.
    pub(crate) tunnel_peer: &'static str,
    /// The two ends of the link between gateway and hop, and the hop for the server.
    pub(crate) gateway: &'static str,
    pub(crate) hop: &'static str,
    pub(crate) hop_inside: &'static str,
    /// What nftables calls the family, and names of worlds.
    pub(crate) nft: &'static str,
    pub(crate) forwarding: &'static str,
    pub(crate) error_rate_limit: &'static str,
}

pub(crate) const FAMILIES: [&Family; 2] = [&IPV4, &IPV6];

pub(crate) static IPV4: Family = Family {
    pods: [v4(10, 0, 1, 40), v4(10, 0, 1, 41)],
    egress: v4(192, 168, 2, 3),
    server: v4(203, 0, 113, 10),
    narrow: v4(203, 0, 113, 20),
    unreachable: v4(203, 0, 113, 30),
    prohibited: v4(203, 0, 113, 31),
    header: 20,
    pod_network: "10.0.1.0/24",
    outside: "203.0.113.0/24",
    prefix: 24,
    node: "169.254.1.1",
    tunnel_peer: "169.254.10.1",
    gateway: "192.168.2.1",
    hop: "192.168.2.2",
    hop_inside: "203.0.113.1",
    nft: "ip",
    forwarding: "net/ipv4/ip_forward",
    error_rate_limit: "net/ipv4/icmp_ratelimit",
};

pub(crate) static IPV6: Family = Family {
    pods: [v6(0xfd00, 1, 0x40), v6(0xfd00, 1, 0x41)],
    egress: v6(0x2001, 2, 3),
    server: v6(0x2001, 0x203, 0x10),
    narrow: v6(0x2001, 0x203, 0x20),
    unreachable: v6(0x2001, 0x203, 0x30),
    prohibited: v6(0x2001, 0x203, 0x31),
    header: 40,
    pod_network: "fd00:db8:1::/64",
    outside: "2001:db8:203::/64",
    prefix: 64,
    node: "fd00:db8:169::1",
    tunnel_peer: "fe80::10:1",
    gateway: "2001:db8:2::1",
    hop: "2001:db8:2::2",
    hop_inside: "2001:db8:203::1",
    nft: "ip6",
    forwarding: "net/ipv6/conf/all/forwarding",
    error_rate_limit: "net/ipv6/icmp/ratelimit",
};

pub(crate) const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// A host of a network that is called so.
pub(crate) const fn v6(first: u16, network: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, 0xdb8, network, 0, 0, 0, 0, host))
}

impl Family {
    /// The bytes of UDP or of a ping that fit a packet of so many.
    pub(crate) fn payload_of(&self, packet: usize) -> usize {
        packet - self.header - 8
    }
}
