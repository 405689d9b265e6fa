//! What is IPv6's own, or could go another way than with IPv4: inside the IPv4 tunnel, to egress
//! addresses, and with extension headers.

use std::net::Ipv6Addr;

use spillway_xdp::steering::Unclassified;

use crate::frames::*;
use crate::rig::*;
use crate::{BOTH, SteerOutcome::*, check, check_cut_off, owner, sctp};

const STRANGER_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 1);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x11);

const FAMILY_6: u8 = 0x20;

#[test]
fn a_selected_pods_frame_is_stripped_and_labelled() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let frame = with(valid_ipv6(), OUTER_IP + 1, &[3]);
    let run = rig.run(&frame);
    assert_eq!((run.action, run.outcome), (XDP_REDIRECT, SteerTunnel));
    let mut header = vec![1 | FAMILY_6 | 3 << 6];
    header.extend(VNI);
    header.extend(PEER.octets());
    header.extend(INNER_SOURCE_MAC);
    assert_eq!(run.bytes[..14], header);
    assert_eq!(run.bytes[14..], frame[INNER_IP..]);
}

#[test]
fn a_reply_gets_room_in_front_and_a_label() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    // ECN "congestion experienced": the low bits of the traffic class.
    let frame = with(tcp((REMOTE_6, 443), (OWN_6, 40_001)), 14, &[0x60, 0x30]);
    let run = rig.run(&frame);
    assert_eq!((run.action, run.outcome), (XDP_REDIRECT, SteerReply));
    assert_eq!(run.bytes.len(), frame.len() + 50);
    assert_eq!(run.bytes[..14], [2 | FAMILY_6 | 3 << 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(run.bytes[50..], frame);
}

#[test]
fn tunnel_frames_that_are_not_ours_pass_untouched() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let pod = (POD_6, 40_001);
    let group = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 1);
    let mut all = tables();
    all.v6.sets = vec![vec![("::/0".parse().unwrap(), true)]];
    check(
        &rig,
        vec![
            ("foreign pod", tunnel(&tcp((STRANGER_6, 1), (REMOTE_6, 443))), PassTunnelOther),
            ("solicitation", tunnel(&solicitation(LINK_LOCAL, POD_6)), PassTunnelOther),
            ("excluded", tunnel(&tcp(pod, (EXCLUDED_6, 443))), PassNotCovered),
            ("not covered", tunnel(&tcp(pod, (STRANGER_6, 443))), PassNotCovered),
            ("not covered, extended", tunnel(&with_routing(tcp(pod, (STRANGER_6, 1)), 1)), {
                PassNotCovered
            }),
            (
                "unknown peer, foreign pod",
                { tunnel_from(crate::STRANGER, TUNNEL, &tcp((STRANGER_6, 1), (REMOTE_6, 443))) },
                PassTunnelOther,
            ),
        ],
    );
    let mut rig = rig;
    rig.steering.apply(&all).unwrap();
    check(
        &rig,
        vec![
            ("anywhere", tunnel(&tcp(pod, (STRANGER_6, 443))), SteerTunnel),
            ("multicast", tunnel(&udp(pod, (group, 443), b"")), PassNotCovered),
            ("link-local", tunnel(&tcp(pod, (LINK_LOCAL, 443))), PassNotCovered),
            ("solicits", tunnel(&solicitation(POD_6, STRANGER_6)), PassNotCovered),
        ],
    );
}

#[test]
fn what_a_selected_pod_sends_is_never_left_to_the_kernel() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let inner = tcp((POD_6, 40_001), (REMOTE_6, 443));
    let quoted = tcp((REMOTE_6, 443), (POD_6, 40_001));
    let ext = |frame: Vec<u8>| tunnel(&frame);
    check(
        &rig,
        vec![
            ("unknown peer", tunnel_from(crate::STRANGER, TUNNEL, &inner), DropUnknownPeer),
            ("inner VLAN", tagged(valid_ipv6(), INNER_ETH), DropInnerVlan),
            ("inner version 5", with(valid_ipv6(), INNER_IP, &[0x50]), DropInnerTruncated),
            ("UDP", tunnel(&udp((POD_6, 5), (REMOTE_6, 53), b"?")), SteerTunnel),
            ("ping", tunnel(&echo(POD_6, REMOTE_6, 7, false)), SteerTunnel),
            ("GRE", tunnel(&ip(POD_6, REMOTE_6, 47, b"gre")), SteerTunnel),
            ("nothing behind IPv6", tunnel(&ip(POD_6, REMOTE_6, 6, b"")), SteerTunnel),
            ("ICMP error", tunnel(&icmp_error(POD_6, REMOTE_6, &quoted)), SteerTunnel),
            ("options", ext(with_options_of(inner.clone(), 8)), SteerTunnel),
            ("all routed", ext(with_routing(inner.clone(), 0)), SteerTunnel),
            ("to be routed", ext(with_routing(inner.clone(), 1)), DropExtensions),
            ("first fragment", ext(with_fragment(inner.clone(), (0, true), 1)), SteerTunnel),
            ("later fragment", ext(with_fragment(inner.clone(), (9, false), 1)), SteerTunnel),
            (
                "two fragment headers",
                {
                    let once = with_fragment(inner.clone(), (0, true), 1);
                    tunnel(&with_fragment(once, (0, true), 1))
                },
                DropExtensions,
            ),
        ],
    );
}

#[test]
fn extension_headers_are_followed_as_far_as_the_limits_say() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let pod = tcp((POD_6, 40_001), (REMOTE_6, 443));
    let reply = |target| tcp((REMOTE_6, 443), (target, 20_000));
    let many = |frame: &Vec<u8>, count: usize| {
        (0..count).fold(frame.clone(), |frame, _| with_options_of(frame, 8))
    };
    let long = |frame: &Vec<u8>, bytes| with_options_of(with_options_of(frame.clone(), 128), bytes);
    let shared = reply(SHARED_6);
    check(
        &rig,
        vec![
            ("six", tunnel(&many(&pod, 6)), SteerTunnel),
            ("seven", tunnel(&many(&pod, 7)), DropExtensions),
            ("256 bytes", tunnel(&long(&pod, 128)), SteerTunnel),
            ("264 bytes", tunnel(&long(&pod, 136)), DropExtensions),
            ("2048 bytes", tunnel(&with_options_of(pod.clone(), 2048)), DropExtensions),
            ("six, and a fragment", tunnel(&with_fragment(many(&pod, 6), (0, true), 1)), {
                DropExtensions
            }),
            ("five, and a fragment", tunnel(&with_fragment(many(&pod, 5), (0, true), 1)), {
                SteerTunnel
            }),
            ("to a shared address, six", many(&shared, 6), SteerReply),
            ("to a shared address, seven", many(&shared, 7), PassHost),
            ("to a shared address, 256 bytes", long(&shared, 128), SteerReply),
            ("to a shared address, 264 bytes", long(&shared, 136), PassHost),
            ("to a shared address, routed", with_routing(shared.clone(), 0), SteerReply),
            ("to a shared address, to be routed", with_routing(shared.clone(), 1), PassHost),
            ("to our own, seven", many(&reply(OWN_6), 7), SteerReply),
        ],
    );
}

/// Whatever is cut off, and wherever: a selected pod's packet does not get to the kernel.
#[test]
fn a_frame_that_is_cut_off_anywhere_does_not_leak() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let inner = with_options_of(with_fragment(valid_inner(), (0, true), 1), 16);
    let frame = tunnel(&inner);
    for length in INNER_ETH - 8..frame.len() {
        let run = rig.run(&frame[..length]);
        let expected = match length {
            ..104 => (XDP_DROP, DropInnerTruncated),
            // The addresses are there, but not all that the extension headers say.
            104..120 => (XDP_DROP, DropExtensions),
            _ => (XDP_REDIRECT, SteerTunnel),
        };
        assert_eq!((run.action, run.outcome), expected, "{length} bytes");
    }
    check_cut_off(&rig, &tcp((REMOTE_6, 443), (SHARED_6, 20_000)), BEHIND_IPV6);
}

fn valid_inner() -> Vec<u8> {
    tcp((POD_6, 40_001), (REMOTE_6, 443))
}

#[test]
fn fragments_to_a_shared_address_follow_their_first_one() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let fragment = |identification: u32, port, place| {
        let frame = udp((REMOTE_6, 53), (SHARED_6, port), b"part of an answer");
        with_fragment(frame, place, identification)
    };
    let (first, later, ours, host) = ((0, true), (10, false), 20_000, 2_000);
    check(
        &rig,
        vec![
            ("later, nothing known", fragment(1, ours, later), PassHost),
            ("first of ours", fragment(1, ours, first), SteerReply),
            ("later of ours", fragment(1, ours, later), SteerReply),
            ("later, though it looks like the host's", fragment(1, host, later), SteerReply),
            (
                "later, named another protocol",
                with(fragment(1, ours, later), BEHIND_IPV6, &[60]),
                SteerReply,
            ),
            ("later of another packet", fragment(0x1_0001, ours, later), PassHost),
            ("first of the host's", fragment(2, host, first), PassHost),
            ("later of the host's", fragment(2, ours, later), PassHost),
            ("first of the host's, as ours was", fragment(1, host, first), PassHost),
            ("later of the host's, as ours was", fragment(1, ours, later), PassHost),
            ("the only one, ours", fragment(3, ours, (0, false)), SteerReply),
            ("the only one, the host's", fragment(4, host, (0, false)), PassHost),
            (
                "first, with options behind the fragment header",
                with_options_of(fragment(5, ours, first), 8),
                SteerReply,
            ),
        ],
    );
}

#[test]
fn all_fragments_have_the_owner_of_port_0() {
    let port = (20_000..).find(|port| owner(*port) != owner(0)).unwrap();
    let rig = Rig::new(Unclassified::Drop, &[owner(0)]);
    for place in [(0, true), (0, false), (10, true), (10, false)] {
        let to = |address| with_fragment(udp((REMOTE_6, 53), (address, port), b"part"), place, 1);
        let of_pod = with_fragment(udp((POD_6, port), (REMOTE_6, 53), b"part"), place, 1);
        let cases = vec![
            ("pod's", tunnel(&of_pod), SteerTunnel),
            ("to our own", to(OWN_6), SteerReply),
            ("to a shared one", to(SHARED_6), SteerReply),
        ];
        check(&rig, cases);
    }
}

#[test]
fn replies_are_ours_by_address_and_port() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let sent = |address, port| tcp((address, port), (REMOTE_6, 443));
    let ping = |address, id| echo(address, REMOTE_6, id, false);
    let error =
        |kind: u8| with(icmp_error(STRANGER_6, OWN_6, &sent(OWN_6, 40_001)), BEHIND_IPV6, &[kind]);
    let quoting = |target, packet: Vec<u8>| icmp_error(STRANGER_6, target, &packet);
    let advertisement = with(solicitation(REMOTE_6, OWN_6), BEHIND_IPV6, &[136]);
    let to_own = with(advertisement, 14 + 24, &OWN_6.octets());
    check(
        &rig,
        vec![
            ("own, first port", tcp((REMOTE_6, 443), (OWN_6, 1024)), SteerReply),
            ("own, low port", tcp((REMOTE_6, 443), (OWN_6, 1023)), PassHost),
            ("to nobody", tcp((REMOTE_6, 443), (STRANGER_6, 1024)), PassOther),
            ("VLAN", tagged(tcp((REMOTE_6, 443), (OWN_6, 1024)), 0), PassOther),
            ("shared, first", udp((REMOTE_6, 53), (SHARED_6, 16_384), b"!"), SteerReply),
            ("shared, last", udp((REMOTE_6, 53), (SHARED_6, 29_999), b"!"), SteerReply),
            ("shared, below", udp((REMOTE_6, 53), (SHARED_6, 16_383), b"!"), PassHost),
            ("shared, above", udp((REMOTE_6, 53), (SHARED_6, 30_000), b"!"), PassHost),
            ("echo reply", echo(REMOTE_6, OWN_6, 2000, true), SteerReply),
            ("echo reply, host's id", echo(REMOTE_6, SHARED_6, 2000, true), PassHost),
            ("echo request", echo(REMOTE_6, OWN_6, 2000, false), PassHost),
            ("unreachable", error(1), SteerReply),
            ("too big", error(2), SteerReply),
            ("time exceeded", error(3), SteerReply),
            ("parameter problem", error(4), SteerReply),
            ("no error of this kind", error(5), PassHost),
            ("error on our ping", quoting(OWN_6, ping(OWN_6, 2000)), SteerReply),
            ("error on the host's", quoting(SHARED_6, sent(SHARED_6, 40_001)), PassHost),
            ("error on another's", quoting(OWN_6, sent(STRANGER_6, 40_001)), PassHost),
            ("error on options", quoting(SHARED_6, with_options_of(sent(SHARED_6, 20_000), 16)), {
                SteerReply
            }),
            (
                "error on a first fragment",
                quoting(SHARED_6, with_fragment(sent(SHARED_6, 20_000), (0, true), 1)),
                SteerReply,
            ),
            (
                "error on a later fragment",
                quoting(OWN_6, with_fragment(sent(OWN_6, 20_000), (10, true), 1)),
                SteerReply,
            ),
            (
                "shared, error on a later fragment",
                quoting(SHARED_6, with_fragment(sent(SHARED_6, 20_000), (10, true), 1)),
                PassHost,
            ),
            ("error that is extended", with_options_of(error(1), 24), SteerReply),
            ("own, GRE", ip(REMOTE_6, OWN_6, 47, b"gre"), SteerReply),
            ("shared, GRE", ip(REMOTE_6, SHARED_6, 47, b"gre"), PassHost),
            ("own, error on GRE", quoting(OWN_6, ip(OWN_6, REMOTE_6, 47, b"gre")), SteerReply),
            ("neighbour advertisement to the host", to_own, PassHost),
        ],
    );
}

#[test]
fn only_solicitations_of_announced_addresses_are_ours() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let asked = solicitation(LINK_LOCAL, ANNOUNCED_6);
    let unicast = with(asked.clone(), 14 + 24, &ANNOUNCED_6.octets());
    let unspecified = solicitation(Ipv6Addr::UNSPECIFIED, ANNOUNCED_6);
    let another_group = with(asked.clone(), 14 + 39, &[2]);
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    check(
        &rig,
        vec![
            ("announced", asked.clone(), SteerNeighbour),
            ("whether it is still there", unicast, SteerNeighbour),
            ("whether it is free", unspecified, SteerNeighbour),
            ("on another device", solicitation(LINK_LOCAL, ANNOUNCED_ELSEWHERE_6), PassOther),
            ("the host's", solicitation(LINK_LOCAL, OWN_6), PassOther),
            ("another's", solicitation(LINK_LOCAL, STRANGER_6), PassOther),
            ("from another link", with(asked.clone(), 14 + 7, &[254]), PassOther),
            ("to another group", another_group, PassOther),
            ("to all nodes", with(asked.clone(), 14 + 24, &all_nodes.octets()), PassOther),
            ("an advertisement", with(asked.clone(), BEHIND_IPV6, &[136]), PassOther),
            ("a code", with(asked.clone(), BEHIND_IPV6 + 1, &[1]), PassOther),
            ("cut off", asked[..BEHIND_IPV6 + 23].to_vec(), PassOther),
            ("VLAN", tagged(asked.clone(), 0), PassOther),
        ],
    );
    let run = rig.run(&asked);
    let mut header = vec![5 | FAMILY_6, 0, 0, 0, 0, 0, 0, 0];
    header.extend(INNER_SOURCE_MAC);
    assert_eq!(run.bytes, [&header, &asked[14..]].concat());
    let zero = Rig::new(Unclassified::Drop, &[owner(0)]);
    assert_eq!(zero.run(&asked).outcome, SteerNeighbour, "the worker of port 0 has it");
}

#[test]
fn nothing_to_an_announced_address_is_the_hosts() {
    let rig = Rig::new(Unclassified::Drop, BOTH);
    let ping = echo(REMOTE_6, ANNOUNCED_6, 2000, false);
    let sent = tcp((STRANGER_6, 40_001), (REMOTE_6, 443));
    check(
        &rig,
        vec![
            ("a ping, low identifier", echo(REMOTE_6, ANNOUNCED_6, 7, false), SteerPing),
            (
                "a ping through another device",
                echo(REMOTE_6, ANNOUNCED_ELSEWHERE_6, 7, false),
                SteerPing,
            ),
            ("an answer to a ping", echo(REMOTE_6, ANNOUNCED_6, 2000, true), SteerReply),
            ("a fragment of a ping", with_fragment(ping.clone(), (0, true), 1), SteerReply),
            ("a ping that is extended", with_options_of(ping.clone(), 8), SteerPing),
            ("a ping to be routed", with_routing(ping.clone(), 1), SteerReply),
            ("TCP, low port", tcp((REMOTE_6, 443), (ANNOUNCED_6, 22)), SteerReply),
            ("another's error", icmp_error(REMOTE_6, ANNOUNCED_6, &sent), SteerReply),
        ],
    );
    let run = rig.run(&ping);
    let mut header = vec![4 | FAMILY_6, 0, 0, 0, 0, 0, 0, 0];
    header.extend(INNER_SOURCE_MAC);
    assert_eq!((run.outcome, run.bytes), (SteerPing, [&header, &ping[14..]].concat()));
}

#[test]
fn both_directions_have_the_same_owner() {
    let (zero, one) = (Rig::new(Unclassified::Drop, &[0]), Rig::new(Unclassified::Drop, &[1]));
    for port in (1024..=u16::MAX).step_by(1997) {
        let pinged = echo(REMOTE_6, POD_6, port, true);
        let sent = tcp((OWN_6, port), (REMOTE_6, 443));
        let out = tcp((POD_6, port), (REMOTE_6, 443));
        let frames = [
            (tunnel(&out), SteerTunnel),
            (tunnel(&with_options_of(with_routing(out, 0), 16)), SteerTunnel),
            (tunnel(&echo(POD_6, REMOTE_6, port, false)), SteerTunnel),
            (tunnel(&icmp_error(POD_6, REMOTE_6, &tcp((REMOTE_6, 443), (POD_6, port)))), {
                SteerTunnel
            }),
            (tunnel(&icmp_error(POD_6, REMOTE_6, &pinged)), SteerTunnel),
            (tunnel(&ip(POD_6, REMOTE_6, 132, &sctp(port, 2905))), SteerTunnel),
            (tcp((REMOTE_6, 443), (OWN_6, port)), SteerReply),
            (with_options_of(tcp((REMOTE_6, 443), (OWN_6, port)), 8), SteerReply),
            (ip(REMOTE_6, OWN_6, 132, &sctp(2905, port)), SteerReply),
            (echo(REMOTE_6, OWN_6, port, true), SteerReply),
            (icmp_error(STRANGER_6, OWN_6, &sent), SteerReply),
            (icmp_error(STRANGER_6, OWN_6, &with_options_of(sent, 8)), SteerReply),
        ];
        for (frame, steered) in frames {
            for (worker, rig) in [(0, &zero), (1, &one)] {
                let expected = if owner(port) == worker { steered } else { DropNoSocket };
                assert_eq!(rig.run(&frame).outcome, expected, "port {port}, worker {worker}");
            }
        }
    }
}
