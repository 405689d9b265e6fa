//! Connections that outlive the router's process: TCP and UDP of two pods of each family, with ports
//! that were kept and ports that were not.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use spillway_api::{Flow, IpFamily};
use spillway_testing::{Namespace, wait_until};

use crate::packets::{egress, pod, server};
use crate::{Layout, Rig, address, configure, launch};

/// Where packets of the pods come from, in both pods: the second one's is translated to another.
const POD_PORT: u16 = 40_001;
const PORT: u16 = 7;

/// The pods, by the flows that they have elsewhere, and another.
const PODS: [u16; 4] = [0, 1, 8, 9];
const THIRD_POD: u16 = 2;

/// The outside's networks, and the gateways of the routes into the tunnel: these have no other meaning.
const TUNNELS: [(&str, &str); 2] =
    [("203.0.113.0/24", "169.254.9.9"), ("2001:db8:203::/64", "fe80::9:9")];
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
            let (udp, tcp) =
                namespace.enter(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap()));
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
            // As many as the test opens of a family; their threads end with them.
            for _ in 0..2 {
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

/// A bpffs for the router's pins that outlives it: what it mounts itself is in a mount namespace of
/// its own here, made by `ip netns exec`, and ends with it.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(path: PathBuf) -> Self {
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&path).status();
        assert!(mounted.unwrap().success(), "mount");
        Self(path)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // A second panic would hide the first.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
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
        node.run(["ip", "neighbour", "add", via, "lladdr", GATEWAY_MAC, "dev", "vx0"]);
        let tunnel = ["encap", "ip", "id", "40000", "dst", "192.168.2.2", "via", via];
        let route = ["ip", "route", "add", outside];
        node.run([&route[..], &tunnel[..], &["dev", "vx0", "onlink"]].concat());
    }
    gateway.sysctl("net/ipv4/ip_forward", "1");
    gateway.sysctl("net/ipv6/conf/all/forwarding", "1");
}

/// A connection from a port that the caller chooses.
fn connect(from: SocketAddr) -> TcpStream {
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &from).unwrap();
    rustix::net::connect(&socket, &server_for(from.ip())).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// The server, as a pod of this address knows it.
fn server_for(pod: IpAddr) -> SocketAddr {
    SocketAddr::new(server(IpFamily::of(pod)), PORT)
}

/// What the pods have open.
struct Connections {
    tcp: Vec<TcpStream>,
    udp: Vec<UdpSocket>,
}

impl Connections {
    fn open(node: &Namespace) -> Self {
        node.enter(|| Self {
            tcp: PODS.map(|each| connect(SocketAddr::new(pod(each), POD_PORT))).into(),
            udp: PODS.map(|each| speaker(pod(each))).into(),
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

fn speaker(pod: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((pod, POD_PORT)).unwrap();
    socket.connect(server_for(pod)).unwrap();
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

/// All flows but those of the third pod, in a certain order.
fn flows(rig: &Rig) -> Vec<Flow> {
    let mut flows = rig.flows();
    flows.retain(|flow| flow.original.source != pod(THIRD_POD));
    flows.sort_by_key(|flow| (flow.protocol.clone(), flow.original.source));
    flows
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
    let _pins = Bpffs::mount(rig.directory.path().join("bpf"));
    rig.spillway = launch(&rig.gateway, rig.directory.path());
    make_tunnel(&rig);
    let outside = Outside::new(&rig.outside);
    let mut connections = Connections::open(&rig.node);
    connections.go_on(*b"once");
    let before = flows(&rig);
    let ports: Vec<u16> = before.iter().map(|flow| flow.reply.destination_port).collect();
    assert_eq!(ports.len(), 2 * PODS.len());
    // The first pod's was kept, the second's not.
    let mut pairs = ports.chunks(2);
    assert!(pairs.all(|pair| matches!(pair, [POD_PORT, other] if *other != POD_PORT)), "{ports:?}");

    let left = rig.directory.path().join("flows");
    for workers in [2, 2, 3, 1] {
        let third = rig.node.enter(|| speaker(pod(THIRD_POD)));
        let is_over = AtomicBool::new(false);
        let silence = std::thread::scope(|scope| {
            let measured = scope.spawn(|| longest_silence(&third, &is_over));
            stop(&mut rig);
            assert_eq!(std::fs::metadata(&left).unwrap().permissions().mode() & 0o777, 0o600);
            configure(rig.directory.path(), Layout { workers, ..Layout::TWO_ARMED });
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
