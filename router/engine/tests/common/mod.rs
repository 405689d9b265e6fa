//! What the tests share.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses some of it")]
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "these are tests")]

pub mod build;
pub mod cluster;
pub mod fuzz;
pub mod gateway;
pub mod random;
