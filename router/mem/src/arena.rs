//! A fixed array for tables of many megabytes: aligned and advised so that the kernel can back it
//! with huge pages, and written once, so that no page fault comes later.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::prefetch::prefetch_at;

/// Size of a huge page on x86-64 and most of arm64.
const HUGE_PAGE: usize = 2 << 20;

/// A cache line: the least alignment of an arena.
const CACHE_LINE: usize = 64;

/// A fixed number of values of one type, at least one. It owns them as a `Box<[T]>` does, and starts on a cache
/// line, or on a huge page when it fills one.
#[derive(Debug)]
pub struct Arena<T: Copy> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: an arena owns its values, as `Box<[T]>` does.
unsafe impl<T: Copy + Send> Send for Arena<T> {}
// SAFETY: a shared arena gives out shared references only.
unsafe impl<T: Copy + Sync> Sync for Arena<T> {}

impl<T: Copy> Arena<T> {
    /// Allocates `len` values and writes `value` into each.
    ///
    /// # Panics
    /// When `T` has no size, `len` is 0 or the arena would exceed the address space; aborts when there
    /// is not enough memory. Arenas are made at start.
    #[must_use]
    pub fn new(len: usize, value: T) -> Self {
        assert!(size_of::<T>() > 0 && len > 0, "an arena holds values that have a size");
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not 0: `len` is not, nor is the size of `T`.
        let memory = unsafe { alloc(layout) };
        let Some(first) = NonNull::new(memory.cast::<T>()) else { handle_alloc_error(layout) };
        advise_huge_pages(first.cast(), layout.size());
        for index in 0..len {
            // SAFETY: the allocation has room for `len` values, and its alignment is at least
            // that of `T`.
            unsafe { first.add(index).write(value) };
        }
        Self { first, len }
    }

    /// The place that a hash chooses, each as likely as any other, and the value there: as far into the
    /// arena as `hash` is into 2^32.
    #[inline(always)]
    #[must_use]
    pub fn scaled(&self, hash: u32) -> (usize, &T) {
        let index = ((u64::from(hash) * self.len as u64) >> 32) as usize;
        // SAFETY: `len` is not 0 and `hash` is below 2^32, so the index is below `len`; `new` wrote
        // all `len` values.
        (index, unsafe { self.first.add(index).as_ref() })
    }

    /// Starts to load the cache line at which the value of a place begins, and the next one if the value
    /// is larger. A hint: it changes nothing but time, whether the place exists or not.
    #[inline(always)]
    pub fn prefetch(&self, index: usize) {
        let value = self.first.as_ptr().wrapping_add(index);
        prefetch_at(value);
        if size_of::<T>() > CACHE_LINE {
            prefetch_at(value.wrapping_byte_add(CACHE_LINE));
        }
    }

    /// The layout of `len` values: a whole number of huge pages where they fill at least one.
    fn layout(len: usize) -> Layout {
        let bytes = size_of::<T>().checked_mul(len);
        let align = match bytes {
            Some(bytes) if bytes >= HUGE_PAGE => HUGE_PAGE,
            _ => CACHE_LINE.max(align_of::<T>()),
        };
        let layout = bytes.and_then(|bytes| Layout::from_size_align(bytes, align).ok());
        let Some(layout) = layout else { panic!("an arena of {len} values exceeds memory") };
        layout.pad_to_align()
    }
}

/// Asks the kernel for huge pages. Without them all works, only slower.
fn advise_huge_pages(first: NonNull<u8>, size: usize) {
    if cfg!(miri) || size < HUGE_PAGE {
        return;
    }
    // SAFETY: the range is one allocation of ours, a whole number of pages by `layout`, and the
    // advice changes neither its contents nor its validity.
    let _ = unsafe {
        rustix::mm::madvise(first.as_ptr().cast(), size, rustix::mm::Advice::LinuxHugepage)
    };
}

impl<T: Copy> Deref for Arena<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote all `len` values, and `self` owns them.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Arena<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `new` wrote all `len` values, and `self` owns them and is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Arena<T> {
    fn drop(&mut self) {
        // SAFETY: `new` allocated this memory with the same layout; `T: Copy` needs no drop.
        unsafe { dealloc(self.first.as_ptr().cast(), Self::layout(self.len)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_written_and_can_be_changed() {
        let mut arena = Arena::new(1000, 7_u32);
        assert!(arena.iter().all(|&value| value == 7));
        arena[999] = 8;
        assert_eq!((arena[998], arena[999], arena.len()), (7, 8, 1000));
    }

    #[test]
    #[should_panic(expected = "values that have a size")]
    fn an_empty_arena_is_refused() {
        let _ = Arena::new(0, 1_u64);
    }

    #[test]
    fn hashes_choose_every_place_and_none_beyond() {
        let mut arena = Arena::new(7, 0_u32);
        (0..7).for_each(|index| arena[index as usize] = index);
        assert_eq!(arena.scaled(0), (0, &0));
        assert_eq!(arena.scaled(u32::MAX), (6, &6));
        for index in 0..7_u32 {
            let middle = index * (u32::MAX / 7) + u32::MAX / 14;
            assert_eq!(arena.scaled(middle), (index as usize, &index));
        }
        assert_eq!(Arena::new(1, 9_u8).scaled(u32::MAX), (0, &9));
    }

    #[test]
    fn a_small_arena_starts_on_a_cache_line() {
        let arena = Arena::new(3, 1_u8);
        assert_eq!(arena.as_ptr().addr() % CACHE_LINE, 0);
    }

    #[test]
    fn a_large_arena_starts_on_a_huge_page() {
        let arena = Arena::new(HUGE_PAGE / size_of::<u64>() + 1, 1_u64);
        assert_eq!(arena.as_ptr().addr() % HUGE_PAGE, 0);
        assert_eq!(arena.last(), Some(&1));
    }

    #[test]
    fn an_arena_moves_to_another_thread() {
        let mut arena = Arena::new(10, 1_u32);
        let arena = std::thread::spawn(move || {
            arena[0] = 2;
            arena
        });
        assert_eq!(arena.join().unwrap()[0], 2);
    }

    #[test]
    #[should_panic(expected = "exceeds memory")]
    fn an_impossible_size_panics_before_it_allocates() {
        let _ = Arena::new(usize::MAX / 2, 1_u64);
    }
}
