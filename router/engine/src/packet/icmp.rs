//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and errors with the packet that they quote (RFC 5508).

use super::wire::{IpHeader, SCTP, TCP, UDP, Wire};
use super::{Direction, Transport};
use crate::DropReason;
use crate::flow::Tuple;

/// Where the quoted IP header starts in an ICMP error, in bytes.
pub(crate) const QUOTED_IP: usize = 8;

/// Checks an ICMP message; gives its kind and the tuple of its flow.
///
/// Pods ask and the outside answers: an echo in the other direction is nobody's flow. The
/// identifier is the port on our side, the remote side's port is 0.
pub(super) fn parse<F: Wire>(
    direction: Direction,
    header: &IpHeader<F>,
    message: &[u8],
) -> Result<(Transport, Tuple<F::Address>), DropReason> {
    let head = message.first_chunk::<8>().ok_or(DropReason::BadTransport)?;
    let identifier = u16::from_be_bytes([head[4], head[5]]);
    let (source_port, destination_port) = match (direction, head[0], head[1]) {
        (Direction::Forward, kind, 0) if kind == F::ECHO_REQUEST => (identifier, 0),
        (Direction::Reply, kind, 0) if kind == F::ECHO_REPLY => (0, identifier),
        (_, kind, _) if F::is_error(kind) => {
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
        protocol: F::ICMP,
    };
    Ok((Transport::Echo, tuple))
}

/// Checks an ICMP error. It quotes a packet that went the other way, and is sent to its source.
fn error<F: Wire>(
    direction: Direction,
    header: &IpHeader<F>,
    message: &[u8],
) -> Result<(Transport, Tuple<F::Address>), DropReason> {
    if F::icmp_checksum(header.source, header.destination, message) != 0 {
        return Err(DropReason::BadIcmpChecksum);
    }
    let quote = message.get(QUOTED_IP..).ok_or(DropReason::BadQuote)?;
    let quoted = quoted_tuple::<F>(direction, quote).ok_or(DropReason::BadQuote)?;
    // A router may report on a packet of ours; on one that a pod got, only the pod.
    let sent_to_its_source = header.destination == quoted.source;
    let sent_by_the_pod = header.source == quoted.destination;
    if !sent_to_its_source || (direction == Direction::Forward && !sent_by_the_pod) {
        return Err(DropReason::BadQuote);
    }
    Ok((Transport::Error, quoted.reversed()))
}

/// The tuple of a quoted packet.
fn quoted_tuple<F: Wire>(direction: Direction, quote: &[u8]) -> Option<Tuple<F::Address>> {
    let (quoted, transport) = F::quoted(quote)?;
    let [p0, p1, p2, p3, i0, i1, ..] = *transport.first_chunk::<8>()?;
    let identifier = u16::from_be_bytes([i0, i1]);
    let (source_port, destination_port) = match (quoted.protocol, direction) {
        (TCP | UDP | SCTP, _) => (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([p2, p3])),
        // From outside about a pod's request, or from a pod about the reply that it got.
        (icmp, Direction::Reply) if icmp == F::ICMP && p0 == F::ECHO_REQUEST => (identifier, 0),
        (icmp, Direction::Forward) if icmp == F::ICMP && p0 == F::ECHO_REPLY => (0, identifier),
        // No protocol has the number 0: the table's empty slots have it.
        (other, _) if other == F::ICMP || other == 0 => return None,
        // Without ports; where the flow is none, there is no such protocol.
        _ => (0, 0),
    };
    Some(Tuple {
        source: quoted.source,
        destination: quoted.destination,
        source_port,
        destination_port,
        protocol: quoted.protocol,
    })
}
