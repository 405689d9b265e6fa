//! The two families of addresses, and which addresses a host can have.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

/// A family of addresses. Lists of the state document may mix them; no packet ever does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpFamily {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl IpFamily {
    /// Both, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a prefix.
    #[must_use]
    pub fn of_prefix(prefix: IpNet) -> Self {
        Self::of(prefix.addr())
    }

    /// Its unspecified address: what `cilium-dbg` shows where there is none.
    #[must_use]
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Whether a packet that is routed may come from this address: whether it can be a pod's or an
/// egress address.
///
/// # Errors
///
/// A sentence that says what was expected.
pub fn check_host_address(address: IpAddr) -> Result<(), String> {
    let is_host = match address {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => return check_host_address_v6(address),
    };
    is_host.then_some(()).ok_or_else(|| no_host(address))
}

fn check_host_address_v6(address: Ipv6Addr) -> Result<(), String> {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return Err(format!("{address} is an IPv4 address in the form of IPv6; expected {mapped}"));
    }
    if address.is_unicast_link_local() {
        let message =
            format!("{address} is link-local, and no router forwards it; expected a global one");
        return Err(message);
    }
    let is_host = !(address.is_unspecified() || address.is_loopback() || address.is_multicast());
    is_host.then_some(()).ok_or_else(|| no_host(address.into()))
}

/// RFC 1122, 3.2.1.3, and RFC 1112, 4; RFC 4291, 2.5 and 2.7.
fn no_host(address: IpAddr) -> String {
    format!("expected the address of one host, found {address}")
}

/// Refuses a prefix of IPv4-mapped addresses: they are IPv4's inside of a program, and on no wire
/// (RFC 4291, 2.5.5.2).
///
/// # Errors
///
/// A sentence that says what was expected.
pub fn check_not_mapped(prefix: IpNet) -> Result<(), String> {
    const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
    match prefix {
        IpNet::V6(inside) if MAPPED.contains(&inside) => {
            Err(format!("{prefix} holds IPv4 addresses in the form of IPv6; expected IPv4's own"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_addresses_are_taken() {
        for good in ["10.0.0.1", "169.254.0.1", "223.255.255.255", "2001:db8::1", "fd00::1"] {
            assert_eq!(check_host_address(good.parse().unwrap()), Ok(()), "{good}");
        }
        let bad = "0.0.0.0 0.1.2.3 127.0.0.1 224.0.0.1 255.255.255.255 :: ::1 fe80::1 febf:ffff::1 \
                   ff02::1 ff0e::1 ::ffff:10.0.0.1";
        for bad in bad.split_whitespace() {
            let said = check_host_address(bad.parse().unwrap()).unwrap_err();
            assert!(said.contains(bad), "{said}");
        }
    }

    #[test]
    fn mapped_prefixes_are_told_from_those_around_them() {
        for (prefix, good) in [
            ("::ffff:0:0/96", false),
            ("::ffff:10.0.0.0/104", false),
            ("::/0", true),
            ("::/80", true),
            ("::fffe:0:0/96", true),
            ("10.0.0.0/8", true),
        ] {
            assert_eq!(check_not_mapped(prefix.parse().unwrap()).is_ok(), good, "{prefix}");
        }
    }
}
