//! What follows the IP headers, as far as it depends on them: checksums, and the types of echoes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{ICMPV6, icmp};
use crate::checksum::Delta;
use crate::packet::{TCP, UDP};

/// What the two addresses of a packet do to checksums that cover them, when they become IPv6's.
pub(super) fn to_ipv6(ends: [(Ipv4Addr, Ipv6Addr); 2]) -> Delta {
    // The sum over an address of IPv4 is that over one of IPv6 with zeros before it.
    let [source, destination] =
        ends.map(|(old, new)| Delta::address_ipv6(old.to_ipv6_compatible(), new));
    source.plus(destination)
}

/// What ICMPv6's checksum covers and ICMP's does not (RFC 4443, section 2.3), with `length` bytes of
/// message: added.
fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, length: u16) -> Delta {
    let nobody = Ipv6Addr::UNSPECIFIED;
    let ends = Delta::address_ipv6(nobody, source).plus(Delta::address_ipv6(nobody, destination));
    ends.plus(Delta::added(length)).plus(Delta::added(ICMPV6.into()))
}

/// Lets the checksum of a TCP or UDP header follow, as far as it is there.
pub(super) fn follow(protocol: u8, transport: &mut [u8], addresses: Delta) {
    let (place, is_udp) = match protocol {
        TCP => (transport.get_mut(16..18), false),
        UDP => (transport.get_mut(6..8), true),
        _ => (None, false),
    };
    if let Some(place) = place.and_then(|place| place.first_chunk_mut::<2>()) {
        let sum = u16::from_be_bytes(*place);
        let sum = if is_udp { addresses.apply_udp(sum) } else { addresses.apply(sum) };
        *place = sum.to_be_bytes();
    }
}

/// Makes the ICMP echo of `length` bytes that `body` starts with one of ICMPv6 between these two. A wrong
/// checksum stays wrong. `None` when it is no echo.
pub(super) fn echo_to_ipv6(
    body: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    length: u16,
) -> Option<()> {
    let echo = body.first_chunk_mut::<4>()?;
    turn_echo(echo, icmp::echo_to_ipv6(echo[0])?, pseudo_header(source, destination, length));
    Some(())
}

/// The other way.
pub(super) fn echo_to_ipv4(
    body: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    length: u16,
) -> Option<()> {
    let echo = body.first_chunk_mut::<4>()?;
    let covered = pseudo_header(source, destination, length).reversed();
    turn_echo(echo, icmp::echo_to_ipv4(echo[0])?, covered);
    Some(())
}

fn turn_echo(echo: &mut [u8; 4], kind: u8, pseudo_header: Delta) {
    let [old_kind, code, high, low] = *echo;
    let kinds = Delta::word(u16::from_be_bytes([old_kind, code]), u16::from_be_bytes([kind, code]));
    let sum = kinds.plus(pseudo_header).apply(u16::from_be_bytes([high, low]));
    let [high, low] = sum.to_be_bytes();
    *echo = [kind, code, high, low];
}
