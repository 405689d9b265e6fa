//! Tunnels over IPv6: what their outer headers are, and the room that replies get for them. What is
//! inside of a tunnel is looked at by the same code as over IPv4.

use std::net::Ipv6Addr;

use spillway_xdp::steering::Unclassified;

use crate::frames::*;
use crate::rig::*;
use crate::{BOTH, SteerOutcome::*, check, owner};

const STRANGER_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 1);

const FAMILY_6: u8 = 0x20;
const UNDERLAY_6: u8 = 0x10;

/// Outer Ethernet, IPv6, UDP and VXLAN headers, in bytes.
const OVERHEAD: usize = 70;
/// Where parts of a tunnel frame start.
const OUTER_UDP: usize = BEHIND_IPV6;
const VXLAN_6: usize = OUTER_UDP + 8;
const INNER_ETH_6: usize = OVERHEAD;
const INNER_IP_6: usize = INNER_ETH_6 + 14;

fn rig(unclassified: Unclassified, workers: &[u8]) -> Rig {
    let mut rig = Rig::new(unclassified, workers);
    rig.steering.apply(&tables_over_ipv6()).unwrap();
    rig
}

fn tunnel(inner: &[u8]) -> Vec<u8> {
    tunnel_from(PEER_6, TUNNEL_6, inner)
}

/// A selected pod to a covered destination.
fn valid() -> Vec<u8> {
    tunnel(&tcp((POD, 40_001), (REMOTE, 443)))
}

#[test]
fn a_selected_pods_frame_is_stripped_and_labelled_with_its_peers_key() {
    let rig = rig(Unclassified::Drop, BOTH);
    let both = [(valid(), 0), (tunnel(&tcp((POD_6, 40_001), (REMOTE_6, 443))), FAMILY_6)];
    for (frame, family) in both {
        // Outer ECN "congestion experienced", beside a flow label.
        let frame = with(frame, OUTER_IP, &[0x60, 0x35, 0x43, 0x21]);
        let run = rig.run(&frame);
        assert_eq!((run.action, run.outcome), (XDP_REDIRECT, SteerTunnel));
        let mut header = vec![1 | UNDERLAY_6 | family | 3 << 6];
        header.extend(VNI);
        header.extend(PEER_KEY.octets());
        header.extend(INNER_SOURCE_MAC);
        assert_eq!(run.bytes[..14], header);
        assert_eq!(run.bytes[14..], frame[INNER_IP_6..]);
    }
}

#[test]
fn a_reply_gets_room_for_ipv6_in_front() {
    let rig = rig(Unclassified::Drop, BOTH);
    let both = [
        (tcp((REMOTE, 443), (OWN, 40_001)), 0),
        (tcp((REMOTE_6, 443), (OWN_6, 40_001)), FAMILY_6),
        (udp((REMOTE_6, 53), (TUNNEL_6, 20_000), b"to a tunnel address"), FAMILY_6),
    ];
    for (frame, family) in both {
        let run = rig.run(&frame);
        assert_eq!((run.action, run.outcome), (XDP_REDIRECT, SteerReply));
        assert_eq!(run.bytes.len(), frame.len() + OVERHEAD);
        let first = 2 | UNDERLAY_6 | family;
        assert_eq!(run.bytes[..14], [first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(run.bytes[OVERHEAD..], frame);
    }
}

#[test]
fn questions_are_answered_where_they_stand() {
    let rig = rig(Unclassified::Drop, BOTH);
    let questions = [
        (arp(REMOTE, ANNOUNCED), SteerArp, 3),
        (echo(REMOTE, ANNOUNCED, 7, false), SteerPing, 4),
        (echo(REMOTE_6, ANNOUNCED_6, 7, false), SteerPing, 4 | FAMILY_6),
        (solicitation(REMOTE_6, ANNOUNCED_6), SteerNeighbour, 5 | FAMILY_6),
    ];
    for (question, outcome, kind) in questions {
        let run = rig.run(&question);
        assert_eq!((run.outcome, run.bytes[0]), (outcome, kind));
        assert_eq!(run.bytes[14..], question[14..]);
    }
}

#[test]
fn tunnel_frames_that_are_not_ours_pass_untouched() {
    let rig = rig(Unclassified::Drop, BOTH);
    let pod = (POD, 40_001);
    let inner = tcp(pod, (REMOTE, 443));
    let foreign = tcp((crate::STRANGER, 1), (REMOTE, 443));
    check(
        &rig,
        vec![
            ("wrong port", with(valid(), OUTER_UDP + 2, &[0x12, 0xb5]), PassHost),
            ("TCP to the tunnel port", tcp((PEER_6, 50_000), (TUNNEL_6, 8472)), PassHost),
            ("not our address", tunnel_from(PEER_6, STRANGER_6, &inner), PassOther),
            ("foreign pod", tunnel(&foreign), PassTunnelOther),
            ("inner ARP", with(valid(), INNER_ETH_6 + 12, &[8, 6]), PassTunnelOther),
            ("excluded", tunnel(&tcp(pod, (EXCLUDED, 443))), PassNotCovered),
            ("not covered, IPv6", tunnel(&tcp((POD_6, 1), (STRANGER_6, 443))), PassNotCovered),
            (
                "unknown peer, foreign pod",
                tunnel_from(STRANGER_6, TUNNEL_6, &foreign),
                PassTunnelOther,
            ),
            ("a later outer fragment", with_fragment(valid(), (10, false), 7), PassHost),
            ("through a tunnel over IPv4", crate::frames::valid(), PassHost),
            (
                "headers not followed, to no tunnel",
                with_routing(tcp((REMOTE_6, 443), (OWN_6, 40_001)), 1),
                SteerReply,
            ),
        ],
    );
}

#[test]
fn what_could_leak_is_dropped_by_name() {
    let rig = rig(Unclassified::Drop, BOTH);
    let inner = tcp((POD, 40_001), (REMOTE, 443));
    let many = (0..7).fold(valid(), |frame, _| with_options_of(frame, 8));
    check(
        &rig,
        vec![
            ("unknown peer", tunnel_from(STRANGER_6, TUNNEL_6, &inner), DropUnknownPeer),
            ("peer of another", tunnel_from(PEER_6, OTHER_TUNNEL_6, &inner), DropUnknownPeer),
            ("no I flag", with(valid(), VXLAN_6, &[0]), DropNoVni),
            ("first outer fragment", with_fragment(valid(), (0, true), 7), DropOuterFragment),
            ("the only outer fragment", with_fragment(valid(), (0, false), 7), DropOuterFragment),
            ("outer options", with_options_of(valid(), 8), DropOuterOptions),
            (
                "outer options of a stranger",
                with_options_of(tunnel_from(STRANGER_6, TUNNEL_6, &inner), 8),
                DropOuterOptions,
            ),
            ("more headers than are followed", many, DropOuterOptions),
            ("segments left", with_routing(valid(), 1), DropOuterOptions),
            ("outer VLAN", tagged(valid(), 0), DropOuterVlan),
            ("inner VLAN", tagged(valid(), INNER_ETH_6), DropInnerVlan),
            ("inner version 5", with(valid(), INNER_IP_6, &[0x55]), DropInnerTruncated),
        ],
    );
}

#[test]
fn the_operator_may_let_unclassified_frames_pass() {
    let rig = rig(Unclassified::Pass, BOTH);
    let unknown = tunnel_from(STRANGER_6, TUNNEL_6, &tcp((POD, 40_001), (REMOTE, 443)));
    check(
        &rig,
        vec![
            ("outer options", with_options_of(valid(), 8), PassUnclassified),
            ("outer fragment", with_fragment(valid(), (0, true), 7), PassUnclassified),
            ("outer VLAN", tagged(valid(), 0), PassUnclassified),
            ("unknown peer", unknown, DropUnknownPeer),
        ],
    );
}

#[test]
fn a_frame_that_is_cut_off_anywhere_does_not_leak() {
    let rig = rig(Unclassified::Drop, BOTH);
    let frame = valid();
    for length in 14..frame.len() {
        let run = rig.run(&frame[..length]);
        let expected = match length {
            14..54 => (XDP_PASS, PassOther),
            // Without a whole UDP port it is a packet to the host, cut off.
            54..58 => (XDP_PASS, PassHost),
            58..104 => (XDP_DROP, DropInnerTruncated),
            _ => (XDP_REDIRECT, SteerTunnel),
        };
        assert_eq!((run.action, run.outcome), expected, "{length} bytes");
    }
}

#[test]
fn the_owner_is_that_of_the_inner_port() {
    let (zero, one) = (rig(Unclassified::Drop, &[0]), rig(Unclassified::Drop, &[1]));
    for port in (1024..=u16::MAX).step_by(997) {
        let frames = [
            (tunnel(&tcp((POD, port), (REMOTE, 443))), SteerTunnel),
            (tunnel(&tcp((POD_6, port), (REMOTE_6, 443))), SteerTunnel),
            (tcp((REMOTE, 443), (OWN, port)), SteerReply),
        ];
        for (frame, steered) in frames {
            for (worker, rig) in [(0, &zero), (1, &one)] {
                let expected = if owner(port) == worker { steered } else { DropNoSocket };
                assert_eq!(rig.run(&frame).outcome, expected, "port {port}, worker {worker}");
            }
        }
    }
}

#[test]
fn the_underlay_changes_while_the_program_runs() {
    let mut rig = Rig::new(Unclassified::Drop, BOTH);
    let reply = tcp((REMOTE, 443), (OWN, 40_001));
    let opened = |rig: &Rig| rig.run(&reply).bytes.len() - reply.len();
    let outcomes =
        |rig: &Rig| [crate::frames::valid(), valid()].map(|frame| rig.run(&frame).outcome);
    for _ in 0..2 {
        rig.steering.apply(&tables()).unwrap();
        assert_eq!((opened(&rig), outcomes(&rig)), (50, [SteerTunnel, PassHost]));
        rig.steering.apply(&tables_over_ipv6()).unwrap();
        assert_eq!((opened(&rig), outcomes(&rig)), (OVERHEAD, [PassHost, SteerTunnel]));
    }
    // A peer gets another key.
    let mut changed = tables_over_ipv6();
    changed.peers.values_mut().for_each(|peer| peer.key = std::net::Ipv4Addr::new(0, 0, 0, 9));
    rig.steering.apply(&changed).unwrap();
    assert_eq!(rig.run(&valid()).bytes[4..8], [0, 0, 0, 9]);
}
