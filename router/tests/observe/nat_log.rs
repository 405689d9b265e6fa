//! `spillway nat-log`, and what `spillway who-had` makes of it.

use rustix::process::Signal;
use serde_json::Value;
use spillway_testing::wait_until;

use crate::router::{Router, lines};
use crate::{Printed, Running, WITHIN, spillway};

/// `spillway nat-log`, writing `nat.log`.
fn log(router: &Router) -> Running {
    let (socket, log) = (router.word("socket"), router.word("nat.log"));
    Running::start(&mut spillway(&["nat-log", "--to", &log, "--socket", &socket]))
}

/// What the log has of this kind: the pods' ports.
fn ports(router: &Router, kind: &str) -> Vec<u64> {
    let lines = lines(&router.path("nat.log"));
    let of_kind = lines.iter().filter(|line| line["event"] == kind);
    of_kind.map(|line| line["pod_port"].as_u64().unwrap()).collect()
}

fn kinds(router: &Router) -> Vec<String> {
    let lines = lines(&router.path("nat.log"));
    lines.iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
}

/// The same in the order of the alphabet, without marks: one comes whenever nothing else was written for a
/// minute, by the times of what was.
fn sorted_kinds(router: &Router) -> Vec<String> {
    let mut kinds = kinds(router);
    kinds.retain(|kind| kind != "mark");
    kinds.sort();
    kinds
}

/// What is said of a port of the egress address, at a time.
fn who_had(port: u16, time: &str, options: &[&str]) -> Printed {
    let what = format!("192.168.44.129:{port}@{time}");
    let mut command = spillway(&["who-had", &what, "-o", "json"]);
    Printed::of(&command.args(options).output().unwrap())
}

#[test]
fn the_log_goes_on_where_it_ended_and_tells_what_it_missed() {
    let router = Router::start();
    router.happens("begin", 41_000, 600);
    router.happens("end", 41_000, 540);
    router.happens("drop", 41_004, 300);
    router.happens("begin", 41_002, 300);
    router.has_flow(41_002, 300);
    let first = log(&router);
    wait_until("the flow is in the log", WITHIN, || ports(&router, "live") == [41_002]);
    let ended = first.end(Signal::TERM);
    assert_eq!((ended.code, ended.output.as_str(), ended.error.as_str()), (Some(0), "", ""));
    // Flows are read between two pages of events.
    let written = sorted_kinds(&router);
    assert_eq!(written, ["begin", "begin", "complete", "end", "live", "start", "stop"]);

    // Nothing is missed and nothing happens twice, though nobody wrote meanwhile.
    router.happens("begin", 41_006, 0);
    let second = log(&router);
    wait_until("the log goes on", WITHIN, || ports(&router, "begin").contains(&41_006));
    assert_eq!(ports(&router, "begin"), [41_000, 41_002, 41_006]);
    assert!(!kinds(&router).contains(&"gap".to_owned()));

    let flows_read = || kinds(&router).iter().filter(|kind| *kind == "complete").count();
    wait_until("the flows are read again", WITHIN, || flows_read() == 2);
    router.restarts();
    wait_until("the gap is told", WITHIN, || kinds(&router).contains(&"gap".to_owned()));
    wait_until("the flows are read again", WITHIN, || flows_read() == 3);
    assert_eq!(ports(&router, "live"), [41_002; 3]);
    let lines = lines(&router.path("nat.log"));
    let gap = lines.iter().find(|line| line["event"] == "gap").unwrap();
    assert_eq!((&gap["why"], &gap["lost"]), (&Value::from("router_restarted"), &Value::Null));
    let ended = second.end(Signal::INT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.error.contains("a gap in the log"), "{ended:?}");
}

#[test]
fn a_flow_that_outlives_the_file_of_its_begin_is_in_those_that_are_kept() {
    let router = Router::start();
    router.happens("begin", 41_002, 300);
    router.has_flow(41_002, 300);
    // More than two files' worth.
    for _ in 0..4_000 {
        router.happens("begin", 41_000, 200);
        router.happens("end", 41_000, 200);
    }
    let (socket, file) = (router.word("socket"), router.word("nat.log"));
    let rotates = ["--max-size", "1", "--keep", "1"];
    let mut command = spillway(&["nat-log", "--to", &file, "--socket", &socket]);
    let running = Running::start(command.args(rotates));
    let has = |name: &str, kind: &str| {
        // Its last line may be half written.
        let text = std::fs::read_to_string(router.path(name)).unwrap_or_default();
        let (event, port) = (format!("\"event\":\"{kind}\""), "\"pod_port\":41002,");
        text.lines().any(|line| line.contains(&event) && line.contains(port))
    };
    wait_until("the file with its begin is gone", WITHIN, || {
        // Rotated meanwhile, the older one is the newer one a moment later.
        let has_begin = ["nat.log", "nat.log.1", "nat.log"].map(|name| has(name, "begin"));
        has_begin == [false; 3] && has("nat.log", "live")
    });
    let ended = running.end(Signal::TERM);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let said = who_had(41_003, "-200s", &["--log", &file, "--socket", "/nowhere"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.output.contains("41002"), "{said:?}");
}

#[test]
fn a_log_that_somebody_has_moved_begins_anew_with_all_flows() {
    let router = Router::start();
    router.happens("begin", 41_002, 300);
    router.has_flow(41_002, 300);
    let running = log(&router);
    wait_until("the log has begun", WITHIN, || kinds(&router).contains(&"complete".to_owned()));
    std::fs::rename(router.path("nat.log"), router.path("moved")).unwrap();
    wait_until("there is another", WITHIN, || {
        kinds(&router).contains(&"complete".to_owned()) && ports(&router, "live") == [41_002]
    });
    assert_eq!(running.end(Signal::TERM).code, Some(0));
    assert!(!kinds(&router).contains(&"begin".to_owned()), "that is in the other one");
}

#[test]
fn a_second_writer_of_a_file_is_refused() {
    let router = Router::start();
    let first = log(&router);
    wait_until("the log has begun", WITHIN, || kinds(&router).contains(&"complete".to_owned()));
    let second = log(&router).into_printed();
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.error.contains("another process writes the NAT log"), "{second:?}");
    assert_eq!(first.end(Signal::TERM).code, Some(0));
}

#[test]
fn the_log_and_the_router_together_tell_who_had_a_port() {
    let router = Router::start();
    router.happens("begin", 41_000, 600);
    router.happens("end", 41_000, 540);
    let running = log(&router);
    wait_until("the end is in the log", WITHIN, || ports(&router, "end") == [41_000]);
    assert_eq!(running.end(Signal::TERM).code, Some(0));
    // The log does not have this one.
    router.happens("begin", 41_002, 0);
    router.has_flow(41_002, 0);

    let (file, socket) = (router.word("nat.log"), router.word("socket"));
    let both = ["--log", &file, "--socket", &socket];
    let router_only = ["--socket", &socket];
    let log_only = ["--log", &file, "--socket", "/nowhere"];
    for (port, time, options, code) in [
        (41_001, "-570s", &both[..], 0),
        (41_001, "-570s", &router_only, 0),
        (41_001, "-570s", &log_only, 0),
        (41_001, "-500s", &both, 3),
        (41_001, "now", &both, 3),
        (41_003, "now", &both, 0),
        (41_003, "now", &router_only, 0),
        (41_003, "-400s", &both, 3),
        (41_003, "now", &log_only, 4),
        (41_001, "-2h", &router_only, 4),
        (41_001, "-570s", &["--log", "/nowhere"], 1),
    ] {
        let said = who_had(port, time, options);
        assert_eq!(said.code, Some(code), "{port} at {time}, {options:?}: {said:?}");
        if code == 0 {
            let answer: Value = serde_json::from_str(&said.output).unwrap();
            assert_eq!(answer["holders"].as_array().unwrap().len(), 1, "{answer}");
            assert_eq!(answer["holders"][0]["pod"], "shop/cart-0");
            assert_eq!(answer["holders"][0]["pod_port"], u64::from(port) - 1);
        }
    }
    let said = who_had(41_001, "-500s", &both);
    assert!(said.error.starts_with("spillway: nobody had 192.168.44.129:41001 at 20"), "{said:?}");
    let what = "192.168.44.129:41003@now";
    let shown = spillway(&["who-had", what, "--socket", &socket]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let row = shown.lines().nth(1).unwrap();
    assert!(row.starts_with("shop/cart-0   10.0.1.40:41002   tcp"), "{shown}");
    assert!(row.ends_with("still there"), "{shown}");
}

#[test]
fn without_a_file_the_log_is_printed_and_a_closed_pipe_ends_it() {
    let router = Router::start();
    router.happens("begin", 41_000, 5);
    let socket = router.word("socket");
    let mut running = Running::start(&mut spillway(&["nat-log", "--socket", &socket]));
    let output = running.child().stdout.take().unwrap();
    let mut printed = std::io::BufRead::lines(std::io::BufReader::new(output));
    let mut kind = || {
        let line: Value = serde_json::from_str(&printed.next().unwrap().unwrap()).unwrap();
        line["event"].as_str().unwrap().to_owned()
    };
    assert_eq!([kind(), kind()], ["start", "begin"]);
    drop(printed);
    wait_until("it ends", WITHIN, || {
        router.happens("begin", 41_002, 0);
        running.child().try_wait().unwrap().is_some()
    });
    assert!(running.child().wait().unwrap().success());
}

#[test]
fn where_pods_have_blocks_of_ports_the_log_has_blocks_and_what_has_no_port() {
    let router = Router::start();
    router.happens_to_block("block_begin", 41_000, 600);
    router.happens("begin", 41_002, 590);
    router.happens("end", 41_002, 580);
    router.has_flow(41_004, 570);
    // What has no port has the whole address: its record says it.
    router.happens("begin", u16::MAX, 560);
    router.has_block(41_000, 600);
    let running = log(&router);
    let count = |kind: &str| kinds(&router).iter().filter(|other| *other == kind).count();
    wait_until("the block is read", WITHIN, || count("complete") == 1);
    router.happens_to_block("block_end", 41_000, 0);
    wait_until("its end is logged", WITHIN, || count("block_end") == 1);
    router.has_block(41_064, 30);
    router.restarts();
    wait_until("both are read again", WITHIN, || count("complete") == 2);
    assert_eq!(running.end(Signal::TERM).code, Some(0));
    let written = sorted_kinds(&router);
    let expected = ["begin", "block_begin", "block_end", "block_live", "block_live", "block_live"];
    let others = ["complete", "complete", "gap", "start", "stop"];
    assert_eq!(written, [&expected[..], &others].concat());

    let file = router.word("nat.log");
    let only = ["--log", &file, "--socket", "/nowhere"];
    let held = who_had(41_033, "-300s", &only);
    let said: Value = serde_json::from_str(&held.output).unwrap();
    let holder = &said["holders"][0];
    assert_eq!(
        (&holder["pod"], &holder["pod_address"], &holder["block"], &holder["protocol"]),
        (
            &"shop/cart-0".into(),
            &"10.0.1.40".into(),
            &serde_json::json!([41_000, 41_063]),
            &Value::Null
        )
    );
    assert_eq!(said["holders"].as_array().map(Vec::len), Some(1), "{said}");
    assert_eq!(who_had(41_064, "-300s", &only).code, Some(3), "the next block was nobody's");
}
