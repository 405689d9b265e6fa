//! What can go wrong between Spillway and the kernel's tables.

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;

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
        "the kernel does not look for neighbour {address} on interface {ifindex}: {cause}; {}",
        remedy(.address, .cause)
    )]
    Neighbour { address: IpAddr, ifindex: u32, cause: io::Error },
}

/// What to do when the kernel does not look for a neighbour.
fn remedy(address: &IpAddr, cause: &io::Error) -> String {
    match cause.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOBUFS) => {
            let family = if address.is_ipv6() { "ipv6" } else { "ipv4" };
            format!(
                "its table of neighbours is full (`ip neigh`): raise net.{family}.neigh.default.\
                 gc_thresh3 of the host"
            )
        }
        Some(Errno::PERM) => "Spillway needs CAP_NET_ADMIN for this".to_owned(),
        _ => "the interface must be there and up".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_to_look_for_a_neighbour_has_its_own_remedy() {
        let told = |address: [u16; 8], errno: Errno| {
            let (address, cause) = (IpAddr::from(address), errno.into());
            KernelError::Neighbour { address, ifindex: 3, cause }.to_string()
        };
        let neighbour = [0xfe80, 0, 0, 0, 0, 0, 0, 9];
        for (errno, remedy) in [
            (Errno::NOBUFS, "net.ipv6.neigh.default.gc_thresh3"),
            (Errno::PERM, "CAP_NET_ADMIN"),
            (Errno::NETDOWN, "up"),
        ] {
            let text = told(neighbour, errno);
            assert!(text.contains("fe80::9") && text.contains(remedy), "{text}");
        }
        assert!(!told(neighbour, Errno::NOBUFS).contains("CAP_NET_ADMIN"));
    }
}
