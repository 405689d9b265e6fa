//! Datagrams, and the errors that their senders are told of.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use spillway_testing::{Namespace, wait_until};

use super::Seen;
use crate::family::Family;
use crate::sockets::{PATIENCE, digest, pattern, udp, udp_to, word};
use crate::world::{MTU, NARROW_MTU, World};

/// The next datagram.
pub(super) fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 0xffff];
    word(socket.recv(&mut buffer).map(|length| digest(&buffer[..length])))
}

/// The next datagram, and who sent it.
pub(super) fn receive_from(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 0xffff];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram comes");
    (digest(&buffer[..length]), from)
}

/// What the kernel has learned of the way to an address.
pub(super) fn mtu(namespace: &Namespace, address: IpAddr) -> String {
    let route = namespace.run(["ip", "route", "get", &address.to_string()]);
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    format!("mtu {}", words.nth(1).unwrap_or("as the device's"))
}

/// Makes the kernel forget that.
pub(super) fn forget_ways(namespace: &Namespace, family: &Family) {
    let version = if family.server.is_ipv4() { "-4" } else { "-6" };
    namespace.run(["ip", version, "route", "flush", "cache"]);
}

pub(super) fn sizes(world: &World) -> Seen {
    let mut seen = Seen::default();
    let server = udp(&world.server, world.at(2000));
    let pod = udp_to(&world.pods[0], 41_000, world.at(2000));
    let fits = world.family.payload_of(world.pod_mtu);
    for length in [0, 1, 2, 511, 1200, fits - 1, fits] {
        pod.send(&pattern(5, length)).unwrap();
        let (question, from) = receive_from(&server);
        seen.note("server", format!("{question} from {from}"));
        server.send_to(&pattern(6, length), from).unwrap();
        seen.note("pod", receive(&pod));
    }
    seen
}

/// Routers do not cut packets of IPv6: the server's kernel learns what fits by losing one.
fn learn_the_tunnel(world: &World, server: &UdpSocket, pod: SocketAddr) {
    let fits = format!("mtu {}", world.pod_mtu);
    if mtu(&world.server, pod.ip()) != fits {
        server.send_to(&pattern(13, world.family.payload_of(MTU)), pod).unwrap();
    }
    wait_until("the server knows what fits the tunnel", PATIENCE, || {
        mtu(&world.server, pod.ip()) == fits
    });
}

pub(super) fn fragments(world: &World) -> Seen {
    let mut seen = Seen::default();
    let server = udp(&world.server, world.at(2008));
    let pod = udp_to(&world.pods[0], 41_008, world.at(2008));
    let [pods, servers] = [world.pod_mtu, MTU].map(|mtu| world.family.payload_of(mtu));
    // What just does not fit one packet of the pod's, and of the server's.
    for (question, answer) in [(pods + 1, servers + 1), (4000, 4000), (8000, 8000)] {
        pod.send(&pattern(11, question)).unwrap();
        let (question, from) = receive_from(&server);
        seen.note("server", format!("{question} from {from}"));
        if world.family.server.is_ipv6() {
            learn_the_tunnel(world, &server, from);
        }
        server.send_to(&pattern(12, answer), from).unwrap();
        seen.note("pod", receive(&pod));
    }
    seen
}

pub(super) fn two_pods_one_port(world: &World) -> Seen {
    let mut seen = Seen::default();
    let server = udp(&world.server, world.at(2001));
    let pods = world.pods.each_ref().map(|pod| udp_to(pod, 41_001, world.at(2001)));
    for round in 0..2 {
        for (pod, number) in pods.iter().zip(0..) {
            pod.send(&[number, round]).unwrap();
            let (question, from) = receive_from(&server);
            let port = if from.port() == 41_001 { "its own port" } else { "another port" };
            seen.note("server", format!("{question} from {}, {port}", from.ip()));
            server.send_to(&[round, number], from).unwrap();
            seen.note("pod", receive(pod));
        }
    }
    seen
}

pub(super) fn refused_then_open(world: &World) -> Seen {
    let mut seen = Seen::default();
    let pod = udp_to(&world.pods[0], 41_002, world.at(2002));
    pod.send(b"nobody?").unwrap();
    seen.note("pod", receive(&pod));
    let server = udp(&world.server, world.at(2002));
    pod.send(b"somebody?").unwrap();
    let (question, from) = receive_from(&server);
    seen.note("server", format!("{question} from {from}"));
    server.send_to(b"yes", from).unwrap();
    seen.note("pod", receive(&pod));
    seen
}

pub(super) fn pods_port_is_closed(world: &World) -> Seen {
    let mut seen = Seen::default();
    let server = udp_to(&world.server, 2003, SocketAddr::new(world.family.egress, 41_003));
    let pod = udp_to(&world.pods[0], 41_003, world.at(2003));
    pod.send(b"I am off").unwrap();
    seen.note("server", receive(&server));
    // As good as closed for the server, and at once, which a closed socket is not: a process that another
    // test begins may have a copy of it.
    pod.connect(world.at(2009)).unwrap();
    server.send(b"wait").unwrap();
    seen.note("server", receive(&server));
    seen
}

pub(super) fn routers_refuse(world: &World) -> Seen {
    let mut seen = Seen::default();
    let Family { unreachable, prohibited, .. } = world.family;
    for (port, address) in [(41_004, *unreachable), (41_010, *prohibited)] {
        let pod = udp_to(&world.pods[0], port, SocketAddr::new(address, 2004));
        pod.send(b"through?").unwrap();
        // A connected socket is told only of some errors: the kernel's list, and the same for all.
        pod.set_read_timeout(Some(crate::sockets::SILENCE)).unwrap();
        let told = receive(&pod);
        seen.note("pod", if told == "silence" { "not told".to_owned() } else { told });
    }
    seen
}

pub(super) fn too_large_for_the_way(world: &World) -> Seen {
    let mut seen = Seen::default();
    let server = udp(&world.server, world.at(2005));
    // From the other pod: its kernel has learned nothing of the way yet.
    let pod = udp_to(&world.pods[1], 41_005, SocketAddr::new(world.family.narrow, 2005));
    seen.note("pod", mtu(&world.pods[1], world.family.narrow));
    pod.send(&pattern(7, 1400)).unwrap();
    seen.note("pod", receive(&pod));
    seen.note("pod", mtu(&world.pods[1], world.family.narrow));
    pod.send(&pattern(8, world.family.payload_of(NARROW_MTU))).unwrap();
    // Only what fits has come.
    seen.note("server", receive(&server));
    seen
}

pub(super) fn too_large_for_the_tunnel(world: &World) -> Seen {
    let mut seen = Seen::default();
    forget_ways(&world.server, world.family);
    let server = udp_to(&world.server, 2006, SocketAddr::new(world.family.egress, 41_006));
    let pod = udp_to(&world.pods[0], 41_006, world.at(2006));
    pod.send(b"as much as fits").unwrap();
    seen.note("server", receive(&server));
    server.send(&pattern(9, world.family.payload_of(MTU))).unwrap();
    seen.note("server", receive(&server));
    seen.note("server", mtu(&world.server, world.family.egress));
    server.send(&pattern(10, world.family.payload_of(world.pod_mtu))).unwrap();
    seen.note("pod", receive(&pod));
    seen
}

pub(super) fn cut_for_the_tunnel(world: &World) -> Seen {
    let mut seen = Seen::default();
    // The next socket's packets may be fragmented on their way, and it learns nothing of it.
    world.server.sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    forget_ways(&world.server, world.family);
    let server = udp(&world.server, world.at(2007));
    world.server.sysctl("net/ipv4/ip_no_pmtu_disc", "0");
    let pod = udp_to(&world.pods[0], 41_007, world.at(2007));
    for round in 1..=3 {
        pod.send(b"in pieces").unwrap();
        let (question, from) = receive_from(&server);
        seen.note("server", format!("{question} from {from}"));
        server.send_to(&pattern(2 * round, world.family.payload_of(MTU)), from).unwrap();
        seen.note("pod", receive(&pod));
    }
    seen
}
