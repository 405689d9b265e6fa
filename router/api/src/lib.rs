//! Spillway's state document and the operator's requests, and a client for them.
//!
//! `spillway run` reads a [`Document`] from a file or over its Unix socket and answers the
//! operator's [`Request`]s there; `spillway-control`, the command line and the tests use the same
//! [`Client`]. The README beside this file is the reference of both formats.

pub mod limits;

mod capture;
mod client;
mod document;
mod event;
mod family;
mod message;
mod nat64;
mod options;
mod policy_rows;
mod scalar;
mod shape;
mod validate;
mod yaml;

pub use capture::{
    Bytes, CaptureCount, CapturePage, CapturePoint, CaptureRequest, CapturedPacket, Origin,
    SNAPLEN_DEFAULT, SNAPLEN_MIN,
};
pub use client::{Client, ClientError, SOCKET_DEFAULT, os_error};
pub use document::{
    Document, EgressAddress, EgressAddressKind, Peer, PodGroup, PodName, Policy, ReplyVni,
    SHARED_PORTS_DEFAULT, Tunnel,
};
pub use event::{Event, EventCounts, EventKind, EventPage, FlowTotal};
pub use family::{IpFamily, check_host_address, check_not_mapped};
pub use message::{
    API_VERSION, APPLY_BOUNDS_US, Applied, Device, Drops, EgressUsage, EngineDrop, Flow, FlowPage,
    Frames, LogLevel, POLICY_NOT_KNOWN, PolicyPage, PolicyRow, PolicyUsage, PortBlock,
    PortBlockPage, Programmed, Programming, Refusal, RefusedState, RemoteUsage, Request, Response,
    RingStatistics, Status, SteeringOutcome, TRACE_BYTES, TRACE_BYTES_MAX, TRACE_POD_PORT,
    TRACE_REMOTE_PORT, Trace, TraceProtocol, TraceRequest, TraceStep, Traffic, Tuple, Usage,
    Verdict, Worker,
};
pub use nat64::Nat64Prefix;
pub use options::PolicyTimeouts;
pub use policy_rows::{Pairing, policy_page};
pub use scalar::{MacAddress, PortRange, quote};
pub use shape::{list, whole};
pub use validate::check_device_name;
pub use yaml::{FieldPath, Problem, parse};
