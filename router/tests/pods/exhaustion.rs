//! A shared egress address whose ports towards one remote are all leased, to the last.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use spillway_api::{TraceProtocol, TraceRequest, TraceStep};
use spillway_testing::wait_until;

use crate::family::{FAMILIES, Family};
use crate::sockets::{SILENCE, accept, listen, tcp, tcp_within, word};
use crate::underlay::OVER_IPV4;
use crate::world::{Options, Translator, World};

/// How many workers share the range, one router after the other. With several, one that has no port
/// left lets another adopt the flow.
const WORKERS: &[u8] = &[1, 2];

/// The egress address's range.
const FIRST: u16 = 20_000;
const LAST: u16 = 20_299;

/// The remote, and another one: the same server's next port.
const REMOTE: u16 = 443;
const OTHER_REMOTE: u16 = 444;

/// A connection that is open: the pod's end, the server's, and the leased port.
struct Leased {
    pod: TcpStream,
    server: TcpStream,
    port: u16,
}

impl Leased {
    /// By a connection from one of the pods, 0 or 1.
    fn new(world: &World, pod: usize, remote: &TcpListener) -> Self {
        let port = remote.local_addr().unwrap().port();
        let pod = tcp(&world.pods[pod], 0, world.at(port)).expect("there is a port left");
        let server = accept(remote);
        let port = server.peer_addr().unwrap().port();
        Self { pod, server, port }
    }

    /// There and back.
    fn use_it(&mut self) {
        let mut buffer = [0; 4];
        self.pod.write_all(b"ping").unwrap();
        self.server.read_exact(&mut buffer).expect("its packets leave");
        self.server.write_all(&buffer).unwrap();
        self.pod.read_exact(&mut buffer).expect("its answers return");
    }

    fn close(self) {
        let Self { pod, mut server, .. } = self;
        drop(pod);
        assert_eq!(server.read(&mut [0; 4]).unwrap(), 0, "the pod has closed");
    }
}

/// Packets that found no port.
fn refused(world: &World) -> u64 {
    let drops = world.client().drops().unwrap().engine;
    drops.iter().find(|drop| drop.reason == "ports-exhausted").unwrap().packets
}

fn flows(world: &World) -> u64 {
    world.client().status().unwrap().workers.iter().map(|worker| worker.flows).sum()
}

/// No connection comes about, and that is counted.
fn assert_exhausted(world: &World, pod: usize) {
    let before = refused(world);
    let connected = tcp_within(SILENCE, &world.pods[pod], 0, world.at(REMOTE));
    assert_eq!(word(connected.map(|_| "connected")), "silence");
    assert!(refused(world) > before);
}

/// What the last step of a trace says of a pod's packet to the remote: verdict and why; and its flow.
fn traced(world: &World, pod: SocketAddr) -> (String, String, String) {
    let remote = world.at(REMOTE);
    let trace = world.client().trace(TraceRequest {
        from: pod.ip(),
        to: remote.ip(),
        protocol: TraceProtocol::Tcp,
        from_port: Some(pod.port()),
        to_port: Some(remote.port()),
        size: None,
        peer: None,
        may_fragment: false,
    });
    let steps = trace.unwrap().steps;
    let flow = steps.iter().find(|step| step.step == "flow").unwrap().detail.clone();
    let TraceStep { verdict, detail, .. } = steps.last().unwrap();
    (verdict.clone(), detail.clone(), flow)
}

/// A trace finds the flow, whichever worker it lives with.
fn assert_traced(world: &World, leased: &Leased) {
    let pod = leased.pod.local_addr().unwrap();
    let public = SocketAddr::new(world.family.egress, leased.port);
    let (verdict, why, flow) = traced(world, pod);
    assert_eq!(verdict, "sent", "{why}");
    assert!(flow.contains(&format!("{pod} to {} as {public},", world.at(REMOTE))), "{flow}");
}

/// No worker has a port left for a new flow, and a trace says so before anybody has been refused.
fn assert_foreseen(world: &World) {
    let (verdict, why, _) = traced(world, SocketAddr::new(world.family.pods[0], FIRST - 1));
    assert_eq!(verdict, "dropped");
    assert!(why.starts_with("ports-exhausted: "), "{why}");
}

fn exhaust(workers: u8, family: &'static Family) {
    let options = Options { workers, queues: 2, ports: Some((FIRST, LAST)), tcp_closing: 1 };
    let name = format!("last{workers}{}", family.nft);
    let world = World::new(&name, &Translator::Spillway(&options), family, &OVER_IPV4);
    let remote = listen(&world.server, world.at(REMOTE));
    let all: BTreeSet<u16> = (FIRST..=LAST).collect();
    let mut leased: Vec<Leased> =
        (0..all.len()).map(|number| Leased::new(&world, number % 2, &remote)).collect();
    assert_eq!(leased.iter().map(|leased| leased.port).collect::<BTreeSet<_>>(), all);
    assert_foreseen(&world);
    leased.iter().for_each(|leased| assert_traced(&world, leased));
    assert_eq!(refused(&world), 0);

    assert_exhausted(&world, 0);
    assert_foreseen(&world);
    assert_exhausted(&world, 1);
    leased.iter_mut().for_each(Leased::use_it);
    assert_eq!(flows(&world), all.len() as u64, "what was refused left nothing behind");

    let mut elsewhere = Leased::new(&world, 0, &listen(&world.server, world.at(OTHER_REMOTE)));
    elsewhere.use_it();

    // One ends: the next, of the other pod, has its port.
    let ended = leased.swap_remove(all.len() / 2);
    let port = ended.port;
    ended.close();
    wait_until("the flow ends", Duration::from_secs(30), || flows(&world) == all.len() as u64);
    let mut next = Leased::new(&world, 1, &remote);
    assert_eq!(next.port, port);
    next.use_it();
    leased.push(next);
    assert_exhausted(&world, 0);
    leased.iter_mut().for_each(Leased::use_it);
}

#[test]
fn every_port_of_a_range_is_leased_before_one_connection_is_refused() {
    for (workers, family) in WORKERS.iter().flat_map(|workers| FAMILIES.map(|of| (*workers, of))) {
        exhaust(workers, family);
    }
}
