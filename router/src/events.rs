//! What happens to flows and packets, on its way from the workers to whoever asks.
//!
//! A worker puts its events in a bounded queue of its own and never waits: what finds it full is lost, and
//! counted. The main thread empties the queues when somebody asks, when one of them is half full, and before
//! a document changes what the events' numbers mean; it numbers the events, and keeps the last ones
//! ([`Record`]).

mod record;
mod sampler;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam::queue::ArrayQueue;
use spillway_engine::policy::PolicyIndex;
use spillway_engine::tables::Tables;
use spillway_engine::{BlockEvent, DropReason, Engine, FlowEvent, FlowRecord, Nanos, Tuple};

pub(crate) use record::{Clock, Meaning, Record};
pub(crate) use sampler::{Sampler, Seen};

use crate::worker::now;

/// Events of one worker that wait for the main thread, at most.
pub(crate) const WAITING_MAX: usize = 4096;

/// Something happened with a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// A flow began or ended.
    Flow(FlowEvent),
    /// A pod has a block of ports, or has it no more.
    Block(BlockEvent),
    /// A packet was dropped, one of those that are sampled.
    Drop(DroppedPacket),
    /// A packet was forwarded, one of those that are sampled.
    Forward(ForwardedPacket),
}

/// A sampled packet that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DroppedPacket {
    pub(crate) at: Nanos,
    pub(crate) reason: DropReason,
    /// As it came.
    pub(crate) tuple: Tuple,
    /// The peer's key, if it came through a tunnel.
    pub(crate) peer: Option<Ipv4Addr>,
    /// The policy that covers it, if one does, and the epoch in which it has this index.
    pub(crate) policy: Option<(u32, PolicyIndex)>,
}

/// A sampled packet that was forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForwardedPacket {
    pub(crate) at: Nanos,
    pub(crate) flow: FlowRecord,
}

impl Noted {
    /// When it happened, by the workers' clock.
    pub(crate) fn at(&self) -> Nanos {
        match self {
            Self::Flow(event) => event.at,
            Self::Block(event) => event.at,
            Self::Drop(packet) => packet.at,
            Self::Forward(packet) => packet.at,
        }
    }
}

/// Where one worker's events wait for the main thread.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: ArrayQueue<Noted>,
    lost: AtomicU64,
    /// Whether the worker has called, and the main thread has not come yet.
    has_called: AtomicBool,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            queue: ArrayQueue::new(WAITING_MAX),
            lost: AtomicU64::new(0),
            has_called: AtomicBool::new(false),
        }
    }

    /// How many events were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    fn put(&self, noted: Noted) {
        if self.queue.push(noted).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Whether so many wait that the main thread should come: said once for each time that it comes.
    fn calls(&self) -> bool {
        self.queue.len() >= WAITING_MAX / 2 && !self.has_called.swap(true, Relaxed)
    }

    /// Takes what waits now; what comes meanwhile can wait for the next time.
    fn take(&self) -> impl Iterator<Item = Noted> + '_ {
        self.has_called.store(false, Relaxed);
        (0..self.queue.len()).map_while(|_| self.queue.pop())
    }
}

impl Clock {
    /// Now.
    pub(crate) fn read() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_us = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX);
        Self { now: now(), wall_us }
    }
}

/// Empties the queues of all workers, by number; gives what was in them with the worker that it happened
/// to, in the order in which it happened.
pub(crate) fn take_all(outboxes: &[Arc<Outbox>]) -> Vec<(u32, Noted)> {
    let of_each = (0..).zip(outboxes).map(|(worker, from)| from.take().map(move |it| (worker, it)));
    let mut taken: Vec<_> = of_each.flatten().collect();
    // Of one worker they are in order already, and of events of one moment they stay so.
    taken.sort_by_key(|(_, noted)| noted.at());
    taken
}

/// A worker's side.
#[derive(Debug)]
pub(crate) struct Teller {
    outbox: Arc<Outbox>,
    pub(crate) sampler: Sampler,
}

impl Teller {
    pub(crate) fn new(outbox: Arc<Outbox>, sampler: Sampler) -> Self {
        Self { outbox, sampler }
    }

    /// Tells what has happened to flows since the last call. Whether the main thread should be woken.
    pub(crate) fn tell_of_flows(&self, engine: &mut Engine) -> bool {
        let mut any = false;
        let mut put = |noted| {
            any = true;
            self.outbox.put(noted);
        };
        let mut lost = engine.take_block_events(|event| put(Noted::Block(event)));
        lost += engine.take_events(|event| put(Noted::Flow(event)));
        if lost > 0 {
            self.outbox.lost.fetch_add(lost, Relaxed);
        }
        // Most rounds have none, and should not look at what the main thread writes to.
        any && self.outbox.calls()
    }

    /// Tells of a frame that was dropped, untouched, if it is one of the samples.
    pub(crate) fn tell_of_drop(
        &mut self,
        at: Nanos,
        reason: DropReason,
        frame: &[u8],
        tables: &Tables,
    ) {
        if !self.sampler.takes_drop(at, reason) {
            return;
        }
        let Some(Seen { tuple, peer }) = Seen::of(frame) else { return };
        let of_pod = peer.and_then(|_| tables.policy(tuple.source, tuple.destination));
        let policy = of_pod.map(|index| (tables.epoch(), index));
        self.tell(Noted::Drop(DroppedPacket { at, reason, tuple, peer, policy }));
    }

    /// Tells of something that is no flow's begin or end.
    pub(crate) fn tell(&self, noted: Noted) {
        self.outbox.put(noted);
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
