//! Egress addresses that Spillway itself has, since the host does not: who asks for one by ARP (RFC
//! 826) or pings it is answered, where its frame stands, and announcements (RFC 5227) tell a link
//! where the address is.

use std::net::Ipv4Addr;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4Message, Icmpv4Packet, Ipv4Packet,
};

use super::life::Context;
use super::{Answer, Engine, Halt, Verdict};
use crate::family::V4;
use crate::packet::{ICMP, ipv4};
use crate::steer::{KIND_ARP, KIND_MASK, KIND_PING, STEER_HEADER_LEN};
use crate::tables::{FamilyTables, Tables};
use crate::{DropReason, Ticket};

/// How many bytes [`Engine::announce`] needs.
pub const ANNOUNCEMENT_ROOM: usize = ARP_FRAME as usize;

/// Bytes of an Ethernet header …
const ETHERNET: u16 = 14;

/// … and with ARP for IPv4 behind it.
const ARP_FRAME: u16 = ETHERNET + 28;

const TTL: u8 = 64;

/// What an announced address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Arp,
    Ping,
}

impl Question {
    /// The question in a frame, if steering says that there is one.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        match *frame.first()? & KIND_MASK {
            KIND_ARP => Some(Self::Arp),
            KIND_PING => Some(Self::Ping),
            _ => None,
        }
    }
}

impl Engine {
    /// Makes a frame the answer to its question, and counts what becomes of it, once.
    pub(super) fn answer(
        &mut self,
        context: Context<'_>,
        question: Question,
        frame: &mut [u8],
    ) -> Verdict {
        let answered = match question {
            Question::Arp => answer_arp(context.tables, frame).map_err(Halt::from),
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

    /// An echo reply (RFC 792) by the kernel's routes: whoever asks need not be on the link.
    fn answer_ping(&mut self, context: Context<'_>, frame: &mut [u8]) -> Result<Answer, Halt> {
        let Context { tables, .. } = context;
        let (ethernet, packet) =
            frame.split_first_chunk_mut::<STEER_HEADER_LEN>().ok_or(DropReason::Truncated)?;
        let (header, message) = ipv4::parse(packet)?;
        let (asker, address) = (header.source, header.destination);
        if header.protocol != ICMP || header.fragment.is_some() {
            return Err(DropReason::UnsupportedIcmp.into());
        }
        let echo = Icmpv4Packet::new_checked(message).map_err(|_| DropReason::BadTransport)?;
        if (echo.msg_type(), echo.msg_code()) != (Icmpv4Message::EchoRequest, 0) {
            return Err(DropReason::UnsupportedIcmp.into());
        }
        if !echo.verify_checksum() {
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
        if header.total_length > adjacency.mtu {
            return Err(DropReason::ExceedsMtu.into());
        }
        let packet =
            packet.get_mut(..usize::from(header.total_length)).ok_or(DropReason::Truncated)?;
        // Identification and flags stay: they are unique this way if they were the other way.
        let mut ip = Ipv4Packet::new_unchecked(packet);
        ip.set_src_addr(address);
        ip.set_dst_addr(asker);
        ip.set_hop_limit(TTL);
        ip.fill_checksum();
        let mut echo = Icmpv4Packet::new_unchecked(ip.payload_mut());
        echo.set_msg_type(Icmpv4Message::EchoReply);
        echo.fill_checksum();
        *ethernet = adjacency.ethernet;
        // No device has an MTU that would cut it short.
        let length = header.total_length.saturating_add(ETHERNET);
        Ok(Answer { device: adjacency.device, length })
    }

    /// Writes a frame into `out`, which needs [`ANNOUNCEMENT_ROOM`], that tells everybody on its
    /// link where an address is (RFC 5227, section 2.3), and counts it. `None` when the address is
    /// not to be announced.
    pub fn announce(
        &mut self,
        tables: &Tables,
        address: Ipv4Addr,
        out: &mut [u8],
    ) -> Option<Answer> {
        let (device, mac) = tables.v4.announced(address)?;
        let announcement = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(mac),
            source_protocol_addr: address,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: address,
        };
        let length = write_arp(out, EthernetAddress::BROADCAST, mac, &announcement)?;
        self.counters.announced += 1;
        Some(Answer { device, length })
    }
}

/// An ARP reply, out of the device on which the address is announced. A probe (RFC 5227), whose
/// sender has no address yet, is answered too: that defends ours.
fn answer_arp(tables: &FamilyTables<V4>, frame: &mut [u8]) -> Result<Answer, DropReason> {
    let arp = frame.get(STEER_HEADER_LEN..).ok_or(DropReason::Truncated)?;
    let request = ArpPacket::new_checked(arp).and_then(|packet| ArpRepr::parse(&packet));
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: asker_mac,
        source_protocol_addr: asker,
        target_protocol_addr: address,
        ..
    }) = request
    else {
        return Err(DropReason::BadArp);
    };
    let (device, mac) = tables.announced(address).ok_or(DropReason::NotAnnounced)?;
    // Our own announcement, if the link brings it back, is no other host's.
    if !asker_mac.is_unicast() || asker_mac.0 == mac {
        return Err(DropReason::BadArp);
    }
    if asker == address {
        return Err(DropReason::AddressConflict);
    }
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: address,
        target_hardware_addr: asker_mac,
        target_protocol_addr: asker,
    };
    let length = write_arp(frame, asker_mac, mac, &answer).ok_or(DropReason::Truncated)?;
    Ok(Answer { device, length })
}

/// Writes a whole frame and gives its length; `None` when it does not fit.
fn write_arp(
    out: &mut [u8],
    destination: EthernetAddress,
    mac: [u8; 6],
    arp: &ArpRepr,
) -> Option<u16> {
    let mut frame = EthernetFrame::new_unchecked(out.get_mut(..ANNOUNCEMENT_ROOM)?);
    let header = EthernetRepr {
        src_addr: EthernetAddress(mac),
        dst_addr: destination,
        ethertype: EthernetProtocol::Arp,
    };
    header.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    Some(ARP_FRAME)
}
