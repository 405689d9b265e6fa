//! The engine's few unsafe lines: prefetch, tag probing and the arena of slots.
//!
//! Everything here has a safe interface, so that the engine itself can forbid unsafe code; the
//! tests run under Miri (`cargo +nightly miri test -p spillway-mem`).
#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod arena;
mod prefetch;
mod tags;

pub use arena::Arena;
pub use prefetch::prefetch;
pub use tags::{Lanes, TAG_LANES, TagGroup};
