//! Spillway's NAT engine: bytes in, bytes out.
//!
//! No I/O, no clock, no thread, no unsafe. Time and randomness are arguments, tables are handed
//! in whole, and a frame is a `&mut [u8]` that starts with the steer header ([`steer`]). The life
//! of a packet is told in `engine.rs`, and in the README beside this crate.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod accounts;
mod checksum;
pub mod counters;
pub mod drop_reason;
mod encap;
pub mod engine;
mod family;
pub mod fib;
pub mod flow;
mod fragment;
mod lpm;
mod map;
mod nat;
pub mod nat64;
mod packet;
pub mod policy;
mod reassembly;
pub mod steer;
pub mod tables;
mod ticket;

pub use accounts::{AccountNumber, Accounts, Carried};
pub use counters::{Counters, Traffic};
pub use drop_reason::{DROP_REASONS, DropReason};
pub use engine::{
    ANNOUNCEMENT_ROOM, ANSWER_ROOM, Answer, BURST_MAX, EndReason, Engine, EngineConfig, FlowChange,
    FlowEvent, Nanos, Notice, Outlook, OwedError, PortOutlook, Verdict,
};
pub use family::{Address, Family, V4, V6};
pub use flow::{
    FLOWS_PER_POD_MAX, FlowRecord, FlowState, NotRestored, PodFlows, SavedDirection, SavedFlow,
    TIMEOUT_NS_MAX, Timeouts, Tuple,
};
pub use fragment::Fragments;
pub use nat::{BLOCKS_PER_POD_MAX, BlockEvent, PortBlock};
pub use reassembly::DATAGRAM_NS_MAX;
pub use ticket::Ticket;
