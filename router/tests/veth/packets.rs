//! The flows of the tests, of both families mixed, and their packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpHeaders, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};
use spillway_api::IpFamily;
use spillway_testing::Namespace;
use spillway_xdp::device::probe;

use crate::{GATEWAY, NODE, POD_MAC, Rig, SERVER_PORT};

/// The VXLAN header of what pods send; where the inner frame starts behind it, and its packet.
const VXLAN: [u8; 8] = [8, 0, 0, 0, 0, 0x9c, 0x40, 0];
pub(crate) const INNER: usize = VXLAN.len();
pub(crate) const INNER_IP: usize = INNER + 14;

const OUTER_UDP_CHECKSUM: std::ops::Range<usize> = 26..28;

/// The address that the outside sees.
pub(crate) fn egress(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::new(192, 168, 2, 3).into(),
        IpFamily::V6 => host(0x2001, 2, 3).into(),
    }
}

/// Who answers outside.
pub(crate) fn server(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::new(203, 0, 113, 10).into(),
        IpFamily::V6 => host(0x2001, 0x203, 0x10).into(),
    }
}

/// A host of an IPv6 network that is called so.
const fn host(first: u16, network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(first, 0xdb8, network, 0, 0, 0, 0, host)
}

/// Of every sixteen flows, eight are of IPv4, then eight of IPv6.
pub(crate) fn family(flow: u16) -> IpFamily {
    if (flow / 8).is_multiple_of(2) { IpFamily::V4 } else { IpFamily::V6 }
}

/// The first flow of a family.
pub(crate) fn first_flow(family: IpFamily) -> u16 {
    match family {
        IpFamily::V4 => 0,
        IpFamily::V6 => 8,
    }
}

/// Four pods share the flows of a family.
pub(crate) fn pod(flow: u16) -> IpAddr {
    let number = 40 + flow % 4;
    match family(flow) {
        IpFamily::V4 => Ipv4Addr::new(10, 0, 1, number as u8).into(),
        IpFamily::V6 => host(0xfd00, 1, number).into(),
    }
}

/// Ports of all classes, different for flows of one pod, the same for some of different pods.
pub(crate) fn port(flow: u16) -> u16 {
    (flow / 8).wrapping_mul(61).wrapping_add(2000)
}

/// Flows that share pod and port go to different ports of the server.
pub(crate) fn server_port(flow: u16) -> u16 {
    SERVER_PORT + (flow / 4) % 2
}

/// An IP header of either family; what builds the packet gives it length and protocol.
pub(crate) fn ip_header(source: IpAddr, destination: IpAddr, hop_limit: u8) -> IpHeaders {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header {
                source: source.octets(),
                destination: destination.octets(),
                time_to_live: hop_limit,
                dont_fragment: true,
                ..Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                source: source.octets(),
                destination: destination.octets(),
                hop_limit,
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        _ => panic!("no packet is from {source} to {destination}"),
    }
}

/// What a node's kernel would send for a pod: VXLAN, without the outer headers.
pub(crate) fn frame(flow: u16, round: u16) -> Vec<u8> {
    frame_to(server(family(flow)), 63, flow, round)
}

/// The same to another destination, with so many hops left.
pub(crate) fn frame_to(destination: IpAddr, hop_limit: u8, flow: u16, round: u16) -> Vec<u8> {
    let payload = [flow.to_be_bytes(), round.to_be_bytes()].concat();
    frame_of(ip_header(pod(flow), destination, hop_limit), flow, &payload)
}

/// The same with this IP header, around UDP with this payload.
pub(crate) fn frame_of(header: IpHeaders, flow: u16, payload: &[u8]) -> Vec<u8> {
    frame_between(header, [port(flow), server_port(flow)], payload)
}

/// The same between these ports.
pub(crate) fn frame_between(header: IpHeaders, [from, to]: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = VXLAN.to_vec();
    PacketBuilder::ethernet2(POD_MAC, [2, 0, 0, 0, 0, 1])
        .ip(header)
        .udp(from, to)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// An IPv4 packet from the node to the gateway's tunnel, around what is in its UDP.
pub(crate) fn tunnelled(outer_port: u16, datagram: &[u8]) -> Vec<u8> {
    tunnelled_from(NODE, outer_port, datagram)
}

/// The same from another node.
pub(crate) fn tunnelled_from(node: Ipv4Addr, outer_port: u16, datagram: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(node.octets(), GATEWAY.octets(), 64)
        .udp(outer_port, 8472)
        .write(&mut packet, datagram)
        .unwrap();
    // As a node's kernel does.
    packet[OUTER_UDP_CHECKSUM].fill(0);
    packet
}

/// A whole frame from the node to a two-armed gateway, around what is in its UDP.
pub(crate) fn on_the_wire(rig: &Rig, datagram: &[u8]) -> Vec<u8> {
    let mac = |namespace: &Namespace, device| namespace.enter(|| probe(device)).unwrap().mac;
    let (to, from) = (mac(&rig.gateway, "node"), mac(&rig.node, "eth0"));
    [&to[..], &from, &[8, 0], &tunnelled(40_000, datagram)].concat()
}

/// Source and destination of a packet.
pub(crate) fn addresses(packet: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        NetSlice::Arp(_) => None,
    }
}

/// Which flow and round a VXLAN datagram answers; `None` when anything about it is wrong.
pub(crate) fn answered(datagram: &[u8]) -> Option<(u16, u16)> {
    // VNI 2, to the device of the pod's node.
    let labelled =
        datagram.get(..8)? == [8, 0, 0, 0, 0, 0, 2, 0] && datagram.get(8..14)? == POD_MAC;
    let packet = SlicedPacket::from_ethernet(&datagram[INNER..]).ok()?;
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { return None };
    let [a, b, c, d] = udp.payload().try_into().ok()?;
    let (flow, round) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let (source, destination) = addresses(&packet)?;
    let from = (source, udp.source_port()) == (server(family(flow)), server_port(flow));
    let to = (destination, udp.destination_port()) == (pod(flow), port(flow));
    (labelled && from && to && checksums_are_right(&packet)?).then_some((flow, round))
}

/// Those of IPv4's header and of UDP.
fn checksums_are_right(packet: &SlicedPacket<'_>) -> Option<bool> {
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { return None };
    let (header, payload) = (udp.to_header(), udp.payload());
    let (right, sum) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header().to_header();
            let right = ip.header_checksum == ip.calc_header_checksum();
            (right, header.calc_checksum_ipv4(&ip, payload).ok()?)
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header().to_header();
            (true, header.calc_checksum_ipv6(&ip, payload).ok()?)
        }
        NetSlice::Arp(_) => return None,
    };
    Some(right && udp.checksum() == sum)
}
