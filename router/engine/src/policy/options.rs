//! What a policy asks of the NAT beyond its default.

use crate::flow::Timeouts;

/// The options of a policy. The default is what a policy gets that says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatOptions {
    /// How long its flows may stay idle. `None`: as the engine's configuration says.
    pub timeouts: Option<Timeouts>,
    /// Whether a TCP segment of a connection that is under way may open a flow: one that was begun
    /// before Spillway saw it, at another gateway or before a restart.
    pub midstream_pickup: bool,
}

impl NatOptions {
    /// Those of no policy.
    pub(crate) const NONE: Self = Self { timeouts: None, midstream_pickup: false };
}
