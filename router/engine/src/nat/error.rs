//! Rewriting an ICMP error: the packet that it quotes must look as its sender sent it, so that the
//! sender knows it again (RFC 5508, REQ-4 and REQ-5).

use std::net::Ipv4Addr;

use super::rewrite::{Change, Side};
use super::sctp;
use crate::DropReason;
use crate::checksum::Delta;
use crate::packet::{ECHO_PROTOCOL, QUOTED_IP, SCTP, TCP, UDP};

/// Rewrites one end of the packet that an ICMP error quotes, and the checksums: that of the quoted
/// IPv4 header, of the quoted transport header as far as it is quoted, and of the message.
pub(super) fn rewrite(
    message: &mut [u8],
    protocol: u8,
    side: Side,
    change: &Change,
) -> Result<(), DropReason> {
    let (icmp, quote) = message.split_first_chunk_mut::<QUOTED_IP>().ok_or(DropReason::BadQuote)?;
    let (header, payload) = quote.split_first_chunk_mut::<20>().ok_or(DropReason::BadQuote)?;
    let place = side.address(header);
    let address = Delta::address(address_in(place), change.address);
    place.copy_from_slice(&change.address.octets());
    let mut message_delta = address.plus(replace(&mut header[10..12], |sum| address.apply(sum)));

    let rest_length = usize::from(u16::from_be_bytes([header[2], header[3]]))
        .saturating_sub(header.len() + sctp::HEADER);
    message_delta = message_delta.plus(match protocol {
        ECHO_PROTOCOL | TCP | UDP => rewrite_ports(payload, protocol, side, change, address)?,
        SCTP => rewrite_sctp(payload, rest_length, side, change)?,
        _ => Delta::NONE,
    });
    replace(&mut icmp[2..4], |sum| message_delta.apply(sum));
    Ok(())
}

/// Rewrites a quoted port, or echo identifier, and the quoted checksum as far as that is quoted.
fn rewrite_ports(
    payload: &mut [u8],
    protocol: u8,
    side: Side,
    change: &Change,
    address: Delta,
) -> Result<Delta, DropReason> {
    let transport = payload.first_chunk_mut::<8>().ok_or(DropReason::BadQuote)?;
    let place = if protocol == ECHO_PROTOCOL { &mut transport[4..6] } else { side.port(transport) };
    let port = replace(place, |_| change.port);
    let checksum = match protocol {
        ECHO_PROTOCOL => replace(&mut transport[2..4], |sum| port.apply(sum)),
        TCP => match payload.first_chunk_mut::<18>() {
            Some(start) => replace(&mut start[16..18], |sum| port.plus(address).apply(sum)),
            None => Delta::NONE,
        },
        _ => replace(&mut transport[6..8], |sum| port.plus(address).apply_udp(sum)),
    };
    Ok(port.plus(checksum))
}

/// The same of SCTP, whose packet had `rest_length` bytes behind its common header.
fn rewrite_sctp(
    payload: &mut [u8],
    rest_length: usize,
    side: Side,
    change: &Change,
) -> Result<Delta, DropReason> {
    let start = payload.first_chunk_mut::<8>().ok_or(DropReason::BadQuote)?;
    let old_start = *start;
    let port = replace(side.port(start), |_| change.port);
    let Some(header) = payload.first_chunk_mut::<{ sctp::HEADER }>() else { return Ok(port) };
    let mut old = *header;
    old[..8].copy_from_slice(&old_start);
    let [a, b, c, d] = sctp::quoted_checksum(&old, header, rest_length);
    let high = replace(&mut header[8..10], |_| u16::from_be_bytes([a, b]));
    let low = replace(&mut header[10..12], |_| u16::from_be_bytes([c, d]));
    Ok(port.plus(high).plus(low))
}

/// Replaces a 16-bit word; says what that does to a checksum over it.
fn replace(place: &mut [u8], new: impl FnOnce(u16) -> u16) -> Delta {
    let Some(bytes) = place.first_chunk_mut::<2>() else { return Delta::NONE };
    let old = u16::from_be_bytes(*bytes);
    let new = new(old);
    *bytes = new.to_be_bytes();
    Delta::word(old, new)
}

/// The address in four bytes.
fn address_in(bytes: &[u8]) -> Ipv4Addr {
    bytes.first_chunk::<4>().map_or(Ipv4Addr::UNSPECIFIED, |octets| Ipv4Addr::from(*octets))
}
