//! Packets that arrive in fragments, in any order, with one worker or several.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::SlicedPacket;
use etherparse::defrag::IpDefragPool;
use spillway_engine::{DropReason, Verdict};

use crate::common::build::{Body, End, changed, cut, error, packet, packet_with};
use crate::common::cluster::{Cluster, Outcome};
use crate::common::gateway::*;
use crate::common::random::Random;

const POD_END: End = (POD, 5000);
const REMOTE_END: End = (REMOTE, 53);

fn cluster(workers: u8) -> Cluster {
    Cluster::new(workers, config(), tables())
}

/// A payload that shows what was put where.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251).to_le_bytes()[0]).collect()
}

/// A packet that routers may fragment.
fn whole(body: Body, from: End, to: End, length: usize) -> Vec<u8> {
    changed(packet_with(body, from, to, 64, &payload(length)), |bytes| bytes[6] = 0)
}

/// The packet whose fragments these frames carry, put together by etherparse; all fragments have the
/// same identification, which is given too.
fn put_together(frames: &[(u16, Vec<u8>)], ethernet_at: usize) -> (Vec<u8>, u16) {
    let mut pool: IpDefragPool = IpDefragPool::new();
    let mut whole = None;
    let ip = ethernet_at + 14;
    let identification = |frame: &[u8]| u16::from_be_bytes([frame[ip + 4], frame[ip + 5]]);
    for (_, frame) in frames {
        assert!(whole.is_none(), "whole before the last fragment");
        assert_eq!(identification(frame), identification(&frames[0].1));
        let sliced = SlicedPacket::from_ethernet(&frame[ethernet_at..]).unwrap();
        whole = pool.process_sliced_packet(&sliced, (), ()).unwrap();
    }
    let header = &frames[0].1[ip..ip + 20];
    ([header, &whole.unwrap().payload].concat(), identification(&frames[0].1))
}

/// Hands fragments to the worker that steering gives them to; gives what was sent.
#[track_caller]
fn sent(cluster: &mut Cluster, frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<(u16, Vec<u8>)> {
    let worker = cluster.worker(0);
    let outcomes = frames.into_iter().flat_map(|frame| cluster.receive(worker, frame));
    outcomes.map(Result::unwrap).collect()
}

fn received(cluster: &mut Cluster, frame: Vec<u8>) -> Vec<Outcome> {
    let worker = cluster.worker(0);
    cluster.receive(worker, frame)
}

/// Addresses, protocol and everything behind the header of a packet.
fn essence(packet: &[u8]) -> (&[u8], u8, &[u8]) {
    (&packet[12..20], packet[9], &packet[20..])
}

/// The orders in which three fragments can come.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn fragments_of_pods_leave_in_any_order_with_any_number_of_workers() {
    for workers in [1, 2, 4] {
        let mut identifications = Vec::new();
        for (number, order) in (0..).zip(ORDERS) {
            for body in [Body::Udp, Body::UdpWithoutChecksum, Body::EchoRequest, Body::Gre] {
                let mut cluster = cluster(workers);
                let (from, to) = match body {
                    Body::Gre => ((POD, 0), (REMOTE, 0)),
                    Body::EchoRequest => ((POD, 5000 + number), (REMOTE, 0)),
                    _ => ((POD, 5000 + number), REMOTE_END),
                };
                let parts = cut(&whole(body, from, to, 1500), 512);
                let parts = order.map(|place| tunnel_frame(&parts[place]));
                let frames = sent(&mut cluster, parts);
                assert!(frames.iter().all(|(device, _)| *device == UPLINK));
                let (packet, identification) = put_together(&frames, 0);
                let expected = whole(body, (EGRESS, from.1), to, 1500);
                assert_eq!(essence(&packet), essence(&expected), "{body:?} {order:?} {workers}");
                identifications.push(identification);
                assert_eq!(cluster.flows().len(), 1);
                assert_eq!(cluster.sum(|c| c.forward.packets), 3);
                cluster.assert_sums_close();
            }
        }
    }
}

#[test]
fn fragments_from_outside_come_back_in_any_order_with_any_number_of_workers() {
    for workers in [1, 2, 4] {
        for (number, order) in (0..).zip(ORDERS) {
            for body in [Body::Udp, Body::EchoReply, Body::Gre] {
                let mut cluster = cluster(workers);
                let (request, pod, remote) = match body {
                    Body::Gre => (Body::Gre, (POD, 0), (REMOTE, 0)),
                    Body::EchoReply => (Body::EchoRequest, (POD, 5000 + number), (REMOTE, 0)),
                    _ => (Body::Udp, (POD, 5000 + number), REMOTE_END),
                };
                let worker = cluster.worker(pod.1);
                let opening = packet(request, pod, remote, 64);
                cluster.process(worker, tunnel_frame(&opening)).unwrap();
                let parts = cut(&whole(body, remote, (EGRESS, pod.1), 1500), 512);
                let parts = order.map(|place| reply_frame(&parts[place]));
                let frames = sent(&mut cluster, parts);
                assert!(frames.iter().all(|(device, _)| *device == UNDERLAY));
                let (packet, identification) = put_together(&frames, 50);
                let expected = whole(body, remote, pod, 1500);
                assert_eq!(essence(&packet), essence(&expected), "{body:?} {order:?} {workers}");
                assert_eq!(identification, 0x1234, "the remote's own");
                assert_eq!(cluster.flows()[0].reply_traffic.packets, 3);
                cluster.assert_sums_close();
            }
        }
    }
}

#[test]
fn only_the_first_fragment_has_a_header_to_change() {
    // A payload that looks like ports would be changed if a later fragment were taken for a first.
    let mut cluster = cluster(1);
    cluster
        .process(0, tunnel_frame(&packet(Body::Udp, (OTHER_POD, 5000), REMOTE_END, 64)))
        .unwrap();
    let parts = cut(&whole(Body::Udp, POD_END, REMOTE_END, 1500), 512);
    let frames = sent(&mut cluster, parts.iter().map(|part| tunnel_frame(part)));
    let port = u16::from_be_bytes([frames[0].1[34], frames[0].1[35]]);
    assert_ne!(port, 5000, "another pod has it");
    for (part, (_, frame)) in parts.iter().zip(&frames).skip(1) {
        assert_eq!(frame[34..], part[20..]);
    }
    let expected = whole(Body::Udp, (EGRESS, port), REMOTE_END, 1500);
    assert_eq!(essence(&put_together(&frames, 0).0), essence(&expected));
}

#[test]
fn a_fragment_that_does_not_fit_its_way_is_cut_once_more() {
    let mut cluster = cluster(2);
    cluster.input.devices[0].mtu = 300;
    cluster.publish();
    let parts = cut(&whole(Body::Udp, POD_END, REMOTE_END, 1500), 1024);
    let frames = sent(&mut cluster, parts.iter().map(|part| tunnel_frame(part)));
    assert!(frames.len() > 5 && frames.iter().all(|(_, frame)| frame.len() <= 314));
    let expected = whole(Body::Udp, (EGRESS, 5000), REMOTE_END, 1500);
    assert_eq!(essence(&put_together(&frames, 0).0), essence(&expected));
}

#[test]
fn what_overlaps_is_refused_and_what_was_there_first_stays() {
    let mut cluster = cluster(2);
    let packet = whole(Body::Udp, POD_END, REMOTE_END, 1500);
    let (parts, others) = (cut(&packet, 512), cut(&packet, 496));
    let mut frames = sent(&mut cluster, [tunnel_frame(&parts[0])]);
    for refused in [&parts[0], &others[0], &others[1]] {
        let outcome = received(&mut cluster, tunnel_frame(refused));
        assert_eq!(outcome, [Err(DropReason::FragmentOverlap)]);
    }
    // One that ends behind the end, and another end.
    frames.extend(sent(&mut cluster, [tunnel_frame(&parts[2])]));
    let longer = cut(&whole(Body::Udp, POD_END, REMOTE_END, 2000), 512);
    for refused in [&longer[3], &cut(&packet, 1504)[1]] {
        let outcome = received(&mut cluster, tunnel_frame(refused));
        assert_eq!(outcome, [Err(DropReason::FragmentOverlap)]);
    }
    frames.extend(sent(&mut cluster, [tunnel_frame(&parts[1])]));
    let expected = whole(Body::Udp, (EGRESS, 5000), REMOTE_END, 1500);
    assert_eq!(essence(&put_together(&frames, 0).0), essence(&expected));
}

#[test]
fn a_first_fragment_too_short_for_its_header_is_dropped() {
    let mut cluster = cluster(1);
    let syn = changed(packet_with(Body::Syn, POD_END, REMOTE_END, 64, &payload(64)), |b| b[6] = 0);
    let outcome = received(&mut cluster, tunnel_frame(&cut(&syn, 16)[0]));
    assert_eq!(outcome, [Err(DropReason::BadTransport)]);
    let outcome = received(&mut cluster, tunnel_frame(&cut(&syn, 16)[1]));
    assert_eq!(outcome, [], "waits for a first one that is none");
    assert_eq!(cluster.pass(3), 1);
}

#[test]
fn what_waits_in_vain_is_given_up_and_forgotten() {
    let mut cluster = cluster(2);
    let parts = cut(&whole(Body::Udp, POD_END, REMOTE_END, 1500), 512);
    assert_eq!(received(&mut cluster, tunnel_frame(&parts[1])), []);
    assert_eq!(cluster.pass(1), 0);
    assert_eq!(cluster.pass(1), 1);
    assert_eq!(cluster.sum(|c| c.dropped_for(DropReason::FragmentTimeout)), 1);
    cluster.assert_sums_close();
    // The same place of the same identification is free again.
    assert_eq!(sent(&mut cluster, parts.iter().map(|part| tunnel_frame(part))).len(), 3);
    cluster.assert_sums_close();
}

#[test]
fn a_frame_that_was_kept_for_too_long_finds_its_packet_gone() {
    let mut gateway = Gateway::new();
    let parts = cut(&whole(Body::Udp, POD_END, REMOTE_END, 1500), 512);
    let (verdict, mut frame) = gateway.process(tunnel_frame(&parts[1]));
    assert_eq!(verdict, Verdict::Await { until: gateway.now + 2 * SECOND });
    gateway.pass(3);
    let Gateway { engine, tables, now, .. } = &mut gateway;
    let verdict = engine.process_held(*now, tables, &mut frame, Default::default());
    assert_eq!(verdict, Verdict::Drop(DropReason::FragmentTimeout));
}

#[test]
fn the_outside_cannot_fill_the_place_of_pods_fragments() {
    let mut cluster = cluster(1);
    let reply = whole(Body::Udp, REMOTE_END, (EGRESS, 5000), 1500);
    let stray = |identification: u16| {
        let packet = changed(reply.clone(), |b| {
            b[4..6].copy_from_slice(&identification.to_be_bytes());
        });
        cut(&packet, 512)
    };
    let mut waiting = 0;
    let mut full = 0;
    for identification in 0..10_000 {
        for outcome in
            [1, 0].map(|part| received(&mut cluster, reply_frame(&stray(identification)[part])))
        {
            match outcome.as_slice() {
                [] => waiting += 1,
                [.., Err(DropReason::FragmentsFull)] => full += 1,
                // The later one goes with its first; there is no such flow.
                outcomes => assert!(outcomes.iter().all(|o| *o == Err(DropReason::NoFlow))),
            }
        }
        if identification % 2 == 0 {
            // Some never see their first one.
            let lonely = &stray(60_000 - identification)[2];
            waiting += usize::from(received(&mut cluster, reply_frame(lonely)).is_empty());
        }
    }
    assert!(waiting > 64 && full > 1000, "{waiting} {full}");
    let parts = cut(&whole(Body::Udp, POD_END, REMOTE_END, 1500), 512);
    let frames = sent(&mut cluster, [2, 1, 0].map(|part| tunnel_frame(&parts[part])));
    assert_eq!(frames.len(), 3);
    assert_eq!(cluster.pass(3), 64);
    cluster.assert_sums_close();
    // Then there is room again.
    let (device, _) = received(&mut cluster, reply_frame(&stray(1)[0])).remove(0).unwrap();
    assert_eq!(device, UNDERLAY, "the pod's flow has that port now");
}

#[test]
fn pods_behind_one_address_never_send_the_same_identification_to_one_remote() {
    let mut cluster = cluster(2);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..300_u16 {
        for pod in [POD, OTHER_POD] {
            let from = (pod, 5000 + round % 3);
            // Both pods count from the same number.
            let cutting = |b: &mut [u8]| b[4..6].copy_from_slice(&round.to_be_bytes());
            let parts = cut(&changed(whole(Body::Udp, from, REMOTE_END, 600), cutting), 512);
            let frames = sent(&mut cluster, parts.iter().map(|part| tunnel_frame(part)));
            assert!(seen.insert(put_together(&frames, 0).1), "fragments, round {round}");
            let whole = changed(whole(Body::Udp, from, REMOTE_END, 60), cutting);
            let worker = cluster.worker(from.1);
            let (_, frame) = cluster.process(worker, tunnel_frame(&whole)).unwrap();
            let identification = u16::from_be_bytes([frame[18], frame[19]]);
            assert!(seen.insert(identification), "whole, round {round}");
        }
    }
}

#[test]
fn fragments_of_what_no_policy_covers_are_dropped_by_name() {
    let mut cluster = cluster(2);
    let excluded = (Ipv4Addr::new(203, 0, 113, 20), 53);
    for part in cut(&whole(Body::Udp, POD_END, excluded, 1500), 512) {
        assert_eq!(received(&mut cluster, tunnel_frame(&part)), [Err(DropReason::NoPolicy)]);
    }
    for part in cut(&whole(Body::Udp, REMOTE_END, (EGRESS, 7), 1500), 512) {
        assert_eq!(received(&mut cluster, reply_frame(&part)), [Err(DropReason::NoFlow)]);
    }
    // A SYN may come in fragments, though nobody sends such; nothing else opens TCP.
    let mut expected = DropReason::TcpNotSyn;
    let ack =
        changed(packet_with(Body::Ack, POD_END, REMOTE_END, 64, &payload(1500)), |b| b[6] = 0);
    for part in cut(&ack, 512) {
        assert_eq!(received(&mut cluster, tunnel_frame(&part)), [Err(expected)]);
        expected = DropReason::FragmentWithoutFlow;
    }
    cluster.assert_sums_close();
}

#[test]
fn fragments_of_a_new_flow_wait_for_the_next_hop_in_order() {
    let mut gateway = Gateway::new();
    gateway.change(|input| input.v4.neighbours.clear());
    let mut held = Vec::new();
    for part in cut(&whole(Body::Udp, POD_END, REMOTE_END, 1500), 512) {
        let (verdict, frame) = gateway.process(tunnel_frame(&part));
        let Verdict::Hold { device: UPLINK, address: IpAddr::V4(ROUTER), ticket } = verdict else {
            panic!("{verdict:?}");
        };
        held.push((frame, ticket));
    }
    gateway.change(|input| input.v4.neighbours = tables().v4.neighbours);
    let Gateway { engine, tables, now, .. } = &mut gateway;
    let frames = held.into_iter().map(|(mut frame, ticket)| {
        let verdict = engine.process_held(*now, tables, &mut frame, ticket);
        let Verdict::Transmit { device, length } = verdict else { panic!("{verdict:?}") };
        frame.truncate(length.into());
        (device, frame)
    });
    let frames: Vec<_> = frames.collect();
    let expected = whole(Body::Udp, (EGRESS, 5000), REMOTE_END, 1500);
    assert_eq!(essence(&put_together(&frames, 0).0), essence(&expected));
}

#[test]
fn a_part_of_an_icmp_error_is_refused_and_the_rest_waits_in_vain() {
    let mut cluster = cluster(1);
    cluster.process(0, tunnel_frame(&packet(Body::Udp, POD_END, REMOTE_END, 64))).unwrap();
    let quote = packet(Body::Udp, (EGRESS, 5000), REMOTE_END, 1);
    let error = changed(error((3, 3), ROUTER, EGRESS, 64, &quote), |b| b[6] = 0);
    let parts = cut(&error, 24);
    let refused = received(&mut cluster, reply_frame(&parts[0]));
    assert_eq!(refused, [Err(DropReason::UnsupportedFragment)]);
    assert_eq!(received(&mut cluster, reply_frame(&parts[1])), []);
    assert_eq!(cluster.pass(3), 1);
}

#[test]
fn sctp_comes_in_fragments_only_with_its_own_port() {
    let association = |cluster: &mut Cluster, pod| {
        let worker = cluster.worker(5000);
        cluster
            .process(worker, tunnel_frame(&packet(Body::SctpInit, pod, REMOTE_END, 64)))
            .unwrap();
        let data = whole(Body::SctpData, pod, REMOTE_END, 1500);
        cut(&data, 512)
            .into_iter()
            .flat_map(|part| received(cluster, tunnel_frame(&part)))
            .collect()
    };
    let mut cluster = cluster(2);
    let frames: Vec<Outcome> = association(&mut cluster, POD_END);
    let frames: Vec<_> = frames.into_iter().map(Result::unwrap).collect();
    let expected = whole(Body::SctpData, (EGRESS, 5000), REMOTE_END, 1500);
    assert_eq!(essence(&put_together(&frames, 0).0), essence(&expected));
    let refused: Vec<Outcome> = association(&mut cluster, (OTHER_POD, 5000));
    assert_eq!(refused, vec![Err(DropReason::UnsupportedFragment); 3]);
}

#[test]
fn a_first_fragment_at_the_end_of_its_life_is_answered_and_a_later_one_is_not() {
    let mut gateway = Gateway::new();
    let parts = cut(&changed(whole(Body::Udp, POD_END, REMOTE_END, 1500), |b| b[8] = 1), 512);
    let (reason, answer) = gateway.answered(tunnel_frame(&parts[0]));
    assert_eq!(reason, DropReason::TtlExpired);
    assert_eq!(answer.unwrap().1[64 + 20], 11, "time exceeded");
    assert_eq!(gateway.answered(tunnel_frame(&parts[1])), (DropReason::TtlExpired, None));
}

#[test]
fn any_order_of_many_fragments_of_many_packets_is_put_together() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut cluster = cluster(random.pick(&[1, 2, 3, 4]));
        let mut parts = Vec::new();
        for number in 0..20_u16 {
            let from = (random.pick(&[POD, OTHER_POD]), random.pick(&[5000, 5001, 5002]));
            let packet = changed(whole(Body::Udp, from, REMOTE_END, 2000), |b| {
                b[4..6].copy_from_slice(&number.to_be_bytes());
                b[20 + 8] = number.to_le_bytes()[0];
                // The checksum would have to follow.
                b[26..28].fill(0);
            });
            let step = random.pick(&[512, 1024, 1480]);
            parts.extend(cut(&packet, step).into_iter().map(|part| (random.below(1 << 30), part)));
        }
        parts.sort();
        let mut pool: IpDefragPool = IpDefragPool::new();
        let mut whole = std::collections::BTreeSet::new();
        for (_, frame) in sent(&mut cluster, parts.iter().map(|(_, part)| tunnel_frame(part))) {
            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            if let Some(packet) = pool.process_sliced_packet(&sliced, (), ()).unwrap() {
                assert_eq!(packet.payload.len(), 2008);
                whole.insert(packet.payload[8]);
            }
        }
        assert_eq!(whole.len(), 20, "seed {seed}");
        cluster.assert_sums_close();
    }
}
