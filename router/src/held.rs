//! Frames that wait, for a neighbour or for the first fragment of their packet: bounded in number and
//! in time.
//!
//! The engine leaves such a frame untouched, so it can be processed again, as if it came now, when
//! the tables change or that fragment has come. A worker holds few frames for a short time: they are
//! the first packets towards a next hop that the kernel is just resolving, and fragments that have
//! overtaken others.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use spillway_engine::Ticket;
use spillway_engine::tables::DeviceIndex;

/// How many frames one worker holds at most for neighbours …
pub(crate) const NEIGHBOUR_FRAMES_MAX: usize = 128;

/// … and for fragments: all that the engine lets wait, 64 in each direction of each family.
pub(crate) const FRAGMENT_FRAMES_MAX: usize = 256;

/// How long a frame waits for a neighbour before it is dropped, in nanoseconds.
pub(crate) const HOLD_NS_MAX: u64 = 1_000_000_000;

/// A next hop whose link address the kernel does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unresolved {
    /// The device it is reached through.
    pub(crate) device: DeviceIndex,
    /// Its address on that device's link.
    pub(crate) address: IpAddr,
}

/// One waiting frame.
#[derive(Debug)]
pub(crate) struct Held<F, W> {
    /// The frame, untouched.
    pub(crate) frame: F,
    /// What is known of it.
    pub(crate) ticket: Ticket,
    /// What it waits for.
    pub(crate) waits_for: W,
    /// When it is given up, in nanoseconds of the worker's clock.
    pub(crate) deadline_ns: u64,
}

/// The frames of one worker that wait for one kind of thing, `MAX` at most, oldest first.
#[derive(Debug)]
pub(crate) struct HeldFrames<F, W, const MAX: usize> {
    frames: ArrayVec<Held<F, W>, MAX>,
}

impl<F, W: PartialEq, const MAX: usize> HeldFrames<F, W, MAX> {
    pub(crate) fn new() -> Self {
        Self { frames: ArrayVec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether some frame already waits for this, so that it has been asked for.
    pub(crate) fn waits_for(&self, what: &W) -> bool {
        self.frames.iter().any(|held| held.waits_for == *what)
    }

    /// Holds a frame; gives it back when the queue is full.
    pub(crate) fn hold(&mut self, held: Held<F, W>) -> Result<(), F> {
        self.frames.try_push(held).map_err(|full| full.element().frame)
    }

    /// The oldest frame, whatever it waits for.
    pub(crate) fn pop(&mut self) -> Option<Held<F, W>> {
        self.frames.pop_at(0)
    }

    /// A frame that has waited too long.
    pub(crate) fn pop_expired(&mut self, now_ns: u64) -> Option<F> {
        let at = self.frames.iter().position(|held| held.deadline_ns <= now_ns)?;
        self.frames.pop_at(at).map(|held| held.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Queue = HeldFrames<u32, Unresolved, NEIGHBOUR_FRAMES_MAX>;

    fn held(frame: u32, deadline_ns: u64) -> Held<u32, Unresolved> {
        let waits_for = Unresolved { device: 0, address: IpAddr::from([192, 0, 2, 1]) };
        Held { frame, ticket: Ticket::default(), waits_for, deadline_ns }
    }

    #[test]
    fn frames_leave_in_the_order_in_which_they_came() {
        let mut queue = Queue::new();
        queue.hold(held(1, 10)).unwrap();
        queue.hold(held(2, 20)).unwrap();
        assert_eq!(queue.pop_expired(9), None);
        assert_eq!(queue.pop_expired(10), Some(1));
        assert_eq!(queue.pop_expired(10), None);
        assert_eq!(queue.pop().map(|held| held.frame), Some(2));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_full_queue_gives_the_newcomer_back() {
        let mut queue = Queue::new();
        for frame in 0..NEIGHBOUR_FRAMES_MAX {
            queue.hold(held(u32::try_from(frame).unwrap(), 1)).unwrap();
        }
        assert_eq!(queue.hold(held(999, 1)), Err(999));
        assert_eq!(queue.pop_expired(1), Some(0));
    }

    #[test]
    fn a_neighbour_is_asked_for_once() {
        let mut queue = Queue::new();
        let neighbour = held(0, 0).waits_for;
        assert!(!queue.waits_for(&neighbour));
        queue.hold(held(0, 1)).unwrap();
        assert!(queue.waits_for(&neighbour));
        assert!(!queue.waits_for(&Unresolved { device: 1, ..neighbour }));
    }
}
