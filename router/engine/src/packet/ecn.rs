//! Explicit congestion notification through the tunnel (RFC 6040). DSCP stays inside: the tunnel's
//! own is 0, and none is taken from it.

use crate::DropReason;

/// The ECN field of the TOS byte.
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The inner TOS byte of a packet that leaves the tunnel, with what the tunnel's ECN field says of
/// congestion on the way (RFC 6040, section 4.2).
///
/// # Errors
/// [`DropReason::EcnCongested`]: dropping is how a sender without ECN is told of congestion.
pub(super) fn decapsulate(outer: u8, inner_tos: u8) -> Result<u8, DropReason> {
    let with = |ecn| Ok(inner_tos & !ECN | ecn);
    match (inner_tos & ECN, outer & ECN) {
        (NOT_ECT, CE) => Err(DropReason::EcnCongested),
        (NOT_ECT | CE, _) => Ok(inner_tos),
        (_, CE) => with(CE),
        (ECT_0, ECT_1) => with(ECT_1),
        _ => Ok(inner_tos),
    }
}

/// Whether [`decapsulate`] leaves a TOS byte as it is, for any of the usual reasons: the tunnel has
/// no ECN field of its own, or still that of the packet.
#[inline]
pub(super) fn is_unchanged(outer: u8, inner_tos: u8) -> bool {
    outer == NOT_ECT || outer == inner_tos & ECN
}

/// The outer TOS byte of a packet that enters the tunnel: its own ECN field (RFC 6040, section
/// 4.1, normal mode).
pub(crate) fn encapsulate(inner_tos: u8) -> u8 {
    inner_tos & ECN
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040, figure 4: by the inner field, then by the outer one.
    #[test]
    fn decapsulation_is_that_of_the_rfc() {
        let fields = [NOT_ECT, ECT_0, ECT_1, CE];
        let expected = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(CE), Some(CE), Some(CE), Some(CE)],
        ];
        for (inner, row) in fields.iter().zip(expected) {
            for (outer, field) in fields.iter().zip(row) {
                let dscp = 0b1010_1000;
                let expected = field.map(|ecn| dscp | ecn).ok_or(DropReason::EcnCongested);
                assert_eq!(decapsulate(*outer, dscp | inner), expected, "{inner} in {outer}");
            }
        }
    }
}
