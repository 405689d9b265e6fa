//! The steering program, frame by frame: a valid frame, and one mutation per case. Needs root.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "these are tests")]

mod coverage;
mod extensions;
mod frames;
mod ipv6;
mod lifecycle;
mod rig;
mod trial;
mod underlay;

use std::net::Ipv4Addr;

use frames::*;
use rig::*;
use spillway_xdp::steering::{SteerOutcome, SteerTables, SteeringConfig, Unclassified, Verdict};

use SteerOutcome::*;

const BOTH: &[u8] = &[0, 1];
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// The worker that owns a port, by the formula that the engine has too.
fn owner(port: u16) -> u8 {
    ((port.wrapping_mul(0x9e37) >> 8) % 256 % u16::from(WORKERS)) as u8
}

/// Runs every case and says which ones fail.
fn check(rig: &Rig, cases: Vec<(&str, Vec<u8>, SteerOutcome)>) {
    let mut wrong = Vec::new();
    for (what, frame, expected) in cases {
        let run = rig.run(&frame);
        let as_it_should = match expected.verdict() {
            Verdict::Pass => run.action == XDP_PASS && run.bytes == frame,
            Verdict::Steer => run.action == XDP_REDIRECT,
            Verdict::Drop => run.action == XDP_DROP,
        };
        if run.outcome != expected || !as_it_should {
            wrong.push(format!("{what}: {:?}, action {}", run.outcome, run.action));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_selected_pods_frame_is_stripped_and_labelled() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    // Outer ECN "congestion experienced".
    let frame = with(valid(), OUTER_IP + 1, &[3]);
    let run = rig.run(&frame);
    assert_eq!((run.action, run.outcome), (XDP_REDIRECT, SteerTunnel));
    let mut header = vec![1 | 3 << 6];
    header.extend(VNI);
    header.extend(PEER.octets());
    header.extend(INNER_SOURCE_MAC);
    assert_eq!(run.bytes[..14], header);
    assert_eq!(run.bytes[14..], frame[INNER_IP..]);
}

#[test]
fn a_reply_gets_room_in_front_and_a_label() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let frame = tcp((REMOTE, 443), (OWN, 40_001));
    let run = rig.run(&frame);
    assert_eq!((run.action, run.outcome), (XDP_REDIRECT, SteerReply));
    assert_eq!(run.bytes.len(), frame.len() + 50);
    assert_eq!(run.bytes[..14], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(run.bytes[50..], frame);
}

#[test]
fn tunnel_frames_that_are_not_ours_pass_untouched() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let pod = (POD, 40_001);
    let inner = tcp(pod, (REMOTE, 443));
    check(
        &rig,
        vec![
            ("wrong port", with(valid(), OUTER_IP + 22, &[0x12, 0xb5]), PassHost),
            ("not our address", tunnel_from(PEER, STRANGER, &inner), PassOther),
            ("foreign pod", tunnel(&tcp((STRANGER, 1), (REMOTE, 443))), PassTunnelOther),
            ("an inner protocol of no interest", with(valid(), INNER_ETH + 12, &[0x88, 0x47]), {
                PassTunnelOther
            }),
            ("inner ARP", with(valid(), INNER_ETH + 12, &[8, 6]), PassTunnelOther),
            ("excluded", tunnel(&tcp(pod, (EXCLUDED, 443))), PassNotCovered),
            ("not covered", tunnel(&tcp(pod, (STRANGER, 443))), PassNotCovered),
            (
                "unknown peer, foreign pod",
                { tunnel_from(STRANGER, TUNNEL, &tcp((STRANGER, 1), (REMOTE, 443))) },
                PassTunnelOther,
            ),
            ("a later outer fragment", with(valid(), OUTER_IP + 6, &[0, 10]), PassHost),
        ],
    );
}

#[test]
fn what_could_leak_is_dropped_by_name() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let inner = tcp((POD, 40_001), (REMOTE, 443));
    let twice = tagged(tagged(valid(), 0), 0);
    check(
        &rig,
        vec![
            ("unknown peer", tunnel_from(STRANGER, TUNNEL, &inner), DropUnknownPeer),
            ("peer of another", tunnel_from(PEER, OTHER_TUNNEL, &inner), DropUnknownPeer),
            ("no I flag", with(valid(), VXLAN, &[0]), DropNoVni),
            ("first outer fragment", with(valid(), OUTER_IP + 6, &[0x20, 0]), DropOuterFragment),
            ("outer options", with_options(valid(), OUTER_IP), DropOuterOptions),
            ("outer VLAN", tagged(valid(), 0), DropOuterVlan),
            ("two outer VLANs", twice, DropOuterVlan),
            ("inner VLAN", tagged(valid(), INNER_ETH), DropInnerVlan),
            ("inner version 5", with(valid(), INNER_IP, &[0x55]), DropInnerTruncated),
        ],
    );
}

#[test]
fn what_a_selected_pod_sends_is_never_left_to_the_kernel() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let quoted = tcp((REMOTE, 443), (POD, 40_001));
    check(
        &rig,
        vec![
            ("UDP", tunnel(&udp((POD, 5), (REMOTE, 53), b"?")), SteerTunnel),
            ("ping", tunnel(&echo(POD, REMOTE, 7, false)), SteerTunnel),
            ("echo reply", tunnel(&echo(POD, REMOTE, 7, true)), SteerTunnel),
            ("GRE", tunnel(&ip(POD, REMOTE, 47, b"gre")), SteerTunnel),
            ("nothing behind IPv4", tunnel(&ip(POD, REMOTE, 6, b"")), SteerTunnel),
            ("first fragment", with(valid(), INNER_IP + 6, &[0x20, 0]), SteerTunnel),
            ("later fragment", with(valid(), INNER_IP + 6, &[0, 10]), SteerTunnel),
            ("options", with_options(valid(), INNER_IP), SteerTunnel),
            ("ICMP error", tunnel(&icmp_error(POD, REMOTE, &quoted)), SteerTunnel),
        ],
    );
}

#[test]
fn a_frame_that_is_cut_off_anywhere_does_not_leak() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let frame = valid();
    for length in 14..frame.len() {
        let run = rig.run(&frame[..length]);
        let expected = match length {
            // Too short to be anybody's: the kernel drops it.
            14..34 => (XDP_PASS, PassOther),
            // Without a whole UDP port it is a packet to the host, cut off.
            34..38 => (XDP_PASS, PassHost),
            38..84 => (XDP_DROP, DropInnerTruncated),
            _ => (XDP_REDIRECT, SteerTunnel),
        };
        assert_eq!((run.action, run.outcome), expected, "{length} bytes");
    }
    check_cut_off(&rig, &tcp((REMOTE, 443), (OWN, 40_001)), 34);
}

/// A reply that ends anywhere is ours as soon as its ports are there, behind `headers` bytes, and
/// nobody's before its addresses are.
fn check_cut_off(rig: &Rig, frame: &[u8], headers: usize) {
    for length in 14..frame.len() {
        let run = rig.run(&frame[..length]);
        let expected = match length.checked_sub(headers) {
            None => PassOther,
            Some(..4) => PassHost,
            Some(_) => SteerReply,
        };
        assert_eq!(run.outcome, expected, "{length} bytes");
    }
}

#[test]
fn fragments_to_a_shared_address_follow_their_first_one() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let fragment = |identification: u8, port, place: &[u8]| {
        let frame = udp((REMOTE, 53), (TUNNEL, port), b"part of an answer");
        with(with(frame, 18, &[0, identification]), 20, place)
    };
    let (first, later, ours, host) = (&[0x20, 0], &[0, 10], 20_000, 2_000);
    check(
        &rig,
        vec![
            ("later, nothing known", fragment(1, ours, later), PassHost),
            ("first of ours", fragment(1, ours, first), SteerReply),
            ("later of ours", fragment(1, ours, later), SteerReply),
            ("later, though it looks like the host's", fragment(1, host, later), SteerReply),
            ("later of another packet", fragment(2, ours, later), PassHost),
            ("later of another protocol", with(fragment(1, ours, later), 23, &[6]), PassHost),
            ("first of the host's", fragment(2, host, first), PassHost),
            ("later of the host's", fragment(2, ours, later), PassHost),
            ("first of the host's, as ours was", fragment(1, host, first), PassHost),
            ("later of the host's, as ours was", fragment(1, ours, later), PassHost),
        ],
    );
}

#[test]
fn all_fragments_have_the_owner_of_port_0() {
    let port = (40_000..).find(|port| owner(*port) != owner(0)).unwrap();
    let shared = (20_000..).find(|port| owner(*port) != owner(0)).unwrap();
    let rig = Rig::new(Unclassified::Drop, &[owner(0)]);
    for place in [&[0x20, 0], &[0, 10]] {
        let to = |address, port| with(udp((REMOTE, 53), (address, port), b"part"), 20, place);
        let of_pod = with(tunnel(&udp((POD, port), (REMOTE, 53), b"part")), INNER_IP + 6, place);
        let cases = vec![
            ("pod's", of_pod, SteerTunnel),
            ("to our own", to(OWN, port), SteerReply),
            ("to a shared one", to(TUNNEL, shared), SteerReply),
        ];
        check(&rig, cases);
    }
}

/// The first bytes of SCTP.
fn sctp(source: u16, destination: u16) -> Vec<u8> {
    let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    header.resize(16, 0);
    header
}

#[test]
fn replies_are_ours_by_address_and_port() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let sent = |address, port| tcp((address, port), (REMOTE, 443));
    let ping = |address, id| echo(address, REMOTE, id, false);
    check(
        &rig,
        vec![
            ("own, first port", tcp((REMOTE, 443), (OWN, 1024)), SteerReply),
            ("own, low port", tcp((REMOTE, 443), (OWN, 1023)), PassHost),
            ("shared, in range", udp((REMOTE, 53), (TUNNEL, 16_384), b"!"), SteerReply),
            ("shared, last", udp((REMOTE, 53), (TUNNEL, 29_999), b"!"), SteerReply),
            ("shared, below", udp((REMOTE, 53), (TUNNEL, 16_383), b"!"), PassHost),
            ("shared, above", udp((REMOTE, 53), (TUNNEL, 30_000), b"!"), PassHost),
            ("echo reply", echo(REMOTE, OWN, 2000, true), SteerReply),
            ("echo reply, host's id", echo(REMOTE, TUNNEL, 2000, true), PassHost),
            ("echo request", echo(REMOTE, OWN, 2000, false), PassHost),
            ("error on ours", icmp_error(STRANGER, OWN, &sent(OWN, 40_001)), SteerReply),
            ("error on our ping", icmp_error(STRANGER, OWN, &ping(OWN, 2000)), SteerReply),
            ("error on the host's", icmp_error(STRANGER, TUNNEL, &sent(TUNNEL, 40_001)), PassHost),
            ("error on another's", icmp_error(STRANGER, OWN, &sent(STRANGER, 40_001)), PassHost),
            ("own, fragment", with(tcp((REMOTE, 1), (OWN, 2000)), 20, &[0, 10]), SteerReply),
            ("shared, fragment", with(tcp((REMOTE, 1), (TUNNEL, 20_000)), 20, &[0, 10]), PassHost),
            ("own, GRE", ip(REMOTE, OWN, 47, b"gre"), SteerReply),
            (
                "own, error on GRE",
                icmp_error(STRANGER, OWN, &ip(OWN, REMOTE, 47, b"gre head")),
                SteerReply,
            ),
            (
                "shared, error on GRE",
                icmp_error(STRANGER, TUNNEL, &ip(TUNNEL, REMOTE, 47, b"gre head")),
                PassHost,
            ),
            ("shared, SCTP in range", ip(REMOTE, TUNNEL, 132, &sctp(2905, 20_000)), SteerReply),
            ("shared, SCTP above", ip(REMOTE, TUNNEL, 132, &sctp(2905, 30_000)), PassHost),
            ("shared, GRE", ip(REMOTE, TUNNEL, 47, b"gre"), PassHost),
            ("options", with_options(tcp((REMOTE, 443), (OWN, 40_001)), OUTER_IP), SteerReply),
            ("VLAN", tagged(tcp((REMOTE, 443), (OWN, 40_001)), 0), PassOther),
            ("another address", tcp((REMOTE, 443), (STRANGER, 40_001)), PassOther),
            ("IPv6", with(tcp((REMOTE, 443), (OWN, 40_001)), 12, &[0x86, 0xdd]), PassOther),
        ],
    );
}

#[test]
fn arp_requests_for_what_is_announced_on_this_device_are_ours() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let request = arp(REMOTE, ANNOUNCED);
    let (hardware, protocol, lengths, operation) = (14, 16, 18, 20);
    check(
        &rig,
        vec![
            ("a request", request.clone(), SteerArp),
            ("a probe", arp(Ipv4Addr::UNSPECIFIED, ANNOUNCED), SteerArp),
            ("padded", [request.clone(), vec![0; 18]].concat(), SteerArp),
            ("for one announced elsewhere", arp(REMOTE, ANNOUNCED_ELSEWHERE), PassOther),
            ("for one that the host has", arp(REMOTE, OWN), PassOther),
            ("for another", arp(REMOTE, STRANGER), PassOther),
            ("about one that is announced", arp(ANNOUNCED, STRANGER), PassOther),
            ("a reply", with(request.clone(), operation, &[0, 2]), PassOther),
            ("of another hardware", with(request.clone(), hardware, &[0, 6]), PassOther),
            ("of another protocol", with(request.clone(), protocol, &[0x86, 0xdd]), PassOther),
            ("of other lengths", with(request.clone(), lengths, &[8, 4]), PassOther),
            ("of other lengths too", with(request.clone(), lengths, &[6, 16]), PassOther),
            ("cut off", request[..41].to_vec(), PassOther),
            ("VLAN", tagged(request.clone(), 0), PassOther),
        ],
    );
    let run = rig.run(&request);
    let mut header = vec![3, 0, 0, 0, 0, 0, 0, 0];
    header.extend(INNER_SOURCE_MAC);
    assert_eq!(run.bytes, [&header, &request[14..]].concat());
    let zero = Rig::new(Unclassified::Drop, &[owner(0)]);
    assert_eq!(zero.run(&request).outcome, SteerArp, "the worker of port 0 has it");
    let other = Rig::new(Unclassified::Drop, &[1 - owner(0)]);
    assert_eq!(other.run(&request).outcome, DropNoSocket);
}

#[test]
fn nothing_to_an_announced_address_is_the_hosts() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let sent = tcp((STRANGER, 40_001), (REMOTE, 443));
    let ping = echo(REMOTE, ANNOUNCED, 2000, false);
    check(
        &rig,
        vec![
            ("a ping", ping.clone(), SteerPing),
            ("a ping, low identifier", echo(REMOTE, ANNOUNCED, 7, false), SteerPing),
            (
                "a ping through another device",
                echo(REMOTE, ANNOUNCED_ELSEWHERE, 7, false),
                SteerPing,
            ),
            ("a ping with VLAN", tagged(ping.clone(), 0), PassOther),
            ("an answer to a ping", echo(REMOTE, ANNOUNCED, 2000, true), SteerReply),
            ("a fragment of a ping", with(ping.clone(), 20, &[0x20, 0]), SteerReply),
            ("TCP, low port", tcp((REMOTE, 443), (ANNOUNCED, 22)), SteerReply),
            ("TCP", tcp((REMOTE, 443), (ANNOUNCED, 40_001)), SteerReply),
            ("another's error", icmp_error(REMOTE, ANNOUNCED, &sent), SteerReply),
            ("GRE", ip(REMOTE, ANNOUNCED, 47, b"gre"), SteerReply),
        ],
    );
    let run = rig.run(&ping);
    let mut header = vec![4, 0, 0, 0, 0, 0, 0, 0];
    header.extend(INNER_SOURCE_MAC);
    assert_eq!(run.bytes, [&header, &ping[14..]].concat());
    let (zero, one) = (Rig::new(Unclassified::Drop, &[0]), Rig::new(Unclassified::Drop, &[1]));
    for identifier in (0..=u16::MAX).step_by(997) {
        let ping = echo(REMOTE, ANNOUNCED, identifier, false);
        for (worker, rig) in [(0, &zero), (1, &one)] {
            let expected = if owner(identifier) == worker { SteerPing } else { DropNoSocket };
            assert_eq!(rig.run(&ping).outcome, expected, "identifier {identifier}");
        }
    }
}

#[test]
fn ports_in_a_row_have_one_owner_where_the_mask_says_so() {
    let config = SteeringConfig { port_mask: !63, ..config(Unclassified::Drop, "/nonexistent") };
    let (zero, one) = (Rig::configured(&config, &[0]), Rig::configured(&config, &[1]));
    let mut seen = [0; WORKERS as usize];
    for port in (1024..=u16::MAX).step_by(331) {
        let owner = owner(port / 64 * 64);
        seen[usize::from(owner)] += 1;
        let out = tunnel(&tcp((POD, port), (REMOTE, 443)));
        let back = tcp((REMOTE, 443), (OWN, port));
        for (frame, steered) in [(out, SteerTunnel), (back, SteerReply)] {
            for (worker, rig) in [(0, &zero), (1, &one)] {
                let expected = if owner == worker { steered } else { DropNoSocket };
                assert_eq!(rig.run(&frame).outcome, expected, "port {port}, worker {worker}");
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
}

#[test]
fn both_directions_have_the_same_owner() {
    let (zero, one) = (Rig::new(Unclassified::Drop, &[0]), Rig::new(Unclassified::Drop, &[1]));
    let mut seen = [0; WORKERS as usize];
    for port in (1024..=u16::MAX).step_by(997) {
        let pinged = echo(REMOTE, POD, port, true);
        let sent = tcp((OWN, port), (REMOTE, 443));
        let frames = [
            (tunnel(&tcp((POD, port), (REMOTE, 443))), SteerTunnel),
            (tunnel(&echo(POD, REMOTE, port, false)), SteerTunnel),
            (tunnel(&icmp_error(POD, REMOTE, &tcp((REMOTE, 443), (POD, port)))), SteerTunnel),
            (tunnel(&icmp_error(POD, REMOTE, &pinged)), SteerTunnel),
            (tcp((REMOTE, 443), (OWN, port)), SteerReply),
            (tunnel(&ip(POD, REMOTE, 132, &sctp(port, 2905))), SteerTunnel),
            (ip(REMOTE, OWN, 132, &sctp(2905, port)), SteerReply),
            (echo(REMOTE, OWN, port, true), SteerReply),
            (icmp_error(STRANGER, OWN, &sent), SteerReply),
        ];
        for (frame, steered) in frames {
            for (worker, rig) in [(0, &zero), (1, &one)] {
                let expected = if owner(port) == worker { steered } else { DropNoSocket };
                assert_eq!(rig.run(&frame).outcome, expected, "port {port}, worker {worker}");
            }
        }
        seen[usize::from(owner(port))] += 1;
    }
    assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
}

#[test]
fn the_operator_may_let_unclassified_frames_pass() {
    let rig = Rig::new(Unclassified::Pass, BOTH);
    check(
        &rig,
        vec![
            ("outer options", with_options(valid(), OUTER_IP), PassUnclassified),
            ("inner VLAN", tagged(valid(), INNER_ETH), PassUnclassified),
            (
                "unknown peer",
                { tunnel_from(STRANGER, TUNNEL, &tcp((POD, 40_001), (REMOTE, 443))) },
                DropUnknownPeer,
            ),
        ],
    );
}

#[test]
fn without_a_socket_what_is_ours_is_dropped_and_the_rest_passes() {
    let rig = Rig::new(Unclassified::Drop, &[]);
    check(
        &rig,
        vec![
            ("tunnel", valid(), DropNoSocket),
            ("reply", tcp((REMOTE, 443), (OWN, 40_001)), DropNoSocket),
            ("foreign pod", tunnel(&tcp((STRANGER, 1), (REMOTE, 443))), PassTunnelOther),
        ],
    );
}

/// The kernel gives up at a million; older ones look at more of a program than newer ones.
#[test]
fn the_verifier_is_far_from_its_limit() {
    let rig = Rig::new(Unclassified::Drop, &[]);
    let instructions = verified_instructions(&rig.steering);
    assert!((1_000..50_000).contains(&instructions), "{instructions} instructions");
}

#[test]
fn tables_change_while_the_program_runs() {
    let mut rig = Rig::new(Unclassified::Drop, BOTH);
    let mut changed = tables();
    changed.v4.sets = vec![vec![("198.51.100.0/24".parse().unwrap(), true)]];
    rig.steering.apply(&changed).unwrap();
    assert_eq!(rig.run(&valid()).outcome, PassNotCovered);
    let other = tunnel(&tcp((POD, 40_001), (STRANGER, 443)));
    assert_eq!(rig.run(&other).outcome, SteerTunnel);
    rig.steering.apply(&SteerTables::default()).unwrap();
    assert_eq!(rig.run(&other).outcome, PassOther);
    rig.steering.apply(&tables()).unwrap();
    assert_eq!(rig.run(&valid()).outcome, SteerTunnel);
}
