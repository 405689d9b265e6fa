//! What a policy of the state document may ask of the NAT beyond its default.

use serde::{Deserialize, Serialize};

use crate::limits::TIMEOUT_S_MAX;
use crate::shape::some_whole;

/// How long a flow may stay idle in both directions before it ends, in seconds; 1 to 604,800 each.
/// What is left out is as the configuration has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyTimeouts {
    /// TCP until both sides have spoken after the SYN.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_whole::<_, _, 1, TIMEOUT_S_MAX>"
    )]
    pub tcp_opening: Option<u32>,
    /// TCP that is established.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_whole::<_, _, 1, TIMEOUT_S_MAX>"
    )]
    pub tcp_established: Option<u32>,
    /// TCP that one side has closed.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_whole::<_, _, 1, TIMEOUT_S_MAX>"
    )]
    pub tcp_half_closed: Option<u32>,
    /// TCP that both sides have closed or one has reset.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_whole::<_, _, 1, TIMEOUT_S_MAX>"
    )]
    pub tcp_closing: Option<u32>,
    /// UDP, and protocols without ports.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_whole::<_, _, 1, TIMEOUT_S_MAX>"
    )]
    pub udp: Option<u32>,
    /// ICMP echo.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_whole::<_, _, 1, TIMEOUT_S_MAX>"
    )]
    pub icmp: Option<u32>,
}

impl PolicyTimeouts {
    /// Whether nothing is said.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
