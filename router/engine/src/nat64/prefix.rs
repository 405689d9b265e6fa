//! The NAT64 prefix: how an IPv4 address stands in an IPv6 one (RFC 6052, section 2.2).
//!
//! ```text
//!  length  0      4      5      6      7      8      9      10     11     12     13      16
//!          +------+------+------+------+------+------+------+------+------+------+-------+
//!      32  |prefix|            IPv4           |  0   |              0                    |
//!      40  |   prefix    |       IPv4 …       |  0   |… IPv4|       0                    |
//!      48  |      prefix        |   IPv4 …    |  0   |  … IPv4     |  0                  |
//!      56  |         prefix            |IPv4 …|  0   |     … IPv4         |     0        |
//!      64  |             prefix               |  0   |          IPv4             |   0   |
//!      96  |                         prefix                              |    IPv4      |
//!          +------+------+------+------+------+------+------+------+------+------+-------+
//! ```
//!
//! The byte 8 is always 0, of the longest prefix, too.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

use crate::packet::is_martian_ipv6;

/// The byte that is 0 in all such addresses.
const RESERVED: usize = 8;

/// Where the bytes of the IPv4 address stand, by the length of the prefix in bits.
const PLACES: [(u8, [usize; 4]); 6] = [
    (32, [4, 5, 6, 7]),
    (40, [5, 6, 7, 9]),
    (48, [6, 7, 9, 10]),
    (56, [7, 9, 10, 11]),
    (64, [9, 10, 11, 12]),
    (96, [12, 13, 14, 15]),
];

/// A prefix that stands for all of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    net: Ipv6Net,
    places: [usize; 4],
}

impl Prefix {
    /// `64:ff9b::/96`, which RFC 6052 has reserved for this.
    pub const WELL_KNOWN: Self = Self {
        net: Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
        places: [12, 13, 14, 15],
    };

    /// The prefix, if it can be one: of 32, 40, 48, 56, 64 or 96 bits, without bits behind them, with
    /// a byte 8 of 0, and of addresses that hosts can have.
    #[must_use]
    pub fn new(net: Ipv6Net) -> Option<Self> {
        let (_, places) = PLACES.into_iter().find(|(length, _)| *length == net.prefix_len())?;
        let is_valid = net.trunc() == net
            && net.addr().octets().get(RESERVED) == Some(&0)
            && !is_martian_ipv6(net.addr());
        is_valid.then_some(Self { net, places })
    }

    /// Whether an address is in the prefix, whatever stands behind it.
    #[must_use]
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        let mask = self.net.netmask().to_bits();
        address.to_bits() & mask == self.net.addr().to_bits()
    }

    /// The IPv6 address that stands for an IPv4 one.
    #[must_use]
    pub fn embed(&self, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.net.addr().octets();
        for (place, byte) in self.places.into_iter().zip(address.octets()) {
            if let Some(octet) = octets.get_mut(place) {
                *octet = byte;
            }
        }
        octets.into()
    }

    /// The IPv4 address that an IPv6 one stands for. `None` when it is not in the prefix, or has
    /// anything but zeros around it: a reply would come from another address.
    #[must_use]
    pub fn extract(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = address.octets();
        let byte = |place: usize| octets.get(place).copied().unwrap_or_default();
        let address_ipv4 = Ipv4Addr::from(self.places.map(byte));
        (self.embed(address_ipv4) == address).then_some(address_ipv4)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(net: &str) -> Prefix {
        Prefix::new(net.parse().unwrap()).unwrap()
    }

    /// RFC 6052, section 2.4, tables 2 and 3.
    const EXAMPLES: [(&str, &str); 7] = [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
    ];

    #[test]
    fn the_examples_of_rfc_6052_come_out() {
        for (net, address) in EXAMPLES {
            let (prefix, address) = (prefix(net), address.parse().unwrap());
            assert_eq!(prefix.embed(Ipv4Addr::new(192, 0, 2, 33)), address, "{net}");
            assert_eq!(prefix.extract(address), Some(Ipv4Addr::new(192, 0, 2, 33)), "{net}");
        }
        assert_eq!(prefix("64:ff9b::/96"), Prefix::WELL_KNOWN);
    }

    #[test]
    fn what_cannot_be_a_prefix_is_refused() {
        for net in [
            "64:ff9b::/95",
            "::/0",
            "2001:db8:122:344:100::/96",
            "2001:db8::1/96",
            "fe80::/64",
            "ff0e::/96",
            "::/96",
            "::ffff:0:0/96",
        ] {
            assert_eq!(Prefix::new(net.parse().unwrap()), None, "{net}");
        }
    }

    #[test]
    fn what_has_more_than_an_ipv4_address_stands_for_none() {
        assert_eq!(Prefix::WELL_KNOWN.extract("64:ff9c::1.2.3.4".parse().unwrap()), None);
        let short = prefix("2001:db8:100::/40");
        for address in ["2001:db8:1c0:2:121::", "2001:db8:1c0:2:21:1::", "2001:db8:1c0:2:21::1"] {
            let address = address.parse().unwrap();
            assert!(short.contains(address));
            assert_eq!(short.extract(address), None, "{address}");
        }
    }

    proptest! {
        #[test]
        fn every_address_comes_back(which in 0..EXAMPLES.len(), address: u32) {
            let (prefix, address) = (prefix(EXAMPLES[which].0), Ipv4Addr::from_bits(address));
            prop_assert!(prefix.contains(prefix.embed(address)));
            prop_assert_eq!(prefix.extract(prefix.embed(address)), Some(address));
        }
    }
}
