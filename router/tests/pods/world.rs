//! One topology, with Spillway or with the kernel's own NAT on its gateway.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use spillway_api::Client;
use spillway_testing::{
    Namespace, Process, checksum_offload_off, require_root, veth_pair, wait_until,
};
use tempfile::TempDir;

pub(crate) const PODS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 1, 40), Ipv4Addr::new(10, 0, 1, 41)];
pub(crate) const EGRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 3);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The same server, but packets of more than [`NARROW_MTU`] bytes do not reach it there.
pub(crate) const NARROW: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
pub(crate) const NARROW_MTU: u16 = 1300;
/// The hop refuses what goes there: unreachable, and prohibited.
pub(crate) const UNREACHABLE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
pub(crate) const PROHIBITED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 31);

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// The gateway's address for the tunnel.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// What fits the tunnel.
const POD_MTU: &str = "1450";
/// For static neighbours only, so that an inner frame has the other end's link address.
const TUNNEL_PEER: &str = "169.254.10.1";
const NODE_MAC: &str = "02:00:00:00:00:0a";
const GATEWAY_MAC: &str = "02:00:00:00:00:0b";

/// Who translates on the gateway.
pub(crate) enum Translator<'a> {
    Kernel,
    Spillway(&'a Options),
}

/// How Spillway is configured.
pub(crate) struct Options {
    pub(crate) workers: u8,
    /// Of each device.
    pub(crate) queues: u8,
    /// The range of a shared egress address, or `None` for an own one.
    pub(crate) ports: Option<(u16, u16)>,
    /// Seconds that a TCP flow lasts after its end.
    pub(crate) tcp_closing: u32,
}

/// A topology in namespaces of its own.
pub(crate) struct World {
    pub(crate) pods: [Namespace; 2],
    pub(crate) server: Namespace,
    _nodes: [Namespace; 3],
    spillway: Option<(Process, TempDir)>,
}

impl World {
    pub(crate) fn new(name: &str, translator: &Translator<'_>) -> Self {
        require_root();
        let host = |host: &str| {
            let namespace = Namespace::new(&format!("{name}-{host}"));
            for (parameter, value) in [
                ("conf/all/rp_filter", "0"),
                ("conf/default/rp_filter", "0"),
                // Every error that is owed is sent: how many is not the subject here.
                ("icmp_ratelimit", "0"),
            ] {
                namespace.sysctl(&format!("net/ipv4/{parameter}"), value);
            }
            namespace
        };
        let pods = [host("a"), host("b")];
        let (node, gateway, hop, server) = (host("n"), host("g"), host("h"), host("s"));
        let queues = match translator {
            Translator::Kernel => 1,
            Translator::Spillway(options) => options.queues,
        };
        link(&node, "uplink", &gateway, "node", queues);
        link(&hop, "gw", &gateway, "out", queues);
        link(&hop, "srv", &server, "eth0", 1);
        make_node(&node, &pods);
        make_outside(&hop, &server);
        make_gateway(&gateway);
        let spillway = match translator {
            Translator::Kernel => {
                masquerade(&gateway);
                None
            }
            Translator::Spillway(options) => Some(start(&gateway, options)),
        };
        Self { pods, server, _nodes: [node, gateway, hop], spillway }
    }

    /// The running Spillway's operator.
    pub(crate) fn client(&self) -> Client {
        let (_, directory) = self.spillway.as_ref().expect("Spillway is the gateway");
        Client::connect(&directory.path().join("spillway.sock")).unwrap()
    }

    /// What the operator's command prints.
    pub(crate) fn operator(&self, arguments: &[&str]) -> String {
        let (_, directory) = self.spillway.as_ref().expect("Spillway is the gateway");
        let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
            .args(arguments)
            .arg("--socket")
            .arg(directory.path().join("spillway.sock"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The server's address with a port.
pub(crate) const fn at(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(SERVER, port)
}

/// A veth pair whose two kernels finish checksums before they send.
fn link(a: &Namespace, a_device: &str, b: &Namespace, b_device: &str, queues: u8) {
    veth_pair(a, a_device, b, b_device, u32::from(queues));
    checksum_offload_off(a, a_device);
    checksum_offload_off(b, b_device);
}

fn ip(namespace: &Namespace, command: &str) {
    namespace.run(["ip"].into_iter().chain(command.split(' ')));
}

/// A VXLAN device, and a route of these words through it to the other end.
fn tunnel(namespace: &Namespace, macs: [&str; 2], route: &str) {
    let [own, peer] = macs;
    ip(namespace, &format!("link add vx0 address {own} type vxlan external dstport 8472"));
    ip(namespace, &format!("link set vx0 up mtu {POD_MTU} arp off"));
    ip(namespace, &format!("neighbour add {TUNNEL_PEER} lladdr {peer} dev vx0"));
    ip(namespace, &format!("route add {route} via {TUNNEL_PEER} dev vx0 onlink"));
}

fn make_node(node: &Namespace, pods: &[Namespace; 2]) {
    node.sysctl("net/ipv4/ip_forward", "1");
    ip(node, &format!("address add {NODE}/24 dev uplink"));
    tunnel(
        node,
        [NODE_MAC, GATEWAY_MAC],
        &format!("203.0.113.0/24 encap ip id 40000 dst {GATEWAY}"),
    );
    for ((pod, address), device) in pods.iter().zip(PODS).zip(["pod-a", "pod-b"]) {
        link(pod, "eth0", node, device, 1);
        ip(pod, &format!("link set eth0 mtu {POD_MTU}"));
        ip(node, &format!("link set {device} mtu {POD_MTU}"));
        ip(pod, &format!("address add {address}/32 dev eth0"));
        ip(pod, "route add 169.254.1.1 dev eth0");
        ip(pod, "route add default via 169.254.1.1");
        ip(node, &format!("address add 169.254.1.1/32 dev {device}"));
        ip(node, &format!("route add {address} dev {device}"));
    }
}

fn make_outside(hop: &Namespace, server: &Namespace) {
    hop.sysctl("net/ipv4/ip_forward", "1");
    ip(hop, "address add 192.168.2.2/24 dev gw");
    ip(hop, "address add 203.0.113.1/24 dev srv");
    ip(hop, &format!("route add {NARROW} dev srv mtu lock {NARROW_MTU}"));
    ip(hop, &format!("route add unreachable {UNREACHABLE}"));
    ip(hop, &format!("route add prohibit {PROHIBITED}"));
    ip(server, &format!("address add {SERVER}/24 dev eth0"));
    ip(server, &format!("address add {NARROW}/24 dev eth0"));
    ip(server, "route add default via 203.0.113.1");
}

fn make_gateway(gateway: &Namespace) {
    gateway.sysctl("net/ipv4/ip_forward", "1");
    ip(gateway, &format!("address add {GATEWAY}/24 dev node"));
    ip(gateway, "address add 192.168.2.1/24 dev out");
    ip(gateway, &format!("address add {EGRESS}/32 dev out"));
    // Errors of the kernel's own come from the addresses that Spillway's come from.
    ip(gateway, &format!("route add 203.0.113.0/24 via 192.168.2.2 src {EGRESS}"));
}

/// Makes the gateway's kernel do what Spillway does.
fn masquerade(gateway: &Namespace) {
    let route = format!("10.0.1.0/24 encap ip id 2 dst {NODE} src {GATEWAY}");
    tunnel(gateway, [GATEWAY_MAC, NODE_MAC], &route);
    gateway.run(["nft", "add table ip nat"]);
    gateway.run([
        "nft",
        "add chain ip nat postrouting { type nat hook postrouting priority srcnat; }",
    ]);
    let pods = "ip saddr 10.0.1.0/24 oifname out";
    gateway.run(["nft", &format!("add rule ip nat postrouting {pods} snat to {EGRESS}")]);
}

/// Starts Spillway on the gateway and waits until it has programmed its document.
fn start(gateway: &Namespace, options: &Options) -> (Process, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (config, state) =
        (directory.path().join("config.yaml"), directory.path().join("state.yaml"));
    std::fs::write(&config, config_text(directory.path(), options)).unwrap();
    std::fs::write(&state, state_text(options)).unwrap();
    let mut spillway = gateway.spawn([
        env!("CARGO_BIN_EXE_spillway").as_ref(),
        "run".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
        "--state".as_ref(),
        state.as_os_str(),
    ]);
    let socket = directory.path().join("spillway.sock");
    wait_until("the document is programmed", Duration::from_secs(15), || {
        assert!(spillway.is_running(), "spillway has ended: see what it printed above");
        let status = Client::connect(&socket).and_then(|mut client| client.status());
        status.is_ok_and(|status| status.generation == Some(1))
    });
    (spillway, directory)
}

fn config_text(directory: &Path, options: &Options) -> String {
    let Options { workers, queues, tcp_closing, .. } = options;
    format!(
        "workers: {workers}
runtime_dir: {}
timeouts: {{tcp_closing: {tcp_closing}}}
devices: [{{name: node, queues: {queues}}}, {{name: out, queues: {queues}}}]
",
        directory.display()
    )
}

fn state_text(options: &Options) -> String {
    let egress = match options.ports {
        None => format!("{{address: {EGRESS}, kind: own}}"),
        Some((first, last)) => {
            format!("{{address: {EGRESS}, kind: shared, ports: {first}-{last}}}")
        }
    };
    let [a, b] = PODS;
    format!(
        "generation: 1
tunnels: [{{address: {GATEWAY}, peers: [{{address: {NODE}}}]}}]
egress_addresses: [{egress}]
policies:
  - name: all
    egress_address: {EGRESS}
    destinations: [203.0.113.0/24]
    pods: [{a}, {b}]
"
    )
}
