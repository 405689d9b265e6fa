//! `spillway-bench l2-forward` between two hosts, with real pings.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use spillway_testing::{Namespace, checksum_offload_off, veth_pair};

const LEFT: &str = "02:00:00:00:0a:01";
const RIGHT: &str = "02:00:00:00:0b:01";

/// Two hosts, each with a link to the forwarder, which is no host of their network.
struct Rig {
    left: Namespace,
    right: Namespace,
    middle: Namespace,
}

impl Rig {
    fn new(name: &str) -> Self {
        let host = |side: &str| Namespace::new(&format!("{name}-{side}"));
        let (left, right, middle) = (host("left"), host("right"), host("middle"));
        for (host, device, mac, address, other, other_mac) in [
            (&left, "left", LEFT, "10.9.0.1", "10.9.0.2", RIGHT),
            (&right, "right", RIGHT, "10.9.0.2", "10.9.0.1", LEFT),
        ] {
            veth_pair(host, "eth0", &middle, device, 1);
            checksum_offload_off(host, "eth0");
            host.run(["ip", "link", "set", "eth0", "address", mac]);
            host.run(["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"]);
            // ARP is not forwarded.
            host.run(["ip", "neighbour", "add", other, "lladdr", other_mac, "dev", "eth0"]);
        }
        Self { left, right, middle }
    }

    fn forward(&self, devices: &str, options: &[&str]) -> Forwarder {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "ip", "netns", "exec", self.middle.name()]);
        command.args([env!("CARGO_BIN_EXE_spillway-bench"), "l2-forward", "--devices", devices]);
        command.args(["--seconds", "60"]).args(options);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().expect("setpriv is installed");
        let mut forwarder = Forwarder { child };
        let mut line = String::new();
        let mut out = BufReader::new(forwarder.child.stdout.as_mut().expect("it is piped"));
        out.read_line(&mut line).expect("it is text");
        assert!(line.starts_with("forwarding"), "{line}");
        forwarder
    }
}

/// The running command, which is killed with this value.
struct Forwarder {
    child: Child,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_hosts_reach_each_other_through_it() {
    let rig = Rig::new("l2-two");
    let devices = format!("left={LEFT},right={RIGHT}");
    let _forwarder = rig.forward(&devices, &["--workers", "2"]);
    rig.left.run(["ping", "-c", "3", "-i", "0.01", "-W", "5", "10.9.0.2"]);
    rig.right.run(["ping", "-c", "3", "-i", "0.01", "-W", "5", "-s", "1400", "10.9.0.1"]);
}

#[test]
fn tunnel_frames_lose_their_outer_headers() {
    let rig = Rig::new("l2-strip");
    let tunnel = "link add vx0 address 02:00:00:00:0a:02 type vxlan id 40000 remote 10.9.0.2 \
                  dstport 8472";
    rig.left.run(["ip"].into_iter().chain(tunnel.split_whitespace()));
    rig.left.run(["ip", "address", "add", "10.8.0.1/24", "dev", "vx0"]);
    rig.left.run(["ip", "link", "set", "vx0", "up"]);
    rig.left.run(["ip", "neighbour", "add", "10.8.0.2", "lladdr", RIGHT, "dev", "vx0"]);
    rig.left.sysctl("net/ipv4/conf/all/rp_filter", "0");
    rig.left.sysctl("net/ipv4/conf/vx0/rp_filter", "0");
    rig.left.sysctl("net/ipv4/conf/eth0/rp_filter", "0");
    // The right host has no tunnel: it only understands what was in it, and answers without.
    rig.right.run(["ip", "address", "add", "10.8.0.2/24", "dev", "eth0"]);
    rig.right.run(["ip", "neighbour", "add", "10.8.0.1", "lladdr", LEFT, "dev", "eth0"]);
    let devices = format!("left={LEFT},right={RIGHT}");
    let _forwarder = rig.forward(&devices, &["--strip", "8472"]);
    rig.left.run(["ping", "-c", "3", "-i", "0.01", "-W", "5", "-I", "10.8.0.1", "10.8.0.2"]);
}

#[test]
fn one_device_sends_frames_back_to_their_sender() {
    let rig = Rig::new("l2-back");
    let _forwarder = rig.forward("left", &[]);
    let received = || -> u64 {
        let path = "/sys/class/net/eth0/statistics/rx_packets";
        rig.left.run(["cat", path]).trim().parse().unwrap()
    };
    let before = received();
    // The host does not answer itself, but it gets its own questions.
    rig.left.run(["sh", "-c", "ping -c 3 -i 0.01 -W 0.1 10.9.0.2 || true"]);
    spillway_testing::wait_until("three frames", Duration::from_secs(5), || {
        received() >= before + 3
    });
}
