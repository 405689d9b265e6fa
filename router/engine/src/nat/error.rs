//! Rewriting an ICMP error: the packet that it quotes must look as its sender sent it, so that the
//! sender knows it again (RFC 5508, REQ-4 and REQ-5).

use super::rewrite::{Change, Side};
use super::sctp;
use crate::DropReason;
use crate::checksum::Delta;
use crate::packet::{QUOTED_IP, SCTP, TCP, UDP, Wire};

/// Rewrites one end of the packet that an ICMP error quotes, and the checksums: that of a quoted
/// IPv4 header, of the quoted transport header as far as it is quoted, and of the message.
pub(super) fn rewrite<F: Wire>(
    message: &mut [u8],
    protocol: u8,
    side: Side,
    change: &Change<F>,
) -> Result<(), DropReason> {
    let (icmp, quote) = message.split_first_chunk_mut::<QUOTED_IP>().ok_or(DropReason::BadQuote)?;
    let (quoted, _) = F::quoted(quote).ok_or(DropReason::BadQuote)?;
    let rest_length = quoted.transport_length.saturating_sub(sctp::HEADER);
    let (header, payload) = F::split(quote, quoted.layout).ok_or(DropReason::BadQuote)?;
    let (address, of_header) = F::rewrite_quoted(header, side, change.address);
    let mut message_delta = of_header.plus(match protocol {
        TCP | UDP => rewrite_ports(payload, protocol, side, change.port, address)?,
        SCTP => rewrite_sctp(payload, rest_length, side, change.port)?,
        icmp if icmp == F::ICMP => rewrite_echo::<F>(payload, change.port, address)?,
        _ => Delta::NONE,
    });
    if F::ICMP_COVERS_ADDRESSES {
        // The packet around it has the same end's address changed in the same way.
        message_delta = message_delta.plus(address);
    }
    replace(&mut icmp[2..4], |sum| message_delta.apply(sum));
    Ok(())
}

/// Rewrites a quoted echo identifier, and the quoted checksum.
fn rewrite_echo<F: Wire>(
    payload: &mut [u8],
    identifier: u16,
    address: Delta,
) -> Result<Delta, DropReason> {
    let echo = payload.first_chunk_mut::<8>().ok_or(DropReason::BadQuote)?;
    let identifier = replace(&mut echo[4..6], |_| identifier);
    let covered = if F::ICMP_COVERS_ADDRESSES { identifier.plus(address) } else { identifier };
    Ok(identifier.plus(replace(&mut echo[2..4], |sum| covered.apply(sum))))
}

/// Rewrites a quoted port, and the quoted checksum as far as that is quoted.
fn rewrite_ports(
    payload: &mut [u8],
    protocol: u8,
    side: Side,
    port: u16,
    address: Delta,
) -> Result<Delta, DropReason> {
    let transport = payload.first_chunk_mut::<8>().ok_or(DropReason::BadQuote)?;
    let port = replace(side.port(transport), |_| port);
    let checksum = match protocol {
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
    port: u16,
) -> Result<Delta, DropReason> {
    let start = payload.first_chunk_mut::<8>().ok_or(DropReason::BadQuote)?;
    let old_start = *start;
    let port = replace(side.port(start), |_| port);
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
