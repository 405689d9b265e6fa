//! What can go wrong between Spillway and the kernel's tables.

use std::io;
use std::net::IpAddr;

/// Why the kernel's links, addresses, rules, routes or neighbours could not be read or asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    /// The rtnetlink sockets could not be opened.
    #[error("cannot open an rtnetlink socket ({step}): {cause}")]
    Open { step: &'static str, cause: io::Error },

    /// A table could not be listed.
    #[error("cannot list the kernel's {what}: {cause}")]
    Dump { what: &'static str, cause: io::Error },

    /// The notification socket failed for good.
    #[error("cannot read the kernel's rtnetlink notifications: {cause}")]
    Notifications { cause: io::Error },

    /// The kernel does not resolve a next hop.
    #[error(
        "the kernel does not look for neighbour {address} on interface {ifindex}: {cause}; \
         Spillway needs CAP_NET_ADMIN for this, and the interface must be up"
    )]
    Neighbour { address: IpAddr, ifindex: u32, cause: io::Error },
}
