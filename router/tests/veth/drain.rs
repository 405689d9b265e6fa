//! `spillway drain` and a running router: what flows goes on, and nothing new begins.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::{Command, Output};
use std::time::Duration;

use spillway_api::IpFamily;
use spillway_testing::wait_until;

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

fn printed(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// One packet of a flow there and back.
pub(crate) fn exchange(rig: &Rig, flow: u16, round: u16) {
    let bind = |address, port| {
        let socket = UdpSocket::bind((address, port)).unwrap();
        socket.set_read_timeout(Some(WITHIN)).unwrap();
        socket
    };
    let server = rig.outside.enter(|| bind(server(family(flow)), server_port(flow)));
    let node = rig.node.enter(|| bind(NODE.into(), 8472));
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
    let node = rig.node.enter(|| UdpSocket::bind((NODE, 8472)).unwrap());
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
