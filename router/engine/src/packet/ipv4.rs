//! The IPv4 header (RFC 791) and what a router must refuse (RFC 1812, RFC 3927).

use std::net::Ipv4Addr;

use crate::DropReason;
use crate::checksum::checksum;

/// Length of a header without options, in bytes.
const HEADER_LEN: u16 = 20;

/// The fragment offset and the flag "more fragments".
const FRAGMENT_BITS: u16 = 0x3fff;

/// The flag "don't fragment" in the byte that it is in.
pub(crate) const DONT_FRAGMENT: u8 = 0x40;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// The checked header of a packet to forward.
pub(super) struct Ipv4Header {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) protocol: u8,
    pub(super) total_length: u16,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) dont_fragment: bool,
}

/// Checks a packet's header; gives it with the payload, without padding behind it.
///
/// Options are refused: those that matter (source routing, record route) ask a router to reveal
/// or to obey, and without them every header has one length.
pub(super) fn parse(bytes: &[u8]) -> Result<(Ipv4Header, &[u8]), DropReason> {
    let (header, rest) = bytes.split_first_chunk::<20>().ok_or(DropReason::Truncated)?;
    let total_length = u16::from_be_bytes([header[2], header[3]]);
    let payload_length = total_length.checked_sub(HEADER_LEN);
    match (header[0] >> 4, header[0] & 0x0f, payload_length) {
        (4, 5, Some(_)) => {}
        (4, 6.., _) => return Err(DropReason::IpOptions),
        (4, ..) => return Err(DropReason::BadIpLength),
        _ => return Err(DropReason::NotIpv4),
    }
    let payload_length = usize::from(payload_length.unwrap_or_default());
    let payload = rest.get(..payload_length).ok_or(DropReason::Truncated)?;
    if checksum(header) != 0 {
        return Err(DropReason::BadIpChecksum);
    }
    if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_BITS != 0 {
        return Err(DropReason::Fragment);
    }
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let source = Ipv4Addr::new(s0, s1, s2, s3);
    let destination = Ipv4Addr::new(d0, d1, d2, d3);
    if is_martian(source) {
        return Err(DropReason::MartianSource);
    }
    if is_martian(destination) {
        return Err(DropReason::MartianDestination);
    }
    let (tos, ttl, protocol) = (header[1], header[8], header[9]);
    let dont_fragment = header[6] & DONT_FRAGMENT != 0;
    Ok((
        Ipv4Header { source, destination, protocol, total_length, tos, ttl, dont_fragment },
        payload,
    ))
}

/// Whether an address is no host's on a network that a router may forward to: "this network",
/// loopback, link-local (also the cloud's metadata service), multicast, limited broadcast.
fn is_martian(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    matches!(first, 0 | 127 | 224..=239)
        || (first == 169 && second == 254)
        || address == Ipv4Addr::BROADCAST
}
