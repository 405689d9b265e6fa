//! What flows cost at their beginning and at their end, and a port where few are left.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

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
    /// Teardown: the longest single round of the worker's loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) longest_round_us: Option<f64>,
}

/// Opens and ends `flows` flows, `rounds` times.
pub(crate) fn measure(
    variant: Variant,
    flows: u32,
    protocol: Protocol,
    rounds: usize,
) -> Result<Vec<Life>> {
    let mut frames = Frames::new(protocol);
    let (mut new, mut with_reply, mut ends, mut longest) = (vec![], vec![], vec![], Duration::ZERO);
    let mut gateway = Gateway::new(variant, flows);
    for _ in 0..rounds {
        let half = flows / 2;
        let opened = gateway.open(flows, half, &mut frames);
        new.push(nanos_per(opened.forward, flows - half));
        with_reply.push(nanos_per(opened.forward + opened.reply, flows - half));
        if variant == Variant::Naive {
            gateway = Gateway::new(variant, flows);
            continue;
        }
        gateway.wait(IDLE_NS);
        let started = Instant::now();
        while gateway.flows() > 0 {
            let round = Instant::now();
            gateway.expire();
            longest = longest.max(round.elapsed());
            // The sweep paces itself by time: always more is due than one round may do.
            gateway.wait(SECOND / 1000);
        }
        ends.push(nanos_per(started.elapsed(), flows));
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
            longest_round_us: None,
        }
    };
    let mut lines = vec![line(Event::New, new), line(Event::NewWithReply, with_reply)];
    if !ends.is_empty() {
        let longest_round_us = Some(longest.as_secs_f64() * 1e6);
        lines.push(Life { longest_round_us, ..line(Event::Teardown, ends) });
    }
    Ok(lines)
}
