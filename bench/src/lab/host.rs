//! The lab's hosts and addresses, as vagrant/topology.sh makes them, and commands there.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// The gateway's node, and the pods' node.
pub(crate) const GATEWAY: &str = "192.168.44.128";
pub(crate) const WORKER1: &str = "192.168.211.128";
pub(crate) const EGRESS: &str = "192.168.44.129";
/// A pod of app1 on the pods' node.
pub(crate) const POD: &str = "10.0.1.40";
/// A server outside, with real sockets. Test packets go to addresses above the excluded one.
pub(crate) const SERVER: &str = "203.0.113.10";
pub(crate) const VNI: &str = "40000";
pub(crate) const MAC_VX_WORKER1: &str = "02:00:c0:a8:d3:80";
pub(crate) const MAC_VX_WORKER2: &str = "02:00:c0:a8:2c:80";

/// The gateway's device towards the router, and the router's towards the gateway: the link that is
/// measured on.
pub(crate) const UPLINK: &str = "uplink";
pub(crate) const ROUTER_DEVICE: &str = "worker2";

/// The gateway's device for its own pods.
pub(crate) const PODS: &str = "spw-pods";

/// A host's network namespace.
pub(crate) fn namespace(host: &str) -> String {
    format!("spw-{host}")
}

/// A command in a host's network, with that network's /sys.
pub(crate) fn command(host: &str, words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace(host)]).args(words).stdin(Stdio::null());
    command
}

/// Runs a command in a host's network to its end; returns what it printed.
pub(crate) fn run(host: &str, words: &[&str]) -> Result<String> {
    output(&mut command(host, words))
}

/// Runs a command to its end; returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} has failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lab is made by shell scripts, which know the same addresses.
    #[test]
    fn the_labs_scripts_have_these_addresses() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../vagrant/");
        let read = |name: &str| std::fs::read_to_string(format!("{directory}{name}")).unwrap();
        let text = read("addresses.sh") + &read("topology.sh");
        for line in [
            format!("GATEWAY={GATEWAY}\n"),
            format!("WORKER1={WORKER1}\n"),
            format!("EGRESS={EGRESS}\n"),
            format!("\"app1-a worker1 {POD}\"\n"),
            format!("SERVER={SERVER}\n"),
            format!("VNI={VNI}\n"),
            format!("MAC_VX_WORKER1={MAC_VX_WORKER1}\n"),
            format!("MAC_VX_WORKER2={MAC_VX_WORKER2}\n"),
            format!("UPLINK={UPLINK} "),
            format!("link worker2 spw-pods0 worker2 {PODS} "),
            format!("link worker2 \"$UPLINK\" router {ROUTER_DEVICE} "),
        ] {
            assert!(text.contains(&line), "{line}");
        }
    }
}
