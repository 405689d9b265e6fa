//! A worker's tap, with frames as steering and the engine make them.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use spillway_engine::steer::{KIND_REPLY, KIND_TUNNEL, TUNNEL_OVERHEAD};

use super::*;

const POD: [u8; 4] = [10, 0, 1, 40];
const EGRESS: [u8; 4] = [192, 168, 2, 3];
const SERVER: [u8; 4] = [203, 0, 113, 10];
const ALL: [bool; 4] = [true; 4];
const SNAPLEN: usize = 128;

/// A frame with UDP between these.
fn frame(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
        .ipv4(source, destination, 64)
        .udp(4000, 53)
        .write(&mut frame, b"question")
        .unwrap();
    frame
}

/// From a pod, as steering gives it.
fn from_pod() -> Vec<u8> {
    let mut bytes = frame(POD, SERVER);
    bytes[..14].copy_from_slice(&[KIND_TUNNEL, 0, 0, 7, 192, 168, 1, 2, 2, 0, 0, 0, 0, 9]);
    bytes
}

/// From outside, as steering gives it.
fn from_outside() -> Vec<u8> {
    let mut bytes = vec![0; TUNNEL_OVERHEAD];
    bytes[0] = KIND_REPLY;
    bytes.extend(frame(SERVER, EGRESS));
    bytes
}

/// A reply as it is sent: VXLAN, of which only the length matters here.
fn to_pod() -> Vec<u8> {
    let mut bytes = vec![0; TUNNEL_OVERHEAD];
    bytes[12] = 8;
    bytes.extend(frame(SERVER, POD));
    bytes
}

fn tap(filter: Filter, points: [bool; 4]) -> Tap {
    Tap::new(Arc::new(Queue::new(SNAPLEN)), Wanted { filter, points }, 3, SNAPLEN)
}

/// What was captured so far, in order: where, and the frame.
fn captured(tap: &Tap) -> Vec<(CapturePoint, Vec<u8>)> {
    let mut seen = Vec::new();
    while tap.queue.take(|captured| {
        assert_eq!(captured.label.worker, 3);
        seen.push((captured.label.point, captured.bytes().to_vec()));
    }) {}
    seen
}

/// A pod's packet and a reply come in one burst, and both leave.
fn converse(tap: &mut Tap) {
    let (asks, answers) = (from_pod(), from_outside());
    tap.arrive(7, [asks.as_slice(), &answers].into_iter());
    for (at, sent) in [(0, frame(EGRESS, SERVER)), (1, to_pod())] {
        tap.turn_to(at);
        let length = u16::try_from(sent.len()).unwrap();
        tap.decide(7, &[&sent[..], &[0; 4]].concat(), Verdict::Transmit { device: 1, length });
    }
}

fn points(captured: &[(CapturePoint, Vec<u8>)]) -> Vec<CapturePoint> {
    captured.iter().map(|(point, _)| *point).collect()
}

use CapturePoint::{Dropped, Received, Sent, Translated};

#[test]
fn each_point_sees_the_frame_as_it_is_there() {
    let mut tap = tap(Filter::default(), ALL);
    converse(&mut tap);
    let captured = captured(&tap);
    assert_eq!(points(&captured), [Received, Received, Translated, Sent, Translated, Sent]);
    let bytes: Vec<&[u8]> = captured.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    // Of the pod's frame the destination is not known.
    assert_eq!(bytes[0][..6], [0; 6]);
    assert_eq!(bytes[0][14..], frame(POD, SERVER)[14..]);
    assert_eq!(bytes[1], frame(SERVER, EGRESS));
    assert_eq!([bytes[2], bytes[3]], [&frame(EGRESS, SERVER)[..]; 2]);
    assert_eq!(bytes[4], frame(SERVER, POD));
    assert_eq!(bytes[5], to_pod());
}

#[test]
fn a_reply_is_known_as_its_pods_also_as_it_came() {
    let of = |pod: [u8; 4]| Filter { pod: Some(IpAddr::from(pod)), ..Filter::default() };
    let mut of_pod = tap(of(POD), ALL);
    converse(&mut of_pod);
    let seen = captured(&of_pod);
    assert_eq!(points(&seen), [Received, Translated, Sent, Received, Translated, Sent]);
    assert_eq!(seen[3].1, frame(SERVER, EGRESS), "kept aside until it left");
    let mut of_other = tap(of([10, 0, 1, 41]), ALL);
    converse(&mut of_other);
    assert!(captured(&of_other).is_empty());
}

#[test]
fn only_the_points_that_are_wanted_are_seen() {
    for (points_wanted, expected) in [
        ([true, false, false, false], vec![Received; 2]),
        ([false, true, false, false], vec![Translated; 2]),
        ([false, false, true, false], vec![Sent; 2]),
        ([false, false, false, true], vec![]),
    ] {
        let mut tap = tap(Filter::default(), points_wanted);
        converse(&mut tap);
        assert_eq!(points(&captured(&tap)), expected);
    }
}

#[test]
fn a_drop_is_seen_as_the_frame_came_and_by_its_reason() {
    for (drop_reason, expected) in [
        (None, vec![Received, Dropped]),
        (Some(DropReason::NoRoute), vec![Received, Dropped]),
        (Some(DropReason::NoFlow), vec![Received]),
    ] {
        let mut tap = tap(Filter { drop_reason, ..Filter::default() }, ALL);
        let frame = from_pod();
        tap.arrive(7, [frame.as_slice()].into_iter());
        tap.turn_to(0);
        tap.decide(7, &frame, Verdict::Drop(DropReason::NoRoute));
        let captured = captured(&tap);
        assert_eq!(points(&captured), expected);
        assert!(captured.iter().all(|(_, bytes)| *bytes == captured[0].1));
    }
}

#[test]
fn what_its_sender_is_told_is_seen_with_it() {
    let host = Some(IpAddr::from(POD));
    let mut tap = tap(Filter { host, ..Filter::default() }, ALL);
    let bytes = from_pod();
    tap.arrive(7, [bytes.as_slice()].into_iter());
    tap.turn_to(0);
    tap.decide(7, &bytes, Verdict::Drop(DropReason::TtlExpired));
    // The error goes back through the tunnel.
    tap.answer(7, &to_pod(), 0);
    // And an announcement is of no packet.
    tap.own();
    tap.send(7, &frame(EGRESS, EGRESS), 0);
    assert_eq!(points(&captured(&tap)), [Received, Dropped, Translated, Sent]);
}

#[test]
fn one_packet_has_one_number_everywhere() {
    let mut tap = tap(Filter::default(), ALL);
    converse(&mut tap);
    let mut numbers = Vec::new();
    while tap.queue.take(|captured| numbers.push(captured.label.number)) {}
    let [asks, answers, ..] = numbers[..] else { panic!("{numbers:?}") };
    assert_ne!(asks, answers);
    assert_eq!(numbers[2..], [asks, asks, answers, answers]);
    tap.again(&from_pod());
    tap.send(8, &frame(EGRESS, SERVER), 0);
    while tap.queue.take(|captured| assert!(!numbers.contains(&captured.label.number))) {}
}

#[test]
fn frames_that_are_no_packets_do_no_harm() {
    for length in 0..80 {
        for kind in [0, KIND_TUNNEL, KIND_REPLY, 0x3f] {
            let mut bytes = vec![0x45; length];
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let host = Some(IpAddr::from(POD));
            for filter in [Filter::default(), Filter { host, ..Filter::default() }] {
                let mut tap = tap(filter, ALL);
                tap.arrive(7, [bytes.as_slice()].into_iter());
                tap.turn_to(0);
                tap.decide(7, &bytes, Verdict::Transmit { device: 0, length: u16::MAX });
                tap.decide(7, &bytes, Verdict::Drop(DropReason::Truncated));
                assert!(captured(&tap).iter().all(|(_, bytes)| bytes.len() >= 14));
            }
        }
    }
}
