//! The two address families. Whatever both have in common is written once, by this parameter; what
//! they differ in is a method here, and of packets in `packet/wire.rs`.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address family: [`V4`] or [`V6`].
pub trait Family:
    Copy + Debug + Default + Eq + Ord + Hash + Send + Sync + Sealed + 'static
{
    /// An address of a host.
    type Address: Address<Family = Self>;
    /// A prefix.
    type Net: Copy + Debug + Display + Eq + Ord + Hash + Send + Sync + 'static;
    /// An address as a number: it has the order of the addresses.
    type Bits: Copy + Debug + Eq + Ord + Send + Sync + 'static;
    /// Two addresses in words, as their bytes stand in a packet.
    type Pair: Copy + Debug + Eq + AsRef<[u64]> + Send + Sync + 'static;

    /// The address of no host: all zeros.
    const UNSPECIFIED: Self::Address;
    /// The prefix of all addresses.
    const EVERYTHING: Self::Net;
    /// Two addresses that are all zeros.
    const PAIR_NONE: Self::Pair;

    /// The address, if it is of this family.
    fn address(address: IpAddr) -> Option<Self::Address>;
    /// The prefix, if it is of this family.
    fn net(prefix: IpNet) -> Option<Self::Net>;
    /// An address as a number.
    fn bits(address: Self::Address) -> Self::Bits;
    /// The number after an address, if there is one.
    fn following(address: Self::Address) -> Option<Self::Bits>;

    /// The first address of a prefix.
    fn first(prefix: Self::Net) -> Self::Address;
    /// The last address of a prefix.
    fn last(prefix: Self::Net) -> Self::Address;
    /// The bits that all addresses of a prefix have in common.
    fn mask(prefix: Self::Net) -> Self::Address;
    /// How many bits those are.
    fn length(prefix: Self::Net) -> u8;
    /// A prefix without bits of one host.
    fn truncated(prefix: Self::Net) -> Self::Net;
    /// Whether all of `inner` is in `outer`.
    fn contains(outer: Self::Net, inner: Self::Net) -> bool;

    /// Two addresses in words.
    fn pair(source: Self::Address, destination: Self::Address) -> Self::Pair;
    /// The two addresses again.
    fn unpair(pair: Self::Pair) -> (Self::Address, Self::Address);
    /// Of two addresses, the bits that a mask has.
    fn masked(pair: Self::Pair, mask: Self::Pair) -> Self::Pair;
}

/// An address of a family: `Ipv4Addr` or `Ipv6Addr`.
pub trait Address:
    Copy + Debug + Display + Eq + Ord + Hash + Into<IpAddr> + Send + Sync + Sealed + 'static
{
    /// Its family.
    type Family: Family<Address = Self>;
}

impl Address for Ipv4Addr {
    type Family = V4;
}

impl Address for Ipv6Addr {
    type Family = V6;
}

/// Keeps [`Family`] and [`Address`] to the two of them.
pub trait Sealed {}

/// IPv4 (RFC 791).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct V4;

/// IPv6 (RFC 8200).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct V6;

impl Sealed for V4 {}
impl Sealed for V6 {}
impl Sealed for Ipv4Addr {}
impl Sealed for Ipv6Addr {}

/// What both families get from the methods that `ipnet` has for both.
macro_rules! prefixes {
    () => {
        fn first(prefix: Self::Net) -> Self::Address {
            prefix.network()
        }

        fn last(prefix: Self::Net) -> Self::Address {
            prefix.broadcast()
        }

        fn mask(prefix: Self::Net) -> Self::Address {
            prefix.netmask()
        }

        fn length(prefix: Self::Net) -> u8 {
            prefix.prefix_len()
        }

        fn truncated(prefix: Self::Net) -> Self::Net {
            prefix.trunc()
        }

        fn contains(outer: Self::Net, inner: Self::Net) -> bool {
            outer.contains(&inner)
        }

        #[inline]
        fn bits(address: Self::Address) -> Self::Bits {
            address.to_bits()
        }

        fn following(address: Self::Address) -> Option<Self::Bits> {
            address.to_bits().checked_add(1)
        }
    };
}

impl Family for V4 {
    type Address = Ipv4Addr;
    type Net = Ipv4Net;
    type Bits = u32;
    type Pair = [u64; 1];

    const UNSPECIFIED: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const EVERYTHING: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
    const PAIR_NONE: [u64; 1] = [0];

    prefixes!();

    fn address(address: IpAddr) -> Option<Ipv4Addr> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    fn net(prefix: IpNet) -> Option<Ipv4Net> {
        match prefix {
            IpNet::V4(prefix) => Some(prefix),
            IpNet::V6(_) => None,
        }
    }

    #[inline]
    fn pair(source: Ipv4Addr, destination: Ipv4Addr) -> [u64; 1] {
        let word = |address: Ipv4Addr| u64::from(u32::from_le_bytes(address.octets()));
        [word(source) | word(destination) << 32]
    }

    #[inline]
    fn unpair([pair]: [u64; 1]) -> (Ipv4Addr, Ipv4Addr) {
        let [s0, s1, s2, s3, d0, d1, d2, d3] = pair.to_le_bytes();
        (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3))
    }

    #[inline]
    fn masked([pair]: [u64; 1], [mask]: [u64; 1]) -> [u64; 1] {
        [pair & mask]
    }
}

impl Family for V6 {
    type Address = Ipv6Addr;
    type Net = Ipv6Net;
    type Bits = u128;
    type Pair = [u64; 4];

    const UNSPECIFIED: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
    const EVERYTHING: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);
    const PAIR_NONE: [u64; 4] = [0; 4];

    prefixes!();

    fn address(address: IpAddr) -> Option<Ipv6Addr> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }

    fn net(prefix: IpNet) -> Option<Ipv6Net> {
        match prefix {
            IpNet::V4(_) => None,
            IpNet::V6(prefix) => Some(prefix),
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    fn pair(source: Ipv6Addr, destination: Ipv6Addr) -> [u64; 4] {
        let halves = |address: Ipv6Addr| {
            let bits = u128::from_le_bytes(address.octets());
            (bits as u64, (bits >> 64) as u64)
        };
        let ((s0, s1), (d0, d1)) = (halves(source), halves(destination));
        [s0, s1, d0, d1]
    }

    #[inline]
    fn unpair([s0, s1, d0, d1]: [u64; 4]) -> (Ipv6Addr, Ipv6Addr) {
        let address = |low: u64, high: u64| {
            Ipv6Addr::from((u128::from(low) | u128::from(high) << 64).to_le_bytes())
        };
        (address(s0, s1), address(d0, d1))
    }

    #[inline]
    fn masked(pair: [u64; 4], mask: [u64; 4]) -> [u64; 4] {
        let ([p0, p1, p2, p3], [m0, m1, m2, m3]) = (pair, mask);
        [p0 & m0, p1 & m1, p2 & m2, p3 & m3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_the_addresses_bytes_in_their_order() {
        let (source, destination) = (Ipv4Addr::new(1, 2, 3, 4), Ipv4Addr::new(5, 6, 7, 8));
        let pair = V4::pair(source, destination);
        assert_eq!(pair[0].to_le_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(V4::unpair(pair), (source, destination));
        let (source, destination) =
            ("2001:db8::1".parse().unwrap(), "fd00:1:2::3".parse().unwrap());
        let pair = V6::pair(source, destination);
        let bytes: Vec<_> = pair.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes, [source.octets(), destination.octets()].concat());
        assert_eq!(V6::unpair(pair), (source, destination));
    }

    #[test]
    fn the_last_address_has_none_after_it() {
        assert_eq!(V4::following(Ipv4Addr::BROADCAST), None);
        assert_eq!(V6::following(V6::last(V6::EVERYTHING)), None);
        assert_eq!(V6::following(Ipv6Addr::LOCALHOST), Some(2));
    }
}
