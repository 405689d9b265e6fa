//! What happens each second, from two answers of a router and the time between them. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use spillway_api::{Drops, Flow, Status, Tuple, Usage, Verdict, Worker};

use super::usage_rates::UsageRates;

/// What the router has answered at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When: the time since any fixed moment.
    pub(super) at: Duration,
    pub(super) status: Status,
    pub(super) drops: Drops,
    /// None of a router that is older.
    pub(super) usage: Option<Usage>,
    /// None while nobody looks at flows.
    pub(super) flows: Option<SomeFlows>,
}

/// The first live flows, as many as are asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct SomeFlows {
    pub(super) rows: Vec<Flow>,
    /// Whether these are all.
    pub(super) are_all: bool,
}

/// Each second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Traffic {
    pub(super) packets: f64,
    /// Of IP packets, without link and tunnel headers.
    pub(super) bits: f64,
}

/// What happened between two samples, each second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// From pods to the outside.
    pub(super) forward: Traffic,
    /// From the outside to pods.
    pub(super) reply: Traffic,
    pub(super) new_flows: f64,
    /// Packets dropped by steering and by the engine.
    pub(super) dropped: f64,
    /// In the order of the status.
    pub(super) workers: Vec<WorkerRates>,
    /// Every reason, whether it moves or not.
    pub(super) drops: Vec<DropRate>,
    /// Between two counts; none when what flows use was not counted anew.
    pub(super) usage: Option<UsageRates>,
    /// The most bits first; those that are in both samples.
    pub(super) flows: Vec<FlowRate>,
}

/// Of one worker, each second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WorkerRates {
    pub(super) forward: Traffic,
    pub(super) reply: Traffic,
    pub(super) new_flows: f64,
    pub(super) dropped: f64,
    pub(super) tx_ring_full: f64,
    pub(super) frames_missing: f64,
    pub(super) handed_off: f64,
}

/// Of one reason for which packets are dropped.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DropRate {
    /// The reason's name, as `spillway drops` has it.
    pub(super) reason: String,
    /// Packets each second, of all devices.
    pub(super) per_second: f64,
    /// Packets since the router's start.
    pub(super) packets: u64,
    /// One sentence.
    pub(super) description: String,
}

/// Of one flow, both directions together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FlowRate {
    pub(super) flow: Flow,
    pub(super) traffic: Traffic,
}

impl Rates {
    /// None where there are none: another process has answered, or no time has passed.
    pub(super) fn between(before: &Sample, now: &Sample) -> Option<Self> {
        let seconds = now.at.checked_sub(before.at)?.as_secs_f64();
        let restarted =
            now.status.pid != before.status.pid || now.status.uptime_s < before.status.uptime_s;
        if restarted || seconds <= 0.0 {
            return None;
        }
        let workers = now.status.workers.iter().map(|worker| {
            let earlier = before.status.workers.iter().find(|earlier| earlier.id == worker.id);
            earlier.map(|earlier| of_worker(earlier, worker, seconds)).unwrap_or_default()
        });
        let workers: Vec<WorkerRates> = workers.collect();
        let drops = drops(&before.drops, &now.drops, seconds);
        Some(Self {
            forward: sum(workers.iter().map(|worker| worker.forward)),
            reply: sum(workers.iter().map(|worker| worker.reply)),
            new_flows: workers.iter().map(|worker| worker.new_flows).sum(),
            dropped: drops.iter().map(|drop| drop.per_second).sum(),
            workers,
            drops,
            usage: match (&before.usage, &now.usage) {
                (Some(before), Some(now)) => UsageRates::between(before, now),
                _ => None,
            },
            flows: match (&before.flows, &now.flows) {
                (Some(before), Some(now)) => flows(&before.rows, &now.rows, seconds),
                _ => Vec::new(),
            },
        })
    }
}

/// A counter that went back though the router did not start anew has not moved forward.
pub(super) fn per_second(before: u64, now: u64, seconds: f64) -> f64 {
    now.saturating_sub(before) as f64 / seconds
}

fn sum(parts: impl Iterator<Item = Traffic>) -> Traffic {
    parts.fold(Traffic::default(), |sum, part| Traffic {
        packets: sum.packets + part.packets,
        bits: sum.bits + part.bits,
    })
}

fn of_worker(before: &Worker, now: &Worker, seconds: f64) -> WorkerRates {
    let rate = |counter: fn(&Worker) -> u64| per_second(counter(before), counter(now), seconds);
    WorkerRates {
        forward: Traffic {
            packets: rate(|worker| worker.forward_packets),
            bits: 8.0 * rate(|worker| worker.forward_bytes),
        },
        reply: Traffic {
            packets: rate(|worker| worker.reply_packets),
            bits: 8.0 * rate(|worker| worker.reply_bytes),
        },
        new_flows: rate(|worker| worker.flows_created),
        dropped: rate(|worker| worker.dropped),
        tx_ring_full: rate(|worker| worker.tx_ring_full),
        frames_missing: rate(|worker| worker.frames_missing),
        handed_off: rate(|worker| worker.handed_off),
    }
}

/// Steering's reasons, summed over the devices, then the engine's.
fn drops(before: &Drops, now: &Drops, seconds: f64) -> Vec<DropRate> {
    let mut earlier: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, packets, _) in reasons(before) {
        *earlier.entry(reason).or_default() += packets;
    }
    let mut rows: Vec<DropRate> = Vec::new();
    for (reason, packets, description) in reasons(now) {
        match rows.iter_mut().find(|row| row.reason == reason) {
            Some(row) => row.packets += packets,
            None => rows.push(DropRate {
                reason: reason.to_owned(),
                per_second: 0.0,
                packets,
                description: description.to_owned(),
            }),
        }
    }
    for row in &mut rows {
        let before = earlier.get(row.reason.as_str()).copied().unwrap_or(row.packets);
        row.per_second = per_second(before, row.packets, seconds);
    }
    rows
}

fn reasons(drops: &Drops) -> impl Iterator<Item = (&str, u64, &str)> {
    let steering = drops.steering.iter().filter(|outcome| outcome.verdict == Verdict::Drop);
    let steering = steering.map(|of| (of.outcome.as_str(), of.packets, of.description.as_str()));
    let engine = drops.engine.iter();
    steering.chain(engine.map(|of| (of.reason.as_str(), of.packets, of.description.as_str())))
}

/// What tells a flow from all others; one that has ended and come again begins at 0.
type FlowKey<'a> = (&'a str, Tuple);

fn key(flow: &Flow) -> FlowKey<'_> {
    (&flow.protocol, flow.original)
}

fn flows(before: &[Flow], now: &[Flow], seconds: f64) -> Vec<FlowRate> {
    let earlier: HashMap<FlowKey<'_>, &Flow> =
        before.iter().map(|flow| (key(flow), flow)).collect();
    let mut rates: Vec<FlowRate> = now
        .iter()
        .filter_map(|flow| {
            let earlier = earlier.get(&key(flow))?;
            let rate =
                |counter: fn(&Flow) -> u64| per_second(counter(earlier), counter(flow), seconds);
            let traffic = Traffic {
                packets: rate(|flow| flow.original_packets + flow.reply_packets),
                bits: 8.0 * rate(|flow| flow.original_bytes + flow.reply_bytes),
            };
            Some(FlowRate { flow: flow.clone(), traffic })
        })
        .collect();
    rates.sort_by(|a, b| b.traffic.bits.total_cmp(&a.traffic.bits));
    rates
}

#[cfg(test)]
#[path = "rates_tests.rs"]
mod tests;
