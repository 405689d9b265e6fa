//! Requests and responses of the operator's socket: one JSON object on a line each.
//!
//! Fields are only ever added. A client ignores fields that it does not know.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::capture::{CapturePage, CaptureRequest};
use crate::event::{EventCounts, EventPage};
use crate::scalar::MacAddress;
use crate::yaml::Problem;

/// Version of this protocol. It grows when a field changes its meaning or goes away.
pub const API_VERSION: u32 = 1;

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// How the router is.
    Status {
        /// Whether it is the author of the state documents who asks, to see that the last one is in
        /// force: [`Status::author_age_s`] tells when it did.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        author: bool,
    },
    /// What is selected and where it leaves, a page of rows.
    Policies {
        /// Where the page starts: 0, then each answer's `next`.
        #[serde(default)]
        cursor: u64,
        /// Rows at most; the router may give fewer.
        #[serde(default = "limit_default")]
        limit: u32,
    },
    /// The live flows, a page of them.
    Flows {
        /// Where the page starts: 0, then each answer's `next`.
        #[serde(default)]
        cursor: u64,
        /// Rows at most; the router may give fewer.
        #[serde(default = "limit_default")]
        limit: u32,
    },
    /// The blocks of ports that pods have, a page of them; none where ports are leased one by one.
    PortBlocks {
        /// Where the page starts: 0, then each answer's `next`.
        #[serde(default)]
        cursor: u64,
        /// Rows at most; the router may give fewer.
        #[serde(default = "limit_default")]
        limit: u32,
    },
    /// What was dropped, passed and steered, by reason.
    Drops,
    /// What flows use of egress addresses and policies: all of them are looked at for it.
    Usage,
    /// What would become of a packet; nothing changes.
    Trace(TraceRequest),
    /// What happened to flows lately, a page of it.
    Events {
        /// The number of the first event wanted: 0 for the oldest that is kept, then each answer's
        /// `next`.
        #[serde(default)]
        cursor: u64,
        /// Events at most; the router may give fewer.
        #[serde(default = "limit_default")]
        limit: u32,
    },
    /// The state document in force.
    State,
    /// Replace the state document.
    PutState {
        /// The whole document, YAML or JSON, as text: errors name its lines.
        document: String,
    },
    /// Let flows go on and no new one begin, or, with `false`, begin again. Not kept over a restart.
    Drain {
        /// Whether to.
        draining: bool,
    },
    /// Begin to capture packets; one capture at a time. It ends when nobody has taken packets of it for
    /// [`CAPTURE_TIMEOUT`](crate::limits::CAPTURE_TIMEOUT).
    Capture(CaptureRequest),
    /// Take what was captured since.
    TakeCaptured {
        /// The capture, as [`Response::Capturing`] has named it.
        id: u64,
        /// Whether to capture no more: what there is already can still be taken, until a page says that
        /// it is the last one.
        #[serde(default)]
        end: bool,
    },
    /// What the router logs, and, with a filter, from now on.
    LogLevel {
        /// The filter, in the form of the tracing library's `EnvFilter`, such as
        /// `info,spillway::kernel=debug`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<String>,
        /// For how many seconds; then the one with which the router was started is in force again.
        /// Default: as long as it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_s: Option<u64>,
    },
}

impl Request {
    /// Whether the answer is all that comes of it, and is short: what the read-only socket takes. Every
    /// request is named here, so that a new one is decided on.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        match self {
            // The author's question is taken note of.
            Self::Status { author } => !author,
            Self::Policies { .. }
            | Self::Flows { .. }
            | Self::PortBlocks { .. }
            | Self::Drops
            | Self::Usage
            | Self::Trace(_)
            | Self::Events { .. } => true,
            // A document may have 64 MiB, and the router holds it for each client that does not read it.
            Self::State => false,
            // Packets are more than anybody who looks may see.
            Self::Capture(_) | Self::TakeCaptured { .. } => false,
            Self::LogLevel { filter, .. } => filter.is_none(),
            Self::PutState { .. } | Self::Drain { .. } => false,
        }
    }
}

fn limit_default() -> u32 {
    crate::limits::PAGE_ROWS_MAX
}

/// What the router answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way to the socket")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Policies`].
    Policies(PolicyPage),
    /// To [`Request::Flows`].
    Flows(FlowPage),
    /// To [`Request::PortBlocks`].
    PortBlocks(PortBlockPage),
    /// To [`Request::Drops`].
    Drops(Drops),
    /// To [`Request::Usage`].
    Usage(Usage),
    /// To [`Request::Trace`].
    Trace(Trace),
    /// To [`Request::Events`].
    Events(EventPage),
    /// To [`Request::State`].
    State {
        /// The document in force, JSON as text; none before the first.
        document: Option<String>,
    },
    /// To [`Request::PutState`]: the document is programmed.
    Applied(Applied),
    /// To [`Request::Drain`]: it is so.
    Drained {
        /// As asked.
        draining: bool,
    },
    /// To [`Request::Capture`]: it has begun.
    Capturing {
        /// What it is called in [`Request::TakeCaptured`].
        id: u64,
    },
    /// To [`Request::TakeCaptured`].
    Captured(CapturePage),
    /// To [`Request::LogLevel`]: what is in force now.
    LogLevel(LogLevel),
    /// To any request: it was refused, and nothing has changed.
    Error(Refusal),
}

/// What the router logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevel {
    /// The filter that is in force.
    pub filter: String,
    /// The one with which it was started.
    pub started_with: String,
    /// In how many seconds that one is in force again; none when it is, or when it will not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
}

/// A document was programmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its generation.
    pub generation: u64,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The reason, for a person.
    pub message: String,
    /// The place in the document, when that is what was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl Response {
    /// A refusal that has nothing to do with a document.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Error(Refusal { message: message.into(), problem: None })
    }
}

impl From<Problem> for Response {
    /// A document was refused.
    fn from(problem: Problem) -> Self {
        Self::Error(Refusal { message: problem.to_string(), problem: Some(problem) })
    }
}

/// How the router is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Spillway's version.
    pub version: String,
    /// [`API_VERSION`] of the router.
    pub api_version: u32,
    /// The router's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Generation of the programmed state document; none before the first.
    pub generation: Option<u64>,
    /// Where the programmed document came from: a file's path, `socket`, or `none`.
    pub state_source: String,
    /// The last document, if it was refused: the one before it still runs.
    pub refused: Option<RefusedState>,
    /// Seconds since new flows are refused, because it is being drained; none when it is not.
    pub draining_s: Option<u64>,
    /// Seconds since the author of the documents last asked; none when nobody has said to be that.
    #[serde(default)]
    pub author_age_s: Option<u64>,
    /// How much the programmed document has of what.
    #[serde(default)]
    pub programmed: Programmed,
    /// How often documents were programmed and refused, and how long that took.
    #[serde(default)]
    pub programming: Programming,
    /// Flows of each family that one worker can have.
    #[serde(default)]
    pub flows_max: u64,
    /// The devices, in the order of the configuration.
    pub devices: Vec<Device>,
    /// The workers, by number.
    pub workers: Vec<Worker>,
    /// Where the UMEM's frames are.
    pub frames: Frames,
    /// Events of flows and packets; 0 of a router that keeps none.
    #[serde(default)]
    pub events: EventCounts,
    /// What an operator should know, such as rules of the kernel that Spillway ignores.
    pub reports: Vec<String>,
}

/// A document that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedState {
    /// Where it came from: a file's path, or `socket`.
    pub source: String,
    /// Why, with line and field.
    pub message: String,
    /// Seconds since then.
    pub age_s: u64,
}

/// How much a programmed document has of what; nothing before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programmed {
    /// Policies.
    pub policies: u64,
    /// IPv4 addresses of selected pods, each once.
    pub pods_ipv4: u64,
    /// IPv6 addresses of selected pods, each once.
    pub pods_ipv6: u64,
    /// Egress addresses.
    pub egress_addresses: u64,
    /// Tunnel addresses.
    pub tunnels: u64,
    /// Tunnel peers, over all tunnels.
    pub peers: u64,
}

/// How programming went since the start: steering, tables and all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programming {
    /// Documents that were programmed.
    pub applied: u64,
    /// Documents that were refused.
    pub refused: u64,
    /// How long the last one took to program, in microseconds.
    pub last_us: u64,
    /// How long all of them took, in microseconds.
    pub total_us: u64,
    /// How many took so long: more than the bound of [`APPLY_BOUNDS_US`] before, and no more than the one
    /// at the same place; the last ones took more than all of them.
    #[serde(default)]
    pub durations: [u64; APPLY_BOUNDS_US.len() + 1],
}

/// The times by which [`Programming::durations`] tells documents apart, in microseconds.
pub const APPLY_BOUNDS_US: [u64; 12] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

impl Programming {
    /// Counts a document that took so long to program, in microseconds.
    pub fn count_applied(&mut self, took_us: u64) {
        self.applied += 1;
        self.last_us = took_us;
        self.total_us = self.total_us.saturating_add(took_us);
        let place = APPLY_BOUNDS_US.partition_point(|bound| *bound < took_us);
        // There is one place more than there are bounds.
        if let Some(count) = self.durations.get_mut(place) {
            *count += 1;
        }
    }
}

/// [`Device::xdp_mode`] of a device without the steering program.
const NOT_ATTACHED: &str = "not attached";

/// A device that the router receives and sends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its index in the kernel.
    pub ifindex: u32,
    /// Its link address.
    pub mac: MacAddress,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// Its receive queues.
    pub queues: u32,
    /// How the steering program is attached: `native`, `generic` or `not attached`.
    pub xdp_mode: String,
    /// Whether the driver gives frames without copying them.
    pub zero_copy: bool,
    /// Sum of its sockets' statistics.
    pub rings: RingStatistics,
}

impl Device {
    /// What `xdp_mode` says of a program that is attached in this mode.
    #[must_use]
    pub fn xdp_mode(attached: Option<&str>) -> String {
        attached.unwrap_or(NOT_ATTACHED).to_owned()
    }

    /// Whether the steering program is attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.xdp_mode != NOT_ATTACHED
    }
}

/// What the kernel counts for AF_XDP sockets (`struct xdp_statistics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingStatistics {
    /// Frames dropped after steering, for any reason but a full receive ring.
    pub rx_dropped: u64,
    /// Frames dropped because a receive ring was full.
    pub rx_ring_full: u64,
    /// Frames that found a fill ring empty; `rx_dropped` has them too.
    pub fill_ring_empty: u64,
    /// Descriptors on fill rings that the kernel refused; never, unless there is a bug.
    pub rx_invalid_descriptors: u64,
    /// Descriptors on transmit rings that the kernel refused; never, unless there is a bug.
    pub tx_invalid_descriptors: u64,
}

/// A worker's counters, in packets since the start. What an older router does not say is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// Its number, from 0.
    pub id: u32,
    /// Its live flows.
    pub flows: u64,
    /// Those of them that leave by IPv6.
    pub flows_ipv6: u64,
    /// Flows created.
    pub flows_created: u64,
    /// Flows taken up from an earlier process.
    pub flows_restored: u64,
    /// Flows ended by their timeout.
    pub flows_expired: u64,
    /// Flows ended because the document no longer selects them.
    pub flows_deselected: u64,
    /// Leases of ports that found few left towards their remote, or none.
    pub leases_crowded: u64,
    /// Blocks of ports that pods have.
    #[serde(default)]
    pub port_blocks: u64,
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub transmitted: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
    /// Packets that wait for a neighbour, now.
    pub held: u64,
    /// Packets that found the transmit ring full.
    pub tx_ring_full: u64,
    /// Times that no frame of memory was free for a fragment, an ICMP error or a copy.
    pub frames_missing: u64,
    /// Packets sent that were cut into fragments.
    pub fragmented: u64,
    /// Frames handed to other workers: fragments, and packets of flows that those have adopted.
    pub handed_off: u64,
    /// Frames that other workers have handed to it.
    pub taken_over: u64,
    /// Packets of pods sent outside.
    pub forward_packets: u64,
    /// Their bytes: IP packets, without link and tunnel headers.
    pub forward_bytes: u64,
    /// Packets from outside sent to pods.
    pub reply_packets: u64,
    /// Their bytes, likewise.
    pub reply_bytes: u64,
    /// ARP requests, neighbour solicitations and pings for announced addresses that were answered;
    /// in `transmitted`.
    pub answered: u64,
    /// Announcements of such addresses.
    pub announced: u64,
    /// ICMP errors of Spillway's own, to senders whose packets were dropped.
    pub errors_sent: u64,
    /// Such errors that were not sent because their receiver had too many.
    pub errors_limited: u64,
}

/// Where the frames of the UMEM are. All but `total` add up to it, give or take frames that moved
/// while they were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// All frames.
    pub total: u64,
    /// Free, with the workers and in the depot between them.
    pub free: u64,
    /// With the kernel, to receive into.
    pub receiving: u64,
    /// With the kernel, to be sent.
    pub transmitting: u64,
    /// With the workers: waiting for a neighbour or another fragment, or being handed over.
    pub held: u64,
}

/// A page of [`PolicyRow`]s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPage {
    /// The rows, by policy, then pod, then prefix.
    pub rows: Vec<PolicyRow>,
    /// Where the next page starts; none after the last.
    pub next: Option<u64>,
}

/// A pod and a prefix that a policy covers; named as `cilium-dbg bpf egress list -o json` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// The pod.
    #[serde(rename = "sourceIP")]
    pub source_ip: IpAddr,
    /// The destination.
    #[serde(rename = "destCIDR")]
    pub destination_cidr: ipnet::IpNet,
    /// The address that the outside sees, with NAT64 an IPv4 one. The unspecified one where the
    /// policy has none of this family: then the traffic is dropped.
    #[serde(rename = "egressIP")]
    pub egress_ip: IpAddr,
    /// Our tunnel address, or `Excluded CIDR`.
    #[serde(rename = "gatewayIP")]
    pub gateway_ip: String,
    /// The policy's name.
    pub policy: String,
}

/// A page of [`Flow`]s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowPage {
    /// The flows, by worker, in no other order.
    pub rows: Vec<Flow>,
    /// Where the next page starts; none after the last.
    pub next: Option<u64>,
}

/// A page of [`PortBlock`]s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBlockPage {
    /// The blocks, by worker, in no other order.
    pub rows: Vec<PortBlock>,
    /// Where the next page starts; none after the last.
    pub next: Option<u64>,
}

/// Ports on an egress address that one pod has, of every protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBlock {
    /// The worker that its flows are with.
    pub worker: u32,
    /// The pod's name, `NAMESPACE/NAME`, where the state document tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pod's address.
    pub pod_address: IpAddr,
    /// The egress address.
    pub egress_address: IpAddr,
    /// The first port.
    pub first_port: u16,
    /// The last one.
    pub last_port: u16,
    /// How many flows live in it.
    pub flows: u32,
    /// For how long the pod has it, in seconds; after a restart, since its oldest flow that lives began.
    pub age_s: u64,
}

/// What stands for the policy of a [`Flow`] that has not spoken since the policies changed.
pub const POLICY_NOT_KNOWN: &str = "(of an earlier state)";

/// A live flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The worker that owns it.
    pub worker: u32,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `gre`, `esp`, or its number.
    pub protocol: String,
    /// As the pod sends. With NAT64 it is IPv6's, and `reply` IPv4's.
    pub original: Tuple,
    /// As the outside answers; its destination is the egress address.
    pub reply: Tuple,
    /// The connection's state.
    pub state: String,
    /// Seconds since its first packet.
    pub age_s: u64,
    /// Seconds since its last packet.
    pub idle_s: u64,
    /// Packets from the pod.
    pub original_packets: u64,
    /// Bytes from the pod, inner IP headers included.
    pub original_bytes: u64,
    /// Packets to the pod.
    pub reply_packets: u64,
    /// Bytes to the pod, inner IP headers included.
    pub reply_bytes: u64,
    /// The policy that selected it; [`POLICY_NOT_KNOWN`] until it has spoken under the policies of now.
    pub policy: String,
    /// The tunnel peer behind which the pod is.
    pub peer: IpAddr,
    /// The pod's name, `NAMESPACE/NAME`, where the state document tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// Addresses and ports of one direction. An echo has its identifier in both ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuple {
    /// Who sends.
    pub source: IpAddr,
    /// Its port.
    pub source_port: u16,
    /// Who receives.
    pub destination: IpAddr,
    /// Its port.
    pub destination_port: u16,
}

/// What became of frames, by reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Every outcome of steering, for each device.
    pub steering: Vec<SteeringOutcome>,
    /// Every reason for which the engine drops.
    pub engine: Vec<EngineDrop>,
}

/// One outcome of the steering program on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteeringOutcome {
    /// The device's name.
    pub device: String,
    /// The outcome's name.
    pub outcome: String,
    /// What was done with these frames.
    pub verdict: Verdict,
    /// Frames.
    pub packets: u64,
    /// Bytes, Ethernet headers included.
    pub bytes: u64,
    /// One sentence.
    pub description: String,
}

/// What steering does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The kernel has it.
    Pass,
    /// A worker has it.
    Steer,
    /// Nobody has it.
    Drop,
}

/// One reason for which the engine drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineDrop {
    /// The reason's name.
    pub reason: String,
    /// Packets, over all workers.
    pub packets: u64,
    /// One sentence.
    pub description: String,
}

/// What live flows use, as they were counted last: up to 5 seconds before, or where there are so many that
/// it takes a while, up to five minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Whether flows were counted. Without a document they are not, nor until the first count is complete:
    /// the lists are empty then.
    pub counted: bool,
    /// Whether they are being counted anew: it is worth asking again.
    #[serde(default)]
    pub counting: bool,
    /// When that was begun, in milliseconds since the router started, by a clock that never goes back: rates
    /// are reckoned from two answers with different ones. 0 of a router that does not say.
    #[serde(default)]
    pub counted_at_ms: u64,
    /// Every egress address of the document.
    pub egress_addresses: Vec<EgressUsage>,
    /// Every policy of the document.
    pub policies: Vec<PolicyUsage>,
    /// Flows that have not spoken since the policies changed: with its next packet each gets one, or
    /// ends.
    pub flows_of_no_policy: u64,
}

/// What flows have carried since the router started: those that live, and those that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets from pods.
    pub original_packets: u64,
    /// Their bytes: IP packets, without link and tunnel headers.
    pub original_bytes: u64,
    /// Packets to pods.
    pub reply_packets: u64,
    /// Their bytes, likewise.
    pub reply_bytes: u64,
}

/// What flows use of an egress address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressUsage {
    /// The address.
    pub address: IpAddr,
    /// Its live flows.
    pub flows: u64,
    /// Ports, or echo identifiers, that may be leased towards one remote.
    pub ports: u64,
    /// The remote towards which most are; none without flows that have ports.
    pub fullest: Option<RemoteUsage>,
    /// What its flows have carried.
    #[serde(default)]
    pub traffic: Traffic,
}

/// A remote, and how many ports of an egress address are leased towards it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteUsage {
    /// `tcp`, `udp`, `icmp`, `icmpv6` or `sctp`.
    pub protocol: String,
    /// The remote's address.
    pub address: IpAddr,
    /// Its port; 0 of an echo.
    pub port: u16,
    /// The egress address's ports that flows to it have.
    pub ports: u64,
}

/// What flows a policy has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyUsage {
    /// The policy's name.
    pub name: String,
    /// Its live flows.
    pub flows: u64,
    /// What flows have carried under it.
    #[serde(default)]
    pub traffic: Traffic,
}

/// A packet to trace: from a pod, through the tunnel; or from outside, when `to` is an egress address of
/// the state document and `from` no pod of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// Who sends.
    pub from: IpAddr,
    /// Who receives. With NAT64 an IPv6 pod's IPv4 destination may be written as what it is.
    pub to: IpAddr,
    /// Its protocol. Default: TCP.
    #[serde(default)]
    pub protocol: TraceProtocol,
    /// The sender's port, or the echo identifier of a pod. Default: [`TRACE_POD_PORT`] of a pod,
    /// [`TRACE_REMOTE_PORT`] of the outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_port: Option<u16>,
    /// The receiver's port; of an echo from outside the identifier that it answers, and without one it is
    /// a ping of the egress address itself. Default: [`TRACE_REMOTE_PORT`] of the outside; of an egress
    /// address it must be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<u16>,
    /// The whole IP packet in bytes, without the tunnel's headers: what its headers need to
    /// [`TRACE_BYTES_MAX`]. Default: [`TRACE_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u16>,
    /// The tunnel peer that a pod's packet comes from. Default: that of its flow, else the first one that
    /// the state document lists: it does not say behind which one a pod is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Whether a router may fragment the packet, if it is IPv4. Default: no, as hosts send.
    #[serde(default)]
    pub may_fragment: bool,
}

/// The port of a pod that a trace is not told.
pub const TRACE_POD_PORT: u16 = 40_000;

/// The port of the outside that a trace is not told.
pub const TRACE_REMOTE_PORT: u16 = 443;

/// Bytes of a packet that a trace is not told.
pub const TRACE_BYTES: u16 = 100;

/// Bytes of a packet that can be traced, at most.
pub const TRACE_BYTES_MAX: u16 = 65_000;

/// The protocol of a packet to trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceProtocol {
    /// A SYN where there is no flow, else a segment of its connection.
    #[default]
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request, or the reply to one; ICMPv6's for IPv6.
    Icmp,
}

/// What would become of a packet, step by step. The last step is named `verdict`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// In the order in which they are taken.
    pub steps: Vec<TraceStep>,
}

/// One step of a decision. More kinds of steps may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    /// What decides: `packet`, `tunnel`, `document`, `steering`, `nat64`, `worker`, `policy`, `flow`,
    /// `route`, `mtu` or `verdict`.
    pub step: String,
    /// What it decides, in a word or a name. Of `verdict`: `sent`, `held`, `dropped`, or `kernel` for what
    /// Spillway never sees.
    pub verdict: String,
    /// Why, for a person.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_apart_by_the_time_that_they_took() {
        let mut programming = Programming::default();
        for took_us in [0, 1_000, 1_001, 2_500, 10_000_000, 10_000_001, u64::MAX] {
            programming.count_applied(took_us);
        }
        let mut durations = [0; APPLY_BOUNDS_US.len() + 1];
        (durations[0], durations[1], durations[11], durations[12]) = (2, 2, 1, 2);
        let (last_us, total_us) = (u64::MAX, u64::MAX);
        let expected = Programming { applied: 7, refused: 0, last_us, total_us, durations };
        assert_eq!(programming, expected);
        assert!(APPLY_BOUNDS_US.is_sorted());
    }
}
