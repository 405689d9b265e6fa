//! The usual packet: whole, of TCP or UDP, neither opening nor ending a connection. A glance tells it
//! from all others and takes from it what finds its flow. What the glance does not recognise is left
//! to [`super::Packet::parse`], which says what is wrong with it, if anything is.

use super::wire::Wire;
use super::{Direction, Segment, ecn};
use crate::family::Family;
use crate::flow::{Hasher, Key, SlotIndex};
use crate::steer::{
    ECN_SHIFT, KIND_AND_FAMILY_MASK, KIND_REPLY, KIND_TUNNEL, REPLY_IP_OFFSET, TUNNEL_IP_OFFSET,
};

/// The least that a packet of TCP or UDP has: an IPv4 header and one of UDP, in bytes.
const HEADERS_MIN: usize = 28;

/// What forwarding a usual packet needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usual<F: Family> {
    /// The tuple by which its direction knows its flow.
    pub(crate) key: Key<F>,
    pub(crate) hash: u64,
    /// Forward: what the steer header teaches about the way back, in short.
    pub(crate) way_back: u32,
    /// The likely entry of its flow, once it was looked for.
    pub(crate) candidate: SlotIndex,
    /// Of the whole packet, in bytes.
    pub(crate) length: u16,
    /// `None` when it is not usual: then nothing else means anything, until it has been looked at
    /// whole, and [`Usual::is_left`] does.
    pub(crate) direction: Option<Direction>,
}

/// The length of what is left: no device carries so much.
const LEFT: u16 = u16::MAX;

impl<F: Wire> Usual<F> {
    /// None.
    pub(crate) const NONE: Self = Self {
        key: Key::NONE,
        hash: 0,
        way_back: 0,
        candidate: SlotIndex::FIRST,
        length: 0,
        direction: None,
    };

    /// Notes whether a frame that is not usual is left to the other family.
    pub(crate) fn set_left(&mut self, is_left: bool) {
        self.length = if is_left { LEFT } else { 0 };
    }

    /// Whether it is, once its burst has gone through.
    pub(crate) fn is_left(&self) -> bool {
        self.length == LEFT
    }

    /// Becomes what a frame shows. It does not ask for martians: no flow has their addresses.
    #[inline(always)]
    pub(crate) fn glance(&mut self, frame: &[u8], hasher: &Hasher) {
        self.direction = self.recognise(frame, hasher);
    }

    #[inline(always)]
    fn recognise(&mut self, frame: &[u8], hasher: &Hasher) -> Option<Direction> {
        let start = frame.first_chunk::<{ TUNNEL_IP_OFFSET + HEADERS_MIN }>()?;
        let kind = start[0] & KIND_AND_FAMILY_MASK;
        if kind == KIND_TUNNEL | F::STEER_FAMILY {
            let (steer, _) = start.split_first_chunk::<TUNNEL_IP_OFFSET>()?;
            let tos = F::recognise(frame.get(TUNNEL_IP_OFFSET..)?, self, hasher)?;
            self.way_back = hasher.way_back(steer);
            ecn::is_unchanged(steer[0] >> ECN_SHIFT, tos).then_some(Direction::Forward)
        } else if kind == KIND_REPLY | F::STEER_FAMILY {
            let (link, packet) = frame.split_first_chunk::<REPLY_IP_OFFSET>()?;
            F::recognise(packet, self, hasher)?;
            link.ends_with(&F::ETHERTYPE).then_some(Direction::Reply)
        } else {
            None
        }
    }
}

/// Whether a packet goes on with a TCP connection, of which this is the start up to the end of a TCP
/// header without options; `more` is its length beyond the IP header and 8 bytes.
#[inline(always)]
pub(super) fn is_under_way<const END: usize>(start: &[u8; END], more: u16) -> bool {
    let Some(&[first, flags, ..]) = start.last_chunk::<8>() else { return false };
    let header_length = u16::from(first >> 4) * 4;
    header_length >= 20 && header_length - 8 <= more && Segment::goes_on(flags)
}
