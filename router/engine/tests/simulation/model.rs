//! What a flow is, said once more in the simplest way: no tables, no ticks, no epochs.

use std::net::{IpAddr, Ipv4Addr};

use spillway_engine::Tuple;

use crate::common::build::Body;
use crate::common::gateway::SECOND;

/// Nobody may rely on the end of a flow to the millisecond: the engine's clock ticks in 17 ms.
const TICK: u64 = SECOND / 20;

/// What one side has shown.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    spoken: bool,
    fin: bool,
    rst: bool,
}

/// Whether a flow lives: between its end and the sweep that notices, nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Live,
    Perhaps,
    Gone,
}

#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) original: Tuple,
    pub(crate) egress: IpAddr,
    pub(crate) egress_port: u16,
    pub(crate) peer: Ipv4Addr,
    last_seen: u64,
    pod: Side,
    remote: Side,
    /// The sequence number that the pod expects.
    expected: u32,
}

impl Flow {
    pub(crate) fn new(original: Tuple, egress: IpAddr, egress_port: u16, peer: Ipv4Addr) -> Self {
        let (pod, remote) = Default::default();
        Self { original, egress, egress_port, peer, last_seen: 0, pod, remote, expected: 0 }
    }

    pub(crate) fn reply(&self) -> Tuple {
        Tuple {
            source: self.original.destination,
            destination: self.egress,
            source_port: self.original.destination_port,
            destination_port: self.egress_port,
            protocol: self.original.protocol,
        }
    }

    fn timeout(&self) -> u64 {
        let fins = u8::from(self.pod.fin) + u8::from(self.remote.fin);
        let seconds = match self.original.protocol {
            1 | 58 => 60,
            17 => 300,
            _ if self.pod.rst || self.remote.rst || fins == 2 => 10,
            _ if !self.pod.spoken || !self.remote.spoken => 240,
            _ if fins == 1 => 900,
            _ => 7440,
        };
        seconds * SECOND
    }

    /// `swept` is when the last whole sweep began.
    pub(crate) fn life(&self, now: u64, swept: u64) -> Life {
        let end = self.last_seen + self.timeout();
        if now + TICK < end {
            Life::Live
        } else if swept > end + TICK {
            Life::Gone
        } else {
            Life::Perhaps
        }
    }

    /// The pod has sent this, and it was forwarded.
    pub(crate) fn sent(&mut self, body: Body, now: u64) {
        let is_closing = self.original.protocol == 6 && self.timeout() == 10 * SECOND;
        if body == Body::Syn && is_closing {
            (self.pod, self.remote) = Default::default();
        }
        let acknowledged = match body {
            Body::Ack | Body::Fin => Some(1),
            Body::AckOf(sequence) => Some(sequence),
            _ => None,
        };
        if let Some(sequence) = acknowledged
            && (!self.pod.spoken || sequence > self.expected)
        {
            self.expected = sequence;
        }
        self.pod.note(body);
        self.last_seen = now;
    }

    /// The remote has sent this, and it was forwarded.
    pub(crate) fn received(&mut self, body: Body, now: u64) {
        let sequence = match body {
            Body::Rst => 1000,
            Body::RstAt(sequence) => sequence,
            _ => self.expected,
        };
        if self.pod.spoken && sequence.wrapping_sub(self.expected) >= 1 << 20 {
            return;
        }
        self.remote.note(body);
        self.last_seen = now;
    }
}

impl Side {
    fn note(&mut self, body: Body) {
        self.spoken |= body != Body::Syn;
        self.fin |= body == Body::Fin;
        self.rst |= matches!(body, Body::Rst | Body::RstAt(_));
    }
}
