//! What a worker sends in frames of its own: fragments, and ICMP errors that are owed.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use etherparse::defrag::IpDefragPool;
use etherparse::icmpv6::TimeExceededCode;
use etherparse::{Icmpv4Type, Icmpv6Type, SlicedPacket, TransportSlice, icmpv4};
use spillway_api::IpFamily;
use spillway_testing::{bind_udp, wait_until};

use crate::packets::{
    INNER, INNER_IP, addresses, egress, family, first_flow, frame, frame_to, pod, server,
    server_port,
};
use crate::{GATEWAY, NODE, Rig, wait_for_every_frame};

const ROUNDS: u16 = 100;

/// No more than a pod gets at once.
const PROBES: u16 = 20;

/// UDP payloads that fill a packet of the outside's devices.
const IPV4_FULL: u16 = 1472;
const IPV6_FULL: u16 = 1452;

/// The two ends of a flow: the node with its tunnel, and the server.
fn ends(rig: &Rig, flow: u16) -> (UdpSocket, UdpSocket) {
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    let at = server(family(flow));
    (node, rig.outside.enter(|| bind_udp((at, server_port(flow)))))
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut datagram = vec![0; 2048];
    let (length, _) = socket.recv_from(&mut datagram).expect("an answer");
    datagram.truncate(length);
    datagram
}

/// The pod asks; whom the server sees.
fn ask(node: &UdpSocket, server: &UdpSocket, flow: u16, round: u16) -> std::net::SocketAddr {
    node.send_to(&frame(flow, round), (GATEWAY, 8472)).unwrap();
    server.recv_from(&mut [0; 64]).expect("the question").1
}

fn pattern(seed: u16, length: u16) -> Vec<u8> {
    (0..length).map(|byte| (byte + seed).to_le_bytes()[0]).collect()
}

/// The UDP payload that comes in two fragments.
fn in_two_fragments(node: &UdpSocket) -> Vec<u8> {
    let mut pool: IpDefragPool = IpDefragPool::new();
    let mut reassembled = |datagram: &[u8]| {
        let packet = SlicedPacket::from_ethernet(&datagram[INNER..]).unwrap();
        pool.process_sliced_packet(&packet, (), ()).unwrap()
    };
    assert!(reassembled(&receive(node)).is_none(), "the first of two");
    let whole = reassembled(&receive(node)).expect("the second of two");
    whole.payload[8..].to_vec()
}

/// Whether a pod is told that the time of its packet has ended, by whom it should, with the packet.
fn assert_time_exceeded(datagram: &[u8], probe: &[u8], flow: u16) {
    let packet = SlicedPacket::from_ethernet(&datagram[INNER..]).unwrap();
    let (source, destination) = addresses(&packet).unwrap();
    assert_eq!(destination, pod(flow));
    let quoted = match packet.transport.as_ref().unwrap() {
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(source, GATEWAY);
            let code = icmpv4::TimeExceededCode::TtlExceededInTransit;
            assert_eq!(icmp.icmp_type(), Icmpv4Type::TimeExceeded(code));
            icmp.payload()
        }
        TransportSlice::Icmpv6(icmp) => {
            // The gateway has no other address of this family that pods know.
            assert_eq!(source, egress(IpFamily::V6));
            let code = TimeExceededCode::HopLimitExceeded;
            assert_eq!(icmp.icmp_type(), Icmpv6Type::TimeExceeded(code));
            let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else {
                panic!("{source} and {destination} are not of IPv6")
            };
            assert!(icmp.is_checksum_valid(source.octets(), destination.octets()));
            icmp.payload()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(quoted, &probe[INNER_IP..]);
}

/// The pod's packets have one hop left.
fn probe_the_gateway(node: &UdpSocket, flow: u16) {
    for round in 0..PROBES {
        let probe = frame_to(server(family(flow)), 1, flow, round);
        node.send_to(&probe, (GATEWAY, 8472)).unwrap();
        assert_time_exceeded(&receive(node), &probe, flow);
    }
}

/// What the workers have counted: packets that they cut, and errors that they sent.
fn assert_counted(rig: &Rig, fragmented: u16, errors: u16) {
    wait_for_every_frame(rig);
    let workers = rig.client().status().unwrap().workers;
    let sum = |count: fn(&spillway_api::Worker) -> u64| workers.iter().map(count).sum::<u64>();
    assert_eq!(sum(|worker| worker.fragmented), u64::from(fragmented));
    assert_eq!(sum(|worker| worker.errors_sent), u64::from(errors));
    assert_eq!(sum(|worker| worker.frames_missing), 0);
}

#[test]
fn what_a_worker_makes_itself_arrives_and_no_frame_is_lost_for_it() {
    let rig = Rig::new("owed", true);
    // Its packets may be fragmented.
    rig.outside.sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    let flow = first_flow(IpFamily::V4);
    let (node, server) = ends(&rig, flow);
    for round in 0..ROUNDS {
        let from = ask(&node, &server, flow, round);
        let answer = pattern(round, IPV4_FULL);
        server.send_to(&answer, from).unwrap();
        assert_eq!(in_two_fragments(&node), answer);
    }
    probe_the_gateway(&node, flow);
    assert_counted(&rig, ROUNDS, PROBES);
}

#[test]
fn who_sends_more_than_the_tunnel_carries_by_ipv6_is_told_what_fits() {
    let rig = Rig::new("owed6", true);
    let flow = first_flow(IpFamily::V6);
    let (node, server) = ends(&rig, flow);
    let from = ask(&node, &server, flow, 0);
    let answer = pattern(1, IPV6_FULL);
    server.send_to(&answer, from).unwrap();
    wait_until("the server learns the way's MTU", Duration::from_secs(5), || {
        let route = rig.outside.run(["ip", "route", "get", &from.ip().to_string()]);
        route.contains(" mtu 1450 ")
    });
    // From now on its kernel cuts them itself.
    for round in 0..ROUNDS {
        let answer = pattern(round, IPV6_FULL);
        server.send_to(&answer, from).unwrap();
        assert_eq!(in_two_fragments(&node), answer);
    }
    probe_the_gateway(&node, flow);
    assert_counted(&rig, 0, PROBES + 1);
    let drops = rig.client().drops().unwrap().engine.into_iter();
    let dropped: Vec<_> = drops.filter(|drop| drop.packets > 0).map(|drop| drop.reason).collect();
    assert_eq!(dropped, ["ttl-expired", "exceeds-tunnel-mtu"]);
}
