//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::{Ipv4Addr, Ipv6Addr};

/// What changed in a packet, as its checksums see it: the one's complement sum of `!old + new`
/// over the changed 16-bit words.
///
/// RFC 1624, equation 3: `HC' = !(!HC + !m + m')`. It has the byte order of packets, so that none is
/// swapped when it is applied (RFC 1071, section 2B).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta(u16);

impl Delta {
    /// Nothing changed.
    pub(crate) const NONE: Self = Self(0);

    /// One was taken from the time to live, the high byte of its word:
    /// `!m + (m - 0x0100)` is the same for every `m`.
    pub(crate) const TTL_DECREMENT: Self = Self(0xfeff_u16.to_be());

    /// A word changed from `old` to `new`.
    #[inline]
    pub(crate) const fn word(old: u16, new: u16) -> Self {
        Self(add(!old, new).to_be())
    }

    /// A word changed from 0 to `new`.
    #[inline]
    pub(crate) const fn added(new: u16) -> Self {
        Self(new.to_be())
    }

    /// An address changed from `old` to `new`.
    pub(crate) const fn address(old: Ipv4Addr, new: Ipv4Addr) -> Self {
        let (old, new) = (!old.to_bits(), new.to_bits());
        Self(fold((old >> 16) + (old & 0xffff) + (new >> 16) + (new & 0xffff)).to_be())
    }

    /// The same of IPv6.
    pub(crate) fn address_ipv6(old: Ipv6Addr, new: Ipv6Addr) -> Self {
        let words = old.segments().into_iter().map(|word| !word).chain(new.segments());
        Self(fold(words.map(u32::from).sum()).to_be())
    }

    /// Both changes.
    #[inline]
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// The change back.
    pub(crate) const fn reversed(self) -> Self {
        Self(!self.0)
    }

    /// The checksum after the change.
    #[inline]
    pub(crate) const fn apply(self, checksum: u16) -> u16 {
        u16::from_be(sub(checksum.to_be(), self.0))
    }

    /// The UDP checksum after the change: 0 means that there is none and stays; a computed 0 is
    /// written as 0xffff (RFC 768).
    #[inline]
    pub(crate) const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            other => other,
        }
    }
}

/// The internet checksum of `bytes`; 0 over bytes that contain their own correct checksum.
#[inline]
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    // The order of bytes does not matter, nor that two words are added as one (RFC 1071, section 2).
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    sum += u64::from(u32::from_ne_bytes(last));
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    #[expect(clippy::cast_possible_truncation, reason = "after two rounds it fits 32 bits")]
    let sum = sum as u32;
    u16::from_be(!fold(sum))
}

/// The checksum of what IPv6 carries, which covers a pseudo-header (RFC 8200, section 8.1).
pub(crate) fn checksum_with_pseudo_header(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    message: &[u8],
) -> u16 {
    let mut header = [0; 40];
    header[..16].copy_from_slice(&source.octets());
    header[16..32].copy_from_slice(&destination.octets());
    // No packet is longer than 32 bits say.
    header[32..36].copy_from_slice(&u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
    header[39] = protocol;
    !add(!checksum(&header), !checksum(message))
}

/// The one's complement sum of two words.
#[inline]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(carry as u16)
}

/// The one's complement difference of two words: `!add(!a, b)`.
#[inline]
const fn sub(a: u16, b: u16) -> u16 {
    let (difference, borrow) = a.overflowing_sub(b);
    difference.wrapping_sub(borrow as u16)
}

/// Adds the carries back in until 16 bits are left.
#[expect(clippy::cast_possible_truncation, reason = "after two rounds no more than 16 are left")]
const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_gives_zero_and_not_its_complement() {
        assert_eq!(Delta::word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn a_udp_checksum_of_zero_stays_and_a_computed_zero_becomes_ffff() {
        assert_eq!(Delta::word(1, 2).apply_udp(0), 0);
        assert_eq!(Delta::word(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }

    /// Every new word in the place of some old ones, and every time to live with every protocol.
    #[test]
    fn every_word_may_change() {
        let packet = |word: u16| [[0x45, 0x00], word.to_be_bytes()].concat();
        for old in [0x0000, 0x0001, 0x00ff, 0x0100, 0x7fff, 0x8000, 0xba00, 0xbaff, 0xfffe, 0xffff]
        {
            let before = checksum(&packet(old));
            for new in 0..=u16::MAX {
                let delta = Delta::word(old, new);
                assert_eq!(delta.apply(before), checksum(&packet(new)), "{old:#x} to {new:#x}");
            }
        }
        for word in 0x0100..=u16::MAX {
            let decremented = Delta::TTL_DECREMENT.apply(checksum(&packet(word)));
            assert_eq!(decremented, checksum(&packet(word - 0x0100)), "{word:#x}");
        }
    }

    proptest! {
        #[test]
        fn an_incremental_update_equals_a_full_sum(
            mut bytes in prop::collection::vec(any::<u8>(), 6..200),
            new: u32,
            at in 0..100_usize,
        ) {
            // A sum over nothing but zeros has no second representation to agree on.
            bytes.extend([0x45, 0x00]);
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
            let at = (at * 2) % (bytes.len() - 4);
            let place: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            let before = checksum(&bytes);
            bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
            let delta = Delta::address(Ipv4Addr::from(place), Ipv4Addr::from_bits(new));
            prop_assert_eq!(delta.apply(before), checksum(&bytes));
        }

        #[test]
        fn many_changes_of_a_packet_equal_a_full_sum(
            mut words in prop::collection::vec(any::<u16>(), 10..100),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u16>()), 1..12),
        ) {
            // As above.
            words.push(0x4500);
            let full = |words: &[u16]| {
                checksum(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>())
            };
            let before = full(&words);
            let mut delta = Delta::NONE;
            for (at, new) in changes {
                // The last word stays, so that not all are zeros. A word may change twice.
                let at = at.index(words.len() - 1);
                delta = delta.plus(Delta::word(words[at], new));
                words[at] = new;
            }
            prop_assert_eq!(delta.apply(before), full(&words));
            // UDP writes 0xffff for 0, and the receiver takes both for the same.
            let of_udp = |sum: u16| if sum == 0 { 0xffff } else { sum };
            prop_assert_eq!(delta.apply_udp(of_udp(before)), of_udp(full(&words)));
        }

        #[test]
        fn deltas_add_up(a: u16, b: u16, c: u16, d: u16, checksum in 0..0xffff_u16) {
            let both = Delta::word(a, b).plus(Delta::word(c, d));
            let one_by_one = Delta::word(c, d).apply(Delta::word(a, b).apply(checksum));
            prop_assert_eq!(both.apply(checksum), one_by_one);
        }
    }
}
