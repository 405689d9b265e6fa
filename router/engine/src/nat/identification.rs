//! Identifications of packets that may be fragmented: several pods behind one address must not send
//! the same, or their fragments would be put together (RFC 6864, section 5.3). Of packets that may not
//! be, nobody looks at it; and of IPv6, only fragments have one.

use std::net::Ipv4Addr;

use crate::family::Address;
use crate::flow::{Hasher, Tuple};
use crate::packet::{Packet, Wire, ipv4_addresses, replace_identification};

/// Counters by hash of source, destination and protocol.
const PLACES: usize = 256;

/// What one worker gives out: each worker has every so many-th number, and so have the packets that
/// come in fragments, of which one worker has all. IPv4 has the low half of each.
#[derive(Debug)]
pub(crate) struct Identifications {
    given: [u32; PLACES],
    /// To packets that come in fragments: their egress address is not known yet.
    given_to_fragments: [u32; PLACES],
    worker: u32,
    workers: u32,
    /// A power of two, so that shares have no number in common.
    shares: u32,
}

impl Identifications {
    /// Of one worker of those with numbers up to `last`.
    pub(crate) fn new(worker: u8, last: u8) -> Self {
        Self {
            given: [0; PLACES],
            given_to_fragments: [0; PLACES],
            worker: worker.into(),
            workers: u32::from(last) + 1,
            shares: (u32::from(last) + 2).next_power_of_two(),
        }
    }

    /// A new one for a pod's packet that comes in fragments.
    pub(crate) fn for_fragments<F: Wire>(&mut self, packet: &Packet<F>, hasher: &Hasher) -> u32 {
        let Tuple { destination, .. } = packet.tuple;
        let protocol = F::datagram_protocol(packet.tuple.protocol);
        let of = Tuple { destination, protocol, ..Tuple::NONE };
        next(&mut self.given_to_fragments, hasher.tuple(&of), self.shares, self.workers)
    }

    /// Gives the packet that starts `bytes`, and leaves as `egress`, a new one if it may be
    /// fragmented, and a fragment that of its packet.
    #[inline]
    pub(crate) fn renew<F: Wire>(
        &mut self,
        bytes: &mut [u8],
        packet: &Packet<F>,
        hasher: &Hasher,
        egress: F::Address,
    ) {
        let new = match packet.fragment {
            Some(fragment) => fragment.identification,
            None if packet.dont_fragment => return,
            None => {
                let Tuple { destination, protocol, .. } = packet.tuple;
                self.next(hasher, Tuple { source: egress, destination, protocol, ..Tuple::NONE })
            }
        };
        F::replace_identification(bytes, packet.layout, new);
    }

    /// Gives a new one to a whole IPv4 packet that may be fragmented, and leaves as it stands.
    pub(crate) fn renew_whole(&mut self, header: &mut [u8; 20], hasher: &Hasher) {
        let (source, destination) = ipv4_addresses(header);
        let of = Tuple::<Ipv4Addr> { source, destination, protocol: header[9], ..Tuple::NONE };
        let new = self.next(hasher, of);
        replace_identification(header, new);
    }

    /// The next one of packets between two addresses.
    fn next<A: Address<Family: Wire>>(&mut self, hasher: &Hasher, of: Tuple<A>) -> u32 {
        next(&mut self.given, hasher.tuple(&of), self.shares, self.worker)
    }
}

/// The next number that one of so many shares gives out in the place that a hash chooses. Where it
/// starts is the hash's, and so a secret (RFC 7739).
fn next(given: &mut [u32; PLACES], hash: u64, shares: u32, share: u32) -> u32 {
    let [.., o0, o1, o2, o3, place] = hash.to_be_bytes();
    let Some(given) = given.get_mut(usize::from(place)) else { return share };
    *given = given.wrapping_add(1);
    let offset = u32::from_be_bytes([o0, o1, o2, o3]);
    given.wrapping_add(offset).wrapping_mul(shares).wrapping_add(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_of_two_shares() {
        for workers in [1, 2, 3, 4, 7, 8, 64] {
            let mut owner_of = [None; 1 << 16];
            // Every worker, and what comes in fragments.
            for share in 0..=workers {
                let last = workers_last(workers);
                let shares = Identifications::new(last, last).shares;
                let mut given = [0; PLACES];
                for _ in 0..1 << 16 {
                    // As IPv4 has room for.
                    let number = next(&mut given, 0, shares, share) as usize & 0xffff;
                    assert!(owner_of[number].is_none_or(|owner| owner == share), "{workers}");
                    owner_of[number] = Some(share);
                }
            }
        }
    }

    fn workers_last(workers: u32) -> u8 {
        u8::try_from(workers - 1).unwrap()
    }
}
