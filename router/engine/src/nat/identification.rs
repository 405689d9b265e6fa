//! Identifications of packets that may be fragmented: several pods behind one address must not send
//! the same, or their fragments would be put together (RFC 6864, section 5.3). Of packets that may not
//! be, nobody looks at it.

use std::net::Ipv4Addr;

use crate::checksum::Delta;
use crate::flow::{Hasher, Tuple};
use crate::packet::Packet;
use crate::steer::CLASSES;

/// Counters by hash of source, destination and protocol.
const PLACES: usize = 256;

/// What one worker gives out: each worker has every so many-th number, and so have the packets that
/// come in fragments, of which one worker has all.
#[derive(Debug)]
pub(crate) struct Identifications {
    given: [u16; PLACES],
    /// To packets that come in fragments: their egress address is not known yet.
    given_to_fragments: [u16; PLACES],
    worker: u16,
    workers: u16,
    /// A power of two, so that shares have no number in common.
    shares: u16,
}

impl Identifications {
    pub(crate) fn new(worker: u8, owners: &[u8; CLASSES]) -> Self {
        let last = owners.iter().copied().max().unwrap_or_default().max(worker);
        Self {
            given: [0; PLACES],
            given_to_fragments: [0; PLACES],
            worker: worker.into(),
            workers: u16::from(last) + 1,
            shares: (u16::from(last) + 2).next_power_of_two(),
        }
    }

    /// A new one for a pod's packet that comes in fragments.
    pub(crate) fn for_fragments(&mut self, packet: &Packet, hasher: &Hasher) -> u16 {
        let Tuple { destination, protocol, .. } = packet.tuple;
        let of = Tuple { destination, protocol, ..Tuple::NONE };
        next(&mut self.given_to_fragments, hasher.tuple(&of), self.shares, self.workers)
    }

    /// Gives the IPv4 packet that starts `bytes`, and leaves as `egress`, a new one if it may be
    /// fragmented, and a fragment that of its packet.
    #[inline]
    pub(crate) fn renew(
        &mut self,
        bytes: &mut [u8],
        packet: &Packet,
        hasher: &Hasher,
        egress: Ipv4Addr,
    ) {
        let new = match packet.fragment {
            Some(fragment) => fragment.identification,
            None if packet.dont_fragment => return,
            None => {
                let Tuple { destination, protocol, .. } = packet.tuple;
                self.next(hasher, egress, destination, protocol)
            }
        };
        if let Some(header) = bytes.first_chunk_mut() {
            replace(header, new);
        }
    }

    /// Gives a new one to a whole packet that may be fragmented, and leaves as it stands.
    pub(crate) fn renew_whole(&mut self, header: &mut [u8; 20], hasher: &Hasher) {
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        let (source, destination) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
        let new = self.next(hasher, source, destination, header[9]);
        replace(header, new);
    }

    /// The next one from `source` to `destination`.
    fn next(
        &mut self,
        hasher: &Hasher,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
    ) -> u16 {
        let of = Tuple { source, destination, protocol, ..Tuple::NONE };
        next(&mut self.given, hasher.tuple(&of), self.shares, self.worker)
    }
}

/// Replaces the identification in a header.
fn replace(header: &mut [u8; 20], new: u16) {
    let delta = Delta::word(u16::from_be_bytes([header[4], header[5]]), new);
    let checksum = delta.apply(u16::from_be_bytes([header[10], header[11]]));
    header[4..6].copy_from_slice(&new.to_be_bytes());
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// The next number that one of so many shares gives out in the place that a hash chooses.
fn next(given: &mut [u16; PLACES], hash: u64, shares: u16, share: u16) -> u16 {
    let [.., place] = hash.to_be_bytes();
    let Some(given) = given.get_mut(usize::from(place)) else { return share };
    *given = given.wrapping_add(1);
    given.wrapping_mul(shares).wrapping_add(share)
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
                let shares = Identifications::new(workers_last(workers), &[0; CLASSES]).shares;
                let mut given = [0; PLACES];
                for _ in 0..1 << 16 {
                    let number = usize::from(next(&mut given, 0, shares, share));
                    assert!(owner_of[number].is_none_or(|owner| owner == share), "{workers}");
                    owner_of[number] = Some(share);
                }
            }
        }
    }

    fn workers_last(workers: u16) -> u8 {
        u8::try_from(workers - 1).unwrap()
    }
}
