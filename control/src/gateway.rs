//! Which node carries a policy out, and with which address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use spillway_api::IpFamily;

use crate::cluster::Cluster;
use crate::family::PerFamily;
use crate::policy::{Gateway, Policy};

/// The addresses of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Addresses by interface, of each family the host's own choice first.
    pub interfaces: BTreeMap<String, Vec<IpAddr>>,
    /// The interfaces of the default routes.
    pub default_interfaces: PerFamily<Option<String>>,
}

impl Host {
    /// The egress address of a family that an entry of a policy means on this host. Where the
    /// entry names one of the other family, it is the first one of the same interface, as Cilium
    /// takes it.
    ///
    /// # Errors
    ///
    /// Why there is none, and what to do.
    pub fn egress_address(&self, gateway: &Gateway, family: IpFamily) -> Result<IpAddr, String> {
        let (interface, named) = match (&gateway.interface, gateway.address) {
            (None, Some(address)) => match self.interface_of(address) {
                Some(interface) => (interface, Some(address)),
                None => {
                    return Err(format!(
                        "no interface of this gateway has {address}: add it, change egressIP, or \
                         let Spillway announce it (--announce-on)"
                    ));
                }
            },
            (Some(interface), Some(address)) => match self.interfaces.get(interface) {
                Some(addresses) if addresses.contains(&address) => (interface, Some(address)),
                Some(_) => {
                    return Err(format!("{interface} of this gateway does not have {address}"));
                }
                None => return Err(format!("this gateway has no interface {interface}")),
            },
            (Some(interface), None) => (interface, None),
            (None, None) => match self.default_interfaces.get(family) {
                Some(interface) => (interface, None),
                None => {
                    return Err(format!(
                        "this gateway has no {family} default route to take the address of: name \
                         an interface or an egressIP"
                    ));
                }
            },
        };
        match named {
            Some(address) if IpFamily::of(address) == family => Ok(address),
            _ => self.first_address(interface, family),
        }
    }

    /// Whether an address is the first of its family on its interface: the host's own traffic
    /// leaves with it.
    #[must_use]
    pub fn is_first(&self, address: IpAddr) -> bool {
        let family = IpFamily::of(address);
        self.interfaces.keys().any(|interface| self.first(interface, family) == Some(address))
    }

    /// Whether some interface has an address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.interface_of(address).is_some()
    }

    /// The first address of a family on an interface.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn first_address(&self, interface: &str, family: IpFamily) -> Result<IpAddr, String> {
        if !self.interfaces.contains_key(interface) {
            return Err(format!("this gateway has no interface {interface} with an address"));
        }
        let none = || format!("{interface} of this gateway has no {family} address");
        self.first(interface, family).ok_or_else(none)
    }

    fn first(&self, interface: &str, family: IpFamily) -> Option<IpAddr> {
        let addresses = self.interfaces.get(interface)?;
        addresses.iter().find(|address| IpFamily::of(**address) == family).copied()
    }

    fn interface_of(&self, address: IpAddr) -> Option<&String> {
        let mut interfaces = self.interfaces.iter();
        interfaces.find(|(_, addresses)| addresses.contains(&address)).map(|(name, _)| name)
    }
}

/// A node that Cilium would send a policy's traffic to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its end of the tunnels.
    pub address: IpAddr,
    /// The policy's entry that names it.
    pub entry: usize,
}

/// The gateways among which Cilium spreads a policy's pods: of each entry the first node by name
/// that matches and has an address; in the order of these addresses. Cilium itself takes IPv4
/// addresses only.
#[must_use]
pub fn candidates<'a>(cluster: &'a Cluster, policy: &Policy) -> Vec<Candidate<'a>> {
    let underlay = cluster.network().underlay;
    let first = |(entry, gateway): (usize, &Gateway)| {
        cluster.nodes().filter(|(_, node)| gateway.nodes.matches_labels(&node.labels)).find_map(
            |(name, node)| {
                let address = underlay.address(node)?;
                Some(Candidate { node: name, address, entry })
            },
        )
    };
    let mut found: Vec<_> = policy.gateways.iter().enumerate().filter_map(first).collect();
    found.sort_by_key(|candidate| candidate.address);
    found
}

/// Cilium's choice for a pod among the candidates, by its endpoint's identifier, which is asked
/// for where there is a choice.
pub fn choose<'a, 'b, 'c>(
    candidates: &'b [Candidate<'a>],
    spread_key: impl FnOnce() -> &'c str,
) -> Option<&'b Candidate<'a>> {
    let count = u32::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
    let chosen = if count == 1 { 0 } else { fnv1a(spread_key().as_bytes()) % count };
    candidates.get(chosen as usize)
}

/// FNV-1a with 32 bits (draft-eastlake-fnv).
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        // Test vectors of draft-eastlake-fnv.
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }

    fn host() -> Host {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Host {
            interfaces: [
                ("eth0".into(), addresses(&["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"])),
                ("eth1".into(), addresses(&["192.0.2.1"])),
                ("eth2".into(), addresses(&["2001:db8::1"])),
            ]
            .into(),
            default_interfaces: PerFamily { v4: Some("eth1".into()), v6: Some("eth2".into()) },
        }
    }

    /// The answer of each family.
    fn ask(host: &Host, interface: Option<&str>, address: Option<&str>) -> [String; 2] {
        let gateway = Gateway {
            nodes: crate::labels::Selector::default(),
            interface: interface.map(Into::into),
            address: address.map(|text| text.parse().unwrap()),
        };
        IpFamily::ALL.map(|family| match host.egress_address(&gateway, family) {
            Ok(address) => address.to_string(),
            Err(why) => why,
        })
    }

    #[test]
    fn an_entry_means_the_addresses_that_cilium_would_take() {
        for (interface, address, expected) in [
            (None, None, ["192.0.2.1", "2001:db8::1"]),
            (Some("eth0"), None, ["10.0.0.1", "fd00::1"]),
            (None, Some("10.0.0.2"), ["10.0.0.2", "fd00::1"]),
            (None, Some("fd00::2"), ["10.0.0.1", "fd00::2"]),
            (Some("eth0"), Some("10.0.0.2"), ["10.0.0.2", "fd00::1"]),
        ] {
            assert_eq!(ask(&host(), interface, address), expected);
        }
    }

    #[test]
    fn of_each_family_it_is_said_why_there_is_no_address() {
        for (interface, address, messages) in [
            (Some("eth1"), Some("10.0.0.2"), ["eth1 of this gateway does not have 10.0.0.2"; 2]),
            (None, Some("10.0.0.9"), ["no interface of this gateway has 10.0.0.9"; 2]),
            (None, Some("fd00::9"), ["no interface of this gateway has fd00::9"; 2]),
            (Some("eth9"), None, ["this gateway has no interface eth9"; 2]),
            (Some("eth1"), None, ["192.0.2.1", "eth1 of this gateway has no IPv6 address"]),
            (None, Some("192.0.2.1"), ["192.0.2.1", "eth1 of this gateway has no IPv6 address"]),
            (Some("eth2"), None, ["eth2 of this gateway has no IPv4 address", "2001:db8::1"]),
        ] {
            let said = ask(&host(), interface, address);
            for (said, message) in said.iter().zip(messages) {
                assert!(said.starts_with(message), "{said}, not {message}");
            }
        }
        let alone = Host { default_interfaces: PerFamily::default(), ..host() };
        let [v4, v6] = ask(&alone, None, None);
        assert!(v4.starts_with("this gateway has no IPv4 default route"), "{v4}");
        assert!(v6.starts_with("this gateway has no IPv6 default route"), "{v6}");
    }

    #[test]
    fn each_family_has_a_first_address() {
        let first = |text: &str| host().is_first(text.parse().unwrap());
        for address in ["10.0.0.1", "fd00::1", "192.0.2.1", "2001:db8::1"] {
            assert!(first(address), "{address}");
        }
        assert!(!first("10.0.0.2") && !first("fd00::2") && !first("fd00::9"));
    }
}
