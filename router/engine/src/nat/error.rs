//! Rewriting an ICMP error: the packet that it quotes must look as its sender sent it, so that the
//! sender knows it again (RFC 5508, REQ-4 and REQ-5).

use std::net::Ipv4Addr;

use super::rewrite::{Change, Side};
use crate::DropReason;
use crate::checksum::Delta;
use crate::packet::{ECHO_PROTOCOL, QUOTED_IP, TCP};

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

    let transport = payload.first_chunk_mut::<8>().ok_or(DropReason::BadQuote)?;
    let place = if protocol == ECHO_PROTOCOL { &mut transport[4..6] } else { side.port(transport) };
    let port = replace(place, |_| change.port);
    message_delta = message_delta.plus(port);

    // What this does to the quoted transport checksum, where that is quoted.
    let checksum = match protocol {
        ECHO_PROTOCOL => replace(&mut transport[2..4], |sum| port.apply(sum)),
        TCP => match payload.first_chunk_mut::<18>() {
            Some(start) => replace(&mut start[16..18], |sum| port.plus(address).apply(sum)),
            None => Delta::NONE,
        },
        _ => replace(&mut transport[6..8], |sum| port.plus(address).apply_udp(sum)),
    };
    message_delta = message_delta.plus(checksum);
    replace(&mut icmp[2..4], |sum| message_delta.apply(sum));
    Ok(())
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
