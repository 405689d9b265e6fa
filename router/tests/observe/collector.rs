//! `spillway nat-log --ipfix`, as a collector understands it that others wrote.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use etherparse::PacketBuilder;
use rustix::process::Signal;
use serde_json::Value;
use spillway_testing::{Namespace, bind_udp, require_root, wait_until};

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
    let fields = ["nat_event", "port_range_start", "port_range_end", "port_range_num_ports"];
    assert_eq!(dissected(&router, &fields), "16,17\t4096,4096\t4159,4159\t64,64");
}

/// nfdump 1.7.1 shows no translated address of IPv6.
#[test]
fn wireshark_understands_sessions_of_ipv6() {
    let router = Router::start();
    let (pod, egress, remote) = ("fd00::40", "2001:db8:44::129", "2001:db8:203::10");
    router.happens_between("begin", (pod, 41_000), (egress, 41_001), (remote, 443));
    router.happens_between("end", (pod, 41_000), (egress, 41_001), (remote, 443));
    let fields = [
        "nat_event",
        "srcaddrv6",
        "post_nat_source_ipv6_address",
        "post_naptsource_transport_port",
        "post_nat_destination_ipv6_address",
    ];
    let twice = [pod, egress, "41001", remote].map(|word| format!("{word},{word}"));
    assert_eq!(dissected(&router, &fields), format!("1,2\t{}", twice.join("\t")));
}

/// What Wireshark reads in the first two messages about a router: the templates, and a page of events.
fn dissected(router: &Router, fields: &[&str]) -> String {
    let namespace = namespace();
    let collector = namespace.enter(|| bind_udp(("127.0.0.1", PORT)));
    let running = tell(router, &namespace);
    let mut message = [0; 2048];
    let messages = [(); 2].map(|()| {
        let length = collector.recv(&mut message).expect("templates, and a message with both");
        message[..length].to_vec()
    });
    assert_eq!(running.end(Signal::TERM).code, Some(0));
    let file = router.path("ipfix.pcap");
    std::fs::write(&file, packets(&messages)).unwrap();
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&file);
    tshark.args(["-d", &format!("udp.port=={PORT},cflow"), "-T", "fields"]);
    tshark.args(fields.iter().flat_map(|field| ["-e".to_owned(), format!("cflow.{field}")]));
    let output = tshark.output().expect("tshark is installed: run `make test`");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// As a file of packets (the pcap format) to the collector.
fn packets(messages: &[Vec<u8>]) -> Vec<u8> {
    const RAW_IP: u32 = 101;
    let header = [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65_535, RAW_IP];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    for message in messages {
        let mut packet = Vec::new();
        let ip = PacketBuilder::ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64);
        ip.udp(40_000, PORT).write(&mut packet, message).unwrap();
        let length = u32::try_from(packet.len()).unwrap();
        file.extend([0, 0, length, length].iter().flat_map(|word: &u32| word.to_le_bytes()));
        file.extend(packet);
    }
    file
}

/// Where collectors listen.
const PORT: u16 = 4_739;

/// One for a collector of its own.
fn namespace() -> Namespace {
    require_root();
    static COLLECTORS: AtomicU32 = AtomicU32::new(0);
    let number = COLLECTORS.fetch_add(1, Ordering::Relaxed);
    Namespace::new(&format!("collector{number}"))
}

/// `spillway nat-log`, which tells the collector in a namespace.
fn tell(router: &Router, namespace: &Namespace) -> Running {
    let (to, socket) = (format!("127.0.0.1:{PORT}"), router.word("socket"));
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name()]);
    let inner = spillway(&["nat-log", "--ipfix", &to, "--socket", &socket]);
    command.arg(inner.get_program()).args(inner.get_args());
    Running::start(&mut command)
}

/// What nfdump's collector has of the router's log after so many datagrams.
fn collect(router: &Router, datagrams: u32) -> Vec<Value> {
    let namespace = namespace();
    let files = router.path("collected");
    std::fs::create_dir(&files).unwrap();
    let (port, pid_file) = (PORT.to_string(), router.path("nfcapd.pid"));
    let words = ["nfcapd", "-b", "127.0.0.1", "-p", &port, "-w"].map(Into::into);
    let rest = ["-P".into(), pid_file.clone()];
    let mut collector = namespace.spawn(words.into_iter().chain([files.clone()]).chain(rest));
    let is_bound = || namespace.run(["ss", "-Hlun"]).contains(&format!("127.0.0.1:{PORT}"));
    wait_until("the collector listens", WITHIN, is_bound);
    let running = tell(router, &namespace);
    // What has come is in the file when the collector ends.
    wait_until("templates and pages have come", WITHIN, || {
        namespace.run(["nstat", "-asz", "UdpInDatagrams"]).contains(&format!(" {datagrams} "))
    });
    assert_eq!(running.end(Signal::TERM).code, Some(0));
    collector.signal("TERM");
    wait_until("the collector has ended", WITHIN, || !collector.is_running());
    collected(&files)
}
