//! Answers for addresses of Spillway's own, and their announcements, byte for byte.

use std::net::Ipv4Addr;

use etherparse::ArpOperation;
use spillway_engine::{ANNOUNCEMENT_ROOM, Answer, DropReason, Ticket, Verdict};

use crate::common::build::{Body, arp, changed, ethernet, ethernet_arp, packet_with};
use crate::common::gateway::*;

const NOBODY: [u8; 6] = [0; 6];

/// Who asks.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 33);
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 33];

fn request(asker: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    arp_frame(HOST_MAC, &arp(ArpOperation::REQUEST, (HOST_MAC, asker), (NOBODY, address)))
}

fn ping(asker: Ipv4Addr, identifier: u16, payload: &[u8]) -> Vec<u8> {
    packet_with(Body::EchoRequest, (asker, identifier), (ANNOUNCED, 0), 1, payload)
}

fn pong(asker: Ipv4Addr, identifier: u16, payload: &[u8]) -> Vec<u8> {
    packet_with(Body::EchoReply, (ANNOUNCED, 0), (asker, identifier), 64, payload)
}

#[test]
fn who_asks_by_arp_is_told_the_devices_link_address() {
    // The second is a probe: whoever sends it has no address yet.
    for asker in [HOST, Ipv4Addr::UNSPECIFIED] {
        for padding in [0, 18, 1000] {
            let mut gateway = Gateway::new();
            let frame = [request(asker, ANNOUNCED), vec![0xee; padding]].concat();
            let (device, answer) = gateway.sent(frame);
            let reply = arp(ArpOperation::REPLY, (UPLINK_MAC, ANNOUNCED), (HOST_MAC, asker));
            assert_eq!((device, answer), (UPLINK, ethernet_arp(UPLINK_MAC, HOST_MAC, &reply)));
            assert_eq!(gateway.engine.counters().answered, 1);
        }
    }
}

#[test]
fn an_announcement_tells_everybody_where_an_address_is() {
    let mut gateway = Gateway::new();
    gateway.change(|input| input.v4.egress_addresses[1].announce = Some(UNDERLAY));
    for (address, device, mac) in
        [(ANNOUNCED, UPLINK, UPLINK_MAC), (OTHER_EGRESS, UNDERLAY, UNDERLAY_MAC)]
    {
        let mut out = [0xee; ANNOUNCEMENT_ROOM];
        let answer = gateway.engine.announce(&gateway.tables, address.into(), &mut out).unwrap();
        assert_eq!(answer, Answer { device, length: 42 });
        let said = arp(ArpOperation::REQUEST, (mac, address), (NOBODY, address));
        assert_eq!(out[..42], ethernet_arp(mac, [0xff; 6], &said));
    }
    assert_eq!(gateway.engine.counters().announced, 2);
}

#[test]
fn what_is_not_ours_to_announce_is_not_announced() {
    let mut gateway = Gateway::new();
    let mut announce = |address: Ipv4Addr, room: usize| {
        gateway.engine.announce(&gateway.tables, address.into(), &mut vec![0; room])
    };
    assert_eq!(announce(EGRESS, ANNOUNCEMENT_ROOM), None, "the host has it");
    assert_eq!(announce(REMOTE, ANNOUNCEMENT_ROOM), None);
    assert_eq!(announce(ANNOUNCED, 41), None, "no room");
    assert_eq!(gateway.engine.counters().announced, 0);
}

#[test]
fn an_address_that_is_taken_away_is_not_answered_for() {
    let mut gateway = Gateway::new();
    gateway.change(|input| input.v4.egress_addresses[2].announce = None);
    assert_eq!(gateway.dropped(request(HOST, ANNOUNCED)), DropReason::NotAnnounced);
    assert_eq!(gateway.dropped(ping_frame(&ping(REMOTE, 7, b""))), DropReason::NotAnnounced);
    assert_eq!(gateway.engine.announce(&gateway.tables, ANNOUNCED.into(), &mut [0; 64]), None);
    gateway.change(|input| input.v4.egress_addresses.truncate(2));
    assert_eq!(gateway.dropped(request(HOST, ANNOUNCED)), DropReason::NotAnnounced);
}

#[test]
fn a_ping_is_answered_by_the_kernels_routes() {
    for size in [0, 1, 56, 1472] {
        let mut gateway = Gateway::new();
        let payload: Vec<u8> = (0..size).map(|byte: usize| byte.to_le_bytes()[0]).collect();
        let asked = ping_frame(&ping(REMOTE, 9, &payload));
        let padded = [asked.clone(), vec![0xee; 4]].concat();
        let answer = ethernet(UPLINK_MAC, ROUTER_MAC, &pong(REMOTE, 9, &payload));
        assert_eq!(gateway.sent(asked), (UPLINK, answer.clone()), "{size} bytes");
        assert_eq!(gateway.sent(padded), (UPLINK, answer), "{size} bytes, padded");
        let (answered, flows) =
            (gateway.engine.counters().answered, gateway.engine.counters().flows_created);
        assert_eq!((answered, flows), (2, 0));
    }
}

#[test]
fn a_ping_through_another_device_is_answered_there() {
    let mut gateway = Gateway::new();
    let (device, answer) = gateway.sent(ping_frame(&ping(PEER, 9, b"from a node")));
    let expected = ethernet(UNDERLAY_MAC, PEER_MAC, &pong(PEER, 9, b"from a node"));
    assert_eq!((device, answer), (UNDERLAY, expected));
}

#[test]
fn a_ping_waits_for_its_senders_link_address() {
    let mut gateway = Gateway::new();
    let neighbour = Ipv4Addr::new(192, 0, 2, 50);
    let asked = ping_frame(&ping(neighbour, 9, b"wait"));
    let (verdict, mut frame) = gateway.process(asked.clone());
    let ticket = Ticket::default();
    assert_eq!(verdict, Verdict::Hold { device: UNDERLAY, address: neighbour.into(), ticket });
    assert_eq!(frame, asked);
    gateway.change(|input| {
        let known =
            spillway_engine::tables::Neighbour { address: neighbour, ..input.v4.neighbours[1] };
        input.v4.neighbours.push(known);
    });
    let verdict = gateway.engine.process_held(gateway.now, &gateway.tables, &mut frame, ticket);
    let expected = ethernet(UNDERLAY_MAC, PEER_MAC, &pong(neighbour, 9, b"wait"));
    let length = u16::try_from(expected.len()).unwrap();
    assert_eq!(verdict, Verdict::Transmit { device: UNDERLAY, length });
    assert_eq!(frame, expected);
    let counters = gateway.engine.counters();
    assert_eq!((counters.received, counters.answered, counters.held), (1, 1, 0));
}

#[test]
fn a_ping_that_may_be_fragmented_keeps_what_tells_its_fragments() {
    let mut gateway = Gateway::new();
    let may_be_fragmented = |packet| changed(packet, |bytes| bytes[6] = 0);
    let asked = ping_frame(&may_be_fragmented(ping(REMOTE, 9, b"id")));
    let answer = ethernet(UPLINK_MAC, ROUTER_MAC, &may_be_fragmented(pong(REMOTE, 9, b"id")));
    assert_eq!(gateway.sent(asked), (UPLINK, answer));
}

#[test]
fn whoever_pings_too_often_is_answered_less() {
    let mut gateway = Gateway::new();
    let asked = || ping_frame(&ping(REMOTE, 9, b"flood"));
    for _ in 0..20 {
        gateway.sent(asked());
    }
    assert_eq!(gateway.dropped(asked()), DropReason::PingLimited);
    gateway.sent(ping_frame(&ping(PEER, 9, b"another")));
    gateway.pass(1);
    for _ in 0..10 {
        gateway.sent(asked());
    }
    assert_eq!(gateway.dropped(asked()), DropReason::PingLimited);
    assert_eq!(gateway.engine.counters().answered, 31);
}

#[test]
fn a_ping_larger_than_its_way_back_is_dropped() {
    let mut gateway = Gateway::new();
    gateway.change(|input| input.devices[usize::from(UNDERLAY)].mtu = 1400);
    let asked = ping_frame(&ping(PEER, 9, &[0; 1373]));
    let (reason, owed) = gateway.answered(asked);
    assert_eq!((reason, owed), (DropReason::ExceedsMtu, None));
    gateway.sent(ping_frame(&ping(PEER, 9, &[0; 1372])));
}

#[test]
fn an_announced_address_carries_flows_like_any_other() {
    let mut gateway = Gateway::new();
    gateway.change(|input| {
        let policy = policy(ANNOUNCED, &[POD], &["203.0.113.0/24"]);
        input.v4.policies = spillway_engine::policy::Policies::new(vec![policy], &[]);
    });
    let asked = packet_with(Body::Syn, (POD, 40_001), (REMOTE, 443), 64, b"");
    let (device, frame) = gateway.sent(tunnel_frame(&asked));
    let seen = packet_with(Body::Syn, (ANNOUNCED, 40_001), (REMOTE, 443), 63, b"");
    assert_eq!((device, frame), (UPLINK, ethernet(UPLINK_MAC, ROUTER_MAC, &seen)));
    let answer = packet_with(Body::SynAck, (REMOTE, 443), (ANNOUNCED, 40_001), 64, b"");
    gateway.sent(reply_frame(&answer));
    let stray = packet_with(Body::Syn, (REMOTE, 443), (ANNOUNCED, 22), 64, b"");
    assert_eq!(gateway.dropped(reply_frame(&stray)), DropReason::NoFlow);
}
