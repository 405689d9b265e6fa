//! Mutated valid frames from the node and from the outside, while real traffic goes on: nothing
//! stops, nothing leaks, nothing grows.
//!
//! Sockets send most mutants: VXLAN and what is in it, and all behind an IP header. A BPF program
//! sends, more slowly, those whose Ethernet, outer IP and UDP headers are changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etherparse::{IpNumber, PacketBuilder};
use rustix::net::{SendFlags, sendto};

use spillway_api::IpFamily;
use spillway_testing::{Namespace, bind_udp};
use spillway_xdp::device::probe;

use crate::packets::{answered, egress, frame, ip_header, on_the_wire, server};
use crate::{GATEWAY, NODE, POD_MAC, Rig, SERVER_PORT, live, raw_socket};

/// The pod whose frames are mutated, by its two addresses: real traffic is that of others.
pub(crate) const PODS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 1, 44)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xdb8, 1, 0, 0, 0, 0, 44)),
];

/// How long it goes on.
const DURATION: Duration = Duration::from_secs(60);

/// How much more memory the router may have at the end than after a warm-up, in KiB.
const GROWTH_KIB_MAX: u64 = 4096;

/// Frames between two pauses of the mutators: real traffic shall find room in every buffer.
const BURST: u32 = 16;
const PAUSE: Duration = Duration::from_millis(1);

/// Mutants of one frame that differ in the outer headers only.
const COPIES: u32 = 64;

/// A small generator of numbers with a fixed seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// Changes up to four bytes from `first` on, and now and then cuts the end off.
    fn mutate(&mut self, packet: &mut Vec<u8>, first: usize) {
        for _ in 0..=self.below(4) {
            let at = first + self.below(packet.len() - first);
            packet[at] = self.below(256) as u8;
        }
        if self.below(8) == 0 {
            packet.truncate(first + self.below(packet.len() - first));
        }
    }
}

/// An ICMP error, about the path's MTU or about time.
fn error(family: IpFamily, is_too_large: bool, quoted: &[u8]) -> Vec<u8> {
    let head = match (family, is_too_large) {
        (IpFamily::V4, true) => [3, 4, 0, 0, 0, 0, 5, 0x78],
        (IpFamily::V4, false) => [11, 0, 0, 0, 0, 0, 0, 0],
        (IpFamily::V6, true) => [2, 0, 0, 0, 0, 0, 5, 0x78],
        (IpFamily::V6, false) => [3, 0, 0, 0, 0, 0, 0, 0],
    };
    [&head, quoted].concat()
}

/// ICMP of a family.
fn icmp(family: IpFamily) -> IpNumber {
    match family {
        IpFamily::V4 => IpNumber::ICMP,
        IpFamily::V6 => IpNumber::IPV6_ICMP,
    }
}

fn either(random: &mut Random) -> IpFamily {
    IpFamily::ALL[random.below(2)]
}

/// What the pod sends, as the payload of the tunnel's UDP: VXLAN and the inner frame.
fn pod_frame(random: &mut Random) -> Vec<u8> {
    let family = either(random);
    let (pod, server) = (PODS[family as usize], server(family));
    let mut frame = vec![8, 0, 0, 0, 0, 0x9c, 0x40, 0];
    let builder =
        PacketBuilder::ethernet2(POD_MAC, [2, 0, 0, 0, 0, 1]).ip(ip_header(pod, server, 63));
    let (source, port) = (1024 + random.below(4096) as u16, 9 + random.below(64) as u16);
    match random.below(4) {
        0 => builder.tcp(source, port, 1, 64_000).syn().write(&mut frame, &[]),
        1 if family == IpFamily::V4 => {
            builder.icmpv4_echo_request(source, 1).write(&mut frame, b"ping")
        }
        1 => builder.icmpv6_echo_request(source, 1).write(&mut frame, b"ping"),
        2 => {
            let quoted = packet((server, port), (pod, source));
            builder.write(&mut frame, icmp(family), &error(family, true, &quoted))
        }
        _ => builder.udp(source, port).write(&mut frame, b"payload"),
    }
    .unwrap();
    frame
}

/// An IP packet with UDP.
fn packet(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ip(ip_header(source.0, destination.0, 63))
        .udp(source.1, destination.1)
        .write(&mut packet, b"payload")
        .unwrap();
    packet
}

/// What the outside sends to the egress address: answers, and errors about packets.
fn reply_packet(random: &mut Random, family: IpFamily) -> Vec<u8> {
    let (server, egress) = (server(family), egress(family));
    let (leased, port) = (1024 + random.below(4096) as u16, 9 + random.below(64) as u16);
    if random.below(2) == 0 {
        return packet((server, port), (egress, leased));
    }
    let error = error(family, false, &packet((egress, leased), (server, port)));
    let mut packet = Vec::new();
    PacketBuilder::ip(ip_header(server, egress, 63))
        .write(&mut packet, icmp(family), &error)
        .unwrap();
    packet
}

/// Ends the other threads however this one ends.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Calls `send` in bursts until `stop`, and counts. The kernel refuses some: that is no matter.
fn flood(stop: &AtomicBool, sent: &AtomicU64, mut send: impl FnMut()) {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            send();
            sent.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Sends copies of the frames that `make` gives, each changed in its first headers, until `stop`.
fn flood_outer(
    namespace: &Namespace,
    stop: &AtomicBool,
    sent: &AtomicU64,
    mut make: impl FnMut() -> Vec<u8> + Send,
) {
    namespace.enter(|| {
        let object = live::load("mutate.bpf.c");
        let mutate = live::program(&object, "mutate");
        while !stop.load(Ordering::Relaxed) {
            live::send(&mutate, &make(), COPIES);
            sent.fetch_add(COPIES.into(), Ordering::Relaxed);
        }
    });
}

/// Asks through one flow and waits for its answer; answers to mutants are none.
fn ask(outer: &UdpSocket, answers: &UdpSocket, flow: u16, round: u16) {
    for _ in 0..3 {
        outer.send_to(&frame(flow, round), (GATEWAY, 8472)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline {
            let mut datagram = [0; 2048];
            let Ok((length, _)) = answers.recv_from(&mut datagram) else { break };
            if answered(&datagram[..length]) == Some((flow, round)) {
                return;
            }
        }
    }
    panic!("flow {flow} gets no answer in round {round}");
}

/// Answers every datagram, mutants too, until `stop`; whoever asks must be the egress address.
fn serve(server: &UdpSocket, egress: IpAddr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut payload = [0; 2048];
        let Ok((length, from)) = server.recv_from(&mut payload) else { continue };
        assert_eq!(from.ip(), egress, "seen outside");
        let _ = server.send_to(&payload[..length], from);
    }
}

/// The memory of a process, in KiB.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Floods from both sides and real traffic through a few flows, for `duration`.
fn go_on(rig: &Rig, duration: Duration) -> u64 {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (node_socket, outer, answers) = rig.node.enter(|| {
        let answers = bind_udp((NODE, 8472));
        answers.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        (bind_udp((NODE, 0)), bind_udp((NODE, 0)), answers)
    });
    let (raw, servers) = rig.outside.enter(|| {
        let bind = |family| {
            let server = bind_udp((server(family), SERVER_PORT));
            server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            server
        };
        (IpFamily::ALL.map(raw_socket), IpFamily::ALL.map(bind))
    });
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| {
            let mut random = Random(0x5eed);
            flood(&stop, &sent, || {
                let mut frame = pod_frame(&mut random);
                // The VXLAN header too: what steering cannot classify it must drop.
                random.mutate(&mut frame, 0);
                let _ = node_socket.send_to(&frame, (GATEWAY, 8472));
            });
        });
        scope.spawn(|| {
            let mut random = Random(0xfeed);
            flood(&stop, &sent, || {
                let family = either(&mut random);
                let mut packet = reply_packet(&mut random, family);
                // Behind the version and the addresses, which the kernel needs to send it.
                random.mutate(&mut packet, if family == IpFamily::V4 { 20 } else { 40 });
                let to = SocketAddr::new(egress(family), 0);
                let _ = sendto(&raw[family as usize], &packet, SendFlags::empty(), &to);
            });
        });
        scope.spawn(|| {
            let mut random = Random(0x0dd);
            let make = || on_the_wire(rig, &pod_frame(&mut random));
            flood_outer(&rig.node, &stop, &sent, make);
        });
        scope.spawn(|| {
            let mut random = Random(0xbad);
            let to = rig.gateway.enter(|| probe("out")).unwrap().mac;
            let from = rig.outside.enter(|| probe("eth0")).unwrap().mac;
            let make = || {
                let family = either(&mut random);
                let ether_type = if family == IpFamily::V4 { [8, 0] } else { [0x86, 0xdd] };
                [&to[..], &from, &ether_type, &reply_packet(&mut random, family)].concat()
            };
            flood_outer(&rig.outside, &stop, &sent, make);
        });
        for (server, egress) in servers.iter().zip(IpFamily::ALL.map(egress)) {
            let stop = &stop;
            scope.spawn(move || serve(server, egress, stop));
        }
        let (end, mut round) = (Instant::now() + duration, 0);
        // The flows whose server port is the first, four of each family.
        while Instant::now() < end {
            for flow in [0, 1, 2, 3, 8, 9, 10, 11] {
                ask(&outer, &answers, flow, round);
            }
            round = u16::wrapping_add(round, 1);
        }
    });
    sent.into_inner()
}

#[test]
fn mutated_frames_from_both_sides_do_no_harm() {
    let mut rig = Rig::new("mutated", true);
    go_on(&rig, Duration::from_secs(2));
    let before = resident_kib(rig.spillway.id());
    let sent = go_on(&rig, DURATION);
    assert!(rig.spillway.is_running());
    let after = resident_kib(rig.spillway.id());
    assert!(after <= before + GROWTH_KIB_MAX, "{before} KiB have become {after} KiB");

    // The mutants did reach the engine and steering, and died there by many names.
    let drops = rig.client().drops().unwrap();
    let engine: Vec<_> = drops.engine.iter().filter(|drop| drop.packets > 0).collect();
    assert!(engine.len() >= 8, "only {engine:?} of {sent} mutants");
    let steering = drops.steering.iter().filter(|outcome| outcome.packets > 0);
    let steering: Vec<_> = steering.map(|outcome| outcome.outcome.as_str()).collect();
    for outer in ["drop-unknown-peer", "drop-outer-fragment", "drop-no-vni", "pass-host"] {
        assert!(steering.contains(&outer), "no {outer} among {steering:?}");
    }
    let wrong_worker = engine.iter().find(|drop| drop.reason == "wrong-worker");
    assert!(wrong_worker.is_none(), "{wrong_worker:?}");
}
