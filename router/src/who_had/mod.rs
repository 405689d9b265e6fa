//! Who had an egress address and port at a time: asked of the NAT log, and of the router about what the
//! log does not have yet.
//!
//! - `history.rs`: from records to an answer
//! - `sources.rs`: where records come from

mod history;
mod sources;

pub(crate) use history::{Answer, HOLDERS_MAX, Holder, Question, Uncertain};
pub(crate) use sources::ask;
