//! Leasing a port (or echo identifier) on an egress address.
//!
//! A pod's own port is kept when it may be. Else a class is searched in a random order until a
//! port is free: first the class of the pod's port, then the worker's others. So a lease fails
//! only when this worker has no port left towards that remote; then others are asked
//! (`engine/adoption.rs`). A port that another pod's flow to the same remote had lately is taken
//! only when nothing else in the class is free.

use std::net::Ipv4Addr;

use super::rest::Resting;
use crate::DropReason;
use crate::flow::{Hasher, Tick, Tuple};
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

/// What a new flow asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// The tuple of its replies, with the pod's own port.
    pub(crate) reply: Tuple,
    pub(crate) pod: Ipv4Addr,
    pub(crate) now: Tick,
}

/// Who has a port towards a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Free,
    /// A flow to that remote.
    Leased,
    /// An endpoint-independent mapping, towards every remote.
    Mapped,
}

/// What one worker knows of ports. Which are leased is known by the flows alone.
#[derive(Debug)]
pub(crate) struct Ports {
    /// The classes that this worker owns.
    classes: Vec<u8>,
    /// Whether it owns each class.
    owns: [bool; CLASSES],
    random: Random,
    hasher: Hasher,
    resting: Resting,
    /// Remotes towards which every port was found leased, by hash: reply tuples with port 0, and without
    /// a remote where all ports are mapped. While none of its flows ends, a new flow to such a remote
    /// costs no search.
    exhausted: [Option<Tuple>; EXHAUSTED_MAX],
    /// The epoch in which they were found so.
    epoch: u32,
}

impl Ports {
    pub(crate) fn new(worker: u8, owners: &[u8; CLASSES], random: Random, hasher: Hasher) -> Self {
        let owned = (0..=u8::MAX).zip(owners).filter(|(_, owner)| **owner == worker);
        let classes = owned.map(|(class, _)| class).collect();
        Self {
            classes,
            owns: owners.map(|owner| owner == worker),
            random,
            hasher,
            resting: Resting::new(),
            exhausted: [None; EXHAUSTED_MAX],
            epoch: 0,
        }
    }

    /// Chooses a port on `egress` for replies: the pod's own if it may be, else another. `use_of`
    /// says of a reply tuple who has it.
    pub(crate) fn lease(
        &mut self,
        epoch: u32,
        egress: &EgressAddress,
        wish: &Wish,
        use_of: &mut dyn FnMut(&Tuple) -> Use,
    ) -> Result<u16, DropReason> {
        let Wish { reply, pod, now } = *wish;
        let own = reply.destination_port;
        // Replies to a port of another worker's class would never come here.
        let own_class = class(own);
        let is_ours = self.owns.get(usize::from(own_class)).copied().unwrap_or_default();
        let mut all_mapped = true;
        let mut may_be = |port: u16| {
            if !(egress.port_first..=egress.port_last).contains(&port) {
                return false;
            }
            let used = use_of(&Tuple { destination_port: port, ..reply });
            all_mapped &= used == Use::Mapped;
            used == Use::Free
        };
        let Self { hasher, resting, .. } = &*self;
        let is_rested = |port: u16| {
            let tuple = Tuple { destination_port: port, ..reply };
            !resting.has(hasher.tuple(&tuple), pod, now)
        };
        if is_ours && is_rested(own) && may_be(own) {
            return Ok(own);
        }
        let any_remote = Tuple { source: Ipv4Addr::UNSPECIFIED, source_port: 0, ..reply };
        if self.is_exhausted(epoch, &reply) || self.is_exhausted(epoch, &any_remote) {
            return Err(DropReason::PortsExhausted);
        }
        let Self { classes, random, hasher, resting, .. } = self;
        let is_rested = |port: u16| {
            let tuple = Tuple { destination_port: port, ..reply };
            !resting.has(hasher.tuple(&tuple), pod, now)
        };
        let mut found = None;
        if is_ours {
            let mut rested = |port| is_rested(port) && may_be(port);
            found = in_class(random, own_class, &mut rested);
            found = found.or_else(|| in_class(random, own_class, &mut may_be));
        }
        let found = found.or_else(|| in_other_classes(random, classes, own_class, &mut may_be));
        if found.is_none() {
            self.remember(if all_mapped { &any_remote } else { &reply });
        }
        found.ok_or(DropReason::PortsExhausted)
    }

    /// A pod's flow with this reply tuple has ended: its port rests, and its remote is not
    /// exhausted.
    pub(crate) fn released(&mut self, reply: &Tuple, pod: Ipv4Addr, now: Tick) {
        self.resting.add(self.hasher.tuple(reply), pod, now);
        let remote = Tuple { destination_port: 0, ..*reply };
        if let Some(entry) = self.entry(&remote)
            && *entry == Some(remote)
        {
            *entry = None;
        }
    }

    /// A mapping has ended, which kept its port from every remote: none counts as exhausted now.
    pub(crate) fn forget_exhausted(&mut self) {
        self.exhausted = [None; EXHAUSTED_MAX];
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

/// Every port of a class, each once, in one of 32,768 orders: a random start and stride.
fn in_class(random: &mut Random, class: u8, may_be: &mut dyn FnMut(u16) -> bool) -> Option<u16> {
    let start = random.byte();
    let stride = random.byte() | 1;
    let number = |step: u8| start.wrapping_add(step.wrapping_mul(stride));
    (0..=u8::MAX).map(|step| port_of(class, number(step))).find(|port| may_be(*port))
}

fn in_other_classes(
    random: &mut Random,
    classes: &[u8],
    searched: u8,
    may_be: &mut dyn FnMut(u16) -> bool,
) -> Option<u16> {
    let start = usize::from(random.byte());
    (0..classes.len()).find_map(|step| {
        let place = (start + step) % classes.len();
        let class = classes.get(place).copied().filter(|class| *class != searched)?;
        in_class(random, class, may_be)
    })
}

#[cfg(test)]
mod tests;
