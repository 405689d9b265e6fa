//! A gateway with flows, in one of the variants that are compared.

use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use spillway_engine::tables::Tables;
use spillway_engine::{BURST_MAX, DropReason, Engine, Nanos, Verdict};

use super::family::AddressFamily;
use super::frames::Frames;
use super::naive::Naive;
use super::world::{self, Flow, SECOND};

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// The engine as it is.
    Spillway,
    /// The same without asking for memory ahead of its use: what prefetching is worth.
    NoPrefetch,
    /// Two hash maps, one packet at a time; IPv4 alone.
    Naive,
}

impl Variant {
    /// Whether flows begin and end in its own way.
    pub(super) fn has_own_lives(self) -> bool {
        self != Self::NoPrefetch
    }

    /// Whether it forwards packets of a family.
    pub(super) fn knows(self, family: AddressFamily) -> bool {
        self != Self::Naive || family == AddressFamily::Ipv4
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Forward,
    Reply,
}

/// How long it took to open some flows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opened {
    /// The packets that opened them.
    pub(super) forward: Duration,
    /// Their first replies.
    pub(super) reply: Duration,
}

enum Nat {
    Spillway(Box<Engine>),
    Naive { naive: Box<Naive>, dropped: u64 },
}

/// A NAT, its tables and the ports that it gave to its flows.
pub(super) struct Gateway {
    nat: Nat,
    /// That of its flows.
    family: AddressFamily,
    tables: Tables,
    verdicts: [Verdict; BURST_MAX],
    now: Nanos,
    /// By the number of the flow.
    egress_ports: Vec<u16>,
    takes_events: bool,
}

impl Gateway {
    /// Without flows, with room for `flows` of a family that the variant knows.
    pub(super) fn new(variant: Variant, family: AddressFamily, flows: u32) -> Self {
        Self::made(variant, family, flows, false)
    }

    /// The same of the engine as it is; with `takes_events` somebody takes note of its flows.
    pub(super) fn spillway(family: AddressFamily, flows: u32, takes_events: bool) -> Self {
        Self::made(Variant::Spillway, family, flows, takes_events)
    }

    fn made(variant: Variant, family: AddressFamily, flows: u32, takes_events: bool) -> Self {
        let nat = match variant {
            Variant::Naive => {
                Nat::Naive { naive: Box::new(Naive::new(flows as usize)), dropped: 0 }
            }
            Variant::Spillway | Variant::NoPrefetch => {
                Nat::Spillway(Box::new(world::engine(family, flows, takes_events)))
            }
        };
        Self {
            nat,
            family,
            tables: world::tables(flows),
            verdicts: [Verdict::Drop(DropReason::Truncated); BURST_MAX],
            now: SECOND,
            egress_ports: Vec::new(),
            takes_events,
        }
    }

    /// Opens the flows below `flows`, in order, each with its first reply. Gives how long that took
    /// from flow `timed_from` on.
    pub(super) fn open(&mut self, flows: u32, timed_from: u32, frames: &mut Frames) -> Opened {
        let mut opened = Opened::default();
        self.egress_ports.clear();
        for first in (0..flows).step_by(BURST_MAX) {
            let numbers = || (0..BURST_MAX).zip(first..flows);
            let count = numbers().count();
            for (at, number) in numbers() {
                frames.write_forward(at, &self.flow(number), true);
            }
            let forward = self.timed_pass(&mut frames.slices()[..count]);
            self.egress_ports.extend((0..count).map(|at| frames.egress_port(at, self.family)));
            for (at, number) in numbers() {
                self.write(frames, at, number, Way::Reply, true);
            }
            let reply = self.timed_pass(&mut frames.slices()[..count]);
            if first >= timed_from {
                opened.forward += forward;
                opened.reply += reply;
            }
        }
        opened
    }

    /// Opens flows, without replies; counted.
    pub(super) fn counted_open(&mut self, flows: u32, frames: &mut Frames) {
        for first in (0..flows).step_by(BURST_MAX) {
            let numbers = (0..BURST_MAX).zip(first..flows);
            let count = numbers.clone().count();
            for (at, number) in numbers {
                frames.write_forward(at, &self.flow(number), true);
            }
            self.counted_pass(BURST_MAX, &mut frames.slices()[..count]);
        }
    }

    /// [`Gateway::pass`], counted.
    #[inline(never)]
    pub(super) fn counted_pass(&mut self, burst: usize, frames: &mut [&mut [u8]]) {
        self.pass(false, burst, frames);
        self.take_events();
    }

    /// One round of ending idle flows, counted.
    #[inline(never)]
    pub(super) fn counted_pass_of_time(&mut self) {
        self.expire();
        self.take_events();
        self.wait(SECOND / 1000);
    }

    /// Opens the flows of a range, all towards the same remote; gives how long that took.
    pub(super) fn open_towards_one_remote(
        &mut self,
        flows: Range<u32>,
        frames: &mut Frames,
    ) -> Duration {
        let mut taken = Duration::ZERO;
        for first in flows.clone().step_by(BURST_MAX) {
            let mut count = 0;
            for (at, number) in (0..BURST_MAX).zip(first..flows.end) {
                frames.write_forward(at, &self.flow(number).towards_one_remote(), true);
                count = at + 1;
            }
            taken += self.timed_pass(&mut frames.slices()[..count]);
        }
        taken
    }

    /// Opens flows and makes sure that there are no others.
    pub(super) fn fill(&mut self, flows: u32, frames: &mut Frames) -> Result<()> {
        self.open(flows, 0, frames);
        ensure!(self.dropped() == 0, "{} packets of new flows were dropped", self.dropped());
        ensure!(self.flows() == u64::from(flows), "{} of {flows} flows live", self.flows());
        Ok(())
    }

    /// Takes what has happened to flows, as a worker does after each round.
    fn take_events(&mut self) {
        if let Nat::Spillway(engine) = &mut self.nat
            && self.takes_events
        {
            engine.take_events(|event| {
                black_box(&event);
            });
        }
    }

    fn flow(&self, number: u32) -> Flow {
        Flow::new(self.family, number)
    }

    fn timed_pass(&mut self, frames: &mut [&mut [u8]]) -> Duration {
        let started = Instant::now();
        self.pass(false, BURST_MAX, frames);
        started.elapsed()
    }

    /// How many flows live.
    pub(super) fn flows(&self) -> u64 {
        match &self.nat {
            Nat::Spillway(engine) => engine.flows_live(),
            Nat::Naive { naive, .. } => naive.flows() as u64,
        }
    }

    /// How many packets were not forwarded.
    pub(super) fn dropped(&self) -> u64 {
        match &self.nat {
            Nat::Spillway(engine) => {
                let counters = engine.counters();
                counters.received - counters.transmitted
            }
            Nat::Naive { dropped, .. } => *dropped,
        }
    }

    /// Writes a packet of a flow that is open: one that opens the connection, or a later one.
    pub(super) fn write(&self, frames: &mut Frames, at: usize, number: u32, way: Way, opens: bool) {
        let flow = self.flow(number);
        match way {
            Way::Forward => frames.write_forward(at, &flow, opens),
            Way::Reply => {
                let port = self.egress_ports.get(number as usize).copied().unwrap_or_default();
                frames.write_reply(at, &flow, port, opens);
            }
        }
    }

    /// Lets time pass, and flows end with it.
    pub(super) fn wait(&mut self, nanos: Nanos) {
        self.now += nanos;
    }

    /// One round of ending idle flows.
    pub(super) fn expire(&mut self) {
        if let Nat::Spillway(engine) = &mut self.nat {
            engine.expire(self.now, &self.tables);
        }
    }

    /// Forwards all frames in bursts of `burst`, 1 to [`BURST_MAX`]. This is what is measured.
    #[inline(never)]
    pub(super) fn pass(&mut self, no_prefetch: bool, burst: usize, frames: &mut [&mut [u8]]) {
        let Self { nat, tables, verdicts, now, .. } = self;
        match nat {
            Nat::Spillway(engine) if no_prefetch => {
                for burst in frames.chunks_mut(burst) {
                    engine.process_without_prefetch(*now, tables, burst, verdicts);
                }
            }
            Nat::Spillway(engine) => {
                for burst in frames.chunks_mut(burst) {
                    engine.process(*now, tables, burst, verdicts);
                }
            }
            Nat::Naive { naive, dropped } => {
                for frame in frames {
                    *dropped += u64::from(naive.process(*now, frame).is_none());
                }
            }
        }
    }
}
