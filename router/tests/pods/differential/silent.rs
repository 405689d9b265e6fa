//! What Spillway says nothing to, and the kernel does.

use std::net::SocketAddrV4;
use std::time::Instant;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};
use spillway_testing::Namespace;

use super::udp::{receive, receive_from};
use super::{Seen, icmp};
use crate::sockets::{SILENCE, tcp_within, udp, udp_to, word};
use crate::world::{EGRESS, PODS, SERVER, World, at};

const MIDSTREAM_PORT: u16 = 40_300;

pub(super) fn unasked_tcp(world: &World) -> Seen {
    let mut seen = Seen::default();
    let connected = tcp_within(SILENCE, &world.server, 0, SocketAddrV4::new(EGRESS, 42_000));
    seen.note("server", word(connected.map(|_| "connected")));
    seen
}

pub(super) fn unasked_udp(world: &World) -> Seen {
    let mut seen = Seen::default();
    let server = udp_to(&world.server, 3001, SocketAddrV4::new(EGRESS, 42_001));
    server.set_read_timeout(Some(SILENCE)).unwrap();
    server.send(b"anybody?").unwrap();
    seen.note("server", receive(&server));
    seen
}

/// A pod that listens to everyone hears only whom it asked.
pub(super) fn answer_of_another(world: &World) -> Seen {
    let mut seen = Seen::default();
    let (asked, other) = (udp(&world.server, 3002), udp(&world.server, 3003));
    let pod = udp(&world.pods[0], 42_002);
    pod.send_to(b"question", at(3002)).unwrap();
    let (_, from) = receive_from(&asked);
    other.connect(from).unwrap();
    other.set_read_timeout(Some(SILENCE)).unwrap();
    pod.set_read_timeout(Some(SILENCE)).unwrap();
    other.send(b"not asked").unwrap();
    seen.note("pod", receive(&pod));
    seen.note("server", receive(&other));
    seen
}

/// Sees each TCP segment that comes to the namespace.
fn segments(namespace: &Namespace) -> OwnedFd {
    namespace.enter(|| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP)).unwrap())
}

/// The first segment to a port that comes within [`SILENCE`].
fn segment_to(port: u16, socket: &OwnedFd) -> String {
    let end = Instant::now() + SILENCE;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        set_socket_timeout(socket, Timeout::Recv, Some(left.max(SILENCE / 100))).unwrap();
        let mut packet = [0; 2048];
        let Ok((length, _)) = recv(socket, &mut packet[..], RecvFlags::empty()) else { continue };
        let packet = SlicedPacket::from_ip(&packet[..length]).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { continue };
        let ip = packet.net.as_ref().unwrap().ipv4_ref().unwrap().header();
        match (tcp.destination_port() == port, tcp.rst()) {
            (true, true) => return "a RST".to_owned(),
            (true, false) => {
                return format!("a segment from {}:{}", ip.source_addr(), tcp.source_port());
            }
            (false, _) => {}
        }
    }
    "silence".to_owned()
}

pub(super) fn midstream(world: &World) -> Seen {
    let mut seen = Seen::default();
    let (at_server, at_pod) = (segments(&world.server), segments(&world.pods[0]));
    let raw = world.pods[0]
        .enter(|| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).unwrap());
    let mut packet = Vec::new();
    PacketBuilder::ipv4(PODS[0].octets(), SERVER.octets(), 64)
        .tcp(MIDSTREAM_PORT, 3004, 1000, 64_000)
        .ack(2000)
        .psh()
        .write(&mut packet, b"in the middle")
        .unwrap();
    let to = SocketAddrV4::new(SERVER, 0);
    sendto(&raw, &packet, SendFlags::empty(), &to).unwrap();
    seen.note("server", segment_to(3004, &at_server));
    seen.note("pod", segment_to(MIDSTREAM_PORT, &at_pod));
    seen
}

pub(super) fn options(world: &World) -> Seen {
    let mut seen = Seen::default();
    seen.note("pod", icmp::replies(&world.pods[0], &format!("-R -c 1 -W 1 {SERVER}")));
    seen
}
