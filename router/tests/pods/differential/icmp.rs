//! Pings and traceroutes, by the tools themselves.

use std::process::Command;

use spillway_testing::Namespace;

use super::Seen;
use super::udp::forget_ways;
use crate::world::{NARROW_MTU, World};

/// What a command printed, whether it succeeded or not.
fn said(namespace: &Namespace, command: &str) -> Vec<String> {
    let mut run = Command::new("ip");
    run.args(["netns", "exec", namespace.name()]).args(command.split(' '));
    let output = run.output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    String::from_utf8(printed).unwrap().lines().map(str::to_owned).collect()
}

/// What `ping` says, without times: replies, errors and how many replies.
fn pings(namespace: &Namespace, arguments: &str) -> Vec<String> {
    let lines = said(namespace, &format!("ping -n {arguments}"));
    let told = |line: &String| line.contains("bytes from") || line.starts_with("From ");
    let mut told: Vec<String> = lines
        .iter()
        .filter(|line| told(line))
        .map(|line| line.split(" time=").next().unwrap_or_default().to_owned())
        .collect();
    told.push(received(&lines));
    told
}

/// How many replies `ping` counts.
pub(super) fn replies(namespace: &Namespace, arguments: &str) -> String {
    received(&said(namespace, &format!("ping -n {arguments}")))
}

fn received(lines: &[String]) -> String {
    let count = lines.iter().find_map(|line| line.split(", ").find(|part| part.contains("rece")));
    count.unwrap_or_else(|| panic!("ping says {lines:?}")).to_owned()
}

pub(super) fn ping(world: &World) -> Seen {
    let mut seen = Seen::default();
    let (server, fits) = (world.family.server, world.family.payload_of(world.pod_mtu));
    for size in [0, 8, 56, 57, fits, fits + 1, 4000] {
        for _ in 0..2 {
            seen.notes("pod", pings(&world.pods[0], &format!("-c 1 -W 5 -s {size} {server}")));
        }
    }
    seen
}

/// The address is the host's too: both kernels answer, not the pods.
pub(super) fn ping_egress(world: &World) -> Seen {
    let mut seen = Seen::default();
    seen.notes("server", pings(&world.server, &format!("-c 1 -W 5 {}", world.family.egress)));
    seen
}

pub(super) fn two_pods_one_identifier(world: &World) -> Seen {
    let mut seen = Seen::default();
    let server = world.family.server;
    for pod in [0, 1, 0] {
        seen.notes("pod", pings(&world.pods[pod], &format!("-c 1 -W 5 -e 4242 {server}")));
    }
    seen
}

/// The router's error reaches the pod, with the size that fits.
pub(super) fn ping_narrow(world: &World) -> Seen {
    let mut seen = Seen::default();
    let (narrow, fits) = (world.family.narrow, world.family.payload_of(NARROW_MTU));
    for pod in &world.pods {
        forget_ways(pod, world.family);
        for size in [1400, fits] {
            seen.notes("pod", pings(pod, &format!("-c 1 -W 5 -M do -s {size} {narrow}")));
        }
    }
    seen
}

/// The hops that `traceroute` shows, without times.
fn trace(world: &World, how: &str) -> Seen {
    let mut seen = Seen::default();
    // Each hop has its five seconds, however quick the others were.
    let command = format!("traceroute -n -q 1 -N 1 -w 5,0,0 -m 6 {how} {}", world.family.server);
    let lines = said(&world.pods[0], &command);
    seen.notes("pod", lines.iter().skip(1).map(|line| hop(line)));
    seen
}

/// Number, address and what is told beside the time.
fn hop(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let marks = words.iter().skip(2).filter(|word| word.starts_with('!') || **word == "*");
    words.iter().take(2).chain(marks).copied().collect::<Vec<_>>().join(" ")
}

pub(super) fn trace_udp(world: &World) -> Seen {
    trace(world, "-U -p 33333")
}

pub(super) fn trace_echo(world: &World) -> Seen {
    trace(world, "-I")
}

pub(super) fn trace_tcp(world: &World) -> Seen {
    trace(world, "-T -p 3000")
}
