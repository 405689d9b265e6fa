//! What follows the IPv4 header: TCP (RFC 9293), UDP (RFC 768), ICMP. Further protocols, such as
//! SCTP, find their place here.

use super::ipv4::{ICMP, Ipv4Header, TCP, UDP};
use super::{Direction, icmp};
use crate::DropReason;
use crate::flow::Tuple;

/// The part of a packet that is translated with its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp(Segment),
    Udp,
    /// An ICMP echo request of a pod or a reply to one.
    Echo,
    /// An ICMP error that quotes a packet of the flow.
    Error,
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

    /// Whether the segment opens a connection: SYN, and neither ACK, RST nor FIN.
    pub(crate) fn opens(self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// Checks the transport header; gives its kind and the tuple of the flow that it belongs to.
pub(super) fn parse(
    direction: Direction,
    header: &Ipv4Header,
    payload: &[u8],
) -> Result<(Transport, Tuple), DropReason> {
    let (transport, source_port, destination_port) = match header.protocol {
        TCP => tcp(payload)?,
        UDP => udp(payload)?,
        ICMP => return icmp::parse(direction, header, payload),
        _ => return Err(DropReason::UnsupportedProtocol),
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
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, _, flags, ..] = *header;
    let segment = Segment {
        flags,
        sequence: u32::from_be_bytes([q0, q1, q2, q3]),
        acknowledgment: u32::from_be_bytes([a0, a1, a2, a3]),
    };
    let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    Ok((Transport::Tcp(segment), ports.0, ports.1))
}

fn udp(payload: &[u8]) -> Result<(Transport, u16, u16), DropReason> {
    let header = payload.first_chunk::<8>().ok_or(DropReason::BadTransport)?;
    let [s0, s1, d0, d1, l0, l1, ..] = *header;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if length < header.len() || length > payload.len() {
        return Err(DropReason::BadTransport);
    }
    Ok((Transport::Udp, u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}
