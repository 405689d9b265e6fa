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

/// An IPv4 header without options, and so much of TCP and UDP as both have.
const START: usize = 28;

/// Of the first 8 bytes of an IPv4 header, little-endian: version and length of the header, the flag
/// "more fragments" and the offset; and what they are in a whole packet without options.
const SHAPE_MASK: u64 = 0xff | (FRAGMENT.to_be() as u64) << 48;
const SHAPE: u64 = 0x45;

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
        self.direction = None;
        match frame.first().map(|first| first & KIND_MASK) {
            Some(KIND_TUNNEL) => {
                let Some((steer, packet)) = frame.split_first_chunk::<TUNNEL_IP_OFFSET>() else {
                    return;
                };
                if self.glance_at_ip(packet, hasher)
                    && let Some(tos) = packet.get(1)
                    && ecn::is_unchanged(steer[0] >> ECN_SHIFT, *tos)
                {
                    self.way_back = hasher.way_back(steer);
                    self.direction = Some(Direction::Forward);
                }
            }
            Some(KIND_REPLY) => {
                let Some((link, packet)) = frame.split_first_chunk::<REPLY_IP_OFFSET>() else {
                    return;
                };
                if link.ends_with(&ETHERTYPE_IPV4) && self.glance_at_ip(packet, hasher) {
                    self.direction = Some(Direction::Reply);
                }
            }
            _ => {}
        }
    }

    /// Whether an IPv4 packet, and what may be behind it, is usual; if so, takes from it what both
    /// directions need.
    #[inline(always)]
    fn glance_at_ip(&mut self, packet: &[u8], hasher: &Hasher) -> bool {
        let Some(start) = packet.first_chunk::<START>() else { return false };
        let first = u64::from_le_bytes(start[..8].try_into().unwrap_or_default());
        let addresses = u64::from_le_bytes(start[12..20].try_into().unwrap_or_default());
        let middle = u32::from_le_bytes(start[8..12].try_into().unwrap_or_default());
        let [_, _, l0, l1, ..] = first.to_le_bytes();
        let [ttl, protocol, ..] = middle.to_le_bytes();
        let length = u16::from_be_bytes([l0, l1]);
        let Some(more) = length.checked_sub(START as u16) else { return false };
        if first & SHAPE_MASK != SHAPE
            || ttl <= 1
            || usize::from(length) > packet.len()
            || !is_valid(first, middle, addresses)
        {
            return false;
        }
        match protocol {
            UDP if u16::from_be_bytes([start[24], start[25]]).wrapping_sub(8) <= more => {}
            TCP if is_under_way(packet, more) => {}
            _ => return false,
        }
        let ports = u32::from_le_bytes(start[20..24].try_into().unwrap_or_default());
        self.key = Key::of_parts(addresses, ports, protocol);
        self.hash = hasher.key(&self.key);
        self.length = length;
        true
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
/// [`START`].
#[inline(always)]
fn is_under_way(packet: &[u8], more: u16) -> bool {
    let Some(&[.., first, flags, _, _, _, _, _, _]) = packet.first_chunk::<40>() else {
        return false;
    };
    let header_length = u16::from(first >> 4) * 4;
    header_length >= 20 && header_length - 8 <= more && Segment::goes_on(flags)
}
