//! The IPv6 header (RFC 8200) and what a router must refuse (RFC 4291).

use std::net::Ipv6Addr;

use super::Usual;
use super::extension::{self, Chain};
use super::usual::is_under_way;
use super::wire::{Fragment, IpHeader, Quoted, TCP, UDP, Wire};
use crate::DropReason;
use crate::checksum::{Delta, checksum_with_pseudo_header};
use crate::encap::ETHERTYPE_IPV6;
use crate::family::V6;
use crate::flow::{Hasher, Key};
use crate::nat::{Change, Identifications, Side};
use crate::steer::FAMILY_6;

/// Length of the header, in bytes.
const HEADER_LEN: u16 = 40;

/// The header and one of UDP, in bytes.
const HEADERS: usize = HEADERS_U16 as usize;
const HEADERS_U16: u16 = 48;

const HOP_LIMIT: u8 = 64;

const DESTINATION_UNREACHABLE: u8 = 1;
const PACKET_TOO_BIG: u8 = 2;
const TIME_EXCEEDED: u8 = 3;
const PARAMETER_PROBLEM: u8 = 4;

/// The first matches the table's empty slots (and is the hop-by-hop options in the wrong place); of
/// the others a checksum or signature covers the addresses, or nothing comes: DCCP, AH, "no next
/// header", OSPF, PIM, VRRP, mobility, UDP-Lite, HIP, Shim6.
fn is_untranslatable(protocol: u8) -> bool {
    matches!(protocol, 0 | 33 | 51 | 59 | 89 | 103 | 112 | 135 | 136 | 139 | 140)
}

/// Where the parts of a packet are that have no fixed place, in bytes from its start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout {
    transport_at: u16,
    /// Of a fragment.
    fragment_at: u16,
}

impl Layout {
    fn new(chain: &Chain) -> Self {
        Self {
            transport_at: HEADER_LEN + chain.at,
            fragment_at: HEADER_LEN + chain.fragment.map_or(0, |fragment| fragment.at),
        }
    }
}

impl Wire for V6 {
    type Header = [u8; 40];
    type Layout = Layout;

    const HEADER_LEN: u16 = HEADER_LEN;
    const STEER_FAMILY: u8 = FAMILY_6;
    const ETHERTYPE: [u8; 2] = ETHERTYPE_IPV6;
    const OTHER_VERSION: DropReason = DropReason::NotIpv6;
    // RFC 8200, section 5.
    const MTU_MIN: u16 = 1280;
    const NOBODY: Option<Ipv6Addr> = None;
    // RFC 8200, section 8.1.
    const NEEDS_UDP_CHECKSUM: bool = true;
    const ICMP: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const TIME_EXCEEDED: u8 = TIME_EXCEEDED;
    const ICMP_COVERS_ADDRESSES: bool = true;
    // RFC 4443, section 2.4.
    const ERROR_MAX: u16 = Self::MTU_MIN;

    #[inline]
    fn parse(bytes: &[u8]) -> Result<(IpHeader<V6>, &[u8]), DropReason> {
        let (header, rest) = bytes.split_first_chunk::<40>().ok_or(DropReason::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(DropReason::NotIpv6);
        }
        let payload_length = u16::from_be_bytes([header[4], header[5]]);
        // No frame is so long.
        let length = payload_length.checked_add(HEADER_LEN).ok_or(DropReason::BadIpLength)?;
        let payload = rest.get(..usize::from(payload_length)).ok_or(DropReason::Truncated)?;
        let (source, destination) = addresses(header);
        if is_martian(source) {
            return Err(DropReason::MartianSource);
        }
        if is_martian(destination) {
            return Err(DropReason::MartianDestination);
        }
        let chain = extension::walk(header[6], payload)?;
        let fragment = match &chain.fragment {
            Some(found) => {
                let length =
                    payload.len().saturating_sub(usize::from(found.at) + extension::FRAGMENT_LEN);
                let place = (found.start, found.is_last);
                Some(Fragment::new(found.identification, place, length, u16::MAX.into())?)
            }
            None => None,
        };
        let transport = payload.get(usize::from(chain.at)..).ok_or(DropReason::BadIpLength)?;
        let header = IpHeader {
            source,
            destination,
            protocol: chain.protocol,
            length,
            tos: Self::tos(header),
            ttl: header[7],
            // Routers never fragment (RFC 8200, section 5).
            dont_fragment: true,
            fragment,
            layout: Layout::new(&chain),
        };
        Ok((header, transport))
    }

    #[inline(always)]
    fn recognise(packet: &[u8], usual: &mut Usual<V6>, hasher: &Hasher) -> Option<u8> {
        let headers = packet.first_chunk::<HEADERS>()?;
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let [version, _, _, _, l0, l1, protocol, hop_limit] = word(&headers[..8]).to_le_bytes();
        let payload_length = u16::from_be_bytes([l0, l1]);
        let length = payload_length.checked_add(HEADER_LEN)?;
        // What it has beyond the headers, or in the place of UDP's.
        let more = length.checked_sub(HEADERS_U16)?;
        if version >> 4 != 6 || hop_limit <= 1 || usize::from(length) > packet.len() {
            return None;
        }
        let [l0, l1, c0, c1] = [headers[44], headers[45], headers[46], headers[47]];
        match protocol {
            UDP if u16::from_be_bytes([l0, l1]).wrapping_sub(8) <= more && [c0, c1] != [0, 0] => {}
            TCP if is_under_way(packet.first_chunk::<60>()?, more) => {}
            _ => return None,
        }
        let addresses =
            [&headers[8..16], &headers[16..24], &headers[24..32], &headers[32..40]].map(word);
        let ports = u32::from_le_bytes(headers[40..44].try_into().unwrap_or_default());
        usual.key = Key::of_parts(addresses, ports, protocol);
        usual.hash = hasher.key(&usual.key);
        usual.length = length;
        Some(headers[0] << 4 | headers[1] >> 4)
    }

    #[inline(always)]
    fn split_usual(packet: &mut [u8]) -> Option<(&mut [u8; 40], &mut [u8])> {
        // One check for all that UDP needs: those below are settled by it.
        packet.first_chunk::<HEADERS>()?;
        packet.split_first_chunk_mut()
    }

    #[inline]
    fn split(packet: &mut [u8], layout: Layout) -> Option<(&mut [u8; 40], &mut [u8])> {
        let (head, transport) = packet.split_at_mut_checked(layout.transport_at.into())?;
        Some((head.first_chunk_mut()?, transport))
    }

    #[inline]
    fn transport_at(layout: Layout) -> usize {
        layout.transport_at.into()
    }

    #[inline]
    fn is_untranslatable(protocol: u8) -> bool {
        is_untranslatable(protocol)
    }

    fn is_extension(protocol: u8) -> bool {
        extension::is_extension(protocol)
    }

    /// That of the fragment header. Not every fragment says what the transport protocol is, and
    /// identifications are unique without (RFC 8200, section 4.5).
    fn datagram_protocol(_: u8) -> u8 {
        extension::FRAGMENT
    }

    fn is_error(kind: u8) -> bool {
        matches!(kind, DESTINATION_UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    /// It covers a pseudo-header (RFC 4443, section 2.3).
    fn icmp_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
        checksum_with_pseudo_header(source, destination, Self::ICMP, message)
    }

    /// The message has the MTU of the next hop (RFC 8201). Hosts do not go below the least one.
    fn too_big(mtu: u16) -> Option<[u8; 8]> {
        let [high, low] = mtu.to_be_bytes();
        (mtu >= Self::MTU_MIN).then_some([PACKET_TOO_BIG, 0, 0, 0, 0, 0, high, low])
    }

    fn quoted(quote: &[u8]) -> Option<(Quoted<V6>, &[u8])> {
        let (header, rest) = quote.split_first_chunk::<40>()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let chain = extension::walk(header[6], rest).ok()?;
        // Only a first fragment has ports.
        if chain.fragment.is_some_and(|fragment| fragment.start > 0) {
            return None;
        }
        let (source, destination) = addresses(header);
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let transport = rest.get(usize::from(chain.at)..)?;
        let quoted = Quoted {
            source,
            destination,
            protocol: chain.protocol,
            layout: Layout::new(&chain),
            transport_length: length.saturating_sub(chain.at.into()),
        };
        Some((quoted, transport))
    }

    #[inline(always)]
    fn tos(header: &[u8; 40]) -> u8 {
        header[0] << 4 | header[1] >> 4
    }

    /// No checksum covers it.
    #[inline]
    fn set_tos(header: &mut [u8; 40], tos: u8) -> Delta {
        header[0] = header[0] & 0xf0 | tos >> 4;
        header[1] = header[1] & 0x0f | tos << 4;
        Delta::NONE
    }

    fn changed(old: Ipv6Addr, new: Ipv6Addr) -> Delta {
        Delta::address_ipv6(old, new)
    }

    #[inline]
    fn rewrite_header(header: &mut [u8; 40], side: Side, change: &Change<V6>) {
        header[7] = header[7].wrapping_sub(1);
        address_mut(header, side).copy_from_slice(&change.address.octets());
    }

    fn rewrite_quoted(header: &mut [u8; 40], side: Side, address: Ipv6Addr) -> (Delta, Delta) {
        let (source, destination) = addresses(header);
        let old = if side == Side::Source { source } else { destination };
        address_mut(header, side).copy_from_slice(&address.octets());
        let changed = Delta::address_ipv6(old, address);
        (changed, changed)
    }

    fn turn_round(header: &mut [u8; 40]) {
        let (source, destination) = addresses(header);
        header[8..24].copy_from_slice(&destination.octets());
        header[24..40].copy_from_slice(&source.octets());
        header[7] = HOP_LIMIT;
    }

    /// Only fragments have one.
    #[inline(always)]
    fn renew_usual(_: &mut [u8; 40], _: &mut Identifications, _: &Hasher) {}

    fn replace_identification(packet: &mut [u8], layout: Layout, new: u32) {
        let header = packet.get_mut(usize::from(layout.fragment_at)..);
        if let Some(header) = header.and_then(|rest| rest.first_chunk_mut::<8>()) {
            header[4..].copy_from_slice(&new.to_be_bytes());
        }
    }

    fn header(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: u8,
        tos: u8,
        length: u16,
    ) -> [u8; 40] {
        let mut header = [0; 40];
        header[0] = 0x60;
        Self::set_tos(&mut header, tos);
        header[4..6].copy_from_slice(&length.saturating_sub(HEADER_LEN).to_be_bytes());
        header[6] = protocol;
        header[7] = HOP_LIMIT;
        header[8..24].copy_from_slice(&source.octets());
        header[24..40].copy_from_slice(&destination.octets());
        header
    }

    fn bytes(header: &[u8; 40]) -> &[u8] {
        header
    }

    #[inline(always)]
    fn condensed(addresses: [u64; 4], hasher: &Hasher) -> u64 {
        hasher.condensed(addresses)
    }
}

/// The source and the destination in a header.
fn addresses(header: &[u8; 40]) -> (Ipv6Addr, Ipv6Addr) {
    let address = |bytes: &[u8]| {
        let octets: [u8; 16] = bytes.try_into().unwrap_or_default();
        Ipv6Addr::from(octets)
    };
    (address(&header[8..24]), address(&header[24..40]))
}

/// The address of one end in a header.
#[inline]
fn address_mut(header: &mut [u8; 40], side: Side) -> &mut [u8] {
    match side {
        Side::Source => &mut header[8..24],
        Side::Destination => &mut header[24..40],
    }
}

/// Whether an address is no host's on a network that a router may forward to: unspecified, loopback,
/// IPv4 in IPv6's form (RFC 4291, section 2.5.5), link-local, multicast.
pub(crate) fn is_martian(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, ..] = address.segments();
    let is_like_ipv4 = (a, b, c, d, e) == (0, 0, 0, 0, 0) && (f == 0 || f == 0xffff);
    is_like_ipv4 || a & 0xffc0 == 0xfe80 || a & 0xff00 == 0xff00
}
