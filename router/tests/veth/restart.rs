//! Connections that outlive the router's process: TCP and UDP of two pods of each family, with ports
//! that were kept and ports that were not; those of IPv6 also through NAT64.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use spillway_api::{Flow, IpFamily, Tuple};
use spillway_testing::{Bpffs, Namespace, bind_udp, wait_until};

use crate::packets::{egress, pod, server};
use crate::{Layout, Rig, address, configure, launch};

/// Where packets of the pods come from, in both pods: the second one's is translated to another.
const POD_PORT: u16 = 40_001;
const POD_PORT_NAT64: u16 = 40_002;
const PORT: u16 = 7;

/// IPv4's server, as pods of IPv6 know it.
const SERVER_NAT64: &str = "64:ff9b::203.0.113.10";

/// The pods, by the flows that they have elsewhere, and another.
const PODS: [u16; 4] = [0, 1, 8, 9];
const THIRD_POD: u16 = 2;

/// The outside's networks, and the gateways of the routes into the tunnel: these have no other meaning.
const TUNNELS: [(&str, &str); 3] = [
    ("203.0.113.0/24", "169.254.9.9"),
    ("2001:db8:203::/64", "fe80::9:9"),
    ("64:ff9b::/96", "fe80::9:9"),
];
const GATEWAY_MAC: &str = "02:00:00:00:09:02";

/// Whatever answers outside does so after this, unless its question was lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a connection may take to go on: TCP waits longer each time that it sends again.
const LIMIT: Duration = Duration::from_secs(30);

/// Echo servers outside, and who has spoken to them.
struct Outside {
    seen: Arc<Mutex<BTreeSet<SocketAddr>>>,
    is_over: Arc<AtomicBool>,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Outside {
    fn new(namespace: &Namespace) -> Self {
        let outside = Self { seen: Arc::default(), is_over: Arc::default() };
        for at in IpFamily::ALL.map(|family| SocketAddr::new(server(family), PORT)) {
            let (udp, tcp) = namespace.enter(|| (bind_udp(at), TcpListener::bind(at).unwrap()));
            outside.echo_datagrams(udp);
            outside.echo_streams(tcp);
        }
        outside
    }

    fn echo_datagrams(&self, udp: UdpSocket) {
        let (seen, is_over) = (Arc::clone(&self.seen), Arc::clone(&self.is_over));
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::spawn(move || {
            let mut datagram = [0; 64];
            while !is_over.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut datagram) else { continue };
                seen.lock().unwrap().insert(from);
                // An answer that no route leads to is not missed.
                let _ = udp.send_to(&datagram[..length], from);
            }
        });
    }

    fn echo_streams(&self, tcp: TcpListener) {
        let seen = Arc::clone(&self.seen);
        std::thread::spawn(move || {
            // As many as the test opens to it; their threads end with them.
            let own = tcp.local_addr().unwrap().ip();
            for _ in ends().into_iter().filter(|end| end.outside == own) {
                let (mut stream, from) = tcp.accept().unwrap();
                seen.lock().unwrap().insert(from);
                std::thread::spawn(move || {
                    let mut bytes = [0; 64];
                    while let Ok(length @ 1..) = stream.read(&mut bytes) {
                        stream.write_all(&bytes[..length]).unwrap();
                    }
                });
            }
        });
    }

    /// The addresses that were seen.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.seen.lock().unwrap().iter().map(SocketAddr::ip).collect()
    }
}

/// One node whose kernel has pods and a tunnel, and a gateway whose kernel would forward what
/// Spillway does not take.
fn make_tunnel(rig: &Rig) {
    let Rig { node, gateway, .. } = rig;
    for (namespace, mac) in [(node, "02:00:00:00:09:01"), (gateway, GATEWAY_MAC)] {
        let vxlan = ["type", "vxlan", "external", "dstport", "8472"];
        let add = ["ip", "link", "add", "vx0", "address", mac];
        namespace.run([&add[..], &vxlan[..]].concat());
        namespace.run(["ip", "link", "set", "vx0", "up", "mtu", "1450", "arp", "off"]);
    }
    for each in PODS.into_iter().chain([THIRD_POD]) {
        address(node, &pod(each).to_string(), "lo");
    }
    for (outside, via) in TUNNELS {
        node.run(["ip", "neighbour", "replace", via, "lladdr", GATEWAY_MAC, "dev", "vx0"]);
        let tunnel = ["encap", "ip", "id", "40000", "dst", "192.168.2.2", "via", via];
        let route = ["ip", "route", "add", outside];
        node.run([&route[..], &tunnel[..], &["dev", "vx0", "onlink"]].concat());
    }
    gateway.sysctl("net/ipv4/ip_forward", "1");
    gateway.sysctl("net/ipv6/conf/all/forwarding", "1");
}

/// The two ends of what a pod has open.
#[derive(Clone, Copy)]
struct Ends {
    pod: SocketAddr,
    /// The server, as the pod knows it.
    server: SocketAddr,
    /// As it knows itself.
    outside: IpAddr,
}

/// A pod speaks to the server of its family, and one of IPv6 to that of IPv4, too.
fn ends() -> Vec<Ends> {
    let own = PODS.map(|each| {
        let outside = server(IpFamily::of(pod(each)));
        let (pod, server) = (SocketAddr::new(pod(each), POD_PORT), SocketAddr::new(outside, PORT));
        Ends { pod, server, outside }
    });
    let nat64 = PODS.into_iter().filter(|each| pod(*each).is_ipv6()).map(|each| Ends {
        pod: SocketAddr::new(pod(each), POD_PORT_NAT64),
        server: SocketAddr::new(SERVER_NAT64.parse().unwrap(), PORT),
        outside: server(IpFamily::V4),
    });
    own.into_iter().chain(nat64).collect()
}

fn connect(Ends { pod, server, .. }: Ends) -> TcpStream {
    let family = if pod.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &pod).unwrap();
    rustix::net::connect(&socket, &server).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// What the pods have open.
struct Connections {
    tcp: Vec<TcpStream>,
    udp: Vec<UdpSocket>,
}

impl Connections {
    fn open(node: &Namespace) -> Self {
        node.enter(|| Self {
            tcp: ends().into_iter().map(connect).collect(),
            udp: ends().into_iter().map(speaker).collect(),
        })
    }

    /// Each goes on: what it says comes back.
    fn go_on(&mut self, word: [u8; 4]) {
        for stream in &mut self.tcp {
            stream.write_all(&word).unwrap();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).expect("the connection goes on");
            assert_eq!(answer, word);
        }
        for socket in &self.udp {
            wait_until("an answer by UDP", LIMIT, || {
                socket.send(&word).unwrap();
                let mut answer = [0; 4];
                socket.recv(&mut answer).is_ok() && answer == word
            });
        }
    }
}

fn speaker(Ends { pod, server, .. }: Ends) -> UdpSocket {
    let socket = bind_udp(pod);
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Speaks without a pause until it is over; gives the longest time without an answer.
fn longest_silence(socket: &UdpSocket, is_over: &AtomicBool) -> Duration {
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        socket.send(b"?").unwrap();
        match socket.recv(&mut [0; 4]) {
            Ok(_) => {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    longest.max(last.elapsed())
}

fn tuple(of: &Tuple) -> (SocketAddr, SocketAddr) {
    let Tuple { source, source_port, destination, destination_port } = *of;
    (SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port))
}

/// All flows but those of the third pod, in a certain order.
fn flows(rig: &Rig) -> Vec<Flow> {
    let mut flows = rig.flows();
    flows.retain(|flow| flow.original.source != pod(THIRD_POD));
    flows.sort_by_key(|flow| {
        let Tuple { source, source_port, .. } = flow.original;
        (flow.protocol.clone(), source_port, source)
    });
    flows
}

/// Configures it and adds NAT64 to its document.
fn configure_with_nat64(directory: &Path, layout: Layout) {
    configure(directory, layout);
    let path = directory.join("state.yaml");
    let state = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("nat64_prefix: 64:ff9b::/96\n{state}")).unwrap();
}

/// Ends the router as Kubernetes and systemd do.
fn stop(rig: &mut Rig) {
    rig.spillway.signal("TERM");
    wait_until("the router has ended", LIMIT, || !rig.spillway.is_running());
}

#[test]
fn connections_go_on_after_a_restart_and_nothing_leaks_meanwhile() {
    let mut rig = Rig::new("restart", true);
    stop(&mut rig);
    configure_with_nat64(rig.directory.path(), Layout::TWO_ARMED);
    let _pins = Bpffs::mount(&rig.directory.path().join("bpf"));
    rig.spillway = launch(&rig.gateway, rig.directory.path());
    make_tunnel(&rig);
    let outside = Outside::new(&rig.outside);
    let mut connections = Connections::open(&rig.node);
    connections.go_on(*b"once");
    let before = flows(&rig);
    assert_eq!(before.len(), 2 * ends().len());
    // The first pod's was kept, the second's not.
    let is_kept = |flow: &Flow| flow.reply.destination_port == flow.original.source_port;
    let kept: Vec<bool> = before.iter().map(is_kept).collect();
    assert!(kept.chunks(2).all(|pair| *pair == [true, false]), "{before:?}");
    // They are shown as their pods send them.
    let shown: BTreeSet<_> = before.iter().map(|Flow { original, .. }| tuple(original)).collect();
    assert_eq!(shown, ends().iter().map(|ends| (ends.pod, ends.server)).collect());

    let left = rig.directory.path().join("flows");
    for workers in [2, 2, 3, 1] {
        let first = ends()[0];
        let its_own = SocketAddr::new(pod(THIRD_POD), POD_PORT);
        let third = rig.node.enter(|| speaker(Ends { pod: its_own, ..first }));
        let is_over = AtomicBool::new(false);
        let silence = std::thread::scope(|scope| {
            let measured = scope.spawn(|| longest_silence(&third, &is_over));
            stop(&mut rig);
            assert_eq!(std::fs::metadata(&left).unwrap().permissions().mode() & 0o777, 0o600);
            configure_with_nat64(rig.directory.path(), Layout { workers, ..Layout::TWO_ARMED });
            rig.spillway = launch(&rig.gateway, rig.directory.path());
            assert!(!left.exists(), "it is taken up once");
            connections.go_on(*b"more");
            is_over.store(true, Ordering::Relaxed);
            measured.join().unwrap()
        });
        println!("{workers} workers: {} ms without an answer", silence.as_millis());
        let key = |flow: &Flow| (flow.protocol.clone(), flow.original, flow.reply);
        let after = flows(&rig);
        assert!(after.iter().map(key).eq(before.iter().map(key)), "{after:?}");
        let counts = |flow: &Flow| (flow.original_packets, flow.reply_packets);
        assert!(after.iter().zip(&before).all(|(after, before)| counts(after) > counts(before)));
        assert!(after.iter().zip(&before).all(|(after, before)| after.age_s >= before.age_s));
        let drops = rig.client().drops().unwrap();
        let lost: Vec<_> = drops.engine.iter().filter(|drop| drop.packets > 0).collect();
        assert!(lost.iter().all(|drop| drop.reason == "not-programmed"), "{lost:?}");
    }
    assert_eq!(outside.addresses(), IpFamily::ALL.map(egress).into());

    // Without steering it is the kernel's, and would have been seen.
    stop(&mut rig);
    let spillway = env!("CARGO_BIN_EXE_spillway");
    let directory = rig.directory.path().to_str().unwrap();
    rig.gateway.run([spillway, "detach", "--runtime-dir", directory]);
    for (each, socket) in PODS.into_iter().zip(&connections.udp) {
        wait_until("a leak", LIMIT, || {
            socket.send(b"leak").unwrap();
            outside.addresses().contains(&pod(each))
        });
    }
}
