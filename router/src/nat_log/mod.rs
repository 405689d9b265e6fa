//! The NAT log: who had which egress address and port, and when, for those who must be able to say it
//! later. It is read from the router's events, and written to files and to IPFIX collectors.
//!
//! - `record.rs`: what is logged
//! - `file.rs`: the file, and the rotated ones
//! - `ipfix.rs`, `export.rs`: messages of IPFIX, and bringing them to a collector
//! - `recorder.rs`: from events to records
//!
//! What it may not do is lose something silently: whatever is missing is logged as a gap.

pub(crate) mod export;
pub(crate) mod file;
mod ipfix;
pub(crate) mod record;
pub(crate) mod recorder;
