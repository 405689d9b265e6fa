//! What the tunnel between node and gateway goes over.

use std::net::IpAddr;

use crate::family::{Family, v4, v6};

/// The tunnel's own addresses, of one family.
#[derive(Debug)]
pub(crate) struct Underlay {
    pub(crate) node: IpAddr,
    /// The gateway's address for the tunnel.
    pub(crate) gateway: IpAddr,
    /// Bits of their network.
    pub(crate) prefix: u8,
    /// What `ip route` calls its encapsulation. Over IPv6 a kernel drops UDP without a checksum.
    pub(crate) encap: &'static str,
    pub(crate) checksum: &'static str,
    /// What fits the tunnel.
    pub(crate) pod_mtu: usize,
    /// Names of worlds.
    pub(crate) name: &'static str,
}

pub(crate) static OVER_IPV4: Underlay = Underlay {
    node: v4(192, 168, 1, 2),
    gateway: v4(192, 168, 1, 1),
    prefix: 24,
    encap: "ip",
    checksum: "",
    pod_mtu: 1450,
    name: "",
};

pub(crate) static OVER_IPV6: Underlay = Underlay {
    node: v6(0x2001, 1, 2),
    gateway: v6(0x2001, 1, 1),
    prefix: 64,
    encap: "ip6",
    checksum: " csum",
    pod_mtu: 1430,
    name: "6",
};

impl Underlay {
    /// The address that a pod of a family gets errors from.
    pub(crate) fn errors_from(&self, family: &Family) -> IpAddr {
        let is_same = self.gateway.is_ipv4() == family.egress.is_ipv4();
        if is_same { self.gateway } else { family.egress }
    }
}
