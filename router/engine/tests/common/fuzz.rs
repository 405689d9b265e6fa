//! What must hold for any bytes whatever: shared by the fuzz target and the tests.

use std::net::Ipv4Addr;

use etherparse::ArpOperation;
use spillway_engine::steer::{KIND_ARP, KIND_MASK, KIND_NEIGHBOUR, KIND_PING, KIND_TUNNEL};
use spillway_engine::{ANSWER_ROOM, Answer, BURST_MAX, DropReason, EngineConfig, Verdict};

use super::build::{Body, arp, cut, error, extended, packet, solicitation};
use super::gateway::*;

/// Frames that a gateway with [`valid_gateway`]'s flows forwards.
pub fn valid_frames() -> Vec<Vec<u8>> {
    let (udp, tcp, echo) = ((POD, 5000), (POD, 40_001), (POD, 7));
    let (dns, https, host) = ((REMOTE, 53), (REMOTE, 443), (REMOTE, 0));
    let public_udp = (EGRESS, 5000);
    let question = cut(&packet(Body::Udp, udp, dns, 64), 16);
    let answer = cut(&packet(Body::Udp, dns, public_udp, 64), 16);
    vec![
        tunnel_frame(&packet(Body::Udp, udp, dns, 64)),
        tunnel_frame(&packet(Body::UdpWithoutChecksum, udp, dns, 64)),
        tunnel_frame(&packet(Body::Syn, tcp, https, 64)),
        tunnel_frame(&packet(Body::Ack, tcp, https, 64)),
        tunnel_frame(&packet(Body::Fin, tcp, https, 64)),
        tunnel_frame(&packet(Body::EchoRequest, (POD, 2000), host, 64)),
        tunnel_frame(&packet(Body::EchoRequest, echo, host, 64)),
        tunnel_frame(&packet(Body::SctpInit, (POD, 3000), (REMOTE, 2905), 64)),
        tunnel_frame(&packet(Body::Gre, (POD, 0), host, 64)),
        tunnel_frame(&error((3, 3), POD, REMOTE, 64, &packet(Body::Udp, dns, udp, 9))),
        reply_frame(&packet(Body::Udp, dns, public_udp, 64)),
        reply_frame(&packet(Body::SynAck, https, (EGRESS, 40_001), 64)),
        reply_frame(&packet(Body::Rst, https, (EGRESS, 40_001), 64)),
        reply_frame(&packet(Body::EchoReply, host, (EGRESS, 2000), 64)),
        reply_frame(&packet(Body::SctpInitAck, (REMOTE, 2905), (EGRESS, 3000), 64)),
        reply_frame(&packet(Body::Gre, host, (EGRESS, 0), 64)),
        reply_frame(&error((3, 4), ROUTER, EGRESS, 64, &packet(Body::Udp, public_udp, dns, 1))),
        reply_frame(&error(
            (11, 0),
            ROUTER,
            EGRESS,
            64,
            &packet(Body::Syn, (EGRESS, 40_001), https, 1),
        )),
        tunnel_frame(&question[0]),
        tunnel_frame(&question[1]),
        reply_frame(&answer[0]),
        reply_frame(&answer[1]),
        arp_frame(
            ROUTER_MAC,
            &arp(ArpOperation::REQUEST, (ROUTER_MAC, ROUTER), ([0; 6], ANNOUNCED)),
        ),
        ping_frame(&packet(Body::EchoRequest, (REMOTE, 7), (ANNOUNCED, 0), 64)),
    ]
}

/// The same of IPv6, with and without extension headers.
pub fn valid_frames_ipv6() -> Vec<Vec<u8>> {
    let (udp, tcp) = ((POD6, 5000), (POD6, 40_001));
    let (dns, https, host) = ((REMOTE6, 53), (REMOTE6, 443), (REMOTE6, 0));
    let (public_udp, public_tcp) = ((EGRESS6, 5000), (EGRESS6, 40_001));
    let question = cut(&packet(Body::Udp, udp, dns, 64), 16);
    let answer = cut(&packet(Body::Udp, dns, public_udp, 64), 16);
    let chain: &[(u8, &[u8])] = &[(0, &[0, 1, 4, 0, 0, 0, 0]), (60, &[0, 5, 2, 0, 0, 0, 0])];
    let routed: &[(u8, &[u8])] = &[(43, &[0, 0, 0, 0, 0, 0, 0])];
    let group = "ff02::1:ff00:9".parse().unwrap();
    vec![
        tunnel_frame(&packet(Body::Udp, udp, dns, 64)),
        tunnel_frame(&extended(&packet(Body::Udp, udp, dns, 64), chain)),
        tunnel_frame(&packet(Body::Syn, tcp, https, 64)),
        tunnel_frame(&extended(&packet(Body::Ack, tcp, https, 64), routed)),
        tunnel_frame(&packet(Body::EchoRequest, (POD6, 2000), host, 64)),
        tunnel_frame(&packet(Body::SctpInit, (POD6, 3000), (REMOTE6, 2905), 64)),
        tunnel_frame(&packet(Body::Gre, (POD6, 0), host, 64)),
        tunnel_frame(&error((1, 4), POD6, REMOTE6, 64, &packet(Body::Udp, dns, udp, 9))),
        reply_frame(&packet(Body::Udp, dns, public_udp, 64)),
        reply_frame(&extended(&packet(Body::SynAck, https, public_tcp, 64), chain)),
        reply_frame(&packet(Body::EchoReply, host, (EGRESS6, 2000), 64)),
        reply_frame(&packet(Body::SctpInitAck, (REMOTE6, 2905), (EGRESS6, 3000), 64)),
        reply_frame(&error((2, 0), REMOTE6, EGRESS6, 64, &packet(Body::Udp, public_udp, dns, 1))),
        reply_frame(&error(
            (3, 0),
            REMOTE6,
            EGRESS6,
            64,
            &extended(&packet(Body::Syn, public_tcp, https, 1), routed),
        )),
        tunnel_frame(&question[0]),
        tunnel_frame(&question[1]),
        reply_frame(&answer[0]),
        reply_frame(&answer[1]),
        neighbour_frame(ROUTER_MAC, &solicitation(REMOTE6, group, ANNOUNCED6, &[0; 0])),
        ping_frame(&packet(Body::EchoRequest, (REMOTE6, 7), (ANNOUNCED6, 0), 64)),
    ]
}

/// The same from pods of IPv6 to IPv4 and, after so many that open flows, back.
pub fn valid_frames_nat64() -> (usize, Vec<Vec<u8>>) {
    let (udp, tcp, host) = ((POD6, 5001), (POD6, 40_002), (embedded(REMOTE), 0));
    let (dns, https) = ((embedded(REMOTE), 53), (embedded(REMOTE), 443));
    let (dns4, https4) = ((REMOTE, 53), (REMOTE, 443));
    let (public_udp, public_tcp) = ((EGRESS, 5001), (EGRESS, 40_002));
    let chain: &[(u8, &[u8])] = &[(0, &[0, 1, 4, 0, 0, 0, 0]), (60, &[0, 5, 2, 0, 0, 0, 0])];
    let question = cut(&packet(Body::Udp, udp, dns, 64), 16);
    let answer = cut(&packet(Body::Udp, dns4, public_udp, 64), 16);
    let quote = packet(Body::Udp, dns, udp, 9);
    let frames = vec![
        tunnel_frame(&extended(&packet(Body::Udp, udp, dns, 64), chain)),
        tunnel_frame(&packet(Body::Syn, tcp, https, 64)),
        tunnel_frame(&packet(Body::EchoRequest, (POD6, 2001), host, 64)),
        tunnel_frame(&packet(Body::SctpInit, (POD6, 3001), (host.0, 2905), 64)),
        tunnel_frame(&packet(Body::Gre, (POD6, 0), (embedded(OTHER_REMOTE), 0), 64)),
        tunnel_frame(&packet(Body::Udp, udp, dns, 64)),
        tunnel_frame(&packet(Body::Ack, tcp, https, 64)),
        tunnel_frame(&error((1, 4), POD6, dns.0, 64, &quote)),
        tunnel_frame(&error((2, 0), POD6, dns.0, 64, &extended(&quote, chain))),
        reply_frame(&packet(Body::Udp, dns4, public_udp, 64)),
        reply_frame(&packet(Body::UdpWithoutChecksum, dns4, public_udp, 64)),
        reply_frame(&packet(Body::SynAck, https4, public_tcp, 64)),
        reply_frame(&packet(Body::EchoReply, (REMOTE, 0), (EGRESS, 2001), 64)),
        reply_frame(&packet(Body::SctpInitAck, (REMOTE, 2905), (EGRESS, 3001), 64)),
        reply_frame(&packet(Body::Gre, (OTHER_REMOTE, 0), (EGRESS, 0), 64)),
        reply_frame(&error((3, 4), ROUTER, EGRESS, 64, &packet(Body::Udp, public_udp, dns4, 1))),
        reply_frame(&error((12, 0), ROUTER, EGRESS, 64, &packet(Body::Syn, public_tcp, https4, 1))),
        tunnel_frame(&question[0]),
        tunnel_frame(&question[1]),
        reply_frame(&answer[0]),
        reply_frame(&answer[1]),
    ];
    (5, frames)
}

/// Another one: protocols without ports have one flow with each.
const OTHER_REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 51);

/// A small gateway that has the flows of [`valid_frames`], of [`valid_frames_ipv6`] and of
/// [`valid_frames_nat64`].
pub fn valid_gateway() -> Gateway {
    let config = EngineConfig { flows_max: 64, flows_max_ipv6: 64, ..config() };
    let mut gateway = Gateway::with(config, nat64_tables());
    let opening = valid_frames().into_iter().take(9);
    let (opening_nat64, nat64) = valid_frames_nat64();
    let opening = opening.chain(valid_frames_ipv6().into_iter().take(7));
    for frame in opening.chain(nat64.into_iter().take(opening_nat64)) {
        gateway.process(frame);
    }
    gateway
}

/// Processes a burst and checks what must hold for each frame.
pub fn process_any(gateway: &mut Gateway, frames: &mut [Vec<u8>]) {
    let mut frames: Vec<&mut [u8]> = frames.iter_mut().map(Vec::as_mut_slice).collect();
    let mut received: Vec<Vec<u8>> = frames.iter().map(|frame| frame.to_vec()).collect();
    let kinds: Vec<u8> =
        frames.iter().map(|frame| frame.first().map_or(0, |first| first & KIND_MASK)).collect();
    let mut verdicts = [Verdict::Drop(DropReason::UnknownKind); BURST_MAX];
    let verdicts = &mut verdicts[..frames.len()];
    gateway.engine.process(gateway.now, &gateway.tables, &mut frames, verdicts);
    for (frame, verdict) in received.iter_mut().zip(verdicts.iter()) {
        if let Verdict::Drop(reason) = *verdict {
            answer_any(gateway, reason, frame);
        }
    }
    for ((frame, verdict), kind) in frames.iter().zip(verdicts).zip(kinds) {
        let from_pod = kind == KIND_TUNNEL;
        match *verdict {
            Verdict::Transmit { length, .. }
                if [KIND_ARP, KIND_PING, KIND_NEIGHBOUR].contains(&kind) =>
            {
                check_answer(&frame[..usize::from(length)], kind);
            }
            Verdict::Transmit { length, .. } => check_sent(&frame[..usize::from(length)], from_pod),
            Verdict::Fragment { fragments, .. } => {
                let pieces = pieces(fragments, &gateway.tables, frame);
                // One piece is IPv6 where the packet was not.
                assert!(pieces.len() > 1 || pieces[0][64] >> 4 == 6);
                assert_eq!(pieces.len(), fragments.count(&gateway.tables, frame));
                pieces.iter().for_each(|piece| check_sent(piece, from_pod));
            }
            Verdict::Await { .. } | Verdict::Drop(_) => {}
            Verdict::Hold { .. } | Verdict::HandOff { .. } => panic!("{verdict:?}"),
        }
    }
    assert_sum_closes(&gateway.engine.counters());
}

/// Whoever is answered gets an error of a pod's or to a pod.
fn answer_any(gateway: &mut Gateway, reason: DropReason, frame: &mut [u8]) {
    let mut out = [0; ANSWER_ROOM];
    let owed = gateway.engine.owed_error(gateway.now, &gateway.tables, reason, frame);
    if let Some(owed) = owed {
        let Answer { length, .. } = owed.write(frame, &mut out).unwrap();
        let from_pod = frame[0] & KIND_MASK == KIND_TUNNEL;
        check_sent(&out[..usize::from(length)], !from_pod);
    }
}

/// What is answered is said of the announced address, and by nobody else.
fn check_answer(frame: &[u8], kind: u8) {
    if frame[12..14] == [0x86, 0xdd] {
        let (header, rest) = etherparse::Ipv6Header::from_slice(&frame[14..]).unwrap();
        assert_eq!(usize::from(header.payload_length), frame.len() - 54);
        assert_eq!(header.source, ANNOUNCED6.octets());
        let (hops, answer) = if kind == KIND_PING { (64, 129) } else { (255, 136) };
        assert_eq!((header.hop_limit, rest[0]), (hops, answer));
        let icmp = etherparse::Icmpv6Slice::from_slice(rest).unwrap();
        assert!(icmp.is_checksum_valid(header.source, header.destination));
    } else if kind == KIND_ARP {
        let said = (UPLINK_MAC, ANNOUNCED);
        assert_eq!(frame[12..14], [8, 6]);
        let asker = (frame[32..38].try_into().unwrap(), <[u8; 4]>::try_from(&frame[38..]).unwrap());
        let expected = arp(ArpOperation::REPLY, said, (asker.0, asker.1.into()));
        assert_eq!(frame[14..], expected);
    } else {
        let (header, rest) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
        assert_header_sum(&frame[14..]);
        assert_eq!(usize::from(header.total_len), frame.len() - 14);
        assert_eq!((header.source, header.time_to_live), (ANNOUNCED.octets(), 64));
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(rest);
        assert_eq!((rest[0], sum.ones_complement()), (0, 0));
    }
}

/// No pod's packet leaves with another source than its egress address, no reply goes to anyone but
/// a pod, and headers are right.
fn check_sent(frame: &[u8], from_pod: bool) {
    let packet = if from_pod { &frame[14..] } else { &frame[64..] };
    if packet[0] >> 4 == 6 {
        return check_sent_ipv6(frame, packet, from_pod);
    }
    let (header, _) = etherparse::Ipv4Header::from_slice(packet).unwrap();
    assert_header_sum(packet);
    assert_eq!(usize::from(header.total_len), packet.len());
    if from_pod {
        assert_eq!(header.source, EGRESS.octets());
    } else {
        assert!([POD.octets(), OTHER_POD.octets()].contains(&header.destination));
        let (outer, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
        assert_header_sum(&frame[14..]);
        assert_eq!(usize::from(outer.total_len), frame.len() - 14);
        assert_eq!(outer.source, TUNNEL.octets());
    }
}

/// The same of IPv6.
fn check_sent_ipv6(frame: &[u8], packet: &[u8], from_pod: bool) {
    let (header, _) = etherparse::Ipv6Header::from_slice(packet).unwrap();
    assert_eq!(usize::from(header.payload_length), packet.len() - 40);
    if from_pod {
        assert_eq!((header.source, &frame[12..14]), (EGRESS6.octets(), &[0x86, 0xdd][..]));
    } else {
        assert!([POD6.octets(), OTHER_POD6.octets()].contains(&header.destination));
        assert_eq!(frame[62..64], [0x86, 0xdd]);
        assert_header_sum(&frame[14..]);
    }
}

/// Summed up over the bytes: etherparse's own header forgets the reserved flag.
fn assert_header_sum(packet: &[u8]) {
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&packet[..20]);
    assert_eq!(sum.ones_complement(), 0);
}

/// Runs a fuzzer's input: frames, each after its length in two bytes, lowest first.
pub fn run(mut input: &[u8]) {
    let mut gateway = valid_gateway();
    let mut frames = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        frames.push(frame.to_vec());
        input = rest;
    }
    for burst in frames.chunks_mut(BURST_MAX) {
        process_any(&mut gateway, burst);
        gateway.now += SECOND;
        gateway.engine.expire(gateway.now, &gateway.tables);
    }
}
