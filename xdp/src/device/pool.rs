//! The frames of one UMEM that no worker has: the depot, and what was dropped by accident.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use xsk_rs::{FrameDesc, Umem};

/// Frames that travel between workers together.
pub(super) const BATCH: usize = 64;

pub(super) type Batch = ArrayVec<FrameDesc, BATCH>;

/// A UMEM and its free frames, shared by all workers.
///
/// A [`FrameDesc`] can be copied, a frame cannot: each descriptor is in one place only, in a cache,
/// here, in a [`Frame`](super::Frame), or with the kernel.
pub(super) struct Pool {
    pub(super) umem: Umem,
    /// Free frames in full batches, from workers that have many to those that have few.
    pub(super) depot: ArrayQueue<Batch>,
    /// Free frames one by one: the remainder of the start, and frames whose owner dropped them.
    pub(super) strays: ArrayQueue<FrameDesc>,
    /// How many frames were ever dropped without being recycled.
    strayed: AtomicU64,
    /// What lanes that are closed have handed out more than they took back.
    pub(super) outside: AtomicI64,
    /// How many frames the UMEM has.
    pub(super) frames: u32,
}

impl Pool {
    /// A pool whose frames are all elsewhere yet.
    pub(super) fn new(umem: Umem, frames: u32) -> Self {
        let capacity = frames as usize;
        Self {
            umem,
            depot: ArrayQueue::new(capacity / BATCH + 1),
            strays: ArrayQueue::new(capacity),
            strayed: AtomicU64::new(0),
            outside: AtomicI64::new(0),
            frames,
        }
    }

    /// Takes free frames in.
    pub(super) fn add(&self, descriptors: &[FrameDesc]) {
        for chunk in descriptors.chunks(BATCH) {
            match Batch::try_from(chunk) {
                Ok(batch) if batch.is_full() => self.give(batch),
                _ => chunk.iter().for_each(|&descriptor| self.put_stray(descriptor)),
            }
        }
    }

    /// Takes a full batch in. There is room: full batches are never more than the frames allow.
    pub(super) fn give(&self, batch: Batch) {
        debug_assert!(batch.is_full());
        let refused = self.depot.push(batch);
        debug_assert!(refused.is_ok(), "the depot has room for every frame");
    }

    /// Takes one frame in. There is room for all.
    fn put_stray(&self, descriptor: FrameDesc) {
        let refused = self.strays.push(descriptor);
        debug_assert!(refused.is_ok(), "there is room for every frame");
    }

    /// Takes back a frame that its owner dropped instead of recycling it.
    pub(super) fn take_stray(&self, descriptor: FrameDesc) {
        self.put_stray(descriptor);
        // The last access of a dropped frame to the pool; see `SharedPool::drop`.
        self.strayed.fetch_add(1, Ordering::Release);
    }

    /// How many frames were ever dropped without being recycled.
    pub(super) fn strayed(&self) -> u64 {
        self.strayed.load(Ordering::Acquire)
    }

    /// Free frames here.
    pub(super) fn free(&self) -> u64 {
        (self.depot.len() * BATCH + self.strays.len()) as u64
    }
}

/// The lanes' common handle on a pool. The pool stays where it is, so that frames can point to it.
pub(super) struct SharedPool(NonNull<Pool>);

// SAFETY: it owns the pool as a Box would, and a Pool is Send and Sync by itself.
unsafe impl Send for SharedPool where Pool: Send {}
// SAFETY: as above; it gives shared references only.
unsafe impl Sync for SharedPool where Pool: Sync {}

impl SharedPool {
    pub(super) fn new(pool: Pool) -> Self {
        Self(NonNull::from(Box::leak(Box::new(pool))))
    }

    /// What frames keep to find their memory.
    pub(super) fn pointer(&self) -> NonNull<Pool> {
        self.0
    }
}

impl Deref for SharedPool {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        // SAFETY: made from a Box in `new`, freed in `drop` only, and shared references only.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedPool {
    fn drop(&mut self) {
        let strayed = i64::try_from(self.strayed()).unwrap_or(i64::MAX);
        let outside = self.outside.load(Ordering::Acquire) - strayed;
        if outside != 0 {
            // Somebody still has frames of this UMEM. They point here: leave it to them.
            return;
        }
        // SAFETY: made from a Box in `new`. Every lane is closed, since each holds this in an Arc,
        // and every frame is back, so that nothing points here any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
