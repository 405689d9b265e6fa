//! ICMP errors: about packets of pods, from outside; and about replies, from pods.

use spillway_engine::DropReason;

use crate::common::build::{Body, End, error, ethernet, packet, packet_with, vxlan};
use crate::common::gateway::*;

/// A flow of each protocol: what the pod sends, what it gets, and the ports.
const PROTOCOLS: [(Body, Body, u16, u16); 5] = [
    (Body::Syn, Body::SynAck, 40_001, 443),
    (Body::Udp, Body::Udp, 5000, 53),
    (Body::UdpWithoutChecksum, Body::UdpWithoutChecksum, 5000, 53),
    (Body::EchoRequest, Body::EchoReply, 5, 0),
    (Body::SctpInit, Body::SctpInitAck, 5000, 2905),
];

/// A gateway with a flow; its public end, which is not the pod's port.
fn with_flow(body: Body, pod: End, remote: End) -> (Gateway, End) {
    let mut gateway = Gateway::new();
    // Another pod has the port already.
    gateway.sent(tunnel_frame(&packet(body, (OTHER_POD, pod.1), remote, 64)));
    gateway.sent(tunnel_frame(&packet(body, pod, remote, 64)));
    let flows = gateway.flows();
    let flow = flows.iter().find(|flow| flow.original.source == POD).unwrap();
    assert_ne!(flow.reply.destination_port, pod.1);
    (gateway, (EGRESS, flow.reply.destination_port))
}

/// The beginning of a packet, as far as a router or host quotes it.
fn quote(packet: &[u8], transport_bytes: usize) -> &[u8] {
    &packet[..packet.len().min(20 + transport_bytes)]
}

#[test]
fn an_error_from_outside_reaches_the_pod_with_its_own_packet_quoted() {
    for (body, _, pod_port, remote_port) in PROTOCOLS {
        for quoted in [8, 12, 16, 18, 20, 500] {
            for type_code in [(3, 4), (3, 3), (11, 0), (12, 0)] {
                let (pod, remote) = ((POD, pod_port), (REMOTE, remote_port));
                let (mut gateway, public) = with_flow(body, pod, remote);
                let before = packet(body, public, remote, 1);
                let arrived = error(type_code, ROUTER, EGRESS, 60, quote(&before, quoted));
                let (device, sent) = gateway.sent(reply_frame(&arrived));
                let after = packet(body, pod, remote, 1);
                let expected = error(type_code, ROUTER, POD, 59, quote(&after, quoted));
                let inner = ethernet(UNDERLAY_MAC, POD_MAC, &expected);
                let port = u16::from_be_bytes([sent[34], sent[35]]);
                let expected = vxlan((UNDERLAY_MAC, PEER_MAC), PEER, port, [0, 0, 2], &inner);
                assert_eq!((device, sent), (UNDERLAY, expected), "{body:?}, {quoted} bytes");
            }
        }
    }
}

#[test]
fn an_error_from_a_pod_reaches_the_remote_with_its_own_packet_quoted() {
    for (body, answer, pod_port, remote_port) in PROTOCOLS {
        for quoted in [8, 20, 500] {
            let (pod, remote) = ((POD, pod_port), (REMOTE, remote_port));
            let (mut gateway, public) = with_flow(body, pod, remote);
            let before = packet(answer, remote, pod, 9);
            let left = error((3, 3), POD, REMOTE, 64, quote(&before, quoted));
            let (device, sent) = gateway.sent(tunnel_frame(&left));
            let after = packet(answer, remote, public, 9);
            let expected = error((3, 3), EGRESS, REMOTE, 63, quote(&after, quoted));
            let expected = ethernet(UPLINK_MAC, ROUTER_MAC, &expected);
            assert_eq!((device, sent), (UPLINK, expected), "{body:?}, {quoted} bytes");
        }
    }
}

#[test]
fn an_error_keeps_no_flow_alive_and_is_not_the_flows_traffic() {
    let mut gateway = Gateway::new();
    let (pod, remote) = ((POD, 5000), (REMOTE, 53));
    gateway.sent(tunnel_frame(&packet(Body::Udp, pod, remote, 64)));
    let before = gateway.flows();
    gateway.now += 20 * SECOND;
    let quoted = packet(Body::Udp, (EGRESS, 5000), remote, 1);
    gateway.sent(reply_frame(&error((11, 0), ROUTER, EGRESS, 60, &quoted)));
    let quoted = packet(Body::Udp, remote, pod, 1);
    gateway.sent(tunnel_frame(&error((3, 3), POD, REMOTE, 60, &quoted)));
    gateway.engine.expire(gateway.now, &gateway.tables);
    assert_eq!(gateway.flows()[0].last_seen_ns, before[0].last_seen_ns);
    assert_eq!(gateway.flows()[0].forward_traffic, before[0].forward_traffic);
    assert_eq!(gateway.flows()[0].reply_traffic, before[0].reply_traffic);
}

#[test]
fn what_an_error_quotes_must_be_a_packet_to_where_it_goes() {
    let (pod, remote) = ((POD, 5000), (REMOTE, 53));
    let from_pod = packet(Body::Udp, (EGRESS, 5000), remote, 1);
    let to_pod = packet(Body::Udp, remote, pod, 1);
    let mut options = from_pod.clone();
    options[0] = 0x46;
    let mut later_fragment = from_pod.clone();
    later_fragment[7] = 1;
    let mut other_protocol = from_pod.clone();
    other_protocol[9] = 0;
    let outside = |quote: &[u8]| reply_frame(&error((3, 1), ROUTER, EGRESS, 64, quote));
    let from =
        |source, target, quote: &[u8]| tunnel_frame(&error((3, 3), source, target, 64, quote));
    for (frame, what) in [
        (outside(&from_pod[..27]), "seven bytes of transport"),
        (outside(&from_pod[..19]), "no whole header"),
        (outside(&[]), "nothing"),
        (outside(&options), "options"),
        (outside(&later_fragment), "a later fragment"),
        (outside(&other_protocol), "the protocol 0"),
        (outside(&packet(Body::EchoReply, (EGRESS, 0), (REMOTE, 5), 1)), "an echo reply of ours"),
        (outside(&packet(Body::Udp, (OTHER_EGRESS, 5000), remote, 1)), "another's packet"),
        (from(POD, ROUTER, &to_pod), "a packet from another remote"),
        (from(OTHER_POD, REMOTE, &to_pod), "another pod's packet"),
        (from(POD, REMOTE, &packet(Body::EchoRequest, remote, pod, 1)), "an echo request"),
    ] {
        let mut gateway = Gateway::new();
        gateway.sent(tunnel_frame(&packet(Body::Udp, pod, remote, 64)));
        assert_eq!(gateway.dropped(frame), DropReason::BadQuote, "{what}");
    }
}

#[test]
fn a_long_error_is_translated_whole() {
    let mut gateway = Gateway::new();
    let (pod, remote) = ((POD, 5000), (REMOTE, 53));
    gateway.sent(tunnel_frame(&packet(Body::Udp, pod, remote, 64)));
    let long = |from: End| packet_with(Body::Udp, from, remote, 1, &[0x5a; 1001]);
    let arrived = error((11, 0), ROUTER, EGRESS, 60, &long((EGRESS, 5000)));
    let (_, sent) = gateway.sent(reply_frame(&arrived));
    assert_eq!(sent[64..], error((11, 0), ROUTER, POD, 59, &long(pod)));
}
