//! The IPv4 header (RFC 791) and what a router must refuse (RFC 1812, RFC 3927).

use std::net::Ipv4Addr;

use super::Usual;
use super::usual::is_under_way;
use super::wire::{Fragment, IpHeader, Quoted, TCP, UDP, Wire};
use crate::DropReason;
use crate::checksum::{Delta, checksum};
use crate::encap::ETHERTYPE_IPV4;
use crate::family::V4;
use crate::flow::{Hasher, Key};
use crate::nat::{Change, Identifications, Side};

/// Length of a header without options, in bytes.
const HEADER_LEN: u16 = 20;

/// Such a header and one of UDP, in bytes.
const HEADERS: usize = HEADERS_U16 as usize;
const HEADERS_U16: u16 = 28;

/// The flag "more fragments" in the word of flags and offset, and the offset.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What is not 0 in that word of a fragment.
const FRAGMENT: u16 = MORE_FRAGMENTS | FRAGMENT_OFFSET;

/// The largest payload that a packet can have, in bytes.
const PAYLOAD_MAX: usize = (u16::MAX - HEADER_LEN) as usize;

/// The flag "don't fragment" in the byte that it is in.
pub(crate) const DONT_FRAGMENT: u8 = 0x40;

const TTL: u8 = 64;

const DESTINATION_UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// The code of [`DESTINATION_UNREACHABLE`].
const FRAGMENTATION_NEEDED: u8 = 4;

/// The first matches the table's empty slots; of the others a checksum or signature covers the
/// addresses: DCCP, AH, UDP-Lite.
const UNTRANSLATABLE: [u8; 4] = [0, 33, 51, 136];

/// 0xffff times this is 1, modulo 2^64.
const FFFF_INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
const _: () = assert!(FFFF_INVERSE.wrapping_mul(0xffff) == 1);

impl Wire for V4 {
    type Header = [u8; 20];
    type Layout = ();

    const HEADER_LEN: u16 = HEADER_LEN;
    const STEER_FAMILY: u8 = 0;
    const ETHERTYPE: [u8; 2] = ETHERTYPE_IPV4;
    const OTHER_VERSION: DropReason = DropReason::NotIpv4;
    // RFC 791, section 3.2.
    const MTU_MIN: u16 = 68;
    const NOBODY: Option<Ipv4Addr> = Some(Ipv4Addr::new(192, 0, 0, 8));
    const NEEDS_UDP_CHECKSUM: bool = false;
    const ICMP: u8 = 1;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const TIME_EXCEEDED: u8 = TIME_EXCEEDED;
    const ICMP_COVERS_ADDRESSES: bool = false;
    // What every host can take (RFC 1812, section 4.3.2.3).
    const ERROR_MAX: u16 = 576;

    /// Options are refused: those that matter (source routing, record route) ask a router to reveal
    /// or to obey, and without them every header has one length.
    #[inline]
    fn parse(bytes: &[u8]) -> Result<(IpHeader<V4>, &[u8]), DropReason> {
        let (header, rest) = bytes.split_first_chunk::<20>().ok_or(DropReason::Truncated)?;
        let length = u16::from_be_bytes([header[2], header[3]]);
        let payload_length = length.checked_sub(HEADER_LEN);
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
        let fragment = match u16::from_be_bytes([f0, f1]) & FRAGMENT {
            0 => None,
            word => {
                let identification = u16::from_be_bytes([i0, i1]).into();
                let place = (word & FRAGMENT_OFFSET, word & MORE_FRAGMENTS == 0);
                Some(Fragment::new(identification, place, payload_length, PAYLOAD_MAX)?)
            }
        };
        let (source, destination) = addresses(header);
        if is_martian(source) {
            return Err(DropReason::MartianSource);
        }
        if is_martian(destination) {
            return Err(DropReason::MartianDestination);
        }
        let (tos, ttl, protocol) = (header[1], header[8], header[9]);
        let dont_fragment = header[6] & DONT_FRAGMENT != 0;
        let layout = ();
        let header = IpHeader {
            source,
            destination,
            protocol,
            length,
            tos,
            ttl,
            dont_fragment,
            fragment,
            layout,
        };
        Ok((header, payload))
    }

    #[inline(always)]
    fn recognise(packet: &[u8], usual: &mut Usual<V4>, hasher: &Hasher) -> Option<u8> {
        let headers = packet.first_chunk::<HEADERS>()?;
        let first = u64::from_le_bytes(headers[..8].try_into().unwrap_or_default());
        let middle = u32::from_le_bytes(headers[8..12].try_into().unwrap_or_default());
        let addresses = u64::from_le_bytes(headers[12..20].try_into().unwrap_or_default());
        let ports = u32::from_le_bytes(headers[20..24].try_into().unwrap_or_default());
        let [version, tos, l0, l1, _, _, f0, f1] = first.to_le_bytes();
        let [ttl, protocol, ..] = middle.to_le_bytes();
        let length = u16::from_be_bytes([l0, l1]);
        // What it has beyond the headers, or in the place of UDP's.
        let more = length.checked_sub(HEADERS_U16)?;
        let is_usual = version == 0x45
            && u16::from_be_bytes([f0, f1]) & FRAGMENT == 0
            && ttl > 1
            && usize::from(length) <= packet.len()
            && is_valid(first, middle, addresses);
        if !is_usual {
            return None;
        }
        match protocol {
            UDP if u16::from_be_bytes([headers[24], headers[25]]).wrapping_sub(8) <= more => {}
            TCP if is_under_way(packet.first_chunk::<40>()?, more) => {}
            _ => return None,
        }
        usual.key = Key::of_parts([addresses], ports, protocol);
        usual.hash = hasher.key(&usual.key);
        usual.length = length;
        Some(tos)
    }

    #[inline(always)]
    fn split_usual(packet: &mut [u8]) -> Option<(&mut [u8; 20], &mut [u8])> {
        // One check for all that UDP needs: those below are settled by it.
        packet.first_chunk::<HEADERS>()?;
        packet.split_first_chunk_mut()
    }

    #[inline]
    fn split(packet: &mut [u8], (): ()) -> Option<(&mut [u8; 20], &mut [u8])> {
        packet.split_first_chunk_mut()
    }

    #[inline]
    fn transport_at((): ()) -> usize {
        HEADER_LEN.into()
    }

    #[inline]
    fn is_untranslatable(protocol: u8) -> bool {
        UNTRANSLATABLE.contains(&protocol)
    }

    fn is_extension(_: u8) -> bool {
        false
    }

    fn datagram_protocol(protocol: u8) -> u8 {
        protocol
    }

    fn is_error(kind: u8) -> bool {
        matches!(kind, DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    fn icmp_checksum(_: Ipv4Addr, _: Ipv4Addr, message: &[u8]) -> u16 {
        checksum(message)
    }

    /// The word behind the checksum has the MTU of the next hop (RFC 1191).
    fn too_big(mtu: u16) -> Option<[u8; 8]> {
        let [high, low] = mtu.to_be_bytes();
        let message = [DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0, high, low];
        (mtu >= Self::MTU_MIN).then_some(message)
    }

    /// The header's checksum is not held against it: routers quote what they have already changed.
    fn quoted(quote: &[u8]) -> Option<(Quoted<V4>, &[u8])> {
        let (header, transport) = quote.split_first_chunk::<20>()?;
        // No translated packet has options, and only a first fragment has ports.
        let is_later = u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_OFFSET != 0;
        if header[0] != 0x45 || is_later {
            return None;
        }
        let (source, destination) = addresses(header);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let transport_length = length.saturating_sub(header.len());
        let protocol = header[9];
        Some((Quoted { source, destination, protocol, layout: (), transport_length }, transport))
    }

    #[inline(always)]
    fn tos(header: &[u8; 20]) -> u8 {
        header[1]
    }

    #[inline]
    fn set_tos(header: &mut [u8; 20], tos: u8) -> Delta {
        Delta::word(u16::from(std::mem::replace(&mut header[1], tos)), u16::from(tos))
    }

    fn changed(old: Ipv4Addr, new: Ipv4Addr) -> Delta {
        Delta::address(old, new)
    }

    #[inline]
    fn rewrite_header(header: &mut [u8; 20], side: Side, change: &Change<V4>) {
        let checksum = change.ip.apply(u16::from_be_bytes([header[10], header[11]]));
        header[8] = header[8].wrapping_sub(1);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        address_mut(header, side).copy_from_slice(&change.address.octets());
    }

    fn rewrite_quoted(header: &mut [u8; 20], side: Side, address: Ipv4Addr) -> (Delta, Delta) {
        let (source, destination) = addresses(header);
        let old = if side == Side::Source { source } else { destination };
        address_mut(header, side).copy_from_slice(&address.octets());
        let changed = Delta::address(old, address);
        let old_sum = u16::from_be_bytes([header[10], header[11]]);
        let sum = changed.apply(old_sum);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        (changed, changed.plus(Delta::word(old_sum, sum)))
    }

    /// Identification and flags stay: they are unique this way if they were the other way.
    fn turn_round(header: &mut [u8; 20]) {
        let (source, destination) = addresses(header);
        header[12..16].copy_from_slice(&destination.octets());
        header[16..20].copy_from_slice(&source.octets());
        header[8] = TTL;
        header[10..12].fill(0);
        let sum = checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    #[inline(always)]
    fn renew_usual(header: &mut [u8; 20], new: &mut Identifications, hasher: &Hasher) {
        if header[6] & DONT_FRAGMENT == 0 {
            new.renew_whole(header, hasher);
        }
    }

    fn replace_identification(packet: &mut [u8], (): (), new: u32) {
        if let Some(header) = packet.first_chunk_mut() {
            replace_identification(header, new);
        }
    }

    /// It is never fragmented, so it needs no identification (RFC 6864).
    fn header(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        tos: u8,
        length: u16,
    ) -> [u8; 20] {
        let mut header = [0; 20];
        header[0] = 0x45;
        header[1] = tos;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[6] = DONT_FRAGMENT;
        header[8] = TTL;
        header[9] = protocol;
        header[12..16].copy_from_slice(&source.octets());
        header[16..20].copy_from_slice(&destination.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn bytes(header: &[u8; 20]) -> &[u8] {
        header
    }

    #[inline(always)]
    fn condensed([addresses]: [u64; 1], _: &Hasher) -> u64 {
        addresses
    }
}

/// The source and the destination in a header.
pub(crate) fn addresses(header: &[u8; 20]) -> (Ipv4Addr, Ipv4Addr) {
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3))
}

/// The address of one end in a header.
#[inline]
fn address_mut(header: &mut [u8; 20], side: Side) -> &mut [u8] {
    match side {
        Side::Source => &mut header[12..16],
        Side::Destination => &mut header[16..20],
    }
}

/// Replaces the identification in a header.
#[expect(clippy::cast_possible_truncation, reason = "IPv4's has 16 bits")]
pub(crate) fn replace_identification(header: &mut [u8; 20], new: u32) {
    let new = new as u16;
    let delta = Delta::word(u16::from_be_bytes([header[4], header[5]]), new);
    let checksum = delta.apply(u16::from_be_bytes([header[10], header[11]]));
    header[4..6].copy_from_slice(&new.to_be_bytes());
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether an address is no host's on a network that a router may forward to: "this network",
/// loopback, link-local (also the cloud's metadata service), multicast, limited broadcast.
fn is_martian(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    matches!(first, 0 | 127 | 224..=239)
        || (first == 169 && second == 254)
        || address == Ipv4Addr::BROADCAST
}

/// Whether the checksum of a header is right, of which these are all 20 bytes: whether its words add up
/// to a multiple of 0xffff. Neither their order matters to that, nor that of their bytes, nor whether
/// several are taken as one number (RFC 1071, section 2).
#[inline(always)]
fn is_valid(first: u64, middle: u32, last: u64) -> bool {
    let (sum, carry) = first.overflowing_add(last);
    let (sum, again) = sum.overflowing_add(u64::from(middle) + u64::from(carry));
    // A sum that has overflowed is small. The multiples of an odd number are what its inverse makes
    // small: that is one multiplication, and the remainder would be some more.
    sum.wrapping_add(again.into()).wrapping_mul(FFFF_INVERSE) <= u64::MAX / 0xffff
}
