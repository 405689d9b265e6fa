//! What instructions are counted of.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use spillway_engine::BURST_MAX;

use super::family::AddressFamily;
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
    /// UDP from pods, 64,512 flows; IPv4 where nothing else is said.
    ForwardUdp,
    ReplyUdp,
    ForwardTcp,
    ReplyTcp,
    /// In bursts of one.
    ForwardUdpAlone,
    /// The naive engine, for comparison.
    NaiveForwardUdp,
    ForwardUdpIpv6,
    ReplyUdpIpv6,
    /// The packet that opens a flow.
    NewUdp,
    NewTcp,
    NewUdpIpv6,
    /// The end of a flow that was idle.
    Teardown,
    /// The packet that opens a flow, and the end of one, where somebody takes note of them.
    NewUdpEvents,
    TeardownEvents,
}

impl Case {
    pub(crate) const ALL: [Self; 14] = [
        Self::ForwardUdp,
        Self::ReplyUdp,
        Self::ForwardTcp,
        Self::ReplyTcp,
        Self::ForwardUdpAlone,
        Self::NaiveForwardUdp,
        Self::ForwardUdpIpv6,
        Self::ReplyUdpIpv6,
        Self::NewUdp,
        Self::NewTcp,
        Self::NewUdpIpv6,
        Self::Teardown,
        Self::NewUdpEvents,
        Self::TeardownEvents,
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
            Self::ForwardUdpIpv6 => "forward-udp-ipv6",
            Self::ReplyUdpIpv6 => "reply-udp-ipv6",
            Self::NewUdp => "new-udp",
            Self::NewTcp => "new-tcp",
            Self::NewUdpIpv6 => "new-udp-ipv6",
            Self::Teardown => "teardown",
            Self::NewUdpEvents => "new-udp-events",
            Self::TeardownEvents => "teardown-events",
        }
    }

    /// Of how many packets, or flows, the instructions are counted.
    pub(crate) fn packets(self) -> u32 {
        match self {
            Self::NewUdp | Self::NewTcp | Self::NewUdpIpv6 | Self::Teardown => NEW_FLOWS,
            Self::NewUdpEvents | Self::TeardownEvents => NEW_FLOWS,
            _ => BURSTS * BURST,
        }
    }

    /// Does what is counted, in functions whose names say so.
    pub(crate) fn run(self) -> Result<()> {
        use AddressFamily::{Ipv4, Ipv6};
        use Protocol::{Tcp, Udp};
        use Variant::{Naive, Spillway};
        use Way::{Forward, Reply};
        match self {
            Self::ForwardUdp => forward(Spillway, Ipv4, Udp, Forward, BURST_MAX),
            Self::ReplyUdp => forward(Spillway, Ipv4, Udp, Reply, BURST_MAX),
            Self::ForwardTcp => forward(Spillway, Ipv4, Tcp, Forward, BURST_MAX),
            Self::ReplyTcp => forward(Spillway, Ipv4, Tcp, Reply, BURST_MAX),
            Self::ForwardUdpAlone => forward(Spillway, Ipv4, Udp, Forward, 1),
            Self::NaiveForwardUdp => forward(Naive, Ipv4, Udp, Forward, BURST_MAX),
            Self::ForwardUdpIpv6 => forward(Spillway, Ipv6, Udp, Forward, BURST_MAX),
            Self::ReplyUdpIpv6 => forward(Spillway, Ipv6, Udp, Reply, BURST_MAX),
            Self::NewUdp => open(Ipv4, Udp, false),
            Self::NewTcp => open(Ipv4, Tcp, false),
            Self::NewUdpIpv6 => open(Ipv6, Udp, false),
            Self::Teardown => end(false),
            Self::NewUdpEvents => open(Ipv4, Udp, true),
            Self::TeardownEvents => end(true),
        }
    }
}

fn forward(
    variant: Variant,
    family: AddressFamily,
    protocol: Protocol,
    way: Way,
    burst: usize,
) -> Result<()> {
    let flows = 64_512;
    let mut frames = Frames::new(protocol);
    let mut gateway = Gateway::new(variant, family, flows);
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

fn open(family: AddressFamily, protocol: Protocol, events: bool) -> Result<()> {
    let mut frames = Frames::new(protocol);
    let mut gateway = Gateway::spillway(family, NEW_FLOWS, events);
    gateway.counted_open(NEW_FLOWS, &mut frames);
    ensure!(gateway.flows() == u64::from(NEW_FLOWS), "{} of {NEW_FLOWS} live", gateway.flows());
    Ok(())
}

fn end(events: bool) -> Result<()> {
    let mut gateway = Gateway::spillway(AddressFamily::Ipv4, NEW_FLOWS, events);
    gateway.fill(NEW_FLOWS, &mut Frames::new(Protocol::Udp))?;
    gateway.wait(IDLE_NS);
    while gateway.flows() > 0 {
        gateway.counted_pass_of_time();
    }
    Ok(())
}
