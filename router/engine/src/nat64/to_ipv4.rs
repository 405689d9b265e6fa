//! A pod's IPv6 packet as IPv4 (RFC 7915, section 5).

use std::net::Ipv4Addr;

use super::{
    Addresses, ICMP, ICMP_HEADER, ICMPV6, IPV4_HEADER, MTU_MIN_IPV6, SHORTER, icmp, transport,
};
use crate::DropReason;
use crate::checksum::{Delta, checksum};
use crate::family::V6;
use crate::packet::{
    Chain, DONT_FRAGMENT, EXTENSION_FRAGMENT_LEN, FragmentHeader, IpHeader, TCP, UDP, Wire,
    walk_extensions,
};

/// The flag "more fragments" in the word of flags and offset.
const MORE_FRAGMENTS: u16 = 0x2000;

/// A packet that was written as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AsIpv4 {
    /// Its length in bytes.
    pub(crate) length: u16,
    /// Whether it was a fragment that is a whole packet (RFC 6946), and so comes to the worker of
    /// fragments, but is none of IPv4.
    pub(crate) was_atomic: bool,
}

/// What an IPv4 header is made of, beside its length.
struct Header {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    tos: u8,
    ttl: u8,
    fragment: Option<FragmentHeader>,
}

/// Writes the IPv4 packet into `out` that a pod's packet is: from its number, to the address that its
/// destination stands for. Time to live and checksums are what they were: a wrong one stays wrong.
///
/// # Errors
/// What the packet is dropped for: as IPv6, or because it has no equal in IPv4.
pub(crate) fn write_ipv4(
    addresses: &Addresses,
    packet: &[u8],
    out: &mut [u8],
) -> Result<AsIpv4, DropReason> {
    let (header, payload) = V6::parse(packet)?;
    let source = addresses.number(header.source).ok_or(DropReason::NoPolicy)?;
    let destination =
        addresses.outside(header.destination).ok_or(DropReason::MartianDestination)?;
    let chain = chain_of(packet)?;
    // The others' offsets count what follows the fragment header: of IPv4 that is the transport.
    let fragment = chain.fragment;
    let at_once = |found: FragmentHeader| usize::from(found.at) + EXTENSION_FRAGMENT_LEN;
    let is_behind = fragment.is_some_and(|found| at_once(found) != usize::from(chain.at));
    if is_behind || V6::is_extension(header.protocol) {
        return Err(DropReason::IpOptions);
    }
    if header.protocol == ICMP || V6::is_untranslatable(header.protocol) {
        return Err(DropReason::UnsupportedProtocol);
    }
    let (head, body) = out.split_first_chunk_mut::<20>().ok_or(DropReason::BadIpLength)?;
    let ends = [(source, header.source), (destination, header.destination)];
    let addresses_change = transport::to_ipv6(ends).reversed();
    let was_atomic = header.fragment.is_some_and(|part| part.is_first() && part.is_last);
    let is_part = header.fragment.is_some() && !was_atomic;
    let length = match header.protocol {
        ICMPV6 if is_part => return Err(DropReason::UnsupportedFragment),
        ICMPV6 => write_icmp(addresses, &header, payload, body)?,
        protocol => {
            let body = copied(payload, body).ok_or(DropReason::BadIpLength)?;
            if header.fragment.is_none_or(|part| part.is_first()) {
                let has_none = protocol == UDP && body.get(6..8) == Some(&[0, 0]);
                if has_none {
                    return Err(DropReason::NoUdpChecksum);
                }
                transport::follow(protocol, body, addresses_change);
            }
            payload.len()
        }
    };
    let protocol = if header.protocol == ICMPV6 { ICMP } else { header.protocol };
    let IpHeader { tos, ttl, .. } = header;
    let header = Header { source, destination, protocol, tos, ttl, fragment };
    let length = u16::try_from(length).ok().and_then(|length| length.checked_add(IPV4_HEADER));
    let length = length.ok_or(DropReason::BadIpLength)?;
    *head = header.bytes(length);
    Ok(AsIpv4 { length, was_atomic })
}

/// The extension headers of a packet that is one of IPv6.
fn chain_of(packet: &[u8]) -> Result<Chain, DropReason> {
    let (header, rest) = packet.split_first_chunk::<40>().ok_or(DropReason::Truncated)?;
    walk_extensions(header[6], rest)
}

/// Copies to the start of `to`; gives the copy.
fn copied<'a>(from: &[u8], to: &'a mut [u8]) -> Option<&'a mut [u8]> {
    let to = to.get_mut(..from.len())?;
    to.copy_from_slice(from);
    Some(to)
}

impl Header {
    /// A header of a packet of `length` bytes. Whoever forwards it gives it an identification, if it
    /// needs one.
    fn bytes(&self, length: u16) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[0] = 0x45;
        bytes[1] = self.tos;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        match self.fragment {
            Some(FragmentHeader { identification, start, is_last, .. }) => {
                let [_, _, identification @ ..] = identification.to_be_bytes();
                let more = if is_last { 0 } else { MORE_FRAGMENTS };
                bytes[4..6].copy_from_slice(&identification);
                bytes[6..8].copy_from_slice(&(more | start).to_be_bytes());
            }
            // What every way of IPv6 carries, ways of IPv4 may cut (RFC 7915, section 5.1).
            None if length > MTU_MIN_IPV6 - SHORTER => bytes[6] = DONT_FRAGMENT,
            None => {}
        }
        bytes[8] = self.ttl;
        bytes[9] = self.protocol;
        bytes[12..16].copy_from_slice(&self.source.octets());
        bytes[16..20].copy_from_slice(&self.destination.octets());
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// Writes an ICMP message; gives its length.
fn write_icmp(
    addresses: &Addresses,
    header: &IpHeader<V6>,
    message: &[u8],
    out: &mut [u8],
) -> Result<usize, DropReason> {
    let icmp = message.first_chunk::<ICMP_HEADER>().ok_or(DropReason::BadTransport)?;
    let IpHeader { source, destination, .. } = *header;
    if icmp::echo_to_ipv4(icmp[0]).is_some() {
        let length = u16::try_from(message.len()).map_err(|_| DropReason::BadIpLength)?;
        let body = copied(message, out).ok_or(DropReason::BadIpLength)?;
        let turned = transport::echo_to_ipv4(body, source, destination, length);
        return turned.map(|()| message.len()).ok_or(DropReason::BadTransport);
    }
    let new = icmp::to_ipv4(*icmp).ok_or(DropReason::UnsupportedIcmp)?;
    if V6::icmp_checksum(source, destination, message) != 0 {
        return Err(DropReason::BadIcmpChecksum);
    }
    let quote = message.get(ICMP_HEADER..).ok_or(DropReason::BadQuote)?;
    let quote = icmp::without_extensions_ipv6(*icmp, quote);
    let (head, quoted) =
        out.split_first_chunk_mut::<ICMP_HEADER>().ok_or(DropReason::BadIpLength)?;
    *head = new;
    let length = ICMP_HEADER + write_quote(addresses, quote, quoted).ok_or(DropReason::BadQuote)?;
    let written = out.get_mut(..length).ok_or(DropReason::BadQuote)?;
    let sum = checksum(written);
    if let Some(place) = written.get_mut(2..4) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    Ok(length)
}

/// Writes the packet that an error of a pod quotes, as far as it is quoted: one from outside to that
/// pod; gives how much it is.
fn write_quote(addresses: &Addresses, quote: &[u8], out: &mut [u8]) -> Option<usize> {
    let (quoted, payload) = V6::quoted(quote)?;
    let (header, _) = quote.split_first_chunk::<40>()?;
    let source = addresses.outside(quoted.source)?;
    let destination = addresses.number(quoted.destination)?;
    let (head, body) = out.split_first_chunk_mut::<20>()?;
    let body = copied(payload, body)?;
    let length = u16::try_from(quoted.transport_length).ok()?;
    let ends = [(source, quoted.source), (destination, quoted.destination)];
    let protocol = match quoted.protocol {
        ICMPV6 => {
            transport::echo_to_ipv4(body, quoted.source, quoted.destination, length)?;
            ICMP
        }
        protocol @ (TCP | UDP) => {
            let change: Delta = transport::to_ipv6(ends).reversed();
            transport::follow(protocol, body, change);
            protocol
        }
        ICMP => return None,
        protocol => protocol,
    };
    let fragment = chain_of(quote).ok()?.fragment;
    let (tos, ttl) = (V6::tos(header), header[7]);
    let header = Header { source, destination, protocol, tos, ttl, fragment };
    *head = header.bytes(length.checked_add(IPV4_HEADER)?);
    Some(head.len() + payload.len())
}
