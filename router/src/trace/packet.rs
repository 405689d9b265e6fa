//! The packet that an operator describes, and the frame that would bring it. Pure.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use etherparse::{
    IpHeaders, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder,
    PacketBuilderStep,
};
use ipnet::Ipv4Net;
use spillway_api::{
    Document, IpFamily, TRACE_BYTES, TRACE_BYTES_MAX, TRACE_POD_PORT, TRACE_REMOTE_PORT,
    TraceProtocol, TraceRequest,
};

use crate::mtu::overhead;

/// Any port: nobody looks at the outer source port.
const OUTER_PORT: u16 = 49_152;

/// What is left of a time to live of 64 when a node has forwarded the packet.
const HOP_LIMIT: u8 = 63;

/// Link addresses that nobody has; no decision depends on them.
const LINK_ADDRESSES: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// A VXLAN header (RFC 7348, section 5) of network 1; which one does not matter.
const VXLAN: [u8; 8] = [8, 0, 0, 0, 0, 0, 1, 0];

/// How a packet comes to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// From a peer to one of our tunnel addresses.
    Tunnel { peer: IpAddr, tunnel: IpAddr },
    /// Plain, to an egress address.
    Outside,
}

impl Arrival {
    /// Bytes that come around an IP packet.
    pub(super) fn overhead(self) -> u32 {
        match self {
            Self::Tunnel { tunnel, .. } => overhead(IpFamily::of(tunnel)),
            Self::Outside => 0,
        }
    }

    /// The same, in words.
    pub(super) fn with_overhead(self) -> String {
        match self {
            Self::Tunnel { .. } => format!(", {} of them the tunnel's,", self.overhead()),
            Self::Outside => String::new(),
        }
    }
}

/// Where in its conversation a packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The first one.
    Opens,
    /// A later one; of an echo, the answer.
    GoesOn,
}

/// A packet with nothing left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) protocol: TraceProtocol,
    pub(super) turn: Turn,
    /// The whole IP packet, in bytes.
    pub(super) size: u16,
    pub(super) may_fragment: bool,
    pub(super) arrival: Arrival,
}

impl Packet {
    /// What is asked for, as far as it is said, under a document. `None`: the document has no tunnel that
    /// a pod's packet could come through.
    ///
    /// # Errors
    /// When there is no such packet.
    pub(super) fn new(document: &Document, asked: &TraceRequest) -> anyhow::Result<Option<Self>> {
        let TraceRequest { from, protocol, from_port, to_port, may_fragment, .. } = *asked;
        let to = as_written(document, asked);
        ensure!(
            IpFamily::of(from) == IpFamily::of(to),
            "there is no packet from {from} to {to}: their families differ"
        );
        let size = asked.size.unwrap_or(TRACE_BYTES);
        let least = headers(IpFamily::of(from), protocol);
        ensure!(
            (least..=TRACE_BYTES_MAX).contains(&size),
            "the packet cannot have {size} bytes: expected {least} to {TRACE_BYTES_MAX}"
        );
        let packet = |source_port, destination_port, turn, arrival| Self {
            source: SocketAddr::new(from, source_port),
            destination: SocketAddr::new(to, destination_port),
            protocol,
            turn,
            size,
            may_fragment,
            arrival,
        };
        if is_reply(document, asked) {
            let turn = match (protocol, to_port) {
                (TraceProtocol::Icmp, None) => Turn::Opens,
                (_, None) => bail!("say the port of {to} that the packet goes to: --to {to}:PORT"),
                (_, Some(_)) => Turn::GoesOn,
            };
            let from_port = from_port.unwrap_or(TRACE_REMOTE_PORT);
            return Ok(Some(packet(from_port, to_port.unwrap_or(0), turn, Arrival::Outside)));
        }
        let ports = (from_port.unwrap_or(TRACE_POD_PORT), to_port.unwrap_or(TRACE_REMOTE_PORT));
        let arrival = tunnel_of(document, asked.peer)?;
        Ok(arrival.map(|arrival| packet(ports.0, ports.1, Turn::Opens, arrival)))
    }

    /// The same packet later in its conversation, from this peer.
    pub(super) fn of_flow(self, document: &Document, peer: IpAddr) -> Self {
        let known = tunnel_of(document, Some(peer)).ok().flatten();
        let is_echo = self.protocol == TraceProtocol::Icmp;
        let turn = if is_echo { self.turn } else { Turn::GoesOn };
        Self { turn, arrival: known.unwrap_or(self.arrival), ..self }
    }

    /// The frame that brings it, the Ethernet header first.
    ///
    /// # Errors
    /// When there is no such packet.
    pub(super) fn frame(&self, tunnel_port: u16) -> anyhow::Result<Vec<u8>> {
        let inner = self.inner().context("there is no such packet")?;
        let Arrival::Tunnel { peer, tunnel } = self.arrival else { return Ok(inner) };
        let payload = [&VXLAN[..], &inner].concat();
        let mut frame = Vec::new();
        ip(peer, tunnel, true)?.udp(OUTER_PORT, tunnel_port).write(&mut frame, &payload)?;
        Ok(frame)
    }

    /// The packet itself, behind an Ethernet header.
    fn inner(&self) -> anyhow::Result<Vec<u8>> {
        let Self { source, destination, protocol, turn, size, .. } = *self;
        let family = IpFamily::of(source.ip());
        let payload = vec![0; usize::from(size.saturating_sub(headers(family, protocol)))];
        let (from_port, to_port) = (source.port(), destination.port());
        let step = ip(source.ip(), destination.ip(), self.may_fragment)?;
        let mut frame = Vec::new();
        match (protocol, family, turn) {
            (TraceProtocol::Udp, ..) => step.udp(from_port, to_port).write(&mut frame, &payload),
            (TraceProtocol::Tcp, _, Turn::Opens) => {
                step.tcp(from_port, to_port, 1, u16::MAX).syn().write(&mut frame, &payload)
            }
            (TraceProtocol::Tcp, _, Turn::GoesOn) => {
                step.tcp(from_port, to_port, 1, u16::MAX).ack(1).write(&mut frame, &payload)
            }
            (TraceProtocol::Icmp, IpFamily::V4, Turn::Opens) => {
                step.icmpv4_echo_request(from_port, 1).write(&mut frame, &payload)
            }
            (TraceProtocol::Icmp, IpFamily::V4, Turn::GoesOn) => {
                step.icmpv4_echo_reply(to_port, 1).write(&mut frame, &payload)
            }
            (TraceProtocol::Icmp, IpFamily::V6, Turn::Opens) => {
                step.icmpv6_echo_request(from_port, 1).write(&mut frame, &payload)
            }
            (TraceProtocol::Icmp, IpFamily::V6, Turn::GoesOn) => {
                step.icmpv6_echo_reply(to_port, 1).write(&mut frame, &payload)
            }
        }?;
        Ok(frame)
    }

    /// The port or echo identifier that says which worker owns the packet.
    pub(super) fn owner_port(&self) -> u16 {
        match (self.arrival, self.protocol, self.turn) {
            (Arrival::Tunnel { .. }, ..) | (_, TraceProtocol::Icmp, Turn::Opens) => {
                self.source.port()
            }
            (Arrival::Outside, ..) => self.destination.port(),
        }
    }
}

/// The destination as its sender writes it: a pod of IPv6 writes IPv4 ones into the NAT64 prefix.
fn as_written(document: &Document, asked: &TraceRequest) -> IpAddr {
    match (asked.from, asked.to, document.nat64_prefix) {
        (IpAddr::V6(_), IpAddr::V4(to), Some(prefix)) => {
            prefix.embed(Ipv4Net::from(to)).addr().into()
        }
        (_, to, _) => to,
    }
}

/// Whether the packet comes from outside: to an egress address, from nobody who could use the tunnel.
fn is_reply(document: &Document, asked: &TraceRequest) -> bool {
    let is_egress = document.egress_addresses.iter().any(|egress| egress.address == asked.to);
    is_egress && asked.peer.is_none() && !document.pods().any(|pod| pod == asked.from)
}

/// The tunnel of a peer, or of the first one where none is said. One that is not listed comes to our first
/// tunnel address.
///
/// # Errors
/// When the peer can send to none of them.
fn tunnel_of(document: &Document, peer: Option<IpAddr>) -> anyhow::Result<Option<Arrival>> {
    let mut listed = document.tunnels.iter().flat_map(|tunnel| {
        tunnel
            .peers
            .iter()
            .map(|peer| Arrival::Tunnel { peer: peer.address, tunnel: tunnel.address })
    });
    let Some(wanted) = peer else { return Ok(listed.next()) };
    let is_wanted =
        |arrival: &Arrival| matches!(arrival, Arrival::Tunnel { peer, .. } if *peer == wanted);
    if let Some(arrival) = listed.find(is_wanted) {
        return Ok(Some(arrival));
    }
    let Some(tunnel) = document.tunnels.first().map(|tunnel| tunnel.address) else {
        return Ok(None);
    };
    ensure!(
        IpFamily::of(wanted) == IpFamily::of(tunnel),
        "peer {wanted} cannot send to the tunnel address {tunnel}: their families differ"
    );
    Ok(Some(Arrival::Tunnel { peer: wanted, tunnel }))
}

/// Bytes of the headers of a packet: the least that it can have.
const fn headers(family: IpFamily, protocol: TraceProtocol) -> u16 {
    let ip = match family {
        IpFamily::V4 => 20,
        IpFamily::V6 => 40,
    };
    ip + match protocol {
        TraceProtocol::Tcp => 20,
        TraceProtocol::Udp | TraceProtocol::Icmp => 8,
    }
}

/// Ethernet's and IP's headers.
fn ip(
    source: IpAddr,
    destination: IpAddr,
    may_fragment: bool,
) -> anyhow::Result<PacketBuilderStep<IpHeaders>> {
    let header = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => IpHeaders::Ipv4(
            Ipv4Header {
                source: source.octets(),
                destination: destination.octets(),
                time_to_live: HOP_LIMIT,
                dont_fragment: !may_fragment,
                ..Ipv4Header::default()
            },
            Ipv4Extensions::default(),
        ),
        (IpAddr::V6(source), IpAddr::V6(destination)) => IpHeaders::Ipv6(
            Ipv6Header {
                source: source.octets(),
                destination: destination.octets(),
                hop_limit: HOP_LIMIT,
                ..Ipv6Header::default()
            },
            Ipv6Extensions::default(),
        ),
        _ => bail!("there is no packet from {source} to {destination}: their families differ"),
    };
    let [to, from] = LINK_ADDRESSES;
    Ok(PacketBuilder::ethernet2(from, to).ip(header))
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
