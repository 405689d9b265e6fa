use std::net::IpAddr;

use etherparse::PacketBuilder;
use spillway_engine::steer::FAMILY_6;

use super::*;

fn sampler(drops_per_second: u16, forwarded_one_in: u32) -> Sampler {
    Sampler::new(&EventsConfig { kept: 1, drops_per_second, forwarded_one_in })
}

#[test]
fn of_each_reason_so_many_drops_are_chosen_in_a_second() {
    let mut sampler = sampler(3, 0);
    let mut chosen =
        |now, reason, count| (0..count).filter(|_| sampler.takes_drop(now, reason)).count();
    assert_eq!(chosen(5 * SECOND, DropReason::NoFlow, 10), 3);
    assert_eq!(chosen(6 * SECOND - 1, DropReason::NoFlow, 10), 0);
    assert_eq!(chosen(6 * SECOND - 1, DropReason::NoRoute, 2), 2);
    assert_eq!(chosen(6 * SECOND, DropReason::NoFlow, 10), 3);
    assert_eq!(chosen(6 * SECOND, *DropReason::ALL.last().unwrap(), 10), 3);
    let mut none = self::sampler(0, 0);
    assert!(!none.takes_drop(0, DropReason::NoFlow));
}

#[test]
fn one_in_so_many_packets_is_picked_whatever_the_bursts() {
    assert_eq!(sampler(0, 0).pick(64), None);
    // (one in, bursts) → the packets picked, by their number
    for (one_in, bursts, expected) in [
        (1, &[2, 1, 3][..], &[0, 2, 3][..]),
        (4, &[3, 3, 3, 3, 3], &[3, 7, 11]),
        (4, &[1, 64, 4], &[3, 67]),
        (100, &[64, 64, 64, 64], &[99, 199]),
    ] {
        let mut sampler = sampler(0, one_in);
        let mut picked = Vec::new();
        let mut before = 0;
        for burst in bursts {
            picked.extend(sampler.pick(*burst).map(|at| before + at));
            before += burst;
        }
        assert_eq!(picked, expected, "one in {one_in}");
    }
}

/// A frame of this kind, with the packet in its place.
fn frame(first: u8, offset: usize, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; offset];
    frame[0] = first;
    frame[4..8].copy_from_slice(&[192, 168, 1, 2]);
    [frame, packet.to_vec()].concat()
}

fn tcp() -> Vec<u8> {
    let mut packet = Vec::new();
    // The time to live is over: nobody forwards that, and it is seen.
    let builder = PacketBuilder::ipv4([10, 0, 1, 40], [203, 0, 113, 10], 0).tcp(4_000, 443, 0, 0);
    builder.write(&mut packet, b"").unwrap();
    packet
}

fn udp_ipv6() -> Vec<u8> {
    let mut packet = Vec::new();
    let (source, destination) = ("fd00::40".parse::<IpAddr>(), "2001:db8::10".parse::<IpAddr>());
    let (Ok(IpAddr::V6(source)), Ok(IpAddr::V6(destination))) = (source, destination) else {
        panic!("addresses")
    };
    let builder = PacketBuilder::ipv6(source.octets(), destination.octets(), 64).udp(4_000, 53);
    builder.write(&mut packet, b"x").unwrap();
    packet
}

#[test]
fn a_frame_says_whose_packet_it_is_wherever_the_packet_starts() {
    for (first, offset, peer) in [
        (KIND_TUNNEL, TUNNEL_IP_OFFSET, true),
        (KIND_TUNNEL | UNDERLAY_6, TUNNEL_IP_OFFSET, true),
        (KIND_REPLY, REPLY_IP_OFFSET, false),
        (KIND_REPLY | UNDERLAY_6, REPLY_IP_OFFSET_6, false),
        (KIND_PING, STEER_HEADER_LEN, false),
    ] {
        let seen = Seen::of(&frame(first, offset, &tcp())).unwrap();
        let Tuple { source, destination, source_port, destination_port, protocol } = seen.tuple;
        assert_eq!((source_port, destination_port, protocol), (4_000, 443, 6));
        assert_eq!((source, destination), ([10, 0, 1, 40].into(), [203, 0, 113, 10].into()));
        assert_eq!(seen.peer, peer.then_some([192, 168, 1, 2].into()));
        let seen = Seen::of(&frame(first | FAMILY_6, offset, &udp_ipv6())).unwrap();
        assert_eq!((seen.tuple.source_port, seen.tuple.destination_port), (4_000, 53));
        assert_eq!(seen.tuple.protocol, 17);
    }
    assert_eq!(Seen::of(&frame(0x0f, TUNNEL_IP_OFFSET, &tcp())), None);
}

#[test]
fn an_echo_has_its_identifier_on_the_side_of_who_asks() {
    let echo = |asks: bool| {
        let mut packet = Vec::new();
        let ip = PacketBuilder::ipv4([10, 0, 1, 40], [203, 0, 113, 10], 9);
        match asks {
            true => ip.icmpv4_echo_request(77, 1).write(&mut packet, b""),
            false => ip.icmpv4_echo_reply(77, 1).write(&mut packet, b""),
        }
        .unwrap();
        let tuple = Seen::of(&frame(KIND_TUNNEL, TUNNEL_IP_OFFSET, &packet)).unwrap().tuple;
        (tuple.source_port, tuple.destination_port, tuple.protocol)
    };
    assert_eq!((echo(true), echo(false)), ((77, 0, 1), (0, 77, 1)));
}

#[test]
fn a_packet_without_its_ports_has_none_and_no_bytes_are_too_strange() {
    let whole = frame(KIND_TUNNEL, TUNNEL_IP_OFFSET, &tcp());
    for length in 0..whole.len() {
        let seen = Seen::of(&whole[..length]);
        assert_eq!(seen.is_some(), length >= TUNNEL_IP_OFFSET + 20, "{length}");
        let ports =
            seen.map_or((0, 0), |seen| (seen.tuple.source_port, seen.tuple.destination_port));
        let has_ports = length >= TUNNEL_IP_OFFSET + 24;
        assert_eq!(ports, if has_ports { (4_000, 443) } else { (0, 0) }, "{length}");
    }
    let mut fragment = whole.clone();
    fragment[TUNNEL_IP_OFFSET + 7] = 9;
    assert_eq!(Seen::of(&fragment).unwrap().tuple.source_port, 0);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut strange = whole.clone();
            strange[at] ^= 1 << bit;
            // Whatever it says.
            let _ = Seen::of(&strange);
        }
    }
}
