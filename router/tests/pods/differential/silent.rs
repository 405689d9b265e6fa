//! What Spillway says nothing to, and the kernel does.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpSlice};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, ipproto, recvfrom, sendto, socket,
};
use spillway_testing::Namespace;

use super::udp::{receive, receive_from};
use super::{Seen, icmp};
use crate::family::Family;
use crate::sockets::{SILENCE, tcp_within, udp, udp_to, word};
use crate::world::World;

const MIDSTREAM_PORT: u16 = 40_300;

pub(super) fn unasked_tcp(world: &World) -> Seen {
    let mut seen = Seen::default();
    let connected =
        tcp_within(SILENCE, &world.server, 0, SocketAddr::new(world.family.egress, 42_000));
    seen.note("server", word(connected.map(|_| "connected")));
    seen
}

pub(super) fn unasked_udp(world: &World) -> Seen {
    let mut seen = Seen::default();
    let server = udp_to(&world.server, 3001, SocketAddr::new(world.family.egress, 42_001));
    server.set_read_timeout(Some(SILENCE)).unwrap();
    server.send(b"anybody?").unwrap();
    seen.note("server", receive(&server));
    seen
}

/// A pod that listens to everyone hears only whom it asked.
pub(super) fn answer_of_another(world: &World) -> Seen {
    let mut seen = Seen::default();
    let (asked, other) = (udp(&world.server, world.at(3002)), udp(&world.server, world.at(3003)));
    let pod = udp(&world.pods[0], world.at(42_002));
    pod.send_to(b"question", world.at(3002)).unwrap();
    let (_, from) = receive_from(&asked);
    other.connect(from).unwrap();
    other.set_read_timeout(Some(SILENCE)).unwrap();
    pod.set_read_timeout(Some(SILENCE)).unwrap();
    other.send(b"not asked").unwrap();
    seen.note("pod", receive(&pod));
    seen.note("server", receive(&other));
    seen
}

/// A socket of the namespace for whole packets, or for all segments of TCP that come.
pub(super) fn raw_socket(namespace: &Namespace, family: &Family, protocol: Protocol) -> OwnedFd {
    let domain = if family.server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    namespace.enter(|| socket(domain, SocketType::RAW, Some(protocol)).unwrap())
}

/// The first segment to a port that comes within [`SILENCE`].
fn segment_to(port: u16, socket: &OwnedFd, family: &Family) -> String {
    let end = Instant::now() + SILENCE;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        set_socket_timeout(socket, Timeout::Recv, Some(left.max(SILENCE / 100))).unwrap();
        let mut packet = [0; 2048];
        let received = recvfrom(socket, &mut packet[..], RecvFlags::empty());
        let Ok((length, _, Some(from))) = received else { continue };
        let from = SocketAddr::try_from(from).unwrap().ip();
        // Of IPv4 the kernel gives the header too.
        let header = if from.is_ipv4() { family.header } else { 0 };
        let tcp = TcpSlice::from_slice(&packet[header..length]).unwrap();
        match (tcp.destination_port() == port, tcp.rst()) {
            (true, true) => return "a RST".to_owned(),
            (true, false) if from == family.egress => {
                return format!("a segment from the egress address's port {}", tcp.source_port());
            }
            (true, false) => return format!("a segment from {from}:{}", tcp.source_port()),
            (false, _) => {}
        }
    }
    "silence".to_owned()
}

pub(super) fn midstream(world: &World) -> Seen {
    let mut seen = Seen::default();
    let (family, pod) = (world.family, &world.pods[0]);
    let at_server = raw_socket(&world.server, family, ipproto::TCP);
    let at_pod = raw_socket(pod, family, ipproto::TCP);
    let mut packet = Vec::new();
    ip_builder(family.pods[0], family.server)
        .tcp(MIDSTREAM_PORT, 3004, 1000, 64_000)
        .ack(2000)
        .psh()
        .write(&mut packet, b"in the middle")
        .unwrap();
    let raw = raw_socket(pod, family, ipproto::RAW);
    let to = SocketAddr::new(family.server, 0);
    sendto(&raw, &packet, SendFlags::empty(), &to).unwrap();
    seen.note("server", segment_to(3004, &at_server, family));
    seen.note("pod", segment_to(MIDSTREAM_PORT, &at_pod, family));
    seen
}

/// A packet of either family.
fn ip_builder(source: IpAddr, destination: IpAddr) -> PacketBuilderStep<IpHeaders> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
        }
        _ => panic!("no packet is from {source} to {destination}"),
    }
}

pub(super) fn options(world: &World) -> Seen {
    let mut seen = Seen::default();
    seen.note(
        "pod",
        icmp::replies(&world.pods[0], &format!("-R -c 1 -W 1 {}", world.family.server)),
    );
    seen
}
