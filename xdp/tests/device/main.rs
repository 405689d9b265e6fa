//! AF_XDP devices on veth pairs: every frame arrives as it was sent, and every frame is accounted
//! for. Needs root.
#![allow(clippy::unwrap_used, reason = "a test panics when its rig fails")]

mod refusals;
mod rig;
mod traffic;
mod workers;
