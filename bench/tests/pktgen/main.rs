//! The packet generator and its sink, as a user runs them, between network namespaces. Needs root.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod capture;
mod middle;

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use capture::Capture;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use middle::Middle;
use serde_json::Value;
use spillway_testing::{Namespace, require_root, veth_pair, wait_until};
use spillway_xdp::device::probe;

/// One at a time: each keeps a processor busy, and some look at rates.
static ALONE: Mutex<()> = Mutex::new(());

const BACKENDS: [&str; 2] = ["live", "afxdp"];
const TUNNEL: &str = "--tunnel-source 192.168.1.2 --tunnel-target 192.168.2.2 --pods 10.0.1.40+4";
const REPLIES: &str = "--traffic replies --egress 192.168.2.3";

/// Generator and sink, on the two ends of a pair.
struct Rig {
    near: Namespace,
    far: Namespace,
    _alone: MutexGuard<'static, ()>,
}

impl Rig {
    fn new(name: &str) -> Self {
        require_root();
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let near = Namespace::new(&format!("{name}-near"));
        let far = Namespace::new(&format!("{name}-far"));
        veth_pair(&near, "eth0", &far, "eth0", 2);
        for namespace in [&near, &far] {
            namespace.run(["ip", "link", "set", "eth0", "mtu", "1600"]);
        }
        Self { near, far, _alone: alone }
    }

    /// What leads to the far end.
    fn path(&self) -> String {
        format!("--netns {} --device eth0 {}", self.near.name(), target(&self.far))
    }

    /// `pktgen run` over the pair.
    fn run(&self, options: &str) -> Value {
        let sink = format!("--sink-netns {} --sink-device eth0", self.far.name());
        pktgen(&self.near, &format!("run {} {sink} {options}", self.path()))
    }
}

fn target(namespace: &Namespace) -> String {
    let mac = namespace.enter(|| probe("eth0").unwrap().mac);
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("--target-mac {}", mac.join(":"))
}

/// The result of a command, which is the only one it prints.
fn pktgen(namespace: &Namespace, line: &str) -> Value {
    let output = namespace.run(words(line));
    let mut results: Vec<Value> = serde_json::from_str(&output).unwrap();
    assert_eq!(results.len(), 1);
    assert_eq!(results[0]["name"], "pktgen");
    results.remove(0)
}

fn words(line: &str) -> Vec<&str> {
    let command = [env!("CARGO_BIN_EXE_spillway-bench"), "pktgen"].into_iter();
    command.chain(line.split_whitespace()).chain(["--json", "--quiet"]).collect()
}

fn number(result: &Value, key: &str) -> u64 {
    result[key].as_u64().unwrap_or_else(|| panic!("{key} is no number: {result}"))
}

/// That all of `count` packets came, once, whole and in order.
fn assert_clean(result: &Value, count: u64) {
    for (key, expected) in [("sent", count), ("received", count)] {
        assert_eq!(number(result, key), expected, "{key}: {result}");
    }
    for key in ["lost", "reordered", "duplicates", "corrupt", "unexpected", "untracked"] {
        assert_eq!(number(result, key), 0, "{key}: {result}");
    }
}

#[test]
fn everything_that_is_sent_arrives_and_is_counted() {
    let rig = Rig::new("all");
    for backend in BACKENDS {
        for (traffic, tunnelled) in [(TUNNEL, 20_000), (REPLIES, 0)] {
            for rest in ["--protocol udp --size imix", "--protocol tcp-syn --threads 2"] {
                let fixed = "--count 20000 --rate 50k --flows 5000 --distribution zipf:1.1";
                let result = rig.run(&format!("{traffic} {rest} {fixed} --backend {backend}"));
                assert_clean(&result, 20_000);
                assert_eq!(number(&result, "tunnelled"), tunnelled, "{result}");
            }
        }
    }
}

#[test]
fn latencies_are_of_all_packets_and_make_sense() {
    let rig = Rig::new("latency");
    for backend in BACKENDS {
        let result = rig.run(&format!("{TUNNEL} --count 10000 --rate 20k --backend {backend}"));
        let latency = &result["latency_ns"];
        assert_eq!(number(latency, "count"), 10_000);
        let rising = ["min", "p50", "p90", "p99", "p99.9", "max"].map(|key| number(latency, key));
        assert!(rising.is_sorted(), "{latency}");
        assert!(rising[0] > 0 && rising[1] < 50_000_000, "{latency}");
        let mean = number(latency, "mean");
        assert!((rising[0]..rising[5]).contains(&mean), "{latency}");
    }
}

#[test]
fn frames_of_every_size_are_right_on_the_wire() {
    let rig = Rig::new("wire");
    // Without an XDP program the receiving end takes live frames only with GRO on.
    rig.far.run(["ethtool", "-K", "eth0", "gro", "on"]);
    for backend in BACKENDS {
        for (size, lengths) in [
            ("64", vec![60]),
            ("65", vec![61]),
            ("577", vec![573]),
            ("1518", vec![1514]),
            ("imix", [64, 576, 64, 64, 576, 64, 1500, 64, 576, 64, 576, 64].map(|n| n - 4).into()),
        ] {
            let capture = Capture::start(&rig.far, "eth0", 24);
            let line = format!("send {} {TUNNEL} --count 24 --rate 5k --size {size}", rig.path());
            let result = pktgen(&rig.near, &format!("{line} --backend {backend} --flows 7"));
            assert_eq!(number(&result, "sent"), 24);
            let frames = capture.frames();
            assert_eq!(frames.len(), 24);
            let bytes: usize = frames.iter().map(Vec::len).sum();
            assert_eq!(number(&result, "sent_bytes"), bytes as u64);
            for (sequence, (frame, length)) in frames.iter().zip(lengths.iter().cycle()).enumerate()
            {
                assert_eq!(frame.len(), length + 50, "{size}, {backend}");
                assert_is_right(frame, u32::try_from(sequence).unwrap());
            }
        }
    }
}

/// Reads a tunnelled UDP packet with etherparse.
fn assert_is_right(frame: &[u8], sequence: u32) {
    let outer = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &outer.net else { panic!("{outer:?}") };
    let ip = ip.header().to_header();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(Ipv4Addr::from(ip.destination), Ipv4Addr::new(192, 168, 2, 2));
    let Some(TransportSlice::Udp(udp)) = &outer.transport else { panic!("{outer:?}") };
    assert_eq!(udp.payload().len(), frame.len() - 42);
    let inner = SlicedPacket::from_ethernet(&udp.payload()[8..]).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &inner.net else { panic!("{inner:?}") };
    let ip = ip.header().to_header();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    let Some(TransportSlice::Udp(udp)) = &inner.transport else { panic!("{inner:?}") };
    assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv4(&ip, udp.payload()).unwrap());
    assert_eq!(udp.payload()[..2], *b"SW");
    assert_eq!(udp.payload()[6..10], sequence.to_be_bytes());
    assert!(udp.payload()[18..].iter().all(|&byte| byte == 0));
}

#[test]
fn what_is_lost_swapped_repeated_or_broken_on_the_way_is_noticed() {
    let rig = Rig::new("harm");
    let middle_namespace = Namespace::new("harm-middle");
    veth_pair(&rig.near, "eth1", &middle_namespace, "eth0", 1);
    veth_pair(&rig.far, "eth1", &middle_namespace, "eth1", 1);
    let middle = Middle::new(&middle_namespace);
    let (near, far) = (rig.near.name(), rig.far.name());
    let path = format!(
        "--netns {near} --device eth1 {} --sink-netns {far} --sink-device eth1",
        target(&middle_namespace)
    );
    let stop = AtomicBool::new(false);
    let (result, harm) = thread::scope(|scope| {
        let forwarding = scope.spawn(|| middle.run(&stop));
        // One flow: what overtakes one of another flow is not reordered.
        // So slow that the middle may be kept from its work for half a second.
        let line = format!("run {path} {TUNNEL} --flows 1 --count 5000 --rate 4k");
        let result = pktgen(&rig.near, &line);
        stop.store(true, Ordering::Relaxed);
        (result, forwarding.join().unwrap())
    });
    assert_eq!((harm.dropped, harm.swapped, harm.repeated, harm.broken), (15, 5, 5, 5));
    assert_eq!(number(&result, "sent"), 5000);
    assert_eq!(number(&result, "received"), harm.forwarded + harm.repeated);
    assert_eq!(number(&result, "lost"), harm.dropped);
    assert_eq!(number(&result, "reordered"), harm.swapped);
    assert_eq!(number(&result, "duplicates"), harm.repeated);
    assert_eq!(number(&result, "corrupt"), harm.broken);
}

/// The device has an XDP program: the sink is attached.
fn is_attached(namespace: &Namespace) -> bool {
    namespace.run(["ip", "link", "show", "eth0"]).contains("prog/xdp")
}

#[test]
fn sender_and_sink_work_apart() {
    let rig = Rig::new("apart");
    let receive = format!("receive --netns {} --device eth0 --seconds 4", rig.far.name());
    thread::scope(|scope| {
        let receiving = scope.spawn(|| pktgen(&rig.far, &receive));
        wait_until("the sink is attached", Duration::from_secs(4), || is_attached(&rig.far));
        let line = format!("send {} {TUNNEL} --rate 50k --count 100", rig.path());
        let result = pktgen(&rig.near, &line);
        assert_eq!(number(&result, "sent"), 100);
        assert!(result.get("received").is_none(), "{result}");
        let result = receiving.join().unwrap();
        assert_clean_received(&result, 100);
        assert!(result.get("sent").is_none(), "{result}");
    });
    assert!(!is_attached(&rig.far), "the sink has left its program behind");
}

#[test]
fn reflected_packets_come_back() {
    let rig = Rig::new("reflect");
    let far = rig.far.name();
    let receive = format!("receive --netns {far} --device eth0 --seconds 4 --reflect");
    thread::scope(|scope| {
        let receiving = scope.spawn(|| pktgen(&rig.far, &receive));
        wait_until("the sink is attached", Duration::from_secs(3), || is_attached(&rig.far));
        let near = format!("--sink-netns {} --sink-device eth0", rig.near.name());
        let egress = "--expect-source 192.168.2.3";
        let line = format!("run {} {near} {REPLIES} {egress} --count 5000 --rate 20k", rig.path());
        assert_clean(&pktgen(&rig.near, &line), 5000);
        assert_clean_received(&receiving.join().unwrap(), 5000);
    });
}

fn assert_clean_received(result: &Value, count: u64) {
    assert_eq!((number(result, "received"), number(result, "lost")), (count, 0), "{result}");
}

#[test]
fn a_rate_is_kept() {
    let rig = Rig::new("rate");
    for backend in BACKENDS {
        // What a machine reaches that builds and tests something else meanwhile.
        for rate in [1000.0, 20_000.0] {
            let sink = format!("--sink-netns {} --sink-device eth0", rig.far.name());
            let rest = format!("{TUNNEL} --seconds 0.5 --rate {rate} --backend {backend}");
            let line = format!("run {} {sink} {rest}", rig.path());
            // Before what else the machine does: a thread that is kept from sending has no rate.
            let best = (0..10)
                .map(|_| {
                    let command = ["chrt", "--fifo", "1"].into_iter().chain(words(&line));
                    let results: Vec<Value> = serde_json::from_str(&rig.near.run(command)).unwrap();
                    results[0]["sent_pps"].as_f64().unwrap() / rate
                })
                .inspect(|&kept| assert!(kept < 1.02, "{kept} of {rate}"))
                .find(|&kept| kept > 0.98);
            assert!(best.is_some(), "{rate} packets per second are not reached by {backend}");
        }
    }
}

#[test]
fn new_flows_come_each_once_and_then_it_ends() {
    let rig = Rig::new("new");
    let result = rig.run(&format!("{TUNNEL} --distribution new --flows 30000 --rate 100k"));
    assert_clean(&result, 30_000);
}

#[test]
fn packets_from_another_source_than_expected_are_counted() {
    let rig = Rig::new("source");
    let rest = "--count 4000 --rate 50k --distribution new --flows 4000";
    let result = rig.run(&format!("{TUNNEL} {rest} --expect-source 10.0.1.41"));
    assert_eq!((number(&result, "received"), number(&result, "unexpected")), (4000, 3000));
}

#[test]
fn an_interrupted_sender_says_what_it_has_sent() {
    let rig = Rig::new("interrupt");
    rig.far.run(["ethtool", "-K", "eth0", "gro", "on"]);
    for backend in BACKENDS {
        let line = format!("send {} {TUNNEL} --seconds 600 --rate 20k", rig.path());
        let line = format!("{line} --backend {backend}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let command = format!("exec {} >{}", words(&line).join(" "), file.path().display());
        let mut sender = rig.near.spawn(["sh", "-c", &command]);
        let arrived = || {
            let text = rig.far.run(["cat", "/sys/class/net/eth0/statistics/rx_packets"]);
            text.trim().parse::<u64>().unwrap()
        };
        let before = arrived();
        let limit = Duration::from_secs(30);
        wait_until("frames arrive", limit, || arrived() > before + 1000);
        sender.signal("INT");
        wait_until("the sender has ended", limit, || !sender.is_running());
        let output = std::fs::read_to_string(file.path()).unwrap();
        let results: Vec<Value> = serde_json::from_str(&output).unwrap();
        assert!(number(&results[0], "sent") > 1000, "{results:?}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let rig = Rig::new("refused");
    let (path, target) = (rig.path(), target(&rig.far));
    for (line, reason) in [
        (format!("send {path} {TUNNEL}"), "--seconds, or --count"),
        (format!("send {path} {TUNNEL} --count 1 --cpus 999"), "--cpus 999"),
        (format!("send {path} --count 1"), "--tunnel-source"),
        (format!("send --device eth0 {target} {TUNNEL} --count 1 --netns no"), "/run/netns/no:"),
        ("receive --device eth9 --seconds 1".to_owned(), "eth9 does not exist"),
    ] {
        let refusal = refusal(&rig.near, &line);
        assert!(refusal.contains(reason), "{line}: {refusal}");
    }
    rig.near.run(["ip", "link", "set", "eth0", "mtu", "1500"]);
    let refusal = refusal(&rig.near, &format!("send {path} {TUNNEL} --count 1 --size 1518"));
    assert!(refusal.contains("cannot send frames of 1564 bytes"), "{refusal}");
}

/// What a command says that fails.
fn refusal(namespace: &Namespace, line: &str) -> String {
    let mut command = Command::new("ip");
    let output = command.args(["netns", "exec", namespace.name()]).args(words(line)).output();
    let output = output.unwrap();
    assert!(!output.status.success(), "{line} has not failed");
    assert!(output.stdout.is_empty(), "{line} has a result");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
