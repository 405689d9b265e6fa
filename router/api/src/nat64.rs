//! Where IPv4 addresses are in IPv6 ones (RFC 6052): the prefix of NAT64.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use crate::family::{check_host_address, check_not_mapped};
use crate::scalar::quote;

/// The lengths that a prefix may have (RFC 6052, section 2.2).
const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// The first of the eight bits that are zero in every such address.
const ZERO_OCTET: u8 = 64;

/// A prefix in whose addresses IPv4 destinations are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nat64Prefix(Ipv6Net);

impl Nat64Prefix {
    /// Checks a prefix.
    ///
    /// # Errors
    ///
    /// A sentence that says what was expected.
    pub fn new(prefix: Ipv6Net) -> Result<Self, String> {
        let length = prefix.prefix_len();
        if !LENGTHS.contains(&length) {
            let message = "expected a NAT64 prefix, which is 32, 40, 48, 56, 64 or 96 bits long";
            return Err(format!("{message} (RFC 6052), found {prefix}"));
        }
        if prefix.trunc() != prefix {
            let meant = prefix.trunc();
            return Err(format!("{prefix} has bits set beyond its length; did you mean {meant}?"));
        }
        if prefix.addr().octets()[8] != 0 {
            let message = "are not zero, as they must be in a NAT64 prefix (RFC 6052, section 2.2)";
            return Err(format!("bits 64 to 71 of {prefix} {message}"));
        }
        check_not_mapped(IpNet::V6(prefix))?;
        let found = Self(prefix);
        let inside = found.embed(Ipv4Net::from(Ipv4Addr::new(192, 0, 2, 1))).addr();
        if prefix.contains(&Ipv6Addr::LOCALHOST) || check_host_address(inside.into()).is_err() {
            return Err(format!(
                "{prefix} has no addresses of hosts; expected one such as {WELL_KNOWN}"
            ));
        }
        Ok(found)
    }

    /// The prefix itself.
    #[must_use]
    pub fn net(&self) -> Ipv6Net {
        self.0
    }

    /// Where the addresses of an IPv4 prefix are.
    #[must_use]
    pub fn embed(&self, prefix: Ipv4Net) -> Ipv6Net {
        let (start, bits) = (self.0.prefix_len(), u128::from(prefix.trunc().addr().to_bits()));
        let (embedded, length) = if start == 96 {
            (bits, start + prefix.prefix_len())
        } else {
            // What comes before the zero octet, and what after it.
            let before = ZERO_OCTET - start;
            let bits = bits << 96 >> start;
            let high = bits >> 64 << 64;
            let low = (bits & u128::from(u64::MAX)) >> 8;
            let skipped = if prefix.prefix_len() > before { 8 } else { 0 };
            (high | low, start + prefix.prefix_len() + skipped)
        };
        let address = Ipv6Addr::from_bits(self.0.addr().to_bits() | embedded);
        Ipv6Net::new_assert(address, length)
    }

    /// The IPv4 prefix whose addresses are in an IPv6 one; `None` when that is not within this
    /// prefix, or has bits set that are zero in every address with an IPv4 one in it, those behind that
    /// included.
    #[must_use]
    pub fn extract(&self, prefix: Ipv6Net) -> Option<Ipv4Net> {
        let prefix = prefix.trunc();
        if !self.0.contains(&prefix) {
            return None;
        }
        let (start, length) = (self.0.prefix_len(), prefix.prefix_len());
        let skipped = if start == 96 { 0 } else { length.clamp(ZERO_OCTET, 72) - ZERO_OCTET };
        let length = (length - start - skipped).min(32);
        let bits = prefix.addr().to_bits();
        let bits = if start == 96 {
            bits
        } else {
            let (high, low) = (bits >> 64 << 64, (bits & (u128::from(u64::MAX) >> 8)) << 8);
            (high | low) << start >> 96
        };
        #[expect(clippy::cast_possible_truncation, reason = "the address is in the lowest 32 bits")]
        let found = Ipv4Net::new(Ipv4Addr::from_bits(bits as u32), length).ok()?.trunc();
        (self.embed(found).addr() == prefix.addr()).then_some(found)
    }
}

/// The one that every host may know (RFC 6052, section 2.1).
const WELL_KNOWN: &str = "64:ff9b::/96";

impl FromStr for Nat64Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefix = text.parse().map_err(|_| {
            format!("expected a NAT64 prefix such as {WELL_KNOWN}, found {}", quote(text))
        })?;
        Self::new(prefix)
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Nat64Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nat64Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(PrefixVisitor)
    }
}

struct PrefixVisitor;

impl Visitor<'_> for PrefixVisitor {
    type Value = Nat64Prefix;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a NAT64 prefix such as {WELL_KNOWN}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Nat64Prefix, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6052, section 2.4.
    #[test]
    fn addresses_are_where_the_rfc_has_them() {
        let of = |text: &str| text.parse::<Nat64Prefix>().unwrap();
        let host = Ipv4Net::from(Ipv4Addr::new(192, 0, 2, 33));
        for (prefix, embedded) in [
            ("2001:db8::/32", "2001:db8:c000:221::/64"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::/80"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::/88"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::/96"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::/104"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221/128"),
            ("64:ff9b::/96", "64:ff9b::c000:221/128"),
        ] {
            let found = of(prefix).embed(host);
            assert_eq!(found, embedded.parse().unwrap(), "{prefix}");
            assert_eq!(of(prefix).extract(found), Some(host), "{prefix}");
            let whole = Ipv6Net::from(found.addr());
            assert_eq!(of(prefix).extract(whole), Some(host), "{prefix}");
        }
    }

    #[test]
    fn prefixes_step_over_the_byte_of_zeros() {
        for (prefix, ipv4, ipv6) in [
            ("64:ff9b::/96", "0.0.0.0/0", "64:ff9b::/96"),
            ("64:ff9b::/96", "10.0.0.0/8", "64:ff9b::a00:0/104"),
            ("64:ff9b::/96", "192.0.2.33/32", "64:ff9b::c000:221/128"),
            ("2001:db8:100::/40", "192.0.2.0/24", "2001:db8:1c0:2::/64"),
            ("2001:db8:100::/40", "192.0.2.32/28", "2001:db8:1c0:2:20::/76"),
            ("2001:db8:122:344::/64", "0.0.0.0/0", "2001:db8:122:344::/64"),
            ("2001:db8:122:344::/64", "128.0.0.0/1", "2001:db8:122:344:80::/73"),
        ] {
            let found = prefix.parse::<Nat64Prefix>().unwrap().embed(ipv4.parse().unwrap());
            assert_eq!(found, ipv6.parse().unwrap(), "{ipv4} in {prefix}");
        }
    }

    #[test]
    fn every_prefix_comes_back() {
        for start in LENGTHS {
            let around = Ipv6Net::new("2001:db8::".parse().unwrap(), start).unwrap();
            let prefix = Nat64Prefix::new(around).unwrap();
            for length in 0..=32 {
                let inner = Ipv4Net::new(Ipv4Addr::new(203, 255, 113, 77), length).unwrap().trunc();
                let embedded = prefix.embed(inner);
                assert_eq!(prefix.extract(embedded), Some(inner), "{prefix}: {embedded}");
                assert_eq!(embedded.trunc(), embedded);
                assert_eq!(embedded.addr().octets()[8], 0);
            }
        }
    }

    #[test]
    fn what_is_no_embedded_prefix_is_none() {
        let prefix: Nat64Prefix = "2001:db8:100::/40".parse().unwrap();
        for text in [
            "2001:db8::/32",
            "2001:db9::/40",
            "2001:db8:1c0:2:121::/80",
            // More than the IPv4 address: no reply comes from there.
            "2001:db8:1c0:2:21::1/128",
            "2001:db8:1c0:2:21:1::/96",
        ] {
            assert_eq!(prefix.extract(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn a_bad_prefix_is_refused_with_the_reason() {
        for (text, reason) in [
            ("64:ff9b::", "expected a NAT64 prefix such as 64:ff9b::/96, found \"64:ff9b::\""),
            ("10.0.0.0/8", "expected a NAT64 prefix such as 64:ff9b::/96"),
            ("64:ff9b::/95", "32, 40, 48, 56, 64 or 96 bits long (RFC 6052), found 64:ff9b::/95"),
            ("64:ff9b::1/96", "bits set beyond its length; did you mean 64:ff9b::/96?"),
            ("2001:db8:0:0:100::/96", "bits 64 to 71 of 2001:db8:0:0:100::/96 are not zero"),
            ("::ffff:0:0/96", "IPv4 addresses in the form of IPv6"),
            ("::/96", "has no addresses of hosts"),
            ("fe80::/64", "has no addresses of hosts"),
            ("ff0e::/96", "has no addresses of hosts"),
        ] {
            let said = text.parse::<Nat64Prefix>().unwrap_err();
            assert!(said.contains(reason), "{text}: {said}");
        }
    }
}
