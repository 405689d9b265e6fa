//! Which node carries a policy out, and with which address.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::cluster::Cluster;
use crate::policy::{Gateway, Policy};

/// The addresses of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// IPv4 addresses by interface, the first one first.
    pub interfaces: BTreeMap<String, Vec<Ipv4Addr>>,
    /// The interface of the IPv4 default route.
    pub default_interface: Option<String>,
}

impl Host {
    /// The egress address that an entry of a policy means on this host.
    ///
    /// # Errors
    ///
    /// Why there is none, and what to do.
    pub fn egress_address(&self, gateway: &Gateway) -> Result<Ipv4Addr, String> {
        match (&gateway.interface, gateway.address) {
            (None, Some(address)) => self.has(address).then_some(address).ok_or_else(|| {
                format!(
                    "no interface of this gateway has {address}: add it, change egressIP, or let \
                     Spillway announce it (--announce-on)"
                )
            }),
            (Some(interface), Some(address)) => match self.interfaces.get(interface) {
                Some(addresses) if addresses.contains(&address) => Ok(address),
                Some(_) => Err(format!("{interface} of this gateway does not have {address}")),
                None => Err(format!("this gateway has no interface {interface}")),
            },
            (Some(interface), None) => self.first_address(interface),
            (None, None) => match &self.default_interface {
                Some(interface) => self.first_address(interface),
                None => Err("this gateway has no IPv4 default route to take the address of: name \
                             an interface or an egressIP"
                    .into()),
            },
        }
    }

    /// Whether an address is the first of its interface: the host's own traffic leaves with it.
    #[must_use]
    pub fn is_first(&self, address: Ipv4Addr) -> bool {
        self.interfaces.values().any(|addresses| addresses.first() == Some(&address))
    }

    /// Whether some interface has an address.
    #[must_use]
    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.interfaces.values().any(|addresses| addresses.contains(&address))
    }

    fn first_address(&self, interface: &str) -> Result<Ipv4Addr, String> {
        match self.interfaces.get(interface) {
            Some(addresses) => addresses
                .first()
                .copied()
                .ok_or_else(|| format!("{interface} of this gateway has no IPv4 address")),
            None => Err(format!("this gateway has no interface {interface}")),
        }
    }
}

/// A node that Cilium would send a policy's traffic to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its address.
    pub address: Ipv4Addr,
    /// The policy's entry that names it.
    pub entry: usize,
}

/// The gateways among which Cilium spreads a policy's pods: of each entry the first node by name
/// that matches and has an address; in the order of these addresses.
#[must_use]
pub fn candidates<'a>(cluster: &'a Cluster, policy: &Policy) -> Vec<Candidate<'a>> {
    let first = |(entry, gateway): (usize, &Gateway)| {
        cluster
            .nodes()
            .filter(|(_, node)| gateway.nodes.matches_labels(&node.labels))
            .find_map(|(name, node)| Some(Candidate { node: name, address: node.address?, entry }))
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

    #[test]
    fn an_entry_means_the_address_that_cilium_would_take() {
        let host = Host {
            interfaces: [
                ("eth0".into(), vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]),
                ("eth1".into(), vec![Ipv4Addr::new(192, 0, 2, 1)]),
                ("eth2".into(), vec![]),
            ]
            .into(),
            default_interface: Some("eth1".into()),
        };
        let ask = |interface: Option<&str>, address: Option<[u8; 4]>| {
            host.egress_address(&Gateway {
                nodes: crate::labels::Selector::default(),
                interface: interface.map(Into::into),
                address: address.map(Into::into),
            })
        };
        assert_eq!(ask(None, None), Ok([192, 0, 2, 1].into()));
        assert_eq!(ask(Some("eth0"), None), Ok([10, 0, 0, 1].into()));
        assert_eq!(ask(None, Some([10, 0, 0, 2])), Ok([10, 0, 0, 2].into()));
        assert_eq!(ask(Some("eth0"), Some([10, 0, 0, 2])), Ok([10, 0, 0, 2].into()));
        for (interface, address, message) in [
            (Some("eth1"), Some([10, 0, 0, 2]), "eth1 of this gateway does not have 10.0.0.2"),
            (None, Some([10, 0, 0, 9]), "no interface of this gateway has 10.0.0.9"),
            (Some("eth9"), None, "this gateway has no interface eth9"),
            (Some("eth2"), None, "eth2 of this gateway has no IPv4 address"),
        ] {
            let said = ask(interface, address).unwrap_err();
            assert!(said.contains(message), "{said}");
        }
    }
}
