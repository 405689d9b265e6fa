//! One worker's transmit ring on one device.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::SendFlags;
use xsk_rs::{FrameDesc, TxQueue};

use super::COMPLETION_RING;
use super::cache::Cache;
use super::pool::BATCH;
use super::rings::QueueRings;
use super::socket::borrow;

/// How often one flush asks the kernel to go on transmitting. Kernels that cannot be given a
/// larger budget send 32 frames each time: a burst needs two.
const KICKS_MAX: usize = 16;

/// The transmit ring of one (device, worker), on the queue that is the worker's.
pub(super) struct Transmitter {
    ring: TxQueue,
    rings: Arc<QueueRings>,
    /// Which of the lane's caches is of this device's UMEM.
    pub(super) cache: usize,
    /// Frames put on the ring and not yet counted in `rings`.
    uncounted: i64,
    /// Whether the kernel may not have seen all that is on the ring.
    unsent: bool,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flushed {
    pub(super) completed: u64,
    /// Whether the kernel refused to transmit for another reason than load.
    pub(super) failed: bool,
}

impl Transmitter {
    pub(super) fn new(ring: TxQueue, rings: Arc<QueueRings>, cache: usize) -> Self {
        Self { ring, rings, cache, uncounted: 0, unsent: false }
    }

    /// Whether frames of this queue are with the kernel: this worker's, or of one that shares it.
    pub(super) fn is_pending(&self) -> bool {
        self.unsent || self.rings.transmitting() > 0
    }

    /// Puts a frame on the ring, unless that is full.
    pub(super) fn enqueue(&mut self, descriptor: FrameDesc) -> bool {
        // SAFETY: the caller took the descriptor out of a frame of this UMEM and gives it up if it
        // was taken.
        let taken = unsafe { self.ring.produce_one(&descriptor) } == 1;
        if taken {
            self.uncounted += 1;
            self.unsent = true;
        }
        taken
    }

    /// Makes the kernel transmit what is on the ring, and takes back what it has finished with.
    pub(super) fn flush(&mut self, cache: &mut Cache) -> Flushed {
        let mut flushed = Flushed::default();
        if self.uncounted > 0 {
            // Before the kernel sees them: another worker may take them back.
            self.rings.count_transmitting(self.uncounted);
            self.uncounted = 0;
        }
        if self.unsent {
            self.kick(cache, &mut flushed);
        }
        if self.rings.transmitting() > 0 {
            flushed.completed += self.complete(cache);
        }
        flushed
    }

    /// Asks the kernel to transmit until the ring is empty, or it was asked often enough.
    fn kick(&mut self, cache: &mut Cache, flushed: &mut Flushed) {
        if !self.ring.needs_wakeup() {
            self.unsent = false;
            return;
        }
        for _ in 0..KICKS_MAX {
            match rustix::net::send(borrow(self.ring.fd()).as_fd(), &[], SendFlags::DONTWAIT) {
                Ok(_) => {
                    self.unsent = false;
                    return;
                }
                // Its budget is used up, the completion ring is full, or the device dropped one.
                Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => {
                    flushed.completed += self.complete(cache);
                }
                Err(_) => {
                    flushed.failed = true;
                    return;
                }
            }
        }
    }

    /// Takes finished frames off the completion ring; returns how many.
    fn complete(&self, cache: &mut Cache) -> u64 {
        let mut completed = 0;
        let mut finished = [FrameDesc::default(); BATCH];
        for _ in 0..COMPLETION_RING as usize / BATCH {
            // SAFETY: the ring is of this cache's UMEM, and the array held no descriptor in use.
            let count = unsafe { self.rings.completion().consume(&mut finished) };
            cache.put(&finished[..count]);
            completed += count as u64;
            if count < BATCH {
                break;
            }
        }
        self.rings.count_transmitting(-i64::try_from(completed).unwrap_or_default());
        completed
    }
}
