//! The way of captured packets from the workers to the main thread: bounded, made before the first packet,
//! and never waited for.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use spillway_api::CapturePoint;
use spillway_engine::DropReason;
use spillway_engine::steer::SteerHeader;

use super::frame::Shown;

/// Memory of all packets that wait at one time, at most, in bytes.
const BYTES_MAX: usize = 16 << 20;

/// Packets that wait at one time, at most.
const PACKETS_MAX: usize = 16_384;

/// What is known of a captured packet besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    /// The worker's clock.
    pub(crate) now: u64,
    pub(crate) point: CapturePoint,
    pub(crate) worker: u8,
    pub(crate) number: u64,
    /// Of a packet as it came.
    pub(crate) steer: Option<SteerHeader>,
    pub(crate) reason: Option<DropReason>,
    /// Which device it leaves through.
    pub(crate) device: Option<u16>,
}

/// A packet at one point.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) label: Label,
    /// How long the frame is.
    pub(crate) length: usize,
    /// How much of it is kept.
    kept: usize,
    room: Box<[u8]>,
}

impl Captured {
    /// The bytes that are kept.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.room[..self.kept]
    }
}

/// How many packets a point had, and how many of them were lost.
#[derive(Debug, Default)]
struct Count {
    captured: AtomicU64,
    lost: AtomicU64,
}

/// The packets on their way, and room for more.
#[derive(Debug)]
pub(crate) struct Queue {
    free: ArrayQueue<Box<Captured>>,
    taken: ArrayQueue<Box<Captured>>,
    counts: [Count; CapturePoint::ALL.len()],
}

impl Queue {
    /// Makes room for packets of which so many bytes are kept.
    pub(crate) fn new(snaplen: usize) -> Self {
        let packets = (BYTES_MAX / snaplen.max(1)).clamp(1, PACKETS_MAX);
        Self::with_room(packets, snaplen)
    }

    fn with_room(packets: usize, snaplen: usize) -> Self {
        let (free, taken) = (ArrayQueue::new(packets), ArrayQueue::new(packets));
        let label = Label {
            now: 0,
            point: CapturePoint::Received,
            worker: 0,
            number: 0,
            steer: None,
            reason: None,
            device: None,
        };
        for _ in 0..packets {
            let room = vec![0; snaplen].into_boxed_slice();
            // It has room for all of them.
            let _ = free.push(Box::new(Captured { label, length: 0, kept: 0, room }));
        }
        Self { free, taken, counts: Default::default() }
    }

    /// Copies a frame, as far as it is wanted, if there is room; counts it in either case.
    pub(crate) fn push(&self, label: Label, frame: &Shown<'_>) {
        let count = &self.counts[label.point as usize];
        let Some(mut captured) = self.free.pop() else {
            count.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        captured.label = label;
        captured.length = frame.length;
        captured.kept = frame.write(&mut captured.room);
        count.captured.fetch_add(1, Ordering::Relaxed);
        // There are no more of them than it has room for.
        let _ = self.taken.push(captured);
    }

    /// Shows the oldest packet to `show`, and has its room again; false when there is none.
    pub(crate) fn take(&self, show: impl FnOnce(&Captured)) -> bool {
        let Some(captured) = self.taken.pop() else { return false };
        show(&captured);
        let _ = self.free.push(captured);
        true
    }

    /// Whether no packet waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// How many packets were captured at a point, and how many lost.
    pub(crate) fn count(&self, point: CapturePoint) -> (u64, u64) {
        let Count { captured, lost } = &self.counts[point as usize];
        (captured.load(Ordering::Relaxed), lost.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(point: CapturePoint, number: u64) -> Label {
        Label { now: 7, point, worker: 1, number, steer: None, reason: None, device: None }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_older_packets_stay() {
        let queue = Queue::with_room(2, 16);
        let frame = [3; 60];
        let shown = Shown::whole(&frame).unwrap();
        for number in 1..=5 {
            queue.push(label(CapturePoint::Sent, number), &shown);
        }
        assert_eq!(queue.count(CapturePoint::Sent), (2, 3));
        assert_eq!(queue.count(CapturePoint::Received), (0, 0));
        for expected in [1, 2] {
            assert!(queue.take(|captured| {
                assert_eq!(captured.label.number, expected);
                assert_eq!((captured.length, captured.bytes()), (60, &[3; 16][..]));
            }));
        }
        assert!(queue.is_empty());
        assert!(!queue.take(|captured| panic!("{captured:?}")));
        queue.push(label(CapturePoint::Dropped, 6), &shown);
        assert_eq!(queue.count(CapturePoint::Dropped), (1, 0), "there is room again");
    }

    #[test]
    fn memory_is_bounded_whatever_is_kept_of_a_packet() {
        for snaplen in [64, 2048, 4096, 65_535, BYTES_MAX] {
            let packets = Queue::new(snaplen).free.len();
            assert!((1..=PACKETS_MAX).contains(&packets));
            assert!(packets * snaplen <= BYTES_MAX, "{snaplen}");
        }
    }
}
