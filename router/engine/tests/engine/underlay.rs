//! Tunnels over IPv6: whatever happens in one over IPv4 happens there, with other headers in front.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::SlicedPacket;
use etherparse::defrag::IpDefragPool;
use spillway_engine::steer::{KIND_MASK, KIND_REPLY};
use spillway_engine::tables::{Neighbour, ReplyVni, TablesInput};
use spillway_engine::{ANSWER_ROOM, BURST_MAX, DropReason, EngineConfig, Ticket, Verdict};

use crate::common::build::{Body, changed, error, ethernet, packet, packet_with, vxlan_over_ipv6};
use crate::common::cluster::Cluster;
use crate::common::fuzz::{valid_frames, valid_frames_ipv6};
use crate::common::gateway::*;
use crate::common::random::Random;
use crate::robustness::mutate;

/// Bytes in front of the inner packet.
const HEADERS: usize = 84;

fn gateway() -> Gateway {
    Gateway::with(config(), tables_over_ipv6())
}

fn from_pod(packet: &[u8]) -> Vec<u8> {
    over_ipv6(tunnel_frame_from(KEY, POD_MAC, VNI, packet))
}

fn from_outside(packet: &[u8]) -> Vec<u8> {
    over_ipv6(reply_frame(packet))
}

/// What a pod's node gets of a packet, byte for byte, whatever its outer source port is.
#[track_caller]
fn assert_inside(sent: &[u8], peer: (Ipv6Addr, [u8; 6]), packet: &[u8]) {
    let inner = ethernet(UNDERLAY_MAC, POD_MAC, packet);
    let source_port = u16::from_be_bytes([sent[54], sent[55]]);
    assert!(source_port >= 49_152);
    let expected = vxlan_over_ipv6((UNDERLAY_MAC, peer.1), peer.0, source_port, [0, 0, 2], &inner);
    assert_eq!(sent, expected);
}

/// A pod, its remote and its egress address, of either family.
fn ends() -> [(IpAddr, IpAddr, IpAddr); 2] {
    [(POD.into(), REMOTE.into(), EGRESS.into()), (POD6.into(), REMOTE6.into(), EGRESS6.into())]
}

#[test]
fn both_families_go_both_ways() {
    for (pod, remote, egress) in ends() {
        for (body, answer) in [
            (Body::Syn, Body::SynAck),
            (Body::Udp, Body::Udp),
            (Body::EchoRequest, Body::EchoReply),
            (Body::SctpInit, Body::SctpInitAck),
            (Body::Gre, Body::Gre),
        ] {
            let mut gateway = gateway();
            // The second is a known flow's.
            for _ in 0..2 {
                let request = packet(body, (pod, 5000), (remote, 53), 64);
                let sent = gateway.sent(from_pod(&request));
                let expected = packet(body, (egress, 5000), (remote, 53), 63);
                assert_eq!(sent, (UPLINK, ethernet(UPLINK_MAC, ROUTER_MAC, &expected)));
                let reply = packet(answer, (remote, 53), (egress, 5000), 64);
                let (device, sent) = gateway.sent(from_outside(&reply));
                assert_eq!(device, UNDERLAY);
                let expected = packet(answer, (remote, 53), (pod, 5000), 63);
                assert_inside(&sent, (PEER6, PEER_MAC), &expected);
            }
            assert_eq!(gateway.engine.counters().flows_created, 1);
            assert_eq!(gateway.flows()[0].peer, KEY);
        }
    }
}

#[test]
fn a_direct_peer_is_reached_without_route_or_neighbour() {
    let mut gateway = gateway();
    let request = packet(Body::Udp, (POD, 5000), (REMOTE, 53), 64);
    gateway.sent(over_ipv6(tunnel_frame_from(DIRECT_KEY, POD_MAC, VNI, &request)));
    gateway.change(|input| {
        input.v6.neighbours.clear();
        input.v6.fib = Default::default();
    });
    let reply = packet(Body::Udp, (REMOTE, 53), (EGRESS, 5000), 64);
    let (_, sent) = gateway.sent(from_outside(&reply));
    let expected = packet(Body::Udp, (REMOTE, 53), (POD, 5000), 63);
    assert_inside(&sent, (DIRECT_PEER6, DIRECT_PEER_MAC), &expected);
}

#[test]
fn replies_carry_the_vni_of_their_flow_when_that_is_configured() {
    let mut gateway = gateway();
    gateway.change(|input| input.reply_vni = Some(ReplyVni::Flow));
    gateway.sent(from_pod(&packet(Body::Udp, (POD, 5000), (REMOTE, 53), 64)));
    let reply = packet(Body::Udp, (REMOTE, 53), (EGRESS, 5000), 64);
    assert_eq!(gateway.sent(from_outside(&reply)).1[66..69], VNI);
}

/// A frame without what a reply has in the room that steering has opened in front of it.
fn without_room(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let is_reply = frame.first().is_some_and(|first| first & KIND_MASK == KIND_REPLY);
    if is_reply {
        frame.iter_mut().take(HEADERS - 14).skip(14).for_each(|byte| *byte = 0);
    }
    frame
}

#[test]
fn a_frame_that_waits_is_untouched() {
    let mut gateway = gateway();
    let request = from_pod(&packet(Body::Udp, (POD, 5000), (REMOTE, 53), 64));
    let reply = from_outside(&packet(Body::Udp, (REMOTE, 53), (EGRESS, 5000), 64));
    gateway.sent(request.clone());
    gateway.change(|input| {
        input.v4.neighbours.clear();
        input.v6.neighbours.clear();
    });
    let all = [(request, UPLINK, IpAddr::from(ROUTER)), (reply, UNDERLAY, PEER6.into())];
    let held = all.map(|(frame, device, address)| {
        let (verdict, held) = gateway.process(frame.clone());
        assert_eq!(verdict, Verdict::Hold { device, address, ticket: Ticket::default() });
        assert_eq!(without_room(&held), without_room(&frame));
        held
    });
    gateway.change(|input| {
        let known = tables();
        input.v4.neighbours = known.v4.neighbours;
        input.v6.neighbours = known.v6.neighbours;
    });
    for (mut frame, way_out) in held.into_iter().zip([UPLINK, UNDERLAY]) {
        let Gateway { engine, tables, now, .. } = &mut gateway;
        let verdict = engine.process_held(*now, tables, &mut frame, Ticket::default());
        let Verdict::Transmit { device, length } = verdict else { panic!("{verdict:?}") };
        assert_eq!(device, way_out);
        if device == UNDERLAY {
            let expected = packet(Body::Udp, (REMOTE, 53), (POD, 5000), 63);
            assert_inside(&frame[..usize::from(length)], (PEER6, PEER_MAC), &expected);
        }
    }
}

/// A tunnel over IPv6 carries 70 bytes less than its device: 1,430.
#[test]
fn what_does_not_fit_the_tunnel_is_cut_or_told() {
    let mut gateway = gateway();
    gateway.sent(from_pod(&packet(Body::Udp, (POD, 5000), (REMOTE, 53), 64)));
    let payload: Vec<u8> = (0..1403).map(|byte: usize| byte.to_le_bytes()[0]).collect();
    let fits = packet_with(Body::Udp, (REMOTE, 53), (EGRESS, 5000), 64, &payload[..1402]);
    let (_, sent) = gateway.sent(from_outside(&fits));
    assert_eq!(sent.len(), 14 + 1500);
    let too_large = packet_with(Body::Udp, (REMOTE, 53), (EGRESS, 5000), 64, &payload);
    let (reason, told) = gateway.answered(from_outside(&too_large));
    assert_eq!(reason, DropReason::ExceedsTunnelMtu);
    let (device, told) = told.unwrap();
    assert_eq!((device, &told[34..36], &told[40..42]), (UPLINK, &[3, 4][..], &[0x05, 0x96][..]));
    // What is quoted is the packet as it came.
    assert_eq!(told[42..], too_large[..told.len() - 42]);

    let may_be_cut = changed(too_large, |bytes| bytes[6] = 0);
    let (device, pieces) = gateway.fragmented(from_outside(&may_be_cut));
    assert_eq!((device, pieces.len()), (UNDERLAY, 2));
    let mut pool: IpDefragPool = IpDefragPool::new();
    let mut whole = None;
    for piece in &pieces {
        assert!(piece.len() <= 14 + 1500);
        assert_inside(piece, (PEER6, PEER_MAC), &piece[HEADERS..]);
        let sliced = SlicedPacket::from_ethernet(&piece[HEADERS - 14..]).unwrap();
        whole = pool.process_sliced_packet(&sliced, (), ()).unwrap();
    }
    assert_eq!(whole.unwrap().payload[8..], payload);
}

#[test]
fn a_syn_announces_what_fits_the_tunnel() {
    let options = [2, 4, 0x05, 0xb4];
    let mut syn = packet_with(Body::Syn, (POD, 5000), (REMOTE, 443), 64, &[]);
    syn.extend(options);
    syn[32] = 6 << 4;
    let whole = changed(syn, |bytes| bytes[3] = 44);
    let sent = gateway().sent(from_pod(&whole)).1;
    assert_eq!(sent[14 + 40..], [2, 4, 0x05, 0x6e], "1,430 without two headers of 20");
}

/// Who sends a pod an error: our tunnel address where the pod's family has it, else nobody (RFC 7600).
#[test]
fn a_pod_is_told_through_its_tunnel() {
    let nobody = Ipv4Addr::new(192, 0, 0, 8).into();
    for (pod, remote, _) in ends() {
        let mut gateway = gateway();
        let probe = packet(Body::Udp, (pod, 5000), (remote, 53), 1);
        let (reason, told) = gateway.answered(from_pod(&probe));
        assert_eq!(reason, DropReason::TtlExpired);
        let (device, told) = told.unwrap();
        assert_eq!(device, UNDERLAY);
        let (from, type_code) =
            if pod.is_ipv4() { (nobody, (11, 0)) } else { (TUNNEL6.into(), (3, 0)) };
        let mut expected = error(type_code, from, pod, 64, &probe);
        // The errors that etherparse is asked for have an MTU, another class, and a flow label.
        let icmp = if pod.is_ipv4() { 20 } else { 40 };
        assert_eq!(told[HEADERS + icmp..][..2], expected[icmp..][..2]);
        assert_eq!(told[HEADERS + icmp + 8..], expected[icmp + 8..]);
        expected.clear();
        expected.extend(&told[HEADERS..]);
        assert_inside(&told, (PEER6, PEER_MAC), &expected);
        let at = if pod.is_ipv4() { 12..16 } else { 8..24 };
        let source = match from {
            IpAddr::V4(from) => from.octets().to_vec(),
            IpAddr::V6(from) => from.octets().to_vec(),
        };
        assert_eq!(told[HEADERS..][at], source);
    }
}

#[test]
fn an_answer_without_room_is_none() {
    let mut gateway = gateway();
    let mut probe = from_pod(&packet(Body::Udp, (POD, 5000), (REMOTE, 53), 1));
    let whole = gateway.answered(probe.clone()).1.unwrap().1.len();
    let (now, reason) = (gateway.now + SECOND, DropReason::TtlExpired);
    let owed = gateway.engine.owed_error(now, &gateway.tables, reason, &mut probe).unwrap();
    for room in (0..whole).step_by(7).chain([whole - 1]) {
        assert_eq!(owed.write(&probe, &mut vec![0; room]), None);
    }
    assert_eq!(owed.write(&probe, &mut [0; ANSWER_ROOM]).unwrap().length as usize, whole);
}

/// A gateway for pods of IPv6 to IPv4 destinations.
fn gateway_nat64() -> Gateway {
    let TablesInput { peers, .. } = tables_over_ipv6();
    Gateway::with(config(), TablesInput { peers, ..nat64_tables() })
}

/// NAT64 is within the tunnel, whatever that goes over.
#[test]
fn pods_of_ipv6_reach_ipv4_through_it() {
    let (pod, remote) = ((POD6, 5000), (embedded(REMOTE), 53));
    let request = from_pod(&packet(Body::Udp, pod, remote, 64));
    // 1500 bytes, the tunnel's 70, IPv6's 40 and UDP's 8; then a fragment header's 8 more.
    for (size, expected) in [(20, 1), (1382, 1), (1383, 2), (1450, 2)] {
        let mut gateway = gateway_nat64();
        let (device, sent) = gateway.sent(request.clone());
        assert_eq!((device, &sent[26..30]), (UPLINK, &EGRESS.octets()[..]));
        let payload: Vec<u8> = (0..size).map(|byte: usize| byte.to_le_bytes()[0]).collect();
        let reply = packet_with(Body::Udp, (REMOTE, 53), (EGRESS, 5000), 64, &payload);
        let cuttable = changed(reply.clone(), |bytes| bytes[6] = 0);
        let (device, frames) = gateway.fragmented(from_outside(&cuttable));
        assert_eq!((device, frames.len()), (UNDERLAY, expected), "{size} bytes");
        for frame in &frames {
            assert!(frame.len() <= 14 + 1500);
            assert_inside(frame, (PEER6, PEER_MAC), &frame[HEADERS..]);
        }
        let whole = packet_with(Body::Udp, remote, pod, 63, &payload);
        let skipped = HEADERS + if expected == 1 { 40 } else { 48 };
        let parts: Vec<u8> = frames.iter().flat_map(|frame| &frame[skipped..]).copied().collect();
        assert_eq!(parts, whole[40..], "{size} bytes");
        if expected > 1 {
            let uncut = changed(reply, |bytes| bytes[6] = 0x40);
            let (reason, told) = gateway.answered(from_outside(&uncut));
            assert_eq!(reason, DropReason::ExceedsTunnelMtu);
            let (device, told) = told.unwrap();
            assert_eq!((device, &told[14 + 26..14 + 28]), (UPLINK, &1410_u16.to_be_bytes()[..]));
        }
        assert_sum_closes(&gateway.engine.counters());
    }
}

#[test]
fn a_pod_of_ipv6_is_told_of_what_goes_to_ipv4_through_it() {
    let probe = packet(Body::Udp, (POD6, 5000), (embedded(REMOTE), 53), 1);
    let (reason, told) = gateway_nat64().answered(from_pod(&probe));
    assert_eq!(reason, DropReason::TtlExpired);
    let (device, told) = told.unwrap();
    assert_eq!(device, UNDERLAY);
    assert_inside(&told, (PEER6, PEER_MAC), &told[HEADERS..]);
    let message = &told[HEADERS..];
    assert_eq!(message[8..24], embedded(Ipv4Addr::new(192, 0, 0, 8)).octets());
    assert_eq!((&message[24..40], &message[40..42]), (&POD6.octets()[..], &[3, 0][..]));
    assert_eq!(message[48..], probe);
}

#[test]
fn what_goes_to_ipv4_waits_untouched() {
    let mut gateway = gateway_nat64();
    let neighbours = gateway.input.v4.neighbours.clone();
    gateway.change(|input| input.v4.neighbours.clear());
    let frame = from_pod(&packet(Body::Udp, (POD6, 5000), (embedded(REMOTE), 53), 64));
    let (verdict, mut left) = gateway.process(frame.clone());
    let Verdict::Hold { ticket, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(left, frame);
    gateway.change(|input| input.v4.neighbours = neighbours);
    let verdict = gateway.engine.process_held(gateway.now, &gateway.tables, &mut left, ticket);
    assert!(matches!(verdict, Verdict::Transmit { device: UPLINK, .. }), "{verdict:?}");
    assert_eq!(left[26..30], EGRESS.octets());
    assert_sum_closes(&gateway.engine.counters());
}

/// Frames that were steered before the tables changed.
#[test]
fn frames_of_the_other_underlay_are_dropped_by_name() {
    let request = packet(Body::Udp, (POD, 5000), (REMOTE, 53), 64);
    let reply = packet(Body::Udp, (REMOTE, 53), (EGRESS, 5000), 64);
    let mut over_ipv4 = Gateway::new();
    over_ipv4.sent(tunnel_frame(&request));
    let mut over_6 = gateway();
    over_6.sent(from_pod(&request));
    for (gateway, frames) in [
        (&mut over_6, [tunnel_frame(&request), reply_frame(&reply)]),
        (&mut over_ipv4, [from_pod(&request), from_outside(&reply)]),
    ] {
        for frame in frames {
            let (verdict, left) = gateway.process(frame.clone());
            assert_eq!(verdict, Verdict::Drop(DropReason::UnknownKind));
            assert_eq!(left, frame);
        }
    }
}

#[test]
fn flows_go_on_when_tunnels_change_to_ipv6_and_back() {
    let mut gateway = Gateway::new();
    let request = packet(Body::Ack, (POD, 5000), (REMOTE, 443), 64);
    let reply = packet(Body::Ack, (REMOTE, 443), (EGRESS, 5000), 64);
    gateway.sent(tunnel_frame(&packet(Body::Syn, (POD, 5000), (REMOTE, 443), 64)));
    gateway.change(|input| input.peers = tables_over_ipv6().peers);
    // The old peer is not listed any more, and the new one has not been heard.
    assert_eq!(gateway.dropped(from_outside(&reply)), DropReason::UnknownPeer);
    gateway.sent(from_pod(&request));
    let (_, sent) = gateway.sent(from_outside(&reply));
    assert_inside(&sent, (PEER6, PEER_MAC), &packet(Body::Ack, (REMOTE, 443), (POD, 5000), 63));
    gateway.change(|input| input.peers = tables().peers);
    gateway.sent(tunnel_frame(&request));
    assert_eq!(gateway.sent(reply_frame(&reply)).1[30..34], PEER.octets());
    assert_eq!(gateway.engine.counters().flows_created, 1);
}

#[test]
fn a_restored_flow_goes_back_to_its_peer_by_the_key() {
    let mut before = gateway();
    before.sent(from_pod(&packet(Body::Syn, (POD, 5000), (REMOTE, 443), 64)));
    let config = EngineConfig { hash_key: [9, 8, 7, 6], seed: 77, ..config() };
    let mut after = Gateway::with(config, before.input.clone());
    for flow in before.engine.saved() {
        after.engine.restore(after.now, &flow).unwrap();
    }
    let reply = packet(Body::SynAck, (REMOTE, 443), (EGRESS, 5000), 64);
    let (_, sent) = after.sent(from_outside(&reply));
    let expected = packet(Body::SynAck, (REMOTE, 443), (POD, 5000), 63);
    assert_inside(&sent, (PEER6, PEER_MAC), &expected);
}

#[test]
fn a_peer_of_the_other_family_than_its_tunnel_is_reached_by_nobody() {
    let mut gateway = gateway();
    gateway.change(|input| input.peers[0].tunnel_address = TUNNEL.into());
    gateway.sent(from_pod(&packet(Body::Udp, (POD, 5000), (REMOTE, 53), 64)));
    let reply = packet(Body::Udp, (REMOTE, 53), (EGRESS, 5000), 64);
    assert_eq!(gateway.dropped(from_outside(&reply)), DropReason::UnknownPeer);
}

/// Tables with tunnels over IPv4, and the same over IPv6 whose peers' keys are the others' addresses and
/// whose tunnels carry as much: all that follows has to be the same, down to hashes and ports.
fn twins() -> [TablesInput; 2] {
    let over_ipv4 = tables();
    let mut over_ipv6 = tables_over_ipv6();
    for (peer, twin) in over_ipv6.peers.iter_mut().zip(&over_ipv4.peers) {
        peer.key = twin.key;
    }
    over_ipv6.devices[usize::from(UNDERLAY)].mtu += 20;
    [over_ipv4, over_ipv6]
}

/// The same frame over IPv6 as over IPv4, with right outer headers.
#[track_caller]
fn assert_twins(over_ipv4: &(u16, Vec<u8>), over_ipv6: &(u16, Vec<u8>)) {
    let ((device, four), (device6, six)) = (over_ipv4, over_ipv6);
    assert_eq!(device, device6);
    if *device == UPLINK {
        assert_eq!(four, six);
        return;
    }
    let peer = match four[30..34] == PEER.octets() {
        true => (PEER6, PEER_MAC),
        false => (DIRECT_PEER6, DIRECT_PEER_MAC),
    };
    let vni = four[46..49].try_into().unwrap();
    let source_port = u16::from_be_bytes([four[34], four[35]]);
    let mut expected =
        vxlan_over_ipv6((UNDERLAY_MAC, peer.1), peer.0, source_port, vni, &four[50..]);
    // Errors of our own have a class of their own.
    expected[14] = 6 << 4 | four[15] >> 4;
    expected[15] = four[15] << 4;
    assert_eq!(*six, expected);
}

/// The same of errors: to a pod, each comes from the address that its tunnel has of the pod's family.
#[track_caller]
fn assert_twin_errors(over_ipv4: &(u16, Vec<u8>), over_ipv6: &(u16, Vec<u8>)) {
    let ((device, four), (_, six)) = (over_ipv4, over_ipv6);
    let mut from_there = over_ipv4.clone();
    if *device == UNDERLAY {
        // Its source, and the checksums that cover it.
        let places = if four[64] >> 4 == 4 { [10..12, 12..16] } else { [8..24, 42..44] };
        for place in places {
            from_there.1[64..][place.clone()].copy_from_slice(&six[HEADERS..][place]);
        }
    }
    assert_twins(&from_there, over_ipv6);
}

#[test]
fn whatever_comes_a_tunnel_over_ipv6_does_as_one_over_ipv4() {
    let valid = [valid_frames(), valid_frames_ipv6()].concat();
    let [mut four, mut six] = twins().map(|input| Gateway::with(config(), input));
    let mut random = Random(20_261_122);
    for _ in 0..600 {
        let burst: Vec<Vec<u8>> = (0..=random.below(BURST_MAX - 1))
            .map(|_| {
                let mut frame = valid[random.below(valid.len())].clone();
                if random.below(3) == 0 {
                    mutate(&mut frame, &mut random);
                }
                frame
            })
            .collect();
        let mut shown: Vec<Vec<u8>> = burst.iter().cloned().map(over_ipv6).collect();
        let before = shown.clone();
        let verdicts = process(&mut four, &mut burst.clone());
        let verdicts6 = process(&mut six, &mut shown);
        for ((verdict, verdict6), (frame, was)) in
            verdicts.iter().zip(&verdicts6).zip(shown.iter().zip(&before))
        {
            match (verdict, verdict6) {
                (Ok(four), Ok(six)) => {
                    assert_eq!(four.len(), six.len());
                    four.iter().zip(six).for_each(|(four, six)| assert_twins(four, six));
                }
                (Err((four, told)), Err((six, told6))) => {
                    assert_eq!(four, six);
                    assert_eq!(told.is_some(), told6.is_some());
                    told.iter().zip(told6).for_each(|(four, six)| assert_twin_errors(four, six));
                    assert_eq!(without_room(frame), without_room(was));
                }
                different => panic!("{different:?}"),
            }
        }
        for gateway in [&mut four, &mut six] {
            gateway.now += SECOND / 10;
            gateway.engine.expire(gateway.now, &gateway.tables);
        }
    }
    let counters = six.engine.counters();
    assert_eq!(counters, four.engine.counters());
    assert!(counters.transmitted > 5_000, "{counters:?}");
    assert!(counters.dropped.iter().filter(|count| **count > 0).count() > 15, "{counters:?}");
}

/// What is sent of a frame; or what else becomes of it, and what its sender is told.
type Became = Result<Vec<(u16, Vec<u8>)>, (Verdict, Option<(u16, Vec<u8>)>)>;

fn process(gateway: &mut Gateway, frames: &mut [Vec<u8>]) -> Vec<Became> {
    let Gateway { engine, tables, now, .. } = gateway;
    let mut verdicts = [Verdict::Await { until: 0 }; BURST_MAX];
    let mut slices: Vec<&mut [u8]> = frames.iter_mut().map(Vec::as_mut_slice).collect();
    engine.process(*now, tables, &mut slices, &mut verdicts);
    let became = frames.iter_mut().zip(verdicts).map(|(frame, verdict)| match verdict {
        Verdict::Transmit { device, length } => {
            Ok(vec![(device, frame[..usize::from(length)].to_vec())])
        }
        Verdict::Fragment { device, fragments } => {
            Ok(pieces(fragments, tables, frame).into_iter().map(|piece| (device, piece)).collect())
        }
        Verdict::Drop(reason) => {
            let mut out = vec![0xee; ANSWER_ROOM];
            let owed = engine.owed_error(*now, tables, reason, frame);
            let told = owed.map(|owed| {
                let answer = owed.write(frame, &mut out).unwrap();
                out.truncate(usize::from(answer.length));
                (answer.device, out)
            });
            Err((verdict, told))
        }
        other => Err((other, None)),
    });
    became.collect()
}

#[test]
fn several_workers_hand_frames_over_as_they_came() {
    let [mut four, mut six] = twins().map(|input| Cluster::new(4, config(), input));
    let valid = [valid_frames(), valid_frames_ipv6()].concat();
    let mut random = Random(7);
    let mut sent = 0;
    for _ in 0..4_000 {
        let frame = valid[random.below(valid.len())].clone();
        let worker = random.below(4);
        let outcomes = four.receive(worker, frame.clone());
        let outcomes6 = six.receive(worker, over_ipv6(frame));
        assert_eq!(outcomes.len(), outcomes6.len());
        for pair in outcomes.iter().zip(&outcomes6) {
            match pair {
                (Ok(four), Ok(six)) => {
                    sent += 1;
                    assert_twins(four, six);
                }
                (Err(four), Err(six)) => assert_eq!(four, six),
                different => panic!("{different:?}"),
            }
        }
        assert_eq!(four.pass(1), six.pass(1));
    }
    six.assert_sums_close();
    assert!(sent > 500, "{sent}");
    assert!(six.sum(|counters| counters.handed_off) > 100);
}

#[test]
fn the_way_to_a_peer_is_looked_up_in_ipv6s_routes() {
    let mut gateway = gateway();
    gateway.sent(from_pod(&packet(Body::Udp, (POD, 5000), (REMOTE, 53), 64)));
    gateway.change(|input| {
        input.v4.neighbours.retain(|neighbour| neighbour.device == UPLINK);
        input.v6.neighbours.push(Neighbour {
            device: UNDERLAY,
            address: PEER6,
            mac: [2, 7, 7, 7, 7, 7],
        });
    });
    let reply = packet(Body::Udp, (REMOTE, 53), (EGRESS, 5000), 64);
    assert_eq!(gateway.sent(from_outside(&reply)).1[..6], [2, 7, 7, 7, 7, 7]);
    gateway.change(|input| input.v6.fib = Default::default());
    assert_eq!(gateway.dropped(from_outside(&reply)), DropReason::NoRoute);
}
