//! How many flows each pod has under a policy that limits them (RFC 6888, REQ-4), counted by all
//! workers together: a pod's flows are spread over them by port.
//!
//! Touched only when such a flow opens or ends. A place is one word, what tells the pod and policy and
//! their count; one with a count of 0 is free, and a count stays in its place while it is not 0. Two
//! workers that open a pod's first flow at one moment may take two places, so that the pod gets a
//! flow or two more than its limit; nothing else is inexact.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most flows of a pod that can be allowed: what a count has room for.
pub const FLOWS_PER_POD_MAX: u32 = (1 << COUNT_BITS) - 1;

/// How many pods with flows can be counted at one time: a power of two. 2 MiB for all workers.
const PLACES: usize = 1 << 18;

/// Places that may be a pod's: four cache lines from the one that the hash chooses on.
const WINDOW: usize = 32;

/// Places of a cache line.
const LINE: usize = 8;

const COUNT_BITS: u32 = 24;

/// Counts of flows, shared by all workers. `W` is [`AtomicU64`], but for the test that tries every
/// order in which workers can meet.
#[derive(Debug)]
pub struct PodFlows<W = AtomicU64> {
    /// A power of two of them.
    places: Box<[W]>,
}

/// What [`PodFlows`] needs of a shared word; every access is relaxed.
pub(crate) trait Word {
    fn load(&self) -> u64;
    /// Whether the word was `seen`, and is `next` now.
    fn replace(&self, seen: u64, next: u64) -> bool;
    fn decrement(&self);
}

impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        AtomicU64::load(self, Relaxed)
    }

    fn replace(&self, seen: u64, next: u64) -> bool {
        self.compare_exchange(seen, next, Relaxed, Relaxed).is_ok()
    }

    fn decrement(&self) {
        self.fetch_sub(1, Relaxed);
    }
}

/// Where a flow is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

impl Place {
    /// A number below 2^31.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The place with this number.
    pub(crate) fn of_number(number: u32) -> Self {
        Self(number)
    }
}

impl Default for PodFlows {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }
}

#[expect(private_bounds, reason = "nobody else has such words")]
impl<W: Word> PodFlows<W> {
    /// Counts one more flow, unless there are `max` of them, or no place is free. `hash` is of pod and
    /// policy; all its bits count.
    pub(crate) fn open(&self, hash: u64, max: u32) -> Option<Place> {
        loop {
            let (place, seen) = self.place_of(hash)?;
            let count = count(seen);
            if count >= u64::from(max.min(FLOWS_PER_POD_MAX)) {
                return None;
            }
            let next = tag(hash) | (count + 1);
            // Another worker may have been faster.
            if self.at(place)?.replace(seen, next) {
                return Some(place);
            }
        }
    }

    /// Whether [`PodFlows::open`] would count one more flow.
    pub(crate) fn has_room(&self, hash: u64, max: u32) -> bool {
        let found = self.place_of(hash);
        found.is_some_and(|(_, seen)| count(seen) < u64::from(max.min(FLOWS_PER_POD_MAX)))
    }

    /// A flow has ended that was counted there.
    pub(crate) fn close(&self, place: Place) {
        if let Some(word) = self.at(place) {
            word.decrement();
        }
    }

    /// A pod's place and what it holds; if it has none, a free one.
    fn place_of(&self, hash: u64) -> Option<(Place, u64)> {
        let mut free = None;
        for place in window(hash, self.places.len()) {
            let seen = self.at(place)?.load();
            if count(seen) == 0 {
                free = free.or(Some((place, seen)));
            } else if seen ^ tag(hash) < 1 << COUNT_BITS {
                return Some((place, seen));
            }
        }
        free
    }

    fn at(&self, place: Place) -> Option<&W> {
        self.places.get(place.0 as usize)
    }
}

/// What tells a pod and policy: the bits of the hash that have no part in choosing the place.
fn tag(hash: u64) -> u64 {
    hash >> COUNT_BITS << COUNT_BITS
}

fn count(word: u64) -> u64 {
    word & u64::from(FLOWS_PER_POD_MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "a place is below 2^18")]
fn window(hash: u64, places: usize) -> impl Iterator<Item = Place> {
    let first = hash as usize % (places / LINE) * LINE;
    (first..first + WINDOW).map(move |place| Place((place % places) as u32))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Of one window.
    fn hash(pod: u64) -> u64 {
        pod << COUNT_BITS | 5
    }

    #[test]
    fn each_pod_has_its_own_count_up_to_its_limit() {
        let flows = PodFlows::default();
        let first: Vec<_> = (0..3).map(|_| flows.open(hash(1), 3).unwrap()).collect();
        assert!(!flows.has_room(hash(1), 3) && flows.has_room(hash(1), 4));
        assert_eq!(flows.open(hash(1), 3), None);
        assert!(first.iter().all(|place| *place == first[0]));
        let second = flows.open(hash(2), 1).unwrap();
        assert_ne!(second, first[0]);
        flows.close(first[0]);
        assert_eq!(flows.open(hash(1), 3), Some(first[0]));
        assert_eq!(flows.open(hash(1), 3), None);
    }

    #[test]
    fn a_place_is_free_again_when_its_last_flow_ends_and_none_is_lost() {
        let flows = PodFlows::default();
        let places: Vec<_> =
            (0..WINDOW as u64).map(|pod| flows.open(hash(pod), 9).unwrap()).collect();
        assert!(!flows.has_room(hash(99), 9), "the window is full");
        assert_eq!(flows.open(hash(99), 9), None, "the window is full");
        flows.close(places[7]);
        assert!(flows.has_room(hash(99), 9));
        assert_eq!(flows.open(hash(99), 9), Some(places[7]));
        places.iter().for_each(|place| flows.close(*place));
        assert!(flows.places.iter().all(|word| count(Word::load(word)) == 0));
    }

    #[test]
    fn workers_count_together() {
        let flows = PodFlows::default();
        // Its place is there, as the module's head says.
        flows.open(hash(1), 3).unwrap();
        let (start, live) = (Barrier::new(4), AtomicU64::new(1));
        let work = || {
            start.wait();
            for _ in 0..100_000 {
                let Some(place) = flows.open(hash(1), 3) else { continue };
                assert!(live.fetch_add(1, Relaxed) < 3, "more than three at a time");
                live.fetch_sub(1, Relaxed);
                flows.close(place);
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
        assert_eq!((0..9).filter(|_| flows.open(hash(1), 3).is_some()).count(), 2);
    }

    impl Word for loom::sync::atomic::AtomicU64 {
        fn load(&self) -> u64 {
            self.load(Relaxed)
        }

        fn replace(&self, seen: u64, next: u64) -> bool {
            self.compare_exchange(seen, next, Relaxed, Relaxed).is_ok()
        }

        fn decrement(&self) {
            self.fetch_sub(1, Relaxed);
        }
    }

    /// Two workers, in every order in which their accesses can happen: they open and end a flow each,
    /// of one pod or of two, besides one that lives.
    #[test]
    fn in_every_order_of_two_workers_no_flow_is_counted_twice_or_lost() {
        for (others, max) in [(1, 2), (1, 3), (2, 2)] {
            loom::model(move || {
                let places = (0..LINE).map(|_| loom::sync::atomic::AtomicU64::new(0)).collect();
                let flows = loom::sync::Arc::new(PodFlows { places });
                flows.open(hash(1), max).unwrap();
                let worker = |pod: u64| {
                    let flows = loom::sync::Arc::clone(&flows);
                    loom::thread::spawn(move || {
                        let place = flows.open(hash(pod), max);
                        let is_open = place.is_some();
                        place.into_iter().for_each(|place| flows.close(place));
                        is_open
                    })
                };
                let workers = [worker(1), worker(others)];
                let opened = workers.map(|worker| worker.join().unwrap());
                // One of two is refused at most, and none where there is room for both.
                assert!(opened.contains(&true));
                assert!(max == 2 && others == 1 || opened == [true; 2]);
                let left: u64 = flows.places.iter().map(|word| count(Word::load(word))).sum();
                assert_eq!(left, 1);
            });
        }
    }
}
