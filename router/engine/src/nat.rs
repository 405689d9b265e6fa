//! Network address translation: choosing a port, and rewriting a packet.

mod blocks;
mod crowded;
mod error;
mod identification;
mod mapping;
mod mss;
mod port;
mod random;
mod rest;
mod rewrite;
mod sctp;

pub use blocks::{BLOCKS_PER_POD_MAX, BlockEvent, PortBlock};
pub(crate) use identification::Identifications;
pub(crate) use mapping::Mappings;
pub(crate) use port::{Ports, Use, Wish};
pub(crate) use random::Random;
pub(crate) use rewrite::{Change, Side, clamp_mss, rewrite, rewrite_tcp, rewrite_udp};
