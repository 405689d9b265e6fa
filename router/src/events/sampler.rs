//! Which packets a worker tells of, and what a frame says of its packet. Pure.

use std::net::Ipv4Addr;

use etherparse::{IpNumber, LaxIpSlice};
use spillway_engine::steer::{
    KIND_MASK, KIND_NEIGHBOUR, KIND_PING, KIND_REPLY, KIND_TUNNEL, REPLY_IP_OFFSET,
    REPLY_IP_OFFSET_6, STEER_HEADER_LEN, TUNNEL_IP_OFFSET, UNDERLAY_6,
};
use spillway_engine::{DROP_REASONS, DropReason, Nanos, Tuple};

use crate::config::EventsConfig;

const SECOND: Nanos = 1_000_000_000;

/// Types of ICMP's and ICMPv6's echo.
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_6: u8 = 128;
const ECHO_REPLY_6: u8 = 129;

/// Chooses the packets that one worker tells of: so few that forwarding does not suffer.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Of each reason.
    drops_per_second: u16,
    /// 0: none.
    forwarded_one_in: u32,
    /// The second at hand, and how many drops of each reason were chosen in it.
    second: u64,
    chosen: [u16; DROP_REASONS],
    /// Packets until the next forwarded one, itself included.
    until_next: u32,
}

impl Sampler {
    /// Chooses as many as the configuration says.
    pub(crate) fn new(config: &EventsConfig) -> Self {
        let EventsConfig { drops_per_second, forwarded_one_in, .. } = *config;
        Self {
            drops_per_second,
            forwarded_one_in,
            second: 0,
            chosen: [0; DROP_REASONS],
            until_next: forwarded_one_in,
        }
    }

    /// Whether to tell of a drop.
    pub(crate) fn takes_drop(&mut self, now: Nanos, reason: DropReason) -> bool {
        if self.second != now / SECOND {
            self.second = now / SECOND;
            self.chosen.fill(0);
        }
        let Some(chosen) = self.chosen.get_mut(reason as usize) else { return false };
        let takes = *chosen < self.drops_per_second;
        *chosen += u16::from(takes);
        takes
    }

    /// Which one of the next `count` packets to tell of, if it is forwarded; one of them at most.
    pub(crate) fn pick(&mut self, count: usize) -> Option<usize> {
        if self.forwarded_one_in == 0 {
            return None;
        }
        let picked = self.until_next.saturating_sub(1);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if picked >= count {
            self.until_next -= count;
            return None;
        }
        // Where several of them would be due, one is.
        let passed = (count - picked - 1) % self.forwarded_one_in;
        self.until_next = self.forwarded_one_in - passed;
        usize::try_from(picked).ok()
    }
}

/// What a frame says of the packet in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) tuple: Tuple,
    /// The peer's key, if it came through a tunnel.
    pub(crate) peer: Option<Ipv4Addr>,
}

impl Seen {
    /// Of a frame as steering gives it, however wrong the packet is; `None` when it has no addresses.
    /// Ports are 0 where there are none, and in fragments; of an echo there is the identifier, on the side of
    /// who asks.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let first = frame.first()?;
        let (kind, is_over_ipv6) = (first & KIND_MASK, first & UNDERLAY_6 != 0);
        let offset = match kind {
            KIND_TUNNEL => TUNNEL_IP_OFFSET,
            KIND_REPLY if is_over_ipv6 => REPLY_IP_OFFSET_6,
            KIND_REPLY => REPLY_IP_OFFSET,
            KIND_PING | KIND_NEIGHBOUR => STEER_HEADER_LEN,
            _ => return None,
        };
        let (packet, _) = LaxIpSlice::from_slice(frame.get(offset..)?).ok()?;
        let payload = packet.payload();
        let bytes = if payload.fragmented { &[] } else { payload.payload };
        let (source_port, destination_port) = ports(payload.ip_number, bytes).unwrap_or_default();
        let key: Option<&[u8; 4]> = frame.get(4..8).and_then(|key| key.try_into().ok());
        Some(Self {
            tuple: Tuple {
                source: packet.source_addr(),
                destination: packet.destination_addr(),
                source_port,
                destination_port,
                protocol: payload.ip_number.0,
            },
            peer: key.filter(|_| kind == KIND_TUNNEL).map(|key| Ipv4Addr::from(*key)),
        })
    }
}

/// The ports, source first, that a transport header has.
fn ports(protocol: IpNumber, transport: &[u8]) -> Option<(u16, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes(*transport.get(at..)?.first_chunk()?));
    let message = || transport.first().copied();
    match protocol {
        IpNumber::TCP | IpNumber::UDP | IpNumber::SCTP => Some((word(0)?, word(2)?)),
        IpNumber::ICMP => match message()? {
            ECHO_REQUEST => Some((word(4)?, 0)),
            ECHO_REPLY => Some((0, word(4)?)),
            _ => None,
        },
        IpNumber::IPV6_ICMP => match message()? {
            ECHO_REQUEST_6 => Some((word(4)?, 0)),
            ECHO_REPLY_6 => Some((0, word(4)?)),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
