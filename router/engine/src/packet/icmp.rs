//! ICMP (RFC 792): echo, and errors with the packet that they quote (RFC 5508).

use std::net::Ipv4Addr;

use super::ipv4::{ICMP, Ipv4Header, SCTP, TCP, UDP};
use super::{Direction, Transport};
use crate::DropReason;
use crate::checksum::checksum;
use crate::flow::Tuple;

/// The protocol number of a flow of echoes.
pub(crate) const ECHO_PROTOCOL: u8 = ICMP;

/// Where the quoted IPv4 header starts in an ICMP error, in bytes.
pub(crate) const QUOTED_IP: usize = 8;

const ECHO_REPLY: u8 = 0;
pub(crate) const DESTINATION_UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
pub(crate) const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// Checks an ICMP message; gives its kind and the tuple of its flow.
///
/// Pods ask and the outside answers: an echo in the other direction is nobody's flow. The
/// identifier is the port on our side, the remote side's port is 0.
pub(super) fn parse(
    direction: Direction,
    header: &Ipv4Header,
    message: &[u8],
) -> Result<(Transport, Tuple), DropReason> {
    let head = message.first_chunk::<8>().ok_or(DropReason::BadTransport)?;
    let identifier = u16::from_be_bytes([head[4], head[5]]);
    let (source_port, destination_port) = match (direction, head[0], head[1]) {
        (Direction::Forward, ECHO_REQUEST, 0) => (identifier, 0),
        (Direction::Reply, ECHO_REPLY, 0) => (0, identifier),
        (_, DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM, _) => {
            if header.fragment.is_some() {
                // Its checksum covers what is not here.
                return Err(DropReason::UnsupportedFragment);
            }
            return error(direction, header, message);
        }
        _ => return Err(DropReason::UnsupportedIcmp),
    };
    let tuple = Tuple {
        source: header.source,
        destination: header.destination,
        source_port,
        destination_port,
        protocol: ECHO_PROTOCOL,
    };
    Ok((Transport::Echo, tuple))
}

/// Checks an ICMP error. It quotes a packet that went the other way, and is sent to its source.
fn error(
    direction: Direction,
    header: &Ipv4Header,
    message: &[u8],
) -> Result<(Transport, Tuple), DropReason> {
    if checksum(message) != 0 {
        return Err(DropReason::BadIcmpChecksum);
    }
    let quote = message.get(QUOTED_IP..).ok_or(DropReason::BadQuote)?;
    let quoted = quoted_tuple(direction, quote).ok_or(DropReason::BadQuote)?;
    // A router may report on a packet of ours; on one that a pod got, only the pod.
    let sent_to_its_source = header.destination == quoted.source;
    let sent_by_the_pod = header.source == quoted.destination;
    if !sent_to_its_source || (direction == Direction::Forward && !sent_by_the_pod) {
        return Err(DropReason::BadQuote);
    }
    Ok((Transport::Error, quoted.reversed()))
}

/// The tuple of a quoted packet. Its header checksum is not held against it: routers quote what
/// they have already changed.
fn quoted_tuple(direction: Direction, quote: &[u8]) -> Option<Tuple> {
    let (header, transport) = quote.split_first_chunk::<20>()?;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    // No translated packet has options, and only a first fragment has ports.
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[0] != 0x45 || later_fragment {
        return None;
    }
    let [p0, p1, p2, p3, i0, i1, ..] = *transport.first_chunk::<8>()?;
    let identifier = u16::from_be_bytes([i0, i1]);
    let (source_port, destination_port) = match (header[9], direction, p0) {
        (TCP | UDP | SCTP, ..) => (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([p2, p3])),
        // From outside about a pod's request, or from a pod about the reply that it got.
        (ICMP, Direction::Reply, ECHO_REQUEST) => (identifier, 0),
        (ICMP, Direction::Forward, ECHO_REPLY) => (0, identifier),
        // No protocol has the number 0: the table's empty slots have it.
        (ICMP | 0, ..) => return None,
        // Without ports; where the flow is none, there is no such protocol.
        _ => (0, 0),
    };
    Some(Tuple {
        source: Ipv4Addr::new(s0, s1, s2, s3),
        destination: Ipv4Addr::new(d0, d1, d2, d3),
        source_port,
        destination_port,
        protocol: header[9],
    })
}
