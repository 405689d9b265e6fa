//! Ports that were closed lately: towards the same remote, another pod's flow takes them last. The
//! remote may still be in TIME_WAIT (RFC 9293, section 3.6.1), and late packets would find the wrong
//! pod.

use spillway_mem::Arena;

use crate::family::Family;
use crate::flow::{Tick, tick};

/// How long a port rests: 60 s, as long as Linux is in TIME_WAIT.
pub(super) const REST: Tick = tick(60_000_000_000);

/// How many are remembered, a power of two; each has one place, and a newer one takes it.
const PLACES: usize = 1 << 14;

#[derive(Clone, Copy, Debug)]
struct Rest<F: Family> {
    /// The half of the reply tuple's hash that has not chosen the place.
    tag: u32,
    pod: F::Address,
    since: Tick,
}

/// The flows that ended lately.
#[derive(Debug)]
pub(super) struct Resting<F: Family> {
    places: Arena<Option<Rest<F>>>,
}

impl<F: Family> Resting<F> {
    pub(super) fn new() -> Self {
        Self { places: Arena::new(PLACES, None) }
    }

    /// A pod's flow has ended, whose reply tuple has this hash.
    pub(super) fn add(&mut self, hash: u64, pod: F::Address, now: Tick) {
        let (place, tag) = place(hash);
        if let Some(entry) = self.places.get_mut(place) {
            *entry = Some(Rest { tag, pod, since: now });
        }
    }

    /// Starts to load what is remembered of a reply tuple with this hash.
    pub(super) fn prefetch(&self, hash: u64) {
        self.places.prefetch(place(hash).0);
    }

    /// Whether another pod's flow with this reply tuple ended lately. Its own pod knows what it
    /// does.
    pub(super) fn has(&self, hash: u64, pod: F::Address, now: Tick) -> bool {
        let (place, tag) = place(hash);
        let entry = self.places.get(place).copied().flatten();
        entry.is_some_and(|rest| {
            rest.tag == tag && rest.pod != pod && now.wrapping_sub(rest.since) < REST
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
fn place(hash: u64) -> (usize, u32) {
    (hash as usize % PLACES, (hash >> 32) as u32)
}
