//! Cutting an IPv4 packet that is too large for its way into fragments (RFC 791, section 2.3): when it has
//! been translated, and is a frame that is ready to be sent but for its size.

use crate::checksum::checksum;
use crate::encap;
use crate::steer::TUNNEL_IP_OFFSET;

const HEADER: usize = 20;
const RESERVED: u8 = 0x80;
const MORE_FRAGMENTS: u8 = 0x20;
const OFFSET: u16 = 0x1fff;

/// How a frame is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragments {
    /// Where the packet starts in the frame, and in each fragment's.
    pub(crate) ip_offset: usize,
    /// The largest IPv4 packet that fits, in bytes; at least 68 (RFC 791, section 3.2).
    pub(crate) mtu: u16,
}

impl Fragments {
    /// How many there are of a frame.
    #[must_use]
    pub fn count(&self, frame: &[u8]) -> usize {
        let header = frame.get(self.ip_offset..).and_then(|packet| packet.first_chunk::<HEADER>());
        let total = header.map_or(0, |header| u16::from_be_bytes([header[2], header[3]]));
        let payload = usize::from(total).saturating_sub(HEADER);
        payload.div_ceil(self.step().max(1))
    }

    /// Bytes of payload in each fragment but the last: whole numbers of 8.
    fn step(&self) -> usize {
        usize::from(self.mtu).saturating_sub(HEADER) & !7
    }

    /// Writes the frame of a fragment, counted from 0, into `out`; gives its length. `None` after
    /// the last one, and when `out` is too small for one of `mtu`.
    pub fn write(&self, frame: &[u8], number: usize, out: &mut [u8]) -> Option<u16> {
        let (head, packet) = frame.split_at_checked(self.ip_offset)?;
        let (header, rest) = packet.split_first_chunk::<HEADER>()?;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let payload = rest.get(..total.checked_sub(HEADER)?)?;

        let step = self.step();
        let start = number.checked_mul(step)?;
        let piece = payload.get(start..)?;
        let piece = piece.get(..step).unwrap_or(piece);
        if piece.is_empty() {
            return None;
        }
        // A fragment can be cut once more.
        let is_last = start + piece.len() == payload.len() && header[6] & MORE_FRAGMENTS == 0;
        let start = start + usize::from(u16::from_be_bytes([header[6], header[7]]) & OFFSET) * 8;
        let length = u16::try_from(HEADER + piece.len()).ok()?;
        let offset = u16::try_from(start / 8).ok()?.to_be_bytes();

        let frame_length = self.ip_offset + usize::from(length);
        let (out_head, out_packet) = out.get_mut(..frame_length)?.split_at_mut(self.ip_offset);
        let (out_header, out_payload) = out_packet.split_first_chunk_mut::<HEADER>()?;
        out_head.copy_from_slice(head);
        out_payload.copy_from_slice(piece);
        *out_header = *header;
        out_header[2..4].copy_from_slice(&length.to_be_bytes());
        out_header[6] = header[6] & RESERVED | offset[0] | if is_last { 0 } else { MORE_FRAGMENTS };
        out_header[7] = offset[1];
        out_header[10..12].fill(0);
        let sum = checksum(out_header);
        out_header[10..12].copy_from_slice(&sum.to_be_bytes());
        if self.ip_offset != TUNNEL_IP_OFFSET {
            encap::resize(out.get_mut(..frame_length)?, self.ip_offset)?;
        }
        u16::try_from(frame_length).ok()
    }
}
