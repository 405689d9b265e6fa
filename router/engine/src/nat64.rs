//! NAT64 (RFC 6146): pods that have only IPv6 reach IPv4 destinations, which stand in an IPv6 prefix.
//!
//! What there is of state is the IPv4 translator's: a pod is a *number* to it, an address of 240.0.0.0/4.
//! Here packets change their family, without any state (RFC 7915): a pod's becomes IPv4 before that
//! translator ([`write_ipv4`]), what comes back becomes IPv6 after it ([`ToIpv6`]). Nothing here changes
//! the packet that it reads.

mod addresses;
mod icmp;
mod prefix;
mod to_ipv4;
mod to_ipv6;
mod transport;

#[cfg(test)]
mod tests;

pub use prefix::Prefix;

pub(crate) use addresses::Addresses;
pub(crate) use icmp::to_ipv6 as icmp_to_ipv6;
pub(crate) use to_ipv4::{AsIpv4, write_ipv4};
pub(crate) use to_ipv6::{ToIpv6, may_become_ipv6};

/// How much shorter a packet's header is in IPv4, in bytes.
pub(crate) const SHORTER: u16 = IPV6_HEADER - IPV4_HEADER;

/// How much longer a fragment is in IPv6, in bytes, beside that: a fragment header.
pub(crate) const FRAGMENT_HEADER: u16 = 8;

/// The headers without options, in bytes.
const IPV4_HEADER: u16 = 20;
const IPV6_HEADER: u16 = 40;

/// What every way of IPv6 carries, in bytes (RFC 8200, section 5).
const MTU_MIN_IPV6: u16 = 1280;

/// Bytes of an ICMP message before the quoted packet, and of an echo before its data.
const ICMP_HEADER: usize = 8;

/// The protocol numbers of the two ICMPs.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
