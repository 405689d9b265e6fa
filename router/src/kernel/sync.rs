//! How changes spread between the tables, and how a table is listed anew.
//!
//! The kernel tells of most changes, but drops routes silently when their link goes down, their
//! preferred source address goes away or their next-hop object is deleted. Then all routes are
//! listed anew.

use std::io;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::family::FAMILIES;
use super::socket::Dumped;
use super::{
    Addresses, Applied, Kernel, KernelError, Links, Neighbours, Requests, Routes, Rules, link, rule,
};

/// How often a list is read again when the table changed under it.
const DUMPS_MAX: usize = 5;

/// The loopback interface has this index in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;

impl Kernel {
    /// Lists every stale table anew, and notes which differ from what was known.
    pub(super) fn resync(&mut self) -> Result<(), KernelError> {
        if self.stale.links {
            self.list_links()?;
        }
        if self.stale.addresses {
            self.list_addresses()?;
        }
        if self.stale.rules {
            self.list_rules()?;
        }
        if self.stale.routes {
            self.list_routes()?;
        }
        if self.stale.neighbours {
            self.list_neighbours()?;
        }
        Ok(())
    }

    pub(super) fn link_added(&mut self, message: &LinkMessage) {
        let Some(link) = link::link(message) else {
            return;
        };
        let (ifindex, state) = (link.ifindex, (link.up, link.carrier, link.state));
        self.changed.links |= self.links.get(&ifindex) != Some(&link);
        let before = self.links.insert(ifindex, link);
        self.stale.routes |=
            before.is_some_and(|before| (before.up, before.carrier, before.state) != state);
    }

    pub(super) fn link_removed(&mut self, message: &LinkMessage) {
        let removed = link::link(message).and_then(|link| self.links.remove(&link.ifindex));
        self.changed.links |= removed.is_some();
        self.stale.routes |= removed.is_some();
    }

    pub(super) fn address_added(&mut self, message: &AddressMessage) {
        if !link::is_assigned(message) {
            return self.address_removed(message);
        }
        let address = link::local_address(message);
        self.changed.addresses |= address.is_some_and(|address| self.addresses.insert(address));
    }

    pub(super) fn address_removed(&mut self, message: &AddressMessage) {
        let address = link::local_address(message);
        let removed = address.is_some_and(|address| self.addresses.remove(&address));
        self.changed.addresses |= removed;
        self.stale.routes |= removed;
    }

    pub(super) fn route_changed(&mut self, applied: Applied) {
        self.changed.routes |= applied == Applied::Changed;
        self.stale.routes |= applied == Applied::Unclear;
    }

    fn list_links(&mut self) -> Result<(), KernelError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let request = RouteNetlinkMessage::GetLink(message);
        let (links, dumped) =
            list(&mut self.requests, "links", &[request], |links: &mut Links, entry| {
                let RouteNetlinkMessage::NewLink(message) = entry else {
                    return;
                };
                links.extend(link::link(&message).map(|link| (link.ifindex, link)));
            })?;
        self.stale.links = dumped != Dumped::Whole;
        self.changed.links |= replace(&mut self.links, links);
        Ok(())
    }

    fn list_addresses(&mut self) -> Result<(), KernelError> {
        let requests = FAMILIES.map(|family| {
            let mut message = AddressMessage::default();
            message.header.family = family;
            RouteNetlinkMessage::GetAddress(message)
        });
        let (addresses, dumped) = list(
            &mut self.requests,
            "addresses",
            &requests,
            |addresses: &mut Addresses, entry| {
                let RouteNetlinkMessage::NewAddress(message) = entry else {
                    return;
                };
                if link::is_assigned(&message) {
                    addresses.extend(link::local_address(&message));
                }
            },
        )?;
        self.stale.addresses = dumped != Dumped::Whole;
        self.changed.addresses |= replace(&mut self.addresses, addresses);
        Ok(())
    }

    fn list_rules(&mut self) -> Result<(), KernelError> {
        let requests = FAMILIES.map(|family| {
            let mut message = RuleMessage::default();
            message.header.family = family;
            RouteNetlinkMessage::GetRule(message)
        });
        let (rules, dumped) =
            list(&mut self.requests, "rules", &requests, |rules: &mut Rules, entry| {
                let RouteNetlinkMessage::NewRule(message) = entry else {
                    return;
                };
                rules.extend(rule::rule(&message));
            })?;
        self.stale.rules = dumped != Dumped::Whole;
        self.changed.rules |= replace(&mut self.rules, rules);
        Ok(())
    }

    fn list_routes(&mut self) -> Result<(), KernelError> {
        self.wait_for_configuration()?;
        let requests = FAMILIES.map(|family| {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            RouteNetlinkMessage::GetRoute(message)
        });
        let (routes, dumped) =
            list(&mut self.requests, "routes", &requests, |routes: &mut Routes, entry| {
                let RouteNetlinkMessage::NewRoute(message) = entry else {
                    return;
                };
                routes.list(&message);
            })?;
        self.stale.routes = dumped != Dumped::Whole;
        self.changed.routes |= replace(&mut self.routes, routes);
        Ok(())
    }

    fn list_neighbours(&mut self) -> Result<(), KernelError> {
        let requests = FAMILIES.map(|family| {
            let mut message = NeighbourMessage::default();
            message.header.family = family;
            RouteNetlinkMessage::GetNeighbour(message)
        });
        let (neighbours, dumped) =
            list(&mut self.requests, "neighbours", &requests, |all: &mut Neighbours, entry| {
                let RouteNetlinkMessage::NewNeighbour(message) = entry else {
                    return;
                };
                all.add(&message);
            })?;
        self.stale.neighbours = dumped != Dumped::Whole;
        self.changed.neighbours |= !self.neighbours.usable().eq(neighbours.usable());
        self.neighbours = neighbours;
        Ok(())
    }

    /// Waits until the change that the kernel has just told of is carried out: it tells that a
    /// link goes down before it drops the routes, and lists routes without taking the lock that it
    /// holds meanwhile. A request for a single link takes that lock.
    fn wait_for_configuration(&mut self) -> Result<(), KernelError> {
        let mut message = LinkMessage::default();
        message.header.index = LOOPBACK_IFINDEX;
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        self.requests
            .execute(RouteNetlinkMessage::GetLink(message), 0)
            .map_err(|cause| KernelError::Dump { what: "loopback link", cause })
    }
}

/// Lists a table by one request for each family; again, if it changed meanwhile, or may have and is
/// not the same twice. One that changes every time is returned as it was read last.
fn list<T: Default + PartialEq>(
    socket: &mut Requests,
    what: &'static str,
    requests: &[RouteNetlinkMessage],
    add: impl Fn(&mut T, RouteNetlinkMessage),
) -> Result<(T, Dumped), KernelError> {
    let mut dump = || -> io::Result<(T, Dumped)> {
        let mut table = T::default();
        let mut dumped = Dumped::Whole;
        for request in requests {
            // A kernel that is without a family lists all the others instead, or refuses.
            let family = family_of(request);
            let asked_for = |entry: &RouteNetlinkMessage| family_of(entry) == family;
            let one = socket.dump(request.clone(), |entry| {
                if asked_for(&entry) {
                    add(&mut table, entry);
                }
            });
            match one {
                Ok(one) => dumped = dumped.max(one),
                Err(error) if is_unknown_family(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((table, dumped))
    };
    let mut dump = || dump().map_err(|cause| KernelError::Dump { what, cause });
    let (mut table, mut dumped) = dump()?;
    for _ in 1..DUMPS_MAX {
        if dumped == Dumped::Whole {
            break;
        }
        let (again, how) = dump()?;
        let confirmed = how == Dumped::InParts && again == table;
        (table, dumped) = (again, if confirmed { Dumped::Whole } else { how });
    }
    Ok((table, dumped))
}

fn is_unknown_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// The family that a request or an entry is of; links are of none.
fn family_of(message: &RouteNetlinkMessage) -> Option<AddressFamily> {
    match message {
        RouteNetlinkMessage::GetAddress(message) | RouteNetlinkMessage::NewAddress(message) => {
            Some(message.header.family)
        }
        RouteNetlinkMessage::GetRule(message) | RouteNetlinkMessage::NewRule(message) => {
            Some(message.header.family)
        }
        RouteNetlinkMessage::GetRoute(message) | RouteNetlinkMessage::NewRoute(message) => {
            Some(message.header.address_family)
        }
        RouteNetlinkMessage::GetNeighbour(message) | RouteNetlinkMessage::NewNeighbour(message) => {
            Some(message.header.family)
        }
        _ => None,
    }
}

/// Puts `new` in place of `old`; returns whether they differ.
fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let changed = *old != new;
    *old = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists a table of a family that this kernel is without, and of all the others.
    fn without_family<T: Default + PartialEq>(
        request: RouteNetlinkMessage,
        add: impl Fn(&mut T, RouteNetlinkMessage),
    ) -> T {
        let mut socket = Requests::open().unwrap();
        list(&mut socket, "table", &[request], add).unwrap().0
    }

    /// A kernel without IPv6 (`ipv6.disable=1`) lists the others' addresses when it is asked for
    /// those of IPv6, and refuses to list rules.
    #[test]
    fn a_family_that_the_kernel_is_without_has_nothing() {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::X25;
        let request = RouteNetlinkMessage::GetAddress(message);
        let mut others = 0;
        Requests::open().unwrap().dump(request.clone(), |_| others += 1).unwrap();
        assert!(others > 0, "the kernel lists the others' addresses");
        let count = |count: &mut usize, _| *count += 1;
        assert_eq!(without_family(request, count), 0);

        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::X25;
        assert_eq!(without_family(RouteNetlinkMessage::GetRule(message), count), 0);
    }
}
