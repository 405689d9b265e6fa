//! Sixteen bytes that say what fifteen slots may hold: one vector compare finds the candidates.

/// How many slots one group describes.
pub const TAG_LANES: usize = 15;

/// The overflow counter's place, after the tags.
const OVERFLOW: usize = TAG_LANES;

/// The bits of a compare that belong to tags.
const LANE_BITS: u16 = (1 << TAG_LANES) - 1;

/// Fifteen tags (a byte of each entry's hash; 0 is a free slot) and one overflow counter.
///
/// The counter says how many live entries have this group on their way but found it full and live
/// further on (as in Folly's F14). A search stops at the first group where it is 0, so removal
/// needs no tombstones. A counter that reaches 255 stays there: searches go on a little further
/// than needed, and stay correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct TagGroup([u8; 16]);

impl TagGroup {
    /// A group of free slots.
    pub const EMPTY: Self = Self([0; 16]);

    /// The lanes whose tag is `tag`.
    #[inline]
    #[must_use]
    pub fn matching(&self, tag: u8) -> Lanes {
        Lanes(equal_bytes(&self.0, tag) & LANE_BITS)
    }

    /// The lanes that are in use.
    #[inline]
    #[must_use]
    pub fn used(&self) -> Lanes {
        Lanes(!equal_bytes(&self.0, 0) & LANE_BITS)
    }

    /// The first free lane.
    #[inline]
    #[must_use]
    pub fn first_free(&self) -> Option<usize> {
        self.matching(0).next()
    }

    /// Marks a lane as used by an entry with this tag, which is not 0. Lanes from [`TAG_LANES`]
    /// on do not exist: nothing happens.
    #[inline]
    pub fn occupy(&mut self, lane: usize, tag: u8) {
        debug_assert!(tag != 0 && lane < TAG_LANES);
        if let Some(place) = self.0.iter_mut().take(TAG_LANES).nth(lane) {
            *place = tag;
        }
    }

    /// Marks a lane as free.
    #[inline]
    pub fn release(&mut self, lane: usize) {
        debug_assert!(lane < TAG_LANES);
        if let Some(place) = self.0.iter_mut().take(TAG_LANES).nth(lane) {
            *place = 0;
        }
    }

    /// Whether entries that came by live further on.
    #[inline]
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.0[OVERFLOW] != 0
    }

    /// An entry came by and found no free lane.
    #[inline]
    pub fn passed_by(&mut self) {
        self.0[OVERFLOW] = self.0[OVERFLOW].saturating_add(1);
    }

    /// An entry that had come by is gone.
    #[inline]
    pub fn passer_removed(&mut self) {
        debug_assert!(self.0[OVERFLOW] != 0);
        if self.0[OVERFLOW] != u8::MAX {
            self.0[OVERFLOW] = self.0[OVERFLOW].saturating_sub(1);
        }
    }
}

/// Some lanes of a group, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes(u16);

impl Iterator for Lanes {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let lane = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

/// One bit for each of the bytes that equals `byte`, the first byte's lowest.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn equal_bytes(bytes: &[u8; 16], byte: u8) -> u16 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
    // SAFETY: the load reads the 16 bytes that `bytes` borrows and needs no alignment; SSE2 is
    // part of x86-64.
    let mask = unsafe {
        let group = _mm_loadu_si128(bytes.as_ptr().cast());
        _mm_movemask_epi8(_mm_cmpeq_epi8(group, _mm_set1_epi8(byte.cast_signed())))
    };
    // A mask of 16 lanes has 16 bits.
    (mask.cast_unsigned() & 0xffff) as u16
}

/// One bit for each of the bytes that equals `byte`, the first byte's lowest.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn equal_bytes(bytes: &[u8; 16], byte: u8) -> u16 {
    equal_bytes_portable(bytes, byte)
}

/// The same without vector instructions.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_bytes_portable(bytes: &[u8; 16], byte: u8) -> u16 {
    bytes.iter().rev().fold(0, |mask, &each| mask << 1 | u16::from(each == byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_compares_agree_on_every_byte_in_every_lane() {
        for byte in 0..=u8::MAX {
            for lane in 0..16 {
                let mut bytes = [byte.wrapping_add(1); 16];
                bytes[lane] = byte;
                assert_eq!(equal_bytes(&bytes, byte), 1 << lane);
                assert_eq!(equal_bytes_portable(&bytes, byte), 1 << lane);
            }
            assert_eq!(equal_bytes(&[byte; 16], byte), 0xffff);
        }
    }

    #[test]
    fn lanes_fill_in_order_and_free_again() {
        let mut group = TagGroup::EMPTY;
        for lane in 0..TAG_LANES {
            assert_eq!(group.first_free(), Some(lane));
            group.occupy(lane, 9);
        }
        assert_eq!(group.first_free(), None);
        assert_eq!(group.matching(9).count(), TAG_LANES);
        group.release(4);
        assert_eq!(group.first_free(), Some(4));
        assert_eq!(group.used().count(), TAG_LANES - 1);
    }

    #[test]
    fn the_overflow_counter_is_no_lane() {
        let mut group = TagGroup::EMPTY;
        for _ in 0..9 {
            group.passed_by();
        }
        assert!(group.overflowed());
        assert_eq!(group.matching(9).next(), None);
        assert_eq!(group.used().next(), None);
        for _ in 0..9 {
            group.passer_removed();
        }
        assert!(!group.overflowed());
    }

    #[test]
    fn a_saturated_overflow_counter_never_falls() {
        let mut group = TagGroup::EMPTY;
        for _ in 0..300 {
            group.passed_by();
        }
        for _ in 0..300 {
            group.passer_removed();
        }
        assert!(group.overflowed());
    }
}
