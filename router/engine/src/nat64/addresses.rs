//! Which address of one family stands for which one of the other.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{ICMP, ICMPV6, Prefix};
use crate::flow::Tuple;
use crate::map::Map;
use crate::tables::Nat64Input;

/// The prefix of the outside, and the numbers of pods.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    prefix: Prefix,
    numbers: Map<Ipv6Addr, Ipv4Addr>,
    pods: Arc<Map<Ipv4Addr, Ipv6Addr>>,
}

impl Addresses {
    pub(crate) fn new(input: &Nat64Input) -> Self {
        let Nat64Input { prefix, pods } = input;
        Self {
            prefix: *prefix,
            numbers: pods.iter().map(|(number, address)| (*address, *number)).collect(),
            pods: Arc::new(pods.iter().copied().collect()),
        }
    }

    /// The address of each number.
    pub(crate) fn pods(&self) -> Arc<Map<Ipv4Addr, Ipv6Addr>> {
        Arc::clone(&self.pods)
    }

    /// Whether an address is in the prefix.
    pub(crate) fn is_outside(&self, address: Ipv6Addr) -> bool {
        self.prefix.contains(address)
    }

    /// The IPv4 address that an IPv6 one stands for.
    pub(crate) fn outside(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        self.prefix.extract(address)
    }

    /// A pod's number.
    pub(crate) fn number(&self, pod: Ipv6Addr) -> Option<Ipv4Addr> {
        self.numbers.get(&pod).copied()
    }

    /// The address of a number's pod.
    pub(super) fn pod(&self, number: Ipv4Addr) -> Option<Ipv6Addr> {
        self.pods.get(&number).copied()
    }

    /// A pod's tuple as the IPv4 translator has it.
    pub(crate) fn tuple(&self, of_pod: &Tuple<Ipv6Addr>) -> Option<Tuple<Ipv4Addr>> {
        Some(Tuple {
            source: self.number(of_pod.source)?,
            destination: self.outside(of_pod.destination)?,
            source_port: of_pod.source_port,
            destination_port: of_pod.destination_port,
            protocol: match of_pod.protocol {
                ICMPV6 => ICMP,
                protocol => protocol,
            },
        })
    }

    /// The address that stands for one of the outside. Nobody there is taken for a pod.
    pub(crate) fn embedded(&self, outside: Ipv4Addr) -> Ipv6Addr {
        self.prefix.embed(outside)
    }
}
