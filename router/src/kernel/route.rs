//! The kernel's IPv4 routes, kept as the kernel keeps them: by table, prefix, metric and TOS, and
//! within one such key in order, since `ip route append` and `prepend` make several.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};

/// What the kernel orders routes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub(super) table: u32,
    pub(super) destination: Ipv4Net,
    pub(super) metric: u32,
    pub(super) tos: u8,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KernelTarget {
    Forward(Vec<Leg>),
    Local,
    Unreachable,
    Throw,
}

/// One next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) ifindex: u32,
    pub(super) reach: Reach,
    /// Share of flows, at least 1.
    pub(super) weight: u16,
    /// The kernel itself does not use it for now, because its link is down.
    pub(super) dead: bool,
}

/// How a next hop is reached on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The destination is on the link.
    OnLink,
    Gateway(Ipv4Addr),
    /// A gateway with an IPv6 address.
    Ipv6Gateway,
    /// Through a lightweight tunnel.
    Encapsulated,
    /// By a next-hop object that the kernel does not show in routes.
    Hidden,
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    Unchanged,
    Changed,
    /// It does not fit what we know: only the whole list tells.
    Unclear,
}

/// Every IPv4 route of every table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Routes(BTreeMap<RouteKey, Vec<KernelTarget>>);

impl Routes {
    /// All routes by key; under one key the kernel uses the first that is alive.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RouteKey, &[KernelTarget])> {
        self.0.iter().map(|(key, targets)| (key, targets.as_slice()))
    }

    /// Adds the next route of a list.
    pub(super) fn list(&mut self, message: &RouteMessage) {
        if let Some((key, target)) = route(message) {
            self.0.entry(key).or_default().push(target);
        }
    }

    /// Follows `RTM_NEWROUTE`. A notification may tell what the last list already held.
    pub(super) fn add(&mut self, message: &RouteMessage, flags: u16) -> Applied {
        let Some((key, target)) = route(message) else {
            return Applied::Unchanged;
        };
        let targets = self.0.entry(key).or_default();
        let known = targets.iter().position(|known| same(known, &target));
        let exclusive = flags & NLM_F_EXCL != 0;
        let replace = flags & NLM_F_REPLACE != 0;
        match (known, targets.first_mut()) {
            (Some(0), Some(first)) if exclusive || replace => {
                if *first == target {
                    return Applied::Unchanged;
                }
                *first = target;
            }
            (Some(_), _) => return Applied::Unclear,
            (None, Some(first)) if replace => *first = target,
            (None, _) if flags & NLM_F_APPEND != 0 => targets.push(target),
            (None, _) => targets.insert(0, target),
        }
        Applied::Changed
    }

    /// Follows `RTM_DELROUTE`.
    pub(super) fn remove(&mut self, message: &RouteMessage) -> Applied {
        let Some((key, target)) = route(message) else {
            return Applied::Unchanged;
        };
        let Some(targets) = self.0.get_mut(&key) else {
            return Applied::Unchanged;
        };
        let before = targets.len();
        targets.retain(|known| !same(known, &target));
        if before - targets.len() != 1 {
            return Applied::Unclear;
        }
        if targets.is_empty() {
            self.0.remove(&key);
        }
        Applied::Changed
    }
}

/// Whether two targets are one route's, whose next hops may have died meanwhile.
fn same(one: &KernelTarget, other: &KernelTarget) -> bool {
    match (one, other) {
        (KernelTarget::Forward(one), KernelTarget::Forward(other)) => {
            let alive = |leg: &Leg| Leg { dead: false, ..*leg };
            one.iter().map(alive).eq(other.iter().map(alive))
        }
        _ => one == other,
    }
}

/// Reads a route; `None` for other families, multicast and cached exceptions (path MTU).
fn route(message: &RouteMessage) -> Option<(RouteKey, KernelTarget)> {
    let header = &message.header;
    let cached = header.flags.contains(RouteFlags::Cloned);
    if header.address_family != AddressFamily::Inet || cached {
        return None;
    }
    let target = match header.kind {
        RouteType::Unicast => KernelTarget::Forward(legs(message)),
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast => KernelTarget::Local,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
            KernelTarget::Unreachable
        }
        RouteType::Throw => KernelTarget::Throw,
        _ => return None,
    };
    Some((key(message)?, target))
}

fn key(message: &RouteMessage) -> Option<RouteKey> {
    let header = &message.header;
    let (mut table, mut destination, mut metric) =
        (u32::from(header.table), Ipv4Addr::UNSPECIFIED, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Destination(RouteAddress::Inet(value)) => destination = *value,
            RouteAttribute::Priority(value) => metric = *value,
            _ => {}
        }
    }
    let destination = Ipv4Net::new(destination, header.destination_prefix_length).ok()?.trunc();
    Some(RouteKey { table, destination, metric, tos: header.tos })
}

fn legs(message: &RouteMessage) -> Vec<Leg> {
    let multipath = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(next_hops) => Some(next_hops),
        _ => None,
    });
    if let Some(next_hops) = multipath {
        return next_hops.iter().map(multipath_leg).collect();
    }
    let ifindex = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    });
    let reach = match ifindex {
        Some(_) => reach(&message.attributes),
        None => Reach::Hidden,
    };
    let dead = message.header.flags.contains(RouteFlags::Dead);
    vec![Leg { ifindex: ifindex.unwrap_or(0), reach, weight: 1, dead }]
}

fn multipath_leg(next_hop: &RouteNextHop) -> Leg {
    Leg {
        ifindex: next_hop.interface_index,
        reach: reach(&next_hop.attributes),
        weight: u16::from(next_hop.hops) + 1,
        dead: next_hop.flags.contains(RouteNextHopFlags::Dead),
    }
}

fn reach(attributes: &[RouteAttribute]) -> Reach {
    let mut reach = Reach::OnLink;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => return Reach::Encapsulated,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) if !gateway.is_unspecified() => {
                reach = Reach::Gateway(*gateway);
            }
            RouteAttribute::Via(RouteVia::Inet6(_)) => reach = Reach::Ipv6Gateway,
            _ => {}
        }
    }
    reach
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
