//! The last events: numbered, in words that outlive the documents and flows that they are of. Pure.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use spillway_api::limits::PAGE_ROWS_MAX;
use spillway_api::{
    Event, EventCounts, EventKind, EventPage, FlowTotal, Nat64Prefix, Tuple as ApiTuple,
};
use spillway_engine::{BlockEvent, FlowChange, FlowEvent, FlowRecord, Nanos, PortBlock, Tuple};

use super::{DroppedPacket, ForwardedPacket, Noted};
use crate::answer::{as_sent, pod_as_sent, protocol_name, tuple};
use crate::numbers::Assigned;
use crate::pod_names::PodNames;
use crate::policy_names::PolicyNames;

/// One moment on two clocks: that of the workers, and the wall's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Of the workers.
    pub(crate) now: Nanos,
    /// Microseconds since 1970.
    pub(crate) wall_us: u64,
}

impl Clock {
    /// The wall clock's time of a moment before this one.
    fn wall_us_at(self, at: Nanos) -> u64 {
        self.wall_us.saturating_sub(self.now.saturating_sub(at) / 1_000)
    }
}

/// What the numbers in events mean at the time that they happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meaning<'a> {
    pub(crate) policies: &'a PolicyNames,
    pub(crate) pods: &'a PodNames,
    pub(crate) numbers: &'a Assigned,
    pub(crate) nat64_prefix: Option<Nat64Prefix>,
}

/// An event, in less room than [`Event`] takes.
#[derive(Clone, Debug)]
struct Kept {
    time_us: u64,
    worker: u32,
    kind: EventKind,
    protocol: u8,
    original: ApiTuple,
    reply: Option<ApiTuple>,
    pod: Option<Arc<str>>,
    policy: Option<Arc<str>>,
    peer: Option<IpAddr>,
    reason: Option<&'static str>,
    total: Option<FlowTotal>,
    last_port: Option<u16>,
}

/// The last events, of all workers.
#[derive(Debug)]
pub(crate) struct Record {
    kept: VecDeque<Kept>,
    /// Events that are kept at most.
    room: usize,
    /// The number of the next event.
    next: u64,
    /// When the numbers began, in microseconds since 1970.
    since_us: u64,
}

impl Record {
    /// One that keeps so many events; its numbers begin now.
    pub(crate) fn new(room: usize, since_us: u64) -> Self {
        Self { kept: VecDeque::with_capacity(room), room, next: 1, since_us }
    }

    /// Takes an event in. The oldest goes where there is no room.
    pub(crate) fn add(&mut self, worker: u32, noted: &Noted, meaning: Meaning<'_>, clock: Clock) {
        let time_us = clock.wall_us_at(noted.at());
        let kept = match noted {
            Noted::Flow(event) => Kept::of_change(event, meaning),
            Noted::Block(event) => Kept::of_block(event, meaning),
            Noted::Drop(packet) => Kept::of_drop(packet, meaning),
            Noted::Forward(ForwardedPacket { flow, .. }) => {
                Kept::of_flow(flow, EventKind::Forward, meaning)
            }
        };
        if self.kept.len() >= self.room {
            self.kept.pop_front();
        }
        self.kept.push_back(Kept { time_us, worker, ..kept });
        self.next += 1;
    }

    /// The number of the oldest event that is kept; of the next one when none is.
    fn first(&self) -> u64 {
        self.next - self.kept.len() as u64
    }

    /// A page from the event with the number `cursor` on; `lost` are lost before they had a number.
    pub(crate) fn page(&self, cursor: u64, limit: u32, lost: u64) -> EventPage {
        let first = self.first();
        let from = cursor.clamp(first, self.next);
        let skip = usize::try_from(from - first).unwrap_or(usize::MAX);
        let limit = usize::try_from(limit.clamp(1, PAGE_ROWS_MAX)).unwrap_or(usize::MAX);
        let kept = self.kept.iter().skip(skip).take(limit);
        let events: Vec<Event> = (from..).zip(kept).map(|(at, kept)| kept.event(at)).collect();
        let next = from + events.len() as u64;
        EventPage { events, first, next, lost, since_us: self.since_us, port_blocks: false }
    }

    /// How many there were, and are.
    pub(crate) fn counts(&self, lost: u64) -> EventCounts {
        EventCounts { noted: self.next - 1, kept: self.kept.len() as u64, lost }
    }
}

impl Kept {
    fn of_change(FlowEvent { at, change, flow }: &FlowEvent, meaning: Meaning<'_>) -> Self {
        let FlowChange::End(why) = change else {
            return Self::of_flow(flow, EventKind::Begin, meaning);
        };
        let total = FlowTotal {
            duration_ms: at.saturating_sub(flow.created_ns) / 1_000_000,
            original_packets: flow.forward_traffic.packets,
            original_bytes: flow.forward_traffic.bytes,
            reply_packets: flow.reply_traffic.packets,
            reply_bytes: flow.reply_traffic.bytes,
        };
        let of_flow = Self::of_flow(flow, EventKind::End, meaning);
        Self { reason: Some(why.name()), total: Some(total), ..of_flow }
    }

    fn of_flow(flow: &FlowRecord, kind: EventKind, meaning: Meaning<'_>) -> Self {
        let Meaning { policies, pods, numbers, nat64_prefix } = meaning;
        let original = as_sent(tuple(&flow.original), numbers, nat64_prefix);
        Self {
            original,
            pod: pods.of_flow(original.source, flow.created_ns).cloned(),
            reply: Some(tuple(&flow.reply)),
            policy: policies.name(flow.epoch, flow.policy),
            peer: Some(numbers.peer(flow.peer)),
            ..Self::of_tuple(&flow.original, kind)
        }
    }

    fn of_block(BlockEvent { is_begin, block, .. }: &BlockEvent, meaning: Meaning<'_>) -> Self {
        let PortBlock { pod, egress, first, last, since_ns, .. } = *block;
        let pod = pod_as_sent(pod, meaning.numbers);
        let nobody = |of: IpAddr| match of {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let tuple = |source, destination, destination_port| ApiTuple {
            source,
            source_port: 0,
            destination,
            destination_port,
        };
        let kind = if *is_begin { EventKind::BlockBegin } else { EventKind::BlockEnd };
        Self {
            reply: Some(tuple(nobody(egress), egress, first)),
            pod: meaning.pods.of_flow(pod, since_ns).cloned(),
            last_port: Some(last),
            ..Self::of(0, tuple(pod, nobody(pod), 0), kind)
        }
    }

    fn of_drop(packet: &DroppedPacket, meaning: Meaning<'_>) -> Self {
        let Meaning { policies, pods, numbers, .. } = meaning;
        Self {
            pod: pods.of_pod(packet.tuple.source).cloned(),
            policy: packet.policy.and_then(|(epoch, index)| policies.name(epoch, index)),
            peer: packet.peer.map(|key| numbers.peer(key)),
            reason: Some(packet.reason.name()),
            ..Self::of_tuple(&packet.tuple, EventKind::Drop)
        }
    }

    fn of_tuple(original: &Tuple, kind: EventKind) -> Self {
        Self::of(original.protocol, tuple(original), kind)
    }

    fn of(protocol: u8, original: ApiTuple, kind: EventKind) -> Self {
        Self {
            time_us: 0,
            worker: 0,
            kind,
            protocol,
            original,
            reply: None,
            pod: None,
            policy: None,
            peer: None,
            reason: None,
            total: None,
            last_port: None,
        }
    }

    fn event(&self, number: u64) -> Event {
        Event {
            number,
            time_us: self.time_us,
            worker: self.worker,
            kind: self.kind,
            protocol: match self.last_port {
                Some(_) => "any".to_owned(),
                None => protocol_name(self.protocol),
            },
            original: self.original,
            reply: self.reply,
            pod: self.pod.as_deref().map(str::to_owned),
            policy: self.policy.as_deref().map(str::to_owned),
            peer: self.peer,
            reason: self.reason.map(str::to_owned),
            total: self.total,
            last_port: self.last_port,
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
