//! A packet from outside as IPv6 (RFC 7915, section 4): whole, or in fragments where it does not fit the
//! way to its pod.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    Addresses, FRAGMENT_HEADER, ICMP, ICMP_HEADER, ICMPV6, IPV6_HEADER, MTU_MIN_IPV6, icmp,
    transport,
};
use crate::DropReason;
use crate::checksum::checksum_with_pseudo_header;
use crate::family::{V4, V6};
use crate::packet::{EXTENSION_FRAGMENT, IpHeader, Packet, TCP, Transport, UDP, Wire};

/// Bytes behind the IP header that every quote has (RFC 792).
const QUOTED_MIN: usize = 8;

/// The flag "more fragments" of a fragment header.
const MORE_FRAGMENTS: u16 = 1;

/// The same of IPv4.
const MORE_FRAGMENTS_IPV4: u16 = 0x2000;

/// Whether a packet from outside, which starts `bytes` and was parsed as `packet`, has an equal in IPv6.
///
/// # Errors
/// What it is dropped for. What passes can be written by [`ToIpv6`].
#[cold]
#[inline(never)]
pub(crate) fn may_become_ipv6<F: Wire>(bytes: &[u8], packet: &Packet<F>) -> Result<(), DropReason> {
    let payload = bytes.get(F::transport_at(packet.layout)..).ok_or(DropReason::Truncated)?;
    let protocol = packet.tuple.protocol;
    let is_part = packet.fragment.is_some();
    match packet.transport {
        // ICMPv6's checksum covers the length of the whole message.
        Transport::Echo if is_part => Err(DropReason::UnsupportedFragment),
        Transport::Later if protocol == F::ICMP => Err(DropReason::UnsupportedFragment),
        Transport::Udp if is_part && payload.get(6..8) == Some(&[0, 0]) => {
            Err(DropReason::NoUdpChecksum)
        }
        Transport::Error => {
            let icmp = payload.first_chunk::<ICMP_HEADER>().ok_or(DropReason::BadTransport)?;
            let quote = payload.get(ICMP_HEADER..).unwrap_or_default();
            icmp::to_ipv6(*icmp, quoted_length(quote)).ok_or(DropReason::UnsupportedIcmp)?;
            // Where extensions are said to begin (RFC 4884), the quote ends.
            let quote = icmp::without_extensions_ipv4(*icmp, quote);
            let ports = F::quoted(quote).and_then(|(_, quoted)| quoted.first_chunk::<QUOTED_MIN>());
            ports.map(|_| ()).ok_or(DropReason::BadQuote)
        }
        Transport::Portless | Transport::Later if has_other_meaning(protocol) => {
            Err(DropReason::UnsupportedProtocol)
        }
        _ => Ok(()),
    }
}

/// Whether a protocol number of IPv4 is something else in IPv6, or cannot be translated there.
fn has_other_meaning(protocol: u8) -> bool {
    protocol == ICMPV6 || V6::is_extension(protocol) || V6::is_untranslatable(protocol)
}

/// What a quoted packet says is its length, in bytes.
fn quoted_length(quote: &[u8]) -> u16 {
    match quote {
        [_, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

/// A packet from outside to a number, and how it becomes one of IPv6 to that pod.
pub(crate) struct ToIpv6<'a> {
    addresses: &'a Addresses,
    header: IpHeader<V4>,
    /// The source and the destination.
    ends: (Ipv6Addr, Ipv6Addr),
    identification: [u8; 2],
    /// What follows the IPv4 header.
    payload: &'a [u8],
    /// The largest IPv6 packet that fits, in bytes.
    mtu: u16,
}

impl<'a> ToIpv6<'a> {
    /// Of the packet that starts `bytes`; `None` when there is none, or it is to no number.
    pub(crate) fn new(addresses: &'a Addresses, bytes: &'a [u8], mtu: u16) -> Option<Self> {
        let (header, payload) = V4::parse(bytes).ok()?;
        let ends = (addresses.embedded(header.source), addresses.pod(header.destination)?);
        let [_, _, _, _, i0, i1, ..] = *bytes else { return None };
        Some(Self { addresses, header, ends, identification: [i0, i1], payload, mtu })
    }

    /// In how many packets it is sent.
    pub(crate) fn count(&self) -> usize {
        match self.is_cut() {
            true => self.payload.len().div_ceil(self.step().max(1)),
            false => 1,
        }
    }

    /// Writes one of those packets, counted from 0; gives its length. `None` after the last one, and
    /// when there is no room for it, or no such packet in IPv6.
    pub(crate) fn write(&self, number: usize, out: &mut [u8]) -> Option<u16> {
        if number >= self.count() {
            return None;
        }
        if self.is_error() {
            return self.write_error(out);
        }
        let (source, destination) = self.ends;
        if !self.is_cut() {
            let (head, body) = out.split_first_chunk_mut::<40>()?;
            let body = body.get_mut(..self.payload.len())?;
            body.copy_from_slice(self.payload);
            self.turn_transport(body)?;
            let length = u16::try_from(self.payload.len()).ok()?.checked_add(IPV6_HEADER)?;
            *head = self.header_of(source, destination, self.protocol(), length);
            return Some(length);
        }
        let step = self.step();
        let start = number.checked_mul(step)?;
        let rest = self.payload.get(start..)?;
        let piece = rest.get(..step).unwrap_or(rest);
        let is_last = piece.len() == rest.len();
        let (head, body) = out.split_first_chunk_mut::<40>()?;
        let (fragment, body) = body.split_first_chunk_mut::<8>()?;
        let body = body.get_mut(..piece.len())?;
        body.copy_from_slice(piece);
        if number == 0 {
            self.turn_transport(body)?;
        }
        *fragment = self.fragment_header(start, is_last)?;
        let length = u16::try_from(piece.len()).ok()?.checked_add(IPV6_HEADER + FRAGMENT_HEADER)?;
        *head = self.header_of(source, destination, EXTENSION_FRAGMENT, length);
        Some(length)
    }

    fn protocol(&self) -> u8 {
        if self.header.protocol == ICMP { ICMPV6 } else { self.header.protocol }
    }

    /// Whether it is an ICMP error: those quote packets, and are cut short rather than cut.
    fn is_error(&self) -> bool {
        let kind = self.payload.first().copied();
        self.header.protocol == ICMP
            && self.header.fragment.is_none()
            && kind.is_some_and(<V4 as Wire>::is_error)
    }

    /// Whether it is sent with fragment headers: it came in fragments, or does not fit.
    fn is_cut(&self) -> bool {
        let fits = self.payload.len() + usize::from(IPV6_HEADER) <= self.mtu.into();
        !self.is_error() && (self.header.fragment.is_some() || !fits)
    }

    /// Bytes of payload in each fragment but the last: whole numbers of 8.
    fn step(&self) -> usize {
        usize::from(self.mtu.saturating_sub(IPV6_HEADER + FRAGMENT_HEADER) & !7)
    }

    /// Of the fragment that starts so many bytes behind the header. A fragment can be cut once more.
    fn fragment_header(&self, start: usize, is_last: bool) -> Option<[u8; 8]> {
        let (offset, is_last) = match self.header.fragment {
            Some(part) => (start / 8 + usize::from(part.start), is_last && part.is_last),
            None => (start / 8, is_last),
        };
        let word = u16::try_from(offset * 8).ok()? | if is_last { 0 } else { MORE_FRAGMENTS };
        let [high, low] = word.to_be_bytes();
        let [i0, i1] = self.identification;
        Some([self.protocol(), 0, high, low, 0, 0, i0, i1])
    }

    fn header_of(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        next_header: u8,
        length: u16,
    ) -> [u8; 40] {
        let mut header = V6::header(source, destination, next_header, self.header.tos, length);
        header[7] = self.header.ttl;
        header
    }

    /// Lets the start of the payload, which is `body`, be what IPv6 carries.
    fn turn_transport(&self, body: &mut [u8]) -> Option<()> {
        if self.header.fragment.is_some_and(|part| !part.is_first()) {
            return Some(());
        }
        let (source, destination) = self.ends;
        let length = u16::try_from(self.payload.len()).ok()?;
        match self.header.protocol {
            ICMP => transport::echo_to_ipv6(body, source, destination, length)?,
            UDP if body.get(6..8)? == [0, 0] => {
                let sum = self.udp_checksum(source, destination)?;
                body.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
            }
            protocol => {
                let IpHeader { source: old_source, destination: old_destination, .. } = self.header;
                let ends = [(old_source, source), (old_destination, destination)];
                transport::follow(protocol, body, transport::to_ipv6(ends));
            }
        }
        Some(())
    }

    /// That of a packet that came without: IPv6 asks for one (RFC 7915, section 4.5).
    fn udp_checksum(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Option<u16> {
        let [_, _, _, _, high, low, ..] = *self.payload else { return None };
        let datagram = self.payload.get(..usize::from(u16::from_be_bytes([high, low])))?;
        let is_whole = self.header.fragment.is_none();
        let sum = checksum_with_pseudo_header(source, destination, UDP, datagram);
        is_whole.then_some(if sum == 0 { 0xffff } else { sum })
    }

    /// An error with the packet that it quotes: as much of that as fits where every error fits.
    fn write_error(&self, out: &mut [u8]) -> Option<u16> {
        let (icmp, quote) = self.payload.split_first_chunk::<ICMP_HEADER>()?;
        let new = icmp::to_ipv6(*icmp, quoted_length(quote))?;
        let quote = icmp::without_extensions_ipv4(*icmp, quote);
        let room = out.len().min(self.mtu.min(MTU_MIN_IPV6).into());
        let room = out.get_mut(..room)?;
        let (head, message) = room.split_first_chunk_mut::<40>()?;
        let (icmp, quoted) = message.split_first_chunk_mut::<ICMP_HEADER>()?;
        *icmp = new;
        let length = ICMP_HEADER + write_quote(self.addresses, quote, quoted)?;
        let message = message.get_mut(..length)?;
        let (source, destination) = self.ends;
        let sum = V6::icmp_checksum(source, destination, message);
        message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        let length = u16::try_from(length).ok()?.checked_add(IPV6_HEADER)?;
        *head = self.header_of(source, destination, ICMPV6, length);
        Some(length)
    }
}

/// Writes the packet that an error from outside quotes, as far as it is quoted and fits: one from a
/// number to the outside; gives how much it is.
fn write_quote(addresses: &Addresses, quote: &[u8], out: &mut [u8]) -> Option<usize> {
    let (quoted, payload) = V4::quoted(quote)?;
    let (header, _) = quote.split_first_chunk::<20>()?;
    let [_, tos, _, _, i0, i1, f0, f1, ttl, ..] = *header;
    let source = addresses.pod(quoted.source)?;
    let destination = addresses.embedded(quoted.destination);
    let length = u16::try_from(quoted.transport_length).ok()?;
    let protocol = if quoted.protocol == ICMP { ICMPV6 } else { quoted.protocol };
    let is_part = u16::from_be_bytes([f0, f1]) & MORE_FRAGMENTS_IPV4 != 0;
    let (head, rest) = out.split_first_chunk_mut::<40>()?;
    let (extension, body) = rest.split_at_mut_checked(if is_part { 8 } else { 0 })?;
    if is_part {
        extension.copy_from_slice(&[protocol, 0, 0, 1, 0, 0, i0, i1]);
    }
    let room = body.len().min(payload.len());
    let (body, payload) = (body.get_mut(..room)?, payload.get(..room)?);
    body.copy_from_slice(payload);
    match quoted.protocol {
        ICMP => transport::echo_to_ipv6(body, source, destination, length)?,
        protocol @ (TCP | UDP) => {
            let ends: [(Ipv4Addr, Ipv6Addr); 2] =
                [(quoted.source, source), (quoted.destination, destination)];
            transport::follow(protocol, body, transport::to_ipv6(ends));
        }
        _ => {}
    }
    let extension_length = u16::try_from(extension.len()).ok()?;
    let length = length.checked_add(IPV6_HEADER + extension_length)?;
    let next_header = if is_part { EXTENSION_FRAGMENT } else { protocol };
    *head = V6::header(source, destination, next_header, tos, length);
    head[7] = ttl;
    Some(head.len() + extension.len() + room)
}
