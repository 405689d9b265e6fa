//! The real binary between real kernels: a node that sends VXLAN, the gateway, and the outside.
//! Needs root.
//!
//! ```text
//!   one-armed:  node ── router ── gateway            two-armed:  node ── gateway ── outside
//!                         │
//!                      outside
//! ```
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "these are tests")]

mod browser;
mod capture;
mod census;
mod documents;
mod drain;
mod fragments;
mod live;
mod log_level;
mod metrics;
mod millions;
mod mutated;
mod observe;
mod owed;
mod own_address;
mod packets;
mod page;
mod port_blocks;
mod read_only;
mod restart;
mod scan;
mod several;
mod sysdump;
mod top;
mod trace;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use spillway_api::{Client, Flow, IpFamily, RingStatistics};
use spillway_testing::{
    Namespace, Process, bind_udp, checksum_offload_off, require_root, veth_pair, wait_until,
};
use tempfile::TempDir;

use packets::{answered, egress, family, frame, pod, server, server_port, tunnelled};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 2);
const SERVER_PORT: u16 = 7;
const FLOWS: u16 = 1000;
const ROUNDS: u16 = 4;
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Few enough frames at a time for every socket buffer on the way.
const WINDOW: u16 = 50;

/// How the gateway is connected, and with how much.
#[derive(Clone, Copy)]
struct Layout {
    two_armed: bool,
    /// The mode of the steering program.
    mode: &'static str,
    /// Of each device.
    queues: u32,
    workers: u8,
    /// Ports of a block that pods have; 0: ports are leased one by one.
    port_blocks: u16,
}

impl Layout {
    /// What most tests need.
    const TWO_ARMED: Self =
        Self { two_armed: true, mode: "native", queues: 2, workers: 2, port_blocks: 0 };

    /// The devices of the router.
    fn devices(self) -> &'static [&'static str] {
        if self.two_armed { &["node", "out"] } else { &["uplink"] }
    }
}

/// The namespaces of one topology, and the router in the gateway's.
struct Rig {
    node: Namespace,
    outside: Namespace,
    _router: Option<Namespace>,
    gateway: Namespace,
    spillway: Process,
    directory: TempDir,
}

impl Rig {
    fn new(name: &str, two_armed: bool) -> Self {
        Self::laid_out(name, Layout { two_armed, ..Layout::TWO_ARMED })
    }

    fn laid_out(name: &str, layout: Layout) -> Self {
        require_root();
        let Layout { two_armed, mode, queues, .. } = layout;
        let namespace = |host: &str| {
            let namespace = Namespace::new(&format!("{name}-{host}"));
            namespace.enable_ipv6();
            namespace
        };
        let (node, gateway, outside) = (namespace("n"), namespace("g"), namespace("o"));
        let middle = (!two_armed).then(|| namespace("r"));
        let hub = middle.as_ref().unwrap_or(&gateway);
        veth_pair(&node, "eth0", hub, "node", queues);
        veth_pair(&outside, "eth0", hub, "out", queues);
        if let Some(router) = &middle {
            veth_pair(&gateway, "uplink", router, "gw", queues);
            address(router, "192.168.2.1/24", "gw");
            address(router, "2001:db8:2::1/64", "gw");
            address(&gateway, "192.168.2.2/24", "uplink");
            address(&gateway, "2001:db8:2::2/64", "uplink");
            default_route(&gateway, &["192.168.2.1", "2001:db8:2::1"]);
            router.sysctl("net/ipv4/ip_forward", "1");
            router.sysctl("net/ipv6/conf/all/forwarding", "1");
            checksum_offload_off(router, "gw");
        } else {
            address(&gateway, "192.168.2.2", "out");
        }
        for family in IpFamily::ALL {
            let device = if two_armed { "out" } else { "uplink" };
            address(&gateway, &egress(family).to_string(), device);
        }
        address(hub, "192.168.1.1/24", "node");
        address(hub, "2001:db8:1::1/64", "node");
        address(hub, "203.0.113.1/24", "out");
        // As few hosts as by IPv4: destinations that tests make up must not fill the kernel's table of
        // neighbours, which all namespaces share.
        address(hub, "2001:db8:203::1/120", "out");
        address(&node, "192.168.1.2/24", "eth0");
        address(&node, "2001:db8:1::2/64", "eth0");
        address(&outside, "203.0.113.10/24", "eth0");
        address(&outside, "2001:db8:203::10/120", "eth0");
        // What a steer header starts with, of a reply by IPv6: nobody may take the Ethernet header of
        // a frame that is on its way for one.
        outside.run(["ip", "link", "set", "eth0", "address", "22:00:00:00:00:0a"]);
        default_route(&node, &["192.168.1.1", "2001:db8:1::1"]);
        default_route(&outside, &["203.0.113.1", "2001:db8:203::1"]);
        checksum_offload_off(&node, "eth0");
        checksum_offload_off(&outside, "eth0");

        for namespace in [&node, &outside, hub, &gateway] {
            namespace.wait_for_ipv6();
        }

        for device in layout.devices().iter().filter(|_| mode == "generic") {
            gateway.run(["ethtool", "-K", device, "gro", "on"]);
        }
        let directory = tempfile::tempdir().unwrap();
        configure(directory.path(), layout);
        let spillway = launch(&gateway, directory.path());
        Self { node, outside, _router: middle, gateway, spillway, directory }
    }

    fn client(&self) -> Client {
        Client::connect(&self.directory.path().join("spillway.sock")).unwrap()
    }

    /// All live flows.
    fn flows(&self) -> Vec<Flow> {
        let page = self.client().flows(0).unwrap();
        let (mut flows, mut next) = (page.rows, page.next);
        while let Some(cursor) = next {
            let page = self.client().flows(cursor).unwrap();
            flows.extend(page.rows);
            next = page.next;
        }
        flows
    }
}

fn address(namespace: &Namespace, address: &str, device: &str) {
    namespace.run(["ip", "address", "add", address, "dev", device]);
}

fn default_route(namespace: &Namespace, through: &[&str]) {
    for router in through {
        namespace.run(["ip", "route", "add", "default", "via", router]);
    }
}

/// Writes the router's configuration and its document.
fn configure(directory: &Path, layout: Layout) {
    let Layout { mode, queues, workers, port_blocks, .. } = layout;
    let directory_name = directory.display();
    // Few events, so that memory is soon as large as it gets.
    let mut config = format!(
        "workers: {workers}\nruntime_dir: {directory_name}\nread_only_group: 9602\n\
         events: {{kept: 4096}}\nport_blocks: {{size: {port_blocks}}}\ndevices:\n"
    );
    for device in layout.devices() {
        writeln!(config, "  - {{name: {device}, queues: {queues}, mode: {mode}}}").unwrap();
    }
    std::fs::write(directory.join("state.yaml"), state(1, &[], IpFamily::ALL.map(egress))).unwrap();
    std::fs::write(directory.join("config.yaml"), config).unwrap();
}

/// A document whose pods leave as these: the host's egress addresses, or others that it lists beside
/// them.
fn state(generation: u32, others: &[String], pods_leave_as: [IpAddr; 2]) -> String {
    let [v4, v6] = IpFamily::ALL.map(egress);
    let mut listed = format!("{{address: {v4}, kind: own}}, {{address: {v6}, kind: own}}");
    others.iter().for_each(|other| write!(listed, ", {other}").unwrap());
    let flows = (0..4).chain(8..12);
    let pods = flows.map(pod).chain(mutated::PODS);
    let pods: Vec<String> = pods.map(|pod| pod.to_string()).collect();
    let [v4, v6] = pods_leave_as;
    format!(
        "generation: {generation}
tunnels: [{{address: {GATEWAY}, peers: [{{address: {NODE}}}]}}]
egress_addresses: [{listed}]
policies:
  - name: all
    egress_addresses: [{v4}, {v6}]
    destinations: ['203.0.113.0/24', '2001:db8:203::/64']
    pods: [{}]
",
        pods.join(", ")
    )
}

/// Starts the router as it is configured, and waits until it has programmed its document.
fn launch(gateway: &Namespace, directory: &Path) -> Process {
    let (config_path, state_path) = (directory.join("config.yaml"), directory.join("state.yaml"));
    let mut spillway = gateway.spawn([
        env!("CARGO_BIN_EXE_spillway").as_ref(),
        "run".as_ref(),
        "--config".as_ref(),
        config_path.as_os_str(),
        "--state".as_ref(),
        state_path.as_os_str(),
    ]);
    let socket = directory.join("spillway.sock");
    wait_until("the document is programmed", Duration::from_secs(15), || {
        assert!(spillway.is_running(), "spillway has ended: see what it printed above");
        let status = Client::connect(&socket).and_then(|mut client| client.status());
        status.is_ok_and(|status| status.generation == Some(1))
    });
    spillway
}

/// Answers every datagram; whoever asks must be the egress address.
fn serve(socket: &UdpSocket, count: u16) {
    let egress = egress(IpFamily::of(socket.local_addr().unwrap().ip()));
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for _ in 0..count {
        let mut payload = [0; 64];
        let (length, from) = socket.recv_from(&mut payload).expect("every packet arrives");
        assert_eq!(from.ip(), egress, "seen outside");
        socket.send_to(&payload[..length], from).unwrap();
    }
}

/// A socket that sends packets as they are given, but for IPv4's length, checksum and identifier.
fn raw_socket(family: IpFamily) -> OwnedFd {
    let domain = match family {
        IpFamily::V4 => AddressFamily::INET,
        IpFamily::V6 => AddressFamily::INET6,
    };
    socket(domain, SocketType::RAW, Some(ipproto::RAW)).unwrap()
}

/// Sends every flow's packets, each through another outer port than all others, and so through any
/// queue of the gateway, and takes the answers.
fn ask(node: &Namespace) {
    node.enter(|| {
        let answers = bind_udp((NODE, 8472));
        let (outer, gateway) = (raw_socket(IpFamily::V4), SocketAddrV4::new(GATEWAY, 0));
        let mut outer_ports = 32_768..;
        for round in 0..ROUNDS {
            for first in (0..FLOWS).step_by(usize::from(WINDOW)) {
                let flows = first..first + WINDOW;
                for flow in flows.clone() {
                    let packet = tunnelled(outer_ports.next().unwrap(), &frame(flow, round));
                    sendto(&outer, &packet, SendFlags::empty(), &gateway).unwrap();
                }
                let mut seen: Vec<(u16, u16)> = flows
                    .clone()
                    .map(|_| {
                        let mut datagram = [0; 2048];
                        let (length, from) = answers.recv_from(&mut datagram).expect("an answer");
                        assert_eq!(from.ip(), GATEWAY);
                        answered(&datagram[..length]).expect("it is right in every byte")
                    })
                    .collect();
                seen.sort_unstable();
                assert_eq!(seen, flows.map(|flow| (flow, round)).collect::<Vec<_>>());
            }
        }
    });
}

/// A thousand flows of both families there and back, then what the router says of them.
fn converse(rig: &Rig) {
    // A socket stays in the namespace that it was made in.
    let mut asked = BTreeMap::new();
    for flow in 0..FLOWS {
        *asked.entry((server(family(flow)), server_port(flow))).or_insert(0) += ROUNDS;
    }
    let bind = |(at, count)| (bind_udp(at), count);
    let servers: Vec<(UdpSocket, u16)> =
        rig.outside.enter(|| asked.into_iter().map(bind).collect());
    std::thread::scope(|scope| {
        for (server, count) in &servers {
            scope.spawn(|| serve(server, *count));
        }
        ask(&rig.node);
    });
    assert_all_forwarded(rig, u64::from(FLOWS) * u64::from(ROUNDS), u64::from(FLOWS));
    // Each flow lives once, with one worker, which has seen all of its packets.
    let flows = rig.flows();
    assert_eq!(flows.len(), usize::from(FLOWS));
    for flow in flows {
        let packets = (flow.original_packets, flow.reply_packets);
        assert_eq!(packets, (ROUNDS.into(), ROUNDS.into()), "{flow:?}");
    }
}

/// Checks that so many packets passed each way through so many flows, each handled by the worker
/// that received it, and that every frame is where it should be.
fn assert_all_forwarded(rig: &Rig, packets: u64, flows: u64) {
    let drops = rig.client().drops().unwrap();
    let dropped: Vec<_> = drops.engine.iter().filter(|drop| drop.packets > 0).collect();
    assert!(dropped.is_empty(), "{dropped:?}");
    let outcome = |name: &str| -> u64 {
        let outcomes = drops.steering.iter().filter(|outcome| outcome.outcome == name);
        outcomes.map(|outcome| outcome.packets).sum()
    };
    assert_eq!((outcome("steer-tunnel"), outcome("steer-reply")), (packets, packets));

    let status = rig.client().status().unwrap();
    let of_workers: Vec<u64> = status.workers.iter().map(|worker| worker.flows).collect();
    assert_eq!(of_workers.iter().sum::<u64>(), flows);
    let share = flows / of_workers.len() as u64;
    assert!(of_workers.iter().all(|of_one| *of_one > share / 2), "{of_workers:?}");
    let transmitted: u64 = status.workers.iter().map(|worker| worker.transmitted).sum();
    assert_eq!(transmitted, 2 * packets);
    for worker in &status.workers {
        assert_eq!(worker.handed_off, 0, "{worker:?}");
        // Nothing was dropped or is held: the difference would be what it took over.
        assert_eq!(worker.received, worker.transmitted, "{worker:?}");
    }
    for device in &status.devices {
        assert_eq!(device.rings, RingStatistics::default(), "{}", device.name);
    }
    wait_for_every_frame(rig);
}

/// Why packets were dropped, and how many.
fn dropped(rig: &Rig) -> BTreeMap<String, u64> {
    let drops = rig.client().drops().unwrap().engine.into_iter();
    drops.filter(|drop| drop.packets > 0).map(|drop| (drop.reason, drop.packets)).collect()
}

/// Waits until each frame is free or with the kernel, to receive into.
fn wait_for_every_frame(rig: &Rig) {
    wait_until("every frame is accounted for", Duration::from_secs(5), || {
        let frames = rig.client().status().unwrap().frames;
        frames.transmitting == 0
            && frames.held == 0
            && frames.free + frames.receiving == frames.total
    });
}

#[test]
fn both_directions_of_a_thousand_flows_meet_at_their_owner_one_armed() {
    converse(&Rig::new("one", false));
}

#[test]
fn both_directions_of_a_thousand_flows_meet_at_their_owner_two_armed() {
    converse(&Rig::new("two", true));
}

#[test]
fn generic_mode_forwards_too_without_merged_segments() {
    let rig = Rig::laid_out("generic", Layout { mode: "generic", ..Layout::TWO_ARMED });
    converse(&rig);
    for device in ["node", "out"] {
        let link = rig.gateway.run(["ip", "link", "show", "dev", device]);
        assert!(link.contains("xdpgeneric"), "{link}");
        let features = rig.gateway.run(["ethtool", "-k", device]);
        assert!(features.contains("generic-receive-offload: off"), "{features}");
    }
    let modes: Vec<String> =
        rig.client().status().unwrap().devices.into_iter().map(|device| device.xdp_mode).collect();
    assert_eq!(modes, ["generic", "generic"]);
}

#[test]
fn a_second_instance_on_the_device_is_refused() {
    let rig = Rig::new("second", true);
    let config = rig.directory.path().join("second.yaml");
    let socket = rig.directory.path().join("second.sock");
    let text = format!(
        "{{devices: [{{name: out}}], runtime_dir: {}, socket: {}}}",
        rig.directory.path().display(),
        socket.display()
    );
    std::fs::write(&config, text).unwrap();
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", rig.gateway.name(), env!("CARGO_BIN_EXE_spillway"), "run"])
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let first = format!("out is driven by another spillway, process {}", rig.spillway.id());
    assert!(said.contains(&first), "{said}");
}
