//! Cutting an IPv4 packet that is too large for its way into fragments (RFC 791, section 2.3): when it has
//! been translated, and is a frame that is ready to be sent but for its size. And making it IPv6, where
//! its pod has no IPv4: that takes more room in front than a frame has.

use crate::checksum::checksum;
use crate::encap;
use crate::nat64::{SHORTER, ToIpv6};
use crate::steer::TUNNEL_IP_OFFSET;
use crate::tables::Tables;

const HEADER: usize = 20;
const RESERVED: u8 = 0x80;
const MORE_FRAGMENTS: u8 = 0x20;
const OFFSET: u16 = 0x1fff;

/// How a frame is cut, or made one of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragments {
    /// Where the packet starts in the frame, and in each fragment's.
    pub(crate) ip_offset: usize,
    /// The largest IPv4 packet that fits, in bytes; at least 68 (RFC 791, section 3.2).
    pub(crate) mtu: u16,
    /// Whether it becomes IPv6, whole or cut (RFC 7915).
    pub(crate) to_ipv6: bool,
}

impl Fragments {
    /// How many there are of a frame, by the tables that it was processed with.
    #[must_use]
    pub fn count(&self, tables: &Tables, frame: &[u8]) -> usize {
        if self.to_ipv6 {
            return self.ipv6(tables, frame).map_or(0, |packet| packet.count());
        }
        let header = frame.get(self.ip_offset..).and_then(|packet| packet.first_chunk::<HEADER>());
        let total = header.map_or(0, |header| u16::from_be_bytes([header[2], header[3]]));
        let payload = usize::from(total).saturating_sub(HEADER);
        payload.div_ceil(self.step().max(1))
    }

    /// Bytes of payload in each fragment but the last: whole numbers of 8.
    fn step(&self) -> usize {
        usize::from(self.mtu).saturating_sub(HEADER) & !7
    }

    /// The packet in a frame, as it becomes IPv6.
    fn ipv6<'a>(&self, tables: &'a Tables, frame: &'a [u8]) -> Option<ToIpv6<'a>> {
        let mtu = self.mtu.saturating_add(SHORTER);
        ToIpv6::new(tables.nat64.as_ref()?, frame.get(self.ip_offset..)?, mtu)
    }

    /// Writes the frame of one of them, counted from 0, into `out`; gives its length. `None` after
    /// the last one, and when `out` is too small for it.
    pub fn write(
        &self,
        tables: &Tables,
        frame: &[u8],
        number: usize,
        out: &mut [u8],
    ) -> Option<u16> {
        if self.to_ipv6 {
            return self.write_ipv6(tables, frame, number, out);
        }
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

    /// The same of what becomes IPv6: always a reply.
    fn write_ipv6(
        &self,
        tables: &Tables,
        frame: &[u8],
        number: usize,
        out: &mut [u8],
    ) -> Option<u16> {
        let head = frame.get(..self.ip_offset)?;
        let (out_head, out_packet) = out.split_at_mut_checked(self.ip_offset)?;
        let length = self.ipv6(tables, frame)?.write(number, out_packet)?;
        out_head.copy_from_slice(head);
        let frame_length = self.ip_offset + usize::from(length);
        encap::resize(out.get_mut(..frame_length)?, self.ip_offset)?;
        u16::try_from(frame_length).ok()
    }
}
