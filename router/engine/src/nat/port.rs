//! Leasing a port (or echo identifier) on an egress address.
//!
//! A pod's own port is kept when it may be. Else a class is searched in a random order until a
//! port is free: first the class of the pod's port, then the worker's others. So a lease fails
//! only when this worker has no port left towards that remote.

use crate::DropReason;
use crate::flow::{Hasher, Tuple};
use crate::nat::Random;
use crate::steer::{CLASS_MULTIPLIER, CLASSES, class};
use crate::tables::EgressAddress;

/// How many exhausted remotes are remembered: a power of two.
const EXHAUSTED_MAX: usize = 64;

/// `CLASS_MULTIPLIER` times this is 1, modulo 2^16.
const CLASS_INVERSE: u16 = inverse(CLASS_MULTIPLIER);

/// The inverse of an odd number modulo 2^16, by Newton's iteration.
const fn inverse(odd: u16) -> u16 {
    let mut inverse = odd;
    let mut step = 0;
    while step < 4 {
        inverse = inverse.wrapping_mul(2_u16.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

const _: () = assert!(CLASS_INVERSE.wrapping_mul(CLASS_MULTIPLIER) == 1);

/// The port of a class with this number in it; each class has 256.
const fn port_of(class: u8, number: u8) -> u16 {
    u16::from_be_bytes([class, number]).wrapping_mul(CLASS_INVERSE)
}

/// What one worker knows of ports. Which are leased is known by the flows alone.
#[derive(Debug)]
pub(crate) struct Ports {
    /// The classes that this worker owns.
    classes: Vec<u8>,
    random: Random,
    hasher: Hasher,
    /// Remotes towards which every port was found leased, by hash: reply tuples with port 0. While
    /// none of its flows ends, a new flow to such a remote costs no search.
    exhausted: [Option<Tuple>; EXHAUSTED_MAX],
    /// The epoch in which they were found so.
    epoch: u32,
}

impl Ports {
    pub(crate) fn new(worker: u8, owners: &[u8; CLASSES], random: Random, hasher: Hasher) -> Self {
        let owned = (0..=u8::MAX).zip(owners).filter(|(_, owner)| **owner == worker);
        let classes = owned.map(|(class, _)| class).collect();
        Self { classes, random, hasher, exhausted: [None; EXHAUSTED_MAX], epoch: 0 }
    }

    /// Chooses a port on `egress` for replies from `reply.source`: `reply.destination_port` if it
    /// may be, else another. `is_free` says of a reply tuple whether no flow has it.
    pub(crate) fn lease(
        &mut self,
        epoch: u32,
        egress: &EgressAddress,
        reply: &Tuple,
        is_free: &mut dyn FnMut(&Tuple) -> bool,
    ) -> Result<u16, DropReason> {
        let mut may_be = |port: u16| {
            (egress.port_first..=egress.port_last).contains(&port)
                && is_free(&Tuple { destination_port: port, ..*reply })
        };
        let wish = reply.destination_port;
        if may_be(wish) {
            return Ok(wish);
        }
        if self.is_exhausted(epoch, reply) {
            return Err(DropReason::PortsExhausted);
        }
        let found = self.in_class(class(wish), &mut may_be);
        let found = found.or_else(|| self.in_other_classes(class(wish), &mut may_be));
        if found.is_none() {
            self.remember(reply);
        }
        found.ok_or(DropReason::PortsExhausted)
    }

    /// Forgets that a remote was exhausted: the flow with this reply tuple has ended.
    pub(crate) fn released(&mut self, reply: &Tuple) {
        let remote = Tuple { destination_port: 0, ..*reply };
        if let Some(entry) = self.entry(&remote)
            && *entry == Some(remote)
        {
            *entry = None;
        }
    }

    /// Every port of a class, each once, in one of 32,768 orders: a random start and stride.
    fn in_class(&mut self, class: u8, may_be: &mut dyn FnMut(u16) -> bool) -> Option<u16> {
        let start = self.random.byte();
        let stride = self.random.byte() | 1;
        let number = |step: u8| start.wrapping_add(step.wrapping_mul(stride));
        (0..=u8::MAX).map(|step| port_of(class, number(step))).find(|port| may_be(*port))
    }

    fn in_other_classes(
        &mut self,
        searched: u8,
        may_be: &mut dyn FnMut(u16) -> bool,
    ) -> Option<u16> {
        let start = usize::from(self.random.byte());
        (0..self.classes.len()).find_map(|step| {
            let place = (start + step) % self.classes.len();
            let class = self.classes.get(place).copied().filter(|class| *class != searched)?;
            self.in_class(class, may_be)
        })
    }

    fn is_exhausted(&mut self, epoch: u32, reply: &Tuple) -> bool {
        if self.epoch != epoch {
            // Egress addresses may have other ranges now.
            self.epoch = epoch;
            self.exhausted = [None; EXHAUSTED_MAX];
        }
        let remote = Tuple { destination_port: 0, ..*reply };
        self.entry(&remote).is_some_and(|entry| *entry == Some(remote))
    }

    fn remember(&mut self, reply: &Tuple) {
        let remote = Tuple { destination_port: 0, ..*reply };
        if let Some(entry) = self.entry(&remote) {
            *entry = Some(remote);
        }
    }

    /// The one place where a remote may be remembered.
    fn entry(&mut self, remote: &Tuple) -> Option<&mut Option<Tuple>> {
        let index = (self.hasher.tuple(remote) >> 32) as usize % EXHAUSTED_MAX;
        self.exhausted.get_mut(index)
    }
}

#[cfg(test)]
mod tests;
