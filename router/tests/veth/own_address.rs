//! An egress address that the host does not have: Spillway itself answers for it on the outside's
//! link, whose kernel is a stranger.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use spillway_api::IpFamily;
use spillway_testing::{Namespace, bind_udp, wait_until};
use spillway_xdp::device::probe;

use crate::packets::{answered, egress, first_flow, frame, frame_to, server, server_port};
use crate::{GATEWAY, NODE, Rig, dropped, state, wait_for_every_frame};

/// What is asked of one family.
struct Link {
    family: IpFamily,
    /// On the link between the gateway and the outside, and on no host.
    announced: IpAddr,
    nobody: IpAddr,
    /// The host's own address on that link.
    host: IpAddr,
    /// How steering calls a question for the link address.
    question: &'static str,
    /// The payload of the largest ping.
    ping_max: &'static str,
}

const LINKS: [Link; 2] = [
    Link {
        family: IpFamily::V4,
        announced: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77)),
        nobody: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 78)),
        host: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
        question: "steer-arp",
        ping_max: "1472",
    },
    Link {
        family: IpFamily::V6,
        announced: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x77)),
        nobody: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x78)),
        host: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 1)),
        question: "steer-neighbour",
        ping_max: "1452",
    },
];

const WITHIN: Duration = Duration::from_secs(15);

impl Link {
    /// A rig of its own, and the first flow of its pods.
    fn rig(&self, name: &str) -> (Rig, u16) {
        (Rig::new(&format!("{name}-{:?}", self.family), true), first_flow(self.family))
    }

    /// A document whose pods leave as the announced address.
    fn announcing(&self) -> String {
        let announced = format!("{{address: {}, kind: own, announce: out}}", self.announced);
        let pods_leave_as = IpFamily::ALL.map(|family| match family == self.family {
            true => self.announced,
            false => egress(family),
        });
        state(2, &[announced], pods_leave_as)
    }
}

/// What the outside's kernel knows of an address on its link.
fn neighbour(rig: &Rig, address: IpAddr) -> String {
    rig.outside.run(["ip", "neigh", "show", &address.to_string(), "dev", "eth0"])
}

/// Makes the outside's kernel ask anew.
fn forget_neighbours(rig: &Rig) {
    rig.outside.run(["ip", "neigh", "flush", "dev", "eth0"]);
}

fn pings(from: &Namespace, address: IpAddr, options: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", from.name(), "ping", "-n", "-q"]).args(options);
    command.arg(address.to_string()).output().unwrap().status.success()
}

fn mac_of_out(rig: &Rig) -> String {
    let mac = rig.gateway.enter(|| probe("out")).unwrap().mac;
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn steered(rig: &Rig, outcome: &str) -> u64 {
    let outcomes = rig.client().drops().unwrap().steering;
    outcomes.iter().filter(|of| of.outcome == outcome).map(|of| of.packets).sum()
}

fn sum(rig: &Rig, count: fn(&spillway_api::Worker) -> u64) -> u64 {
    rig.client().status().unwrap().workers.iter().map(count).sum()
}

#[test]
fn the_link_is_told_of_an_address_and_asks_for_it() {
    LINKS.iter().for_each(tell_and_answer);
}

fn tell_and_answer(link: &Link) {
    let ((rig, _), Link { announced, .. }) = (link.rig("own"), link);
    // As if another gateway had had it.
    let stale = format!("ip neigh replace {announced} lladdr 02:00:00:00:00:77 dev eth0 nud stale");
    rig.outside.run(stale.split(' '));
    rig.client().put_state(link.announcing()).unwrap();
    assert_eq!(rig.client().status().unwrap().reports, Vec::<String>::new());
    let mac = mac_of_out(&rig);
    wait_until("the announcement moves the neighbour", WITHIN, || {
        neighbour(&rig, *announced).contains(&mac)
    });
    assert_eq!(steered(&rig, link.question), 0, "it has not asked");
    wait_until("three announcements", WITHIN, || sum(&rig, |worker| worker.announced) == 3);

    if link.family == IpFamily::V6 {
        // A network card filters by these, a veth device does not.
        let groups = rig.gateway.run(["ip", "-6", "maddr", "show", "dev", "out"]);
        assert!(groups.contains("ff02::1:ff00:77"), "{groups}");
    }

    forget_neighbours(&rig);
    assert!(pings(&rig.outside, *announced, &["-c", "3", "-i", "0.2", "-W", "5"]));
    assert!(neighbour(&rig, *announced).contains(&mac), "{}", neighbour(&rig, *announced));
    assert!(pings(&rig.outside, *announced, &["-c", "1", "-W", "5", "-s", link.ping_max]));
    assert!(pings(&rig.node, *announced, &["-c", "1", "-W", "5"]), "through the other device");
    let asked = steered(&rig, link.question);
    assert!(asked >= 1);
    assert_eq!(steered(&rig, "steer-ping"), 5);
    assert_eq!(sum(&rig, |worker| worker.answered), asked + 5);

    // The host's own addresses stay the host's, and others nobody's.
    forget_neighbours(&rig);
    assert!(pings(&rig.outside, link.host, &["-c", "1", "-W", "5"]));
    assert_nobody(&rig, link.nobody);
    assert_eq!(steered(&rig, link.question), asked);
    assert_eq!(dropped(&rig), BTreeMap::new());
    wait_for_every_frame(&rig);
    let moved = sum(&rig, |worker| worker.received - worker.transmitted);
    assert_eq!(moved, 0, "answers are frames that were received");

    // Without the document's word nobody answers.
    rig.client().put_state(state(3, &[], IpFamily::ALL.map(egress))).unwrap();
    forget_neighbours(&rig);
    assert_nobody(&rig, *announced);
    assert_eq!(steered(&rig, link.question), asked);
}

/// Nobody on the outside's link has the address.
fn assert_nobody(rig: &Rig, address: IpAddr) {
    assert!(!pings(&rig.outside, address, &["-c", "1", "-W", "1"]));
    assert!(!neighbour(rig, address).contains("lladdr"), "{}", neighbour(rig, address));
}

#[test]
fn pods_leave_with_an_address_of_spillways_own() {
    LINKS.iter().for_each(leave_as_announced);
}

fn leave_as_announced(link: &Link) {
    let ((rig, flow), Link { announced, .. }) = (link.rig("ownflow"), link);
    rig.client().put_state(link.announcing()).unwrap();
    let server = rig.outside.enter(|| bind_udp((server(link.family), server_port(flow))));
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    forget_neighbours(&rig);
    for round in 0..10 {
        node.send_to(&frame(flow, round), (GATEWAY, 8472)).unwrap();
        let mut payload = [0; 64];
        let (length, from) = server.recv_from(&mut payload).expect("the question");
        assert_eq!(from.ip(), *announced, "seen outside");
        // The server's kernel has to find the address on its link for that.
        server.send_to(&payload[..length], from).unwrap();
        let mut datagram = [0; 2048];
        let (length, _) = node.recv_from(&mut datagram).expect("the answer");
        assert_eq!(answered(&datagram[..length]), Some((flow, round)));
    }
    assert_eq!(dropped(&rig), BTreeMap::new());
    assert!(steered(&rig, link.question) >= 1);

    // What has no flow dies by name, and so does what a pod sends to the address.
    server.send_to(b"stray", (*announced, 80)).unwrap();
    node.send_to(&frame_to(*announced, 63, flow, 0), (GATEWAY, 8472)).unwrap();
    let expected = [("hairpin".to_owned(), 1), ("no-flow".to_owned(), 1)];
    wait_until("both are dropped", WITHIN, || dropped(&rig) == expected.clone().into());
}

#[test]
fn an_address_is_announced_again_when_its_device_comes_back() {
    LINKS.iter().for_each(announce_again);
}

fn announce_again(link: &Link) {
    let (rig, flow) = link.rig("ownback");
    rig.client().put_state(link.announcing()).unwrap();
    let announced = || sum(&rig, |worker| worker.announced);
    wait_until("three announcements", WITHIN, || announced() == 3);
    // Else those of IPv6 are gone for good, and with them the route to who asks.
    rig.gateway.sysctl("net/ipv6/conf/out/keep_addr_on_down", "1");
    rig.gateway.run(["ip", "link", "set", "out", "down"]);
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    wait_until("the router sees that the way out is gone", WITHIN, || {
        node.send_to(&frame(flow, 0), (GATEWAY, 8472)).unwrap();
        dropped(&rig).contains_key("no-route")
    });
    rig.gateway.run(["ip", "link", "set", "out", "up"]);
    wait_until("three more", WITHIN, || announced() == 6);
    forget_neighbours(&rig);
    assert!(pings(&rig.outside, link.announced, &["-c", "3", "-i", "0.2", "-W", "5"]));
}
