//! Pods with whole blocks of ports: steering, workers, the NAT log and who reads it agree whose they are.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use spillway_api::PortBlock;
use spillway_testing::wait_until;

use crate::{Layout, Rig, converse};

const WITHIN: Duration = Duration::from_secs(20);

fn spillway(rig: &Rig, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command.args(words).arg("--socket").arg(rig.directory.path().join("spillway.sock"));
    command
}

fn printed(rig: &Rig, words: &[&str]) -> String {
    let output = spillway(rig, words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_thousand_flows_are_a_few_lines_of_the_log() {
    let layout = Layout { port_blocks: 64, ..Layout::TWO_ARMED };
    let rig = Rig::laid_out("blocks", layout);
    let log = rig.directory.path().join("nat.log");
    let log_name = log.to_str().unwrap();
    let mut logging = spillway(&rig, &["nat-log", "--to", log_name]).spawn().unwrap();
    converse(&rig);

    let text = printed(&rig, &["port-blocks", "-o", "json"]);
    let blocks: Vec<PortBlock> = serde_json::from_str(&text).unwrap();
    let flows = rig.flows();
    let in_blocks: u32 = blocks.iter().map(|block| block.flows).sum();
    assert_eq!(in_blocks as usize, flows.len());
    // Eight pods, two workers, 64 flows towards one port of the server: two or three blocks each.
    assert!((16..=40).contains(&blocks.len()), "{}", blocks.len());
    let of_status: u64 =
        rig.client().status().unwrap().workers.iter().map(|worker| worker.port_blocks).sum();
    assert_eq!(of_status, blocks.len() as u64);
    for flow in &flows {
        let reply = flow.reply;
        let of = blocks.iter().find(|block| {
            block.egress_address == reply.destination
                && (block.first_port..=block.last_port).contains(&reply.destination_port)
        });
        let of = of.unwrap_or_else(|| panic!("{flow:?} is in no block"));
        assert_eq!((of.pod_address, of.worker), (flow.original.source, flow.worker));
    }

    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let count = |kind: &str| lines().iter().filter(|line| line["event"] == kind).count();
    wait_until("the log has every block", WITHIN, || count("block_begin") == blocks.len());
    assert_eq!((count("begin"), count("end"), count("live"), count("gap")), (0, 0, 0, 0));
    let flow = &flows[flows.len() / 2];
    let seen = SocketAddr::new(flow.reply.destination, flow.reply.destination_port);
    let row = |source: &[&str]| -> String {
        let table = printed(&rig, &[&["who-had", &format!("{seen}@now")], source].concat());
        assert_eq!(table.lines().count(), 2, "{table}");
        table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let pod = flow.original.source;
    let of_log = row(&["--log", log_name]);
    assert!(of_log.starts_with(&format!("? {pod} any any ")), "{of_log}");
    // The router itself knows more: the flows that have the port.
    let remote = SocketAddr::new(flow.reply.source, flow.reply.source_port).to_string();
    let of_router = row(&["--remote", &remote]);
    assert!(of_router.contains(&SocketAddr::new(pod, flow.original.source_port).to_string()));

    let observed = printed(&rig, &["observe", "--all", "--type", "block-begin"]);
    assert_eq!(observed.lines().count(), blocks.len(), "{observed}");
    kill_process(Pid::from_child(&logging), Signal::TERM).unwrap();
    assert!(logging.wait().unwrap().success());
}
