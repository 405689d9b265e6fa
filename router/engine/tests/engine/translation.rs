//! What leaves and what comes back, byte for byte.

use spillway_engine::EngineConfig;
use spillway_engine::steer::ECN_SHIFT;

use crate::common::build::{Body, End, changed, error, ethernet, packet, packet_with, vxlan};
use crate::common::gateway::*;

/// What the outside is to see of a packet from a pod.
fn outside(body: Body, from: End, to: End, ttl: u8) -> Vec<u8> {
    ethernet(UPLINK_MAC, ROUTER_MAC, &packet(body, from, to, ttl))
}

/// What the peer is to get: `sent` tells the outer source port, all else is said here.
#[track_caller]
fn assert_reply(sent: &[u8], inner: &[u8]) {
    let source_port = u16::from_be_bytes([sent[34], sent[35]]);
    assert!(source_port >= 49_152);
    let inner = ethernet(UNDERLAY_MAC, POD_MAC, inner);
    let expected = vxlan((UNDERLAY_MAC, PEER_MAC), PEER, source_port, [0, 0, 2], &inner);
    assert_eq!(sent, expected);
}

#[test]
fn both_directions_are_translated() {
    for (request, answer, pod_port, remote_port) in [
        (Body::Syn, Body::SynAck, 40_001, 443),
        (Body::Udp, Body::Udp, 5000, 53),
        (Body::UdpWithoutChecksum, Body::UdpWithoutChecksum, 5001, 53),
        (Body::Udp, Body::UdpWithoutChecksum, 5002, 53),
        (Body::EchoRequest, Body::EchoReply, 5003, 0),
        (Body::SctpInit, Body::SctpInitAck, 5004, 2905),
        (Body::Gre, Body::Gre, 0, 0),
        (Body::Esp, Body::Esp, 0, 0),
    ] {
        let mut gateway = Gateway::new();
        let (pod, remote) = ((POD, pod_port), (REMOTE, remote_port));
        let public = (EGRESS, pod_port);
        let (device, sent) = gateway.sent(tunnel_frame(&packet(request, pod, remote, 63)));
        assert_eq!((device, sent), (UPLINK, outside(request, public, remote, 62)), "{request:?}");
        let (device, sent) = gateway.sent(reply_frame(&packet(answer, remote, public, 50)));
        assert_eq!(device, UNDERLAY);
        assert_reply(&sent, &packet(answer, remote, pod, 49));
    }
}

#[test]
fn later_packets_find_the_flow_of_the_first() {
    let mut gateway = Gateway::new();
    let (pod, remote, public) = ((POD, 40_001), (REMOTE, 443), (EGRESS, 40_001));
    gateway.sent(tunnel_frame(&packet(Body::Syn, pod, remote, 64)));
    gateway.sent(reply_frame(&packet(Body::SynAck, remote, public, 64)));
    for body in [Body::Ack, Body::Ack, Body::Fin] {
        let (_, sent) = gateway.sent(tunnel_frame(&packet(body, pod, remote, 64)));
        assert_eq!(sent, outside(body, public, remote, 63));
    }
    assert_eq!(gateway.engine.counters().flows_created, 1);
}

#[test]
fn a_port_outside_of_the_range_is_replaced() {
    let mut gateway = Gateway::new();
    for (body, answer) in [(Body::Udp, Body::Udp), (Body::EchoRequest, Body::EchoReply)] {
        let remote_port = if body == Body::Udp { 53 } else { 0 };
        let (pod, remote) = ((POD, 111), (REMOTE, remote_port));
        let (_, sent) = gateway.sent(tunnel_frame(&packet(body, pod, remote, 64)));
        let public = gateway.flows().last().unwrap().reply.destination_port;
        let public = (EGRESS, public);
        assert!(public.1 >= 1024);
        assert_eq!(sent, outside(body, public, remote, 63));
        let (_, sent) = gateway.sent(reply_frame(&packet(answer, remote, public, 64)));
        assert_reply(&sent, &packet(answer, remote, pod, 63));
        gateway = Gateway::new();
    }
}

#[test]
fn two_pods_with_the_same_port_are_told_apart() {
    for (body, answer, remote_port) in [
        (Body::Syn, Body::SynAck, 443),
        (Body::EchoRequest, Body::EchoReply, 0),
        (Body::SctpInit, Body::SctpInitAck, 2905),
    ] {
        let mut gateway = Gateway::new();
        let remote = (REMOTE, remote_port);
        gateway.sent(tunnel_frame(&packet(body, (POD, 40_001), remote, 64)));
        gateway.sent(tunnel_frame(&packet(body, (OTHER_POD, 40_001), remote, 64)));
        let flows = gateway.flows();
        assert_eq!(flows.len(), 2);
        for flow in flows {
            let public = (EGRESS, flow.reply.destination_port);
            let (_, sent) = gateway.sent(reply_frame(&packet(answer, remote, public, 64)));
            let (remote, pod) = ((REMOTE.into(), remote_port), (flow.original.source, 40_001));
            assert_reply(&sent, &packet(answer, remote, pod, 63));
        }
    }
}

#[test]
fn the_same_port_serves_two_remotes() {
    let mut gateway = Gateway::new();
    let pod = (POD, 40_001);
    for last in [50, 51] {
        let remote = (std::net::Ipv4Addr::new(203, 0, 113, last), 443);
        let (_, sent) = gateway.sent(tunnel_frame(&packet(Body::Syn, pod, remote, 64)));
        assert_eq!(sent, outside(Body::Syn, (EGRESS, 40_001), remote, 63));
    }
}

#[test]
fn ethernet_padding_is_cut_off() {
    let mut gateway = Gateway::new();
    let (pod, remote, public) = ((POD, 5000), (REMOTE, 53), (EGRESS, 5000));
    let mut padded = packet_with(Body::Udp, pod, remote, 64, b"x");
    padded.resize(46, 0xaa);
    let (_, sent) = gateway.sent(tunnel_frame(&padded));
    let expected = packet_with(Body::Udp, public, remote, 63, b"x");
    assert_eq!(sent, ethernet(UPLINK_MAC, ROUTER_MAC, &expected));
    let mut padded = packet_with(Body::Udp, remote, public, 64, b"y");
    padded.resize(46, 0xaa);
    let (_, sent) = gateway.sent(reply_frame(&padded));
    assert_reply(&sent, &packet_with(Body::Udp, remote, pod, 63, b"y"));
}

#[test]
fn the_largest_packets_fit() {
    let mut gateway = Gateway::new();
    let (pod, remote, public) = ((POD, 5000), (REMOTE, 53), (EGRESS, 5000));
    let payload = |total: usize| vec![7; total - 28];
    let request = packet_with(Body::Udp, pod, remote, 64, &payload(1500));
    assert_eq!(gateway.sent(tunnel_frame(&request)).1.len(), 1514);
    let reply = packet_with(Body::Udp, remote, public, 64, &payload(1450));
    assert_eq!(gateway.sent(reply_frame(&reply)).1.len(), 1514);
}

#[test]
fn every_packet_of_a_burst_gets_its_own_verdict() {
    use spillway_engine::{BURST_MAX, DropReason, Verdict};

    let mut gateway = Gateway::new();
    let burst = |index: u16| match index % 3 {
        // The first packet of a flow, another one of it, and a stray reply.
        0 => tunnel_frame(&packet(Body::Udp, (POD, 5000 + index), (REMOTE, 53), 64)),
        1 => tunnel_frame(&packet(Body::Udp, (POD, 5000 + index - 1), (REMOTE, 53), 64)),
        _ => reply_frame(&packet(Body::Udp, (REMOTE, 53), (EGRESS, 9000 + index), 64)),
    };
    let mut frames: Vec<Vec<u8>> = (0..64).map(burst).collect();
    assert_eq!(frames.len(), BURST_MAX);
    let mut frames: Vec<&mut [u8]> = frames.iter_mut().map(Vec::as_mut_slice).collect();
    let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); BURST_MAX];
    gateway.engine.process(gateway.now, &gateway.tables, &mut frames, &mut verdicts);
    for (index, (frame, verdict)) in (0_u16..).zip(frames.iter().zip(verdicts)) {
        if index % 3 == 2 {
            assert_eq!(verdict, Verdict::Drop(DropReason::NoFlow));
        } else {
            let public = (EGRESS, 5000 + index - index % 3);
            assert_eq!(**frame, outside(Body::Udp, public, (REMOTE, 53), 63));
            assert_eq!(verdict, Verdict::Transmit { device: UPLINK, length: 61 });
        }
    }
    let counters = gateway.engine.counters();
    assert_eq!((counters.received, counters.flows_created), (64, 22));
}

/// The whole table of RFC 6040 is `packet/ecn.rs`'s test.
#[test]
fn congestion_on_the_tunnel_is_told_to_the_outside_and_the_other_way_round() {
    let mut gateway = Gateway::new();
    let (pod, remote, public) = ((POD, 5000), (REMOTE, 53), (EGRESS, 5000));
    let (ect_0, congested) = (10 << 2 | 2, 10 << 2 | 3);
    let with = |packet, tos| changed(packet, |bytes| bytes[1] = tos);
    let mut frame = tunnel_frame(&with(packet(Body::Udp, pod, remote, 64), ect_0));
    frame[0] |= 3 << ECN_SHIFT;
    let expected = with(packet(Body::Udp, public, remote, 63), congested);
    assert_eq!(gateway.sent(frame).1, ethernet(UPLINK_MAC, ROUTER_MAC, &expected));
    let reply = with(packet(Body::Udp, remote, public, 64), congested);
    let (_, sent) = gateway.sent(reply_frame(&reply));
    assert_eq!(sent[15], 3, "the outer TOS byte: congestion, and no DSCP");
    assert_reply(&sent, &with(packet(Body::Udp, remote, pod, 63), congested));
}

#[test]
fn a_wrong_sctp_checksum_stays_wrong() {
    let mut gateway = Gateway::new();
    let (pod, remote) = ((POD, 5000), (REMOTE, 2905));
    gateway.sent(tunnel_frame(&packet(Body::SctpInit, (OTHER_POD, 5000), remote, 64)));
    let mut wrong = packet(Body::SctpInit, pod, remote, 64);
    wrong[30] ^= 0x40;
    let (_, sent) = gateway.sent(tunnel_frame(&wrong));
    let public = gateway.flows().iter().find(|flow| flow.original.source == POD).unwrap().reply;
    let mut expected = packet(Body::SctpInit, (EGRESS, public.destination_port), remote, 63);
    assert_ne!(public.destination_port, 5000);
    expected[30] ^= 0x40;
    assert_eq!(sent, ethernet(UPLINK_MAC, ROUTER_MAC, &expected));
}

#[test]
fn an_error_about_a_packet_without_ports_finds_its_pod() {
    let mut gateway = Gateway::new();
    let (pod, remote) = ((POD, 0), (REMOTE, 0));
    gateway.sent(tunnel_frame(&packet(Body::Esp, pod, remote, 64)));
    let quote = |from, ttl| packet(Body::Esp, (from, 0), remote, ttl)[..28].to_vec();
    let arrived = error((3, 4), ROUTER, EGRESS, 64, &quote(EGRESS, 63));
    let (_, sent) = gateway.sent(reply_frame(&arrived));
    assert_reply(&sent, &error((3, 4), ROUTER, POD, 63, &quote(POD, 63)));
}

#[test]
fn a_segment_size_is_lowered_to_what_fits_the_tunnel_and_the_way_out() {
    for clamps in [true, false] {
        let mut gateway = Gateway::with(EngineConfig { mss_clamp: clamps, ..config() }, tables());
        gateway.change(|input| input.devices[0].mtu = 1400);
        let (pod, remote, public) = ((POD, 40_001), (REMOTE, 443), (EGRESS, 40_001));
        let (_, sent) = gateway.sent(tunnel_frame(&syn(pod, remote, 64, false, 1460)));
        let size = if clamps { 1410 } else { 1460 };
        let expected = syn(public, remote, 63, false, size);
        assert_eq!(sent, ethernet(UPLINK_MAC, ROUTER_MAC, &expected));
        let (_, sent) = gateway.sent(reply_frame(&syn(remote, public, 64, true, 1460)));
        let size = if clamps { 1360 } else { 1460 };
        assert_reply(&sent, &syn(remote, pod, 63, true, size));
    }
}

/// A SYN, or the answer to one, that announces a segment size.
fn syn(from: End, to: End, ttl: u8, answers: bool, size: u16) -> Vec<u8> {
    let ip = etherparse::PacketBuilder::ipv4(from.0.octets(), to.0.octets(), ttl);
    let tcp = ip.tcp(from.1, to.1, 7, 64_000).syn();
    let tcp = if answers { tcp.ack(1) } else { tcp };
    let options = [etherparse::TcpOptionElement::MaximumSegmentSize(size)];
    let mut bytes = Vec::new();
    tcp.options(&options).unwrap().write(&mut bytes, &[]).unwrap();
    bytes
}
