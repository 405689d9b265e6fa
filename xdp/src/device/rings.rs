//! The two rings that all sockets of a queue share.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use xsk_rs::{CompQueue, FillQueue};

/// Fill and completion ring of one (device, queue).
///
/// A worker locks the one it needs while it copies some addresses, never over a system call. With
/// as many queues as workers nobody else wants the completion ring; the fill ring is wanted by
/// whoever received from the queue, once per batch.
pub(super) struct QueueRings {
    fill: Mutex<FillQueue>,
    completion: Mutex<CompQueue>,
    /// Frames on the transmit rings of this queue, all workers', until they are completed.
    transmitting: AtomicI64,
}

impl QueueRings {
    pub(super) fn new(fill: FillQueue, completion: CompQueue) -> Self {
        Self {
            fill: Mutex::new(fill),
            completion: Mutex::new(completion),
            transmitting: AtomicI64::new(0),
        }
    }

    pub(super) fn fill(&self) -> MutexGuard<'_, FillQueue> {
        // Nothing that is done under the lock panics half-way.
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn completion(&self) -> MutexGuard<'_, CompQueue> {
        self.completion.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames handed to the kernel for transmission on this queue and not yet returned.
    pub(super) fn transmitting(&self) -> i64 {
        self.transmitting.load(Ordering::Relaxed)
    }

    /// Counts frames that go to the kernel, or with a negative `count` come back.
    pub(super) fn count_transmitting(&self, count: i64) {
        self.transmitting.fetch_add(count, Ordering::Relaxed);
    }
}
