//! `spillway nat-log --ipfix`, as a collector understands it that others wrote.

use std::path::Path;
use std::process::Command;

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
    require_root();
    let router = Router::start();
    router.happens("begin", 41_000, 5);
    router.happens("end", 41_000, 2);
    router.happens("begin", 41_002, 1);
    let namespace = Namespace::new("collector");
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
    wait_until("templates and two pages have come", WITHIN, || {
        namespace.run(["nstat", "-asz", "UdpInDatagrams"]).contains(" 3 ")
    });
    assert_eq!(running.end(Signal::TERM).code, Some(0));
    collector.signal("TERM");
    wait_until("the collector has ended", WITHIN, || !collector.is_running());

    let row = |event: &str, xlt: &str, port: &str| {
        [event, "192.168.44.129", xlt, "10.0.1.40", port].map(str::to_owned)
    };
    assert_eq!(
        told(&collected(&files)),
        [row("4", "41001", "41000"), row("5", "41001", "41000"), row("4", "41003", "41002")]
    );
}
