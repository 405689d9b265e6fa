//! The multicast groups that neighbour solicitations for announced addresses are sent to (RFC 4291,
//! section 2.7.1). The host is a member as long as an address is announced: a network card takes in
//! the frames of no other groups, and a switch may ask which ones are wanted (RFC 4541).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, socket, sockopt};

/// A group on the link of the device with an index.
type Membership = (u32, Ipv6Addr);

/// What the host is a member of.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Made for the first group: a host without IPv6 needs none.
    socket: Option<OwnedFd>,
    /// What was wanted last.
    wanted: BTreeSet<Membership>,
}

impl Groups {
    /// Follows where addresses are announced, each on the device with an index. Gives the groups of
    /// new ones that could not be joined, and why; they are tried again when the device is another.
    pub(crate) fn follow(
        &mut self,
        announced: impl Iterator<Item = (IpAddr, u32)>,
    ) -> Vec<(Membership, io::Error)> {
        let wanted: BTreeSet<Membership> = announced
            .filter_map(|(address, ifindex)| match address {
                IpAddr::V6(address) => Some((ifindex, solicited_node(address))),
                IpAddr::V4(_) => None,
            })
            .collect();
        let mut failed = Vec::new();
        for &membership in wanted.difference(&self.wanted) {
            if let Err(error) = join(&mut self.socket, membership) {
                failed.push((membership, error));
            }
        }
        for (ifindex, group) in self.wanted.difference(&wanted) {
            // One whose device is gone has ended with it, and one that failed never was.
            let _ = self
                .socket
                .as_ref()
                .map(|socket| sockopt::set_ipv6_drop_membership(socket, group, *ifindex));
        }
        self.wanted = wanted;
        failed
    }
}

fn join(held: &mut Option<OwnedFd>, (ifindex, group): Membership) -> io::Result<()> {
    let socket = match held {
        Some(socket) => socket,
        // It is bound to nothing, so nothing comes to it.
        None => held.insert(socket(AddressFamily::INET6, SocketType::DGRAM, None)?),
    };
    Ok(sockopt::set_ipv6_add_membership(socket, &group, ifindex)?)
}

/// The group of all hosts whose addresses end in the same 24 bits.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_has_the_last_24_bits() {
        let address = "2001:db8:44::12:3456".parse().unwrap();
        assert_eq!(solicited_node(address), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn what_cannot_be_joined_is_said_once() {
        let mut groups = Groups::default();
        let nowhere = || [("2001:db8::1".parse().unwrap(), u32::MAX)].into_iter();
        assert_eq!(groups.follow(nowhere()).len(), 1);
        assert_eq!(groups.follow(nowhere()).len(), 0);
    }
}
