//! Every limit of the state document and of the operator's socket, in one place.

use std::time::Duration;

/// Bytes of a state document, or of any request, at most.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of a request to the read-only socket, at most: it takes no documents.
pub const READ_ONLY_REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Tunnel addresses at most.
pub const TUNNELS_MAX: usize = 256;

/// Tunnel peers at most, over all tunnels.
pub const PEERS_MAX: usize = 4_096;

/// Egress addresses at most.
pub const EGRESS_ADDRESSES_MAX: usize = 256;

/// Policies at most.
pub const POLICIES_MAX: usize = 4_096;

/// Destinations and excluded destinations of one policy, together, at most.
pub const PREFIXES_PER_POLICY_MAX: usize = 1_024;

/// Different addresses of pods at most, of each family, over all policies and groups. One that
/// several policies select counts once.
pub const PODS_MAX: usize = 65_536;

/// Groups of pods at most.
pub const POD_GROUPS_MAX: usize = PODS_MAX;

/// Names of pods at most; their addresses are bounded as those of selected pods are.
pub const POD_NAMES_MAX: usize = 2 * PODS_MAX;

/// Bytes of the name of a policy, of a pod or of a group of pods, at most: a Kubernetes namespace, a slash
/// and a name fit.
pub const NAME_BYTES_MAX: usize = 317;

/// Seconds that a flow may stay idle at most: a week.
pub const TIMEOUT_S_MAX: u64 = 604_800;

/// Flows of one pod that a policy can allow at most.
pub const FLOWS_PER_POD_MAX: u64 = 16_777_215;

/// The first and the last port that may be leased on any egress address.
pub const PORT_FIRST: u16 = 1_024;

/// See [`PORT_FIRST`].
pub const PORT_LAST: u16 = u16::MAX;

/// The largest VXLAN network identifier: it has 24 bits (RFC 7348).
pub const VNI_MAX: u32 = 0x00ff_ffff;

/// Connections to the operator's socket at one time, at most; and to the read-only one.
pub const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take to send a whole request, idle time before it included; and again
/// to read the whole response.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Remotes of egress addresses for which [`Request::Usage`](crate::Request::Usage) counts flows. With more of them a
/// count may lack one flow for each so many that there are in all.
pub const USAGE_REMOTES_MAX: usize = 262_144;

/// Rows of one page of policies or flows, at most.
pub const PAGE_ROWS_MAX: u32 = 1_000;

/// Bytes of one response that a client reads, at most.
pub const RESPONSE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long a capture goes on when nobody takes its packets.
pub const CAPTURE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of the packets of one page of a capture at most, as they are on the wire.
pub const CAPTURE_PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Seconds for which a log filter can be set, at most: a week.
pub const LOG_LEVEL_S_MAX: u64 = 604_800;
