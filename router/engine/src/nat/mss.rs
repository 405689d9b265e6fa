//! Clamping the maximum segment size that a SYN announces (RFC 9293, section 3.7.1): where ICMP does
//! not get through, nobody else tells a sender what fits the tunnel.

use crate::checksum::Delta;

/// A TCP header without options: what the payload of IP has on top of a segment (RFC 6691).
const HEADER: u16 = 20;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LENGTH: usize = 4;

/// Lowers the announced size to what fits `room`, an MTU without the IP header. `segment` is a TCP segment with its options; one that
/// announces nothing, or whose options make no sense, stays as it is.
pub(super) fn clamp(segment: &mut [u8], room: u16) {
    let limit = room.saturating_sub(HEADER);
    let Some(at) = announced_at(segment) else { return };
    // The checksum goes by aligned words, which the size need not be.
    let (first, end) = (at & !1, (at + 2).next_multiple_of(2));
    let words = |segment: &[u8]| {
        let mut words = [0; 4];
        words
            .iter_mut()
            .zip(segment.get(first..end).unwrap_or_default())
            .for_each(|(to, from)| *to = *from);
        words.into()
    };
    let old = words(segment);
    let Some(size) = segment.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
        return;
    };
    if u16::from_be_bytes(*size) <= limit {
        return;
    }
    *size = limit.to_be_bytes();
    let delta = Delta::address(old, words(segment));
    if let Some(checksum) = segment.get_mut(16..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *checksum = delta.apply(u16::from_be_bytes(*checksum)).to_be_bytes();
    }
}

/// Where the size stands in the segment.
fn announced_at(segment: &[u8]) -> Option<usize> {
    let end = usize::from(segment.get(12)? >> 4) * 4;
    let mut at = 20;
    while at < end {
        match *segment.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let length = usize::from(*segment.get(at + 1)?);
                if length < 2 || at + length > end {
                    return None;
                }
                if kind == MSS && length == MSS_LENGTH {
                    return Some(at + 2);
                }
                at += length;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::checksum;

    /// A SYN with these options, and its checksum as if there were no pseudo-header.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment.extend(options);
        segment.resize(segment.len().next_multiple_of(4), 0);
        segment[12] = u8::try_from(segment.len() / 4).unwrap() << 4;
        segment[13] = 2;
        let sum = checksum(&segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    #[test]
    fn a_size_that_does_not_fit_is_lowered_wherever_it_stands() {
        for (before, after) in [
            (&[2, 4, 0x05, 0xb4][..], &[2, 4, 0x05, 0x82][..]),
            (&[1, 2, 4, 0x05, 0xb4], &[1, 2, 4, 0x05, 0x82]),
            (&[3, 3, 7, 1, 2, 4, 0x23, 0x28], &[3, 3, 7, 1, 2, 4, 0x05, 0x82]),
            (
                &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 4, 0xff, 0xff],
                &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 4, 0x05, 0x82],
            ),
        ] {
            let mut segment = syn(before);
            clamp(&mut segment, 1430);
            assert_eq!(segment, syn(after), "{before:?}");
            assert_eq!(checksum(&segment), 0);
        }
    }

    #[test]
    fn whatever_announces_nothing_too_large_stays() {
        for options in [
            &[][..],
            &[2, 4, 0x05, 0x82],
            &[0, 0, 2, 4, 0x05, 0xb4],
            &[2, 3, 0x05, 0xb4],
            &[2, 0, 0x05, 0xb4],
            &[8, 200, 2, 4],
            &[1, 1, 1, 2],
        ] {
            let mut segment = syn(options);
            clamp(&mut segment, 1430);
            assert_eq!(segment, syn(options), "{options:?}");
        }
    }
}
