//! What IPv6 has and IPv4 has not: extension headers, neighbour discovery, and its own refusals.

use std::net::{IpAddr, Ipv6Addr};

use spillway_engine::steer::KIND_TUNNEL;
use spillway_engine::{ANNOUNCEMENT_ROOM, Answer, DropReason, Verdict};

use crate::common::build::{Body, cut, error, ethernet, packet, packet_with, vxlan};
use crate::common::gateway::*;
use crate::drops::Case;

type End = (Ipv6Addr, u16);

const POD_END: End = (POD6, 5000);
const REMOTE_END: End = (REMOTE6, 53);
const PUBLIC_END: End = (EGRESS6, 5000);
const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x33);

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

fn request() -> Vec<u8> {
    packet(Body::Udp, POD_END, REMOTE_END, 64)
}

/// Puts extension headers in front of what a packet carries: each its number, and its bytes from the
/// second on, which are 8 at least with the first.
fn extended(packet: &[u8], extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let (header, payload) = packet.split_at(40);
    let mut bytes = header.to_vec();
    let mut next = 6;
    for (number, rest) in extensions {
        bytes[next] = *number;
        next = bytes.len();
        bytes.push(0);
        bytes.extend(*rest);
    }
    bytes[next] = header[6];
    bytes.extend(payload);
    let length = u16::try_from(bytes.len() - 40).unwrap();
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// 8 bytes of options: all padding.
const OPTIONS: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
/// A fragment header that says that nothing is missing.
const ATOMIC: &[u8] = &[0, 0, 0, 1, 2, 3, 4];
/// A routing header whose route is travelled, and one with a stop to go.
const TRAVELLED: &[u8] = &[0, 0, 0, 0, 0, 0, 0];
const UNTRAVELLED: &[u8] = &[0, 0, 1, 0, 0, 0, 0];

/// Frames whose headers are not right.
pub(crate) fn malformed() -> Vec<Case> {
    use DropReason::*;
    let from = |text: &str| packet(Body::Udp, (text.parse().unwrap(), 5000), REMOTE_END, 64);
    let to = |text: &str| packet(Body::Udp, POD_END, (text.parse().unwrap(), 53), 64);
    let with = |extensions: &[(u8, &[u8])]| tunnel_frame(&extended(&request(), extensions));
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut packet = request();
        change(&mut packet);
        let mut frame = tunnel_frame(&request());
        frame.splice(14.., packet);
        frame
    };
    let mut other_family = tunnel_frame(&request());
    other_family[0] = KIND_TUNNEL;
    let mut underlay = tunnel_frame(&request());
    underlay[0] |= 0x10;
    let mut ipv4_reply = reply_frame(&packet(Body::Udp, REMOTE_END, PUBLIC_END, 64));
    ipv4_reply[62..64].copy_from_slice(&[8, 0]);
    let seven = [(DESTINATION, OPTIONS); 7];
    let long = [&[31, 1, 250][..], &[0; 252]].concat();
    vec![
        (NotIpv4, other_family, "IPv6 where steering says IPv4"),
        (NotIpv6, changed(|bytes| bytes[0] = 0x45), "version 4"),
        (NotIpv6, ipv4_reply, "another Ethernet type"),
        (UnknownKind, underlay, "a tunnel over IPv6"),
        (Truncated, tunnel_frame(&request())[..53].to_vec(), "part of the header"),
        (Truncated, tunnel_frame(&request())[..60].to_vec(), "part of the packet"),
        (BadIpLength, changed(|bytes| bytes[4..6].fill(0xff)), "longer than any packet"),
        (BadIpLength, changed(|bytes| (bytes[6], bytes[41]) = (60, 9)), "longer than the packet"),
        (IpOptions, with(&seven), "seven extension headers"),
        (IpOptions, with(&[(DESTINATION, &long), (DESTINATION, OPTIONS)]), "too many bytes"),
        (IpOptions, with(&[(DESTINATION, OPTIONS), (HOP_BY_HOP, OPTIONS)]), "in the wrong place"),
        (IpOptions, with(&[(ROUTING, UNTRAVELLED)]), "a route with a stop to go"),
        (IpOptions, with(&[(FRAGMENT, ATOMIC), (FRAGMENT, ATOMIC)]), "two fragment headers"),
        (BadFragment, with(&[(FRAGMENT, &[0, 0, 1, 1, 2, 3, 4])]), "27 bytes of a longer packet"),
        (MartianSource, tunnel_frame(&from("::")), "from nowhere"),
        (MartianSource, tunnel_frame(&from("::1")), "from loopback"),
        (MartianSource, tunnel_frame(&from("::ffff:10.0.1.40")), "from IPv4"),
        (MartianSource, tunnel_frame(&from("fe80::40")), "from a link"),
        (MartianSource, tunnel_frame(&from("ff0e::1")), "from a group"),
        (MartianDestination, tunnel_frame(&to("::1")), "to loopback"),
        (MartianDestination, tunnel_frame(&to("fe80::1")), "to a link"),
        (MartianDestination, tunnel_frame(&to("ff02::1")), "to a group"),
        (MartianDestination, tunnel_frame(&to("::ffff:169.254.169.254")), "to IPv4"),
        (TtlExpired, tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 1)), "hop limit 1"),
        (NoUdpChecksum, changed(|bytes| bytes[46..48].fill(0)), "UDP without a checksum"),
        (UnsupportedProtocol, changed(|bytes| bytes[6] = 51), "AH"),
        (UnsupportedProtocol, changed(|bytes| bytes[6] = 59), "no next header"),
        (UnsupportedProtocol, changed(|bytes| bytes[6] = 135), "mobility"),
        (BadTransport, changed(|bytes| bytes[44..46].fill(0xff)), "UDP that is too long"),
        (BadSolicitation, neighbour_frame(ROUTER_MAC, &request()), "no solicitation"),
    ]
}
