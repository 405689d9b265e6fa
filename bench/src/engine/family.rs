//! The address families, and the addresses that flows have in each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The address that all IPv4 flows leave with, and that of IPv6 flows.
pub(super) const EGRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const EGRESS_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 7);

/// The next hop of both.
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ROUTER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 1);

/// The pods' networks, and the remotes' (RFC 2544 has one for IPv4, RFC 5180 one for IPv6).
const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8);
const PODS_IPV6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 8);
const REMOTES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const REMOTES_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0);

/// Which of the two packets are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub(crate) enum AddressFamily {
    #[value(name = "4")]
    #[serde(rename = "IPv4")]
    Ipv4,
    #[value(name = "6")]
    #[serde(rename = "IPv6")]
    Ipv6,
}

impl AddressFamily {
    /// The address that all flows leave with.
    pub(super) fn egress(self) -> IpAddr {
        match self {
            Self::Ipv4 => EGRESS.into(),
            Self::Ipv6 => EGRESS_IPV6.into(),
        }
    }

    /// The next hop.
    pub(super) fn router(self) -> IpAddr {
        match self {
            Self::Ipv4 => ROUTER.into(),
            Self::Ipv6 => ROUTER_IPV6.into(),
        }
    }

    /// The network that all pods are in.
    pub(super) fn pods(self) -> IpNet {
        match self {
            Self::Ipv4 => PODS.into(),
            Self::Ipv6 => PODS_IPV6.into(),
        }
    }

    /// Pod `number`, from 0 on.
    pub(super) fn pod(self, number: u32) -> IpAddr {
        nth(self.pods().network(), number + 1)
    }

    /// Remote address `number`, from 0 on.
    pub(super) fn remote(self, number: u32) -> IpAddr {
        match self {
            Self::Ipv4 => nth(REMOTES.into(), number),
            Self::Ipv6 => nth(REMOTES_IPV6.into(), number),
        }
    }
}

fn nth(first: IpAddr, number: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + number).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(number)).into(),
    }
}
