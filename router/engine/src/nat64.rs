//! NAT64 (RFC 6146): pods that have only IPv6 reach IPv4 destinations, which stand in an IPv6 prefix.

mod prefix;

pub use prefix::Prefix;
