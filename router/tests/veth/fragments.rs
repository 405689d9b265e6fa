//! Packets that come in fragments, from pods and from real kernels, in any order, for flows of both
//! workers.

use std::net::UdpSocket;
use std::time::Duration;

use etherparse::defrag::IpDefragPool;
use etherparse::{IpFragOffset, Ipv4Header, PacketBuilder, SlicedPacket};

use crate::{
    EGRESS, GATEWAY, NODE, POD_MAC, Rig, SERVER, SERVER_PORT, pod, port, wait_for_every_frame,
};

/// Larger than any device carries: three fragments, and more in the tunnel.
const QUESTION: usize = 4000;
const FLOWS: u16 = 60;

/// Where the inner frame starts in a VXLAN datagram, and its packet.
const INNER: usize = 8;
const INNER_IP: usize = INNER + 14;

fn payload(flow: u16) -> Vec<u8> {
    (0..QUESTION).map(|place| (place as u16 ^ flow).to_le_bytes()[0]).collect()
}

/// What a node sends for a pod's packet: the fragments, each in a VXLAN datagram.
fn fragments(flow: u16) -> Vec<Vec<u8>> {
    let mut frame = vec![8, 0, 0, 0, 0, 0x9c, 0x40, 0];
    PacketBuilder::ethernet2(POD_MAC, [2, 0, 0, 0, 0, 1])
        .ipv4(pod(flow).octets(), SERVER.octets(), 63)
        .udp(port(flow), SERVER_PORT)
        .write(&mut frame, &payload(flow))
        .unwrap();
    let (head, packet) = frame.split_at(INNER_IP);
    let (whole, body) = Ipv4Header::from_slice(packet).unwrap();
    let parts: Vec<&[u8]> = body.chunks(1400).collect();
    let fragment = |(number, part): (usize, &&[u8])| {
        let mut header = whole.clone();
        header.dont_fragment = false;
        header.identification = flow;
        header.fragment_offset = IpFragOffset::try_new((number * 1400 / 8) as u16).unwrap();
        header.more_fragments = number + 1 < parts.len();
        header.set_payload_len(part.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        [head, &header.to_bytes(), part].concat()
    };
    parts.iter().enumerate().map(fragment).collect()
}

/// Takes the fragments of one answer off the tunnel; gives the UDP payload.
fn answer(node: &UdpSocket) -> Vec<u8> {
    let mut pool: IpDefragPool = IpDefragPool::new();
    loop {
        let mut datagram = [0; 2048];
        let (length, from) = node.recv_from(&mut datagram).expect("an answer");
        assert_eq!(from.ip(), GATEWAY);
        let packet = SlicedPacket::from_ethernet(&datagram[INNER..length]).unwrap();
        if let Some(whole) = pool.process_sliced_packet(&packet, (), ()).unwrap() {
            return whole.payload[8..].to_vec();
        }
    }
}

#[test]
fn large_questions_and_answers_pass_in_fragments_in_any_order() {
    let rig = Rig::new("fragments", true);
    let bind = |address, port| {
        let socket = UdpSocket::bind((address, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    };
    let server = rig.outside.enter(|| bind(SERVER, SERVER_PORT));
    let node = rig.node.enter(|| bind(NODE, 8472));
    for flow in 0..FLOWS {
        let mut parts = fragments(flow);
        let count = parts.len();
        assert_eq!(count, 3);
        parts.rotate_left(usize::from(flow) % count);
        if flow % 2 == 1 {
            parts.reverse();
        }
        for part in parts {
            node.send_to(&part, (GATEWAY, 8472)).unwrap();
        }
        let mut question = vec![0; 2 * QUESTION];
        // The server's kernel has put it together, and checked its checksum.
        let (length, from) = server.recv_from(&mut question).expect("the question");
        assert_eq!((from.ip(), &question[..length]), (EGRESS.into(), payload(flow).as_slice()));
        server.send_to(&question[..length], from).unwrap();
        assert_eq!(answer(&node), payload(flow));
    }
    wait_for_every_frame(&rig);
    let drops = rig.client().drops().unwrap();
    let dropped: Vec<_> = drops.engine.iter().filter(|drop| drop.packets > 0).collect();
    assert!(dropped.is_empty(), "{dropped:?}");
    let workers = rig.client().status().unwrap().workers;
    let handed: u64 = workers.iter().map(|worker| worker.handed_off).sum();
    // About half of the flows live with the worker that gets no fragments.
    let packets = u64::from(FLOWS) * 6;
    assert!((packets / 4..packets * 3 / 4).contains(&handed), "{handed} of {packets}");
}
