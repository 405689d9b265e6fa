//! ARP (RFC 826), and announcements by it (RFC 5227), with smoltcp's wire formats.

use std::net::Ipv4Addr;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr,
};

use super::{Answer, ETHERNET};
use crate::DropReason;
use crate::family::V4;
use crate::steer::STEER_HEADER_LEN;
use crate::tables::FamilyTables;

/// Bytes of a frame with ARP for IPv4.
pub(super) const FRAME: u16 = ETHERNET + 28;

/// A request that nobody answers (RFC 5227, section 2.3).
pub(super) fn announce(address: Ipv4Addr, mac: [u8; 6], out: &mut [u8]) -> Option<u16> {
    let announcement = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    write(out, EthernetAddress::BROADCAST, mac, &announcement)
}

/// An ARP reply, out of the device on which the address is announced. A probe (RFC 5227), whose
/// sender has no address yet, is answered too: that defends ours.
pub(super) fn answer(tables: &FamilyTables<V4>, frame: &mut [u8]) -> Result<Answer, DropReason> {
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
    let length = write(frame, asker_mac, mac, &answer).ok_or(DropReason::Truncated)?;
    Ok(Answer { device, length })
}

/// Writes a whole frame and gives its length; `None` when it does not fit.
fn write(out: &mut [u8], destination: EthernetAddress, mac: [u8; 6], arp: &ArpRepr) -> Option<u16> {
    let mut frame = EthernetFrame::new_unchecked(out.get_mut(..usize::from(FRAME))?);
    let header = EthernetRepr {
        src_addr: EthernetAddress(mac),
        dst_addr: destination,
        ethertype: EthernetProtocol::Arp,
    };
    header.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    Some(FRAME)
}
