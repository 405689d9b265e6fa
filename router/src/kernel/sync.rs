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
        let (ifindex, up, carrier) = (link.ifindex, link.up, link.carrier);
        self.changed.links |= self.links.get(&ifindex) != Some(&link);
        let before = self.links.insert(ifindex, link);
        self.stale.routes |=
            before.is_some_and(|before| (before.up, before.carrier) != (up, carrier));
    }

    pub(super) fn link_removed(&mut self, message: &LinkMessage) {
        let removed = link::link(message).and_then(|link| self.links.remove(&link.ifindex));
        self.changed.links |= removed.is_some();
        self.stale.routes |= removed.is_some();
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
            list(&mut self.requests, "links", &request, |links: &mut Links, entry| {
                let RouteNetlinkMessage::NewLink(message) = entry else {
                    return;
                };
                links.extend(link::link(&message).map(|link| (link.ifindex, link)));
            })?;
        self.stale.links = dumped == Dumped::Interrupted;
        self.changed.links |= replace(&mut self.links, links);
        Ok(())
    }

    fn list_addresses(&mut self) -> Result<(), KernelError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let request = RouteNetlinkMessage::GetAddress(message);
        let (addresses, dumped) =
            list(&mut self.requests, "addresses", &request, |addresses: &mut Addresses, entry| {
                let RouteNetlinkMessage::NewAddress(message) = entry else {
                    return;
                };
                addresses.extend(link::local_address(&message));
            })?;
        self.stale.addresses = dumped == Dumped::Interrupted;
        self.changed.addresses |= replace(&mut self.addresses, addresses);
        Ok(())
    }

    fn list_rules(&mut self) -> Result<(), KernelError> {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        let request = RouteNetlinkMessage::GetRule(message);
        let (rules, dumped) =
            list(&mut self.requests, "rules", &request, |rules: &mut Rules, entry| {
                let RouteNetlinkMessage::NewRule(message) = entry else {
                    return;
                };
                rules.extend(rule::rule(&message));
            })?;
        self.stale.rules = dumped == Dumped::Interrupted;
        self.changed.rules |= replace(&mut self.rules, rules);
        Ok(())
    }

    fn list_routes(&mut self) -> Result<(), KernelError> {
        self.wait_for_configuration()?;
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let request = RouteNetlinkMessage::GetRoute(message);
        let (routes, dumped) =
            list(&mut self.requests, "routes", &request, |routes: &mut Routes, entry| {
                let RouteNetlinkMessage::NewRoute(message) = entry else {
                    return;
                };
                routes.list(&message);
            })?;
        self.stale.routes = dumped == Dumped::Interrupted;
        self.changed.routes |= replace(&mut self.routes, routes);
        Ok(())
    }

    fn list_neighbours(&mut self) -> Result<(), KernelError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        let request = RouteNetlinkMessage::GetNeighbour(message);
        let (neighbours, dumped) =
            list(&mut self.requests, "neighbours", &request, |all: &mut Neighbours, entry| {
                let RouteNetlinkMessage::NewNeighbour(message) = entry else {
                    return;
                };
                all.add(&message);
            })?;
        self.stale.neighbours = dumped == Dumped::Interrupted;
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

/// Lists a table; again, if it changed meanwhile. One that changes every time is returned as it
/// was read last.
fn list<T: Default>(
    requests: &mut Requests,
    what: &'static str,
    request: &RouteNetlinkMessage,
    add: impl Fn(&mut T, RouteNetlinkMessage),
) -> Result<(T, Dumped), KernelError> {
    let mut dump = || -> io::Result<(T, Dumped)> {
        let mut table = T::default();
        let dumped = requests.dump(request.clone(), |entry| add(&mut table, entry))?;
        Ok((table, dumped))
    };
    let mut dump = || dump().map_err(|cause| KernelError::Dump { what, cause });
    for _ in 1..DUMPS_MAX {
        let (table, dumped) = dump()?;
        if dumped == Dumped::Whole {
            return Ok((table, dumped));
        }
    }
    dump()
}

/// Puts `new` in place of `old`; returns whether they differ.
fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let changed = *old != new;
    *old = new;
    changed
}
