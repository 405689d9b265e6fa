//! The IPv4 header (RFC 791) and what a router must refuse (RFC 1812, RFC 3927).

use std::net::Ipv4Addr;

use crate::DropReason;
use crate::checksum::checksum;

/// Length of a header without options, in bytes.
const HEADER_LEN: u16 = 20;

/// The flag "more fragments" in the word of flags and offset, and the offset.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What is not 0 in that word of a fragment.
pub(super) const FRAGMENT: u16 = MORE_FRAGMENTS | FRAGMENT_OFFSET;

/// The largest payload that a packet can have, in bytes.
const PAYLOAD_MAX: usize = (u16::MAX - HEADER_LEN) as usize;

/// The flag "don't fragment" in the byte that it is in.
pub(crate) const DONT_FRAGMENT: u8 = 0x40;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// Where a fragment belongs (RFC 791, section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// What the fragments of one packet have in common.
    pub(crate) identification: u16,
    /// Where its payload starts and ends in the packet's, in units of 8 bytes.
    pub(crate) start: u16,
    pub(crate) end: u16,
    pub(crate) is_last: bool,
}

impl Fragment {
    /// Whether it has the transport header.
    pub(crate) fn is_first(&self) -> bool {
        self.start == 0
    }
}

/// The checked header of a packet to forward.
pub(crate) struct Ipv4Header {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) total_length: u16,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) dont_fragment: bool,
    pub(crate) fragment: Option<Fragment>,
}

/// Checks a packet's header; gives it with the payload, without padding behind it.
///
/// Options are refused: those that matter (source routing, record route) ask a router to reveal
/// or to obey, and without them every header has one length.
#[inline]
pub(crate) fn parse(bytes: &[u8]) -> Result<(Ipv4Header, &[u8]), DropReason> {
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
    let [_, _, _, _, i0, i1, f0, f1, ..] = *header;
    let place = u16::from_be_bytes([f0, f1]) & FRAGMENT;
    let fragment = match place {
        0 => None,
        _ => Some(fragment(u16::from_be_bytes([i0, i1]), place, payload_length)?),
    };
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
        Ipv4Header {
            source,
            destination,
            protocol,
            total_length,
            tos,
            ttl,
            dont_fragment,
            fragment,
        },
        payload,
    ))
}

/// Checks where a fragment says that it belongs: all but the last are whole numbers of 8 bytes, and
/// none is empty or ends where no packet does.
fn fragment(identification: u16, place: u16, length: usize) -> Result<Fragment, DropReason> {
    let start = place & FRAGMENT_OFFSET;
    let is_last = place & MORE_FRAGMENTS == 0;
    let is_possible = length > 0
        && (is_last || length.is_multiple_of(8))
        && usize::from(start) * 8 + length <= PAYLOAD_MAX;
    let units = u16::try_from(length.div_ceil(8)).unwrap_or(u16::MAX);
    match is_possible {
        true => Ok(Fragment { identification, start, end: start + units, is_last }),
        false => Err(DropReason::BadFragment),
    }
}

/// Whether an address is no host's on a network that a router may forward to: "this network",
/// loopback, link-local (also the cloud's metadata service), multicast, limited broadcast.
fn is_martian(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    matches!(first, 0 | 127 | 224..=239)
        || (first == 169 && second == 254)
        || address == Ipv4Addr::BROADCAST
}
