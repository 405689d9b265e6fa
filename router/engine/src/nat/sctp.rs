//! SCTP's checksum after a port has changed. It is a CRC32c over the whole packet (RFC 9260, section
//! 6.8), without the addresses. What a change does to it depends on the changed bytes and on how many
//! follow: so a wrong checksum stays wrong, and that of a quoted packet can be mended without the
//! whole packet.

use crc32c::{crc32c, crc32c_append, crc32c_combine};

/// Length of the common header: ports, verification tag, checksum.
pub(super) const HEADER: usize = 12;

/// The common header with its checksum's bytes zero, as the checksum covers it.
fn covered(header: &[u8; HEADER]) -> [u8; HEADER] {
    let [ports_and_tag @ .., _, _, _, _] = *header;
    let [a, b, c, d, e, f, g, h] = ports_and_tag;
    [a, b, c, d, e, f, g, h, 0, 0, 0, 0]
}

/// The checksum field of a packet whose header was `old` and is `new` now, but for the checksum;
/// `rest` is what follows.
pub(super) fn checksum(old: &[u8; HEADER], new: &[u8; HEADER], rest: &[u8]) -> [u8; 4] {
    let sum = |header| crc32c_append(crc32c(&covered(header)), rest);
    changed(old, sum(old) ^ sum(new))
}

/// The same when of what follows only the length is known.
pub(super) fn quoted_checksum(
    old: &[u8; HEADER],
    new: &[u8; HEADER],
    rest_length: usize,
) -> [u8; 4] {
    let difference = crc32c(&covered(old)) ^ crc32c(&covered(new));
    changed(old, crc32c_combine(difference, 0, rest_length))
}

/// The field is in little-endian order (RFC 9260, appendix A).
fn changed(header: &[u8; HEADER], difference: u32) -> [u8; 4] {
    let [.., a, b, c, d] = *header;
    (u32::from_le_bytes([a, b, c, d]) ^ difference).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 9260, appendix A, bit by bit.
    fn crc_bit_by_bit(bytes: impl Iterator<Item = u8>) -> u32 {
        !bytes.fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
            })
        })
    }

    fn whole(header: &[u8; HEADER], rest: &[u8]) -> [u8; 4] {
        crc_bit_by_bit(covered(header).iter().chain(rest).copied()).to_le_bytes()
    }

    proptest! {
        #[test]
        fn a_changed_port_gives_the_checksum_of_the_whole(
            mut old: [u8; HEADER],
            port: [u8; 2],
            rest in prop::collection::vec(any::<u8>(), 0..300),
            fault: [u8; 4],
        ) {
            let mut new = old;
            new[..2].copy_from_slice(&port);
            let right = whole(&old, &rest);
            for (byte, (right, fault)) in old[8..].iter_mut().zip(right.iter().zip(fault)) {
                *byte = right ^ fault;
            }
            let mut expected = whole(&new, &rest);
            expected.iter_mut().zip(fault).for_each(|(byte, fault)| *byte ^= fault);
            prop_assert_eq!(checksum(&old, &new, &rest), expected);
            prop_assert_eq!(quoted_checksum(&old, &new, rest.len()), expected);
        }
    }
}
