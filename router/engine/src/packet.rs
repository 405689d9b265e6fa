//! Parsing a steered frame: everything is checked here, once. What steering says is believed as
//! little as what the packet says.

mod ecn;
mod extension;
mod icmp;
mod ipv4;
mod ipv6;
mod transport;
mod usual;
mod wire;

use spillway_mem::prefetch;

use crate::DropReason;
use crate::flow::{Hasher, Tuple};
use crate::reassembly::Datagram;
use crate::steer::{
    KIND_REPLY, KIND_TUNNEL, REPLY_IP_OFFSET, STEER_HEADER_LEN, SteerHeader, TUNNEL_IP_OFFSET,
};

pub(crate) use ecn::encapsulate as tunnel_tos;
pub(crate) use extension::{
    Chain, FRAGMENT as EXTENSION_FRAGMENT, FRAGMENT_LEN as EXTENSION_FRAGMENT_LEN, FragmentHeader,
    walk as walk_extensions,
};
pub(crate) use icmp::QUOTED_IP;
pub(crate) use ipv4::{DONT_FRAGMENT, addresses as ipv4_addresses, replace_identification};
pub(crate) use ipv6::is_martian as is_martian_ipv6;
pub(crate) use transport::{Segment, Transport};
pub(crate) use usual::Usual;
pub(crate) use wire::{Fragment, IpHeader, SCTP, TCP, UDP, Wire};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From a pod to the outside.
    Forward,
    /// From the outside to a pod.
    Reply,
}

impl Direction {
    /// Where the IP header starts in a frame, in bytes.
    pub(crate) const fn ip_offset(self) -> usize {
        match self {
            Self::Forward => TUNNEL_IP_OFFSET,
            Self::Reply => REPLY_IP_OFFSET,
        }
    }

    /// How long a forwarded frame is with an IP packet of this length, in bytes: padding behind the
    /// packet is cut off.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the offset is some bytes")]
    pub(crate) fn frame_length(self, ip_length: u16) -> u16 {
        // No device has an MTU that would let it wrap.
        ip_length.wrapping_add(self.ip_offset() as u16)
    }
}

/// A valid packet, as far as forwarding needs to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<F: Wire> {
    pub(crate) direction: Direction,
    pub(crate) steer: SteerHeader,
    pub(crate) transport: Transport,
    /// The tuple by which its direction knows its flow: of an ICMP error, that of the flow whose
    /// packet it quotes.
    pub(crate) tuple: Tuple<F::Address>,
    pub(crate) hash: u64,
    /// What the steer header teaches about the way back, in short.
    pub(crate) way_back: u32,
    /// Of the whole packet, in bytes.
    pub(crate) length: u16,
    /// The TOS byte to forward it with.
    pub(crate) tos: u8,
    /// The time to live, or hop limit, that it came with.
    ttl: u8,
    /// Whether nobody may fragment it.
    pub(crate) dont_fragment: bool,
    /// Of a fragment: where it belongs. Its ports are known after [`Packet::of`] only.
    pub(crate) fragment: Option<Fragment>,
    pub(crate) layout: F::Layout,
}

impl<F: Wire> Packet<F> {
    /// Checks a frame and takes it apart.
    #[inline]
    pub(crate) fn parse(frame: &[u8], hasher: &Hasher) -> Result<Self, DropReason> {
        let packet = Self::parse_any_ttl(frame, hasher);
        match &packet {
            Ok(Self { ttl: 0..=1, .. }) => Err(DropReason::TtlExpired),
            _ => packet,
        }
    }

    /// The same, whether or not the packet may be forwarded any further.
    #[inline]
    pub(crate) fn parse_any_ttl(frame: &[u8], hasher: &Hasher) -> Result<Self, DropReason> {
        let head = frame.first_chunk::<STEER_HEADER_LEN>().ok_or(DropReason::Truncated)?;
        let steer = SteerHeader::parse(head);
        let direction = match steer.kind ^ F::STEER_FAMILY {
            KIND_TUNNEL => Direction::Forward,
            KIND_REPLY => Direction::Reply,
            _ => return Err(DropReason::UnknownKind),
        };
        let (link, packet) =
            frame.split_at_checked(direction.ip_offset()).ok_or(DropReason::Truncated)?;
        // Of a tunnel frame, steering has left no Ethernet header to look at.
        if direction == Direction::Reply && !link.ends_with(&F::ETHERTYPE) {
            return Err(F::OTHER_VERSION);
        }
        let (header, payload) = F::parse(packet)?;
        let (transport, tuple) = transport::parse(direction, &header, payload)?;
        let tos = match direction {
            Direction::Forward => ecn::decapsulate(steer.ecn, header.tos)?,
            Direction::Reply => header.tos,
        };
        Ok(Self {
            direction,
            steer,
            transport,
            tuple,
            hash: hasher.tuple(&tuple),
            way_back: hasher.way_back(head),
            length: header.length,
            tos,
            ttl: header.ttl,
            dont_fragment: header.dont_fragment,
            fragment: header.fragment,
            layout: header.layout,
        })
    }

    /// A fragment, with what is known of its packet.
    pub(crate) fn of(self, datagram: &Datagram, hasher: &Hasher) -> Self {
        let Datagram { source_port, destination_port, protocol, identification } = *datagram;
        let tuple = Tuple { source_port, destination_port, protocol, ..self.tuple };
        let fragment = self.fragment.map(|fragment| Fragment { identification, ..fragment });
        Self { tuple, fragment, hash: hasher.tuple(&tuple), ..self }
    }

    /// The port on our side of the flow, whose class says which worker owns it. Not of a fragment,
    /// before its ports are known: steering gives all of them to the owner of port 0.
    pub(crate) fn owner_port(&self) -> u16 {
        match self.direction {
            Direction::Forward => self.tuple.source_port,
            Direction::Reply => self.tuple.destination_port,
        }
    }

    /// Whether its protocol has no ports, nor anything in their place. Not of a fragment that does not
    /// say what its protocol is.
    pub(crate) fn has_no_ports(&self) -> bool {
        let protocol = self.tuple.protocol;
        let has_ports = matches!(protocol, TCP | UDP | SCTP) || protocol == F::ICMP;
        !has_ports && !F::is_extension(protocol)
    }
}

/// The least unit of memory that is loaded, in bytes.
const CACHE_LINE: usize = 64;

/// Starts to load the bytes that parsing will read.
#[inline]
pub(crate) fn prefetch_headers(frame: &[u8]) {
    if let Some([first, .., second]) = frame.first_chunk::<{ CACHE_LINE + 1 }>() {
        prefetch(first);
        prefetch(second);
    }
}
