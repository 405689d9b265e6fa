//! What flows cost at their beginning and at their end, and a port where few are left.

use std::time::Duration;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::family::AddressFamily;
use super::frames::{Frames, Protocol};
use super::gateway::{Gateway, Variant};
use super::world::SECOND;
use crate::measure::{Spread, nanos_per};

/// Longer than any flow of UDP or TCP may be idle, and than ports rest.
pub(super) const IDLE_NS: u64 = 3 * 3600 * SECOND;

/// What is timed of a flow's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The packet that opens it.
    New,
    /// That and its first reply.
    NewWithReply,
    /// Its end, after it has been idle for too long; all end at once.
    Teardown,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Life {
    pub(crate) name: Event,
    pub(crate) protocol: Protocol,
    /// How many flows there are in the end, or were before: from half of them on it is measured.
    pub(crate) flows: u32,
    pub(crate) variant: Variant,
    pub(crate) ns_per_flow: f64,
    pub(crate) ns_per_flow_quartiles: [f64; 2],
    /// Teardown: how long the longest single round of the worker's loop was on the processor, and the
    /// longest of 999 in 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) round_us_longest_and_p999: Option<[f64; 2]>,
}

/// Opens and ends `flows` flows, `rounds` times.
pub(crate) fn measure(
    variant: Variant,
    flows: u32,
    protocol: Protocol,
    rounds: usize,
) -> Result<Vec<Life>> {
    let mut frames = Frames::new(protocol);
    let (mut new, mut with_reply, mut ends) = (vec![], vec![], vec![]);
    let mut round_times = vec![];
    let mut gateway = Gateway::new(variant, AddressFamily::Ipv4, flows);
    for _ in 0..rounds {
        let half = flows / 2;
        let opened = gateway.open(flows, half, &mut frames);
        new.push(nanos_per(opened.forward, flows - half));
        with_reply.push(nanos_per(opened.forward + opened.reply, flows - half));
        if variant == Variant::Naive {
            gateway = Gateway::new(variant, AddressFamily::Ipv4, flows);
            continue;
        }
        gateway.wait(IDLE_NS);
        let mut taken = Duration::ZERO;
        while gateway.flows() > 0 {
            let started = on_the_processor();
            gateway.expire();
            let round = on_the_processor().saturating_sub(started);
            taken += round;
            round_times.push(round);
            // The sweep paces itself by time: always more is due than one round may do.
            gateway.wait(SECOND / 1000);
        }
        ends.push(nanos_per(taken, flows));
        gateway.wait(IDLE_NS);
    }
    let line = |name, samples: Vec<f64>| {
        let Spread { low, median, high } = Spread::of(samples);
        Life {
            name,
            protocol,
            flows,
            variant,
            ns_per_flow: median,
            ns_per_flow_quartiles: [low, high],
            round_us_longest_and_p999: None,
        }
    };
    let mut lines = vec![line(Event::New, new), line(Event::NewWithReply, with_reply)];
    if !ends.is_empty() {
        round_times.sort_unstable();
        let at = |permille: usize| {
            let place = (round_times.len() - 1) * permille / 1000;
            round_times.get(place).map_or(0.0, |round| round.as_secs_f64() * 1e6)
        };
        let round_us_longest_and_p999 = Some([at(1000), at(999)]);
        lines.push(Life { round_us_longest_and_p999, ..line(Event::Teardown, ends) });
    }
    Ok(lines)
}

/// How long this thread was on a processor until now: what others do there meanwhile is not in it.
fn on_the_processor() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}
