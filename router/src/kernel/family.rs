//! The two address families, as rtnetlink names them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

/// The families that are followed: each has lists of its own.
pub(super) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// The unspecified address of a family, which stands for an address that a message leaves out;
/// `None` for families that are not followed.
pub(super) fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

/// An address's family.
pub(super) fn of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// What a family's rules are called in a report: IPv4's are just rules, as `ip rule` has it.
pub(super) fn name_of_rules(family: AddressFamily) -> &'static str {
    if family == AddressFamily::Inet6 { "IPv6 rule" } else { "rule" }
}

/// The prefix of `length` bits that an address is in. The kernel never gives a length above the
/// address's; if it did, only the address itself would match.
pub(super) fn prefix(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).map_or_else(|_| address.into(), |net| net.trunc())
}
