//! Connections that outlive the router's process: TCP and UDP of two pods, with ports that were kept
//! and ports that were not.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use spillway_api::Flow;
use spillway_testing::{Namespace, wait_until};

use crate::{EGRESS, Layout, Rig, SERVER, address, configure, launch, pod};

/// Where packets of the pods come from, in both pods: the second one's is translated to another.
const POD_PORT: u16 = 40_001;
const PORT: u16 = 7;

/// The gateway of the route into the tunnel; it has no other meaning.
const TUNNEL: &str = "169.254.9.9";
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
        let (udp, tcp) = namespace.enter(|| {
            let at = (SERVER, PORT);
            (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap())
        });
        let outside = Self { seen: Arc::default(), is_over: Arc::default() };
        let (seen, is_over) = (Arc::clone(&outside.seen), Arc::clone(&outside.is_over));
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
        let seen = Arc::clone(&outside.seen);
        std::thread::spawn(move || {
            // As many as the test opens; their threads end with them.
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
        outside
    }

    /// The addresses that were seen.
    fn addresses(&self) -> BTreeSet<std::net::IpAddr> {
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
    for each in 0..3 {
        address(node, &format!("{}/32", pod(each)), "lo");
    }
    node.run(["ip", "neighbour", "add", TUNNEL, "lladdr", GATEWAY_MAC, "dev", "vx0"]);
    let tunnel = ["encap", "ip", "id", "40000", "dst", "192.168.2.2", "via", TUNNEL];
    let route = ["ip", "route", "add", "203.0.113.0/24"];
    node.run([&route[..], &tunnel[..], &["dev", "vx0", "onlink"]].concat());
    gateway.sysctl("net/ipv4/ip_forward", "1");
}

/// A connection from a port that the caller chooses.
fn connect(from: SocketAddrV4) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &from).unwrap();
    rustix::net::connect(&socket, &SocketAddrV4::new(SERVER, PORT)).unwrap();
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
        let from = |each| SocketAddrV4::new(pod(each), POD_PORT);
        node.enter(|| Self {
            tcp: (0..2).map(|each| connect(from(each))).collect(),
            udp: (0..2).map(|each| speaker(pod(each))).collect(),
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

fn speaker(pod: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((pod, POD_PORT)).unwrap();
    socket.connect((SERVER, PORT)).unwrap();
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
    flows.retain(|flow| flow.original.source != pod(2));
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
    assert!(matches!(ports[..], [POD_PORT, a, POD_PORT, b] if a != POD_PORT && b != POD_PORT));

    let left = rig.directory.path().join("flows");
    for workers in [2, 2, 3, 1] {
        let third = rig.node.enter(|| speaker(pod(2)));
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
    assert_eq!(outside.addresses(), [EGRESS.into()].into());

    // Without steering it is the kernel's, and would have been seen.
    stop(&mut rig);
    let spillway = env!("CARGO_BIN_EXE_spillway");
    let directory = rig.directory.path().to_str().unwrap();
    rig.gateway.run([spillway, "detach", "--runtime-dir", directory]);
    wait_until("a leak", LIMIT, || {
        connections.udp[0].send(b"leak").unwrap();
        outside.addresses().contains(&pod(0).into())
    });
}
