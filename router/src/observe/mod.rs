//! Reading a router's events, as anybody may who reaches its socket.
//!
//! - `follow.rs`: which events come next, and which were lost
//! - `source.rs`: the connection to the router, made anew when it was restarted
//! - `filter.rs`: which events somebody wants to see
//! - `stop.rs`: waiting until somebody wants no more

pub(crate) mod filter;
pub(crate) mod follow;
pub(crate) mod source;
pub(crate) mod stop;
