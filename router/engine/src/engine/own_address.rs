//! Egress addresses that Spillway itself has, since the host does not: who asks for one's link address
//! or pings it is answered, where its frame stands, and announcements tell a link where the address is.

mod arp;
mod neighbour;

use super::life::Context;
use super::translator::Translator;
use super::{Answer, Halt, Verdict};
use crate::checksum::Delta;
use crate::family::{Family, V4, V6};
use crate::packet::Wire;
use crate::steer::{KIND_AND_FAMILY_MASK, KIND_ARP, KIND_NEIGHBOUR, KIND_PING, STEER_HEADER_LEN};
use crate::tables::{DeviceIndex, FamilyTables};
use crate::{DropReason, Ticket};

/// How many bytes [`Engine::announce`](super::Engine::announce) needs.
pub const ANNOUNCEMENT_ROOM: usize = neighbour::FRAME as usize;
const _: () = assert!(arp::FRAME <= neighbour::FRAME);

/// Bytes of an Ethernet header.
const ETHERNET: u16 = 14;

/// How a family asks for link addresses.
pub(crate) trait Resolution: Family {
    /// The steer header's kind of a question for one.
    const KIND: u8;

    /// Makes a question for the link address of an announced address its answer.
    fn answer(tables: &FamilyTables<Self>, frame: &mut [u8]) -> Result<Answer, DropReason>;

    /// Writes what tells a link that an address is at this link address; gives the frame's length.
    /// `None` when it does not fit.
    fn announce(address: Self::Address, mac: [u8; 6], out: &mut [u8]) -> Option<u16>;
}

/// By ARP (RFC 826).
impl Resolution for V4 {
    const KIND: u8 = KIND_ARP;

    fn answer(tables: &FamilyTables<Self>, frame: &mut [u8]) -> Result<Answer, DropReason> {
        arp::answer(tables, frame)
    }

    fn announce(address: Self::Address, mac: [u8; 6], out: &mut [u8]) -> Option<u16> {
        arp::announce(address, mac, out)
    }
}

/// By neighbour discovery (RFC 4861).
impl Resolution for V6 {
    const KIND: u8 = KIND_NEIGHBOUR;

    fn answer(tables: &FamilyTables<Self>, frame: &mut [u8]) -> Result<Answer, DropReason> {
        neighbour::answer(tables, frame)
    }

    fn announce(address: Self::Address, mac: [u8; 6], out: &mut [u8]) -> Option<u16> {
        neighbour::announce(address, mac, out)
    }
}

/// What an announced address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    LinkAddress,
    Ping,
}

impl Question {
    /// The question in a frame, if steering says that there is one.
    pub(super) fn of<F: Wire>(frame: &[u8]) -> Option<Self> {
        let kind = *frame.first()? & KIND_AND_FAMILY_MASK;
        match kind ^ F::STEER_FAMILY {
            kind if kind == F::KIND => Some(Self::LinkAddress),
            KIND_PING => Some(Self::Ping),
            _ => None,
        }
    }
}

impl<F: Wire> Translator<F> {
    /// Makes a frame the answer to its question, and counts what becomes of it, once.
    pub(super) fn answer(
        &mut self,
        context: Context<'_, F>,
        question: Question,
        frame: &mut [u8],
    ) -> Verdict {
        let answered = match question {
            Question::LinkAddress => {
                <F as Resolution>::answer(context.tables, frame).map_err(Halt::from)
            }
            Question::Ping => self.answer_ping(context, frame),
        };
        match answered {
            Ok(Answer { device, length }) => {
                self.counters.transmitted += 1;
                self.counters.answered += 1;
                Verdict::Transmit { device, length }
            }
            Err(halt) => self.halt(Ticket::default(), halt),
        }
    }

    /// An echo reply (RFC 792, RFC 4443) by the kernel's routes: whoever asks need not be on the link.
    fn answer_ping(&mut self, context: Context<'_, F>, frame: &mut [u8]) -> Result<Answer, Halt> {
        let Context { tables, .. } = context;
        let (ethernet, packet) =
            frame.split_first_chunk_mut::<STEER_HEADER_LEN>().ok_or(DropReason::Truncated)?;
        let (asked, message) = F::parse(packet)?;
        let (asker, address) = (asked.source, asked.destination);
        let is_plain = F::transport_at(asked.layout) == usize::from(F::HEADER_LEN);
        if asked.protocol != F::ICMP || asked.fragment.is_some() || !is_plain {
            return Err(DropReason::UnsupportedIcmp.into());
        }
        let echo = message.first_chunk::<8>().ok_or(DropReason::BadTransport)?;
        if (echo[0], echo[1]) != (F::ECHO_REQUEST, 0) {
            return Err(DropReason::UnsupportedIcmp.into());
        }
        if F::icmp_checksum(asker, address, message) != 0 {
            return Err(DropReason::BadIcmpChecksum.into());
        }
        tables.announced(address).ok_or(DropReason::NotAnnounced)?;
        let hash = self.hasher.address(asker);
        // Before the way is looked for: nobody shall fill the queue of held frames with pings.
        // One that has waited was admitted before.
        if !context.comes_again && !self.ping_limit.admits(hash, self.now) {
            return Err(DropReason::PingLimited.into());
        }
        let adjacency = tables.adjacency(tables.route(address, asker, hash)?)?;
        if asked.length > adjacency.mtu {
            return Err(DropReason::ExceedsMtu.into());
        }
        let (header, message) = F::split(packet, asked.layout).ok_or(DropReason::Truncated)?;
        F::turn_round(header);
        let echo = message.first_chunk_mut::<4>().ok_or(DropReason::BadTransport)?;
        let turned = Delta::word(
            u16::from_be_bytes([F::ECHO_REQUEST, 0]),
            u16::from_be_bytes([F::ECHO_REPLY, 0]),
        );
        let checksum = turned.apply(u16::from_be_bytes([echo[2], echo[3]]));
        echo[0] = F::ECHO_REPLY;
        echo[2..].copy_from_slice(&checksum.to_be_bytes());
        *ethernet = adjacency.ethernet;
        // No device has an MTU that would cut it short.
        let length = asked.length.saturating_add(ETHERNET);
        Ok(Answer { device: adjacency.device, length })
    }

    /// [`Engine::announce`](super::Engine::announce).
    pub(super) fn announce(
        &mut self,
        tables: &FamilyTables<F>,
        address: F::Address,
        out: &mut [u8],
    ) -> Option<Answer> {
        let (device, mac): (DeviceIndex, _) = tables.announced(address)?;
        let length = <F as Resolution>::announce(address, mac, out)?;
        self.counters.announced += 1;
        Some(Answer { device, length })
    }
}
