//! `spillway nat-log --ipfix`, as a collector understands it that others wrote.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use etherparse::PacketBuilder;
use rustix::process::Signal;
use serde_json::Value;
use spillway_testing::{Namespace, require_root, wait_until};

use crate::router::Router;
use crate::{Running, WITHIN, spillway};

/// The records that nfdump finds in what its collector has written.
fn collected(directory: &Path) -> Vec<Value> {
    let output = Command::new("nfdump").arg("-R").arg(directory).args(["-o", "json"]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Some versions write numbers as words.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Events, translated sources and ports, sources and ports.
fn told(records: &[Value]) -> Vec<[String; 5]> {
    let fields = ["nat_event_id", "src4_xlt_ip", "src_xlt_port", "src4_addr", "src_port"];
    records.iter().map(|record| fields.map(|field| word(&record[field]))).collect()
}

#[test]
fn nfdump_understands_what_it_is_told() {
    let router = Router::start();
    router.happens("begin", 41_000, 5);
    router.happens("end", 41_000, 2);
    router.happens("begin", 41_002, 1);
    let records = collect(&router, 3);

    let row = |event: &str, xlt: &str, port: &str| {
        [event, "192.168.44.129", xlt, "10.0.1.40", port].map(str::to_owned)
    };
    assert_eq!(
        told(&records),
        [row("4", "41001", "41000"), row("5", "41001", "41000"), row("4", "41003", "41002")]
    );
}

#[test]
fn nfdump_understands_whose_a_port_block_is() {
    let router = Router::start();
    router.happens_to_block("block_begin", 4_096, 5);
    router.happens_to_block("block_end", 4_096, 2);
    let fields = ["nat_event_id", "src4_addr", "src4_xlt_ip"];
    let told = collect(&router, 2)
        .iter()
        .map(|record| fields.map(|field| word(&record[field])))
        .collect::<Vec<_>>();
    let row = |event: &str| [event, "10.0.1.40", "192.168.44.129"].map(str::to_owned);
    assert_eq!(told, [row("16"), row("17")]);
}

/// nfdump 1.7.1 keeps no port ranges of IPFIX: which ports these are, Wireshark says.
#[test]
fn wireshark_understands_which_ports_a_block_has() {
    let router = Router::start();
    router.happens_to_block("block_begin", 4_096, 5);
    router.happens_to_block("block_end", 4_096, 2);
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(WITHIN)).unwrap();
    let to = collector.local_addr().unwrap().to_string();
    let socket = router.word("socket");
    let running = Running::start(&mut spillway(&["nat-log", "--ipfix", &to, "--socket", &socket]));
    let mut message = [0; 2048];
    let mut messages: Vec<Vec<u8>> = Vec::new();
    while messages.len() < 2 {
        let length = collector.recv(&mut message).expect("templates, and a message with both");
        messages.push(message[..length].to_vec());
    }
    assert_eq!(running.end(Signal::TERM).code, Some(0));

    let file = router.path("ipfix.pcap");
    std::fs::write(&file, packets(&messages)).unwrap();
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&file).args(["-d", "udp.port==4739,cflow", "-T", "fields"]);
    for field in ["nat_event", "port_range_start", "port_range_end", "port_range_num_ports"] {
        tshark.args(["-e", &format!("cflow.{field}")]);
    }
    let output = tshark.output().expect("tshark is installed: run `make test`");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim(), "16,17\t4096,4096\t4159,4159\t64,64");
}

/// As a file of packets (the pcap format) to port 4739.
fn packets(messages: &[Vec<u8>]) -> Vec<u8> {
    const RAW_IP: u32 = 101;
    let header = [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65_535, RAW_IP];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    for message in messages {
        let mut packet = Vec::new();
        let ip = PacketBuilder::ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64);
        ip.udp(40_000, 4_739).write(&mut packet, message).unwrap();
        let length = u32::try_from(packet.len()).unwrap();
        file.extend([0, 0, length, length].iter().flat_map(|word: &u32| word.to_le_bytes()));
        file.extend(packet);
    }
    file
}

/// What nfdump's collector has of the router's log after so many datagrams.
fn collect(router: &Router, datagrams: u32) -> Vec<Value> {
    require_root();
    static COLLECTORS: AtomicU32 = AtomicU32::new(0);
    let number = COLLECTORS.fetch_add(1, Ordering::Relaxed);
    let namespace = Namespace::new(&format!("collector{number}"));
    let files = router.path("collected");
    std::fs::create_dir(&files).unwrap();
    let port = "4739";
    let pid_file = router.path("nfcapd.pid");
    let words = ["nfcapd", "-b", "127.0.0.1", "-p", port, "-w"].map(Into::into);
    let rest = ["-P".into(), pid_file.clone()];
    let mut collector = namespace.spawn(words.into_iter().chain([files.clone()]).chain(rest));
    let is_bound = || namespace.run(["ss", "-Hlun"]).contains("127.0.0.1:4739");
    wait_until("the collector listens", WITHIN, is_bound);

    let to = format!("127.0.0.1:{port}");
    let socket = router.word("socket");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name()]);
    let inner = spillway(&["nat-log", "--ipfix", &to, "--socket", &socket]);
    command.arg(inner.get_program()).args(inner.get_args());
    let running = Running::start(&mut command);
    // What has come is in the file when the collector ends.
    wait_until("templates and pages have come", WITHIN, || {
        namespace.run(["nstat", "-asz", "UdpInDatagrams"]).contains(&format!(" {datagrams} "))
    });
    assert_eq!(running.end(Signal::TERM).code, Some(0));
    collector.signal("TERM");
    wait_until("the collector has ended", WITHIN, || !collector.is_running());
    collected(&files)
}
