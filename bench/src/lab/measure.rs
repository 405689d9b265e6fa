//! One round of one system: everything that is measured while it is up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::generator::{Direction, Flows, Outcome, Trial};
use super::processor::Ticks;
use super::search::{LOSS_MAX, Search};
use super::series::{Key, Metric, Series};
use super::system::{Gateway, Lab, System, Up};

/// Flows of all trials but those that open them.
pub(crate) const FLOWS: u32 = 64_512;

/// Packets per second at which flows are opened before anything is measured.
const OPENING_PPS: f64 = 100_000.0;

/// How often they are sent at most.
const OPENING_TRIES: u32 = 3;

/// The first remote of the flows that are opened beforehand, and of those that trials open.
const FIRST_REMOTE: u8 = 30;
const FIRST_REMOTE_OF_NEW: u8 = 60;

/// Flows that one trial opens at most: the kernel's table has 262,144 by default.
const NEW_FLOWS_MAX: f64 = 200_000.0;

/// Pod ports that pktgen uses by default: flows of one remote.
const FLOWS_PER_REMOTE: f64 = 64_512.0;

/// What a round measures, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) cases: Vec<(Direction, &'static str)>,
    /// Percent of the loss-free rate at which latency is measured, of the first case.
    pub(crate) loads: Vec<u8>,
    pub(crate) trial: Duration,
    pub(crate) precision: f64,
    /// Rates that one search tries at most.
    pub(crate) rates_max: u32,
    pub(crate) outer_source_port: Option<u16>,
}

/// A system that is up.
pub(crate) struct Round<'a> {
    pub(crate) system: System,
    pub(crate) plan: &'a Plan,
    pub(crate) gateway: Gateway,
    pub(crate) up: &'a Up<'a>,
    pub(crate) series: &'a mut Series,
    /// The user has had enough.
    pub(crate) stop: &'a AtomicBool,
}

/// Brings a system up and measures it once.
pub(crate) fn round(
    lab: &Lab,
    system: System,
    plan: &Plan,
    series: &mut Series,
    stop: &AtomicBool,
) -> Result<()> {
    let mut up = lab.up(system, false)?;
    let gateway = up.prepare(system)?;
    Round { system, plan, gateway, up: &up, series, stop }
        .run()
        .with_context(|| format!("cannot measure {}", system.name()))
}

impl Round<'_> {
    fn run(&mut self) -> Result<()> {
        if self.system.translates() {
            self.open_flows()?;
        }
        for (at, &(direction, size)) in self.plan.cases.iter().enumerate() {
            let rate = self.loss_free(direction, size)?;
            self.overload(direction, size)?;
            if at == 0 {
                for load in self.plan.loads.iter().filter(|load| **load != 90) {
                    self.at_load(direction, size, rate, *load)?;
                }
            }
            self.at_load(direction, size, rate, 90)?;
        }
        if self.system.translates() {
            self.new_flows()?;
        }
        Ok(())
    }

    fn trial(&self, direction: Direction, size: &'static str, rate: Option<f64>) -> Trial {
        let flows = Flows {
            count: FLOWS,
            first_remote: FIRST_REMOTE,
            distribution: "uniform",
            outer_source_port: self.plan.outer_source_port,
        };
        Trial { direction, flows, size, rate, seconds: Some(self.plan.trial.as_secs_f64()) }
    }

    fn send(&self, trial: &Trial) -> Result<Outcome> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        trial.run(&self.gateway.site)
    }

    fn add(
        &mut self,
        metric: Metric,
        direction: Direction,
        size: &'static str,
        load: u8,
        value: f64,
    ) {
        let key = Key { metric, direction, size, load, system: self.system };
        self.series.add(key, value);
    }

    /// Every flow has its first packet, and the table its size. What a busy machine loses comes
    /// again: of 5 % lost each time, 8 flows are left for the search to open.
    fn open_flows(&self) -> Result<()> {
        let mut trial = self.trial(Direction::Forward, "64", Some(OPENING_PPS));
        trial.flows.distribution = "new";
        trial.seconds = None;
        for _ in 0..OPENING_TRIES {
            let Outcome { sent, received, loss, .. } = self.send(&trial)?;
            ensure!(
                loss < 0.5,
                "of {sent} packets that open flows, {OPENING_PPS} a second, only {received} passed"
            );
            if loss <= LOSS_MAX {
                break;
            }
        }
        Ok(())
    }

    fn loss_free(&mut self, direction: Direction, size: &'static str) -> Result<f64> {
        // Where this system was the last time, if it was.
        let metric = Metric::LossFreePps;
        let key = Key { metric, direction, size, load: 0, system: self.system };
        let first = self.series.get(&key).map_or(500_000.0, |earlier| earlier.median);
        let search =
            Search { first, precision: self.plan.precision, rates_max: self.plan.rates_max };
        let rate = search.run(|rate| {
            let outcome = self.send(&self.trial(direction, size, Some(rate)))?;
            Ok(is_without_loss(&outcome, rate))
        })?;
        ensure!(rate > 0.0, "no rate of {} frames of {size} passes", direction.name());
        self.series.add(key, rate);
        Ok(rate)
    }

    fn overload(&mut self, direction: Direction, size: &'static str) -> Result<()> {
        let outcome = self.send(&self.trial(direction, size, None))?;
        self.add(Metric::OverloadPps, direction, size, 0, outcome.received_pps);
        Ok(())
    }

    /// Latency and processor time at a share of the loss-free rate.
    fn at_load(
        &mut self,
        direction: Direction,
        size: &'static str,
        loss_free: f64,
        load: u8,
    ) -> Result<()> {
        let mut trial = self.trial(direction, size, Some(loss_free * f64::from(load) / 100.0));
        trial.seconds = Some(self.plan.trial.as_secs_f64() * 2.0);
        let processor = self.gateway.processors.first().copied().unwrap_or_default();
        let (ticks, used_ns) = (Ticks::read(processor)?, self.gateway.threads.used_ns()?);
        let outcome = self.send(&trial)?;
        let used_ns = self.gateway.threads.used_ns()?.saturating_sub(used_ns);
        let busy = Ticks::read(processor)?.busy_since(&ticks);
        ensure!(outcome.received > 0, "nothing came through at {load} % load");
        // Nanoseconds for each packet are seconds for a thousand million.
        #[expect(clippy::cast_precision_loss, reason = "less than 2^53")]
        let cpu = used_ns as f64 / outcome.received as f64 / 1e3;
        self.add(Metric::CpuSecondsPerMillionPackets, direction, size, load, cpu);
        self.add(Metric::ProcessorBusyRatio, direction, size, load, busy);
        let latency = outcome.latency_ns.context("the packet generator says no latency")?;
        for (metric, value) in [
            (Metric::LatencyP50Ns, latency.p50),
            (Metric::LatencyP99Ns, latency.p99),
            (Metric::LatencyP999Ns, latency.p999),
        ] {
            self.add(metric, direction, size, load, value);
        }
        Ok(())
    }

    /// The highest rate of packets each of which opens a flow.
    fn new_flows(&mut self) -> Result<()> {
        let metric = Metric::NewFlowsPerSecond;
        let direction = Direction::Forward;
        let key = Key { metric, direction, size: "64", load: 0, system: self.system };
        let first = self.series.get(&key).map_or(250_000.0, |earlier| earlier.median);
        let search =
            Search { first, precision: self.plan.precision, rates_max: self.plan.rates_max };
        let mut remotes = RemotesOfNew::default();
        let rate = search.run(|rate| {
            self.up.forget_flows(self.system)?;
            let flows = (rate * self.plan.trial.as_secs_f64()).min(NEW_FLOWS_MAX);
            // More would be a rate that was not tried, which is no failure of it.
            let first_remote = remotes.take(flows).context("no remotes are left for new flows")?;
            let mut trial = self.trial(direction, "64", Some(rate));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
            let count = flows as u32;
            trial.flows.count = count;
            trial.flows.first_remote = first_remote;
            trial.flows.distribution = "new";
            trial.seconds = None;
            let outcome = self.send(&trial)?;
            Ok(is_without_loss(&outcome, rate))
        })?;
        self.series.add(key, rate);
        Ok(())
    }
}

/// Whether all but very few packets came, and whether the generator could send as fast as it should.
fn is_without_loss(outcome: &Outcome, rate: f64) -> bool {
    outcome.loss <= LOSS_MAX && outcome.sent_pps >= rate * 0.97
}

/// Remotes that no flow has had in this round.
struct RemotesOfNew {
    next: u8,
}

impl Default for RemotesOfNew {
    fn default() -> Self {
        Self { next: FIRST_REMOTE_OF_NEW }
    }
}

impl RemotesOfNew {
    /// The first of as many as so many flows need; none when there are no more.
    fn take(&mut self, flows: f64) -> Option<u8> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 4")]
        let count = (flows / FLOWS_PER_REMOTE).ceil() as u8;
        let first = self.next;
        self.next = first.checked_add(count.max(1))?;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_that_open_flows_never_meet() {
        let mut remotes = RemotesOfNew::default();
        assert_eq!(remotes.take(200_000.0), Some(60));
        assert_eq!(remotes.take(10.0), Some(64));
        assert_eq!(remotes.take(64_512.0), Some(65));
        let more = std::iter::from_fn(|| remotes.take(NEW_FLOWS_MAX)).count();
        assert_eq!(more, (255 - 66) / 4);
    }

    #[test]
    fn a_slow_generator_is_no_success() {
        let mut outcome = Outcome {
            sent: 1000,
            sent_pps: 100_000.0,
            received: 996,
            received_pps: 99_600.0,
            loss: 0.004,
            unexpected: 0,
            corrupt: 0,
            latency_ns: None,
        };
        assert!(is_without_loss(&outcome, 100_000.0));
        assert!(!is_without_loss(&outcome, 120_000.0));
        outcome.loss = 0.006;
        assert!(!is_without_loss(&outcome, 100_000.0));
    }
}
