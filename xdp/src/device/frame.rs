//! A frame in somebody's hands.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;

use xsk_rs::FrameDesc;

use super::pool::Pool;

/// One frame: the only way to its bytes, and to a ring.
///
/// It is neither `Clone` nor `Copy`, and giving it to a [`Lane`](super::Lane) consumes it: no frame
/// can be on two rings, or on a ring and in use. A frame that is dropped instead returns to its
/// UMEM by a slower way, counted as `strayed`.
pub struct Frame {
    descriptor: FrameDesc,
    /// Valid as long as the frame is: a pool is not freed while a frame is outside.
    pool: NonNull<Pool>,
}

// SAFETY: a frame owns its bytes alone, and the pool it points to is Sync.
unsafe impl Send for Frame where Pool: Sync {}

impl Frame {
    /// Makes a frame of a descriptor.
    ///
    /// # Safety
    ///
    /// The descriptor is of the pool's UMEM, the caller was its only owner and does not use it
    /// again, and the pool counts the frame as outside until it is back.
    pub(super) unsafe fn new(descriptor: FrameDesc, pool: NonNull<Pool>) -> Self {
        Self { descriptor, pool }
    }

    /// What was received; of an allocated frame, all the room it has.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the descriptor is of this UMEM and no one else has it (`new`); the reference
        // lives no longer than the frame.
        unsafe { self.pool.as_ref().umem.data(&self.descriptor).contents() }
    }

    /// The same bytes, to change in place.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed mutably.
        let mut data = unsafe { self.pool.as_ref().umem.data_mut(&mut self.descriptor) };
        let contents = data.contents_mut();
        // SAFETY: the same slice, whose lifetime the library ties to its temporary; here it is
        // tied to `self`, which owns these bytes.
        unsafe { slice::from_raw_parts_mut(contents.as_mut_ptr(), contents.len()) }
    }

    /// How many bytes fit, from the frame's start to its chunk's end.
    #[must_use]
    pub fn capacity(&mut self) -> usize {
        // SAFETY: as in `bytes_mut`.
        let mut data = unsafe { self.pool.as_ref().umem.data_mut(&mut self.descriptor) };
        data.cursor().buf_len()
    }

    /// Sets how many bytes the frame has, `capacity` at most.
    pub(super) fn set_length(&mut self, length: usize) {
        // SAFETY: as in `bytes_mut`.
        let mut data = unsafe { self.pool.as_ref().umem.data_mut(&mut self.descriptor) };
        data.cursor().set_pos(length);
    }

    /// Whether the frame is of this pool.
    pub(super) fn is_of(&self, pool: NonNull<Pool>) -> bool {
        self.pool == pool
    }

    /// Gives up the frame for its descriptor.
    pub(super) fn into_descriptor(self) -> FrameDesc {
        ManuallyDrop::new(self).descriptor
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: the pool is not freed while this frame is outside.
        unsafe { self.pool.as_ref() }.take_stray(self.descriptor);
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("address", &self.descriptor.addr())
            .field("length", &self.descriptor.lengths().data())
            .finish()
    }
}
