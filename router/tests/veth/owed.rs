//! What a worker sends in frames of its own: fragments, and ICMP errors that are owed.

use std::net::UdpSocket;
use std::time::Duration;

use etherparse::defrag::IpDefragPool;
use etherparse::{Icmpv4Type, Ipv4Header, SlicedPacket, TransportSlice};

use crate::{GATEWAY, NODE, Rig, SERVER, frame, pod, server_port, wait_for_every_frame};

/// Where the inner frame starts in a VXLAN datagram, and its packet.
const INNER: usize = 8;
const INNER_IP: usize = INNER + 14;

const ROUNDS: u16 = 100;

/// No more than a pod gets at once.
const PROBES: u16 = 20;

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut datagram = vec![0; 2048];
    let (length, _) = socket.recv_from(&mut datagram).expect("an answer");
    datagram.truncate(length);
    datagram
}

/// What a node sends for a pod's packet whose time ends at the gateway.
fn probe(round: u16) -> Vec<u8> {
    let mut datagram = frame(0, round);
    let (mut header, _) = Ipv4Header::from_slice(&datagram[INNER_IP..]).unwrap();
    header.time_to_live = 1;
    header.header_checksum = header.calc_header_checksum();
    datagram[INNER_IP..INNER_IP + 20].copy_from_slice(&header.to_bytes());
    datagram
}

#[test]
fn what_a_worker_makes_itself_arrives_and_no_frame_is_lost_for_it() {
    let rig = Rig::new("owed", true);
    // Its packets may be fragmented.
    rig.outside.sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    let bind = |address, port| {
        let socket = UdpSocket::bind((address, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let server = rig.outside.enter(|| bind(SERVER, server_port(0)));
    let node = rig.node.enter(|| bind(NODE, 8472));
    for round in 0..ROUNDS {
        node.send_to(&frame(0, round), (GATEWAY, 8472)).unwrap();
        let mut question = [0; 64];
        let (_, from) = server.recv_from(&mut question).expect("the question");
        let answer: Vec<u8> = (0..1472).map(|byte: u16| (byte + round).to_le_bytes()[0]).collect();
        server.send_to(&answer, from).unwrap();
        let mut pool: IpDefragPool = IpDefragPool::new();
        let mut reassembled = |datagram: &[u8]| {
            let packet = SlicedPacket::from_ethernet(&datagram[INNER..]).unwrap();
            pool.process_sliced_packet(&packet, (), ()).unwrap()
        };
        assert!(reassembled(&receive(&node)).is_none(), "the first of two");
        let whole = reassembled(&receive(&node)).expect("the second of two");
        assert_eq!(whole.payload[8..], answer);
    }
    for round in 0..PROBES {
        let probe = probe(round);
        node.send_to(&probe, (GATEWAY, 8472)).unwrap();
        let datagram = receive(&node);
        let packet = SlicedPacket::from_ethernet(&datagram[INNER..]).unwrap();
        let ip = packet.net.as_ref().unwrap().ipv4_ref().unwrap().header();
        assert_eq!((ip.source_addr(), ip.destination_addr()), (GATEWAY, pod(0)));
        let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("{packet:?}") };
        assert!(matches!(icmp.icmp_type(), Icmpv4Type::TimeExceeded(_)));
        assert_eq!(icmp.payload(), &probe[INNER_IP..]);
    }
    wait_for_every_frame(&rig);
    let workers = rig.client().status().unwrap().workers;
    let sum = |count: fn(&spillway_api::Worker) -> u64| workers.iter().map(count).sum::<u64>();
    assert_eq!(sum(|worker| worker.fragmented), u64::from(ROUNDS));
    assert_eq!(sum(|worker| worker.errors_sent), u64::from(PROBES));
    assert_eq!(sum(|worker| worker.frames_missing), 0);
}
