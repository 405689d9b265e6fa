//! One receive socket of a worker, and what it owes its queue.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::net::RecvFlags;
use xsk_rs::{FrameDesc, RxQueue};

use super::cache::Cache;
use super::rings::QueueRings;
use super::socket::borrow;

/// The receive ring of one (device, queue, worker).
///
/// Who takes frames from a queue owes its fill ring as many. So each queue always has
/// [`FILL_RING`](super::FILL_RING) frames, on its fill ring, on receive rings, or owed by a worker
/// that is awake, since it has just received. No other worker need wake up for it.
pub(super) struct Receiver {
    ring: RxQueue,
    rings: Arc<QueueRings>,
    /// Which of the lane's caches is of this device's UMEM.
    pub(super) cache: usize,
    owed: usize,
}

impl Receiver {
    pub(super) fn new(ring: RxQueue, rings: Arc<QueueRings>, cache: usize) -> Self {
        Self { ring, rings, cache, owed: 0 }
    }

    /// What becomes readable when frames arrive.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        borrow(self.ring.fd())
    }

    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// Takes received frames off the ring, as many as there is room for; returns how many.
    pub(super) fn receive(&mut self, room: &mut [FrameDesc]) -> usize {
        // SAFETY: the ring is of the UMEM whose cache hands these descriptors out, and the room
        // held no descriptor that is in use.
        let received = unsafe { self.ring.consume(room) };
        self.owed += received;
        received
    }

    /// Puts on the fill ring what is owed, as far as there are free frames; returns how many.
    pub(super) fn repay(&mut self, cache: &mut Cache) -> usize {
        let mut wakeup = false;
        let repaid = cache.offer(self.owed, |descriptors| {
            let mut fill = self.rings.fill();
            // SAFETY: the cache owned these frames of the same UMEM, and forgets those taken.
            let taken = unsafe { fill.produce(descriptors) };
            wakeup = taken > 0 && fill.needs_wakeup();
            taken
        });
        self.owed -= repaid;
        if wakeup {
            // Only zero-copy drivers ask. If it fails the next refill asks again.
            let _ = rustix::net::recv(self.fd(), &mut [0_u8; 0], RecvFlags::DONTWAIT);
        }
        repaid
    }
}
