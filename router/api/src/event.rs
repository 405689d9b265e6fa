//! What happened to flows and packets, as the operator's socket tells it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::message::Tuple;

/// A page of [`Event`]s: empty when nothing has happened since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// The events, by number.
    pub events: Vec<Event>,
    /// The number of the oldest event that is kept: what is before it, and was asked for, is lost to
    /// who asked.
    pub first: u64,
    /// Where the next page starts.
    pub next: u64,
    /// Events that were lost since the start before they had a number: workers were faster than the
    /// main thread.
    pub lost: u64,
    /// When the numbers began, in microseconds since 1970, by the router's wall clock. Another value than
    /// before means that it is another process, which numbers from 1 again: what the one before it did not
    /// give away is lost.
    #[serde(default)]
    pub since_us: u64,
    /// Whether pods have whole blocks of ports: who keeps a record of who had which port needs no flows that
    /// have one.
    #[serde(default)]
    pub port_blocks: bool,
}

/// How many [`Event`]s there were and are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Events that were numbered since the start.
    pub noted: u64,
    /// Those that are kept.
    pub kept: u64,
    /// Events that were lost before they had a number.
    pub lost: u64,
}

/// What happened to a flow, or to a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1: one more than that of the event before it.
    pub number: u64,
    /// When it happened, in microseconds since 1970, by the router's wall clock.
    pub time_us: u64,
    /// The worker that it happened to.
    pub worker: u32,
    /// What happened.
    pub kind: EventKind,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `gre`, `esp`, or its number; `any` of a port block.
    pub protocol: String,
    /// As the pod sends; of a dropped packet, as it came. With NAT64 it is IPv6's, and `reply` IPv4's. Of a
    /// port block the pod's address alone.
    pub original: Tuple,
    /// As the outside answers: its destination is the egress address. None of a dropped packet. Of a port
    /// block the egress address and the first port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Tuple>,
    /// The pod's name, `NAMESPACE/NAME`, where the state document tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The policy's name, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The tunnel peer behind which the pod is, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Of a dropped packet the drop reason; of an ended flow `expired`, `closed`, `deselected` or
    /// `replaced`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What an ended flow carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<FlowTotal>,
    /// The last port of a port block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_port: Option<u16>,
}

/// What an [`Event`] is about. More kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A flow began: its address and port are taken from now on.
    Begin,
    /// A flow ended: its address and port are free.
    End,
    /// A packet was dropped, one of those that are sampled.
    Drop,
    /// A packet was forwarded, one of those that are sampled.
    Forward,
    /// A pod has a block of ports on an egress address from now on, and nobody else.
    BlockBegin,
    /// It has it no more.
    BlockEnd,
}

/// What a flow carried from its begin to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTotal {
    /// How long it lasted, in milliseconds.
    pub duration_ms: u64,
    /// Packets from the pod.
    pub original_packets: u64,
    /// Bytes from the pod, inner IP headers included.
    pub original_bytes: u64,
    /// Packets to the pod.
    pub reply_packets: u64,
    /// Bytes to the pod, inner IP headers included.
    pub reply_bytes: u64,
}
