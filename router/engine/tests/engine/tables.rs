//! What the tables decide: next hops, peers, labels, and what changes with the epoch.

use std::net::Ipv4Addr;

use spillway_engine::policy::Policies;
use spillway_engine::tables::{Neighbour, ReplyVni};
use spillway_engine::{DropReason, Ticket, Verdict};

use crate::common::build::{Body, End, packet, vxlan};
use crate::common::gateway::*;

const POD_END: End = (POD, 5000);
const REMOTE_END: End = (REMOTE, 53);
const PUBLIC_END: End = (EGRESS, 5000);

fn request() -> Vec<u8> {
    tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64))
}

fn reply() -> Vec<u8> {
    reply_frame(&packet(Body::Udp, REMOTE_END, PUBLIC_END, 64))
}

/// Hands a held frame in again.
fn again(gateway: &mut Gateway, mut frame: Vec<u8>) -> Verdict {
    let Gateway { engine, tables, now, .. } = gateway;
    engine.process_held(*now, tables, &mut frame, Ticket::default())
}

fn hold(device: u16, address: Ipv4Addr) -> Verdict {
    Verdict::Hold { device, address: address.into(), ticket: Ticket::default() }
}

#[test]
fn a_new_flow_waits_for_its_next_hop_untouched_and_is_received_once() {
    let mut gateway = Gateway::new();
    gateway.change(|input| input.v4.neighbours.clear());
    let (verdict, frame) = gateway.process(request());
    assert_eq!(verdict, hold(UPLINK, ROUTER));
    assert_eq!(frame, request());
    assert_eq!(gateway.engine.counters().flows_created, 0);
    assert_eq!(again(&mut gateway, frame.clone()), verdict);
    assert_eq!(gateway.engine.counters().held, 1);

    gateway.change(|input| input.v4.neighbours = tables().v4.neighbours);
    assert!(matches!(again(&mut gateway, frame), Verdict::Transmit { device: UPLINK, .. }));
    let counters = gateway.engine.counters();
    assert_eq!((counters.received, counters.held, counters.transmitted), (1, 0, 1));
}

#[test]
fn a_known_flow_waits_when_its_next_hop_is_lost() {
    let mut gateway = Gateway::new();
    gateway.sent(request());
    gateway.change(|input| input.v4.neighbours.clear());
    let (verdict, frame) = gateway.process(request());
    assert_eq!(verdict, hold(UPLINK, ROUTER));
    assert_eq!(frame, request());
    let (verdict, frame) = gateway.process(reply());
    assert_eq!(verdict, hold(UNDERLAY, PEER));
    assert_eq!(frame, reply());
    assert_eq!(gateway.flows().len(), 1);
}

#[test]
fn a_next_hop_with_a_new_link_address_is_followed() {
    let mut gateway = Gateway::new();
    gateway.sent(request());
    let mac = [2, 9, 9, 9, 9, 9];
    gateway.change(|input| {
        input.v4.neighbours = vec![
            Neighbour { device: UNDERLAY, address: PEER, mac },
            Neighbour { device: UPLINK, address: ROUTER, mac },
        ];
    });
    assert_eq!(gateway.sent(request()).1[..6], mac);
    assert_eq!(gateway.sent(reply()).1[..6], mac);
}

#[test]
fn a_neighbour_on_an_unknown_device_is_no_next_hop() {
    let mut gateway = Gateway::new();
    gateway.change(|input| {
        let stray = Neighbour { device: 9, address: ROUTER, mac: ROUTER_MAC };
        input.v4.neighbours.insert(0, stray);
    });
    assert_eq!(gateway.sent(request()).0, UPLINK);
}

#[test]
fn a_direct_peer_is_reached_without_route_or_neighbour() {
    let mut gateway = Gateway::new();
    let inner = packet(Body::Udp, POD_END, REMOTE_END, 64);
    gateway.sent(tunnel_frame_from(DIRECT_PEER, POD_MAC, VNI, &inner));
    gateway.change(|input| {
        input.v4.neighbours.clear();
        input.v4.fib = Default::default();
    });
    let (device, sent) = gateway.sent(reply());
    assert_eq!(device, UNDERLAY);
    assert_eq!(sent[..12], [DIRECT_PEER_MAC, UNDERLAY_MAC].concat());
    assert_eq!(sent[30..34], DIRECT_PEER.octets());
}

#[test]
fn a_flow_learns_the_way_back_anew_when_its_pod_moves() {
    let mut gateway = Gateway::new();
    let inner = packet(Body::Udp, POD_END, REMOTE_END, 64);
    gateway.sent(request());
    let mac = [2, 0, 0, 0, 7, 7];
    gateway.change(|input| input.reply_vni = Some(ReplyVni::Flow));
    gateway.sent(tunnel_frame_from(DIRECT_PEER, mac, [1, 2, 3], &inner));
    let (_, sent) = gateway.sent(reply());
    assert_eq!((&sent[..6], &sent[30..34]), (&DIRECT_PEER_MAC[..], &DIRECT_PEER.octets()[..]));
    assert_eq!((&sent[46..49], &sent[50..56]), (&[1, 2, 3][..], &mac[..]));
    assert_eq!(gateway.flows()[0].peer, DIRECT_PEER);
    assert_eq!(gateway.engine.counters().flows_created, 1);
}

#[test]
fn an_unlisted_peer_teaches_nothing() {
    let mut gateway = Gateway::new();
    let inner = packet(Body::Udp, POD_END, REMOTE_END, 64);
    gateway.sent(request());
    let stranger = Ipv4Addr::new(192, 0, 2, 77);
    let frame = tunnel_frame_from(stranger, [2, 0, 0, 0, 7, 7], VNI, &inner);
    assert_eq!(gateway.dropped(frame), DropReason::UnknownPeer);
    assert_eq!(gateway.sent(reply()).1[30..34], PEER.octets());
}

#[test]
fn a_peer_that_is_no_longer_listed_is_not_heard_and_gets_nothing() {
    let mut gateway = Gateway::new();
    gateway.sent(request());
    gateway.change(|input| input.peers.retain(|peer| peer.key != PEER));
    assert_eq!(gateway.dropped(request()), DropReason::UnknownPeer);
    assert_eq!(gateway.dropped(reply()), DropReason::UnknownPeer);
    gateway.change(|input| input.peers = tables().peers.into_iter().rev().collect());
    assert_eq!(gateway.sent(reply()).1[30..34], PEER.octets());
    gateway.sent(request());
}

#[test]
fn replies_carry_the_vni_that_is_configured() {
    for (reply_vni, expected) in [
        (None, [0, 0, 2]),
        (Some(ReplyVni::Fixed(0x00ab_cdef)), [0xab, 0xcd, 0xef]),
        (Some(ReplyVni::Flow), VNI),
    ] {
        let mut input = tables();
        input.reply_vni = reply_vni;
        let mut gateway = Gateway::with(config(), input);
        gateway.sent(request());
        assert_eq!(gateway.sent(reply()).1[46..49], expected);
    }
}

#[test]
fn the_inner_source_is_never_the_inner_destination() {
    let mut gateway = Gateway::new();
    let inner = packet(Body::Udp, POD_END, REMOTE_END, 64);
    gateway.sent(tunnel_frame_from(PEER, UNDERLAY_MAC, VNI, &inner));
    let (_, sent) = gateway.sent(reply());
    assert_eq!(sent[50..56], UNDERLAY_MAC);
    assert_ne!(sent[56..62], UNDERLAY_MAC);
    assert_eq!(sent[56] & 1, 0, "a source is no group");
}

#[test]
fn the_outer_source_port_is_the_flows_own() {
    let mut gateway = Gateway::new();
    let mut ports = std::collections::BTreeSet::new();
    for pod_port in 5000..5100 {
        gateway.sent(tunnel_frame(&packet(Body::Udp, (POD, pod_port), REMOTE_END, 64)));
        let reply = packet(Body::Udp, REMOTE_END, (EGRESS, pod_port), 64);
        let (_, first) = gateway.sent(reply_frame(&reply));
        let (_, second) = gateway.sent(reply_frame(&reply));
        assert_eq!(first, second);
        let port = u16::from_be_bytes([first[34], first[35]]);
        assert_eq!(first, vxlan((UNDERLAY_MAC, PEER_MAC), PEER, port, [0, 0, 2], &first[50..]));
        ports.insert(port);
    }
    assert!(ports.len() > 90 && ports.first() >= Some(&49_152), "{ports:?}");
}

#[test]
fn an_established_flow_keeps_its_translation_when_the_egress_address_changes() {
    let mut gateway = Gateway::new();
    gateway.sent(request());
    gateway.change(|input| {
        let policy = policy(OTHER_EGRESS, &[POD, OTHER_POD], &["203.0.113.0/24"]);
        input.v4.policies = Policies::new(vec![policy], &[]);
    });
    assert_eq!(gateway.sent(request()).1[26..30], EGRESS.octets());
    gateway.sent(reply());
    let new = packet(Body::Udp, (POD, 5001), REMOTE_END, 64);
    assert_eq!(gateway.sent(tunnel_frame(&new)).1[26..30], OTHER_EGRESS.octets());
}

#[test]
fn a_flow_ends_when_its_pod_destination_or_egress_address_is_taken_away() {
    let other_pod = policy(EGRESS, &[OTHER_POD], &["203.0.113.0/24"]);
    let other_destination = policy(EGRESS, &[POD], &["198.18.0.0/15"]);
    for (policies, egress_addresses) in [
        (Policies::new(vec![other_pod], &[]), tables().v4.egress_addresses),
        (Policies::new(vec![other_destination], &[]), tables().v4.egress_addresses),
        (tables().v4.policies, vec![]),
    ] {
        for (late, afterwards) in [(request(), None), (reply(), Some(DropReason::NoFlow))] {
            let mut gateway = Gateway::new();
            gateway.sent(request());
            gateway.change(|input| {
                input.v4.policies = policies.clone();
                input.v4.egress_addresses = egress_addresses.clone();
            });
            assert_eq!(gateway.dropped(late.clone()), DropReason::Deselected);
            assert!(gateway.flows().is_empty());
            let next = gateway.dropped(late);
            let outside = [DropReason::NoPolicy, DropReason::NoEgressAddress];
            assert!(afterwards.map_or(outside.contains(&next), |reason| reason == next));
            assert_eq!(gateway.engine.counters().flows_deselected, 1);
        }
    }
}

#[test]
fn a_flow_whose_route_is_gone_waits_for_another() {
    let mut gateway = Gateway::new();
    gateway.sent(request());
    gateway.change(|input| input.v4.fib = Default::default());
    assert_eq!(gateway.dropped(request()), DropReason::NoRoute);
    gateway.change(|input| input.v4.fib = tables().v4.fib);
    gateway.sent(request());
    assert_eq!(gateway.engine.counters().flows_created, 1);
}

#[test]
fn a_record_names_the_tables_that_its_policy_is_from() {
    let mut gateway = Gateway::new();
    gateway.sent(request());
    gateway.change(|input| {
        let first = policy(EGRESS, &[OTHER_POD], &["0.0.0.0/0"]);
        let second = policy(EGRESS, &[POD], &["203.0.113.0/24"]);
        input.v4.policies = Policies::new(vec![first, second], &[]);
    });
    assert_eq!((gateway.flows()[0].policy, gateway.flows()[0].epoch), (0, 1));
    gateway.sent(request());
    assert_eq!((gateway.flows()[0].policy, gateway.flows()[0].epoch), (1, 2));
}
