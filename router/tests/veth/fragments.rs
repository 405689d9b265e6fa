//! Packets that come in fragments, from pods and from real kernels, in any order, for flows of both
//! workers.

use std::net::UdpSocket;

use etherparse::defrag::IpDefragPool;
use etherparse::{IpFragOffset, IpHeaders, Ipv6FragmentHeader, SlicedPacket, ip_number};
use spillway_api::IpFamily;
use spillway_testing::bind_udp;

use crate::packets::{
    INNER, INNER_IP, egress, family, frame_of, ip_header, pod, server, server_port,
};
use crate::{GATEWAY, NODE, Rig, SERVER_PORT, wait_for_every_frame};

/// Larger than any device carries: three fragments, and of IPv4 more in the tunnel.
const QUESTION: usize = 4000;

/// Flows of both families.
const FLOWS: usize = 120;

/// What is in a fragment.
const PART: usize = 1400;

fn payload(flow: u16) -> Vec<u8> {
    (0..QUESTION).map(|place| (place as u16 ^ flow).to_le_bytes()[0]).collect()
}

/// The header of the fragment that starts so many parts behind the first.
fn header(flow: u16, number: usize, has_more: bool) -> IpHeaders {
    let mut header = ip_header(pod(flow), server(family(flow)), 63);
    let offset = IpFragOffset::try_new((number * PART / 8) as u16).unwrap();
    match &mut header {
        IpHeaders::Ipv4(header, _) => {
            header.dont_fragment = false;
            header.identification = flow;
            header.fragment_offset = offset;
            header.more_fragments = has_more;
        }
        IpHeaders::Ipv6(_, extensions) => {
            let fragment = Ipv6FragmentHeader {
                next_header: ip_number::UDP,
                fragment_offset: offset,
                more_fragments: has_more,
                identification: flow.into(),
            };
            extensions.fragment = Some(fragment);
        }
    }
    header
}

/// What a node sends for a pod's packet: the fragments, each in a VXLAN datagram.
fn fragments(flow: u16) -> Vec<Vec<u8>> {
    let whole = ip_header(pod(flow), server(family(flow)), 63);
    let body = INNER_IP + whole.header_len();
    let frame = frame_of(whole, flow, &payload(flow));
    let (head, parts) = (&frame[..INNER_IP], frame[body..].chunks(PART));
    let count = parts.len();
    let fragment = |(number, part): (usize, &[u8])| {
        let mut header = header(flow, number, number + 1 < count);
        header.set_payload_len(part.len()).unwrap();
        header.set_next_headers(ip_number::UDP);
        let mut fragment = head.to_vec();
        header.write(&mut fragment).unwrap();
        [fragment.as_slice(), part].concat()
    };
    parts.enumerate().map(fragment).collect()
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
    // What fits the tunnel: routers do not cut packets of IPv6.
    let mtu = ["ip", "route", "change", "default", "via", "2001:db8:203::1", "mtu", "1450"];
    rig.outside.run(mtu);
    let servers = rig.outside.enter(|| IpFamily::ALL.map(|of| bind_udp((server(of), SERVER_PORT))));
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    let flows = (0..).filter(|flow| server_port(*flow) == SERVER_PORT).take(FLOWS);
    for (number, flow) in flows.enumerate() {
        let family = family(flow);
        let [v4, v6] = &servers;
        let server = if family == IpFamily::V4 { v4 } else { v6 };
        let mut parts = fragments(flow);
        let count = parts.len();
        assert_eq!(count, 3);
        parts.rotate_left(number % count);
        if number % 2 == 1 {
            parts.reverse();
        }
        for part in parts {
            node.send_to(&part, (GATEWAY, 8472)).unwrap();
        }
        let mut question = vec![0; 2 * QUESTION];
        // The server's kernel has put it together, and checked its checksum.
        let (length, from) = server.recv_from(&mut question).expect("the question");
        assert_eq!((from.ip(), &question[..length]), (egress(family), payload(flow).as_slice()));
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
    let packets = FLOWS as u64 * 6;
    assert!((packets / 4..packets * 3 / 4).contains(&handed), "{handed} of {packets}");
}
