//! What IPv6 has and IPv4 has not: extension headers, neighbour discovery, and its own refusals.

use std::net::{IpAddr, Ipv6Addr};

use spillway_engine::steer::KIND_TUNNEL;
use spillway_engine::{ANNOUNCEMENT_ROOM, Answer, DropReason, Verdict};

use crate::common::build::{
    Body, cut, error, ethernet, extended, packet, packet_with, solicitation, vxlan,
};
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

/// What the outside gets of a pod's packet.
fn outside(packet: &[u8]) -> Vec<u8> {
    ethernet(UPLINK_MAC, ROUTER_MAC, packet)
}

/// What a pod's node gets of a reply, whatever its outer source port is.
#[track_caller]
fn assert_inside(sent: &[u8], packet: &[u8]) {
    let inner = ethernet(UNDERLAY_MAC, POD_MAC, packet);
    let source_port = u16::from_be_bytes([sent[34], sent[35]]);
    assert_eq!(sent, vxlan((UNDERLAY_MAC, PEER_MAC), PEER, source_port, [0, 0, 2], &inner));
}

/// Every protocol, both ways, with every extension header that is carried: only addresses and hop
/// limit change, and checksums are right, as etherparse says.
#[test]
fn both_directions_are_translated_behind_any_extension_headers() {
    let longer = [&[1, 1, 12][..], &[0; 12]].concat();
    let chains: [&[(u8, &[u8])]; 5] = [
        &[],
        &[(HOP_BY_HOP, OPTIONS)],
        &[(DESTINATION, &longer)],
        &[(HOP_BY_HOP, &longer), (DESTINATION, OPTIONS), (ROUTING, TRAVELLED)],
        &[(DESTINATION, OPTIONS); 6],
    ];
    for (body, answer) in [
        (Body::Syn, Body::SynAck),
        (Body::Udp, Body::Udp),
        (Body::EchoRequest, Body::EchoReply),
        (Body::SctpInit, Body::SctpInitAck),
        (Body::Gre, Body::Gre),
    ] {
        for chain in chains {
            let mut gateway = Gateway::new();
            let of = |body, from, to, hops| extended(&packet(body, from, to, hops), chain);
            let (device, sent) = gateway.sent(tunnel_frame(&of(body, POD_END, REMOTE_END, 64)));
            assert_eq!(device, UPLINK);
            assert_eq!(sent, outside(&of(body, PUBLIC_END, REMOTE_END, 63)), "{body:?} {chain:?}");
            let (device, sent) = gateway.sent(reply_frame(&of(answer, REMOTE_END, PUBLIC_END, 64)));
            assert_eq!(device, UNDERLAY);
            assert_inside(&sent, &of(answer, REMOTE_END, POD_END, 63));
        }
    }
}

/// The second pod's port is another one outside.
#[test]
fn ports_are_translated() {
    for (body, answer) in [
        (Body::Syn, Body::SynAck),
        (Body::Udp, Body::Udp),
        (Body::EchoRequest, Body::EchoReply),
        (Body::SctpInit, Body::SctpInitAck),
    ] {
        let mut gateway = Gateway::new();
        gateway.sent(tunnel_frame(&packet(body, POD_END, REMOTE_END, 64)));
        let other = (OTHER_POD6, POD_END.1);
        let (_, sent) = gateway.sent(tunnel_frame(&packet(body, other, REMOTE_END, 64)));
        let flows = gateway.flows();
        let flow = flows.iter().find(|flow| flow.original.source == IpAddr::V6(OTHER_POD6));
        let public = (EGRESS6, flow.unwrap().reply.destination_port);
        assert_ne!(public, PUBLIC_END);
        assert_eq!(sent, outside(&packet(body, public, REMOTE_END, 63)));
        let (_, sent) = gateway.sent(reply_frame(&packet(answer, REMOTE_END, public, 64)));
        assert_inside(&sent, &packet(answer, REMOTE_END, other, 63));
    }
}

/// A pod whose port, or identifier, cannot be kept.
const LOW_END: End = (POD6, 500);

/// Has a flow opened; gives the end that the outside sees.
fn opened(gateway: &mut Gateway, body: Body) -> End {
    gateway.sent(tunnel_frame(&packet(body, LOW_END, REMOTE_END, 64)));
    let port = gateway.flows()[0].reply.destination_port;
    assert!(port != 500, "{body:?}");
    (EGRESS6, port)
}

const BODIES: [(Body, Body); 5] = [
    (Body::Syn, Body::SynAck),
    (Body::Udp, Body::Udp),
    (Body::EchoRequest, Body::EchoReply),
    (Body::SctpInit, Body::SctpInitAck),
    (Body::Gre, Body::Gre),
];

/// About packets of every protocol, also behind extension headers, and quoted only in part: what is
/// quoted is what the pod sent.
#[test]
fn an_error_from_outside_reaches_the_pod_with_its_own_packet_quoted() {
    let hop = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
    let chains: [&[(u8, &[u8])]; 2] = [&[], &[(HOP_BY_HOP, OPTIONS), (DESTINATION, OPTIONS)]];
    for (body, _) in BODIES {
        for (kind, chain) in (1..=4).flat_map(|kind| chains.map(|chain| (kind, chain))) {
            let mut gateway = Gateway::new();
            let public = if body == Body::Gre { PUBLIC_END } else { opened(&mut gateway, body) };
            let pod = if body == Body::Gre { POD_END } else { LOW_END };
            gateway.sent(tunnel_frame(&packet(body, pod, REMOTE_END, 64)));
            let quote = |from| extended(&packet(body, from, REMOTE_END, 1), chain);
            // A quoted checksum stays right or wrong; cut off, it is not there.
            for length in [48 + 16 * chain.len() / 2, quote(pod).len()] {
                let seen = error((kind, 0), hop, EGRESS6, 64, &quote(public)[..length]);
                let (_, sent) = gateway.sent(reply_frame(&seen));
                let told = error((kind, 0), hop, POD6, 63, &quote(pod)[..length]);
                assert_inside(&sent, &told);
            }
        }
    }
}

#[test]
fn an_error_from_a_pod_reaches_the_remote_with_its_own_packet_quoted() {
    for (body, answer) in BODIES {
        let mut gateway = Gateway::new();
        let public = if body == Body::Gre { PUBLIC_END } else { opened(&mut gateway, body) };
        let pod = if body == Body::Gre { POD_END } else { LOW_END };
        gateway.sent(tunnel_frame(&packet(body, pod, REMOTE_END, 64)));
        let quote = |to| packet(answer, REMOTE_END, to, 63);
        let (_, sent) = gateway.sent(tunnel_frame(&error((1, 4), POD6, REMOTE6, 64, &quote(pod))));
        assert_eq!(sent, outside(&error((1, 4), EGRESS6, REMOTE6, 63, &quote(public))));
    }
}

#[test]
fn an_error_that_is_wrong_in_any_way_is_dropped() {
    let mut gateway = Gateway::new();
    let public = opened(&mut gateway, Body::Udp);
    let quote = packet(Body::Udp, public, REMOTE_END, 1);
    let mut wrong = error((3, 0), HOST, EGRESS6, 64, &quote);
    wrong[42] ^= 1;
    assert_eq!(gateway.dropped(reply_frame(&wrong)), DropReason::BadIcmpChecksum);
    let to_another = error((3, 0), HOST, OTHER_EGRESS6, 64, &quote);
    assert_eq!(gateway.dropped(reply_frame(&to_another)), DropReason::BadQuote);
    let short = error((3, 0), HOST, EGRESS6, 64, &quote[..47]);
    assert_eq!(gateway.dropped(reply_frame(&short)), DropReason::BadQuote);
    let part = extended(&quote, &[(FRAGMENT, &[0, 1, 0, 1, 2, 3, 4])]);
    let later = error((3, 0), HOST, EGRESS6, 64, &part);
    assert_eq!(gateway.dropped(reply_frame(&later)), DropReason::BadQuote);
    let of_ipv4 = error((3, 0), HOST, EGRESS6, 64, &[0x45; 60]);
    assert_eq!(gateway.dropped(reply_frame(&of_ipv4)), DropReason::BadQuote);
    let unknown = packet(Body::Udp, (EGRESS6, 9), REMOTE_END, 1);
    let of_nobody = error((3, 0), HOST, EGRESS6, 64, &unknown);
    assert_eq!(gateway.dropped(reply_frame(&of_nobody)), DropReason::ErrorWithoutFlow);
    let informational = error((134, 0), HOST, EGRESS6, 64, &quote);
    assert_eq!(gateway.dropped(reply_frame(&informational)), DropReason::UnsupportedIcmp);
}

/// What is too large is never cut; the pod learns what fits.
#[test]
fn a_pod_learns_the_mtu_of_the_way_out_and_sees_the_gateway() {
    let mut gateway = Gateway::new();
    gateway.change(|input| input.devices[usize::from(UPLINK)].mtu = 1400);
    let large = packet_with(Body::Udp, POD_END, REMOTE_END, 64, &[0xab; 1353]);
    let (reason, answer) = gateway.answered(tunnel_frame(&large));
    assert_eq!(reason, DropReason::ExceedsMtu);
    let (device, sent) = answer.unwrap();
    assert_eq!(device, UNDERLAY);
    // As much of it as fits 1280 bytes.
    assert_answer(&sent[64..], (2, 0), [0, 0, 0x05, 0x78], (EGRESS6, POD6), &large[..1232]);
    let fits = packet_with(Body::Udp, POD_END, REMOTE_END, 64, &[0xab; 1352]);
    gateway.sent(tunnel_frame(&fits));

    let dying = packet(Body::Udp, POD_END, REMOTE_END, 1);
    let (reason, answer) = gateway.answered(tunnel_frame(&dying));
    assert_eq!(reason, DropReason::TtlExpired);
    let (_, sent) = answer.unwrap();
    assert_answer(&sent[64..], (3, 0), [0; 4], (EGRESS6, POD6), &dying);
}

#[test]
fn the_outside_learns_the_mtu_of_the_tunnel() {
    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&request()));
    let large = packet_with(Body::Udp, REMOTE_END, PUBLIC_END, 64, &[0xab; 1403]);
    let (reason, answer) = gateway.answered(reply_frame(&large));
    assert_eq!(reason, DropReason::ExceedsTunnelMtu);
    let (device, sent) = answer.unwrap();
    assert_eq!((device, &sent[..14]), (UPLINK, &outside(&large)[..14]));
    assert_answer(&sent[14..], (2, 0), [0, 0, 0x05, 0xaa], (EGRESS6, REMOTE6), &large[..1232]);
    // No host would believe that less than 1280 fits.
    gateway.change(|input| input.devices[usize::from(UNDERLAY)].mtu = 1329);
    assert_eq!(gateway.answered(reply_frame(&large)), (DropReason::ExceedsTunnelMtu, None));
}

/// The answer is an ICMPv6 error of this kind with this quote, as etherparse has it.
#[track_caller]
fn assert_answer(
    packet: &[u8],
    type_code: (u8, u8),
    rest: [u8; 4],
    (source, destination): (Ipv6Addr, Ipv6Addr),
    quote: &[u8],
) {
    let builder = etherparse::PacketBuilder::ipv6(source.octets(), destination.octets(), 64);
    let mut expected = Vec::new();
    builder.icmpv6_raw(type_code.0, type_code.1, rest).write(&mut expected, quote).unwrap();
    // Internetwork control.
    (expected[0], expected[1]) = (0x6c, 0);
    assert_eq!(packet, expected);
}

#[test]
fn segment_sizes_are_lowered_to_what_fits() {
    for (announced, expected) in [(1440_u16, 1390_u16), (1390, 1390), (1200, 1200)] {
        let mut gateway = Gateway::new();
        let syn = |mss: u16, from: End, hops| {
            let mut bytes = Vec::new();
            etherparse::PacketBuilder::ipv6(from.0.octets(), REMOTE6.octets(), hops)
                .tcp(from.1, 443, 1, 1000)
                .syn()
                .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(mss)])
                .unwrap()
                .write(&mut bytes, &[])
                .unwrap();
            bytes
        };
        let (_, sent) = gateway.sent(tunnel_frame(&syn(announced, POD_END, 64)));
        assert_eq!(sent, outside(&syn(expected, PUBLIC_END, 63)));
    }
}

/// In any order; of two pods with one identification, the outside sees two.
#[test]
fn fragments_leave_in_any_order_with_an_identification_of_their_own() {
    let whole = packet_with(Body::Udp, POD_END, REMOTE_END, 64, &[0xcd; 100]);
    let mut identifications = Vec::new();
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let mut gateway = Gateway::new();
        let parts = cut(&whole, 40);
        assert_eq!(parts.len(), 3);
        let mut sent = Vec::new();
        for at in order {
            match gateway.process(tunnel_frame(&parts[at])) {
                (Verdict::Await { .. }, frame) => assert_eq!(frame, tunnel_frame(&parts[at])),
                (Verdict::Transmit { .. }, frame) => sent.push(frame),
                (verdict, _) => panic!("{verdict:?}"),
            }
        }
        for frame in &sent {
            let id: [u8; 4] = frame[58..62].try_into().unwrap();
            assert_ne!(id, [0xab, 0xcd, 0x12, 0x34], "the pod's own");
            identifications.push(id);
            assert_eq!(frame[22..38], EGRESS6.octets());
        }
        assert!(sent.windows(2).all(|pair| pair[0][58..62] == pair[1][58..62]));
    }
}

/// An advertisement as the announced address sends it.
fn advertisement(flags: u8, to: ([u8; 6], Ipv6Addr), with_link_address: bool) -> Vec<u8> {
    let mut payload = ANNOUNCED6.octets().to_vec();
    if with_link_address {
        payload.extend([2, 1]);
        payload.extend(UPLINK_MAC);
    }
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv6(ANNOUNCED6.octets(), to.1.octets(), 255)
        .icmpv6_raw(136, 0, [flags, 0, 0, 0])
        .write(&mut bytes, &payload)
        .unwrap();
    ethernet(UPLINK_MAC, to.0, &bytes)
}

const ALL_NODES: ([u8; 6], Ipv6Addr) =
    ([0x33, 0x33, 0, 0, 0, 1], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
/// Solicited-node multicast of the announced address.
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 9);
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

#[test]
fn who_asks_by_neighbour_discovery_is_told_the_devices_link_address() {
    let option = [&[1, 1][..], &ROUTER_MAC].concat();
    let mut gateway = Gateway::new();
    for destination in [GROUP, ANNOUNCED6] {
        let asked = solicitation(HOST, destination, ANNOUNCED6, &option);
        let (device, sent) = gateway.sent(neighbour_frame(ROUTER_MAC, &asked));
        assert_eq!(device, UPLINK);
        assert_eq!(sent, advertisement(SOLICITED | OVERRIDE, (ROUTER_MAC, HOST), true));
    }
    assert_eq!(gateway.engine.counters().answered, 2);
}

/// Duplicate address detection, with a nonce (RFC 7527) and without: all nodes are told whose it is.
#[test]
fn who_wants_an_announced_address_for_itself_is_told_that_it_is_taken() {
    let mut gateway = Gateway::new();
    for (option, with_link_address) in [(&[14, 1, 1, 2, 3, 4, 5, 6][..], true), (&[], false)] {
        let asked = solicitation(Ipv6Addr::UNSPECIFIED, GROUP, ANNOUNCED6, option);
        let (_, sent) = gateway.sent(neighbour_frame(ROUTER_MAC, &asked));
        assert_eq!(sent, advertisement(OVERRIDE, ALL_NODES, with_link_address));
    }
}

#[test]
fn what_is_no_valid_solicitation_is_not_answered() {
    use DropReason::{AddressConflict, BadSolicitation, NotAnnounced, Truncated};
    let good = || solicitation(HOST, GROUP, ANNOUNCED6, &[]);
    let with = |at: usize, byte: u8| {
        let mut packet = good();
        packet[at] = byte;
        packet
    };
    let option = [&[1, 1][..], &ROUTER_MAC].concat();
    let nobody = Ipv6Addr::UNSPECIFIED;
    let mut gateway = Gateway::new();
    for (packet, mac, reason) in [
        (with(7, 254), ROUTER_MAC, BadSolicitation),
        (with(41, 1), ROUTER_MAC, BadSolicitation),
        (with(42, 0), ROUTER_MAC, BadSolicitation),
        (good()[..60].to_vec(), ROUTER_MAC, BadSolicitation),
        (solicitation(nobody, GROUP, ANNOUNCED6, &option), ROUTER_MAC, BadSolicitation),
        (solicitation(nobody, ANNOUNCED6, ANNOUNCED6, &[]), ROUTER_MAC, BadSolicitation),
        (solicitation(HOST, ALL_NODES.1, ANNOUNCED6, &[]), ROUTER_MAC, BadSolicitation),
        (good(), UPLINK_MAC, BadSolicitation),
        (good(), [0xff; 6], BadSolicitation),
        (solicitation(HOST, EGRESS6, EGRESS6, &[]), ROUTER_MAC, NotAnnounced),
        (solicitation(ANNOUNCED6, GROUP, ANNOUNCED6, &[]), ROUTER_MAC, AddressConflict),
    ] {
        assert_eq!(gateway.dropped(neighbour_frame(mac, &packet)), reason);
    }
    assert_eq!(gateway.dropped(neighbour_frame(ROUTER_MAC, &[])[..9].to_vec()), Truncated);
}

#[test]
fn an_announcement_tells_all_nodes_where_an_address_is() {
    let mut gateway = Gateway::new();
    let mut out = [0xee; ANNOUNCEMENT_ROOM];
    let mut announce = |address: Ipv6Addr, out: &mut [u8]| {
        gateway.engine.announce(&gateway.tables, address.into(), out)
    };
    assert_eq!(announce(EGRESS6, &mut out), None, "the host has it");
    assert_eq!(announce(ANNOUNCED6, &mut [0; 77]), None, "no room");
    let answer = announce(ANNOUNCED6, &mut out).unwrap();
    assert_eq!(answer, Answer { device: UPLINK, length: 86 });
    assert_eq!(out[..], advertisement(OVERRIDE, ALL_NODES, true));
    assert_eq!(gateway.engine.counters().announced, 1);
}

#[test]
fn a_ping_is_answered_by_the_kernels_routes() {
    let mut gateway = Gateway::new();
    let ping = |kind: u8, to: Ipv6Addr| {
        let builder = etherparse::PacketBuilder::ipv6(REMOTE6.octets(), to.octets(), 9);
        let mut bytes = Vec::new();
        builder.icmpv6_raw(kind, 0, [1, 2, 3, 4]).write(&mut bytes, b"are you there").unwrap();
        bytes
    };
    let (device, sent) = gateway.sent(ping_frame(&ping(128, ANNOUNCED6)));
    let mut expected = Vec::new();
    etherparse::PacketBuilder::ipv6(ANNOUNCED6.octets(), REMOTE6.octets(), 64)
        .icmpv6_raw(129, 0, [1, 2, 3, 4])
        .write(&mut expected, b"are you there")
        .unwrap();
    assert_eq!((device, sent), (UPLINK, outside(&expected)));
    assert_eq!(gateway.dropped(ping_frame(&ping(128, EGRESS6))), DropReason::NotAnnounced);
    assert_eq!(gateway.dropped(ping_frame(&ping(129, ANNOUNCED6))), DropReason::UnsupportedIcmp);
    let behind = extended(&ping(128, ANNOUNCED6), &[(DESTINATION, OPTIONS)]);
    assert_eq!(gateway.dropped(ping_frame(&behind)), DropReason::UnsupportedIcmp);
    let mut wrong = ping(128, ANNOUNCED6);
    wrong[50] ^= 1;
    assert_eq!(gateway.dropped(ping_frame(&wrong)), DropReason::BadIcmpChecksum);
}

/// Of each family apart, with one flow's identification in both.
#[test]
fn a_burst_of_both_families_is_translated_whole() {
    let mut gateway = Gateway::new();
    let ipv4 = packet(Body::Udp, (POD, 5000), (REMOTE, 53), 64);
    let mut frames = [
        tunnel_frame(&request()),
        tunnel_frame(&ipv4),
        vec![],
        tunnel_frame(&request()),
        tunnel_frame(&ipv4),
    ];
    let mut frames: Vec<&mut [u8]> = frames.iter_mut().map(Vec::as_mut_slice).collect();
    let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); 5];
    gateway.engine.process(gateway.now, &gateway.tables, &mut frames, &mut verdicts);
    let lengths = verdicts.map(|verdict| match verdict {
        Verdict::Transmit { device: UPLINK, length } => length,
        Verdict::Drop(DropReason::Truncated) => 0,
        other => panic!("{other:?}"),
    });
    assert_eq!(lengths, [81, 61, 0, 81, 61]);
    let counters = gateway.engine.counters();
    assert_eq!((counters.received, counters.transmitted, counters.flows_live), (5, 4, 2));
    assert_sum_closes(&counters);
    assert_eq!(gateway.engine.flows_live(), 2);
}

/// Whatever steering gives for a worker, the flow goes on after a restart.
#[test]
fn a_flow_goes_on_after_a_restart() {
    let mut before = Gateway::new();
    before.sent(tunnel_frame(&request()));
    let mut after = Gateway::new();
    let saved: Vec<_> = before.engine.saved().collect();
    assert_eq!(saved.len(), 1);
    after.engine.restore(after.now, &saved[0]).unwrap();
    let answer = packet(Body::Udp, REMOTE_END, PUBLIC_END, 64);
    let (_, sent) = after.sent(reply_frame(&answer));
    assert_inside(&sent, &packet(Body::Udp, REMOTE_END, POD_END, 63));
    // Of two families, it is nobody's.
    let mixed = spillway_engine::SavedFlow { egress: IpAddr::V4(EGRESS), ..saved[0] };
    assert!(Gateway::new().engine.restore(after.now, &mixed).is_err());
}
