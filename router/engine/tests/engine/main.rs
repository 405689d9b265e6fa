//! The engine as a whole: frames in, frames out, checked by etherparse.
#![allow(clippy::unwrap_used, reason = "these are tests")]

#[path = "../common/mod.rs"]
mod common;

mod adoption;
mod answers;
mod arriving;
mod draining;
mod drops;
mod errors;
mod expiry;
mod flows;
mod fragments;
mod ipv6;
mod nat64;
mod outlook;
mod own_address;
mod policy_options;
mod port_blocks;
mod readme;
mod restart;
mod robustness;
mod tables;
mod translation;
mod underlay;
