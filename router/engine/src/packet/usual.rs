//! The usual packet: whole, of TCP or UDP, neither opening nor ending a connection. A glance tells it
//! from all others and takes from it what finds its flow. What the glance does not recognise is left
//! to [`super::Packet::parse`], which says what is wrong with it, if anything is.

use super::ipv4::{FRAGMENT, TCP, UDP};
use super::{Direction, Segment, ecn};
use crate::encap::ETHERTYPE_IPV4;
use crate::flow::{Hasher, Key, SlotIndex};
use crate::steer::{
    ECN_SHIFT, KIND_MASK, KIND_REPLY, KIND_TUNNEL, REPLY_IP_OFFSET, TUNNEL_IP_OFFSET,
};

/// An IPv4 header without options and one of UDP, in bytes.
const HEADERS: usize = HEADERS_U16 as usize;
const HEADERS_U16: u16 = 28;

/// 0xffff times this is 1, modulo 2^64.
const FFFF_INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
const _: () = assert!(FFFF_INVERSE.wrapping_mul(0xffff) == 1);

/// What forwarding a usual packet needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usual {
    /// The tuple by which its direction knows its flow.
    pub(crate) key: Key,
    pub(crate) hash: u64,
    /// Forward: what the steer header teaches about the way back, in short.
    pub(crate) way_back: u32,
    /// The likely entry of its flow, once it was looked for.
    pub(crate) candidate: SlotIndex,
    /// IPv4 total length in bytes.
    pub(crate) length: u16,
    /// `None` when it is not usual: then nothing else means anything.
    pub(crate) direction: Option<Direction>,
}

impl Usual {
    /// None.
    pub(crate) const NONE: Self = Self {
        key: Key::NONE,
        hash: 0,
        way_back: 0,
        candidate: SlotIndex::FIRST,
        length: 0,
        direction: None,
    };

    /// Becomes what a frame shows. It does not ask for martians: no flow has their addresses.
    #[inline(always)]
    pub(crate) fn glance(&mut self, frame: &[u8], hasher: &Hasher) {
        self.direction = self.recognise(frame, hasher);
    }

    #[inline(always)]
    fn recognise(&mut self, frame: &[u8], hasher: &Hasher) -> Option<Direction> {
        let start = frame.first_chunk::<{ TUNNEL_IP_OFFSET + HEADERS }>()?;
        match start[0] & KIND_MASK {
            KIND_TUNNEL => {
                let (steer, headers) = start.split_first_chunk::<TUNNEL_IP_OFFSET>()?;
                let headers = headers.first_chunk()?;
                self.recognise_packet(headers, frame.get(TUNNEL_IP_OFFSET..)?, hasher)?;
                self.way_back = hasher.way_back(steer);
                ecn::is_unchanged(steer[0] >> ECN_SHIFT, headers[1]).then_some(Direction::Forward)
            }
            KIND_REPLY => {
                let (link, packet) = frame.split_first_chunk::<REPLY_IP_OFFSET>()?;
                self.recognise_packet(packet.first_chunk()?, packet, hasher)?;
                link.ends_with(&ETHERTYPE_IPV4).then_some(Direction::Reply)
            }
            _ => None,
        }
    }

    /// Takes from an IPv4 packet, and what may be behind it, what both directions need, if it is usual.
    #[inline(always)]
    fn recognise_packet(
        &mut self,
        headers: &[u8; HEADERS],
        packet: &[u8],
        hasher: &Hasher,
    ) -> Option<()> {
        let first = u64::from_le_bytes(headers[..8].try_into().unwrap_or_default());
        let middle = u32::from_le_bytes(headers[8..12].try_into().unwrap_or_default());
        let addresses = u64::from_le_bytes(headers[12..20].try_into().unwrap_or_default());
        let ports = u32::from_le_bytes(headers[20..24].try_into().unwrap_or_default());
        let [version, _, l0, l1, _, _, f0, f1] = first.to_le_bytes();
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
            TCP if is_under_way(packet, more) => {}
            _ => return None,
        }
        self.key = Key::of_parts(addresses, ports, protocol);
        self.hash = hasher.key(&self.key);
        self.length = length;
        Some(())
    }
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

/// Whether a packet has a whole TCP header of a connection that goes on; `more` is its length beyond
/// [`HEADERS`].
#[inline(always)]
fn is_under_way(packet: &[u8], more: u16) -> bool {
    let Some(&[.., first, flags, _, _, _, _, _, _]) = packet.first_chunk::<40>() else {
        return false;
    };
    let header_length = u16::from(first >> 4) * 4;
    header_length >= 20 && header_length - 8 <= more && Segment::goes_on(flags)
}
