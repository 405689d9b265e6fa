//! What follows the IP headers: TCP (RFC 9293), UDP (RFC 768), ICMP, SCTP (RFC 9260), and protocols
//! that have no ports.

use super::wire::{IpHeader, SCTP, TCP, UDP, Wire};
use super::{Direction, icmp};
use crate::DropReason;
use crate::flow::Tuple;

/// The part of a packet that is translated with its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp(Segment),
    Udp,
    Sctp(Chunk),
    /// Of a protocol without ports, such as GRE and ESP: its address alone is translated.
    Portless,
    /// An ICMP echo request of a pod or a reply to one.
    Echo,
    /// An ICMP error that quotes a packet of the flow.
    Error,
    /// Of a fragment that is not the first: no header at all.
    Later,
}

impl Transport {
    /// Whether this opens a connection, of a protocol that has such.
    pub(crate) fn opens(self) -> bool {
        match self {
            Self::Tcp(segment) => segment.opens(),
            Self::Sctp(chunk) => chunk.opens(),
            Self::Udp | Self::Portless | Self::Echo | Self::Error | Self::Later => false,
        }
    }

    /// Whether this may announce a segment size.
    pub(crate) fn has_syn(self) -> bool {
        matches!(self, Self::Tcp(segment) if segment.flags & Segment::SYN != 0)
    }

    /// Whether a connection may be over with this, if the other side believes it.
    pub(crate) fn may_end_a_connection(self) -> bool {
        match self {
            Self::Tcp(segment) => segment.has_rst(),
            Self::Sctp(chunk) => chunk.ends(),
            Self::Udp | Self::Portless | Self::Echo | Self::Error | Self::Later => false,
        }
    }
}

/// What the state of a connection depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    flags: u8,
    /// The sequence number.
    pub(crate) sequence: u32,
    acknowledgment: u32,
}

impl Segment {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;

    /// Whether a segment with these flags neither opens nor ends a connection, and acknowledges.
    #[inline]
    pub(crate) fn goes_on(flags: u8) -> bool {
        flags & (Self::SYN | Self::FIN | Self::RST | Self::ACK) == Self::ACK
    }

    /// What a header says.
    #[inline]
    pub(crate) fn parse(header: &[u8; 20]) -> Self {
        let [_, _, _, _, q0, q1, q2, q3, a0, a1, a2, a3, _, flags, ..] = *header;
        Self {
            flags,
            sequence: u32::from_be_bytes([q0, q1, q2, q3]),
            acknowledgment: u32::from_be_bytes([a0, a1, a2, a3]),
        }
    }

    pub(crate) fn has_fin(self) -> bool {
        self.flags & Self::FIN != 0
    }

    pub(crate) fn has_rst(self) -> bool {
        self.flags & Self::RST != 0
    }

    /// The next sequence number that the sender expects, if it says one.
    pub(crate) fn acknowledges(self) -> Option<u32> {
        (self.flags & Self::ACK != 0).then_some(self.acknowledgment)
    }

    /// Whether the segment is one of a connection that both sides have opened: ACK, and neither SYN
    /// nor RST (RFC 9293, section 3.10.7.4).
    pub(crate) fn is_under_way(self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST) == Self::ACK
    }

    /// Whether the segment opens a connection: SYN, and neither ACK, RST nor FIN.
    pub(crate) fn opens(self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// What the state of an association depends on: the first chunk of a packet, and the packet's
/// verification tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    kind: u8,
    /// What whoever is not on the path cannot know.
    pub(crate) tag: u32,
    /// Of an INIT: the tag that it wants to see in return.
    pub(crate) initiate_tag: u32,
}

impl Chunk {
    const INIT: u8 = 1;
    const ABORT: u8 = 6;
    const SHUTDOWN_COMPLETE: u8 = 14;

    /// Whether it opens an association.
    pub(crate) fn opens(self) -> bool {
        self.kind == Self::INIT
    }

    /// Whether nothing comes after it.
    pub(crate) fn ends(self) -> bool {
        self.kind == Self::ABORT || self.kind == Self::SHUTDOWN_COMPLETE
    }
}

/// Checks the transport header; gives its kind and the tuple of the flow that it belongs to.
#[inline]
pub(super) fn parse<F: Wire>(
    direction: Direction,
    header: &IpHeader<F>,
    payload: &[u8],
) -> Result<(Transport, Tuple<F::Address>), DropReason> {
    let is_later = header.fragment.is_some_and(|fragment| !fragment.is_first());
    let (transport, source_port, destination_port) = match header.protocol {
        other if F::is_untranslatable(other) => return Err(DropReason::UnsupportedProtocol),
        // Its ports are told by the first one.
        _ if is_later => (Transport::Later, 0, 0),
        TCP => tcp(payload)?,
        UDP => udp::<F>(payload, header.fragment.is_some())?,
        icmp if icmp == F::ICMP => return icmp::parse(direction, header, payload),
        SCTP => sctp(payload)?,
        _ => (Transport::Portless, 0, 0),
    };
    let tuple = Tuple {
        source: header.source,
        destination: header.destination,
        source_port,
        destination_port,
        protocol: header.protocol,
    };
    Ok((transport, tuple))
}

fn tcp(payload: &[u8]) -> Result<(Transport, u16, u16), DropReason> {
    let header = payload.first_chunk::<20>().ok_or(DropReason::BadTransport)?;
    let header_length = usize::from(header[12] >> 4) * 4;
    if header_length < header.len() || header_length > payload.len() {
        return Err(DropReason::BadTransport);
    }
    let [s0, s1, d0, d1, ..] = *header;
    let segment = Segment::parse(header);
    let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    Ok((Transport::Tcp(segment), ports.0, ports.1))
}

/// The length that a UDP header says is that of all fragments together.
fn udp<F: Wire>(payload: &[u8], is_fragment: bool) -> Result<(Transport, u16, u16), DropReason> {
    let header = payload.first_chunk::<8>().ok_or(DropReason::BadTransport)?;
    let [s0, s1, d0, d1, l0, l1, checksum @ ..] = *header;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if length < header.len() || (length > payload.len() && !is_fragment) {
        return Err(DropReason::BadTransport);
    }
    if F::NEEDS_UDP_CHECKSUM && checksum == [0, 0] {
        return Err(DropReason::NoUdpChecksum);
    }
    Ok((Transport::Udp, u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}

fn sctp(payload: &[u8]) -> Result<(Transport, u16, u16), DropReason> {
    let header = payload.first_chunk::<16>().ok_or(DropReason::BadTransport)?;
    let [s0, s1, d0, d1, t0, t1, t2, t3, _, _, _, _, kind, _, _, _] = *header;
    let initiate_tag = match (kind, payload.get(16..20)) {
        (Chunk::INIT, Some(&[i0, i1, i2, i3])) => u32::from_be_bytes([i0, i1, i2, i3]),
        (Chunk::INIT, _) => return Err(DropReason::BadTransport),
        _ => 0,
    };
    let chunk = Chunk { kind, tag: u32::from_be_bytes([t0, t1, t2, t3]), initiate_tag };
    let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    Ok((Transport::Sctp(chunk), ports.0, ports.1))
}
