//! Neighbour discovery (RFC 4861) and duplicate address detection (RFC 4862), with smoltcp's wire
//! formats.

use std::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use super::{Answer, ETHERNET};
use crate::DropReason;
use crate::family::V6;
use crate::steer::STEER_HEADER_LEN;
use crate::tables::FamilyTables;

/// Bytes of a frame with an advertisement …
pub(super) const FRAME: u16 = BARE_FRAME + 8;

/// … and without an option that says the link address.
const BARE_FRAME: u16 = ETHERNET + 40 + 24;

/// What comes with a lower hop limit has passed a router (RFC 4861, section 7.1.1).
const HOP_LIMIT: u8 = 255;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Tells all nodes without being asked (RFC 4861, section 7.2.6).
pub(super) fn announce(address: Ipv6Addr, mac: [u8; 6], out: &mut [u8]) -> Option<u16> {
    let to = (multicast_mac(ALL_NODES), ALL_NODES);
    write(out, to, (mac, address), NdiscNeighborFlags::OVERRIDE)
}

/// An advertisement, out of the device on which the address is announced. Who asks from no address
/// wants ours for itself (RFC 4862, section 5.4): all nodes are told, which defends it.
pub(super) fn answer(tables: &FamilyTables<V6>, frame: &mut [u8]) -> Result<Answer, DropReason> {
    let (steer, packet) =
        frame.split_first_chunk::<STEER_HEADER_LEN>().ok_or(DropReason::Truncated)?;
    let asker_mac = EthernetAddress::from_bytes(&steer[8..]);
    let (asker, address) = solicitation(packet).ok_or(DropReason::BadSolicitation)?;
    let (device, mac) = tables.announced(address).ok_or(DropReason::NotAnnounced)?;
    // Our own frames, if the link brings them back, are no other host's.
    if !asker_mac.is_unicast() || asker_mac.0 == mac {
        return Err(DropReason::BadSolicitation);
    }
    if asker == address {
        return Err(DropReason::AddressConflict);
    }
    let (to, flags) = match asker.is_unspecified() {
        true => ((multicast_mac(ALL_NODES), ALL_NODES), NdiscNeighborFlags::OVERRIDE),
        false => {
            let flags = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
            ((asker_mac, asker), flags)
        }
    };
    let length = write(frame, to, (mac, address), flags).ok_or(DropReason::Truncated)?;
    Ok(Answer { device, length })
}

/// Who asks, and for which address, if a packet is a valid solicitation (RFC 4861, section 7.1.1).
fn solicitation(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let packet = Ipv6Packet::new_checked(packet).ok()?;
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    if packet.next_header() != IpProtocol::Icmpv6 || packet.hop_limit() != HOP_LIMIT {
        return None;
    }
    let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    if message.msg_code() != 0 || !message.verify_checksum(&source, &destination) {
        return None;
    }
    let Ok(NdiscRepr::NeighborSolicit { target_addr, lladdr }) = NdiscRepr::parse(&message) else {
        return None;
    };
    let is_multicast = destination == solicited_node(target_addr);
    let is_possible = match source.is_unspecified() {
        true => is_multicast && lladdr.is_none(),
        false => (is_multicast || destination == target_addr) && !source.is_multicast(),
    };
    is_possible.then_some((source, target_addr))
}

/// The multicast address that solicitations for an address go to (RFC 4291, section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

/// The link address of a multicast address (RFC 2464, section 7).
fn multicast_mac(address: Ipv6Addr) -> EthernetAddress {
    let [.., a, b, c, d] = address.octets();
    EthernetAddress([0x33, 0x33, a, b, c, d])
}

/// Writes a whole frame with an advertisement of an address and its link address, and gives its
/// length. `None` when it does not fit. In the place of a solicitation without options, there is no
/// room to say the link address: such a one is of somebody who only wants to know whether there is one.
fn write(
    out: &mut [u8],
    (destination_mac, destination): (EthernetAddress, Ipv6Addr),
    (mac, address): ([u8; 6], Ipv6Addr),
    flags: NdiscNeighborFlags,
) -> Option<u16> {
    let length = if out.len() < usize::from(FRAME) { BARE_FRAME } else { FRAME };
    let mac = EthernetAddress(mac);
    let mut frame = EthernetFrame::new_unchecked(out.get_mut(..usize::from(length))?);
    let link = EthernetRepr {
        src_addr: mac,
        dst_addr: destination_mac,
        ethertype: EthernetProtocol::Ipv6,
    };
    link.emit(&mut frame);
    let header = Ipv6Repr {
        src_addr: address,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: usize::from(length - ETHERNET - 40),
        hop_limit: HOP_LIMIT,
    };
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    header.emit(&mut packet);
    let lladdr = (length == FRAME).then(|| mac.into());
    let advertisement = NdiscRepr::NeighborAdvert { flags, target_addr: address, lladdr };
    Icmpv6Repr::Ndisc(advertisement).emit(
        &address,
        &destination,
        &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
        &ChecksumCapabilities::default(),
    );
    Some(length)
}
