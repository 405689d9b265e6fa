//! Every reason to drop a packet, produced by the packet or the tables that it names.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use etherparse::ArpOperation;
use spillway_engine::policy::{NatOptions, Policies, Policy};
use spillway_engine::steer::ECN_SHIFT;
use spillway_engine::tables::{EgressAddress, Tables, TablesInput};
use spillway_engine::{DropReason, EngineConfig, Verdict};

use crate::common::build::{Body, arp, changed, error, packet, packet_with};
use crate::common::gateway::*;
use crate::ipv6;

const POD_END: (Ipv4Addr, u16) = (POD, 5000);
const REMOTE_END: (Ipv4Addr, u16) = (REMOTE, 53);
const PUBLIC_END: (Ipv4Addr, u16) = (EGRESS, 5000);

/// Reasons that only a worker has: for frames that it holds.
const OF_THE_WORKER: [DropReason; 2] = [DropReason::NeighbourUnresolved, DropReason::HoldQueueFull];

/// Reasons that need several packets: see `arriving.rs`, `adoption.rs` and `policy_options.rs`.
const ELSEWHERE: [DropReason; 7] = [
    DropReason::MappingsExhausted,
    DropReason::FragmentWithoutFlow,
    DropReason::FragmentOverlap,
    DropReason::FragmentTimeout,
    DropReason::FragmentsFull,
    DropReason::RedirectsFull,
    DropReason::HandOffFull,
];

fn request() -> Vec<u8> {
    packet(Body::Udp, POD_END, REMOTE_END, 64)
}

fn reply() -> Vec<u8> {
    packet(Body::Udp, REMOTE_END, PUBLIC_END, 64)
}

fn from(source: [u8; 4]) -> Vec<u8> {
    changed(request(), |bytes| bytes[12..16].copy_from_slice(&source))
}

fn to(destination: [u8; 4]) -> Vec<u8> {
    changed(request(), |bytes| bytes[16..20].copy_from_slice(&destination))
}

/// A frame to drop, the reason, and what is the matter with it.
pub(crate) type Case = (DropReason, Vec<u8>, &'static str);

/// Frames whose headers are not right.
fn malformed() -> Vec<Case> {
    use DropReason::*;
    let mut unknown_kind = tunnel_frame(&request());
    unknown_kind[0] = 7;
    let mut tagged_reply = reply_frame(&reply());
    tagged_reply[62..64].copy_from_slice(&[0x81, 0x00]);
    let mut bad_checksum = request();
    bad_checksum[10] ^= 1;
    let fragment = |place: u16, length: u8| {
        let packet = changed(request(), |bytes| {
            bytes[3] = 20 + length;
            bytes[6..8].copy_from_slice(&place.to_be_bytes());
        });
        tunnel_frame(&packet)
    };
    let quote = packet(Body::Udp, REMOTE_END, POD_END, 1);
    let part_of_an_error = changed(error((3, 3), POD, REMOTE, 64, &quote[..28]), |bytes| {
        bytes[3] = 44;
        bytes[6] = 0x20;
    });
    let mut other_version = tunnel_frame(&request());
    other_version[14] = 0x65;
    let mut congested = tunnel_frame(&changed(request(), |bytes| bytes[1] = 0));
    congested[0] |= 3 << ECN_SHIFT;
    vec![
        (EcnCongested, congested, "congestion marked on the tunnel of a packet without ECN"),
        (UnknownKind, unknown_kind, "a kind that steering does not have"),
        (Truncated, vec![], "no frame at all"),
        (Truncated, tunnel_frame(&request())[..13].to_vec(), "part of the steer header"),
        (Truncated, tunnel_frame(&request())[..33].to_vec(), "part of the IPv4 header"),
        (Truncated, tunnel_frame(&request())[..60].to_vec(), "part of the packet"),
        (Truncated, reply_frame(&reply())[..63].to_vec(), "a reply without packet"),
        (NotIpv4, tagged_reply, "a reply with a VLAN tag"),
        (NotIpv4, other_version, "version 6"),
        (
            BadIpLength,
            tunnel_frame(&changed(request(), |bytes| bytes[0] = 0x44)),
            "16 bytes of header",
        ),
        (BadIpLength, tunnel_frame(&changed(request(), |bytes| bytes[3] = 19)), "total length 19"),
        (IpOptions, tunnel_frame(&changed(request(), |bytes| bytes[0] = 0x46)), "options"),
        (BadIpChecksum, tunnel_frame(&bad_checksum), "a wrong header checksum"),
        (BadFragment, fragment(0x2000, 27), "a first fragment of 27 bytes"),
        (BadFragment, fragment(0x2001, 0), "an empty fragment"),
        (BadFragment, fragment(1, 0), "an empty last fragment"),
        (BadFragment, fragment(0x1fff, 17), "a last fragment that ends beyond 65,535 bytes"),
        (UnsupportedFragment, tunnel_frame(&part_of_an_error), "a part of an ICMP error"),
        (MartianSource, tunnel_frame(&from([127, 0, 0, 1])), "from loopback"),
        (MartianSource, tunnel_frame(&from([0, 1, 2, 3])), "from this network"),
        (MartianSource, tunnel_frame(&from([224, 0, 0, 1])), "from a multicast group"),
        (MartianSource, tunnel_frame(&from([255; 4])), "from broadcast"),
        (MartianDestination, tunnel_frame(&to([127, 0, 0, 1])), "to loopback"),
        (MartianDestination, tunnel_frame(&to([169, 254, 169, 254])), "to the metadata service"),
        (MartianDestination, tunnel_frame(&to([239, 1, 1, 1])), "to a multicast group"),
        (MartianDestination, tunnel_frame(&to([255; 4])), "to broadcast"),
        (TtlExpired, tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 1)), "TTL 1"),
        (TtlExpired, reply_frame(&packet(Body::Udp, REMOTE_END, PUBLIC_END, 0)), "TTL 0"),
    ]
}

/// Frames whose payload is not right, or nothing that is forwarded.
fn unusable() -> Vec<Case> {
    use DropReason::*;
    let tcp = |change: fn(&mut [u8])| {
        tunnel_frame(&changed(packet_with(Body::Syn, POD_END, REMOTE_END, 64, b""), change))
    };
    let udp = |change: fn(&mut [u8])| tunnel_frame(&changed(request(), change));
    let sctp = |body, length: u8| {
        let packet = packet(body, POD_END, REMOTE_END, 64);
        tunnel_frame(&changed(packet, |bytes| bytes[3] = length))
    };
    let ping = |change: fn(&mut [u8])| {
        let mut packet = packet(Body::EchoRequest, POD_END, (REMOTE, 0), 64);
        change(&mut packet[20..]);
        tunnel_frame(&packet)
    };
    let ping_answer = packet(Body::EchoReply, (REMOTE, 0), POD_END, 64);
    let ping_from_outside = packet(Body::EchoRequest, (REMOTE, 5), (EGRESS, 0), 64);
    let quote = packet(Body::Udp, PUBLIC_END, REMOTE_END, 1);
    let mut bad_error = error((3, 1), ROUTER, EGRESS, 64, &quote);
    bad_error[22] ^= 1;
    vec![
        (UnsupportedProtocol, udp(|bytes| bytes[9] = 0), "the protocol 0"),
        (UnsupportedProtocol, udp(|bytes| bytes[9] = 33), "DCCP"),
        (UnsupportedProtocol, udp(|bytes| bytes[9] = 51), "AH"),
        (UnsupportedProtocol, udp(|bytes| bytes[9] = 136), "UDP-Lite"),
        (BadTransport, sctp(Body::SctpData, 35), "15 bytes of SCTP"),
        (BadTransport, sctp(Body::SctpInit, 39), "an INIT without its tag"),
        (BadTransport, tcp(|bytes| bytes[3] = 39), "19 bytes of TCP"),
        (BadTransport, tcp(|bytes| bytes[32] = 0x40), "a TCP header of 16 bytes"),
        (BadTransport, tcp(|bytes| bytes[32] = 0x60), "a TCP header beyond the packet"),
        (BadTransport, udp(|bytes| bytes[3] = 27), "7 bytes of UDP"),
        (BadTransport, udp(|bytes| bytes[25] = 7), "UDP length 7"),
        (BadTransport, udp(|bytes| bytes[24] = 1), "UDP beyond the packet"),
        (UnsupportedIcmp, ping(|icmp| icmp[0] = 13), "a timestamp request"),
        (UnsupportedIcmp, ping(|icmp| icmp[0] = 5), "a redirect"),
        (UnsupportedIcmp, ping(|icmp| icmp[1] = 1), "an echo request with a code"),
        (UnsupportedIcmp, tunnel_frame(&ping_answer), "an echo reply of a pod"),
        (UnsupportedIcmp, reply_frame(&ping_from_outside), "an echo request from outside"),
        (BadIcmpChecksum, reply_frame(&bad_error), "an error with a wrong checksum"),
        (BadQuote, reply_frame(&error((3, 1), ROUTER, EGRESS, 64, b"")), "an empty quote"),
    ]
}

/// Frames that have no flow and may not open one, and what is no way for them.
fn unwelcome() -> Vec<Case> {
    use DropReason::*;
    let new = packet(Body::Udp, (POD, 6000), REMOTE_END, 64);
    let large = |from| tunnel_frame(&packet_with(Body::Udp, from, REMOTE_END, 64, &[0; 1473]));
    let large_reply = packet_with(Body::Udp, REMOTE_END, PUBLIC_END, 64, &[0; 1423]);
    let stranger =
        |packet: &[u8]| tunnel_frame_from(Ipv4Addr::new(192, 0, 2, 77), POD_MAC, VNI, packet);
    let stray = |source, target| reply_frame(&packet(Body::Udp, source, target, 64));
    let stray_tcp = reply_frame(&packet(Body::Ack, REMOTE_END, PUBLIC_END, 64));
    let tcp = |body| tunnel_frame(&packet(body, POD_END, REMOTE_END, 64));
    let quote = packet(Body::Udp, (EGRESS, 6000), REMOTE_END, 1);
    let error_from_outside = reply_frame(&error((11, 0), ROUTER, EGRESS, 64, &quote));
    let quote = packet(Body::Udp, REMOTE_END, (POD, 6000), 1);
    let error_from_pod = tunnel_frame(&error((3, 3), POD, REMOTE, 64, &quote));
    vec![
        (UnknownPeer, stranger(&request()), "a known flow from a stranger"),
        (UnknownPeer, stranger(&new), "a new flow from a stranger"),
        (NoPolicy, tunnel_frame(&to([203, 0, 113, 20])), "an excluded destination"),
        (NoPolicy, tunnel_frame(&to([8, 8, 8, 8])), "a destination of no policy"),
        (NoPolicy, tunnel_frame(&from([10, 0, 1, 50])), "a pod of no policy"),
        (TcpNotSyn, tcp(Body::Ack), "an ACK"),
        (TcpNotSyn, tcp(Body::SynAck), "a SYN with ACK"),
        (TcpNotSyn, tcp(Body::Rst), "a RST"),
        (SctpNotInit, tcp(Body::SctpData), "SCTP that is no INIT"),
        (NoFlow, stray(REMOTE_END, (EGRESS, 6000)), "a reply to another port"),
        (NoFlow, stray((REMOTE, 54), PUBLIC_END), "a reply from another port"),
        (NoFlow, stray((ROUTER, 53), PUBLIC_END), "a reply from another host"),
        (NoFlow, stray_tcp, "a reply of another protocol"),
        (ErrorWithoutFlow, error_from_outside, "an error about no packet of ours"),
        (ErrorWithoutFlow, error_from_pod, "a pod's error about no reply"),
        (LocalDestination, tunnel_frame(&to([203, 0, 113, 200])), "an address of the gateway"),
        (RouteUnreachable, tunnel_frame(&to([203, 0, 113, 201])), "an unreachable route"),
        (ForeignDevice, tunnel_frame(&to([203, 0, 113, 202])), "a device that is not driven"),
        (ExceedsMtu, large(POD_END), "1501 bytes of a known flow"),
        (ExceedsMtu, large((POD, 6000)), "1501 bytes of a new flow"),
        (ExceedsTunnelMtu, reply_frame(&large_reply), "1451 bytes back"),
    ]
}

/// Questions to addresses that are not answered.
fn unanswered() -> Vec<Case> {
    use DropReason::*;
    const REQUEST: ArpOperation = ArpOperation::REQUEST;
    let asked =
        |operation, mac, from, to| arp_frame(mac, &arp(operation, (mac, from), ([0; 6], to)));
    let request = |change: fn(&mut [u8])| {
        let mut frame = asked(REQUEST, ROUTER_MAC, ROUTER, ANNOUNCED);
        change(&mut frame);
        frame
    };
    let ping = |to| packet(Body::EchoRequest, (REMOTE, 5), (to, 0), 64);
    let pinged = |change: fn(&mut [u8])| ping_frame(&changed(ping(ANNOUNCED), change));
    let small = changed(ping(ANNOUNCED), |bytes| bytes[3] = 27);
    vec![
        (BadArp, request(|_| ())[..41].to_vec(), "ARP that is cut off"),
        (BadArp, request(|bytes| bytes[15] = 6), "ARP of another hardware"),
        (BadArp, request(|bytes| bytes[18] = 8), "ARP with longer link addresses"),
        (BadArp, request(|bytes| bytes[22] = 0xff), "ARP of a group of hosts"),
        (BadArp, asked(ArpOperation::REPLY, ROUTER_MAC, ROUTER, ANNOUNCED), "an ARP reply"),
        (BadArp, asked(REQUEST, UPLINK_MAC, ANNOUNCED, ANNOUNCED), "our own announcement"),
        (AddressConflict, asked(REQUEST, ROUTER_MAC, ANNOUNCED, ANNOUNCED), "another's"),
        (NotAnnounced, asked(REQUEST, ROUTER_MAC, ROUTER, EGRESS), "ARP for the host's"),
        (NotAnnounced, asked(REQUEST, ROUTER_MAC, ROUTER, REMOTE), "ARP for another address"),
        (NotAnnounced, ping_frame(&ping(EGRESS)), "a ping of the host's address"),
        (BadTransport, ping_frame(&small), "7 bytes of a ping"),
        (UnsupportedIcmp, pinged(|bytes| bytes[20] = 13), "a timestamp request"),
        (UnsupportedIcmp, pinged(|bytes| bytes[21] = 1), "a ping with a code"),
        (UnsupportedIcmp, pinged(|bytes| bytes[9] = 17), "a ping of another protocol"),
        (BadIcmpChecksum, pinged(|bytes| bytes[28] ^= 1), "a ping with a wrong checksum"),
        (BadIpChecksum, ping_frame(&with_bad_checksum(ping(ANNOUNCED))), "a wrong header"),
        (UnsupportedIcmp, pinged(|bytes| bytes[7] = 1), "a part of a ping"),
        (Hairpin, pinged(|bytes| bytes[12..16].copy_from_slice(&ANNOUNCED.octets())), "itself"),
        (Truncated, request(|_| ())[..13].to_vec(), "part of ARP's steer header"),
        (Truncated, ping_frame(&ping(ANNOUNCED))[..40].to_vec(), "part of a ping"),
    ]
}

fn with_bad_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10] ^= 1;
    packet
}

/// Frames that are dropped because of what the tables say or have come to.
fn situations() -> Vec<(DropReason, Gateway, Vec<u8>)> {
    use DropReason::*;
    let another = |destination| packet(Body::Udp, (OTHER_POD, 5000), destination, 64);
    let one_port = EgressAddress {
        address: EGRESS,
        port_first: 5000,
        port_last: 5000,
        own: true,
        announce: None,
    };
    let mut all = Vec::new();
    let mut add =
        |reason, gateway, packet: &[u8]| all.push((reason, gateway, tunnel_frame(packet)));

    let foreign = EngineConfig { worker: 1, ..config() };
    add(WrongWorker, Gateway::with(foreign, tables()), &request());

    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&request()));
    gateway.tables = Tables::default();
    add(NotProgrammed, gateway, &request());

    let mut input = tables();
    input.v4.egress_addresses.clear();
    add(NoEgressAddress, Gateway::with(config(), input), &request());

    let mut input = tables();
    input.v4.fib = Default::default();
    add(NoRoute, Gateway::with(config(), input), &request());

    let mut gateway = Gateway::with(EngineConfig { flows_max: 1, ..config() }, tables());
    gateway.sent(tunnel_frame(&request()));
    add(FlowTableFull, gateway, &another((REMOTE, 54)));

    let mut input = tables();
    input.v4.egress_addresses = vec![one_port];
    let mut gateway = Gateway::with(config(), input);
    gateway.sent(tunnel_frame(&request()));
    add(PortsExhausted, gateway, &another(REMOTE_END));

    let gre = |pod| packet(Body::Gre, (pod, 0), (REMOTE, 0), 64);
    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&gre(POD)));
    add(AddressTaken, gateway, &gre(OTHER_POD));

    let mut input = tables();
    input.v4.egress_addresses[0].own = false;
    add(NeedsOwnAddress, Gateway::with(config(), input), &gre(POD));

    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&request()));
    gateway.change(|input| input.v4.policies = Policies::default());
    add(Deselected, gateway, &request());

    // A new flow, and a known one.
    let announce = |input: &mut TablesInput| input.v4.egress_addresses[2].address = REMOTE;
    let mut gateway = Gateway::new();
    gateway.change(announce);
    add(Hairpin, gateway, &request());
    let mut gateway = Gateway::new();
    gateway.sent(tunnel_frame(&request()));
    gateway.change(announce);
    add(Hairpin, gateway, &request());
    // One that is on the host is a local destination, as the kernel's routes say.
    let mut gateway = Gateway::new();
    gateway.change(|input| input.v4.egress_addresses[1].address = [203, 0, 113, 200].into());
    add(LocalDestination, gateway, &to([203, 0, 113, 200]));

    let mut gateway = Gateway::new();
    let ping = ping_frame(&packet(Body::EchoRequest, (REMOTE, 5), (ANNOUNCED, 0), 64));
    (0..20).for_each(|_| drop(gateway.sent(ping.clone())));
    all.push((PingLimited, gateway, ping));
    all
}

/// The same because of a policy's options.
fn with_options() -> Vec<(DropReason, Gateway, Vec<u8>)> {
    use DropReason::*;
    let mut all = Vec::new();
    let mut add =
        |reason, gateway, packet: &[u8]| all.push((reason, gateway, tunnel_frame(packet)));

    let options = |options| {
        let policy = policy(EGRESS, &[POD, OTHER_POD], &["203.0.113.0/24"]);
        Policies::new(vec![Policy { options, ..policy }], &[])
    };
    let mut input = tables();
    input.v4.policies = options(NatOptions { flows_per_pod_max: Some(1), ..NatOptions::default() });
    let mut gateway = Gateway::with(config(), input);
    gateway.sent(tunnel_frame(&request()));
    add(PodFlowLimit, gateway, &packet(Body::Udp, (POD, 5001), REMOTE_END, 64));

    let mut gateway = Gateway::new();
    gateway.change(|input| input.draining = true);
    add(Draining, gateway, &request());

    let mut mapped = tables();
    mapped.v4.policies =
        options(NatOptions { endpoint_independent: true, ..NatOptions::default() });
    let mut gateway = Gateway::with(config(), mapped);
    gateway.sent(tunnel_frame(&request()));
    let narrow = |input: &mut TablesInput| input.v4.egress_addresses[0].port_last = 4999;
    gateway.change(narrow);
    add(MappingConflict, gateway, &packet(Body::Udp, POD_END, (REMOTE, 54), 64));
    all
}

#[test]
fn every_reason_is_produced_by_some_packet_and_counted_once() {
    let elsewhere = OF_THE_WORKER.into_iter().chain(ELSEWHERE);
    let mut produced: BTreeSet<DropReason> = elsewhere.collect();
    for (reason, frame, what) in
        [malformed(), unusable(), unwelcome(), unanswered(), ipv6::malformed()].concat()
    {
        let mut gateway = Gateway::new();
        gateway.sent(tunnel_frame(&request()));
        let flows = gateway.flows();
        // `process` compares every counter with what it was before.
        assert_eq!(gateway.dropped(frame), reason, "{what}");
        assert_eq!(gateway.flows(), flows, "{what}");
        produced.insert(reason);
    }
    for (reason, mut gateway, frame) in [situations(), with_options()].into_iter().flatten() {
        assert_eq!(gateway.dropped(frame), reason);
        produced.insert(reason);
    }
    assert_eq!(produced, DropReason::ALL.iter().copied().collect());
}

#[test]
fn a_packet_cut_off_anywhere_is_dropped() {
    for body in [Body::Syn, Body::Udp, Body::EchoRequest] {
        let whole = tunnel_frame(&packet(body, POD_END, (REMOTE, 0), 64));
        for length in 0..whole.len() {
            let mut gateway = Gateway::new();
            assert_eq!(gateway.dropped(whole[..length].to_vec()), DropReason::Truncated);
        }
    }
}

#[test]
fn a_worker_that_gives_a_held_frame_up_says_why() {
    let mut gateway = Gateway::new();
    gateway.change(|input| input.v4.neighbours.clear());
    for (held, reason) in (1..).zip(OF_THE_WORKER) {
        let (verdict, frame) = gateway.process(tunnel_frame(&request()));
        assert!(matches!(
            verdict,
            Verdict::Hold { device: UPLINK, address: IpAddr::V4(ROUTER), .. }
        ));
        assert_eq!(frame, tunnel_frame(&request()));
        gateway.engine.drop_held(reason);
        let counters = gateway.engine.counters();
        assert_eq!((counters.received, counters.held), (held, 0));
        assert_eq!(counters.dropped_for(reason), 1);
    }
}
