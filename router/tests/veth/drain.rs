//! `spillway drain` and a running router: what flows goes on, and nothing new begins.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use spillway_api::IpFamily;
use spillway_testing::{bind_udp, wait_until};

use crate::packets::{answered, egress, family, first_flow, frame, server, server_port};
use crate::{GATEWAY, NODE, Rig, dropped, state};

const WITHIN: Duration = Duration::from_secs(15);

/// What `spillway drain` does and prints.
fn drain(rig: &Rig, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway"))
        .arg("drain")
        .args(options)
        .arg("--socket")
        .arg(rig.directory.path().join("spillway.sock"))
        .output()
        .unwrap()
}

/// What the containers of a gateway's pod run before they are told to end, where `router.drainSeconds` is
/// `seconds`: started at once, as kubelets do it.
fn before_end(rig: &Rig, seconds: u32) -> Vec<(String, Child)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../k8s/prestop.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let all: BTreeMap<u32, BTreeMap<String, Vec<String>>> = serde_saphyr::from_str(&text).unwrap();
    let directory = rig.directory.path().display().to_string();
    let start = |(container, words): (&String, &Vec<String>)| {
        let (program, options) = words.split_first().unwrap();
        assert_eq!(program, "spillway");
        let options = options.iter().map(|word| word.replace("/run/spillway", &directory));
        (container.clone(), begin(rig, options))
    };
    all[&seconds].iter().map(start).collect()
}

/// Starts `spillway` with these words; it ends after a minute, whatever becomes of the test.
fn begin(rig: &Rig, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Child {
    Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_spillway")])
        .args(words)
        .env("SPILLWAY_SOCKET", rig.directory.path().join("spillway.sock"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn printed(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// One packet of a flow there and back.
pub(crate) fn exchange(rig: &Rig, flow: u16, round: u16) {
    let server = rig.outside.enter(|| bind_udp((server(family(flow)), server_port(flow))));
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    node.send_to(&frame(flow, round), (GATEWAY, 8472)).unwrap();
    let mut bytes = [0; 2048];
    let (length, from) = server.recv_from(&mut bytes).expect("the question");
    assert_eq!(from.ip(), egress(family(flow)), "seen outside");
    server.send_to(&bytes[..length], from).unwrap();
    let (length, _) = node.recv_from(&mut bytes).expect("the answer");
    assert_eq!(answered(&bytes[..length]), Some((flow, round)));
}

/// A flow's packet that nobody answers.
fn send(rig: &Rig, flow: u16) {
    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    node.send_to(&frame(flow, 0), (GATEWAY, 8472)).unwrap();
}

#[test]
fn a_drained_router_keeps_its_flows_and_begins_no_other() {
    let rig = Rig::new("drain", true);
    let old = IpFamily::ALL.map(first_flow);
    let new = old.map(|flow| flow + 1);
    old.iter().for_each(|flow| exchange(&rig, *flow, 0));

    let at_once = drain(&rig, &["--timeout", "0"]);
    let told = "no new flow begins\nflows left: 2\n".to_owned();
    assert_eq!(printed(&at_once), (true, told.clone(), String::new()));
    assert!(rig.client().status().unwrap().draining_s.is_some());
    old.iter().for_each(|flow| exchange(&rig, *flow, 1));
    new.iter().for_each(|flow| send(&rig, *flow));
    let refused = BTreeMap::from([("draining".to_owned(), 2)]);
    wait_until("both are dropped", WITHIN, || dropped(&rig) == refused);
    // A new document does not end it.
    let again = state(2, &[], IpFamily::ALL.map(egress));
    rig.client().put_state(again.clone()).unwrap();
    new.iter().for_each(|flow| send(&rig, *flow));
    let refused = BTreeMap::from([("draining".to_owned(), 4)]);
    wait_until("both are dropped again", WITHIN, || dropped(&rig) == refused);

    let (is_over, shown, error) = printed(&drain(&rig, &["--timeout", "1"]));
    assert_eq!((is_over, shown), (false, told));
    assert!(error.contains("flows left after 1 s: 2. They go on"), "{error}");
    // As short as it can be.
    let hurried = again.replace("generation: 2", "generation: 3") + "    timeouts: {udp: 1}\n";
    rig.client().put_state(hurried).unwrap();
    let (is_over, shown, error) = printed(&drain(&rig, &[]));
    assert!(is_over && shown.ends_with("\nflows left: 0\n"), "{shown}{error}");

    let undone = drain(&rig, &["--undo"]);
    assert_eq!(printed(&undone), (true, "new flows begin again\n".to_owned(), String::new()));
    assert_eq!(rig.client().status().unwrap().draining_s, None);
    new.iter().for_each(|flow| exchange(&rig, *flow, 2));
}

#[test]
fn a_pod_that_is_to_end_drains_its_router_as_the_chart_says() {
    let rig = Rig::new("prestop", true);
    let old = first_flow(IpFamily::V4);
    let new = old + 1;
    exchange(&rig, old, 0);

    for (container, child) in before_end(&rig, 0) {
        let (is_over, shown, error) = printed(&child.wait_with_output().unwrap());
        assert!(is_over, "{container}: {shown}{error}");
    }
    assert_eq!(rig.client().status().unwrap().draining_s, None);

    let mut running = before_end(&rig, 300);
    assert_eq!(running.len(), 4);
    let is_drained = || rig.client().status().unwrap().draining_s.is_some();
    wait_until("the router is drained", WITHIN, is_drained);
    exchange(&rig, old, 1);
    send(&rig, new);
    let refused = BTreeMap::from([("draining".to_owned(), 1)]);
    wait_until("a new flow is refused", WITHIN, || dropped(&rig) == refused);
    for (container, child) in &mut running {
        assert_eq!(child.try_wait().unwrap(), None, "{container}");
    }
    // As short as it can be.
    let hurried = state(2, &[], IpFamily::ALL.map(egress)) + "    timeouts: {udp: 1}\n";
    rig.client().put_state(hurried).unwrap();
    for (container, child) in running {
        let (is_over, shown, error) = printed(&child.wait_with_output().unwrap());
        let told = "no new flow begins\nflows left: 1\nflows left: 0\n";
        assert_eq!((is_over, shown.as_str()), (true, told), "{container}: {error}");
    }
}

#[test]
fn whoever_watches_a_drain_changes_nothing_and_ends_with_it() {
    let rig = Rig::new("watch-drain", true);
    exchange(&rig, first_flow(IpFamily::V4), 0);
    let nobody_drains = drain(&rig, &["--watch"]);
    let told = "the router is not being drained\n".to_owned();
    assert_eq!(printed(&nobody_drains), (true, told, String::new()));
    assert_eq!(rig.client().status().unwrap().draining_s, None);

    // Each line is there before the next step: what is printed is printed at once.
    let watch = || {
        let mut child = begin(&rig, ["drain", "--watch"]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        drain(&rig, &["--timeout", "0"]);
        for expected in ["no new flow begins", "flows left: 1"] {
            assert_eq!(lines.next().unwrap().unwrap(), expected);
        }
        (child, lines)
    };
    let (undone, _lines) = watch();
    drain(&rig, &["--undo"]);
    let (is_over, _, error) = printed(&undone.wait_with_output().unwrap());
    assert!(!is_over && error.contains("somebody has let new flows begin again"), "{error}");

    let (mut ended, mut lines) = watch();
    rig.spillway.signal("TERM");
    assert_eq!(lines.next().unwrap().unwrap(), "no router answers");
    assert!(ended.wait().unwrap().success());
}
