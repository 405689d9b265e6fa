//! A pod that tries each address of a link beside the gateway, most of which nobody has.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use spillway_api::IpFamily;
use spillway_testing::{bind_udp, wait_until};

use crate::packets::{answered, family, first_flow, frame, frame_to, server, server_port};
use crate::{GATEWAY, NODE, Rig, WINDOW};

/// Many more than a link has hosts; half of what the kernel's table has room for, which all network
/// namespaces share.
const TRIED: u16 = 600;

/// How many of them the gateway may look for at a time.
const LOOKED_FOR_MAX: usize = 128;

/// The network of the IPv6 servers, with as many hosts as such a network has.
const LINK: &str = "2001:db8:203::/64";

fn nobody(number: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 1, number).into()
}

/// How many addresses that nobody has are in the gateway's table of neighbours.
fn looked_for(rig: &Rig) -> usize {
    let all = rig.gateway.run(["ip", "-6", "neigh", "show", "nud", "all", "dev", "out"]);
    all.lines().filter(|line| line.starts_with("2001:db8:203::1:")).count()
}

#[test]
fn who_scans_a_link_takes_little_of_the_kernels_table_and_others_are_forwarded() {
    let rig = Rig::new("scan", true);
    rig.gateway.run(["ip", "route", "add", LINK, "dev", "out"]);
    let flow = first_flow(IpFamily::V6);
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    let outside = rig.outside.enter(|| bind_udp((server(family(flow)), server_port(flow))));
    let mut most = 0;
    for first in (0..TRIED).step_by(usize::from(WINDOW)) {
        for number in first..first + WINDOW {
            node.send_to(&frame_to(nobody(number), 63, flow, 0), (GATEWAY, 8472)).unwrap();
        }
        // The first of these finds its neighbour in the middle of it all.
        node.send_to(&frame(flow, first), (GATEWAY, 8472)).unwrap();
        let mut datagram = [0; 2048];
        let (length, egress) = outside.recv_from(&mut datagram).expect("the question");
        outside.send_to(&datagram[..length], egress).unwrap();
        let (length, _) = node.recv_from(&mut datagram).expect("the answer");
        assert_eq!(answered(&datagram[..length]), Some((flow, first)));
        most = most.max(looked_for(&rig));
    }
    assert!((1..=LOOKED_FOR_MAX).contains(&most), "{most} at a time");
    wait_until("no frame waits for a neighbour", Duration::from_secs(10), || {
        rig.client().status().unwrap().frames.held == 0
    });
    let drops = rig.client().drops().unwrap().engine;
    let waited_in_vain: u64 = drops
        .iter()
        .filter(|drop| ["neighbour-unresolved", "hold-queue-full"].contains(&drop.reason.as_str()))
        .map(|drop| drop.packets)
        .sum();
    assert_eq!(waited_in_vain, u64::from(TRIED), "{drops:?}");
}
