//! What identifies a flow in one direction, and its keyed hash.

use std::net::IpAddr;

use crate::family::{Address, Family};
use crate::packet::Wire;
use crate::steer::STEER_HEADER_LEN;

/// Addresses, ports and protocol of the packets of a flow in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple<A = IpAddr> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port. Of ICMP echo: the identifier on the pod's and the egress address's side, 0 on
    /// the remote side.
    pub source_port: u16,
    /// Destination port; of ICMP echo as the source port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl<A: Copy> Tuple<A> {
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

    /// The same with other addresses.
    fn with<B>(self, source: B, destination: B) -> Tuple<B> {
        let Self { source_port, destination_port, protocol, .. } = self;
        Tuple { source, destination, source_port, destination_port, protocol }
    }
}

impl Tuple {
    /// The same, if it is of a family.
    pub(crate) fn of_family<A: Address>(self) -> Option<Tuple<A>> {
        let source = A::Family::address(self.source)?;
        Some(self.with(source, A::Family::address(self.destination)?))
    }
}

impl<A: Address> Tuple<A> {
    /// Matches no packet: no protocol has the number 0.
    pub(crate) const NONE: Self = Self {
        source: A::Family::UNSPECIFIED,
        destination: A::Family::UNSPECIFIED,
        source_port: 0,
        destination_port: 0,
        protocol: 0,
    };

    /// The same for those who ask for both families.
    pub(crate) fn of_any_family(self) -> Tuple {
        self.with(self.source.into(), self.destination.into())
    }

    /// The same as packets have it.
    #[inline]
    pub(crate) fn key(&self) -> Key<A::Family> {
        let port = |port: u16| u32::from(u16::from_le_bytes(port.to_be_bytes()));
        let addresses = A::Family::pair(self.source, self.destination);
        let ports = port(self.source_port) | port(self.destination_port) << 16;
        Key::of_parts(addresses, ports, self.protocol)
    }
}

/// A tuple as packets have it, in words (two, of IPv6 five): compared and hashed as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key<F: Family> {
    addresses: F::Pair,
    /// The ports, then the protocol.
    rest: u64,
}

impl<F: Family> Key<F> {
    /// Matches no packet.
    pub(crate) const NONE: Self = Self { addresses: F::PAIR_NONE, rest: 0 };

    /// Of the addresses' and the ports' bytes as they stand in a packet, as little-endian numbers.
    #[inline]
    pub(crate) fn of_parts(addresses: F::Pair, ports: u32, protocol: u8) -> Self {
        Self { addresses, rest: u64::from(ports) | u64::from(protocol) << 32 }
    }

    /// Of a packet that comes in fragments from a pod, or from outside: what its fragments have in
    /// common.
    pub(crate) fn of_datagram(
        addresses: F::Pair,
        identification: u32,
        protocol: u8,
        is_forward: bool,
    ) -> Self {
        let rest = u64::from(identification) | u64::from(protocol) << 32;
        Self { addresses, rest: rest | u64::from(is_forward) << 40 }
    }

    /// What [`Key::of_parts`] takes: 13 bytes, of IPv6 37.
    pub(crate) fn parts(&self) -> (F::Pair, u32, u8) {
        let [p0, p1, q0, q1, protocol, ..] = self.rest.to_le_bytes();
        (self.addresses, u32::from_le_bytes([p0, p1, q0, q1]), protocol)
    }

    /// The source port and the destination port.
    #[inline]
    pub(crate) fn ports(&self) -> (u16, u16) {
        let [p0, p1, q0, q1, ..] = self.rest.to_le_bytes();
        (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([q0, q1]))
    }

    /// The protocol number.
    #[inline]
    pub(crate) fn protocol(&self) -> u8 {
        let [_, _, _, _, protocol, ..] = self.rest.to_le_bytes();
        protocol
    }

    /// Taken apart.
    pub(crate) fn tuple(&self) -> Tuple<F::Address> {
        let (source, destination) = F::unpair(self.addresses);
        let (source_port, destination_port) = self.ports();
        Tuple { source, destination, source_port, destination_port, protocol: self.protocol() }
    }
}

/// A keyed hash: whoever does not know the key cannot make tuples collide on purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher {
    key: [u64; 4],
}

impl Hasher {
    pub(crate) const fn new(key: [u64; 4]) -> Self {
        Self { key }
    }

    /// The hash of a tuple: all bits alike.
    #[inline]
    pub(crate) fn tuple<A: Address<Family: Wire>>(&self, tuple: &Tuple<A>) -> u64 {
        self.key(&tuple.key())
    }

    /// The same hash, of the tuple as packets have it.
    #[inline]
    pub(crate) fn key<F: Wire>(&self, key: &Key<F>) -> u64 {
        self.words(F::condensed(key.addresses, self), key.rest)
    }

    /// The hash of an address.
    pub(crate) fn address<A: Address<Family: Wire>>(&self, address: A) -> u64 {
        self.address_with(0, address)
    }

    /// The hash of an address together with a number.
    pub(crate) fn address_with<A: Address<Family: Wire>>(&self, number: u64, address: A) -> u64 {
        let pair = A::Family::pair(address, A::Family::UNSPECIFIED);
        self.words(A::Family::condensed(pair, self), number)
    }

    /// Four words in one.
    #[inline]
    pub(crate) fn condensed(&self, [a, b, c, d]: [u64; 4]) -> u64 {
        let [k0, k1, k2, k3] = self.key;
        fold(a ^ k2, b ^ k0) ^ fold(c ^ k3, d ^ k1).rotate_left(32)
    }

    /// What a steer header says of the way back (all but its first byte), in 32 bits.
    #[inline]
    pub(crate) fn way_back(&self, header: &[u8; STEER_HEADER_LEN]) -> u32 {
        // Two loads, which overlap.
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let (first, second) = (word(&header[1..9]), word(&header[6..14]));
        let [k0, k1, ..] = self.key;
        (first.wrapping_mul(k0 | 1).wrapping_add(second.wrapping_mul(k1 | 1)) >> 32) as u32
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
    use std::net::Ipv4Addr;

    use super::*;

    fn tuple(low: u16) -> Tuple<Ipv4Addr> {
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
        let hasher = Hasher::new([0x1319_8a2e_0370_7344, 0x243f_6a88_85a3_08d3, 0, 0]);
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
