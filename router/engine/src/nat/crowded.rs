//! What is known of remotes towards which most ports are taken: so that the search for the last ones
//! does not ask for every port again, and none is made where nothing is left.
//!
//! A bit says that a port was found taken, and nobody has given it back since. What is not known is
//! asked; so each taken port is asked for once, and a search that finds nothing new costs one look at
//! four words for each class.

use crate::flow::{Hasher, Tuple};
use crate::packet::Wire;
use crate::steer::{CLASS_MULTIPLIER, CLASSES, class};

/// How many remotes, a power of two: 8 KiB each. One that becomes crowded takes the place of another.
const PLACES: usize = 64;

/// Words of 64 ports in each class.
const CLASS_WORDS: usize = 4;

/// A remote, and the ports that may be leased towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remote<F: Wire> {
    /// Its reply tuple with port 0, and the hash of that.
    tuple: Tuple<F::Address>,
    hash: u64,
    /// First and last port of the egress address: others are taken, as long as these are the same.
    range: (u16, u16),
}

impl<F: Wire> Remote<F> {
    pub(super) fn new(hasher: &Hasher, reply: &Tuple<F::Address>, range: (u16, u16)) -> Self {
        let tuple = Tuple { destination_port: 0, ..*reply };
        Self { tuple, hash: hasher.tuple(&tuple), range }
    }

    /// The only place where it may be remembered.
    fn place(&self) -> usize {
        let [.., low] = (self.hash >> 32).to_be_bytes();
        usize::from(low) % PLACES
    }
}

/// One remote's ports.
#[derive(Debug)]
struct Place<F: Wire> {
    remote: Option<Remote<F>>,
    /// Whether every port of this worker was found taken.
    is_exhausted: bool,
    taken: Taken,
}

/// The crowded remotes of one worker.
#[derive(Debug)]
pub(super) struct Crowded<F: Wire> {
    places: Box<[Place<F>]>,
}

/// Ports that are known to be taken, by class and by their number in it.
#[derive(Debug)]
pub(super) struct Taken(Box<[[u64; CLASS_WORDS]]>);

impl<F: Wire> Crowded<F> {
    pub(super) fn new() -> Self {
        let taken = || Taken(vec![[0; CLASS_WORDS]; CLASSES].into());
        let place = || Place { remote: None, is_exhausted: false, taken: taken() };
        Self { places: std::iter::repeat_with(place).take(PLACES).collect() }
    }

    /// Whether every port of this worker was found taken towards a remote.
    pub(super) fn is_exhausted(&self, remote: &Remote<F>) -> bool {
        let place = self.places.get(remote.place());
        place.is_some_and(|place| place.is_exhausted && place.remote == Some(*remote))
    }

    /// What is known of a remote.
    pub(super) fn of(&mut self, remote: &Remote<F>) -> Option<&mut Taken> {
        let place = self.places.get_mut(remote.place())?;
        (place.remote == Some(*remote)).then_some(&mut place.taken)
    }

    /// A search has taken long: what the next ones find is remembered. Where it has found nothing,
    /// there is nothing.
    pub(super) fn remember(&mut self, remote: &Remote<F>, is_exhausted: bool) {
        let Some(place) = self.places.get_mut(remote.place()) else { return };
        if place.remote != Some(*remote) {
            place.remote = Some(*remote);
            place.taken.0.fill([0; CLASS_WORDS]);
        }
        place.is_exhausted = is_exhausted;
    }

    /// The flow with this reply tuple has ended: whatever the range was, its port is not taken.
    pub(super) fn released(&mut self, hasher: &Hasher, reply: &Tuple<F::Address>) {
        let ended = Remote::<F>::new(hasher, reply, (0, 0));
        let Some(place) = self.places.get_mut(ended.place()) else { return };
        if place.remote.is_some_and(|remote| remote.tuple == ended.tuple) {
            place.is_exhausted = false;
            place.taken.set(reply.destination_port, false);
        }
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.places.iter_mut().for_each(|place| place.remote = None);
    }
}

impl Taken {
    /// Whether a port is known to be taken.
    pub(super) fn has(&self, port: u16) -> bool {
        let (class, word, bit) = bit_of(port);
        self.0.get(class).and_then(|words| words.get(word)).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// Whether all ports of a class are.
    pub(super) fn has_class(&self, class: u8) -> bool {
        self.0.get(usize::from(class)) == Some(&[u64::MAX; CLASS_WORDS])
    }

    /// Takes note of a port.
    pub(super) fn set(&mut self, port: u16, is_taken: bool) {
        let (class, word, bit) = bit_of(port);
        if let Some(word) = self.0.get_mut(class).and_then(|words| words.get_mut(word)) {
            *word = *word & !(1 << bit) | u64::from(is_taken) << bit;
        }
    }
}

/// The class of a port, and where its number in the class stands.
fn bit_of(port: u16) -> (usize, usize, u32) {
    let [_, number] = port.wrapping_mul(CLASS_MULTIPLIER).to_be_bytes();
    (usize::from(class(port)), usize::from(number / 64), u32::from(number % 64))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::family::V4;

    type Tuple = crate::flow::Tuple<Ipv4Addr>;

    /// With this key, all tuples without addresses have one hash.
    const HASHER: Hasher = Hasher::new([0; 4]);

    fn remote(reply: &Tuple, range: (u16, u16)) -> Remote<V4> {
        Remote::new(&HASHER, reply, range)
    }

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let mut crowded = Crowded::new();
        let first = remote(&Tuple::NONE, (1024, 65_535));
        crowded.remember(&first, false);
        let taken = crowded.of(&first).unwrap();
        for port in 0..=u16::MAX {
            assert!(!taken.has(port), "{port}");
            taken.set(port, true);
            assert!(taken.has(port), "{port}");
        }
        assert!((0..=u8::MAX).all(|class| taken.has_class(class)));
        crowded.released(&HASHER, &Tuple { destination_port: 4711, ..Tuple::NONE });
        let taken = crowded.of(&first).unwrap();
        let free: Vec<_> = (0..=u16::MAX).filter(|port| !taken.has(*port)).collect();
        assert_eq!(free, [4711]);
        assert!(!taken.has_class(class(4711)));
    }

    #[test]
    fn another_range_or_another_remote_in_its_place_is_another_remote() {
        let mut crowded = Crowded::new();
        let first = remote(&Tuple::NONE, (1024, 65_535));
        crowded.remember(&first, true);
        assert!(crowded.is_exhausted(&first));
        let wider = remote(&Tuple::NONE, (1000, 65_535));
        assert!(!crowded.is_exhausted(&wider) && crowded.of(&wider).is_none());
        let other = remote(&Tuple { source_port: 443, ..Tuple::NONE }, (1024, 65_535));
        crowded.remember(&other, false);
        assert!(!crowded.is_exhausted(&first) && crowded.of(&first).is_none());
        crowded.forget();
        assert!(crowded.of(&other).is_none());
    }
}
