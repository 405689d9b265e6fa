//! Ten thousand connections at once, each used and closed, on a range of ports that has little more
//! room than that.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spillway_testing::{Process, wait_until};

use crate::family::{FAMILIES, Family};
use crate::sockets::{tcp, tcp_many};
use crate::underlay::OVER_IPV4;
use crate::world::{Options, Translator, World};

const CONNECTIONS: usize = 10_000;

/// Each of the two workers leases those of its own classes, about half of them.
const PORTS: (u16, u16) = (16_384, 16_384 + 11_999);

/// More than the ports that the first connections leave.
const LATER_CONNECTIONS: usize = 4000;

const SERVER_PORT: u16 = 443;

/// One for each connection, and some for the process itself: the test's, and the server's.
const FILES: u64 = CONNECTIONS as u64 + 1000;

/// Lets this process, and those that it starts, have enough files open.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < FILES) {
        let maximum = limit.maximum.map(|maximum| maximum.max(FILES));
        setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), maximum })
            .expect("root may have so many files open");
    }
}

/// An address as packets have it.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// The pods' ends of connections to reflect.py.
struct Connections(Vec<TcpStream>);

impl Connections {
    /// Half from one pod, half from the other.
    fn open(world: &World, count: usize) -> Self {
        let of_pod = |pod| tcp_many(count / 2, pod, world.at(SERVER_PORT));
        Self(world.pods.iter().flat_map(of_pod).collect())
    }

    /// Each says its number and hears it again, all at the same time. Returns the ports that the
    /// server sees.
    fn converse(&mut self, family: &Family) -> BTreeSet<u16> {
        let egress = octets(family.egress);
        for (number, pod) in (0_u64..).zip(&mut self.0) {
            pod.write_all(&number.to_be_bytes()).unwrap();
        }
        let mut ports = BTreeSet::new();
        for (number, pod) in (0_u64..).zip(&mut self.0) {
            let (mut own, mut address, mut port) = ([0; 8], egress.clone(), [0; 2]);
            for part in [&mut own[..], &mut address, &mut port] {
                pod.read_exact(part).expect("the server's answer");
            }
            assert_eq!(u64::from_be_bytes(own), number, "another connection's answer");
            assert_eq!(address, egress);
            assert!(ports.insert(u16::from_be_bytes(port)), "{port:?} twice");
        }
        ports
    }
}

/// Starts the server and waits until it answers.
fn serve(world: &World) -> Process {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods/reflect.py");
    let port = SERVER_PORT.to_string();
    let server = world.server.spawn(["python3", script, &world.family.server.to_string(), &port]);
    wait_until("the server listens", Duration::from_secs(30), || {
        tcp(&world.server, 0, world.at(SERVER_PORT)).is_ok()
    });
    server
}

/// How many flows all workers have.
fn flows(world: &World) -> u64 {
    world.client().status().unwrap().workers.iter().map(|worker| worker.flows).sum()
}

/// The operator sees each connection, established, with the port that the server sees.
fn assert_listed(world: &World, ports: &BTreeSet<u16>) {
    assert_eq!(flows(world), ports.len() as u64);
    let mut listed = BTreeSet::new();
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let page = world.client().flows(from).unwrap();
        for flow in page.rows {
            assert!(
                flow.state == "established" && world.family.pods.contains(&flow.original.source),
                "{flow:?}"
            );
            assert!(listed.insert(flow.reply.destination_port), "{flow:?} twice");
        }
        cursor = page.next;
    }
    assert_eq!(listed, *ports);
    // The header is no flow.
    assert_eq!(world.operator(&["flows"]).lines().count(), ports.len() + 1);
}

fn assert_nothing_dropped(world: &World) {
    let drops = world.client().drops().unwrap().engine;
    let dropped: Vec<_> = drops.iter().filter(|drop| drop.packets > 0).collect();
    assert!(dropped.is_empty(), "{dropped:?}");
}

#[test]
fn ten_thousand_connections_are_established_used_closed_and_their_ports_come_back() {
    allow_files();
    let options = Options { workers: 2, queues: 2, ports: Some(PORTS), tcp_closing: 1 };
    for family in FAMILIES {
        let name = format!("many-{}", family.nft);
        connect_and_close(&World::new(&name, &Translator::Spillway(&options), family, &OVER_IPV4));
    }
}

fn connect_and_close(world: &World) {
    let family = world.family;
    let _server = serve(world);
    for count in [CONNECTIONS, LATER_CONNECTIONS] {
        let mut connections = Connections::open(world, count);
        let ports = connections.converse(family);
        let [first, last] = [ports.first(), ports.last()].map(|port| *port.unwrap());
        assert!((PORTS.0..=PORTS.1).contains(&first) && (PORTS.0..=PORTS.1).contains(&last));
        assert_listed(world, &ports);
        let workers = world.client().status().unwrap().workers;
        let least = count as u64 / 4;
        assert!(workers.iter().all(|worker| worker.flows > least), "{workers:?}");
        assert_nothing_dropped(world);
        drop(connections);
        wait_until("the last flow ends", Duration::from_secs(60), || flows(world) == 0);
    }
    assert_nothing_dropped(world);
}
