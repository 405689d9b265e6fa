//! `spillway-bench pktgen`, run as a process of its own: what it is asked for, and what it says.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::host;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// From pods, in the tunnel.
    Forward,
    /// From remotes, to the egress address.
    Reply,
}

impl Direction {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reply => "reply",
        }
    }
}

/// Which flows, of the lab's own addresses.
#[derive(Clone, Debug)]
pub(crate) struct Flows {
    pub(crate) count: u32,
    /// The last byte of the first remote's address; some trials must not meet others' flows.
    pub(crate) first_remote: u8,
    /// `uniform`, `new` and so on, as pktgen calls it.
    pub(crate) distribution: &'static str,
    /// One outer source port for all, or one for each.
    pub(crate) outer_source_port: Option<u16>,
}

/// One trial.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) direction: Direction,
    pub(crate) flows: Flows,
    /// Of the inner frame, as pktgen has it.
    pub(crate) size: &'static str,
    /// Packets per second; `None` is as fast as it goes.
    pub(crate) rate: Option<f64>,
    /// How long; without, each flow has one packet.
    pub(crate) seconds: Option<f64>,
}

/// Where traffic enters and leaves, and what the gateway wants it to look like.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// The namespace of generator and sink, and their device there.
    pub(crate) namespace: String,
    pub(crate) device: String,
    /// The gateway's MAC address.
    pub(crate) gateway_mac: String,
    /// Whether translated packets must have the egress address.
    pub(crate) is_translated: bool,
    /// The generator's processor.
    pub(crate) processor: usize,
}

/// Latency of the packets of a trial, in nanoseconds.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    #[serde(rename = "p99.9")]
    pub(crate) p999: f64,
}

/// What came of a trial: what of pktgen's answer is used here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) sent_pps: f64,
    pub(crate) received: u64,
    pub(crate) received_pps: f64,
    pub(crate) loss: f64,
    #[serde(default)]
    pub(crate) unexpected: u64,
    #[serde(default)]
    pub(crate) corrupt: u64,
    pub(crate) latency_ns: Option<Latency>,
}

impl Trial {
    /// The command's arguments.
    fn arguments(&self, site: &Site) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["pktgen", "run", "--json", "--quiet"].map(String::from).into();
        let mut add = |option: &str, value: &str| {
            arguments.extend([format!("--{option}"), value.to_owned()]);
        };
        for side in ["", "sink-"] {
            add(&format!("{side}netns"), &site.namespace);
            add(&format!("{side}device"), &site.device);
        }
        add("cpus", &site.processor.to_string());
        add("target-mac", &site.gateway_mac);
        match self.direction {
            Direction::Forward => {
                add("tunnel-source", host::WORKER1);
                add("tunnel-target", host::GATEWAY);
                add("vni", host::VNI);
                add("inner-source-mac", host::MAC_VX_WORKER1);
                add("inner-target-mac", host::MAC_VX_WORKER2);
                if let Some(port) = self.flows.outer_source_port {
                    add("outer-source-port", &port.to_string());
                }
                if site.is_translated {
                    add("expect-source", host::EGRESS);
                }
            }
            Direction::Reply => {
                add("traffic", "replies");
                add("egress", host::EGRESS);
            }
        }
        add("pods", host::POD);
        let remotes = u16::from(u8::MAX - self.flows.first_remote);
        add("remotes", &format!("203.0.113.{}+{remotes}", self.flows.first_remote));
        add("flows", &self.flows.count.to_string());
        add("distribution", self.flows.distribution);
        add("size", self.size);
        if let Some(rate) = self.rate {
            add("rate", &format!("{rate:.0}"));
        }
        if let Some(seconds) = self.seconds {
            add("seconds", &seconds.to_string());
        }
        arguments
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, site: &Site) -> Result<Outcome> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(self.arguments(site)).stdin(Stdio::null());
        let output = command.output().context("cannot start the packet generator")?;
        ensure!(
            output.status.success(),
            "the packet generator has failed ({}): {command:?}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let outcome = Outcome::parse(&output.stdout)?;
        ensure!(
            outcome.unexpected == 0 && outcome.corrupt == 0,
            "{} packets came with a wrong source address, {} with wrong bytes: the gateway does \
             not do its work; no rate of it counts",
            outcome.unexpected,
            outcome.corrupt
        );
        Ok(outcome)
    }
}

impl Outcome {
    fn parse(json: &[u8]) -> Result<Self> {
        let [outcome]: [Self; 1] =
            serde_json::from_slice(json).context("cannot understand the packet generator")?;
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(direction: Direction) -> Trial {
        let flows = Flows {
            count: 64_512,
            first_remote: 30,
            distribution: "uniform",
            outer_source_port: None,
        };
        Trial { direction, flows, size: "64", rate: Some(250_000.4), seconds: Some(0.5) }
    }

    fn site() -> Site {
        Site {
            namespace: "spw-router".to_owned(),
            device: "worker2".to_owned(),
            gateway_mac: "02:00:00:00:00:01".to_owned(),
            is_translated: true,
            processor: 0,
        }
    }

    #[test]
    fn only_pods_use_the_tunnel() {
        let forward = trial(Direction::Forward).arguments(&site()).join(" ");
        assert!(forward.contains("--tunnel-target 192.168.44.128"), "{forward}");
        assert!(forward.contains("--rate 250000 --seconds 0.5"), "{forward}");
        assert!(forward.contains("--remotes 203.0.113.30+225"), "{forward}");
        let reply = trial(Direction::Reply).arguments(&site()).join(" ");
        assert!(reply.contains("--traffic replies --egress 192.168.44.129"), "{reply}");
        assert!(!reply.contains("--tunnel-target"), "{reply}");
    }

    #[test]
    fn without_translation_no_source_is_expected() {
        let site = Site { is_translated: false, ..site() };
        let arguments = trial(Direction::Forward).arguments(&site);
        assert!(!arguments.iter().any(|argument| argument == "--expect-source"));
    }

    #[test]
    fn the_generators_answer_is_understood() {
        let json = br#"[{"name":"pktgen","sent":10,"sent_pps":5.0,"received":9,"received_pps":4.5,
            "loss":0.1,"unexpected":1,"corrupt":0,"lost":1,
            "latency_ns":{"count":9,"p50":1.0,"p90":2,"p99":3.0,"p99.9":4.0}}]"#;
        let outcome = Outcome::parse(json).unwrap();
        assert_eq!((outcome.sent, outcome.received, outcome.unexpected), (10, 9, 1));
        assert_eq!(outcome.latency_ns.map(|latency| latency.p999), Some(4.0));
        assert!(Outcome::parse(b"[]").is_err());
    }
}
