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
    /// How many flows a pod may have under the policy, at most
    /// [`FLOWS_PER_POD_MAX`](crate::FLOWS_PER_POD_MAX). `None`: no limit of its own.
    pub flows_per_pod_max: Option<u32>,
    /// Whether all flows of a pod's address and port have one port on the egress address, whatever
    /// their remotes (RFC 4787, REQ-1).
    pub endpoint_independent: bool,
}

impl NatOptions {
    /// Those of no policy.
    pub(crate) const NONE: Self = Self {
        timeouts: None,
        midstream_pickup: false,
        flows_per_pod_max: None,
        endpoint_independent: false,
    };
}
