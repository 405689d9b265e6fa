//! The free frames of one worker in one UMEM.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use xsk_rs::FrameDesc;

use super::config::CACHE_MAX;
use super::frame::Frame;
use super::pool::{BATCH, Batch, Pool, SharedPool};

/// A worker's free frames: a stack, so that the warmest frame is used next. What is too much goes
/// to the depot, what is missing comes from there, in batches.
pub(super) struct Cache {
    pool: Arc<SharedPool>,
    free: Vec<FrameDesc>,
    /// Frames this cache has handed out, less those given to it: other workers' too.
    held: i64,
}

impl Cache {
    pub(super) fn new(pool: Arc<SharedPool>) -> Self {
        // Room for a completion batch above the maximum, so that it never grows.
        Self { pool, free: Vec::with_capacity(CACHE_MAX + BATCH), held: 0 }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn pool_pointer(&self) -> NonNull<Pool> {
        self.pool.pointer()
    }

    /// Free frames here, without the pool's.
    pub(super) fn free(&self) -> i64 {
        i64::try_from(self.free.len()).unwrap_or(i64::MAX)
    }

    pub(super) fn held(&self) -> i64 {
        self.held
    }

    /// Hands out a frame that came off a ring of this UMEM.
    pub(super) fn hand_out(&mut self, descriptor: FrameDesc) -> Frame {
        self.held += 1;
        // SAFETY: rings and caches of this pool are the only places where its descriptors are, each
        // in one; the caller took this one off a ring or this cache. `held` counts it.
        unsafe { Frame::new(descriptor, self.pool.pointer()) }
    }

    /// A free frame with all its room.
    pub(super) fn allocate(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            self.draw(1);
        }
        let descriptor = self.free.pop()?;
        let mut frame = self.hand_out(descriptor);
        let capacity = frame.capacity();
        frame.set_length(capacity);
        Some(frame)
    }

    /// Takes back a frame of this pool, to put it on a ring.
    pub(super) fn take_back(&mut self, frame: Frame) -> FrameDesc {
        debug_assert!(frame.is_of(self.pool.pointer()));
        self.held -= 1;
        frame.into_descriptor()
    }

    /// Takes back a frame of this pool that is free now.
    pub(super) fn recycle(&mut self, frame: Frame) {
        let descriptor = self.take_back(frame);
        self.put(&[descriptor]);
    }

    /// Takes in free frames, a batch at most.
    pub(super) fn put(&mut self, descriptors: &[FrameDesc]) {
        self.free.extend_from_slice(descriptors);
        while self.free.len() > CACHE_MAX {
            let batch: Batch = self.free.drain(self.free.len() - BATCH..).collect();
            self.pool.give(batch);
        }
    }

    /// Offers up to `count` free frames to `ring`, which says how many it took.
    pub(super) fn offer(
        &mut self,
        count: usize,
        ring: impl FnOnce(&[FrameDesc]) -> usize,
    ) -> usize {
        if self.free.len() < count {
            self.draw(count);
        }
        let kept = self.free.len() - self.free.len().min(count);
        let taken = ring(&self.free[kept..]);
        debug_assert!(taken == 0 || taken == self.free.len() - kept, "rings take all or nothing");
        if taken > 0 {
            self.free.truncate(kept);
        }
        taken
    }

    /// Gets frames from the pool until there are `count`, or it has no more.
    fn draw(&mut self, count: usize) {
        while self.free.len() < count.min(CACHE_MAX) {
            if let Some(batch) = self.pool.depot.pop() {
                self.free.extend(batch);
            } else if let Some(stray) = self.pool.strays.pop() {
                self.free.push(stray);
            } else {
                return;
            }
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.pool.outside.fetch_add(self.held, Ordering::Release);
    }
}
