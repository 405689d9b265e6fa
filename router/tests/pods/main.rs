//! The real binary between real sockets: pods whose node's kernel encapsulates, the gateway, and a
//! server behind a router. Needs root.
//!
//! ```text
//!   pod-a ─┐
//!          node ══ VXLAN ══ gateway ── hop ── server
//!   pod-b ─┘
//! ```
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "these are tests")]

mod concurrent;
mod differential;
mod events;
mod exhaustion;
mod family;
mod sockets;
mod trace;
mod underlay;
mod world;
