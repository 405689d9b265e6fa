//! What ICMP says, in ICMPv6's words and back (RFC 7915, sections 4.2 and 5.2).
//!
//! Of an error this is about its first 8 bytes: type, code, checksum, and four bytes whose meaning
//! depends on the type. What is translated has no checksum yet, and does not say how long the
//! quoted packet is (RFC 4884), as nothing follows it any more.

use super::{MTU_MIN_IPV6, SHORTER};

/// Sizes of packets that some networks carry at most (RFC 1191, section 7), as far as IPv6 has them.
const PLATEAUS: [u16; 7] = [65_535, 32_000, 17_914, 8_166, 4_352, 2_002, 1_492];

/// Where a field of an IPv4 header is in an IPv6 header, by the pointers to it (RFC 7915, figure 3).
const POINTERS_TO_IPV6: [(u8, u8, u8); 7] =
    [(0, 0, 0), (1, 1, 1), (2, 3, 4), (8, 8, 7), (9, 9, 6), (12, 15, 8), (16, 19, 24)];

/// The other way (RFC 7915, figure 6).
const POINTERS_TO_IPV4: [(u8, u8, u8); 7] =
    [(0, 0, 0), (1, 1, 1), (4, 5, 2), (6, 6, 9), (7, 7, 8), (8, 23, 12), (24, 39, 16)];

/// The start of an ICMPv6 error that says what an ICMP error does; `None` when none does.
/// `quoted_length` is what the quoted packet says is its length, in bytes.
pub(crate) fn to_ipv6(icmp: [u8; 8], quoted_length: u16) -> Option<[u8; 8]> {
    let [kind, code, _, _, pointer, _, m0, m1] = icmp;
    let said = |kind, code| Some([kind, code, 0, 0, 0, 0, 0, 0]);
    match (kind, code) {
        (3, 0 | 1 | 5..=8 | 11 | 12) => said(1, 0),
        // An unrecognised next header, where IPv6's header says it.
        (3, 2) => Some([4, 1, 0, 0, 0, 0, 0, 6]),
        (3, 3) => said(1, 4),
        (3, 4) => {
            let mtu = match u16::from_be_bytes([m0, m1]) {
                0 => PLATEAUS.into_iter().find(|plateau| *plateau < quoted_length),
                mtu => Some(mtu),
            };
            let mtu = mtu.unwrap_or_default();
            let [high, low] = mtu.saturating_add(SHORTER).max(MTU_MIN_IPV6).to_be_bytes();
            Some([2, 0, 0, 0, 0, 0, high, low])
        }
        (3, 9 | 10 | 13 | 15) => said(1, 1),
        (11, code) => said(3, code),
        (12, 0 | 2) => Some([4, 0, 0, 0, 0, 0, 0, moved(&POINTERS_TO_IPV6, pointer)?]),
        _ => None,
    }
}

/// The start of an ICMP error that says what an ICMPv6 error does; `None` when none does.
pub(super) fn to_ipv4(icmp: [u8; 8]) -> Option<[u8; 8]> {
    let [kind, code, _, _, word @ ..] = icmp;
    let word = u32::from_be_bytes(word);
    let said = |kind, code| Some([kind, code, 0, 0, 0, 0, 0, 0]);
    match (kind, code) {
        (1, 0 | 2 | 3) => said(3, 1),
        (1, 1) => said(3, 10),
        (1, 4) => said(3, 3),
        (2, _) => {
            let mtu = u16::try_from(word).unwrap_or(u16::MAX).saturating_sub(SHORTER);
            let [high, low] = mtu.to_be_bytes();
            Some([3, 4, 0, 0, 0, 0, high, low])
        }
        (3, code) => said(11, code),
        (4, 0) => {
            let pointer = moved(&POINTERS_TO_IPV4, u8::try_from(word).ok()?)?;
            Some([12, 0, 0, 0, pointer, 0, 0, 0])
        }
        (4, 1) => said(3, 2),
        _ => None,
    }
}

/// Where a field is in the other header.
fn moved(pointers: &[(u8, u8, u8)], pointer: u8) -> Option<u8> {
    let mut found = pointers.iter().filter(|(first, last, _)| (*first..=*last).contains(&pointer));
    found.next().map(|(_, _, to)| *to)
}

/// The bytes of an ICMP error's quote that are of the quoted packet: behind them there may be
/// extensions (RFC 4884), which stay behind. A message that does not say so has none.
pub(super) fn without_extensions_ipv4(icmp: [u8; 8], quote: &[u8]) -> &[u8] {
    let [kind, _, _, _, _, words, _, _] = icmp;
    cut(matches!(kind, 3 | 11 | 12), usize::from(words) * 4, quote)
}

/// The same of ICMPv6.
pub(super) fn without_extensions_ipv6(icmp: [u8; 8], quote: &[u8]) -> &[u8] {
    let [kind, _, _, _, words, _, _, _] = icmp;
    cut(matches!(kind, 1 | 3), usize::from(words) * 8, quote)
}

fn cut(says_length: bool, length: usize, quote: &[u8]) -> &[u8] {
    let says_length = says_length && length > 0;
    quote.get(..length).filter(|_| says_length).unwrap_or(quote)
}

/// The type of an ICMPv6 echo, for that of an ICMP echo.
pub(super) fn echo_to_ipv6(kind: u8) -> Option<u8> {
    match kind {
        8 => Some(128),
        0 => Some(129),
        _ => None,
    }
}

/// The other way.
pub(super) fn echo_to_ipv4(kind: u8) -> Option<u8> {
    match kind {
        128 => Some(8),
        129 => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_ipv6_of(kind: u8, code: u8, rest: [u8; 4]) -> Option<(u8, u8, u32)> {
        let [a, b, c, d] = rest;
        let [kind, code, 0, 0, word @ ..] = to_ipv6([kind, code, 9, 9, a, b, c, d], 1500)? else {
            panic!("it has a checksum");
        };
        Some((kind, code, u32::from_be_bytes(word)))
    }

    fn to_ipv4_of(kind: u8, code: u8, word: u32) -> Option<(u8, u8, [u8; 4])> {
        let [a, b, c, d] = word.to_be_bytes();
        let [kind, code, 0, 0, rest @ ..] = to_ipv4([kind, code, 9, 9, a, b, c, d])? else {
            panic!("it has a checksum");
        };
        Some((kind, code, rest))
    }

    /// RFC 7915, section 4.2: destination unreachable by its code.
    #[test]
    fn what_is_unreachable_in_ipv4_is_so_in_ipv6() {
        let expected = [
            Some((1, 0)),
            Some((1, 0)),
            Some((4, 1)),
            Some((1, 4)),
            Some((2, 0)),
            Some((1, 0)),
            Some((1, 0)),
            Some((1, 0)),
            Some((1, 0)),
            Some((1, 1)),
            Some((1, 1)),
            Some((1, 0)),
            Some((1, 0)),
            Some((1, 1)),
            None,
            Some((1, 1)),
            None,
        ];
        for (code, expected) in (0..).zip(expected) {
            let found = to_ipv6_of(3, code, [0, 77, 5, 120]).map(|(kind, code, _)| (kind, code));
            assert_eq!(found, expected, "code {code}");
        }
        assert_eq!(to_ipv6_of(3, 3, [0, 77, 5, 120]), Some((1, 4, 0)));
        assert_eq!(to_ipv6_of(3, 2, [0; 4]), Some((4, 1, 6)));
    }

    #[test]
    fn what_is_unreachable_in_ipv6_is_so_in_ipv4() {
        let expected =
            [Some((3, 1)), Some((3, 10)), Some((3, 1)), Some((3, 1)), Some((3, 3)), None];
        for (code, expected) in (0..).zip(expected) {
            let found = to_ipv4_of(1, code, 77 << 24);
            assert_eq!(found, expected.map(|(kind, code)| (kind, code, [0; 4])), "code {code}");
        }
        assert_eq!(to_ipv4_of(4, 1, 6), Some((3, 2, [0; 4])));
        assert_eq!(to_ipv4_of(4, 2, 6), None);
        assert_eq!(to_ipv4_of(5, 0, 0), None);
    }

    #[test]
    fn an_mtu_is_that_of_the_other_familys_packet() {
        for (mtu, expected) in [(1400_u16, 1420), (1260, 1280), (576, 1280), (65_530, 65_535)] {
            let [high, low] = mtu.to_be_bytes();
            assert_eq!(to_ipv6_of(3, 4, [0, 0, high, low]), Some((2, 0, expected)));
        }
        for (mtu, expected) in [(1420, 1400_u16), (1280, 1260), (70_000, 65_515)] {
            let [high, low] = expected.to_be_bytes();
            assert_eq!(to_ipv4_of(2, 0, mtu), Some((3, 4, [0, 0, high, low])));
        }
    }

    /// RFC 7915, section 4.2: the plateau below what the packet had.
    #[test]
    fn a_router_that_says_no_mtu_gets_a_likely_one() {
        for (length, expected) in [(1500, 1512), (4_000, 2_022), (1_493, 1_512)] {
            let [.., high, low] = to_ipv6([3, 4, 0, 0, 0, 0, 0, 0], length).unwrap();
            assert_eq!(u16::from_be_bytes([high, low]), expected, "{length}");
        }
        let small = to_ipv6([3, 4, 0, 0, 0, 0, 0, 0], 1_400);
        assert_eq!(small, Some([2, 0, 0, 0, 0, 0, 5, 0]));
    }

    /// RFC 7915, figures 3 and 6.
    #[test]
    fn pointers_point_to_the_same_field() {
        let to_ipv6 = |pointer| to_ipv6_of(12, 0, [pointer, 0, 0, 0]).map(|(.., to)| to);
        for (pointer, expected) in [
            (0, Some(0)),
            (1, Some(1)),
            (2, Some(4)),
            (3, Some(4)),
            (4, None),
            (7, None),
            (8, Some(7)),
            (9, Some(6)),
            (10, None),
            (12, Some(8)),
            (15, Some(8)),
            (16, Some(24)),
            (19, Some(24)),
            (20, None),
        ] {
            assert_eq!(to_ipv6(pointer), expected, "{pointer} of IPv4");
        }
        let to_ipv4 = |pointer| to_ipv4_of(4, 0, pointer).map(|(_, _, [to, ..])| to);
        for (pointer, expected) in [
            (0, Some(0)),
            (1, Some(1)),
            (2, None),
            (4, Some(2)),
            (5, Some(2)),
            (6, Some(9)),
            (7, Some(8)),
            (8, Some(12)),
            (23, Some(12)),
            (24, Some(16)),
            (39, Some(16)),
            (40, None),
            (256, None),
        ] {
            assert_eq!(to_ipv4(pointer), expected, "{pointer} of IPv6");
        }
        assert_eq!(to_ipv6_of(12, 2, [2, 0, 0, 0]), Some((4, 0, 4)));
        assert_eq!(to_ipv6_of(12, 1, [0; 4]), None);
    }

    #[test]
    fn extensions_stay_behind() {
        let quote = [7; 200];
        assert_eq!(without_extensions_ipv4([11, 0, 0, 0, 0, 32, 0, 0], &quote).len(), 128);
        assert_eq!(without_extensions_ipv6([3, 0, 0, 0, 16, 0, 0, 0], &quote).len(), 128);
        // What has none, says more than there is, or has another meaning.
        assert_eq!(without_extensions_ipv4([11, 0, 0, 0, 0, 0, 0, 0], &quote).len(), 200);
        assert_eq!(without_extensions_ipv4([11, 0, 0, 0, 0, 51, 0, 0], &quote).len(), 200);
        assert_eq!(without_extensions_ipv6([2, 0, 0, 0, 16, 0, 5, 0], &quote).len(), 200);
    }
}
