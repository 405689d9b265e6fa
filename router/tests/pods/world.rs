//! One topology, with Spillway or with the kernel's own NAT on its gateway.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use spillway_api::Client;
use spillway_testing::{
    Namespace, Process, checksum_offload_off, require_root, veth_pair, wait_until,
};
use tempfile::TempDir;

use crate::family::{FAMILIES, Family};
use crate::underlay::Underlay;

/// What reaches the server by its narrow address.
pub(crate) const NARROW_MTU: usize = 1300;

/// What fits any device.
pub(crate) const MTU: usize = 1500;

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

/// A topology of both families in namespaces of its own.
pub(crate) struct World {
    /// The family of its traffic.
    pub(crate) family: &'static Family,
    /// What fits the tunnel.
    pub(crate) pod_mtu: usize,
    pub(crate) pods: [Namespace; 2],
    pub(crate) server: Namespace,
    _nodes: [Namespace; 3],
    spillway: Option<(Process, TempDir)>,
}

impl World {
    pub(crate) fn new(
        name: &str,
        translator: &Translator<'_>,
        family: &'static Family,
        underlay: &Underlay,
    ) -> Self {
        require_root();
        let host = |host: &str| {
            let namespace = Namespace::new(&format!("{name}-{host}"));
            namespace.enable_ipv6();
            for which in ["all", "default"] {
                namespace.sysctl(&format!("net/ipv4/conf/{which}/rp_filter"), "0");
            }
            for family in FAMILIES {
                // Every error that is owed is sent: how many is not the subject here.
                namespace.sysctl(family.error_rate_limit, "0");
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
        make_node(&node, &pods, underlay);
        make_outside(&hop, &server);
        make_gateway(&gateway, underlay);
        for namespace in pods.iter().chain([&node, &gateway, &hop, &server]) {
            namespace.wait_for_ipv6();
        }
        let spillway = match translator {
            Translator::Kernel => {
                masquerade(&gateway, underlay);
                None
            }
            Translator::Spillway(options) => Some(start(&gateway, options, underlay)),
        };
        Self {
            family,
            pod_mtu: underlay.pod_mtu,
            pods,
            server,
            _nodes: [node, gateway, hop],
            spillway,
        }
    }

    /// The server's address with a port.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.family.server, port)
    }

    /// The document that it was started with, as its author would write it later.
    pub(crate) fn state(&self, generation: u64) -> String {
        let (_, directory) = self.spillway.as_ref().expect("Spillway is the gateway");
        let text = std::fs::read_to_string(directory.path().join("state.yaml")).unwrap();
        text.replace("generation: 1\n", &format!("generation: {generation}\n"))
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

/// A veth pair whose two kernels finish checksums before they send.
fn link(a: &Namespace, a_device: &str, b: &Namespace, b_device: &str, queues: u8) {
    veth_pair(a, a_device, b, b_device, u32::from(queues));
    checksum_offload_off(a, a_device);
    checksum_offload_off(b, b_device);
}

fn ip(namespace: &Namespace, command: &str) {
    namespace.run(["ip"].into_iter().chain(command.split(' ')));
}

/// A VXLAN device, and for each family a route of these words through it to the other end.
fn tunnel(
    namespace: &Namespace,
    macs: [&str; 2],
    underlay: &Underlay,
    route: impl Fn(&Family) -> (String, String),
) {
    let [own, peer] = macs;
    ip(namespace, &format!("link add vx0 address {own} type vxlan external dstport 8472"));
    ip(namespace, &format!("link set vx0 up mtu {} arp off", underlay.pod_mtu));
    for family in FAMILIES {
        let (via, (route, source)) = (family.tunnel_peer, route(family));
        ip(namespace, &format!("neighbour add {via} lladdr {peer} dev vx0"));
        ip(namespace, &format!("route add {route} via {via} dev vx0 onlink{source}"));
    }
}

/// Makes a host a router.
fn forward(namespace: &Namespace) {
    for family in FAMILIES {
        namespace.sysctl(family.forwarding, "1");
    }
}

fn make_node(node: &Namespace, pods: &[Namespace; 2], underlay: &Underlay) {
    let Underlay { node: address, gateway, prefix, encap, checksum, pod_mtu, .. } = underlay;
    forward(node);
    ip(node, &format!("address add {address}/{prefix} dev uplink"));
    tunnel(node, [NODE_MAC, GATEWAY_MAC], underlay, |family| {
        let outside = family.outside;
        (format!("{outside} encap {encap} id 40000 dst {gateway}{checksum}"), String::new())
    });
    for ((number, pod), device) in pods.iter().enumerate().zip(["pod-a", "pod-b"]) {
        link(pod, "eth0", node, device, 1);
        ip(pod, &format!("link set eth0 mtu {pod_mtu}"));
        ip(node, &format!("link set {device} mtu {pod_mtu}"));
        for Family { pods, node: next_hop, .. } in FAMILIES {
            let address = pods[number];
            ip(pod, &format!("address add {address} dev eth0"));
            ip(pod, &format!("route add {next_hop} dev eth0"));
            ip(pod, &format!("route add default via {next_hop}"));
            ip(node, &format!("address add {next_hop} dev {device}"));
            ip(node, &format!("route add {address} dev {device}"));
        }
    }
}

fn make_outside(hop: &Namespace, server: &Namespace) {
    forward(hop);
    for family in FAMILIES {
        let Family { prefix, hop: to_gateway, hop_inside, narrow, .. } = family;
        ip(hop, &format!("address add {to_gateway}/{prefix} dev gw"));
        ip(hop, &format!("address add {hop_inside}/{prefix} dev srv"));
        ip(hop, &format!("route add {narrow} dev srv mtu lock {NARROW_MTU}"));
        ip(hop, &format!("route add unreachable {}", family.unreachable));
        ip(hop, &format!("route add prohibit {}", family.prohibited));
        ip(server, &format!("address add {}/{prefix} dev eth0", family.server));
        // The server speaks as this address only where it was spoken to there.
        ip(server, &format!("address add {narrow}/{prefix} dev eth0 preferred_lft 0"));
        ip(server, &format!("route add default via {hop_inside}"));
    }
}

fn make_gateway(gateway: &Namespace, underlay: &Underlay) {
    forward(gateway);
    ip(gateway, &format!("address add {}/{} dev node", underlay.gateway, underlay.prefix));
    for Family { prefix, gateway: address, hop, egress, outside, .. } in FAMILIES {
        ip(gateway, &format!("address add {address}/{prefix} dev out"));
        ip(gateway, &format!("address add {egress} dev out"));
        // Errors of the kernel's own come from the addresses that Spillway's come from.
        ip(gateway, &format!("route add {outside} via {hop} src {egress}"));
    }
}

/// Makes the gateway's kernel do what Spillway does.
fn masquerade(gateway: &Namespace, underlay: &Underlay) {
    let Underlay { node, gateway: address, encap, checksum, .. } = underlay;
    tunnel(gateway, [GATEWAY_MAC, NODE_MAC], underlay, |family| {
        let pods = family.pod_network;
        let route = format!("{pods} encap {encap} id 2 dst {node} src {address}{checksum}");
        (route, format!(" src {}", underlay.errors_from(family)))
    });
    for Family { nft, pod_network, egress, .. } in FAMILIES {
        gateway.run(["nft", &format!("add table {nft} nat")]);
        let hook = "{ type nat hook postrouting priority srcnat; }";
        gateway.run(["nft", &format!("add chain {nft} nat postrouting {hook}")]);
        let pods = format!("{nft} saddr {pod_network} oifname out");
        gateway.run(["nft", &format!("add rule {nft} nat postrouting {pods} snat to {egress}")]);
    }
}

/// Starts Spillway on the gateway and waits until it has programmed its document.
fn start(gateway: &Namespace, options: &Options, underlay: &Underlay) -> (Process, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (config, state) =
        (directory.path().join("config.yaml"), directory.path().join("state.yaml"));
    std::fs::write(&config, config_text(directory.path(), options)).unwrap();
    std::fs::write(&state, state_text(options, underlay)).unwrap();
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

fn state_text(options: &Options, underlay: &Underlay) -> String {
    let Underlay { node, gateway, .. } = underlay;
    let kind = match options.ports {
        None => "kind: own".to_owned(),
        Some((first, last)) => format!("kind: shared, ports: {first}-{last}"),
    };
    let [v4, v6] = FAMILIES;
    let ([a, b], [c, d]) = (v4.pods, v6.pods);
    format!(
        "generation: 1
tunnels: [{{address: '{gateway}', peers: [{{address: '{node}'}}]}}]
egress_addresses: [{{address: {0}, {kind}}}, {{address: {1}, {kind}}}]
policies:
  - name: all
    egress_addresses: [{0}, {1}]
    destinations: [{2}, {3}]
    pods: [{a}, {b}, {c}, {d}]
",
        v4.egress, v6.egress, v4.outside, v6.outside
    )
}
