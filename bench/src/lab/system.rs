//! The systems that are compared, and how each is brought up in the lab, ready to be measured.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::generator::Site;
use super::host::{self, ROUTER_DEVICE, UPLINK};
use super::placement::Placement;
use super::processor::Threads;

/// Flows that each of Spillway's workers has room for: all that a round opens.
const FLOWS_MAX: &str = "2097152";

/// Of the link that is measured on: frames of 1514 bytes fit into the tunnel.
const MTU: &str = "1600";

/// UDP port of the tunnel.
const TUNNEL_PORT: &str = "8472";

/// What forwards on the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum System {
    /// The release binary, as the lab runs it.
    Spillway,
    /// AF_XDP forwarding without an engine.
    L2Forward,
    /// VXLAN, conntrack and nftables SNAT.
    Kernel,
}

impl System {
    pub(crate) const ALL: [Self; 3] = [Self::Spillway, Self::L2Forward, Self::Kernel];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Spillway => "spillway",
            Self::L2Forward => "l2-forward",
            Self::Kernel => "kernel",
        }
    }

    /// The lab's mode with which it starts.
    const fn mode(self) -> &'static str {
        match self {
            Self::Spillway => "spillway",
            Self::L2Forward => "none",
            Self::Kernel => "kernel",
        }
    }

    /// Whether it translates and keeps flows.
    pub(crate) const fn translates(self) -> bool {
        !matches!(self, Self::L2Forward)
    }
}

/// The lab's script, and what it starts.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    pub(crate) script: PathBuf,
    pub(crate) spillway: PathBuf,
    pub(crate) placement: Placement,
    pub(crate) workers: u8,
    pub(crate) queues: u8,
}

impl Lab {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command.args(words).env("SPILLWAY", &self.spillway).stdin(Stdio::null());
        command
    }

    /// Brings the lab up; it is down again when the returned value is gone.
    pub(crate) fn up(&self, system: System, offloads: bool) -> Result<Up<'_>> {
        let up = Up { lab: self, forwarder: None };
        // Never the lab that an earlier round has used: its flows would still be there.
        host::output(&mut self.command(&["down"]))?;
        let (queues, workers) = (self.queues.to_string(), self.workers.to_string());
        let offloads = if offloads { "on" } else { "off" };
        let options = ["--queues", &queues, "--workers", &workers, "--offloads", offloads];
        let words = ["up", "--mode", system.mode(), "--flows", FLOWS_MAX];
        host::output(&mut self.command(&[&words[..], &options].concat()))?;
        Ok(up)
    }
}

/// The lab while it is up.
pub(crate) struct Up<'a> {
    lab: &'a Lab,
    forwarder: Option<Child>,
}

/// The gateway, ready to be measured.
pub(crate) struct Gateway {
    pub(crate) site: Site,
    pub(crate) threads: Threads,
    pub(crate) processors: Vec<usize>,
}

impl Up<'_> {
    /// Gives the gateway its processor and says where to measure.
    pub(crate) fn prepare(&mut self, system: System) -> Result<Gateway> {
        for (name, device) in [("worker2", UPLINK), ("router", ROUTER_DEVICE)] {
            host::run(name, &["ip", "link", "set", device, "mtu", MTU])?;
            // Frames of the generator and of AF_XDP only reach a device that is ready for them.
            host::run(name, &["ethtool", "--offload", device, "gro", "on"])?;
        }
        let processes = match system {
            System::Spillway => vec![self.spillway()?],
            System::L2Forward => vec![self.forward()?],
            System::Kernel => Vec::new(),
        };
        let placement = &self.lab.placement;
        let threads = placement.place(&processes)?;
        if system.translates() {
            // The gateway and the router get to know each other.
            host::run("router", &["ping", "-c", "1", "-W", "5", host::GATEWAY])?;
        }
        let mac = host::run("worker2", &["cat", &format!("/sys/class/net/{UPLINK}/address")])?;
        let site = Site {
            namespace: host::namespace("router"),
            device: ROUTER_DEVICE.to_owned(),
            gateway_mac: mac.trim().to_owned(),
            is_translated: system.translates(),
            processor: placement.generator,
        };
        Ok(Gateway { site, threads, processors: placement.gateway.clone() })
    }

    /// The number of Spillway's process.
    fn spillway(&self) -> Result<u32> {
        let status = host::output(&mut self.lab.command(&["status"]))?;
        let line = status.lines().find_map(|line| line.strip_prefix("spillway "));
        line.and_then(|line| line.trim().strip_prefix("process ")?.parse().ok())
            .with_context(|| format!("Spillway does not run in the lab:\n{status}"))
    }

    /// Starts forwarding without an engine.
    fn forward(&mut self) -> Result<u32> {
        let this = std::env::current_exe()?;
        let this = this.to_str().context("this program's path is not UTF-8")?;
        let workers = self.lab.workers.to_string();
        let words = ["l2-forward", "--devices", UPLINK, "--workers", &workers];
        let alike = ["--strip", TUNNEL_PORT, "--idle-device", host::PODS];
        let words = [&[this][..], &words, &alike].concat();
        let mut command = host::command("worker2", &words);
        let child = command.stdout(Stdio::piped()).spawn().context("cannot start l2-forward")?;
        let child = self.forwarder.insert(child);
        let mut line = String::new();
        if let Some(out) = child.stdout.as_mut() {
            BufReader::new(out).read_line(&mut line)?;
        }
        ensure!(line.starts_with("forwarding"), "l2-forward did not start");
        Ok(child.id())
    }

    /// Forgets all flows, where the kernel has them: its table is smaller than Spillway's.
    pub(crate) fn forget_flows(&self, system: System) -> Result<()> {
        if system == System::Kernel {
            host::run("worker2", &["conntrack", "--flush"])?;
        }
        Ok(())
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        if let Some(mut forwarder) = self.forwarder.take() {
            let _ = forwarder.kill();
            let _ = forwarder.wait();
        }
        if let Err(error) = host::output(&mut self.lab.command(&["down"])) {
            use std::io::Write as _;
            let script = self.lab.script.display();
            let _ = writeln!(
                std::io::stderr().lock(),
                "the lab may still be up: {error:#}\nTry `{script} down`"
            );
        }
    }
}
