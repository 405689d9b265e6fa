//! `spillway preflight`: what is wrong on a host before the router runs on it, and how to mend it.
//!
//! [`Facts`] are what the kernel says, read without changing anything. What they mean is judged by
//! pure functions: `host` judges what all devices share, `underlay` what brings the pods' packets,
//! `device` one device. *Fail* means that the router would refuse to start or would not get the
//! pods' traffic, *warn* that it runs and something is lost. What the kernel does not tell is
//! *unknown*.

mod device;
mod facts;
#[cfg(test)]
mod fixture;
mod host;
mod underlay;

use serde::Serialize;
use spillway_xdp::device::{DeviceError, DeviceInfo, packet_memory};

use crate::config::Config;
use crate::run::devices_config;
use facts::Facts;
pub(crate) use facts::assumed_config;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// As it should be.
    Ok,
    /// The router runs, and something is lost.
    Warn,
    /// The router would refuse to start, or would not get the pods' traffic.
    Fail,
    /// The kernel does not tell.
    Unknown,
}

impl Outcome {
    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) result: Outcome,
    /// The device that it is about; none when it is about the host.
    pub(crate) device: Option<String>,
    /// What was looked at.
    pub(crate) check: &'static str,
    /// What was seen.
    pub(crate) seen: String,
    /// What to do, where `seen` does not say it.
    pub(crate) remedy: Option<String>,
}

impl Check {
    fn new(result: Outcome, check: &'static str, seen: impl Into<String>) -> Self {
        Self { result, device: None, check, seen: seen.into(), remedy: None }
    }

    pub(crate) fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, check, seen)
    }

    pub(crate) fn warn(
        check: &'static str,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(Outcome::Warn, check, seen) }
    }

    pub(crate) fn fail(
        check: &'static str,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(Outcome::Fail, check, seen) }
    }

    /// A failure in the words of the router, which would refuse to start with them: they say what to
    /// do.
    fn refused(check: &'static str, words: impl Into<String>) -> Self {
        Self::new(Outcome::Fail, check, words)
    }

    fn unknown(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(Outcome::Unknown, check, why)
    }

    pub(crate) fn on(self, device: &str) -> Self {
        Self { device: Some(device.to_owned()), ..self }
    }
}

/// Looks at this host, in the calling thread's network namespace.
pub(crate) fn preflight(config: &Config) -> Vec<Check> {
    judge(config, &Facts::gather(config))
}

/// What the facts mean for a router with this configuration.
fn judge(config: &Config, facts: &Facts) -> Vec<Check> {
    let memory = memory(config, &facts.infos());
    let mut checks = host::judge(config, facts, memory);
    checks.extend(underlay::judge(config, facts));
    for (device, facts_of_device) in config.devices.iter().zip(&facts.devices) {
        checks.extend(device::judge(config, device, facts, facts_of_device));
    }
    checks
}

/// The memory of the frames in bytes, as far as the devices are known.
type PacketMemory = Option<Result<u64, DeviceError>>;

fn memory(config: &Config, infos: &[DeviceInfo]) -> PacketMemory {
    (infos.len() == config.devices.len()).then(|| packet_memory(&devices_config(config), infos))
}

/// A number of bytes for people, rounded up.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
