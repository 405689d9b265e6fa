//! Connections: opened, used, closed in every way, and opened again.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use spillway_testing::wait_until;

use super::Seen;
use crate::sockets::{PATIENCE, accept, digest, listen, pattern, reset, tcp, word};
use crate::world::World;

/// A transfer in one direction.
const BYTES: usize = 1 << 20;

/// A connection from pod-a's port to the server's, accepted. The port's last connection may wait for
/// its last acknowledgement still.
fn open(world: &World, listener: &TcpListener, port: u16, to: SocketAddr) -> [TcpStream; 2] {
    let mut pod = None;
    wait_until("the pod's port is free again", PATIENCE, || {
        let connected = tcp(&world.pods[0], port, to);
        let is_taken = |error: &std::io::Error| error.kind() == ErrorKind::AddrNotAvailable;
        let is_free = !connected.as_ref().is_err_and(is_taken);
        pod = Some(connected);
        is_free
    });
    [pod.unwrap().expect("the pod connects"), accept(listener)]
}

fn peer(stream: &TcpStream) -> SocketAddr {
    stream.peer_addr().unwrap()
}

/// Reads to the end; what arrived, or why it ended early.
fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    word(stream.read_to_end(&mut bytes).map(|_| digest(&bytes)))
}

/// Sends while the other end reads, then says that this end is done.
fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) -> String {
    std::thread::scope(|scope| {
        let read = scope.spawn(|| read_all(to));
        let sent = from.write_all(bytes).and_then(|()| from.shutdown(Shutdown::Write));
        format!("{}, {}", word(sent.map(|()| "all sent")), read.join().unwrap())
    })
}

/// One question, one answer.
fn talk(seen: &mut Seen, pod: &mut TcpStream, server: &mut TcpStream) {
    let mut buffer = [0; 8];
    pod.write_all(b"question").unwrap();
    seen.note("server", word(server.read_exact(&mut buffer).map(|()| digest(&buffer))));
    server.write_all(b"answered").unwrap();
    seen.note("pod", word(pod.read_exact(&mut buffer).map(|()| digest(&buffer))));
}

/// The next read, which nothing more comes for.
fn next(stream: &mut TcpStream) -> String {
    word(stream.read(&mut [0; 8]))
}

fn there_and_back(world: &World, port: u16, to: SocketAddr) -> Seen {
    let mut seen = Seen::default();
    let listener = listen(&world.server, to);
    let [mut pod, mut server] = open(world, &listener, port, to);
    seen.note("server", format!("from {}", peer(&server)));
    seen.note("pod", format!("to {}", peer(&pod)));
    seen.note("pod to server", send(&mut pod, &mut server, &pattern(1, BYTES)));
    // The connection is half closed now.
    seen.note("server to pod", send(&mut server, &mut pod, &pattern(2, BYTES)));
    seen
}

pub(super) fn transfer(world: &World) -> Seen {
    there_and_back(world, 40_000, world.at(1000))
}

pub(super) fn narrow(world: &World) -> Seen {
    let mut seen = there_and_back(world, 40_001, SocketAddr::new(world.family.narrow, 1001));
    seen.note("pod", super::udp::mtu(&world.pods[0], world.family.narrow));
    seen
}

pub(super) fn server_is_done_first(world: &World) -> Seen {
    let mut seen = Seen::default();
    let listener = listen(&world.server, world.at(1002));
    let [mut pod, mut server] = open(world, &listener, 40_002, world.at(1002));
    seen.note("server to pod", send(&mut server, &mut pod, &pattern(3, BYTES)));
    seen.note("pod to server", send(&mut pod, &mut server, &pattern(4, BYTES)));
    seen
}

pub(super) fn both_close(world: &World) -> Seen {
    let mut seen = Seen::default();
    let listener = listen(&world.server, world.at(1003));
    let [mut pod, mut server] = open(world, &listener, 40_003, world.at(1003));
    talk(&mut seen, &mut pod, &mut server);
    pod.shutdown(Shutdown::Write).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    seen.note("server", next(&mut server));
    seen.note("pod", next(&mut pod));
    seen
}

pub(super) fn pod_resets(world: &World) -> Seen {
    let mut seen = Seen::default();
    let listener = listen(&world.server, world.at(1004));
    let [mut pod, mut server] = open(world, &listener, 40_004, world.at(1004));
    talk(&mut seen, &mut pod, &mut server);
    reset(pod);
    seen.note("server", next(&mut server));
    seen
}

pub(super) fn server_resets(world: &World) -> Seen {
    let mut seen = Seen::default();
    let listener = listen(&world.server, world.at(1005));
    let [mut pod, mut server] = open(world, &listener, 40_005, world.at(1005));
    talk(&mut seen, &mut pod, &mut server);
    reset(server);
    seen.note("pod", next(&mut pod));
    seen
}

pub(super) fn refused(world: &World) -> Seen {
    let mut seen = Seen::default();
    // Twice: the first refusal leaves a flow behind.
    for _ in 0..2 {
        let refused = tcp(&world.pods[0], 40_006, world.at(1006)).map(|_| "connected");
        seen.note("pod", word(refused));
    }
    let listener = listen(&world.server, world.at(1006));
    let [mut pod, mut server] = open(world, &listener, 40_006, world.at(1006));
    seen.note("server", format!("from {}", peer(&server)));
    talk(&mut seen, &mut pod, &mut server);
    seen
}

pub(super) fn again_after_reset(world: &World) -> Seen {
    let mut seen = Seen::default();
    let listener = listen(&world.server, world.at(1007));
    for _ in 0..3 {
        let [mut pod, mut server] = open(world, &listener, 40_007, world.at(1007));
        seen.note("server", format!("from {}", peer(&server)));
        talk(&mut seen, &mut pod, &mut server);
        reset(pod);
        seen.note("server", next(&mut server));
    }
    seen
}

pub(super) fn again_after_close(world: &World) -> Seen {
    let mut seen = Seen::default();
    let listener = listen(&world.server, world.at(1008));
    for _ in 0..3 {
        let [mut pod, mut server] = open(world, &listener, 40_008, world.at(1008));
        seen.note("server", format!("from {}", peer(&server)));
        talk(&mut seen, &mut pod, &mut server);
        // Who closes first waits (TIME-WAIT): the server, so that the pod may use its port again.
        server.shutdown(Shutdown::Write).unwrap();
        seen.note("pod", next(&mut pod));
        pod.shutdown(Shutdown::Write).unwrap();
        seen.note("server", next(&mut server));
    }
    seen
}

pub(super) fn two_pods_one_port(world: &World) -> Seen {
    let mut seen = Seen::default();
    let listener = listen(&world.server, world.at(1009));
    let mut pairs: Vec<[TcpStream; 2]> = world
        .pods
        .iter()
        .map(|pod| [tcp(pod, 40_009, world.at(1009)).expect("the pod connects"), accept(&listener)])
        .collect();
    for [pod, server] in &mut pairs {
        let from = peer(server);
        let port = if from.port() == 40_009 { "its own port" } else { "another port" };
        seen.note("server", format!("from {}, {port}", from.ip()));
        talk(&mut seen, pod, server);
    }
    // The one that ends leaves the other alone.
    let [mut second, first] = [pairs.pop().unwrap(), pairs.pop().unwrap()];
    let [pod, mut server] = first;
    reset(pod);
    seen.note("server", next(&mut server));
    let [pod, server] = &mut second;
    talk(&mut seen, pod, server);
    seen
}

pub(super) fn routers_refuse(world: &World) -> Seen {
    let mut seen = Seen::default();
    for address in [world.family.unreachable, world.family.prohibited] {
        let to = SocketAddr::new(address, 1010);
        seen.note("pod", word(tcp(&world.pods[0], 40_010, to).map(|_| "connected")));
    }
    seen
}
