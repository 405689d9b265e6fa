//! The two families' addresses, as far as tables and plans tell them apart.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Pods whose addresses differ only in as many low bits share an entry: `BLOCK_BITS` of steer.h.
const BLOCK_BITS: u32 = 4;
/// How many pods share an entry.
pub(crate) const BLOCK_PODS: usize = 1 << BLOCK_BITS;

/// An IPv4 or an IPv6 address.
pub trait Address: Sealed + Copy + Ord + Hash + Debug + Into<IpAddr> {
    /// A prefix of such addresses.
    type Net: Copy + Ord + Hash + Debug;

    /// A prefix's first and last address as numbers of 128 bits: an IPv4 address stands for all
    /// numbers that begin with it.
    fn range(net: &Self::Net) -> (u128, u128);
}

/// What only this crate asks of an address; and nobody else makes one.
pub trait Sealed: Sized {
    /// What messages call pods with such addresses, and egress addresses.
    const NAMES: [&'static str; 2];

    /// The first address of those with which this one shares an entry, and its place in there.
    fn block(self) -> (Self, usize);
}

impl Sealed for Ipv4Addr {
    const NAMES: [&'static str; 2] = ["pods", "egress addresses"];

    fn block(self) -> (Self, usize) {
        let place = self.to_bits() as usize % BLOCK_PODS;
        (Self::from_bits(self.to_bits() >> BLOCK_BITS << BLOCK_BITS), place)
    }
}

impl Address for Ipv4Addr {
    type Net = Ipv4Net;

    fn range(net: &Ipv4Net) -> (u128, u128) {
        let word = |address: Self| u128::from(address.to_bits()) << 96;
        (word(net.network()), word(net.broadcast()) | u128::MAX >> 32)
    }
}

impl Sealed for Ipv6Addr {
    const NAMES: [&'static str; 2] = ["IPv6 pods", "IPv6 egress addresses"];

    fn block(self) -> (Self, usize) {
        let place = self.to_bits() as usize % BLOCK_PODS;
        (Self::from_bits(self.to_bits() >> BLOCK_BITS << BLOCK_BITS), place)
    }
}

impl Address for Ipv6Addr {
    type Net = Ipv6Net;

    fn range(net: &Ipv6Net) -> (u128, u128) {
        (net.network().to_bits(), net.broadcast().to_bits())
    }
}
