//! The ICMP errors that senders are owed, byte for byte, and those that nobody is.

use std::net::Ipv4Addr;

use etherparse::{IpNumber, Ipv4Header, PacketBuilder};
use spillway_engine::DropReason;
use spillway_engine::policy::Policies;

use crate::common::build::{Body, End, changed, error, ethernet, packet, packet_with, vxlan};
use crate::common::gateway::*;

const POD_END: End = (POD, 5000);
const REMOTE_END: End = (REMOTE, 53);
const PUBLIC_END: End = (EGRESS, 5000);

/// An error of Spillway's own.
fn owed(type_code: (u8, u8), mtu: u16, from: Ipv4Addr, to: Ipv4Addr, quote: &[u8]) -> Vec<u8> {
    let mut header = Ipv4Header::new(0, 64, IpNumber::ICMP, from.octets(), to.octets()).unwrap();
    header.dscp = 48.try_into().unwrap();
    header.dont_fragment = true;
    let [high, low] = mtu.to_be_bytes();
    let ip = etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default());
    let icmp = PacketBuilder::ip(ip).icmpv4_raw(type_code.0, type_code.1, [0, 0, high, low]);
    let mut bytes = Vec::new();
    icmp.write(&mut bytes, &quote[..quote.len().min(548)]).unwrap();
    bytes
}

/// What a pod must get.
#[track_caller]
fn assert_to_pod((device, frame): (u16, Vec<u8>), expected: &[u8]) {
    let inner = ethernet(UNDERLAY_MAC, POD_MAC, expected);
    let source_port = u16::from_be_bytes([frame[34], frame[35]]);
    let expected = vxlan((UNDERLAY_MAC, PEER_MAC), PEER, source_port, [0, 0, 2], &inner);
    assert_eq!((device, frame), (UNDERLAY, expected));
}

/// What the outside must get.
#[track_caller]
fn assert_to_outside((device, frame): (u16, Vec<u8>), expected: &[u8]) {
    let expected = ethernet(UPLINK_MAC, ROUTER_MAC, expected);
    assert_eq!((device, frame), (UPLINK, expected));
}

#[test]
fn a_pods_traceroute_shows_the_gateway() {
    for body in [Body::Udp, Body::Syn, Body::EchoRequest] {
        let probe = packet(body, POD_END, REMOTE_END, 1);
        let mut gateway = Gateway::new();
        let (reason, answer) = gateway.answered(tunnel_frame(&probe));
        assert_eq!(reason, DropReason::TtlExpired);
        assert_to_pod(answer.unwrap(), &owed((11, 0), 0, TUNNEL, POD, &probe));
        assert_eq!(gateway.engine.counters().errors_sent, 1);
        assert_eq!(gateway.engine.counters().flows_created, 0);
    }
}

#[test]
fn the_outside_learns_the_mtu_of_the_tunnel() {
    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64)));
    let large = packet_with(Body::Udp, REMOTE_END, PUBLIC_END, 64, &[7; 1423]);
    let (reason, answer) = gateway.answered(reply_frame(&large));
    assert_eq!(reason, DropReason::ExceedsTunnelMtu);
    assert_to_outside(answer.unwrap(), &owed((3, 4), 1450, EGRESS, REMOTE, &large));
}

#[test]
fn the_end_of_a_replys_life_is_told_by_the_egress_address() {
    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64)));
    let late = packet(Body::Udp, REMOTE_END, PUBLIC_END, 1);
    let (reason, answer) = gateway.answered(reply_frame(&late));
    assert_eq!(reason, DropReason::TtlExpired);
    assert_to_outside(answer.unwrap(), &owed((11, 0), 0, EGRESS, REMOTE, &late));
}

#[test]
fn a_pod_learns_the_mtu_of_the_way_out() {
    for flow_is_known in [false, true] {
        let mut gateway = Gateway::new();
        if flow_is_known {
            gateway.sent(tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64)));
            // New flows of the pod would leave another way.
            gateway.change(|input| {
                let moved = policy(OTHER_EGRESS, &[POD], &["203.0.113.0/24"]);
                input.v4.policies = Policies::new(vec![moved], &[]);
            });
        }
        let large = packet_with(Body::Udp, POD_END, REMOTE_END, 64, &[7; 1473]);
        let (reason, answer) = gateway.answered(tunnel_frame(&large));
        assert_eq!(reason, DropReason::ExceedsMtu);
        assert_to_pod(answer.unwrap(), &owed((3, 4), 1500, TUNNEL, POD, &large));
    }
}

#[test]
fn nobody_is_answered_who_is_owed_nothing() {
    let stranger =
        |packet: &[u8]| tunnel_frame_from(Ipv4Addr::new(192, 0, 2, 77), POD_MAC, VNI, packet);
    let late = |from, to| packet(Body::Udp, from, to, 1);
    let quote = packet(Body::Udp, REMOTE_END, POD_END, 64);
    let late_error = error((3, 3), POD, REMOTE, 1, &quote);
    let unselected = (Ipv4Addr::new(10, 0, 1, 50), 5000);
    for (frame, what) in [
        (tunnel_frame(&late_error), "an error"),
        (stranger(&late(POD_END, REMOTE_END)), "a stranger's tunnel"),
        (tunnel_frame(&late(unselected, REMOTE_END)), "a pod of no policy"),
        (reply_frame(&late(REMOTE_END, (EGRESS, 6000))), "a reply of no flow"),
        (tunnel_frame(&packet(Body::Ack, (POD, 1), REMOTE_END, 64)), "another reason"),
    ] {
        let mut gateway = Gateway::new();
        gateway.sent(tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64)));
        let (_, answer) = gateway.answered(frame);
        assert_eq!(answer, None, "{what}");
        assert_eq!(gateway.engine.counters().errors_sent, 0, "{what}");
    }
}

#[test]
fn a_receiver_gets_a_bounded_number_of_errors() {
    let mut gateway = Gateway::new();
    let probe = |pod| tunnel_frame(&packet(Body::Udp, (pod, 5000), REMOTE_END, 1));
    let answered = (0..100).filter(|_| gateway.answered(probe(POD)).1.is_some()).count();
    assert_eq!(answered, 20);
    let counters = gateway.engine.counters();
    assert_eq!((counters.errors_sent, counters.errors_limited), (20, 80));
    assert!(gateway.answered(probe(OTHER_POD)).1.is_some());
    gateway.now += SECOND;
    assert!(gateway.answered(probe(POD)).1.is_some());
}

#[test]
fn an_answer_without_room_is_none() {
    let mut gateway = Gateway::new();
    let mut probe = tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 1));
    let whole = gateway.answered(probe.clone()).1.unwrap().1.len();
    let (now, reason) = (gateway.now + SECOND, DropReason::TtlExpired);
    let owed = gateway.engine.owed_error(now, &gateway.tables, reason, &mut probe).unwrap();
    for room in [0, 13, 63, 64, 91, whole - 1] {
        assert_eq!(owed.write(&probe, &mut vec![0; room]), None);
    }
}

#[test]
fn traceroutes_cost_nobody_the_news_of_what_fits() {
    let mut gateway = Gateway::new();
    let probe = tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 1));
    while gateway.answered(probe.clone()).1.is_some() {}
    let large = packet_with(Body::Udp, POD_END, REMOTE_END, 64, &[7; 1473]);
    assert!(gateway.answered(tunnel_frame(&large)).1.is_some());
}

#[test]
fn an_address_that_is_no_longer_ours_tells_nothing() {
    let without: [fn(&mut spillway_engine::tables::TablesInput); 2] = [
        |input| input.v4.egress_addresses.clear(),
        |input| input.v4.policies = Policies::default(),
    ];
    for without in without {
        let mut gateway = Gateway::new();
        gateway.sent(tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64)));
        gateway.change(without);
        let late = reply_frame(&packet(Body::Udp, REMOTE_END, PUBLIC_END, 1));
        assert_eq!(gateway.answered(late), (DropReason::TtlExpired, None));
    }
}

/// A pod on the gateway has another tunnel: its node's kernel would not believe a packet from outside
/// that has the node's own address.
#[test]
fn a_pod_is_told_by_the_tunnel_that_it_came_through() {
    let mut gateway = Gateway::new();
    let tunnel_address = Ipv4Addr::new(169, 254, 44, 2);
    gateway.change(|input| input.peers[1].tunnel_address = tunnel_address.into());
    let probe = packet(Body::Udp, POD_END, REMOTE_END, 1);
    let (_, answer) = gateway.answered(tunnel_frame_from(DIRECT_PEER, POD_MAC, VNI, &probe));
    assert_eq!(answer.unwrap().1[64..], owed((11, 0), 0, tunnel_address, POD, &probe));
}

#[test]
fn there_is_no_way_below_the_least_mtu() {
    for (device, mtu) in [(0, 67), (1, 117)] {
        let mut gateway = Gateway::new();
        gateway.sent(tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64)));
        gateway.change(|input| input.devices[device].mtu = mtu);
        for fragment in [0, 0x40] {
            let large = |from, to| {
                changed(packet_with(Body::Udp, from, to, 64, &[7; 100]), |b| b[6] = fragment)
            };
            let (frame, reason) = match device {
                0 => (tunnel_frame(&large(POD_END, REMOTE_END)), DropReason::ExceedsMtu),
                _ => (reply_frame(&large(REMOTE_END, PUBLIC_END)), DropReason::ExceedsTunnelMtu),
            };
            assert_eq!(gateway.answered(frame), (reason, None));
        }
    }
}
