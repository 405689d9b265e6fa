//! Pods of IPv6 and IPv4 destinations: both ways, as etherparse builds either family's packets.

use std::net::{Ipv4Addr, Ipv6Addr};

use spillway_engine::policy::Policies;
use spillway_engine::tables::Nat64Input;
use spillway_engine::{DropReason, Tuple, Verdict, nat64};

use crate::common::build::{
    Body, End, changed, cut, error_with, ethernet, extended, packet, packet_with, vxlan,
};
use crate::common::cluster::Cluster;
use crate::common::gateway::*;

const POD_PORT: u16 = 5000;
const PUBLIC_END: End = (EGRESS, POD_PORT);
const REMOTE_END: End = (REMOTE, 53);

/// A flow of each protocol: what the pod sends, what it gets, and the ports.
const PROTOCOLS: [(Body, Body, u16, u16); 6] = [
    (Body::Syn, Body::SynAck, 40_001, 443),
    (Body::Udp, Body::Udp, 5000, 53),
    (Body::EchoRequest, Body::EchoReply, 2005, 0),
    (Body::SctpInit, Body::SctpInitAck, 5000, 2905),
    (Body::Gre, Body::Gre, 0, 0),
    (Body::Esp, Body::Esp, 0, 0),
];

/// A fragment header that says that nothing is missing.
const ATOMIC: &[(u8, &[u8])] = &[(44, &[0, 0, 0, 1, 2, 3, 4])];

fn pod_end() -> End<Ipv6Addr> {
    (POD6, POD_PORT)
}

/// The remote, as the pod knows it.
fn remote_end() -> End<Ipv6Addr> {
    (embedded(REMOTE), 53)
}

fn gateway() -> Gateway {
    Gateway::with(config(), nat64_tables())
}

/// A gateway with a flow of UDP.
fn gateway_with_flow() -> Gateway {
    let mut gateway = gateway();
    gateway.sent(tunnel_frame(&packet(Body::Udp, pod_end(), remote_end(), 64)));
    gateway
}

/// An IPv6 packet as one that comes from IPv4: it has no flow label.
fn unlabelled(mut packet: Vec<u8>) -> Vec<u8> {
    packet[1] &= 0xf0;
    packet[2..4].fill(0);
    packet
}

/// An IPv4 packet as one that comes from IPv6: routers may cut it, and it has this identification.
fn cuttable(packet: Vec<u8>, identification: [u8; 2]) -> Vec<u8> {
    changed(packet, |bytes| {
        bytes[4..6].copy_from_slice(&identification);
        bytes[6] = 0;
    })
}

/// The outside gets this packet, whatever its identification is.
#[track_caller]
fn assert_outside((device, sent): (u16, Vec<u8>), expected: Vec<u8>) {
    let expected = cuttable(expected, [sent[18], sent[19]]);
    assert_eq!((device, sent), (UPLINK, ethernet(UPLINK_MAC, ROUTER_MAC, &expected)));
}

/// The pod's node gets this packet, whatever its outer source port is.
#[track_caller]
fn assert_inside((device, sent): (u16, &[u8]), expected: &[u8]) {
    let inner = ethernet(UNDERLAY_MAC, POD_MAC, expected);
    let port = u16::from_be_bytes([sent[34], sent[35]]);
    let expected = vxlan((UNDERLAY_MAC, PEER_MAC), PEER, port, [0, 0, 2], &inner);
    assert_eq!((device, sent), (UNDERLAY, &expected[..]));
}

/// Hands in a reply that becomes one packet of IPv6; gives it.
#[track_caller]
fn replied(gateway: &mut Gateway, packet: &[u8]) -> (u16, Vec<u8>) {
    let (device, mut frames) = gateway.fragmented(reply_frame(packet));
    assert_eq!(frames.len(), 1);
    (device, frames.remove(0))
}

#[test]
fn a_pod_of_ipv6_reaches_ipv4_and_gets_its_answers() {
    for (body, answer, pod_port, remote_port) in PROTOCOLS {
        let (pod, remote) = ((POD6, pod_port), (embedded(REMOTE), remote_port));
        let (public, remote4) = ((EGRESS, pod_port), (REMOTE, remote_port));
        let mut gateway = gateway();
        // The first opens the flow, the second finds it; TCP's third goes the short way.
        for body in [body, body, if body == Body::Syn { Body::Ack } else { body }] {
            let sent = gateway.sent(tunnel_frame(&packet(body, pod, remote, 64)));
            assert_outside(sent, packet(body, public, remote4, 63));
        }
        for _ in 0..2 {
            let reply = packet(answer, remote4, public, 50);
            let (device, sent) = replied(&mut gateway, &reply);
            assert_inside((device, &sent), &unlabelled(packet(answer, remote, pod, 49)));
        }
        let flows = gateway.flows();
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0].original.source, NUMBER);
        let Gateway { engine, tables, .. } = &gateway;
        let protocol = match flows[0].original.protocol {
            1 => 58,
            protocol => protocol,
        };
        let sent = Tuple {
            source: POD6.into(),
            destination: embedded(REMOTE).into(),
            protocol,
            ..flows[0].original
        };
        assert_eq!(engine.flow(tables, &sent).as_ref(), Some(&flows[0]), "as the pod has it");
        assert_eq!(engine.flow(tables, &flows[0].reply).as_ref(), Some(&flows[0]), "as a reply");
        let other = Tuple { source: OTHER_POD6.into(), ..sent };
        assert_eq!(engine.flow(tables, &other), None);
        assert_eq!(gateway.engine.counters().fragmented, 0);
    }
}

#[test]
fn a_packet_of_more_than_any_way_carries_may_not_be_cut() {
    let mut gateway = gateway();
    for (size, flags) in [(1232, 0), (1233, 0x40)] {
        let large = packet_with(Body::Udp, pod_end(), remote_end(), 64, &vec![7; size]);
        let (_, sent) = gateway.sent(tunnel_frame(&large));
        assert_eq!(sent[20], flags, "{} bytes", large.len());
    }
}

#[test]
fn ipv6_beside_it_and_ipv4_go_on_as_they_did() {
    let mut gateway = gateway();
    let mut frames = [
        tunnel_frame(&packet(Body::Udp, pod_end(), remote_end(), 64)),
        tunnel_frame(&packet(Body::Udp, (POD6, 5000), (REMOTE6, 53), 64)),
        tunnel_frame(&packet(Body::Udp, (POD, 6000), (REMOTE, 53), 64)),
        tunnel_frame(&packet(Body::Udp, (OTHER_POD6, 5000), remote_end(), 64)),
    ];
    let mut frames: Vec<&mut [u8]> = frames.iter_mut().map(Vec::as_mut_slice).collect();
    let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); 4];
    gateway.engine.process(gateway.now, &gateway.tables, &mut frames, &mut verdicts);
    for (verdict, frame) in verdicts.iter().zip(&frames) {
        assert!(matches!(verdict, Verdict::Transmit { device: UPLINK, .. }), "{verdict:?}");
        assert_eq!(frame[..6], ROUTER_MAC);
    }
    let versions: Vec<u8> = frames.iter().map(|frame| frame[14] >> 4).collect();
    assert_eq!(versions, [4, 6, 4, 4]);
    assert_eq!(frames[0][26..30], EGRESS.octets());
    // The pods share an address: the second has another port.
    assert_eq!(frames[3][26..30], EGRESS.octets());
    assert_ne!(frames[0][34..36], frames[3][34..36]);
    assert_sum_closes(&gateway.engine.counters());
}

#[test]
fn extension_headers_stay_behind() {
    let options: &[(u8, &[u8])] = &[(0, &[0, 1, 4, 0, 0, 0, 0]), (60, &[0, 1, 4, 0, 0, 0, 0])];
    let routed: &[(u8, &[u8])] = &[(43, &[0, 0, 0, 0, 0, 0, 0])];
    for extensions in [options, routed] {
        let plain = packet(Body::Udp, pod_end(), remote_end(), 64);
        let sent = gateway().sent(tunnel_frame(&extended(&plain, extensions)));
        assert_outside(sent, packet(Body::Udp, PUBLIC_END, REMOTE_END, 63));
    }
}

#[test]
fn congestion_in_the_tunnel_is_told_outside() {
    let mut frame = tunnel_frame(&packet(Body::Udp, pod_end(), remote_end(), 64));
    frame[0] |= 0xc0;
    let (_, sent) = gateway().sent(frame);
    assert_eq!(sent[15], 10 << 2 | 3);
}

#[test]
fn the_segment_size_is_what_fits_as_ipv6() {
    let syn = |size: u16| {
        let mut syn = packet_with(Body::Syn, pod_end(), remote_end(), 64, &[]);
        syn.extend([2, 4]);
        syn.extend(size.to_be_bytes());
        syn[5] += 4;
        syn[52] = 6 << 4;
        syn
    };
    let (_, sent) = gateway().sent(tunnel_frame(&syn(8960)));
    // 1500 bytes, the tunnel's 50, IPv6's 40 and TCP's 20.
    assert_eq!(sent[14 + 42..14 + 44], 1390_u16.to_be_bytes());
}

/// What a router or host quotes: the IP header, and so many bytes.
fn quote(packet: &[u8], bytes: usize) -> &[u8] {
    let header = if packet[0] >> 4 == 6 { 40 } else { 20 };
    &packet[..packet.len().min(header + bytes)]
}

#[test]
fn an_error_from_ipv4_reaches_the_pod_with_its_own_packet_quoted() {
    let errors = [
        (((3, 4), 1400), ((2, 0), 1420)),
        (((3, 4), 0), ((2, 0), 1280)),
        (((3, 1), 0), ((1, 0), 0)),
        (((3, 2), 0), ((4, 1), 6)),
        (((3, 3), 0), ((1, 4), 0)),
        (((3, 13), 0), ((1, 1), 0)),
        (((11, 0), 0), ((3, 0), 0)),
        (((12, 0), 9 << 24), ((4, 0), 6)),
    ];
    for (body, _, pod_port, remote_port) in PROTOCOLS {
        for bytes in [8, 12, 18, 20, 500] {
            for (from, to) in errors {
                let (pod, remote) = ((POD6, pod_port), (embedded(REMOTE), remote_port));
                let mut gateway = gateway();
                gateway.sent(tunnel_frame(&packet(body, pod, remote, 64)));
                let before = packet(body, (EGRESS, pod_port), (REMOTE, remote_port), 1);
                let arrived = error_with(from, ROUTER, EGRESS, 60, quote(&before, bytes));
                let (device, sent) = replied(&mut gateway, &arrived);
                let after = unlabelled(packet(body, pod, remote, 1));
                let quote = quote(&after, bytes);
                let expected = error_with(to, embedded(ROUTER), POD6, 59, quote);
                assert_inside((device, &sent), &unlabelled(expected));
            }
        }
    }
}

#[test]
fn an_error_from_a_pod_reaches_ipv4_with_its_own_packet_quoted() {
    let errors = [
        (((1, 4), 0), ((3, 3), 0)),
        (((1, 1), 0), ((3, 10), 0)),
        (((2, 0), 1400), ((3, 4), 1380)),
        (((3, 1), 0), ((11, 1), 0)),
        (((4, 0), 7), ((12, 0), 8 << 24)),
    ];
    for (body, answer, pod_port, remote_port) in PROTOCOLS {
        for bytes in [8, 18, 500] {
            for (from, to) in errors {
                let (pod, remote) = ((POD6, pod_port), (embedded(REMOTE), remote_port));
                let mut gateway = gateway();
                gateway.sent(tunnel_frame(&packet(body, pod, remote, 64)));
                let before = packet(answer, remote, pod, 9);
                let left = error_with(from, POD6, embedded(REMOTE), 64, quote(&before, bytes));
                let sent = gateway.sent(tunnel_frame(&left));
                let after = packet(answer, (REMOTE, remote_port), (EGRESS, pod_port), 9);
                let after = cuttable(after, [0, 0]);
                let expected = error_with(to, EGRESS, REMOTE, 63, quote(&after, bytes));
                assert_outside(sent, expected);
            }
        }
    }
}

/// RFC 4884: their places are counted in other units, and so they stay behind.
#[test]
fn extensions_of_errors_stay_behind() {
    let mut gateway = gateway_with_flow();
    let mut before = packet_with(Body::Udp, PUBLIC_END, REMOTE_END, 1, &[3; 200]);
    before.truncate(128);
    let with_extension = [&before[..], &[0x20, 0, 0xdf, 0xff, 0, 8, 1, 1, 0, 0, 0, 1]].concat();
    let arrived = error_with(((11, 0), 32 << 16), ROUTER, EGRESS, 60, &with_extension);
    let (device, sent) = replied(&mut gateway, &arrived);
    let mut after = unlabelled(packet_with(Body::Udp, pod_end(), remote_end(), 1, &[3; 200]));
    after.truncate(148);
    let expected = error_with(((3, 0), 0), embedded(ROUTER), POD6, 59, &after);
    assert_inside((device, &sent), &unlabelled(expected));
}

#[test]
fn an_error_that_quotes_too_much_is_cut_short() {
    let mut gateway = gateway_with_flow();
    let before = packet_with(Body::Udp, PUBLIC_END, REMOTE_END, 1, &[3; 1350]);
    let arrived = error_with(((11, 0), 0), ROUTER, EGRESS, 60, &before);
    let (device, sent) = replied(&mut gateway, &arrived);
    let mut after = unlabelled(packet_with(Body::Udp, pod_end(), remote_end(), 1, &[3; 1350]));
    after.truncate(1280 - 48);
    let expected = error_with(((3, 0), 0), embedded(ROUTER), POD6, 59, &after);
    assert_inside((device, &sent), &unlabelled(expected));
}

/// The payload that fragments have together, of packets without anything but a fragment header.
fn joined(packets: &[&[u8]]) -> Vec<u8> {
    let mut parts: Vec<(usize, bool, &[u8])> = Vec::new();
    for packet in packets {
        let (place, payload) = match packet[0] >> 4 {
            6 => {
                assert_eq!((packet[6], packet[41]), (44, 0));
                (u16::from_be_bytes([packet[42], packet[43]]), &packet[48..])
            }
            _ => {
                let word = u16::from_be_bytes([packet[6], packet[7]]);
                (word << 3 | u16::from(word & 0x2000 != 0), &packet[20..])
            }
        };
        parts.push((usize::from(place & !7), place & 1 != 0, payload));
    }
    parts.sort_unstable();
    let mut whole = Vec::new();
    for (number, (at, has_more, part)) in parts.iter().enumerate() {
        assert_eq!(*at, whole.len());
        assert_eq!(*has_more, number + 1 < parts.len());
        whole.extend(*part);
    }
    whole
}

#[test]
fn fragments_leave_as_ipv4_in_any_order_with_any_number_of_workers() {
    let payload: Vec<u8> = (0..100).collect();
    for workers in [1, 2, 4] {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut cluster = Cluster::new(workers, config(), nat64_tables());
            let whole = packet_with(Body::Udp, pod_end(), remote_end(), 64, &payload);
            let fragments = cut(&whole, 40);
            let worker = cluster.worker(0);
            let mut sent = Vec::new();
            for index in order {
                sent.extend(cluster.receive(worker, tunnel_frame(&fragments[index])));
            }
            let sent: Vec<_> = sent.into_iter().map(|sent| sent.unwrap().1).collect();
            let packets: Vec<&[u8]> = sent.iter().map(|frame| &frame[14..]).collect();
            let expected = packet_with(Body::Udp, PUBLIC_END, REMOTE_END, 63, &payload);
            assert_eq!(joined(&packets), expected[20..], "{workers} workers, {order:?}");
            assert!(packets.iter().all(|packet| packet[4..6] == packets[0][4..6]));
            cluster.assert_sums_close();
        }
    }
}

#[test]
fn fragments_come_back_as_ipv6_in_any_order_with_any_number_of_workers() {
    let payload: Vec<u8> = (0..100).collect();
    for workers in [1, 2, 4] {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut cluster = Cluster::new(workers, config(), nat64_tables());
            let request = packet(Body::Udp, pod_end(), remote_end(), 64);
            cluster.process(cluster.worker(POD_PORT), tunnel_frame(&request)).unwrap();
            let whole = packet_with(Body::Udp, REMOTE_END, PUBLIC_END, 64, &payload);
            let fragments = cut(&whole, 40);
            let worker = cluster.worker(0);
            let mut sent = Vec::new();
            for index in order {
                sent.extend(cluster.receive(worker, reply_frame(&fragments[index])));
            }
            let sent: Vec<_> = sent.into_iter().map(|sent| sent.unwrap().1).collect();
            let packets: Vec<&[u8]> = sent.iter().map(|frame| &frame[64..]).collect();
            let expected = packet_with(Body::Udp, remote_end(), pod_end(), 63, &payload);
            assert_eq!(joined(&packets), expected[40..], "{workers} workers, {order:?}");
            // IPv4's identification, in the 32 bits of IPv6's.
            assert!(packets.iter().all(|packet| packet[44..48] == [0, 0, 0x12, 0x34]));
            assert!(packets.iter().all(|packet| packet[7] == 63));
            cluster.assert_sums_close();
        }
    }
}

/// RFC 6946: steering gives it to the worker of fragments, but IPv4 knows no such fragment.
#[test]
fn a_fragment_of_which_nothing_is_missing_is_a_whole_packet() {
    for workers in [1, 2, 4] {
        for body in [Body::Udp, Body::EchoRequest] {
            let mut cluster = Cluster::new(workers, config(), nat64_tables());
            let atomic = extended(&packet(body, pod_end(), remote_end(), 64), ATOMIC);
            let sent = cluster.process(cluster.worker(0), tunnel_frame(&atomic)).unwrap();
            assert_outside(sent, packet(body, PUBLIC_END, REMOTE_END, 63));
            cluster.assert_sums_close();
        }
    }
}

#[test]
fn flows_of_every_port_work_both_ways_with_several_workers() {
    let mut cluster = Cluster::new(3, config(), nat64_tables());
    for port in 6000..6200 {
        let request = packet(Body::Udp, (POD6, port), remote_end(), 64);
        let sent = cluster.process(cluster.worker(port), tunnel_frame(&request)).unwrap();
        assert_outside(sent, packet(Body::Udp, (EGRESS, port), REMOTE_END, 63));
        let reply = packet(Body::Udp, REMOTE_END, (EGRESS, port), 64);
        let (device, sent) = cluster.process(cluster.worker(port), reply_frame(&reply)).unwrap();
        let expected = unlabelled(packet(Body::Udp, remote_end(), (POD6, port), 63));
        assert_inside((device, &sent), &expected);
    }
    cluster.assert_sums_close();
}

#[test]
fn a_reply_that_does_not_fit_the_tunnel_as_ipv6_is_cut() {
    // UDP, which has no checksum or has one; and ICMP, whose checksum learns of IPv6's pseudo-header.
    let cases = [(Body::Udp, Body::Udp), (Body::Udp, Body::UdpWithoutChecksum)];
    for (request, answer) in cases.into_iter().chain([(Body::EchoRequest, Body::EchoReply)]) {
        // The second fits as IPv4, the first as neither.
        for size in [1472, 1410] {
            let payload: Vec<u8> = (0..size).map(|byte: usize| byte.to_le_bytes()[0]).collect();
            let mut gateway = gateway();
            gateway.sent(tunnel_frame(&packet(request, pod_end(), remote_end(), 64)));
            let large = packet_with(answer, REMOTE_END, PUBLIC_END, 64, &payload);
            let large = cuttable(large, [0xbe, 0xef]);
            let (device, frames) = gateway.fragmented(reply_frame(&large));
            assert_eq!((device, frames.len()), (UNDERLAY, 2));
            for frame in &frames {
                assert!(frame.len() <= 14 + 1500);
                assert_inside((device, frame), &frame[64..]);
                assert_eq!(frame[64 + 44..64 + 48], [0, 0, 0xbe, 0xef]);
            }
            let packets: Vec<&[u8]> = frames.iter().map(|frame| &frame[64..]).collect();
            let has_one = if answer == Body::EchoReply { answer } else { Body::Udp };
            let expected = packet_with(has_one, remote_end(), pod_end(), 63, &payload);
            assert_eq!(joined(&packets), expected[40..], "{answer:?}");
            assert_eq!(gateway.engine.counters().fragmented, 1);
        }
    }
}

#[test]
fn a_fragment_that_does_not_fit_as_ipv6_is_cut_once_more() {
    let payload: Vec<u8> = (0..1600).map(|byte: usize| byte.to_le_bytes()[0]).collect();
    let mut gateway = gateway_with_flow();
    let whole = packet_with(Body::Udp, REMOTE_END, PUBLIC_END, 64, &payload);
    let mut frames = Vec::new();
    // 1,428 bytes: as IPv6 1,448 without a fragment header, of which 1,450 fit.
    for fragment in cut(&whole, 1408) {
        frames.extend(gateway.fragmented(reply_frame(&fragment)).1);
    }
    assert_eq!(frames.len(), 3);
    let packets: Vec<&[u8]> = frames.iter().map(|frame| &frame[64..]).collect();
    assert!(packets.iter().all(|packet| packet.len() <= 1450));
    let expected = packet_with(Body::Udp, remote_end(), pod_end(), 63, &payload);
    assert_eq!(joined(&packets), expected[40..]);
    assert_eq!(gateway.engine.counters().fragmented, 1);
}

/// An error of Spillway's own to the outside.
fn owed(mtu: u32, quote: &[u8]) -> Vec<u8> {
    let expected = error_with(((3, 4), mtu), EGRESS, REMOTE, 64, &quote[..quote.len().min(548)]);
    changed(expected, |bytes| {
        bytes[1] = 0xc0;
        bytes[4..6].fill(0);
    })
}

#[test]
fn the_outside_learns_what_fits_the_tunnel_as_ipv6() {
    let mut gateway = gateway_with_flow();
    let fits = packet_with(Body::Udp, REMOTE_END, PUBLIC_END, 64, &[7; 1402]);
    replied(&mut gateway, &fits);
    let large = packet_with(Body::Udp, REMOTE_END, PUBLIC_END, 64, &[7; 1403]);
    let (reason, answer) = gateway.answered(reply_frame(&large));
    assert_eq!(reason, DropReason::ExceedsTunnelMtu);
    let expected = ethernet(UPLINK_MAC, ROUTER_MAC, &owed(1430, &large));
    assert_eq!(answer, Some((UPLINK, expected)));
}

/// An error of Spillway's own to the pod: the gateway is an IPv4 destination to it.
fn owed_to_pod(said: ((u8, u8), u32), quote: &[u8]) -> Vec<u8> {
    let quote = &quote[..quote.len().min(1280 - 48)];
    let mut expected = unlabelled(error_with(said, embedded(TUNNEL), POD6, 64, quote));
    (expected[0], expected[1]) = (0x6c, 0);
    expected
}

#[test]
fn a_traceroute_of_ipv6_shows_the_gateway_as_ipv4() {
    for body in [Body::Udp, Body::Syn, Body::EchoRequest] {
        let probe = packet(body, pod_end(), remote_end(), 1);
        let mut gateway = gateway();
        let (reason, answer) = gateway.answered(tunnel_frame(&probe));
        assert_eq!(reason, DropReason::TtlExpired);
        let (device, sent) = answer.unwrap();
        assert_inside((device, &sent), &owed_to_pod(((3, 0), 0), &probe));
        assert_eq!(gateway.engine.counters().errors_sent, 1);
    }
}

#[test]
fn a_pod_of_ipv6_learns_what_fits_the_way_out_as_ipv4() {
    for (mtu, expected) in [(1500, 1520), (1300, 1320), (1000, 1280)] {
        let mut gateway = gateway();
        gateway.change(|input| input.devices[0].mtu = mtu);
        let large = packet_with(Body::Udp, pod_end(), remote_end(), 64, &[7; 1473]);
        let (reason, answer) = gateway.answered(tunnel_frame(&large));
        assert_eq!(reason, DropReason::ExceedsMtu);
        let (device, sent) = answer.unwrap();
        assert_inside((device, &sent), &owed_to_pod(((2, 0), expected), &large));
    }
}

/// What every way of IPv6 carries, but not this one of IPv4.
#[test]
fn a_small_packet_is_cut_on_a_narrower_way_of_ipv4() {
    let mut gateway = gateway();
    gateway.change(|input| input.devices[0].mtu = 1000);
    let payload: Vec<u8> = (0..1232).map(|byte: usize| byte.to_le_bytes()[0]).collect();
    let large = packet_with(Body::Udp, pod_end(), remote_end(), 64, &payload);
    let (device, frames) = gateway.fragmented(tunnel_frame(&large));
    assert_eq!((device, frames.len()), (UPLINK, 2));
    let packets: Vec<&[u8]> = frames.iter().map(|frame| &frame[14..]).collect();
    let expected = packet_with(Body::Udp, PUBLIC_END, REMOTE_END, 63, &payload);
    assert_eq!(joined(&packets), expected[20..]);
}

#[test]
fn a_frame_that_waits_is_untouched_and_leaves_later() {
    let mut gateway = gateway();
    gateway.change(|input| input.v4.neighbours.retain(|neighbour| neighbour.device == UNDERLAY));
    let frame = tunnel_frame(&packet(Body::Udp, pod_end(), remote_end(), 64));
    let (verdict, mut waiting) = gateway.process(frame.clone());
    let Verdict::Hold { device: UPLINK, address, ticket } = verdict else {
        panic!("not held, but {verdict:?}");
    };
    assert_eq!((address, &waiting), (ROUTER.into(), &frame));
    gateway.change(|input| input.v4.neighbours = nat64_tables().v4.neighbours);
    let Gateway { engine, tables, now, .. } = &mut gateway;
    let verdict = engine.process_held(*now, tables, &mut waiting, ticket);
    let Verdict::Transmit { device, length } = verdict else {
        panic!("not sent, but {verdict:?}");
    };
    waiting.truncate(length.into());
    assert_outside((device, waiting), packet(Body::Udp, PUBLIC_END, REMOTE_END, 63));
    assert_sum_closes(&gateway.engine.counters());
}

#[test]
fn a_frame_that_waits_is_dropped_when_its_pod_is_taken_away() {
    let mut gateway = gateway();
    gateway.change(|input| input.v4.neighbours.clear());
    let frame = tunnel_frame(&packet(Body::Udp, pod_end(), remote_end(), 64));
    let (verdict, mut waiting) = gateway.process(frame);
    let Verdict::Hold { ticket, .. } = verdict else { panic!("not held, but {verdict:?}") };
    gateway.change(|input| input.nat64.as_mut().unwrap().pods.clear());
    let Gateway { engine, tables, now, .. } = &mut gateway;
    let verdict = engine.process_held(*now, tables, &mut waiting, ticket);
    assert_eq!(verdict, Verdict::Drop(DropReason::NoPolicy));
    assert_sum_closes(&gateway.engine.counters());
}

#[test]
fn a_pods_flows_end_with_its_number() {
    let mut gateway = gateway_with_flow();
    gateway.change(|input| {
        let others = policy(EGRESS, &[POD, OTHER_NUMBER], &["203.0.113.0/24"]);
        input.v4.policies = Policies::new(vec![others], &[]);
        input.nat64.as_mut().unwrap().pods.retain(|(number, _)| *number == OTHER_NUMBER);
    });
    let reply = packet(Body::Udp, REMOTE_END, PUBLIC_END, 64);
    assert_eq!(gateway.dropped(reply_frame(&reply)), DropReason::Deselected);
    let request = packet(Body::Udp, pod_end(), remote_end(), 64);
    assert_eq!(gateway.dropped(tunnel_frame(&request)), DropReason::NoPolicy);
}

#[test]
fn replies_find_their_way_after_the_tables_have_changed() {
    let mut gateway = gateway_with_flow();
    gateway.change(|input| {
        let stranger = Ipv4Addr::new(192, 0, 2, 1);
        let first = input.peers[0].clone();
        input.peers.insert(0, spillway_engine::tables::Peer { key: stranger, ..first });
    });
    let reply = packet(Body::Udp, REMOTE_END, PUBLIC_END, 64);
    let (device, sent) = replied(&mut gateway, &reply);
    let expected = unlabelled(packet(Body::Udp, remote_end(), pod_end(), 63));
    assert_inside((device, &sent), &expected);
}

#[test]
fn where_there_is_no_nat64_or_no_policy_nothing_leaves() {
    let request = tunnel_frame(&packet(Body::Udp, pod_end(), remote_end(), 64));
    assert_eq!(Gateway::new().dropped(request), DropReason::NoPolicy);
    let to = |address: Ipv4Addr| {
        tunnel_frame(&packet(Body::Udp, pod_end(), (embedded(address), 53), 64))
    };
    for (reason, address) in [
        (DropReason::NoPolicy, Ipv4Addr::new(192, 0, 2, 200)),
        // Excluded.
        (DropReason::NoPolicy, Ipv4Addr::new(203, 0, 113, 20)),
        (DropReason::LocalDestination, Ipv4Addr::new(203, 0, 113, 200)),
        (DropReason::MartianDestination, Ipv4Addr::new(169, 254, 169, 254)),
        (DropReason::MartianDestination, Ipv4Addr::LOCALHOST),
    ] {
        assert_eq!(gateway().dropped(to(address)), reason, "{address}");
    }
    let nobody = Ipv6Addr::new(0xfd00, 0x10, 1, 0, 0, 0, 0, 0x99);
    let request = tunnel_frame(&packet(Body::Udp, (nobody, 5000), remote_end(), 64));
    assert_eq!(gateway().dropped(request), DropReason::NoPolicy);
}

/// Only the addresses that IPv4's stand in are destinations: others would answer from elsewhere.
#[test]
fn a_shorter_prefix_is_one_too() {
    let mut gateway = gateway();
    let prefix = nat64::Prefix::new(net6("2001:db8:64::/48")).unwrap();
    gateway.change(|input| {
        let pods = input.nat64.take().unwrap().pods;
        input.nat64 = Some(Nat64Input { prefix, pods });
    });
    let remote = (prefix.embed(REMOTE), 53);
    let sent = gateway.sent(tunnel_frame(&packet(Body::Udp, pod_end(), remote, 64)));
    assert_outside(sent, packet(Body::Udp, PUBLIC_END, REMOTE_END, 63));
    let (device, sent) = replied(&mut gateway, &packet(Body::Udp, REMOTE_END, PUBLIC_END, 64));
    assert_inside((device, &sent), &unlabelled(packet(Body::Udp, remote, pod_end(), 63)));
    let beside = (Ipv6Addr::from_bits(remote.0.to_bits() | 1), 53);
    let request = tunnel_frame(&packet(Body::Udp, pod_end(), beside, 64));
    assert_eq!(gateway.dropped(request), DropReason::MartianDestination);
}

#[test]
fn what_has_no_equal_in_the_other_family_is_dropped_by_name() {
    use DropReason::*;
    let request = || packet(Body::Udp, pod_end(), remote_end(), 64);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut packet = request();
        change(&mut packet);
        tunnel_frame(&packet)
    };
    let quote = packet(Body::Udp, remote_end(), pod_end(), 9);
    let from_pod = |said| tunnel_frame(&error_with(said, POD6, embedded(REMOTE), 64, &quote));
    let mut wrong_sum = from_pod(((1, 4), 0));
    wrong_sum[14 + 42] ^= 1;
    let ping = packet(Body::EchoRequest, pod_end(), remote_end(), 64);
    let behind: &[(u8, &[u8])] = &[ATOMIC[0], (60, &[0, 1, 4, 0, 0, 0, 0])];
    let quoted = packet(Body::Udp, PUBLIC_END, REMOTE_END, 1);
    let from_outside = |said| reply_frame(&error_with(said, ROUTER, EGRESS, 64, &quoted));
    let unsummed = packet(Body::UdpWithoutChecksum, REMOTE_END, PUBLIC_END, 64);
    let pong = packet(Body::EchoReply, REMOTE_END, PUBLIC_END, 64);
    // Of a quote of 4 bytes (RFC 4884) nothing is left without what follows it.
    let short_quote = 1 << 16;
    let mut other_quote = error_with(((1, 4), 0), POD6, embedded(REMOTE), 64, &quote[..40]);
    other_quote.truncate(88);
    for (reason, frame, what) in [
        (UnsupportedProtocol, with(|bytes| bytes[6] = 1), "ICMP of IPv4 in IPv6"),
        (UnsupportedProtocol, with(|bytes| bytes[6] = 59), "no next header"),
        (UnsupportedProtocol, with(|bytes| bytes[6] = 51), "AH"),
        (NoUdpChecksum, with(|bytes| bytes[46..48].fill(0)), "UDP without a checksum"),
        (BadTransport, with(|bytes| bytes[44..46].fill(0xff)), "UDP that is too long"),
        (Truncated, tunnel_frame(&request()[..60]), "part of a packet"),
        (IpOptions, tunnel_frame(&extended(&request(), behind)), "options behind a fragment's"),
        (UnsupportedFragment, tunnel_frame(&cut(&ping, 16)[0]), "a ping's first fragment"),
        (UnsupportedFragment, tunnel_frame(&cut(&ping, 16)[1]), "a ping's other fragment"),
        (UnsupportedIcmp, from_pod(((1, 5), 0)), "a code that IPv4 has not"),
        (UnsupportedIcmp, from_pod(((4, 0), 2)), "a pointer to the flow label"),
        (UnsupportedIcmp, from_pod(((135, 0), 0)), "a neighbour solicitation"),
        (BadIcmpChecksum, wrong_sum, "a wrong checksum"),
        (BadQuote, tunnel_frame(&other_quote), "a quote without ports"),
        (UnsupportedIcmp, from_outside(((3, 14), 0)), "a code that IPv6 has not"),
        (UnsupportedIcmp, from_outside(((12, 0), 6 << 24)), "a pointer to the flags"),
        (BadQuote, from_outside(((11, 0), short_quote)), "extensions in place of a quote"),
        (NoUdpChecksum, reply_frame(&cut(&unsummed, 16)[0]), "a fragment without a checksum"),
        (UnsupportedFragment, reply_frame(&cut(&pong, 16)[0]), "an answer's first fragment"),
    ] {
        let mut gateway = gateway_with_flow();
        gateway.sent(tunnel_frame(&ping));
        let (verdict, after) = gateway.process(frame.clone());
        assert_eq!(verdict, Verdict::Drop(reason), "{what}");
        assert_eq!(after, frame, "{what}");
    }
}
