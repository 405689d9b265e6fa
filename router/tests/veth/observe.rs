//! Commands that follow events and a running router: a flow is seen with its pod's name, and who had its
//! egress port is known from then on.

use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use spillway_api::{Event, IpFamily};
use spillway_testing::{bind_udp, wait_until};

use crate::packets::{egress, family, first_flow, frame, frame_to, pod, server};
use crate::{GATEWAY, NODE, Rig, launch, state};

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

/// What `spillway observe` shows of all that the router keeps.
fn observed(rig: &Rig, filters: &[&str]) -> Vec<Event> {
    let words = [&["observe", "--all", "-o", "json"], filters].concat();
    let shown = printed(&spillway(rig, &words).output().unwrap());
    shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What it shows of a pod's flow that began.
fn begun(rig: &Rig, name: &str) -> Vec<Event> {
    observed(rig, &["--type", "begin", "--pod", name])
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

    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
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

#[test]
fn forwarded_packets_are_sampled_also_those_that_nat64_translates() {
    let mut rig = Rig::new("sampled", true);
    let change = |file: &str, from: &str, to: &str| {
        let path = rig.directory.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    change("config.yaml", "{kept: 4096}", "{kept: 4096, forwarded_one_in: 1}");
    change("state.yaml", "generation: 1\n", "generation: 1\nnat64_prefix: 64:ff9b::/96\n");
    rig.spillway.signal("TERM");
    wait_until("the router has ended", WITHIN, || !rig.spillway.is_running());
    rig.spillway = launch(&rig.gateway, rig.directory.path());

    let node = rig.node.enter(|| bind_udp((NODE, 8472)));
    let [of_ipv4, of_ipv6] = IpFamily::ALL.map(first_flow);
    let in_prefix = "64:ff9b::203.0.113.10".parse().unwrap();
    let sent = ["--type", "forward", "--protocol", "udp"];
    let seen = |filters: &[&str]| !observed(&rig, &[&sent[..], filters].concat()).is_empty();
    // One at a time: of a burst one is told of, and none that has waited for a neighbour.
    for (frame, [from, to]) in [
        (frame_to(in_prefix, 63, of_ipv6, 0), ["fd00::/8", "64:ff9b::/96"]),
        (frame(of_ipv6, 0), ["fd00::/8", "2001:db8::/32"]),
        (frame(of_ipv4, 0), ["10.0.0.0/8", "203.0.113.0/24"]),
    ] {
        wait_until("a packet is seen", WITHIN, || {
            node.send_to(&frame, (GATEWAY, 8472)).unwrap();
            seen(&["--from-ip", from, "--to-ip", to])
        });
    }
    let without =
        [&sent[..], &["--not", "--to-ip", "2001:db8::/32", "--not", "--from-ip", "10.0.0.0/8"]];
    for event in observed(&rig, &without.concat()) {
        assert_eq!((event.original.source, event.original.destination), (pod(of_ipv6), in_prefix));
        let reply = event.reply.unwrap();
        assert_eq!((reply.source, reply.destination), (server(IpFamily::V4), egress(IpFamily::V4)));
    }
    assert!(seen(&["--not", "--to-ip", "64:ff9b::/96"]));
}
