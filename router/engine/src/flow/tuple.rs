//! What identifies a flow in one direction, and its keyed hash.

use std::net::Ipv4Addr;

use crate::steer::STEER_HEADER_LEN;

/// Addresses, ports and protocol of the packets of a flow in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Source port. Of ICMP echo: the identifier on the pod's and the egress address's side, 0 on
    /// the remote side.
    pub source_port: u16,
    /// Destination port; of ICMP echo as the source port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// Matches no packet: no protocol has the number 0.
    pub(crate) const NONE: Self = Self {
        source: Ipv4Addr::UNSPECIFIED,
        destination: Ipv4Addr::UNSPECIFIED,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
    };

    /// The same in the other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// Addresses and ports as two words.
    #[inline]
    fn words(&self) -> (u64, u64) {
        let addresses =
            u64::from(self.source.to_bits()) << 32 | u64::from(self.destination.to_bits());
        let ports = u64::from(self.source_port) << 16 | u64::from(self.destination_port);
        (addresses, ports << 32 | u64::from(self.protocol))
    }
}

/// A keyed hash: whoever does not know the key cannot make tuples collide on purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher {
    key: [u64; 4],
}

impl Hasher {
    pub(crate) fn new(key: [u64; 4]) -> Self {
        Self { key }
    }

    /// The hash of a tuple: all bits alike.
    #[inline]
    pub(crate) fn tuple(&self, tuple: &Tuple) -> u64 {
        let (addresses, ports) = tuple.words();
        self.words(addresses, ports)
    }

    /// The hash of an address.
    pub(crate) fn address(&self, address: Ipv4Addr) -> u64 {
        self.words(u64::from(address.to_bits()), 0)
    }

    /// What a steer header says of the way back (all but its first byte), in 32 bits.
    #[inline]
    pub(crate) fn way_back(&self, header: &[u8; STEER_HEADER_LEN]) -> u32 {
        let [_, a, b, c, d, e, f, g, h, rest @ ..] = *header;
        let [i, j, k, l, m] = rest;
        let first = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let second = u64::from_be_bytes([0, 0, 0, i, j, k, l, m]);
        (self.words(first, second) >> 32) as u32
    }

    /// Two rounds of multiply and fold.
    #[inline]
    pub(crate) fn words(&self, first: u64, second: u64) -> u64 {
        let [k0, k1, k2, k3] = self.key;
        fold(fold(first ^ k0, second ^ k1) ^ k2, k3 | 1)
    }
}

/// Both halves of a 128-bit product, folded together.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(low: u16) -> Tuple {
        Tuple {
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(203, 0, 113, 1),
            source_port: low,
            destination_port: 443,
            protocol: 6,
        }
    }

    #[test]
    fn the_key_decides_the_hash() {
        let (one, other) = (Hasher::new([1, 2, 3, 4]), Hasher::new([1, 2, 3, 6]));
        assert_ne!(one.tuple(&tuple(1)), other.tuple(&tuple(1)));
    }

    #[test]
    fn every_byte_of_the_way_back_counts() {
        let hasher = Hasher::new([0x1234_5678_9abc_def0, 7, 0xfedc_ba98_7654_3210, 9]);
        let header = [0x55; STEER_HEADER_LEN];
        for index in 1..STEER_HEADER_LEN {
            let mut other = header;
            other[index] ^= 1;
            assert_ne!(hasher.way_back(&header), hasher.way_back(&other), "byte {index}");
        }
        let mut other = header;
        other[0] ^= 0xc0;
        assert_eq!(hasher.way_back(&header), hasher.way_back(&other), "kind and ECN");
    }

    #[test]
    fn neighbouring_ports_spread_over_all_bits() {
        let hasher = Hasher::new([0x1234_5678_9abc_def0, 7, 0xfedc_ba98_7654_3210, 9]);
        for bit in 0..64 {
            let ones = (0..4096).filter(|low| hasher.tuple(&tuple(*low)) >> bit & 1 == 1).count();
            assert!((1800..2300).contains(&ones), "bit {bit} is set {ones} times of 4096");
        }
    }
}
