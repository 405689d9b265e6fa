//! Spillway's kernel side: the steering program with its loader ([`Steering`]), and the AF_XDP
//! devices whose frames it steers ([`Lane`]).
//!
//! With `spillway-mem` this is the one place where unsafe code is allowed: rings that the kernel
//! shares, and system calls that no library wraps.
#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod device;
pub mod live;
pub mod steering;

pub use device::{Frame, Lane, LaneStatistics};
pub use steering::{SteerOutcome, SteerTables, Steering};
