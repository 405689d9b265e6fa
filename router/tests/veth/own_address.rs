//! An egress address that the host does not have: Spillway itself answers for it on the outside's
//! link, whose kernel is a stranger.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use spillway_testing::{Namespace, wait_until};
use spillway_xdp::device::probe;

use crate::{
    EGRESS, GATEWAY, NODE, Rig, SERVER, answered, frame, frame_to, pod, server_port,
    wait_for_every_frame,
};

/// On the link between the gateway and the outside, and on no host.
const ANNOUNCED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const NOBODY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 78);

/// The host's own address on that link.
const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

const WITHIN: Duration = Duration::from_secs(15);

/// A document whose pods leave as `egress`.
fn document(generation: u32, announced: &str, egress: Ipv4Addr) -> String {
    format!(
        "generation: {generation}
tunnels: [{{address: {GATEWAY}, peers: [{{address: {NODE}}}]}}]
egress_addresses: [{{address: {EGRESS}, kind: own}}{announced}]
policies:
  - name: all
    egress_address: {egress}
    destinations: [203.0.113.0/24]
    pods: [{}]
",
        pod(0)
    )
}

fn announcing(generation: u32) -> String {
    let announced = format!(", {{address: {ANNOUNCED}, kind: own, announce: out}}");
    document(generation, &announced, ANNOUNCED)
}

/// What the outside's kernel knows of an address on its link.
fn neighbour(rig: &Rig, address: Ipv4Addr) -> String {
    rig.outside.run(["ip", "neigh", "show", &address.to_string(), "dev", "eth0"])
}

/// Makes the outside's kernel ask anew.
fn forget_neighbours(rig: &Rig) {
    rig.outside.run(["ip", "neigh", "flush", "dev", "eth0"]);
}

fn pings(from: &Namespace, address: Ipv4Addr, options: &[&str]) -> bool {
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

fn dropped(rig: &Rig) -> BTreeMap<String, u64> {
    let drops = rig.client().drops().unwrap().engine.into_iter();
    drops.filter(|drop| drop.packets > 0).map(|drop| (drop.reason, drop.packets)).collect()
}

fn sum(rig: &Rig, count: fn(&spillway_api::Worker) -> u64) -> u64 {
    rig.client().status().unwrap().workers.iter().map(count).sum()
}

#[test]
fn the_link_is_told_of_an_address_and_asks_for_it() {
    let rig = Rig::new("own", true);
    // As if another gateway had had it.
    let stale = format!("ip neigh replace {ANNOUNCED} lladdr 02:00:00:00:00:77 dev eth0 nud stale");
    rig.outside.run(stale.split(' '));
    rig.client().put_state(announcing(2)).unwrap();
    assert_eq!(rig.client().status().unwrap().reports, Vec::<String>::new());
    let mac = mac_of_out(&rig);
    wait_until("the announcement moves the neighbour", WITHIN, || {
        neighbour(&rig, ANNOUNCED).contains(&mac)
    });
    assert_eq!(steered(&rig, "steer-arp"), 0, "it has not asked");
    wait_until("three announcements", WITHIN, || sum(&rig, |worker| worker.announced) == 3);

    forget_neighbours(&rig);
    assert!(pings(&rig.outside, ANNOUNCED, &["-c", "3", "-i", "0.2", "-W", "5"]));
    assert!(neighbour(&rig, ANNOUNCED).contains(&mac), "{}", neighbour(&rig, ANNOUNCED));
    assert!(pings(&rig.outside, ANNOUNCED, &["-c", "1", "-W", "5", "-s", "1472"]));
    assert!(pings(&rig.node, ANNOUNCED, &["-c", "1", "-W", "5"]), "through the other device");
    let asked = steered(&rig, "steer-arp");
    assert!(asked >= 1);
    assert_eq!(steered(&rig, "steer-ping"), 5);
    assert_eq!(sum(&rig, |worker| worker.answered), asked + 5);

    // The host's own addresses stay the host's, and others nobody's.
    forget_neighbours(&rig);
    assert!(pings(&rig.outside, HOST, &["-c", "1", "-W", "5"]));
    assert!(!pings(&rig.outside, NOBODY, &["-c", "1", "-W", "1"]));
    assert!(!neighbour(&rig, NOBODY).contains("lladdr"), "{}", neighbour(&rig, NOBODY));
    assert_eq!(steered(&rig, "steer-arp"), asked);
    assert_eq!(dropped(&rig), BTreeMap::new());
    wait_for_every_frame(&rig);
    let moved = sum(&rig, |worker| worker.received - worker.transmitted);
    assert_eq!(moved, 0, "answers are frames that were received");

    // Without the document's word nobody answers.
    rig.client().put_state(document(3, "", EGRESS)).unwrap();
    forget_neighbours(&rig);
    assert!(!pings(&rig.outside, ANNOUNCED, &["-c", "1", "-W", "1"]));
    assert!(!neighbour(&rig, ANNOUNCED).contains("lladdr"), "{}", neighbour(&rig, ANNOUNCED));
    assert_eq!(steered(&rig, "steer-arp"), asked);
}

#[test]
fn pods_leave_with_an_address_of_spillways_own() {
    let rig = Rig::new("ownflow", true);
    rig.client().put_state(announcing(2)).unwrap();
    let bind = |address, port| {
        let socket = UdpSocket::bind((address, port)).unwrap();
        socket.set_read_timeout(Some(WITHIN)).unwrap();
        socket
    };
    let server = rig.outside.enter(|| bind(SERVER, server_port(0)));
    let node = rig.node.enter(|| bind(NODE, 8472));
    forget_neighbours(&rig);
    for round in 0..10 {
        node.send_to(&frame(0, round), (GATEWAY, 8472)).unwrap();
        let mut payload = [0; 64];
        let (length, from) = server.recv_from(&mut payload).expect("the question");
        assert_eq!(from.ip(), ANNOUNCED, "seen outside");
        // The server's kernel has to find the address on its link for that.
        server.send_to(&payload[..length], from).unwrap();
        let mut datagram = [0; 2048];
        let (length, _) = node.recv_from(&mut datagram).expect("the answer");
        assert_eq!(answered(&datagram[..length]), Some((0, round)));
    }
    assert_eq!(dropped(&rig), BTreeMap::new());
    assert!(steered(&rig, "steer-arp") >= 1);

    // What has no flow dies by name, and so does what a pod sends to the address.
    server.send_to(b"stray", (ANNOUNCED, 80)).unwrap();
    node.send_to(&frame_to(ANNOUNCED, 0, 0), (GATEWAY, 8472)).unwrap();
    let expected = [("hairpin".to_owned(), 1), ("no-flow".to_owned(), 1)];
    wait_until("both are dropped", WITHIN, || dropped(&rig) == expected.clone().into());
}

#[test]
fn an_address_is_announced_again_when_its_device_comes_back() {
    let rig = Rig::new("ownback", true);
    rig.client().put_state(announcing(2)).unwrap();
    let announced = || sum(&rig, |worker| worker.announced);
    wait_until("three announcements", WITHIN, || announced() == 3);
    rig.gateway.run(["ip", "link", "set", "out", "down"]);
    let node = rig.node.enter(|| UdpSocket::bind((NODE, 8472)).unwrap());
    wait_until("the router sees that the way out is gone", WITHIN, || {
        node.send_to(&frame(0, 0), (GATEWAY, 8472)).unwrap();
        dropped(&rig).contains_key("no-route")
    });
    rig.gateway.run(["ip", "link", "set", "out", "up"]);
    wait_until("three more", WITHIN, || announced() == 6);
    forget_neighbours(&rig);
    assert!(pings(&rig.outside, ANNOUNCED, &["-c", "3", "-i", "0.2", "-W", "5"]));
}
