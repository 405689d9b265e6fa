//! What the other commands print with `--json`. Read strictly: a field more or less is another
//! version's output, and a table of it would be wrong without anybody noticing.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// All that was measured; what was not is empty.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) engine: Vec<Engine>,
    pub(super) instructions: Vec<Instructions>,
    pub(super) steering: Vec<Steering>,
    pub(super) lab: Vec<Lab>,
}

/// A line of `engine --json`.
#[derive(Debug, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub(super) enum Engine {
    Forward(Forwarding),
    Reply(Forwarding),
    Mixed(Forwarding),
    New(Life),
    NewWithReply(Life),
    Teardown(Life),
    Lease(Lease),
    Scaling(Scaling),
}

/// Which way packets went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Reply,
    Mixed,
}

/// Packets of known flows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forwarding {
    pub(super) family: String,
    pub(super) protocol: String,
    pub(super) flows: u32,
    pub(super) distribution: String,
    pub(super) burst: u32,
    pub(super) variant: String,
    pub(super) ns_per_packet: f64,
    pub(super) ns_per_packet_quartiles: [f64; 2],
}

/// A flow's beginning, or end.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Life {
    pub(super) protocol: String,
    pub(super) flows: u32,
    pub(super) variant: String,
    pub(super) ns_per_flow: f64,
    pub(super) ns_per_flow_quartiles: [f64; 2],
    pub(super) round_us_longest_and_p999: Option<[f64; 2]>,
}

/// Ports leased towards one remote.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lease {
    pub(super) taken_percent: [u32; 2],
    pub(super) ns_per_flow: f64,
    pub(super) ns_per_flow_quartiles: [f64; 2],
    pub(super) refused: u64,
}

/// Several workers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scaling {
    pub(super) workers: u32,
    pub(super) flows: u32,
    pub(super) mpps: f64,
    pub(super) mpps_quartiles: [f64; 2],
    pub(super) times_one: f64,
}

/// A line of `instructions --json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Instructions {
    pub(super) name: String,
    pub(super) instructions_per_packet: f64,
    pub(super) budget: Option<f64>,
}

/// A line of `steering --json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Steering {
    #[serde(rename = "name")]
    _name: String,
    pub(super) frame: String,
    #[serde(rename = "outcome")]
    _outcome: String,
    pub(super) pods: u32,
    pub(super) sets: u32,
    pub(super) cidrs_per_set: u32,
    pub(super) distinct_frames: u32,
    pub(super) ns_per_frame: Quarters,
    #[serde(rename = "ns_without")]
    _ns_without: Quarters,
    #[serde(rename = "samples")]
    _samples: u32,
}

/// The median, and the quarter points around it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quarters {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

/// A line of `lab --json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lab {
    #[serde(rename = "name")]
    _name: String,
    pub(super) system: String,
    pub(super) metric: String,
    pub(super) direction: String,
    pub(super) size: String,
    pub(super) load_percent: Option<u32>,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) rounds: u32,
    #[serde(default)]
    pub(super) targets: Vec<LabTarget>,
}

/// What the lab says of its own promises.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabTarget {
    pub(super) against: String,
    pub(super) ratio_target: f64,
    pub(super) ratio: f64,
    pub(super) met: bool,
}

impl Measured {
    /// Packets of known flows, and which way they went.
    pub(super) fn forwarding(&self) -> impl Iterator<Item = (Direction, &Forwarding)> {
        self.engine.iter().filter_map(|line| match line {
            Engine::Forward(line) => Some((Direction::Forward, line)),
            Engine::Reply(line) => Some((Direction::Reply, line)),
            Engine::Mixed(line) => Some((Direction::Mixed, line)),
            _ => None,
        })
    }

    /// Nanoseconds of an IPv4 packet among so many flows, any as likely as any other, in full bursts.
    pub(super) fn ns(&self, way: Direction, flows: u32, variant: &str) -> Option<f64> {
        self.ns_of("IPv4", way, flows, variant)
    }

    /// The same of either family.
    pub(super) fn ns_of(
        &self,
        family: &str,
        way: Direction,
        flows: u32,
        variant: &str,
    ) -> Option<f64> {
        let is_it = |line: &Forwarding| {
            line.family == family
                && line.flows == flows
                && line.variant == variant
                && line.distribution == "uniform"
                && line.burst == 64
        };
        let line = self.forwarding().find(|(its, line)| *its == way && is_it(line));
        line.map(|(_, line)| line.ns_per_packet)
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.engine.iter().filter_map(|line| match line {
            Engine::Lease(line) => Some(line),
            _ => None,
        })
    }

    pub(super) fn scaling(&self) -> impl Iterator<Item = &Scaling> {
        self.engine.iter().filter_map(|line| match line {
            Engine::Scaling(line) => Some(line),
            _ => None,
        })
    }

    /// The events of flows' lives, by what they are called.
    pub(super) fn lives(&self) -> impl Iterator<Item = (&'static str, &Life)> {
        self.engine.iter().filter_map(|line| match line {
            Engine::New(line) => Some(("new", line)),
            Engine::NewWithReply(line) => Some(("new, with its first reply", line)),
            Engine::Teardown(line) => Some(("its end", line)),
            _ => None,
        })
    }

    /// The lab's lines of one metric.
    pub(super) fn lab_metric(&self, metric: &str) -> impl Iterator<Item = &Lab> {
        self.lab.iter().filter(move |line| line.metric == metric)
    }
}

impl Direction {
    pub(super) const ALL: [Self; 3] = [Self::Forward, Self::Reply, Self::Mixed];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reply => "reply",
            Self::Mixed => "mixed",
        }
    }
}

/// What a command printed into a file, if there is one; if not, `absent` learns why.
pub(super) fn read<T: DeserializeOwned>(
    command: &str,
    path: Option<&Path>,
    absent: &mut Vec<String>,
) -> Result<Vec<T>> {
    let Some(path) = path else {
        absent.push(format!("{command}: no --{command} FILE was given"));
        return Ok(Vec::new());
    };
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            absent.push(format!("{command}: there is no {}", path.display()));
            return Ok(Vec::new());
        }
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is not what this version's `{command} --json` prints; measure again",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_line_that_is_not_known_is_refused() {
        let text = r#"[{"name": "sideways", "flows": 1}]"#;
        let error = serde_json::from_str::<Vec<Engine>>(text).unwrap_err().to_string();
        assert!(error.starts_with("unknown variant `sideways`"), "{error}");
    }

    #[test]
    fn a_field_that_is_gone_is_missed() {
        let text = r#"[{"name": "scaling", "workers": 1, "flows": 2, "mpps": 1, "times_one": 1}]"#;
        let error = serde_json::from_str::<Vec<Engine>>(text).unwrap_err().to_string();
        assert!(error.starts_with("missing field `mpps_quartiles`"), "{error}");
    }
}
