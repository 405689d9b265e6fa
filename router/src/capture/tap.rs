//! A worker's tap: sees its frames at every point while a capture goes on, and copies those that are wanted.
//!
//! The engine rewrites frames in place, and only what it has made of a packet tells, of a reply, whose it
//! is. So what came is kept aside until its packet has left, or will not leave now. Everything is made
//! before the first packet; nothing here waits.

use std::sync::Arc;

use spillway_api::CapturePoint;
use spillway_engine::steer::SteerHeader;
use spillway_engine::tables::DeviceIndex;
use spillway_engine::{BURST_MAX, DropReason, Nanos, Verdict};

use super::filter::{Filter, PodEnd, Seen};
use super::frame::{Shown, Steered, packet_of_sent, without_tunnel};
use super::queue::{Label, Queue};

/// Numbers of a worker's packets have this many bits; above them is the worker's own.
const NUMBER_BITS: u32 = 48;

/// What a capture wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) filter: Filter,
    /// At which of [`CapturePoint::ALL`].
    pub(crate) points: [bool; CapturePoint::ALL.len()],
}

/// A packet that is on its way through the worker.
#[derive(Debug)]
struct Passing {
    number: u64,
    steer: Option<SteerHeader>,
    pod_end: PodEnd,
    /// What the filter can see of it as it came; nothing is looked at for a filter that takes all.
    seen: Option<Seen>,
    /// How long the frame is that is kept aside here, and how much of it there is; none is when it was
    /// taken already or is not wanted.
    aside: Option<(usize, usize)>,
    room: Box<[u8]>,
}

/// The tap.
#[derive(Debug)]
pub(crate) struct Tap {
    queue: Arc<Queue>,
    wanted: Wanted,
    worker: u8,
    /// How many packets have come.
    count: u64,
    /// Those of the burst that is being processed.
    passing: Vec<Passing>,
    /// Which of them is spoken of.
    current: usize,
}

impl Tap {
    /// A worker's tap that keeps so many bytes of a packet.
    pub(crate) fn new(queue: Arc<Queue>, wanted: Wanted, worker: u8, snaplen: usize) -> Self {
        let keeps = wanted.points[CapturePoint::Received as usize] && !wanted.filter.takes_all();
        let room = if keeps { snaplen } else { 0 };
        let passing = |_| Passing {
            number: 0,
            steer: None,
            pod_end: PodEnd::None,
            seen: None,
            aside: None,
            room: vec![0; room].into_boxed_slice(),
        };
        let passing = (0..BURST_MAX).map(passing).collect();
        Self { queue, wanted, worker, count: 0, passing, current: 0 }
    }

    /// A burst has come from steering.
    pub(crate) fn arrive<'a>(&mut self, now: Nanos, frames: impl Iterator<Item = &'a [u8]>) {
        for (at, frame) in frames.enumerate().take(self.passing.len()) {
            self.begin(at, frame);
            self.receive(now, frame);
        }
    }

    /// It is one of the burst's frames that is spoken of next.
    pub(crate) fn turn_to(&mut self, at: usize) {
        self.current = at.min(self.passing.len().saturating_sub(1));
    }

    /// A frame goes on that has waited, or that another worker has handed over.
    pub(crate) fn again(&mut self, frame: &[u8]) {
        self.begin(0, frame);
    }

    /// What comes next is of no packet that has come.
    pub(crate) fn own(&mut self) {
        self.begin(0, &[]);
    }

    /// What the engine has decided of the frame that is spoken of, and made of it. What waits, goes to
    /// another worker or must be cut is told of later.
    pub(crate) fn decide(&mut self, now: Nanos, frame: &[u8], verdict: Verdict) {
        match verdict {
            Verdict::Transmit { device, length } => {
                let frame = frame.get(..usize::from(length)).unwrap_or(frame);
                self.send(now, frame, device);
            }
            Verdict::Drop(reason) => self.discard(now, frame, reason),
            _ => {}
        }
    }

    /// The packet that is spoken of, or a piece of it, is given to a device.
    pub(crate) fn send(&mut self, now: Nanos, frame: &[u8], device: DeviceIndex) {
        let is_reply = self.passing[self.current].pod_end == PodEnd::Destination;
        self.leave(now, frame, device, is_reply);
    }

    /// Its sender is told why it was dropped.
    pub(crate) fn answer(&mut self, now: Nanos, frame: &[u8], device: DeviceIndex) {
        let is_of_pod = self.passing[self.current].pod_end == PodEnd::Source;
        self.leave(now, frame, device, is_of_pod);
    }

    /// The packet that is spoken of is dropped, as the frame stands.
    pub(crate) fn discard(&mut self, now: Nanos, frame: &[u8], reason: DropReason) {
        let Passing { seen, pod_end, .. } = &self.passing[self.current];
        let filter = &self.wanted.filter;
        if !filter.takes_reason(reason) || !filter.takes(seen.as_ref(), None, *pod_end) {
            return;
        }
        let shown = Steered::of(frame).map(|steered| steered.shown);
        self.push(now, CapturePoint::Dropped, shown.or_else(|| Shown::whole(frame)), |label| {
            label.reason = Some(reason);
        });
    }

    /// Makes a frame, as steering has given it, the one that is spoken of.
    fn begin(&mut self, at: usize, frame: &[u8]) {
        self.count += 1;
        self.current = at;
        let steered = Steered::of(frame);
        let filter = &self.wanted.filter;
        let passing = &mut self.passing[at];
        passing.number = u64::from(self.worker) << NUMBER_BITS | self.count;
        passing.steer = steered.map(|steered| steered.header);
        passing.pod_end = steered.map_or(PodEnd::None, |steered| steered.pod_end());
        passing.seen = steered
            .filter(|_| !filter.takes_all())
            .and_then(|steered| Seen::of(steered.shown.packet()));
        passing.aside = None;
    }

    /// The frame that is spoken of has come: takes it, or keeps it aside until it leaves.
    fn receive(&mut self, now: Nanos, frame: &[u8]) {
        if !self.wanted.points[CapturePoint::Received as usize] {
            return;
        }
        let shown = Steered::of(frame).map(|steered| steered.shown);
        let Some(shown) = shown.or_else(|| Shown::whole(frame)) else { return };
        let passing = &mut self.passing[self.current];
        if self.wanted.filter.takes(passing.seen.as_ref(), None, passing.pod_end) {
            self.push(now, CapturePoint::Received, Some(shown), |_| {});
        } else {
            passing.aside = Some((shown.length, shown.write(&mut passing.room)));
        }
    }

    /// A frame is given to a device.
    fn leave(&mut self, now: Nanos, frame: &[u8], device: DeviceIndex, through_tunnel: bool) {
        let filter = &self.wanted.filter;
        let Passing { seen, pod_end, .. } = &self.passing[self.current];
        let leaves = (!filter.takes_all())
            .then(|| packet_of_sent(frame, through_tunnel).and_then(Seen::of))
            .flatten();
        if filter.drop_reason.is_some() || !filter.takes(seen.as_ref(), leaves.as_ref(), *pod_end) {
            return;
        }
        self.push_aside(now);
        let inner = without_tunnel(frame, through_tunnel).and_then(Shown::whole);
        self.push(now, CapturePoint::Translated, inner, |_| {});
        self.push(now, CapturePoint::Sent, Shown::whole(frame), |label| {
            label.device = Some(device);
        });
    }

    /// Takes what was kept aside.
    fn push_aside(&mut self, now: Nanos) {
        let Some((length, kept)) = self.passing[self.current].aside.take() else { return };
        let bytes = self.passing[self.current].room.get(..kept);
        let shown = bytes.and_then(|bytes| Shown::part(bytes, length));
        self.push(now, CapturePoint::Received, shown, |_| {});
    }

    fn push(
        &self,
        now: Nanos,
        point: CapturePoint,
        shown: Option<Shown<'_>>,
        complete: impl FnOnce(&mut Label),
    ) {
        if !self.wanted.points[point as usize] {
            return;
        }
        let Some(shown) = shown else { return };
        let Passing { number, steer, .. } = &self.passing[self.current];
        let as_it_came = matches!(point, CapturePoint::Received | CapturePoint::Dropped);
        let mut label = Label {
            now,
            point,
            worker: self.worker,
            number: *number,
            steer: steer.filter(|_| as_it_came),
            reason: None,
            device: None,
        };
        complete(&mut label);
        self.queue.push(label, &shown);
    }
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
