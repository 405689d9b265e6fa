//! What instructions are counted of.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use spillway_engine::BURST_MAX;

use super::frames::{BURST, Frames, Protocol};
use super::gateway::{Gateway, Variant, Way};
use super::lives::IDLE_NS;

/// Bursts of packets of known flows, and flows that are opened or ended.
const BURSTS: u32 = 320;
const NEW_FLOWS: u32 = 16_384;

/// One case, each in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// UDP from pods, 64,512 flows.
    ForwardUdp,
    ReplyUdp,
    ForwardTcp,
    ReplyTcp,
    /// In bursts of one.
    ForwardUdpAlone,
    /// The naive engine, for comparison.
    NaiveForwardUdp,
    /// The packet that opens a flow.
    NewUdp,
    NewTcp,
    /// The end of a flow that was idle.
    Teardown,
}

impl Case {
    pub(crate) const ALL: [Self; 9] = [
        Self::ForwardUdp,
        Self::ReplyUdp,
        Self::ForwardTcp,
        Self::ReplyTcp,
        Self::ForwardUdpAlone,
        Self::NaiveForwardUdp,
        Self::NewUdp,
        Self::NewTcp,
        Self::Teardown,
    ];

    /// Its name on the command line and in the budget.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ForwardUdp => "forward-udp",
            Self::ReplyUdp => "reply-udp",
            Self::ForwardTcp => "forward-tcp",
            Self::ReplyTcp => "reply-tcp",
            Self::ForwardUdpAlone => "forward-udp-alone",
            Self::NaiveForwardUdp => "naive-forward-udp",
            Self::NewUdp => "new-udp",
            Self::NewTcp => "new-tcp",
            Self::Teardown => "teardown",
        }
    }

    /// Of how many packets, or flows, the instructions are counted.
    pub(crate) fn packets(self) -> u32 {
        match self {
            Self::NewUdp | Self::NewTcp | Self::Teardown => NEW_FLOWS,
            _ => BURSTS * BURST,
        }
    }

    /// Does what is counted, in functions whose names say so.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::ForwardUdp => forward(Variant::Spillway, Protocol::Udp, Way::Forward, BURST_MAX),
            Self::ReplyUdp => forward(Variant::Spillway, Protocol::Udp, Way::Reply, BURST_MAX),
            Self::ForwardTcp => forward(Variant::Spillway, Protocol::Tcp, Way::Forward, BURST_MAX),
            Self::ReplyTcp => forward(Variant::Spillway, Protocol::Tcp, Way::Reply, BURST_MAX),
            Self::ForwardUdpAlone => forward(Variant::Spillway, Protocol::Udp, Way::Forward, 1),
            Self::NaiveForwardUdp => {
                forward(Variant::Naive, Protocol::Udp, Way::Forward, BURST_MAX)
            }
            Self::NewUdp => open(Protocol::Udp),
            Self::NewTcp => open(Protocol::Tcp),
            Self::Teardown => end(),
        }
    }
}

fn forward(variant: Variant, protocol: Protocol, way: Way, burst: usize) -> Result<()> {
    let flows = 64_512;
    let mut frames = Frames::new(protocol);
    let mut gateway = Gateway::new(variant, flows);
    gateway.fill(flows, &mut frames)?;
    let mut random = SmallRng::seed_from_u64(7);
    for _ in 0..BURSTS {
        for at in 0..BURST_MAX {
            gateway.write(&mut frames, at, random.random_range(0..flows), way, false);
        }
        gateway.counted_pass(burst, &mut frames.slices());
    }
    ensure!(gateway.dropped() == 0, "{} packets were dropped", gateway.dropped());
    Ok(())
}

fn open(protocol: Protocol) -> Result<()> {
    let mut frames = Frames::new(protocol);
    let mut gateway = Gateway::new(Variant::Spillway, NEW_FLOWS);
    gateway.counted_open(NEW_FLOWS, &mut frames);
    ensure!(gateway.flows() == u64::from(NEW_FLOWS), "{} of {NEW_FLOWS} live", gateway.flows());
    Ok(())
}

fn end() -> Result<()> {
    let mut gateway = Gateway::new(Variant::Spillway, NEW_FLOWS);
    gateway.fill(NEW_FLOWS, &mut Frames::new(Protocol::Udp))?;
    gateway.wait(IDLE_NS);
    gateway.counted_pass_of_time();
    ensure!(gateway.flows() == 0, "{} flows do not end", gateway.flows());
    Ok(())
}
