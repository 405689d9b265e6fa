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

/// What one worker gives out: each worker has every so many-th number.
#[derive(Debug)]
pub(crate) struct Identifications {
    given: [u16; PLACES],
    worker: u16,
    workers: u16,
}

impl Identifications {
    pub(crate) fn new(worker: u8, owners: &[u8; CLASSES]) -> Self {
        let last = owners.iter().copied().max().unwrap_or_default().max(worker);
        Self { given: [0; PLACES], worker: worker.into(), workers: u16::from(last) + 1 }
    }

    /// Gives the IPv4 packet that starts `bytes`, and leaves as `egress`, a new one if it may be
    /// fragmented.
    #[inline]
    pub(crate) fn renew(
        &mut self,
        bytes: &mut [u8],
        packet: &Packet,
        hasher: &Hasher,
        egress: Ipv4Addr,
    ) {
        if packet.dont_fragment {
            return;
        }
        let of = Tuple { source: egress, source_port: 0, destination_port: 0, ..packet.tuple };
        let [.., place] = hasher.tuple(&of).to_be_bytes();
        let (Some(given), Some(header)) =
            (self.given.get_mut(usize::from(place)), bytes.first_chunk_mut::<20>())
        else {
            return;
        };
        *given = given.wrapping_add(1);
        let new = given.wrapping_mul(self.workers).wrapping_add(self.worker);
        let delta = Delta::word(u16::from_be_bytes([header[4], header[5]]), new);
        let checksum = delta.apply(u16::from_be_bytes([header[10], header[11]]));
        header[4..6].copy_from_slice(&new.to_be_bytes());
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}
