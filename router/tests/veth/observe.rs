//! Commands that follow events and a running router: a flow is seen with its pod's name, and who had its
//! egress port is known from then on.

use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use spillway_api::{Event, IpFamily};
use spillway_testing::wait_until;

use crate::packets::{egress, family, first_flow, frame, pod, server};
use crate::{GATEWAY, NODE, Rig, state};

const WITHIN: Duration = Duration::from_secs(20);

fn spillway(rig: &Rig, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command.args(words).arg("--socket").arg(rig.directory.path().join("spillway.sock"));
    command
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What `spillway observe` shows of a pod's flow that began.
fn begun(rig: &Rig, name: &str) -> Vec<Event> {
    let words = ["observe", "--all", "--type", "begin", "-o", "json", "--pod", name];
    let shown = printed(&spillway(rig, &words).output().unwrap());
    shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn who_had_a_port_is_known_by_the_pods_name() {
    let rig = Rig::new("observe", true);
    let flows = IpFamily::ALL.map(first_flow);
    let addresses = flows.map(|flow| format!("'{}'", pod(flow))).join(", ");
    let named = format!("pod_names: [{{name: shop/cart-0, addresses: [{addresses}]}}]\n");
    rig.client().put_state(state(2, &[], IpFamily::ALL.map(egress)) + &named).unwrap();
    let log = rig.directory.path().join("nat.log");
    let mut logging = spillway(&rig, &["nat-log", "--to", log.to_str().unwrap()]).spawn().unwrap();

    let node = rig.node.enter(|| std::net::UdpSocket::bind((NODE, 8472)).unwrap());
    for flow in flows {
        node.send_to(&frame(flow, 0), (GATEWAY, 8472)).unwrap();
    }
    wait_until("both flows have begun", WITHIN, || begun(&rig, "shop/").len() == 2);
    assert!(begun(&rig, "bank/").is_empty());
    let has_both =
        || std::fs::read_to_string(&log).is_ok_and(|t| t.matches("\"begin\"").count() == 2);
    wait_until("both are in the log", WITHIN, has_both);

    for event in begun(&rig, "cart-0") {
        let of = flows.into_iter().find(|flow| pod(*flow) == event.original.source).unwrap();
        let reply = event.reply.unwrap();
        assert_eq!(reply.destination, egress(family(of)));
        assert_eq!(reply.source, server(family(of)));
        let seen = std::net::SocketAddr::new(reply.destination, reply.destination_port);
        let what = format!("{seen}@now");
        for source in [&[][..], &["--log", log.to_str().unwrap()]] {
            let words = [&["who-had", &what, "--protocol", "udp"], source].concat();
            let table = printed(&spillway(&rig, &words).output().unwrap());
            let row = table.lines().nth(1).unwrap();
            assert!(row.starts_with("shop/cart-0 ") && row.ends_with("still there"), "{table}");
        }
    }
    let flows = printed(&spillway(&rig, &["flows"]).output().unwrap());
    assert_eq!(flows.matches("   shop/cart-0\n").count(), 2, "{flows}");
    kill_process(Pid::from_child(&logging), Signal::TERM).unwrap();
    assert!(logging.wait().unwrap().success());
}
