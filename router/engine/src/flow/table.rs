//! A fixed hash table whose slots never move: 15 slots to a group, one tag byte for each, and an
//! overflow counter for each group in place of tombstones.

use std::ops::{Index, IndexMut};

use spillway_mem::{Lanes, TAG_LANES, prefetch};

use super::{Arena, Key, TagGroup, Tuple};
use crate::family::Family;

/// What a table holds.
pub(crate) trait Slot: Copy {
    /// Of what family its tuple is.
    type Family: Family;

    /// Matches no packet's tuple: its protocol is 0.
    const EMPTY: Self;

    /// What it is found by.
    fn key(&self) -> Key<Self::Family>;
}

/// The place of a slot: the same for as long as the entry lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotIndex(u32);

impl SlotIndex {
    /// The place of no entry in particular, until the entry has one.
    pub(crate) const FIRST: Self = Self(0);

    /// Its number, below [`Table::slots`].
    pub(crate) fn number(self) -> usize {
        self.0 as usize
    }
}

/// A tuple of a slot's family.
type AddressTuple<S> = Tuple<<<S as Slot>::Family as Family>::Address>;

/// A table of `S`. Single-threaded; everything is allocated by [`Table::new`].
#[derive(Debug)]
pub(crate) struct Table<S: Copy> {
    groups: Arena<TagGroup>,
    slots: Arena<S>,
}

impl<S: Slot> Table<S> {
    /// Room for `entries_max` entries at seven eighths of the slots.
    pub(crate) fn new(entries_max: u32) -> Self {
        let slots = u64::from(entries_max) * 8 / 7 + 1;
        let groups = usize::try_from(slots.div_ceil(TAG_LANES as u64)).unwrap_or(usize::MAX);
        Self {
            groups: Arena::new(groups, TagGroup::EMPTY),
            slots: Arena::new(groups.saturating_mul(TAG_LANES), S::EMPTY),
        }
    }

    /// How many groups there are; a group's number is below it.
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// How many slots there are, taken or not.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The entries of one group.
    pub(crate) fn entries(&self, group: usize) -> impl Iterator<Item = SlotIndex> + use<S> {
        let used = self.groups.get(group).unwrap_or(&TagGroup::EMPTY).used();
        used.map(move |lane| slot_index(group, lane))
    }

    /// Starts to load the group in which a hash's search begins.
    #[inline]
    pub(crate) fn prefetch_group(&self, hash: u64) {
        prefetch(self.groups.scaled(low_half(hash)).1);
    }

    /// The likely place of an entry, which starts to load: the first of the right tag; or if there is
    /// none, the one that a new entry would likely have.
    #[inline]
    pub(crate) fn candidate<const PREFETCH: bool>(&self, hash: u64) -> SlotIndex {
        let index = self.candidates(hash).next().unwrap_or_else(|| self.vacancy(hash));
        if PREFETCH {
            self.slots.prefetch(index.number());
        }
        index
    }

    /// Starts to load the place that a new entry would likely have.
    pub(crate) fn prefetch_vacancy(&self, hash: u64) {
        self.slots.prefetch(self.vacancy(hash).number());
    }

    /// The place in its first group that a new entry would have; of a full group, any.
    fn vacancy(&self, hash: u64) -> SlotIndex {
        let (number, group) = self.groups.scaled(low_half(hash));
        slot_index(number, group.first_free().unwrap_or_default())
    }

    /// The entry with this tuple; `candidate` is looked at first.
    #[inline(always)]
    pub(crate) fn get_near(
        &mut self,
        key: &Key<S::Family>,
        hash: u64,
        candidate: SlotIndex,
    ) -> Option<&mut S> {
        let index = candidate.number();
        if self.slots.get(index)?.key() == *key {
            return self.slots.get_mut(index);
        }
        let index = self.find_key(key, hash)?;
        self.slots.get_mut(index.number())
    }

    /// The place of the entry with this tuple.
    pub(crate) fn find(&self, tuple: &AddressTuple<S>, hash: u64) -> Option<SlotIndex> {
        self.find_key(&tuple.key(), hash)
    }

    /// The same of the tuple as packets have it.
    pub(crate) fn find_key(&self, key: &Key<S::Family>, hash: u64) -> Option<SlotIndex> {
        self.candidates(hash).find(|index| self[*index].key() == *key)
    }

    /// Every place of the right tag on the way of a search.
    #[inline]
    fn candidates(&self, hash: u64) -> Candidates<'_> {
        let (home, group) = self.groups.scaled(low_half(hash));
        let tag = tag(hash);
        Candidates {
            groups: &self.groups,
            tag,
            number: home,
            home,
            group,
            lanes: group.matching(tag),
        }
    }

    /// Adds an entry whose tuple is not in the table; `None` when every slot is taken.
    pub(crate) fn insert(&mut self, hash: u64, slot: S) -> Option<SlotIndex> {
        let home = self.home(hash);
        let (number, lane) = match self.groups.get(home)?.first_free() {
            Some(lane) => (home, lane),
            None => self.make_way(hash)?,
        };
        self.groups.get_mut(number)?.occupy(lane, tag(hash));
        let index = slot_index(number, lane);
        self[index] = slot;
        Some(index)
    }

    /// The free place that is nearest to a full group, which from now on is passed on the way there, as
    /// are those between.
    #[cold]
    fn make_way(&mut self, hash: u64) -> Option<(usize, usize)> {
        let with_room = |number: &usize| self.groups.get(*number)?.first_free();
        let (number, lane) =
            self.probe(hash).find_map(|number| Some((number, with_room(&number)?)))?;
        for passed in self.probe(hash).take_while(|passed| *passed != number) {
            if let Some(group) = self.groups.get_mut(passed) {
                group.passed_by();
            }
        }
        Some((number, lane))
    }

    /// Removes the entry at a place, where an entry with this hash is.
    pub(crate) fn remove(&mut self, hash: u64, index: SlotIndex) {
        let (number, lane) = (index.0 as usize / TAG_LANES, index.0 as usize % TAG_LANES);
        for passed in self.probe(hash).take_while(|passed| *passed != number) {
            if let Some(group) = self.groups.get_mut(passed) {
                group.passer_removed();
            }
        }
        if let Some(group) = self.groups.get_mut(number) {
            group.release(lane);
        }
        self[index] = S::EMPTY;
    }

    /// Every group, from the one that the hash chooses on.
    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> + use<S> {
        let home = self.home(hash);
        (home..self.groups.len()).chain(0..home)
    }

    /// The group in which a search begins.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        self.groups.scaled(low_half(hash)).0
    }
}

/// The places where a search looks.
struct Candidates<'a> {
    groups: &'a [TagGroup],
    tag: u8,
    home: usize,
    /// The group at hand, and which of its lanes are left.
    number: usize,
    group: &'a TagGroup,
    lanes: Lanes,
}

impl Iterator for Candidates<'_> {
    type Item = SlotIndex;

    #[inline]
    fn next(&mut self) -> Option<SlotIndex> {
        loop {
            if let Some(lane) = self.lanes.next() {
                return Some(slot_index(self.number, lane));
            }
            if !self.group.overflowed() {
                return None;
            }
            let next = self.number + 1;
            self.number = if next < self.groups.len() { next } else { 0 };
            if self.number == self.home {
                return None;
            }
            self.group = self.groups.get(self.number)?;
            self.lanes = self.group.matching(self.tag);
        }
    }
}

/// The half of a hash that chooses the group.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the half is what is wanted")]
fn low_half(hash: u64) -> u32 {
    hash as u32
}

/// One byte of the hash that has no part in choosing the group; never 0.
#[inline]
fn tag(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(1)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "8/7 of the engine's limit of flows fit")]
fn slot_index(group: usize, lane: usize) -> SlotIndex {
    SlotIndex((group * TAG_LANES + lane) as u32)
}

impl<S: Copy> Index<SlotIndex> for Table<S> {
    type Output = S;

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a SlotIndex comes from a table of this size")]
    fn index(&self, index: SlotIndex) -> &S {
        &self.slots[index.0 as usize]
    }
}

impl<S: Copy> IndexMut<SlotIndex> for Table<S> {
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a SlotIndex comes from a table of this size")]
    fn index_mut(&mut self, index: SlotIndex) -> &mut S {
        &mut self.slots[index.0 as usize]
    }
}

#[cfg(test)]
mod tests;
